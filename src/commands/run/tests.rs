//! The webhooks as the API server reaches them: by their paths, over HTTP, in the form that it takes.
//!
//! Architecture invariant: no answer gets out of [`Answer::of`] but through the API server's own checks.

mod failures;
mod hostile;
mod moment;
mod plain;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use serde_json::value::RawValue;
use tower::ServiceExt as _;
use webhook::verify::{Call, verify_http};

use super::admission_routes;
use crate::admit::fixture::Fixture;

const MUTATE_CLUSTER: &str = "/mutate/vllmclusters";
const VALIDATE_CLUSTER: &str = "/validate/vllmclusters";
const MUTATE_SCALE: &str = "/mutate/scale";
const VALIDATE_SCALE: &str = "/validate/scale";
const MUTATE_SCALED_OBJECT: &str = "/mutate/scaledobjects";
const VALIDATE_SCALED_OBJECT: &str = "/validate/scaledobjects";
const VALIDATE_HPA: &str = "/validate/horizontalpodautoscalers";

fn routes(fixture: Fixture) -> Router {
    admission_routes(&Arc::new(fixture.admission))
}

fn post<B>(path: &str, body: B) -> Request<B> {
    Request::post(path).header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

/// A verified answer to a review.
#[derive(Debug)]
struct Answer {
    response: Value,
}

impl Answer {
    /// What the API server makes of this HTTP response to a review.
    async fn of<B>(path: &str, review: &Value, response: axum::http::Response<B>) -> Self
    where
        B: axum::body::HttpBody<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap());
        let request = &review["request"];
        let object = Some(&request["object"]).filter(|object| !object.is_null());
        let object = object.map(|object| RawValue::from_string(object.to_string()).unwrap());
        let call = Call {
            uid: request["uid"].as_str().unwrap(),
            mutating: path.starts_with("/mutate"),
            object: object.as_deref(),
        };
        match verify_http(call, head.status.as_u16(), content_type, &body) {
            Ok(accepted) => Self { response: accepted.response },
            Err(violation) => {
                panic!("{path}: {violation}: {} to {review}", String::from_utf8_lossy(&body))
            }
        }
    }

    /// The answer of the routes, without a server around them.
    async fn from_routes(routes: &Router, path: &str, review: &Value) -> Self {
        let request = post(path, Body::from(review.to_string()));
        Self::of(path, review, routes.clone().oneshot(request).await.unwrap()).await
    }

    fn allowed(&self) -> bool {
        self.response["allowed"] == true
    }

    fn code(&self) -> u64 {
        self.response["status"]["code"].as_u64().unwrap_or_default()
    }

    fn message(&self) -> &str {
        self.response["status"]["message"].as_str().unwrap_or_default()
    }
}
