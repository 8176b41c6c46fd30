//! One connection: its handshake, its requests one after the other, and its end.
//!
//! Architecture invariant: every wait for the peer has a limit, but for that of a body, which whoever reads it
//! sets.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::debug;

use super::Limits;
use super::open::OpenConnection;

/// What all connections of a server share.
pub(super) struct Serving {
    pub tls: Option<TlsAcceptor>,
    pub router: Router,
    pub limits: Limits,
    pub lame_duck: CancellationToken,
}

/// Serves a connection to its end.
pub(super) async fn serve_connection(stream: TcpStream, serving: Arc<Serving>, connection: OpenConnection) {
    let connection = Arc::new(connection);
    without_delay(&stream);
    let served = async {
        let Some(tls) = &serving.tls else {
            return serve_http(stream, &serving, &connection).await;
        };
        // Safe to cancel: a peer that has not even asked loses nothing, and a stalled one would hold up the drain.
        tokio::select! {
            handshake = timeout(serving.limits.handshake, tls.accept(stream)) => match handshake {
                Ok(Ok(stream)) => serve_http(stream, &serving, &connection).await,
                Ok(Err(error)) => debug!(%error, "no TLS handshake"),
                Err(_elapsed) => debug!("no TLS handshake in time"),
            },
            () = connection.leave.cancelled() => {}
        }
    };
    // Safe to cancel: what is dropped is the connection.
    tokio::select! {
        () = served => {}
        () = connection.end.cancelled() => debug!("connection ended: others needed its place"),
    }
}

/// An answer is one small write that should leave at once. A failure costs latency alone.
fn without_delay(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

async fn serve_http<S>(stream: S, serving: &Serving, connection: &Arc<OpenConnection>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Serving { tls: _, router, limits, lame_duck } = serving;
    let reading = Arc::new(Reading::new(Arc::clone(connection)));
    let io = TokioIo::new(Watched { stream, reading: Arc::clone(&reading) });
    let service = service_fn({
        let reading = Arc::clone(&reading);
        move |request: Request<Incoming>| {
            reading.asked();
            let (mut router, lame_duck, reading) = (router.clone(), lame_duck.clone(), Arc::clone(&reading));
            async move {
                let mut response = router.call(request.map(Body::new)).await;
                reading.answered();
                if let (Ok(response), true) = (&mut response, lame_duck.is_cancelled()) {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        }
    });
    let mut http = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .serve_connection(io, service)
    );
    let mut leaving = false;
    let mut left = pin!(sleep(limits.drain));
    loop {
        // All are polled by reference or made anew without loss, so none loses anything to another.
        tokio::select! {
            ended = &mut http => {
                if let Err(error) = ended {
                    debug!(%error, "connection ended");
                }
                return;
            }
            () = reading.overdue(limits.header) => {
                debug!("connection closed: a request's header did not come in time");
                return;
            }
            () = connection.leave.cancelled(), if !leaving => {
                leaving = true;
                left.as_mut().reset(Instant::now() + limits.drain);
                http.as_mut().graceful_shutdown();
            }
            // A peer that does not read its last answer would stay for ever.
            () = &mut left, if leaving => return,
        }
    }
}

/// Where a connection is between two requests.
#[derive(Debug)]
struct Reading {
    connection: Arc<OpenConnection>,
    /// One of the three states below.
    state: AtomicU8,
    changed: Notify,
}

/// No byte of a next request has come.
const IDLE: u8 = 0;
/// A header is under way.
const HEADER: u8 = 1;
/// A request is being answered; what is read now is its body, which has a deadline of its own.
const ANSWERING: u8 = 2;

impl Reading {
    fn new(connection: Arc<OpenConnection>) -> Self {
        Self { connection, state: AtomicU8::new(IDLE), changed: Notify::new() }
    }

    /// Bytes came in.
    fn received(&self) {
        if self.state.compare_exchange(IDLE, HEADER, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.connection.begins_request();
            self.changed.notify_one();
        }
    }

    fn asked(&self) {
        self.connection.asked();
        self.now(ANSWERING);
    }

    fn answered(&self) {
        self.connection.answered();
        self.now(IDLE);
    }

    fn now(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.changed.notify_one();
    }

    /// Resolves once a header has been under way for longer than `limit`.
    async fn overdue(&self, limit: Duration) {
        loop {
            if self.state.load(Ordering::Acquire) != HEADER {
                self.changed.notified().await;
            } else if timeout(limit, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// A stream that tells when the first byte of a request comes.
struct Watched<S> {
    stream: S,
    reading: Arc<Reading>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.reading.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn answers_are_not_held_back_by_nagle() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let _peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a peer");
        let (stream, _) = listener.accept().await.expect("the peer");
        assert!(!stream.nodelay().expect("an option"), "the system's default");
        without_delay(&stream);
        assert!(stream.nodelay().expect("an option"));
    }
}
