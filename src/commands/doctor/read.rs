//! All reads, as far as possible side by side, and the writes that are tried as a dry run.
//!
//! Architecture invariant: reads and tries, and judges nothing; what cannot be read is noted, and nothing is stored.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::Request;
use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::names::{
    API_VERSION, GROUP, KEDA_GROUP, KIND, OPERATOR, OPERATOR_NAMESPACE, PLURAL, SCALED_OBJECT_CRD,
    SCALED_OBJECT_KIND, SCALER_AUTHENTICATION, VERSION,
};
use crate::args::RunArgs;
use crate::commands::lint;
use crate::commands::listing::list;

use super::rights::{self, Wanted};
use super::seen::{Keda, Look, Parts, Replica, Right, Scaling, Seen, Trial, holds};

/// The port of the operator's pods for health and metrics.
const PLAIN_PORT: u16 = 8080;
/// How long a pod may take to answer by way of the API server, which itself would wait for half a minute.
const PROXY_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions to the API server at a time.
const AT_ONCE: usize = 8;
/// The Deployment of KEDA's operator, by its own manifests and by its chart.
const KEDA_OPERATOR: &str = "keda-operator";

/// Looks at everything. `namespace` is where the operator is said to be; otherwise its webhooks tell.
pub async fn read(client: &Client, namespace: Option<&str>) -> Seen {
    let cluster = Cluster { client, unseen: RefCell::default() };
    let configurations = [
        cluster
            .get(ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", None, OPERATOR)
            .await,
        cluster
            .get(
                ADMISSION,
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
                None,
                OPERATOR,
            )
            .await,
    ];
    let namespace = namespace.map(str::to_owned).or_else(|| called(&configurations));
    let namespace = namespace.unwrap_or_else(|| OPERATOR_NAMESPACE.to_owned());
    let deployment = cluster.get(APPS, "Deployment", "deployments", Some(&namespace), OPERATOR).await;
    let mut seen = Seen { configurations, deployment, namespace, ..Seen::default() };
    // Settings that cannot be understood are told by a check; all else is looked at where it mostly is.
    let settings = seen.settings().unwrap_or_else(|_| seen.usual_settings());
    (seen.parts, seen.replicas, seen.keda, seen.scaling) = tokio::join!(
        cluster.parts(&settings),
        cluster.replicas(&seen.namespace),
        cluster.keda(&settings),
        cluster.scaling(),
    );
    seen.trials =
        cluster.trials(&seen, settings.watch_namespaces.first().unwrap_or(&settings.namespace)).await;
    seen.at = cluster.now(&seen.namespace).await;
    seen.rights = cluster.rights(&seen, &settings).await;
    seen.unseen = cluster.unseen.into_inner();
    seen
}

/// Where the webhooks are called.
fn called(configurations: &[Look; 2]) -> Option<String> {
    let webhooks =
        configurations.iter().filter_map(Look::found).flat_map(|found| found["webhooks"].as_array());
    let mut services = webhooks.flatten().map(|webhook| &webhook["clientConfig"]["service"]["namespace"]);
    services.find_map(|namespace| Some(namespace.as_str()?.to_owned()))
}

/// Group and version.
type Served = (&'static str, &'static str);
const CORE: Served = ("", "v1");
const APPS: Served = ("apps", "v1");
const ADMISSION: Served = ("admissionregistration.k8s.io", "v1");
const DEFINITIONS: Served = ("apiextensions.k8s.io", "v1");
const AGGREGATION: Served = ("apiregistration.k8s.io", "v1");
const OURS: Served = (GROUP, VERSION);
const KEDAS: Served = (KEDA_GROUP, VERSION);

/// The cluster of the kubeconfig, and what it did not tell.
struct Cluster<'a> {
    client: &'a Client,
    unseen: RefCell<Vec<String>>,
}

impl Cluster<'_> {
    fn note(&self, sentence: String) {
        let mut unseen = self.unseen.borrow_mut();
        if !unseen.contains(&sentence) {
            unseen.push(sentence);
        }
    }

    fn api(&self, served: Served, kind: &str, plural: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let (group, version) = served;
        let resource = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: if group.is_empty() { version.into() } else { format!("{group}/{version}") },
            kind: kind.into(),
            plural: plural.into(),
        };
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    async fn get(
        &self,
        served: Served,
        kind: &str,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Look {
        match self.api(served, kind, plural, namespace).get(name).await {
            Ok(object) => serde_json::to_value(object).map_or(Look::Unseen, Look::Found),
            Err(kube::Error::Api(status)) if status.code == 404 => Look::Absent,
            Err(error) => {
                self.note(format!("{plural} {name}: {}", reason(&error)));
                Look::Unseen
            }
        }
    }

    async fn list(
        &self,
        served: Served,
        kind: &str,
        plural: &str,
        namespace: Option<&str>,
        labels: &str,
    ) -> Vec<Value> {
        match list(&self.api(served, kind, plural, namespace), &ListParams::default().labels(labels)).await {
            Ok(listed) => listed.unwrap_or_default(),
            Err(error) => {
                self.note(format!("{plural}: {error:#}"));
                Vec::new()
            }
        }
    }

    async fn parts(&self, settings: &RunArgs) -> Parts {
        let namespace = Some(settings.namespace.as_str());
        let service = |name| self.get(CORE, "Service", "services", namespace, name);
        let (server, definition, admission, scaler, slices, lease, authority) = tokio::join!(
            self.client.apiserver_version(),
            self.get(
                DEFINITIONS,
                "CustomResourceDefinition",
                "customresourcedefinitions",
                None,
                "vllmclusters.training.distributed-inference.io"
            ),
            service(&settings.webhook_service),
            service(&settings.scaler_service),
            self.list(
                ("discovery.k8s.io", "v1"),
                "EndpointSlice",
                "endpointslices",
                namespace,
                "kubernetes.io/service-name"
            ),
            self.get(("coordination.k8s.io", "v1"), "Lease", "leases", namespace, &settings.lease),
            self.get(CORE, "Secret", "secrets", namespace, &settings.ca_secret),
        );
        let number = |text: &str| text.trim_end_matches(|digit: char| !digit.is_ascii_digit()).parse().ok();
        let server = server.ok().and_then(|info| Some((number(&info.major)?, number(&info.minor)?)));
        Parts { server, definition, services: [admission, scaler], slices, lease, authority }
    }

    async fn replicas(&self, namespace: &str) -> Vec<Replica> {
        let labels = format!("app.kubernetes.io/name={OPERATOR}");
        let pods = self.list(CORE, "Pod", "pods", Some(namespace), &labels).await;
        stream::iter(pods).map(|pod| self.replica(namespace, pod)).buffered(AT_ONCE).collect().await
    }

    /// What a pod says of itself, by way of the API server.
    async fn replica(&self, namespace: &str, pod: Value) -> Replica {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let ask = |path: &str| {
            let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}:{PLAIN_PORT}/proxy{path}");
            let request = Request::get(uri).body(Vec::new());
            async move {
                let answer = timeout(PROXY_TIMEOUT, self.client.request_text(request?)).await;
                Ok::<_, anyhow::Error>(answer.context("no answer within 5 s")??)
            }
        };
        if pod["status"]["phase"] != "Running" || !pod["metadata"]["deletionTimestamp"].is_null() {
            return Replica { pod, ..Replica::default() };
        }
        let (readiness, metrics) = tokio::join!(ask("/readyz"), ask("/metrics"));
        // The API server hands on what a pod says with an error as the reason.
        let unready =
            readiness.err().filter(|_| !holds(&pod, "Ready", "True")).map(|error| error.to_string());
        let metrics = metrics.unwrap_or_else(|error| {
            if unready.is_none() {
                self.note(format!("the metrics of pod {name}, by the API server's proxy: {error}"));
            }
            String::new()
        });
        let metrics = samples(&metrics);
        Replica { pod, unready, metrics }
    }

    async fn keda(&self, settings: &RunArgs) -> Keda {
        let namespace = Some(settings.keda_namespace.as_str());
        let served = |group: &'static str| self.get_owned(AGGREGATION, "APIService", "apiservices", group);
        let (definition, operator, external_metrics, resource_metrics, authentication, secret) = tokio::join!(
            self.get(
                DEFINITIONS,
                "CustomResourceDefinition",
                "customresourcedefinitions",
                None,
                SCALED_OBJECT_CRD
            ),
            self.get(APPS, "Deployment", "deployments", namespace, KEDA_OPERATOR),
            served("v1beta1.external.metrics.k8s.io"),
            served("v1beta1.metrics.k8s.io"),
            self.get(
                KEDAS,
                "ClusterTriggerAuthentication",
                "clustertriggerauthentications",
                None,
                SCALER_AUTHENTICATION
            ),
            self.get(CORE, "Secret", "secrets", namespace, SCALER_AUTHENTICATION),
        );
        Keda { definition, operator, external_metrics, resource_metrics, authentication, secret }
    }

    async fn get_owned(&self, served: Served, kind: &str, plural: &str, name: &'static str) -> Look {
        self.get(served, kind, plural, None, name).await
    }

    async fn scaling(&self) -> Scaling {
        let (clusters, scaled_objects, hpas, limits) = tokio::join!(
            self.list(OURS, KIND, PLURAL, None, ""),
            self.list(KEDAS, SCALED_OBJECT_KIND, "scaledobjects", None, ""),
            self.list(("autoscaling", "v2"), "HorizontalPodAutoscaler", "horizontalpodautoscalers", None, ""),
            self.list(CORE, "LimitRange", "limitranges", None, ""),
        );
        let ours =
            |objects: Vec<Value>| -> Vec<Value> { objects.into_iter().filter(drives_a_cluster).collect() };
        let (scaled_objects, hpas) = (ours(scaled_objects), ours(hpas));
        let world = clusters.iter().chain(&scaled_objects).chain(&hpas).chain(&limits);
        let refused = lint::refusals(world).await.unwrap_or_else(|error| {
            self.note(format!("what admission would say of stored objects: {error:#}"));
            Vec::new()
        });
        Scaling { clusters, scaled_objects, hpas, refused }
    }

    /// Writes that admission is asked about, and nothing is stored of.
    async fn trials(&self, seen: &Seen, namespace: &str) -> Vec<Trial> {
        let mut trials = Vec::new();
        let cluster = json!({
            "apiVersion": API_VERSION, "kind": KIND, "metadata": {"generateName": "vllm-operator-doctor-"}, "spec": {},
        });
        if !seen.parts.definition.is_absent() {
            trials.extend(self.trial(namespace, OURS, KIND, PLURAL, cluster).await);
        }
        if seen.keda.definition.found().is_some() {
            let scaled_object = json!({
                "apiVersion": format!("{KEDA_GROUP}/{VERSION}"), "kind": SCALED_OBJECT_KIND,
                "metadata": {"generateName": "vllm-operator-doctor-"},
                "spec": {
                    "scaleTargetRef": {"apiVersion": API_VERSION, "kind": KIND, "name": "vllm-operator-doctor"},
                    "minReplicaCount": 0,
                    "triggers": [],
                },
            });
            trials.extend(
                self.trial(namespace, KEDAS, SCALED_OBJECT_KIND, "scaledobjects", scaled_object).await,
            );
        }
        trials
    }

    async fn trial(
        &self,
        namespace: &str,
        served: Served,
        kind: &'static str,
        plural: &str,
        object: Value,
    ) -> Option<Trial> {
        let api = self.api(served, kind, plural, Some(namespace));
        let object: DynamicObject = serde_json::from_value(object).ok()?;
        match api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await {
            Ok(_) => Some(Trial { kind, refusal: None }),
            Err(kube::Error::Api(status))
                if status.code == 403
                    && status.reason == "Forbidden"
                    && status.message.contains(" cannot create resource ") =>
            {
                self.note(format!("whether admission answers for a {kind}: {}", status.message));
                None
            }
            // The kind is not there, or the namespace.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(kube::Error::Api(status)) => Some(Trial { kind, refusal: Some(status.message) }),
            Err(error) => {
                self.note(format!("whether admission answers for a {kind}: {error}"));
                None
            }
        }
    }

    /// The time by the API server, as it writes it into a new object; without one, that of this machine.
    async fn now(&self, namespace: &str) -> Timestamp {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "vllm-operator-doctor-"},
        });
        let created = async {
            let api = self.api(CORE, "ConfigMap", "configmaps", Some(namespace));
            let object: DynamicObject = serde_json::from_value(object).ok()?;
            let created =
                api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await.ok()?;
            created.metadata.creation_timestamp.map(|time| time.0)
        };
        created.await.unwrap_or_else(Timestamp::now)
    }

    /// What the operator's roles give and its account does not have.
    async fn rights(&self, seen: &Seen, settings: &RunArgs) -> Vec<Right> {
        let account =
            seen.deployment.found().map(|found| &found["spec"]["template"]["spec"]["serviceAccountName"]);
        let account = account.and_then(Value::as_str).unwrap_or(OPERATOR);
        let has_scaler = !seen.keda.authentication.is_absent();
        let wanted = rights::wanted(
            &settings.namespace,
            &settings.watch_namespaces,
            has_scaler.then_some(settings.keda_namespace.as_str()),
        );
        let asked = stream::iter(wanted).map(|wanted| self.right(&settings.namespace, account, wanted));
        let mut missing: Vec<_> = asked.buffered(AT_ONCE).filter_map(std::future::ready).collect().await;
        missing.dedup();
        missing
    }

    async fn right(&self, namespace: &str, account: &str, wanted: Wanted) -> Option<Right> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {
                "user": format!("system:serviceaccount:{namespace}:{account}"),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
                "resourceAttributes": wanted.attributes,
            },
        });
        let api =
            self.api(("authorization.k8s.io", "v1"), "SubjectAccessReview", "subjectaccessreviews", None);
        let object: DynamicObject = serde_json::from_value(review).ok()?;
        match api.create(&PostParams::default(), &object).await {
            Ok(answer) => (answer.data["status"]["allowed"] != true).then_some(wanted.right),
            Err(error) => {
                self.note(format!("the operator's rights: {}", reason(&error)));
                None
            }
        }
    }
}

fn drives_a_cluster(object: &Value) -> bool {
    let target = &object["spec"]["scaleTargetRef"];
    let version = target["apiVersion"].as_str().unwrap_or_default();
    target["kind"] == KIND && version.split_once('/').is_some_and(|(group, _)| group == GROUP)
}

/// What an API server says, without what a client puts around it.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The samples of a page of metrics, by name and the value of the first label.
fn samples(page: &str) -> BTreeMap<(String, String), f64> {
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let label = labels.split('"').nth(1).unwrap_or_default();
        Some(((name.to_owned(), label.to_owned()), value.parse().ok()?))
    };
    page.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_kept_by_their_first_label() {
        let page = "# TYPE a gauge\na 1\nb{resource=\"pods\",x=\"y\"} 2.5\n# EOF\n";
        let found = samples(page);
        assert_eq!(found.len(), 2);
        assert_eq!(found[&("a".into(), String::new())], 1.0);
        assert_eq!(found[&("b".into(), "pods".into())], 2.5);
    }

    #[test]
    fn the_webhooks_tell_where_the_operator_is() {
        let configuration = json!({"webhooks": [{"clientConfig": {"service": {"namespace": "here"}}}]});
        assert_eq!(called(&[Look::Absent, Look::Found(configuration)]).as_deref(), Some("here"));
        assert_eq!(called(&[Look::Unseen, Look::Absent]), None);
    }
}
