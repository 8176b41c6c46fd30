//! All reads, as far as possible side by side, and the writes that are tried as a dry run.
//!
//! Architecture invariant: reads and tries, and judges nothing; what cannot be read is noted, and nothing is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::Request;
use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::names::{
    API_VERSION, GROUP, KEDA_GROUP, KIND, OPERATOR, OPERATOR_NAMESPACE, SCALED_OBJECT_CRD,
    SCALED_OBJECT_KIND, SCALER_AUTHENTICATION, VERSION,
};
use crate::args::RunArgs;
use crate::commands::lint;
use crate::world::scope::Scope;

use super::cluster::{
    ACCESS_REVIEW, API_SERVICE, CLUSTER, CONFIG_MAP, Cluster, DEFINITION, DEPLOYMENT, ENDPOINT_SLICE, HPA,
    Kind, LEASE, LIMIT_RANGE, MUTATING, POD, SCALED_OBJECT, SECRET, SERVICE, TRIGGER_AUTHENTICATION,
    VALIDATING, reason,
};
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
    let cluster = Cluster::new(client);
    let (mutating, validating) =
        tokio::join!(cluster.get(&MUTATING, None, OPERATOR), cluster.get(&VALIDATING, None, OPERATOR));
    let configurations = [mutating, validating];
    let namespace = namespace.map(str::to_owned).or_else(|| called(&configurations));
    let namespace = namespace.unwrap_or_else(|| OPERATOR_NAMESPACE.to_owned());
    let deployment = cluster.get(&DEPLOYMENT, Some(&namespace), OPERATOR).await;
    let mut seen = Seen { namespace, configurations, deployment, ..Seen::default() };
    // Settings that cannot be understood are told by a check; all else is looked at where it mostly is.
    let settings = seen.settings().unwrap_or_else(|_| seen.usual_settings());
    (seen.parts, seen.replicas, seen.keda, seen.scaling) = tokio::join!(
        cluster.parts(&settings),
        cluster.replicas(&seen.namespace),
        cluster.keda(&settings),
        cluster.scaling(&settings),
    );
    seen.trials =
        cluster.trials(&seen, settings.watch_namespaces.first().unwrap_or(&settings.namespace)).await;
    seen.at = cluster.now(&seen.namespace).await;
    seen.rights = cluster.rights(&seen, &settings).await;
    seen.unseen = cluster.unseen();
    seen
}

/// Where the webhooks are called.
fn called(configurations: &[Look; 2]) -> Option<String> {
    let webhooks =
        configurations.iter().filter_map(Look::found).filter_map(|found| found["webhooks"].as_array());
    let mut services = webhooks.flatten().map(|webhook| &webhook["clientConfig"]["service"]["namespace"]);
    services.find_map(|namespace| Some(namespace.as_str()?.to_owned()))
}

impl Cluster<'_> {
    async fn parts(&self, settings: &RunArgs) -> Parts {
        let namespace = Some(settings.namespace.as_str());
        let service = |name| self.get(&SERVICE, namespace, name);
        let (server, definition, admission, scaler, slices, lease, authority) = tokio::join!(
            self.client.apiserver_version(),
            self.get(&DEFINITION, None, "vllmclusters.training.distributed-inference.io"),
            service(&settings.webhook_service),
            service(&settings.scaler_service),
            self.list(&ENDPOINT_SLICE, namespace, "kubernetes.io/service-name"),
            self.get(&LEASE, namespace, &settings.lease),
            self.get(&SECRET, namespace, &settings.ca_secret),
        );
        let number = |text: &str| text.trim_end_matches(|digit: char| !digit.is_ascii_digit()).parse().ok();
        let server = server.ok().and_then(|info| Some((number(&info.major)?, number(&info.minor)?)));
        Parts { server, definition, services: [admission, scaler], slices, lease, authority }
    }

    async fn replicas(&self, namespace: &str) -> Vec<Replica> {
        let labels = format!("app.kubernetes.io/name={OPERATOR}");
        let pods = self.list(&POD, Some(namespace), &labels).await.unwrap_or_default();
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
        let (definition, operator, external_metrics, resource_metrics, authentication, secret) = tokio::join!(
            self.get(&DEFINITION, None, SCALED_OBJECT_CRD),
            self.get(&DEPLOYMENT, namespace, KEDA_OPERATOR),
            self.get(&API_SERVICE, None, "v1beta1.external.metrics.k8s.io"),
            self.get(&API_SERVICE, None, "v1beta1.metrics.k8s.io"),
            self.get(&TRIGGER_AUTHENTICATION, None, SCALER_AUTHENTICATION),
            self.get(&SECRET, namespace, SCALER_AUTHENTICATION),
        );
        Keda { definition, operator, external_metrics, resource_metrics, authentication, secret }
    }

    async fn scaling(&self, settings: &RunArgs) -> Scaling {
        let (clusters, scaled_objects, hpas, limits) = tokio::join!(
            self.list(&CLUSTER, None, ""),
            self.list(&SCALED_OBJECT, None, ""),
            self.list(&HPA, None, ""),
            self.list(&LIMIT_RANGE, None, ""),
        );
        // Without one of them the rest would be judged wrongly.
        let all_seen = clusters.is_some() && scaled_objects.is_some() && hpas.is_some() && limits.is_some();
        let scope = Scope::of(&settings.watch_namespaces);
        let within = |objects: Option<Vec<Value>>| -> Vec<Value> {
            let is_within =
                |object: &Value| scope.has(object["metadata"]["namespace"].as_str().unwrap_or_default());
            objects.into_iter().flatten().filter(is_within).collect()
        };
        let ours = |objects| -> Vec<Value> { within(objects).into_iter().filter(drives_a_cluster).collect() };
        let (clusters, limits) = (within(clusters), within(limits));
        let (scaled_objects, hpas) = (ours(scaled_objects), ours(hpas));
        let world = clusters.iter().chain(&scaled_objects).chain(&hpas).chain(&limits);
        let refused = if all_seen { lint::refusals(world).await } else { Ok(Vec::new()) };
        let refused = refused.unwrap_or_else(|error| {
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
            trials.extend(self.trial(namespace, &CLUSTER, cluster).await);
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
            trials.extend(self.trial(namespace, &SCALED_OBJECT, scaled_object).await);
        }
        trials
    }

    async fn trial(&self, namespace: &str, kind: &Kind, object: Value) -> Option<Trial> {
        let Err(error) = self.create(kind, Some(namespace), object, true).await else {
            return Some(Trial { kind: kind.name, refusal: None });
        };
        match error {
            // The kind is not there, or the namespace.
            kube::Error::Api(status) if status.code == 404 => None,
            kube::Error::Api(status) if !status.message.contains(" cannot create resource ") => {
                Some(Trial { kind: kind.name, refusal: Some(status.message) })
            }
            error => {
                self.note(format!("whether admission answers for a {}: {}", kind.name, reason(&error)));
                None
            }
        }
    }

    /// The time by the API server, as it writes it into a new object; without one, that of this machine.
    async fn now(&self, namespace: &str) -> Timestamp {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "vllm-operator-doctor-"},
        });
        let created = self.create(&CONFIG_MAP, Some(namespace), object, true).await;
        let created = created.ok().and_then(|created| Some(created.metadata.creation_timestamp?.0));
        created.unwrap_or_else(Timestamp::now)
    }

    /// What the operator's roles give and its account does not have.
    async fn rights(&self, seen: &Seen, settings: &RunArgs) -> Vec<Right> {
        let account =
            seen.deployment.found().map(|found| &found["spec"]["template"]["spec"]["serviceAccountName"]);
        let account = account.and_then(Value::as_str).unwrap_or(OPERATOR);
        let has_scaler = seen.keda.authentication.found().is_some();
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
        match self.create(&ACCESS_REVIEW, None, review, false).await {
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
        assert_eq!(found.get(&("a".into(), String::new())), Some(&1.0));
        assert_eq!(found.get(&("b".into(), "pods".into())), Some(&2.5));
    }

    #[test]
    fn the_webhooks_tell_where_the_operator_is() {
        let configuration = json!({"webhooks": [{"clientConfig": {"service": {"namespace": "here"}}}]});
        assert_eq!(called(&[Look::Absent, Look::Found(configuration)]).as_deref(), Some("here"));
        assert_eq!(called(&[Look::Unseen, Look::Absent]), None);
    }
}
