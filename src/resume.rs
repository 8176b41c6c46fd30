//! How a watch that has ended goes on: what kube's watcher leaves open, settled between it and the API server.
//!
//! The watcher asks again at once for what follows the last version that it saw, and for that version for as long as it is
//! answered with a failure. So a server that ends each watch as soon as it begins would be asked without a pause, and
//! one that knows the version no more would be asked for ever: it was compacted, the kind was removed and installed again,
//! or the server came back from an older backup, where a version of the future is answered with silence.
//!
//! Architecture invariant: watches alone are touched. No object is read, and nothing is kept but when each watch began
//! last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response, StatusCode, Uri};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use tower::{BoxError, Layer, Service, ServiceExt as _};

use crate::pace::{self, RETRY};
use crate::telemetry::Calls;

/// Requests that wait for their turn, as many as in kube's own client.
pub const BUFFER: usize = 1024;

/// A client that repeats at our pace what was turned away, and whose watches go on as they should.
pub fn client(mut config: Config, calls: &Calls) -> kube::Result<Client> {
    // kube would do so at its own pace.
    config.default_retry = false;
    let client = ClientBuilder::try_from(config)?
        .with_layer(calls)
        .with_layer(&BufferLayer::new(BUFFER))
        .with_layer(&RetryLayer::new(pace::repeats()))
        .with_layer(&Resume::default())
        .build();
    Ok(client)
}

/// The layer of a client that sees to its watches.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// When each watch may begin again; there are as many as a process has kinds to watch.
    not_before: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Resume {
    /// From when on a watch may begin, which it then has done.
    fn turn(&self, watch: String, now: Instant) -> Instant {
        // Times alone, whole after any panic.
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        let next = not_before.entry(watch).or_insert(now);
        let turn = now.max(*next);
        *next = turn + RETRY;
        turn
    }
}

impl<S> Layer<S> for Resume {
    type Service = Resuming<S>;

    fn layer(&self, inner: S) -> Resuming<S> {
        Resuming { inner, resume: self.clone() }
    }
}

/// Sends requests, and watches in their time.
#[derive(Clone, Debug)]
pub struct Resuming<S> {
    inner: S,
    resume: Resume,
}

impl<S, R, B> Service<Request<R>> for Resuming<S>
where
    S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: Send + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The one that a request is sent with is waited for when its turn has come.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let (inner, resume) = (self.inner.clone(), self.resume.clone());
        async move {
            let watch = watch(request.uri());
            let is_watch = watch.is_some();
            if let Some(watch) = watch {
                // Dropped in this wait, it has not begun, and nobody is the worse for it.
                sleep_until(resume.turn(watch, Instant::now())).await;
            }
            match inner.oneshot(request).await.map_err(Into::into) {
                Ok(answer) if is_watch && begins_anew(answer.status()) => Ok(gone(answer.status().as_str())),
                Ok(answer) => Ok(answer.map(Body::new)),
                Err(error) if is_watch => Ok(gone(&format!("{error:#}"))),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }
}

/// What is watched, if a watch is asked for: all but the version from which on it is.
fn watch(uri: &Uri) -> Option<String> {
    let query: Vec<_> =
        uri.query()?.split('&').filter(|part| !part.starts_with("resourceVersion=")).collect();
    query.contains(&"watch=true").then(|| format!("{}?{}", uri.path(), query.join("&")))
}

/// Whether a watch that cannot begin is to begin with a list: where the version may be known no more. Who is not allowed
/// to watch, or too early, goes on where it was.
fn begins_anew(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::GONE | StatusCode::NOT_FOUND)
}

/// What a watch is told that has to begin with a list.
fn gone(why: &str) -> Response<Body> {
    let message = format!("the watch could not go on ({why}), and begins anew");
    let status =
        json!({"kind": "Status", "status": "Failure", "reason": "Expired", "message": message, "code": 410});
    let event = json!({"type": "ERROR", "object": status});
    Response::new(Body::from(format!("{event}\n")))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;
    use std::time::Duration;

    use super::*;

    const PODS: &str = "/api/v1/pods?watch=true&resourceVersion=";

    async fn ask(
        service: impl Service<Request<Body>, Response = Response<Body>, Error = BoxError>,
        uri: String,
    ) -> (u16, String) {
        let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
        let answer = service.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_at_once_begins_again_after_a_while() {
        let empty = tower::service_fn(|_| ready(Ok::<_, Infallible>(Response::new(Body::empty()))));
        let service = Resume::default().layer(empty);
        let start = Instant::now();
        for version in 0..4 {
            ask(service.clone(), format!("{PODS}{version}")).await;
            assert_eq!(start.elapsed().as_secs(), RETRY.as_secs() * version, "at its pace");
            ask(service.clone(), "/api/v1/pods".to_owned()).await;
            ask(service.clone(), format!("/api/v1/services{version}?watch=true")).await;
            assert_eq!(start.elapsed().as_secs(), RETRY.as_secs() * version, "others do not wait for it");
        }
        tokio::time::advance(Duration::from_mins(1)).await;
        let later = start.elapsed();
        ask(service, format!("{PODS}5")).await;
        assert_eq!(start.elapsed(), later, "one that has lasted goes on at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_cannot_go_on_begins_anew() {
        for (code, anew) in
            [(410, true), (404, true), (504, true), (500, true), (403, false), (429, false), (200, false)]
        {
            let answer = move |_| {
                let answer = Response::builder().status(code).body(Body::from("as it was")).unwrap();
                ready(Ok::<_, Infallible>(answer))
            };
            let service = Resume::default().layer(tower::service_fn(answer));
            let (status, body) = ask(service.clone(), format!("{PODS}7")).await;
            assert_eq!(status, if anew { 200 } else { code }, "{code}");
            assert_eq!(body.contains(r#""code":410"#), anew, "{code}: {body}");
            let list = ask(service, "/api/v1/pods?limit=500".to_owned()).await;
            assert_eq!(list, (code, "as it was".to_owned()), "a list is none");
        }
        let refused = tower::service_fn(|_| ready(Err::<Response<Body>, _>(std::io::Error::other("no way"))));
        let (status, body) = ask(Resume::default().layer(refused), format!("{PODS}7")).await;
        assert_eq!(status, 200);
        assert!(body.contains("no way") && body.contains(r#""code":410"#), "{body}");
    }
}
