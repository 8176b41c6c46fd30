//! What is told of calls to the API server, by a layer of each client: writes, and how long ago watches had word.
//!
//! Architecture invariant: nothing is changed on its way. Labels are the resources that this program asks for.

use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Method, Request, Response, Uri};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tower::{BoxError, Layer, Service};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    resource: String,
    method: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Watched {
    resource: String,
}

type Heard = Gauge<f64, AtomicU64>;

/// The layer, and what it has seen.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    writes: Family<Write, Counter>,
    heard: Family<Watched, Heard>,
}

impl Calls {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let calls = Self::default();
        let Self { writes, heard } = calls.clone();
        registry.register("api_writes", "Writes sent to the API server; code 0 where no answer came", writes);
        registry.register(
            "watch_heard_timestamp_seconds",
            "When a watch of a resource had word last, be it that nothing has changed",
            heard,
        );
        calls
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, calls: self.clone() }
    }
}

/// Sends requests, and counts them.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S, R, B> Service<Request<R>> for Counted<S>
where
    S: Service<Request<R>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let calls = self.calls.clone();
        // Of a read nothing is told, and so nothing is found out.
        let write = written(request.method()).map(|method| (method, resource(request.uri())));
        let watched = is_watch(request.uri()).then(|| Watched { resource: resource(request.uri()) });
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            if let Some((method, resource)) = write {
                let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
                calls.writes.get_or_create(&Write { resource, method, code }).inc();
            }
            let heard = watched.map(|watched| calls.heard.get_or_create_owned(&watched));
            let told = |body: B| match heard {
                Some(heard) => Body::new(body.map_frame(move |frame| {
                    heard.set(Timestamp::now().as_duration().as_secs_f64());
                    frame
                })),
                None => Body::new(body),
            };
            answer.map(|answer| answer.map(told)).map_err(Into::into)
        }
        .boxed()
    }
}

/// The method of a write.
fn written(method: &Method) -> Option<&'static str> {
    match *method {
        Method::POST => Some("POST"),
        Method::PUT => Some("PUT"),
        Method::PATCH => Some("PATCH"),
        Method::DELETE => Some("DELETE"),
        _ => None,
    }
}

fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"))
}

/// The plural that a path of the API is about, with its subresource: `vllmclusters/status`.
fn resource(uri: &Uri) -> String {
    let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
    // `/api/<version>/…`, or `/apis/<group>/<version>/…`.
    let before = if parts.next() == Some("api") { 1 } else { 2 };
    let mut parts = parts.skip(before).peekable();
    let mut plural = parts.next().unwrap_or_default();
    if plural == "namespaces" {
        let _namespace = parts.next();
        plural = parts.next().unwrap_or(plural);
    }
    let _name = parts.next();
    match parts.next() {
        Some(sub) => format!("{plural}/{sub}"),
        None => plural.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/api/v1/namespaces/a/services/b?fieldManager=x", "services")]
    #[case("/apis/apps/v1/statefulsets?watch=true", "statefulsets")]
    #[case("/apis/a.io/v1/namespaces/a/vllmclusters/b/status", "vllmclusters/status")]
    #[case("/api/v1/namespaces", "namespaces")]
    #[case("/api/v1/namespaces/a", "namespaces")]
    #[case("/", "")]
    fn the_resource_of_a_path(#[case] path: &'static str, #[case] expected: &str) {
        assert_eq!(resource(&Uri::from_static(path)), expected);
    }

    #[tokio::test]
    async fn writes_are_counted_by_resource_and_code_and_watches_tell_when_they_had_word() {
        let mut registry = Registry::default();
        let calls = Calls::register(&mut registry);
        let server = tower::service_fn(async |request: Request<()>| match *request.method() {
            Method::PATCH => Err(BoxError::from("nobody listens")),
            Method::POST => Ok(Response::builder().status(409).body(Body::empty()).expect("an answer")),
            _ => Ok(Response::new(Body::from("an event"))),
        });
        let mut client = calls.layer(server);
        let mut send = async |method: Method, path: &str| {
            let request = Request::builder().method(method).uri(path).body(()).expect("a request");
            match client.call(request).await {
                Ok(answer) => answer.into_body().collect().await.expect("a body").to_bytes().len(),
                Err(_) => 0,
            }
        };
        let set = "/apis/apps/v1/namespaces/a/statefulsets/b";
        assert_eq!(send(Method::GET, set).await, 8, "bodies pass");
        send(Method::POST, set).await;
        send(Method::PATCH, set).await;
        send(Method::PATCH, set).await;
        assert_eq!(send(Method::GET, "/api/v1/pods?watch=true&allowWatchBookmarks=true").await, 8);

        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).expect("a page");
        for line in [
            r#"api_writes_total{resource="statefulsets",method="POST",code="409"} 1"#,
            r#"api_writes_total{resource="statefulsets",method="PATCH",code="0"} 2"#,
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
        let heard = page
            .lines()
            .find_map(|line| line.strip_prefix(r#"watch_heard_timestamp_seconds{resource="pods"} "#));
        let heard: f64 = heard.expect("a time").parse().expect("a number");
        assert!((Timestamp::now().as_duration().as_secs_f64() - heard).abs() < 60.0, "{heard}");
        assert_eq!(page.matches("resource=").count(), 3, "reads are not counted: {page}");
    }
}
