//! A connection on which HTTP/2 is spoken: many requests at once, as gRPC has it.
//!
//! Architecture invariant: as for HTTP/1.1, every wait for the peer has a limit. What is held for one connection is bounded by
//! its flow-control window, and what is held for its requests by the budget that all connections share.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tower::Service as _;
use tracing::debug;

use super::body::Metered;
use super::connection::{BUFFER, Serving};
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
    let under_way = Arc::new(AtomicUsize::new(0));
    let service = service_fn(|request: Request<Incoming>| {
        let (mut router, connection, under_way) =
            (router.clone(), Arc::clone(connection), Arc::clone(&under_way));
        let held = budget.open();
        if under_way.fetch_add(1, Ordering::AcqRel) == 0 {
            connection.asked();
        }
        async move {
            let metered = |body| Metered::new(body, Arc::clone(&held), Arc::clone(&connection));
            let response = router.call(request.map(|body| Body::new(metered(body)))).await?;
            if under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
                connection.answered();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = pin!(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
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
            () = connection.leave.cancelled(), if !leaving => {
                leaving = true;
                left.as_mut().reset(Instant::now() + limits.drain);
                // The peer is told which was the last request that is answered, and sends the rest elsewhere.
                http.as_mut().graceful_shutdown();
            }
            () = &mut left, if leaving => return,
        }
    }
}
