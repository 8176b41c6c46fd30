//! What keeps a leader whose time is over from calling the API server.
//!
//! A process that was paused goes on in the middle of what it did. Its tasks may run before the one that ends them
//! does, so each request asks for itself whether the time is over.
//!
//! Architecture invariant: time alone closes a fence; nothing has to run for that.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::time::Instant;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use tower::{BoxError, Layer, Service};

use crate::pace;
use crate::resume::{BUFFER, Resume};
use crate::telemetry::Calls;

/// Open for as long as this process leads. Clones are one fence.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Whether this process leads now.
    pub fn is_open(&self) -> bool {
        self.lock().is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn open_until(&self, until: Instant) {
        *self.lock() = Some(until);
    }

    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // One value, whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client for what is done under the lease: it makes no request, and repeats none, once the fence is closed.
pub fn fenced_client(mut config: Config, fence: &Fence, calls: &Calls) -> kube::Result<Client> {
    // kube would repeat a request behind the fence.
    config.default_retry = false;
    let client = ClientBuilder::try_from(config)?
        .with_layer(calls)
        .with_layer(fence)
        .with_layer(&BufferLayer::new(BUFFER))
        .with_layer(&RetryLayer::new(pace::repeats()))
        .with_layer(&Resume::default())
        .build();
    Ok(client)
}

/// Why a request was not made.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not sent: this replica does not lead any more")]
pub struct NotLeading;

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { inner, fence: self.clone() }
    }
}

/// Makes requests for as long as the fence is open.
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
}

impl<S, R> Service<R> for Fenced<S>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<futures::future::ErrInto<S::Future, BoxError>, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        use futures::TryFutureExt as _;
        if self.fence.is_open() {
            Either::Left(self.inner.call(request).err_into())
        } else {
            Either::Right(ready(Err(NotLeading.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower::{ServiceExt as _, service_fn};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_pass_while_it_is_open() {
        let fence = Fence::default();
        let echo = fence.layer(service_fn(|text: &'static str| ready(Ok::<_, BoxError>(text))));
        let ask = || echo.clone().oneshot("x");
        assert!(ask().await.is_err(), "it starts closed");
        fence.open_until(Instant::now() + Duration::from_secs(10));
        assert_eq!(ask().await.expect("open"), "x");
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(ask().await.expect("still open"), "x");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(ask().await.expect_err("over").is::<NotLeading>());
        fence.open_until(Instant::now() + Duration::from_secs(10));
        fence.close();
        assert!(ask().await.is_err());
    }
}
