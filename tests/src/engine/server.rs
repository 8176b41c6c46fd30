//! The server's life: it serves until it is told to stop, lets requests in flight end, and says how many did not.
//!
//! **Architecture invariant**: no signals and no environment; who calls says when to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::api::{self, Engine};

/// How often a draining engine looks whether its last request has ended.
const DRAIN_PERIOD: Duration = Duration::from_millis(50);
/// For the bytes of the last answers to leave, once they are generated: a round trip to a slow client.
const FLUSH: Duration = Duration::from_secs(1);

/// Serves on `listener` until `stop`, then for as long as requests are in flight, at most the engine's shutdown
/// timeout. Returns how many requests are cut off when the process ends.
pub async fn serve_until(
    listener: TcpListener,
    engine: Arc<Engine>,
    stop: impl Future<Output = ()>,
) -> io::Result<usize> {
    let (close, closed) = oneshot::channel::<()>();
    let server = axum::serve(listener, api::router(Arc::clone(&engine))).with_graceful_shutdown(async move {
        // An error says that this function was dropped, and the server with it.
        let _ = closed.await;
    });
    let mut server = std::pin::pin!(server.into_future());
    let patience = engine.shutdown_timeout();
    // The listener stays open during the drain, as vLLM's does: `/health` answers and new requests hear why not.
    let began = tokio::select! {
        ended = &mut server => return ended.map(|()| 0),
        began = async {
            stop.await;
            engine.drain();
            let began = Instant::now();
            let idle = async {
                while engine.scheduler.in_flight() > 0 {
                    sleep(DRAIN_PERIOD).await;
                }
            };
            // Past the timeout, what is left is cut off.
            let _ = timeout(patience, idle).await;
            began
        } => began,
    };
    if engine.scheduler.in_flight() == 0 {
        // A request gives up its slot before its answer is written, and one may have been admitted just before the
        // drain: connections close as their answers are through.
        let _ = close.send(());
        let left = patience.saturating_sub(began.elapsed()).max(FLUSH);
        if let Ok(ended) = timeout(left, &mut server).await {
            ended?;
        }
    }
    Ok(engine.scheduler.in_flight())
}

#[cfg(test)]
mod tests;
