//! The HTTPS server: an accept loop of its own on tokio-rustls and hyper.
//!
//! `axum::serve` installs no timers, so a peer that stalls in the handshake or in a header would hold its
//! connection for ever; and hyper's header timeout also ends idle connections, which the API server keeps for
//! 90 s and does not retry on. Hence [`Limits`].
//!
//! Architecture invariant: nothing here knows what is served. No error of one connection ends the loop.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls::server::danger::ClientCertVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;
use tracing::{debug, warn};

/// What one server takes from its peers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// How long a connection may be idle. Longer than the 90 s for which the API server keeps one, or writes
    /// fail on connections that are just being closed.
    pub idle: Duration,
    /// Most connections at once. Beyond, those that never sent a request are dropped, the oldest first; a new
    /// one is dropped if there are none.
    pub connections: usize,
    /// Longest wait for requests in flight at the end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_mins(2),
            // The API server keeps up to 25 idle connections a path and replica of itself.
            connections: 1024,
            drain: Duration::from_secs(15),
        }
    }
}

/// When to stop, in two steps.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Go on serving, and ask peers to close their connections by `Connection: close`.
    pub lame_duck: CancellationToken,
    /// Accept no more, finish what is in flight, and return.
    pub stop: CancellationToken,
}

/// TLS 1.3 with ring, without session tickets, which the API server never uses.
///
/// `alpn` is the protocol offered: `http/1.1` for admission, since the API server would otherwise call a webhook
/// with a URL over HTTP/2. `clients` verifies client certificates, where they are asked for.
///
/// # Panics
/// Never: ring supports TLS 1.3.
pub fn tls_config(
    resolver: Arc<dyn ResolvesServerCert>,
    alpn: &[u8],
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring supports TLS 1.3");
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Arc::new(config)
}

/// Serves `router` until `stop` is told to, then drains.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    limits: Limits,
    stop: Stop,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = Arc::new(Connections::default());
    let tasks = TaskTracker::new();
    let abort = CancellationToken::new();
    loop {
        // Cancellation-safe: `accept` loses no connection when it is dropped.
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
            () = stop.stop.cancelled() => break,
        };
        let Some(connection) = Connections::admit(&connections, limits.connections) else {
            debug!("connection dropped: as many as allowed are in use");
            continue;
        };
        let (acceptor, router, stop, abort) = (acceptor.clone(), router.clone(), stop.clone(), abort.clone());
        tasks.spawn(async move {
            // Safe to cancel: what is dropped is the connection.
            tokio::select! {
                () = serve_connection(stream, acceptor, router, limits, stop, &connection) => {}
                () = connection.dropped.cancelled() => debug!("connection dropped: it never sent a request"),
                () = abort.cancelled() => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    if timeout(limits.drain, tasks.wait()).await.is_err() {
        warn!(connections = tasks.len(), "requests were still in flight after the drain; ending them");
        abort.cancel();
        tasks.wait().await;
    }
}

/// Connection errors concern one peer; all others, such as too many open files, last a while.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        warn!(%error, "cannot accept connections; trying again in 100 ms");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn serve_connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    stop: Stop,
    connection: &Connection,
) {
    // An answer is one small write that should leave at once. A failure costs latency alone.
    let _ = stream.set_nodelay(true);
    // Safe to cancel: a peer that has not even asked loses nothing, and a stalled one would hold up the drain.
    let stream = tokio::select! {
        handshake = timeout(limits.handshake, acceptor.accept(stream)) => match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(%error, "no TLS handshake"),
            Err(_elapsed) => return debug!("no TLS handshake in time"),
        },
        () = stop.stop.cancelled() => return,
    };
    let reading = Arc::new(Reading::default());
    let io = TokioIo::new(Watched { stream, reading: Arc::clone(&reading) });
    let service = service_fn({
        let (reading, lame_duck) = (Arc::clone(&reading), stop.lame_duck.clone());
        move |request: Request<Incoming>| {
            connection.spoke();
            reading.now(ANSWERING);
            let (mut router, lame_duck, reading) = (router.clone(), lame_duck.clone(), Arc::clone(&reading));
            async move {
                let mut response = router.call(request.map(Body::new)).await;
                reading.now(IDLE);
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
    let mut stopping = false;
    loop {
        // All three are polled by reference or made anew without loss, so none loses anything to another.
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
            () = stop.stop.cancelled(), if !stopping => {
                stopping = true;
                http.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Where a connection is between two requests.
#[derive(Debug, Default)]
struct Reading {
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
    /// Bytes came in.
    fn received(&self) {
        if self.state.compare_exchange(IDLE, HEADER, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.changed.notify_one();
        }
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

/// The connections that are open, and those of them that never sent a request.
#[derive(Debug, Default)]
struct Connections {
    open: AtomicUsize,
    next: AtomicUsize,
    silent: Mutex<VecDeque<(usize, CancellationToken)>>,
}

/// One open connection; dropping it makes room for another.
#[derive(Debug)]
struct Connection {
    id: usize,
    spoke: AtomicBool,
    dropped: CancellationToken,
    all: Arc<Connections>,
}

impl Connections {
    /// Makes room for one more connection; `None` if there is none to be made.
    fn admit(all: &Arc<Self>, most: usize) -> Option<Connection> {
        if all.open.load(Ordering::Acquire) >= most {
            let (_, oldest) = all.silent().pop_front()?;
            oldest.cancel();
        }
        all.open.fetch_add(1, Ordering::AcqRel);
        let id = all.next.fetch_add(1, Ordering::Relaxed);
        let dropped = CancellationToken::new();
        all.silent().push_back((id, dropped.clone()));
        Some(Connection { id, spoke: AtomicBool::new(false), dropped, all: Arc::clone(all) })
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, VecDeque<(usize, CancellationToken)>> {
        // Each change is one call on the deque, so a panic elsewhere leaves it whole.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids rise from front to back, so the search is by halves.
    fn forget_silent(&self, id: usize) {
        let mut silent = self.silent();
        if let Ok(place) = silent.binary_search_by_key(&id, |(id, _)| *id) {
            silent.remove(place);
        }
    }
}

impl Connection {
    /// The peer has sent a request.
    fn spoke(&self) {
        if !self.spoke.swap(true, Ordering::AcqRel) {
            self.all.forget_silent(self.id);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.spoke();
        self.all.open.fetch_sub(1, Ordering::AcqRel);
    }
}
