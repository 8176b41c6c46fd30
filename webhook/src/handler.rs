//! An axum route that answers reviews.
//!
//! Whoever sends a review with a uid gets an answer with it, also where the review cannot be read or the decision
//! panics: an HTTP error would count as a failed call, which `failurePolicy: Ignore` lets pass.
//!
//! Architecture invariant: HTTP ends here. What decides sees a [`Request`] and returns a [`Response`].

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{Request as HttpRequest, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{MethodRouter, post_service};
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tower::service_fn;
use tracing::error;

use crate::response::Response;
use crate::review::{Request, uid_of};

/// Largest body that is read, in bytes. One review holds two objects of up to 3 MiB, and an envelope.
pub const BODY_LIMIT: usize = 7 << 20;
/// How long reading a body may take. The API server sends it in one go; its longest timeout is 30 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Decides on reviews.
pub trait Admit: Send + Sync + 'static {
    /// The answer to one request.
    fn admit(&self, request: &Request<'_>) -> impl Future<Output = Response> + Send;
}

/// A route that answers reviews by `admit`. POST with `application/json` only; a larger body than
/// [`BODY_LIMIT`] gets 413, one without a readable uid 400.
pub fn reviews<A: Admit, S: Clone + Send + Sync + 'static>(admit: Arc<A>) -> MethodRouter<S> {
    // A service and no handler: what a handler's extractors can do, and each review pays for, is not needed.
    post_service(service_fn(move |request| {
        let admit = Arc::clone(&admit);
        async move { Ok::<_, Infallible>(answer(&*admit, request).await) }
    }))
}

async fn answer<A: Admit>(admit: &A, request: HttpRequest<Body>) -> HttpResponse {
    let is_json =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(
            |value| {
                value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
            },
        );
    if !is_json {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "send an AdmissionReview as application/json\n")
            .into_response();
    }
    // What is announced as too large is not awaited.
    if request.body().size_hint().lower() > BODY_LIMIT as u64 {
        return too_large();
    }
    let body = Limited::new(request.into_body(), BODY_LIMIT);
    let body = match tokio::time::timeout(BODY_TIMEOUT, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(error)) => {
            return (StatusCode::BAD_REQUEST, format!("the body did not come whole: {error}\n"))
                .into_response();
        }
        Err(_elapsed) => {
            return (StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n").into_response();
        }
    };
    let review = match Request::parse(&body) {
        Ok(review) => review,
        Err(error) => {
            return match uid_of(&body) {
                Some(uid) => json(&Response::unreadable(error.to_string()), &uid),
                None => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
            };
        }
    };
    // Nothing of the decision outlives a panic but what the decider itself shares, which it must keep whole.
    let decision = AssertUnwindSafe(async { admit.admit(&review).await }).catch_unwind().await;
    let response = decision.unwrap_or_else(|_panic| {
        error!(uid = %review.uid, resource = %review.resource.resource, "the decision panicked");
        Response::error("the webhook failed on this review; its log says where")
    });
    json(&response, &review.uid)
}

fn too_large() -> HttpResponse {
    (StatusCode::PAYLOAD_TOO_LARGE, "an AdmissionReview is 7 MiB at the most\n").into_response()
}

fn json(response: &Response, uid: &str) -> HttpResponse {
    ([(header::CONTENT_TYPE, "application/json")], response.to_bytes(uid)).into_response()
}
