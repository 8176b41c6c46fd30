//! A connection on which HTTP/2 is spoken: many requests at once, as gRPC has it.
//!
//! Architecture invariant: as for HTTP/1.1, every wait for the peer has a limit. What is held for one connection is bounded by
//! its flow-control window, and what is held for its requests by the budget that all connections share.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service as _;

use super::body::Metered;
use super::connection::{BUFFER, Serving, until_gone};
use super::open::OpenConnection;

/// Most requests of one connection at once; what comes beyond waits at the peer.
const STREAMS: u32 = 128;
/// What a connection may send before it is read, over all of its requests, in bytes.
const WINDOW: u32 = 64 << 10;
/// How often a quiet peer is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

/// Serves requests until the peer goes, or is told to.
pub(super) async fn serve_http2<S>(stream: S, serving: &Serving, connection: &Arc<OpenConnection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Serving { protocol: _, tls: _, budget, router, limits, lame_duck: _ } = serving;
    let requests = Arc::new(Requests { connection: Arc::clone(connection), under_way: AtomicUsize::new(0) });
    let service = service_fn(|request: Request<Incoming>| {
        let (mut router, under_way) = (router.clone(), UnderWay::begin(&requests));
        let held = budget.open();
        async move {
            let metered = |body| Metered::new(body, Arc::clone(&held), Arc::clone(&under_way.0.connection));
            router.call(request.map(|body| Body::new(metered(body)))).await
        }
    });
    let http = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(limits.answer)
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(BUFFER)
            .max_header_list_size(u32::try_from(BUFFER).unwrap_or(u32::MAX))
            .serve_connection(TokioIo::new(stream), service)
    );
    // The peer is told which was the last request that is answered, and sends the rest elsewhere.
    until_gone(http, connection, limits.drain, http2::Connection::graceful_shutdown).await;
}

/// The requests of one connection.
struct Requests {
    connection: Arc<OpenConnection>,
    under_way: AtomicUsize,
}

/// One of them, until it is answered, or given up by the peer.
struct UnderWay(Arc<Requests>);

impl UnderWay {
    fn begin(requests: &Arc<Requests>) -> Self {
        if requests.under_way.fetch_add(1, Ordering::AcqRel) == 0 {
            requests.connection.asked();
        }
        Self(Arc::clone(requests))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.connection.answered();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::Router;
    use axum::body::Bytes;
    use axum::routing::post;
    use hyper::client::conn::http2::handshake;
    use tokio::io::duplex;
    use tokio::sync::Semaphore;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::server::body::Budget;
    use crate::server::open::OpenConnections;
    use crate::server::{Limits, Protocol};

    /// The only connection that there may be, of which a test tells by whether it would be displaced.
    #[tokio::test]
    async fn a_request_that_the_peer_gives_up_is_under_way_no_more() {
        let (reached, over) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let router = Router::new()
            .route(
                "/hangs",
                post({
                    let (reached, over) = (Arc::clone(&reached), Arc::clone(&over));
                    async move |_body: Bytes| {
                        let over = OnDrop(over);
                        reached.add_permits(1);
                        pending::<()>().await;
                        drop(over);
                    }
                }),
            )
            .route("/answers", post(async |_body: Bytes| "answered"));
        let limits = Limits::default();
        let serving = Serving {
            protocol: Protocol::Http2,
            tls: None,
            budget: Budget::new(limits.bodies),
            router,
            limits,
            lame_duck: CancellationToken::new(),
        };
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let all = Arc::new(OpenConnections::new(1));
        let connection = Arc::new(OpenConnections::admit(&all, &stop, &abort).expect("room for one"));
        let (ours, theirs) = duplex(BUFFER);
        let served = tokio::spawn({
            let connection = Arc::clone(&connection);
            async move { serve_http2(ours, &serving, &connection).await }
        });
        let (mut client, driver) =
            handshake(TokioExecutor::new(), TokioIo::new(theirs)).await.expect("HTTP/2");
        tokio::spawn(driver);
        let request = |path: &str| {
            Request::post(format!("http://scaler{path}")).body(String::new()).expect("a request")
        };

        let given_up = tokio::spawn(client.send_request(request("/hangs")));
        within(reached.acquire()).await.expect("open").forget();
        assert!(OpenConnections::admit(&all, &stop, &abort).is_none(), "a request is being decided");
        given_up.abort();
        within(over.acquire()).await.expect("open").forget();
        let answer = within(client.send_request(request("/answers"))).await.expect("an answer");
        assert_eq!(answer.status(), 200);

        let newcomer = OpenConnections::admit(&all, &stop, &abort).expect("an idle one makes room");
        within(served).await.expect("asked to leave, and left");
        drop(newcomer);
    }

    struct OnDrop(Arc<Semaphore>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }

    async fn within<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(30), future).await.expect("in time")
    }
}
