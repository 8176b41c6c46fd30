//! Single live reads, for when what the watches told may be old.
//!
//! Architecture invariant: one read an answer and kind at the most, with a timeout below that of the webhook.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::LimitRange;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::policy::Scaler;

use super::part::{ClusterPart, HpaPart, ScaledObjectPart};
use super::{Attachment, Cluster, ForeignHpa};

/// Half of the two seconds that `/scale` webhooks have, so that two reads in a row still leave time to answer.
const TIMEOUT: Duration = Duration::from_millis(900);

/// Why a live read gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// The API server did not answer in time.
    #[error("reading {0} took longer than {ms} ms", ms = TIMEOUT.as_millis())]
    Timeout(String),
    /// The API server refused or could not be reached.
    #[error("reading {0} failed: {1}")]
    Api(String, kube::Error),
}

/// Reads objects live. Its client must not retry: the API server's own timeout runs meanwhile.
#[derive(Clone)]
pub struct Live {
    client: Client,
}

impl Live {
    /// Reads through `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// A cluster; `None` if there is none by that name.
    pub async fn cluster(&self, namespace: &str, name: &str) -> Result<Option<Cluster>, LiveError> {
        let api = Api::<ClusterPart>::namespaced(self.client.clone(), namespace);
        let part = bounded(format!("VLLMCluster {namespace}/{name}"), api.get_opt(name)).await?;
        Ok(part.map(|part| part.facts()))
    }

    /// What a ScaledObject is attached to; `None` if it is gone or attached to no cluster.
    pub async fn scaler(&self, namespace: &str, name: &str) -> Result<Option<Attachment<Scaler>>, LiveError> {
        let api = Api::<ScaledObjectPart>::namespaced(self.client.clone(), namespace);
        let part = bounded(format!("ScaledObject {namespace}/{name}"), api.get_opt(name)).await?;
        Ok(part.and_then(|part| part.attachment()))
    }

    /// The ScaledObjects of a namespace that are attached to any cluster; none where KEDA is not installed.
    pub async fn scalers_of(&self, namespace: &str) -> Result<Vec<Attachment<Scaler>>, LiveError> {
        let parts = self.list::<ScaledObjectPart>(namespace, "ScaledObjects").await?;
        Ok(parts.iter().filter_map(ScaledObjectPart::attachment).collect())
    }

    /// The HPAs of a namespace that point at any cluster and that no ScaledObject controls.
    pub async fn hpas_of(&self, namespace: &str) -> Result<Vec<Attachment<ForeignHpa>>, LiveError> {
        let parts = self.list::<HpaPart>(namespace, "HorizontalPodAutoscalers").await?;
        Ok(parts.iter().filter_map(HpaPart::attachment).collect())
    }

    /// The requests that containers of a namespace get without stating any.
    pub async fn default_requests(&self, namespace: &str) -> Result<DefaultRequests, LiveError> {
        let ranges = self.list::<LimitRange>(namespace, "LimitRanges").await?;
        let limits = ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|spec| &spec.limits);
        let mut defaults = DefaultRequests::default();
        for item in limits.filter(|item| item.type_ == "Container") {
            // A default limit is a default request too, where no request is stated.
            for stated in [&item.default_request, &item.default].into_iter().flatten() {
                defaults.cpu |= stated.contains_key("cpu");
                defaults.memory |= stated.contains_key("memory");
            }
        }
        Ok(defaults)
    }

    async fn list<K>(&self, namespace: &str, what: &str) -> Result<Vec<K>, LiveError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api = Api::<DeserializeGuard<K>>::namespaced(self.client.clone(), namespace);
        let all = ListParams::default();
        match bounded(format!("{what} of {namespace}"), api.list(&all)).await {
            // An unreadable one is left out, as the watch does, which reports it.
            Ok(list) => Ok(list.items.into_iter().filter_map(|object| object.0.ok()).collect()),
            // The kind is not installed.
            Err(LiveError::Api(_, kube::Error::Api(status))) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Which requests a namespace's LimitRanges give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultRequests {
    /// Of cpu.
    pub cpu: bool,
    /// Of memory.
    pub memory: bool,
}

async fn bounded<T>(what: String, read: impl Future<Output = kube::Result<T>>) -> Result<T, LiveError> {
    match timeout(TIMEOUT, read).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(LiveError::Api(what, error)),
        Err(_elapsed) => Err(LiveError::Timeout(what)),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// Answers every request with `body`, or never.
    fn live(code: u16, body: Option<Value>) -> Live {
        let service = tower::service_fn(move |_: axum::http::Request<Body>| {
            let body = body.clone();
            async move {
                let Some(body) = body else { return std::future::pending().await };
                let response = axum::http::Response::builder().status(code);
                Ok::<_, Infallible>(response.body(Full::from(body.to_string().into_bytes())).unwrap())
            }
        });
        Live::new(Client::new(service, "default"))
    }

    fn list(items: &Value) -> Live {
        live(200, Some(json!({"metadata": {}, "items": items})))
    }

    fn drives(name: &str, cluster: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"scaleTargetRef": {"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": cluster}},
        })
    }

    #[tokio::test]
    async fn of_a_list_what_drives_a_cluster_counts_and_what_cannot_be_read_is_left_out() {
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"scaleTargetRef": {"name": "d"}}});
        let unreadable = json!({"metadata": {"name": "u"}, "spec": {"scaleTargetRef": 5}});
        let live = list(&json!([drives("x", "a"), deployment, unreadable, drives("y", "b")]));
        let scalers = live.scalers_of("n").await.unwrap();
        let seen = scalers.iter().map(|found| (found.cluster.as_str(), found.driver.name.as_str()));
        assert_eq!(seen.collect::<Vec<_>>(), [("a", "x"), ("b", "y")]);
        let hpas = live.hpas_of("n").await.unwrap();
        let seen = hpas.iter().map(|found| (found.cluster.as_str(), found.driver.name.as_str()));
        assert_eq!(seen.collect::<Vec<_>>(), [("a", "x"), ("b", "y")]);
    }

    #[rstest::rstest]
    #[case::none(json!([]), (false, false))]
    #[case::no_spec(json!([{"metadata": {"name": "r"}}]), (false, false))]
    #[case::request(json!([limits("Container", "defaultRequest", "cpu")]), (true, false))]
    #[case::limit(json!([limits("Container", "default", "memory")]), (false, true))]
    #[case::two(json!([limits("Container", "default", "memory"), limits("Container", "defaultRequest", "cpu")]), (true, true))]
    #[case::a_bound_is_no_default(json!([limits("Container", "max", "cpu")]), (false, false))]
    #[case::of_pods(json!([limits("Pod", "default", "cpu")]), (false, false))]
    #[tokio::test]
    async fn requests_by_default(#[case] ranges: Value, #[case] expected: (bool, bool)) {
        let DefaultRequests { cpu, memory } = list(&ranges).default_requests("n").await.unwrap();
        assert_eq!((cpu, memory), expected);
    }

    fn limits(of: &str, field: &str, resource: &str) -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": of, field: {resource: "1"}}]}})
    }

    #[tokio::test]
    async fn a_kind_that_is_not_installed_has_no_objects_and_a_failure_is_no_empty_list() {
        let status = |code: u16| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "x", "message": "m"});
        assert_eq!(live(404, Some(status(404))).scalers_of("n").await.unwrap(), []);
        let error = live(503, Some(status(503))).scalers_of("n").await.unwrap_err();
        assert!(error.to_string().starts_with("reading ScaledObjects of n failed"), "{error}");
    }

    #[tokio::test]
    async fn a_list_that_never_comes_ends_in_time() {
        let error = live(200, None).hpas_of("n").await.unwrap_err();
        assert_eq!(error.to_string(), "reading HorizontalPodAutoscalers of n took longer than 900 ms");
    }
}
