//! One connection: its handshake, its requests one after the other, and its end.
//!
//! Architecture invariant: every wait for the peer has a limit, but for that of a body, which whoever reads it
//! sets. Nothing is kept for a peer without a bound.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::debug;

use super::body::{Budget, Metered};
use super::http2::serve_http2;
use super::open::OpenConnection;
use super::turns::Turns;
use super::{Limits, Protocol};

/// What is buffered of a header, of a body before it is asked for, and of answers. The API server's headers are below
/// 1 KiB; hyper's own 400 KiB, for each of as many connections as are allowed, would be all of a node's memory.
pub(super) const BUFFER: usize = 16 << 10;
/// What the kernel may keep of answers that nobody reads. It makes twice as much of it, which is more than any answer but
/// one with a hundred findings; its own limit is 4 MiB.
const SEND_BUFFER: usize = 32 << 10;

/// What all connections of a server share.
pub(super) struct Serving {
    pub protocol: Protocol,
    pub tls: Option<Tls>,
    pub budget: Budget,
    pub router: Router,
    pub limits: Limits,
    pub lame_duck: CancellationToken,
}

/// Makes TLS sessions.
pub(super) struct Tls {
    config: Arc<ServerConfig>,
    /// A turn lets one handshake make its keys. That is most of what a connection costs, so that a crowd of newcomers
    /// waits here, and not before the calls of those who are there already.
    turns: Turns,
}

impl Tls {
    pub fn new(config: Arc<ServerConfig>) -> Self {
        // The other half of the processors is for those who are there.
        let turns = std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2));
        Self { config, turns: Turns::new(turns) }
    }

    async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        // Whoever has not sent the whole of their hello takes nobody's turn.
        let turn = self.turns.turn().await;
        let mut handshake = pin!(hello.into_stream(Arc::clone(&self.config)));
        // The first poll makes the keys; what is left is the peer's turn.
        let first = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
        // The next one would begin at once, and with it all of the crowd before anybody else.
        yield_now().await;
        drop(turn);
        match first {
            Poll::Ready(done) => done,
            Poll::Pending => handshake.await,
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve_connection(stream: TcpStream, serving: Arc<Serving>, connection: OpenConnection) {
    let connection = Arc::new(connection);
    set_options(&stream);
    let served = async {
        let Some(tls) = &serving.tls else {
            return serve_requests(stream, &serving, &connection).await;
        };
        // Safe to cancel: a peer that has not even asked loses nothing, and a stalled one would hold up the drain.
        tokio::select! {
            handshake = timeout(serving.limits.handshake, tls.accept(stream)) => match handshake {
                Ok(Ok(stream)) => serve_requests(stream, &serving, &connection).await,
                Ok(Err(error)) => debug!(%error, "no TLS handshake"),
                Err(_elapsed) => debug!("no TLS handshake in time"),
            },
            () = connection.ends.leave.cancelled() => {}
        }
    };
    // Safe to cancel: what is dropped is the connection.
    tokio::select! {
        () = served => {}
        () = connection.ends.end.cancelled() => debug!("connection ended: others needed its place"),
    }
}

/// An answer is one small write that should leave at once. A failure costs latency or memory alone.
fn set_options(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER);
}

async fn serve_requests<S>(stream: S, serving: &Serving, connection: &Arc<OpenConnection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match serving.protocol {
        Protocol::Http1 => serve_http1(stream, serving, connection).await,
        Protocol::Http2 => serve_http2(stream, serving, connection).await,
    }
}

async fn serve_http1<S>(stream: S, serving: &Serving, connection: &Arc<OpenConnection>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Serving { protocol: _, tls: _, budget, router, limits, lame_duck } = serving;
    let reading = Arc::new(Reading::new(Arc::clone(connection)));
    let io = TokioIo::new(Watched { stream, reading: Arc::clone(&reading) });
    let reading = &*reading;
    let service = service_fn(|request: Request<Incoming>| {
        let in_turn = reading.asked();
        let (mut router, held) = (router.clone(), budget.open());
        async move {
            let metered = |body| Metered::new(body, Arc::clone(&held), Arc::clone(connection));
            let mut response = if in_turn {
                router.call(request.map(|body| Body::new(metered(body)))).await?
            } else {
                out_of_turn()
            };
            reading.answered();
            if lame_duck.is_cancelled() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let http = pin!(
        http1::Builder::new()
            // Hyper's own would be a new timer for each request.
            .header_read_timeout(None)
            .max_buf_size(BUFFER)
            .serve_connection(io, service)
    );
    // Safe to cancel: what is dropped is the connection. In this order, as `overdue` is told of no change.
    tokio::select! {
        biased;
        () = until_gone(http, connection, limits.drain, http1::Connection::graceful_shutdown) => {}
        () = reading.overdue(limits) => {
            debug!("connection closed: it was idle, or its request's header or the reading of its answer late");
        }
    }
}

/// Serves until the peer goes, or is told to by `shut_down` and had its time.
pub(super) async fn until_gone<C>(
    mut http: Pin<&mut C>,
    connection: &OpenConnection,
    drain: Duration,
    shut_down: impl FnOnce(Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    // Safe to cancel: polled by reference.
    let ended = tokio::select! {
        ended = &mut http => ended,
        () = connection.ends.leave.cancelled() => {
            shut_down(http.as_mut());
            // A peer that does not read its last answer would stay for ever.
            let Ok(ended) = timeout(drain, http).await else { return };
            ended
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// The end of a connection on which a request came before the last one was answered. The API server never does that, and
/// whoever does needs no answer to go on: they could have as many decisions made as they can send requests.
fn out_of_turn() -> Response<Body> {
    let mut response = Response::new(Body::from("send a request after the answer to the one before it\n"));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Where a connection is between two requests. Its own task alone changes that.
#[derive(Debug)]
struct Reading {
    connection: Arc<OpenConnection>,
    /// One of the four states below.
    state: AtomicU8,
    /// Counts the changes of it.
    changes: AtomicU32,
}

/// No byte of a next request has come.
const IDLE: u8 = 0;
/// A header is under way.
const HEADER: u8 = 1;
/// A request is being answered; what is read now is its body, which has a deadline of its own.
const ANSWERING: u8 = 2;
/// It is answered, and the peer does not take the answer.
const STUCK: u8 = 3;

impl Reading {
    fn new(connection: Arc<OpenConnection>) -> Self {
        Self { connection, state: AtomicU8::new(IDLE), changes: AtomicU32::new(0) }
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) == state
    }

    fn becomes(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes came in.
    fn received(&self) {
        if self.is(IDLE) {
            self.becomes(HEADER);
            self.connection.begins_request();
        }
    }

    /// Whether the header that is there came in after the last answer, and not before it.
    fn asked(&self) -> bool {
        let in_turn = self.is(HEADER);
        self.becomes(ANSWERING);
        self.connection.asked();
        in_turn
    }

    fn answered(&self) {
        self.becomes(IDLE);
        self.connection.answered();
    }

    /// What is written waits for the peer, or does not any more.
    fn written<T>(&self, poll: Poll<T>) -> Poll<T> {
        if poll.is_pending() {
            if self.is(IDLE) {
                self.becomes(STUCK);
                self.connection.stuck();
            }
        } else if self.is(STUCK) {
            self.answered();
        }
        poll
    }

    /// Resolves once the peer has sent nothing, has owed the rest of a header, or has left an answer unread, for longer than
    /// it may. What changes the state wakes nobody: this is to be polled after it, by the same task.
    async fn overdue(&self, limits: &Limits) {
        let mut seen = None;
        let mut deadline = None;
        let mut alarm = pin!(sleep(limits.idle));
        poll_fn(|cx| {
            let changes = self.changes.load(Ordering::Relaxed);
            if seen.replace(changes) != Some(changes) {
                let limit = match self.state.load(Ordering::Relaxed) {
                    IDLE => Some(limits.idle),
                    HEADER => Some(limits.header),
                    STUCK => Some(limits.answer),
                    _ => None,
                };
                deadline = limit.map(|limit| Instant::now() + limit);
                // One that is too early costs a look when it rings; to set it at each request costs more.
                if let Some(earlier) = deadline.filter(|deadline| *deadline < alarm.deadline()) {
                    alarm.as_mut().reset(earlier);
                }
            }
            loop {
                ready!(alarm.as_mut().poll(cx));
                match deadline {
                    Some(later) if alarm.deadline() < later => alarm.as_mut().reset(later),
                    Some(_) => return Poll::Ready(()),
                    None => return Poll::Pending,
                }
            }
        })
        .await;
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
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.reading.written(poll)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.reading.written(poll)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.reading.written(poll)
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
    async fn answers_are_not_held_back_by_nagle_and_not_kept_by_the_megabyte() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let _peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a peer");
        let (stream, _) = listener.accept().await.expect("the peer");
        assert!(!stream.nodelay().expect("an option"), "the system's default");
        set_options(&stream);
        assert!(stream.nodelay().expect("an option"));
        let size = rustix::net::sockopt::socket_send_buffer_size(&stream).expect("an option");
        assert_eq!(size, 2 * SEND_BUFFER);
    }
}
