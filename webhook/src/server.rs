//! The server: an accept loop of its own on tokio-rustls and hyper, for HTTPS and for bare HTTP.
//!
//! `axum::serve` installs no timers, so a peer that stalls in the handshake or in a header would hold its
//! connection for ever; and hyper's header timeout also ends idle connections, which the API server keeps for
//! 90 s and does not retry on, and is a new timer for each request. Hence [`Limits`]. They hold for a plain port as well:
//! whoever may connect there would otherwise take the process's last file descriptor, and with it the connections of
//! admission.
//!
//! Architecture invariant: nothing here knows what is served. No error of one connection ends the loop.

mod body;
mod connection;
mod http2;
mod open;
mod turns;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use body::Budget;
use connection::{Serving, Tls, serve_connection};
use open::OpenConnections;

/// What is spoken on a listener.
#[derive(Clone)]
pub enum Transport {
    /// HTTP over TLS, as by [`tls_config`].
    Tls(Arc<ServerConfig>),
    /// Bare HTTP/1.1.
    Plain,
    /// Bare HTTP/2, by a peer that knows it.
    PlainHttp2,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One request after the other.
    Http1,
    /// Many at once, as gRPC needs it.
    Http2,
}

impl Protocol {
    /// Its name in a TLS handshake.
    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

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
    /// How long a peer may leave an answer unread.
    pub answer: Duration,
    /// Most connections at once. Beyond, those that never sent a request are dropped, the oldest first; then those in
    /// the middle of a request or an answer, if they are more than a sixteenth; then those that have been idle for longest.
    /// Only if a request of every one is being decided, the newcomer is dropped.
    pub connections: usize,
    /// Most bytes of bodies at once, from their coming to their answer, beyond [`ORDINARY_BODY`] of each. If more come,
    /// those are dropped of which a part is held that has been coming for longest.
    pub bodies: usize,
    /// Longest wait for requests in flight at the end.
    pub drain: Duration,
}

/// What of each body counts towards no limit but that of connections, in bytes. A review of an ordinary object, which is in it
/// twice, has 2 to 10 KiB: it never waits for those of others.
pub const ORDINARY_BODY: usize = 16 << 10;

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_mins(2),
            answer: Duration::from_secs(10),
            // The API server keeps up to 25 idle connections a path and replica of itself: 875 with seven paths and five
            // replicas.
            connections: 1024,
            // Two of the largest reviews. While one is put together, there are two copies of it.
            bodies: 16 << 20,
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
/// `protocol` alone is offered: HTTP/1.1 for admission, since the API server would otherwise call a webhook
/// with a URL over HTTP/2. `clients` verifies client certificates, where they are asked for.
///
/// # Panics
/// Never: ring supports TLS 1.3.
pub fn tls_config(
    resolver: Arc<dyn ResolvesServerCert>,
    protocol: Protocol,
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
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Arc::new(config)
}

/// Serves `router` until `stop` is told to, then drains.
pub async fn serve(listener: TcpListener, transport: Transport, router: Router, limits: Limits, stop: Stop) {
    let (tls, protocol) = match transport {
        Transport::Tls(config) => {
            let offers_http2 = config.alpn_protocols.iter().any(|name| name == Protocol::Http2.alpn());
            (Some(Tls::new(config)), if offers_http2 { Protocol::Http2 } else { Protocol::Http1 })
        }
        Transport::Plain => (None, Protocol::Http1),
        Transport::PlainHttp2 => (None, Protocol::Http2),
    };
    let serving = Arc::new(Serving {
        protocol,
        tls,
        budget: Budget::new(limits.bodies),
        router,
        limits,
        lame_duck: stop.lame_duck,
    });
    let connections = Arc::new(OpenConnections::new(limits.connections));
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
        let Some(connection) = OpenConnections::admit(&connections, &stop.stop, &abort) else {
            debug!("connection dropped: as many as allowed are busy");
            continue;
        };
        tasks.spawn(serve_connection(stream, Arc::clone(&serving), connection));
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
