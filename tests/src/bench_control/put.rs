//! What webhooks add to a PUT of `/scale` through the API server: none, the floor, the operator, and a webhook written with
//! controller-runtime, each registered in the same two ways as the operator is.
//!
//! Each has a namespace that nobody else is called for, so that all of them stand side by side, and every round makes one
//! write in each. Nobody reconciles meanwhile: what a write costs is what is measured, and not what follows from it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::PostParams;
use kube::{Api, Client};
use rcgen::{CertificateParams, KeyPair};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Bench, created, names, ratio, within};
use crate::addons;
use crate::bench_admission::payload;
use crate::objects::{namespace, scaled_objects};
use crate::plane::wait::{Deadline, eventually};
use crate::plane::{Plane, trying_again};

/// Where the floor and controller-runtime's webhook run.
pub(super) const SERVERS: &str = "bench-webhooks";
/// Clusters that are written to in turn: a person's or an autoscaler's next write to one comes when the first is known.
const CLUSTERS: usize = 16;
/// For pods to start, and for an API server to hear of configurations.
const PATIENCE: Duration = Duration::from_mins(2);

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Put {
    /// Writes in each namespace.
    #[arg(long, default_value_t = Self::default().writes)]
    pub writes: usize,
}

impl Default for Put {
    fn default() -> Self {
        Self { writes: 2000 }
    }
}

/// Who is called for a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Called {
    /// Nobody.
    Nobody,
    /// A server that reads the review, and allows it.
    Floor,
    /// The operator.
    Ours,
    /// The same rule, with controller-runtime.
    Go,
}

impl Called {
    const ALL: [Self; 4] = [Self::Nobody, Self::Floor, Self::Ours, Self::Go];

    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "no webhook",
            Self::Floor => "floor",
            Self::Ours => "ours",
            Self::Go => "Go",
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Self::Nobody => "put-none",
            Self::Floor => "put-floor",
            Self::Ours => "put-ours",
            Self::Go => "put-go",
        }
    }
}

/// What was measured: how long writes took, in order of length.
#[derive(Clone, Debug)]
pub struct Figures(BTreeMap<Called, Vec<Duration>>);

impl Figures {
    fn middle(&self, called: Called) -> Duration {
        within(&self.0[&called], 500)
    }

    /// What those who are called add in the middle.
    pub fn added(&self, called: Called) -> Duration {
        self.middle(called).saturating_sub(self.middle(Called::Nobody))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writes = self.0[&Called::Nobody].len();
        writeln!(f, "{writes} PUTs of /scale each, through the API server, by one client")?;
        writeln!(f, "{:<14}{:>10}{:>10}{:>12}{:>10}", "called", "p50 us", "p99 us", "added us", "÷ floor")?;
        for (index, (called, spans)) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            let [middle, most] = [500, 990].map(|permille| within(spans, permille).as_micros());
            write!(f, "{newline}{:<14}{middle:>10}{most:>10}", called.name())?;
            if *called != Called::Nobody {
                let ratio = ratio(self.added(*called), self.added(Called::Floor));
                write!(f, "{:>12}{ratio:>10.2}", self.added(*called).as_micros())?;
            }
        }
        Ok(())
    }
}

/// Measures so many writes in each namespace. Nobody reconciles meanwhile.
pub async fn measure(bench: &Bench, writes: usize) -> anyhow::Result<Figures> {
    let Bench { plane, client, .. } = bench;
    let _nobody = addons::let_nobody_lead(plane, client).await?;
    let certificate = serve(plane).await?;
    let names = names(CLUSTERS);
    for called in Called::ALL {
        namespace(client, called.namespace()).await?;
        for name in &names {
            created(client, called.namespace(), name).await?;
            drive(client, called.namespace(), name).await?;
        }
    }
    register::<MutatingWebhookConfiguration>(client, &certificate).await?;
    register::<ValidatingWebhookConfiguration>(client, &certificate).await?;
    let before = in_effect(plane, client).await?;

    let mut spans: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for number in 0..writes {
        let (name, count) = (&names[number % CLUSTERS], 1 + (number / CLUSTERS + 1) % 2);
        // None of them always comes after the same other.
        let mut order = Called::ALL;
        fastrand::shuffle(&mut order);
        for called in order {
            let begun = Instant::now();
            scale(client, called.namespace(), name, count).await?;
            spans.entry(called).or_default().push(begun.elapsed());
        }
    }
    let after = calls(plane).await?;
    for (webhook, calls) in &after {
        let made = calls - before.get(webhook).copied().unwrap_or_default();
        ensure!(made == writes as u64, "{webhook} was called {made} times for {writes} writes");
    }
    ensure!(after.len() == 6, "webhooks that were called: {after:?}");
    for spans in spans.values_mut() {
        spans.sort();
    }
    Ok(Figures(spans))
}

/// Writes a count to `/scale`.
pub(super) async fn scale(client: &Client, namespace: &str, name: &str, count: usize) -> anyhow::Result<()> {
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"replicas": count},
    });
    let path = format!(
        "/apis/training.distributed-inference.io/v1alpha1/namespaces/{namespace}/vllmclusters/{name}/scale"
    );
    let request = hyper::Request::put(path).header("content-type", "application/json");
    let answer: Value = client.request(request.body(scale.to_string().into_bytes())?).await?;
    ensure!(answer["spec"]["replicas"] == count, "{answer}");
    Ok(())
}

/// A ScaledObject with a range, for those who look for one.
pub(super) async fn drive(client: &Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let scaled_object = serde_json::from_value(json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
        "metadata": {"name": name}, "spec": payload::scaler_spec(name),
    }))?;
    let scaled_objects = scaled_objects(client, namespace);
    let params = PostParams::default();
    let created = trying_again(|| scaled_objects.create(&params, &scaled_object)).await;
    created.map(drop).with_context(|| format!("creating ScaledObject {name}"))
}

/// What controller-runtime's webhook says of a count that is beyond the ScaledObject's range.
pub(super) async fn asked(client: &Client, namespace: &str, name: &str) -> anyhow::Result<String> {
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"replicas": 9},
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "operation": "UPDATE", "name": name, "namespace": namespace, "object": scale,
            "kind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
            "resource": {"group": "training.distributed-inference.io", "version": "v1alpha1", "resource": "vllmclusters"},
            "subResource": "scale", "userInfo": {"username": "admin"},
        },
    });
    let path = format!("/api/v1/namespaces/{SERVERS}/services/https:peer:443/proxy/validate/scale");
    let request = hyper::Request::post(path).header("content-type", "application/json");
    Ok(client.request_text(request.body(review.to_string().into_bytes())?).await?)
}

/// Starts the floor and controller-runtime's webhook as pods behind Services; their certificate.
pub(super) async fn serve(plane: &Plane) -> anyhow::Result<String> {
    let key = KeyPair::generate()?;
    let hosts = ["floor", "peer"].map(|name| format!("{name}.{SERVERS}.svc"));
    let certificate = CertificateParams::new(hosts.to_vec())?.self_signed(&key)?.pem();
    let pod = |name: &str, args: &[&str]| {
        let mount = json!({"name": "certificate", "mountPath": "/certificate"});
        let ready = json!({"tcpSocket": {"port": 9443}, "periodSeconds": 1});
        let container = json!({
            "name": name, "image": format!("testbed/{name}"), "args": args,
            "volumeMounts": [mount], "readinessProbe": ready,
        });
        let volume = json!({"name": "certificate", "secret": {"secretName": "certificate"}});
        json!([
            {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"server": name}},
                "spec": {"containers": [container], "volumes": [volume]},
            },
            {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"selector": {"server": name}, "ports": [{"port": 443, "targetPort": 9443}]},
            },
        ])
    };
    let floor = ["--listen=0.0.0.0:9443", "--certificate=/certificate/tls.crt", "--key=/certificate/tls.key"];
    let peer = ["--host=0.0.0.0", "--port=9443", "--cert-dir=/certificate"];
    let mut items = vec![
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "certificate"},
            "stringData": {"tls.crt": certificate.clone(), "tls.key": key.serialize_pem()},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": SERVERS},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": SERVERS}],
        }),
    ];
    for pod in [pod("floor", &floor), pod("peer", &peer)] {
        items.extend(pod.as_array().into_iter().flatten().cloned());
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    plane.kubectl(&["create", "namespace", SERVERS]).ok().await?;
    plane.kubectl(&["-n", SERVERS, "apply", "--server-side", "-f", "-"]).stdin(list).ok().await?;
    plane
        .kubectl(&["-n", SERVERS, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])
        .ok()
        .await?;
    Ok(certificate)
}

/// Has each server called for its own namespace, in one of the ways in which the operator is.
async fn register<K>(client: &Client, certificate: &str) -> anyhow::Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Serialize,
{
    let (configurations, params) = (Api::<K>::all(client.clone()), PostParams::default());
    let mut own = serde_json::to_value(configurations.get("vllm-operator").await?)?;
    for (called, name, path) in [
        (Called::Floor, "floor", None),
        // It refuses or allows, whoever asks.
        (Called::Go, "peer", Some(payload::SCALE)),
    ] {
        let other = elsewhere(own.clone(), called, name, path, certificate);
        configurations.create(&params, &serde_json::from_value(other)?).await?;
    }
    let others = Called::ALL.into_iter().filter(|called| *called != Called::Ours).map(Called::namespace);
    select(&mut own, &selector("NotIn", &others.collect::<Vec<_>>()));
    configurations.replace("vllm-operator", &params, &serde_json::from_value(own)?).await?;
    Ok(())
}

/// The operator's webhooks for `/scale`, as another server's for one namespace.
fn elsewhere(
    mut configuration: Value,
    called: Called,
    server: &str,
    path: Option<&str>,
    certificate: &str,
) -> Value {
    use base64::Engine as _;
    configuration["metadata"] = json!({"name": server});
    let webhooks = configuration["webhooks"].as_array_mut().expect("a configuration has webhooks");
    webhooks.retain(is_of_scale);
    for webhook in webhooks {
        let name = webhook["name"].as_str().unwrap_or_default().replace("vllmclusters", server);
        webhook["name"] = json!(name);
        webhook["namespaceSelector"] = selector("In", &[called.namespace()]);
        let config = &mut webhook["clientConfig"];
        config["caBundle"] = json!(base64::engine::general_purpose::STANDARD.encode(certificate));
        (config["service"]["name"], config["service"]["namespace"]) = (json!(server), json!(SERVERS));
        if let Some(path) = path {
            config["service"]["path"] = json!(path);
        }
    }
    configuration
}

fn is_of_scale(webhook: &Value) -> bool {
    webhook["name"].as_str().is_some_and(|name| name.contains(".scale."))
}

fn selector(operator: &str, namespaces: &[&str]) -> Value {
    json!({"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": operator, "values": namespaces},
    ]})
}

fn select(configuration: &mut Value, selector: &Value) {
    for webhook in
        configuration["webhooks"].as_array_mut().into_iter().flatten().filter(|one| is_of_scale(one))
    {
        webhook["namespaceSelector"] = selector.clone();
    }
}

/// Waits until a write in each namespace calls those that it must call, and nobody else; all calls so far.
async fn in_effect(plane: &Plane, client: &Client) -> anyhow::Result<BTreeMap<String, u64>> {
    eventually("each namespace calls its own webhooks", Deadline::after(PATIENCE), || async {
        let look = async || -> anyhow::Result<BTreeMap<String, u64>> {
            let before = calls(plane).await?;
            for called in Called::ALL {
                scale(client, called.namespace(), "c-0", 1).await?;
            }
            let after = calls(plane).await?;
            let once = after
                .iter()
                .filter(|(name, calls)| **calls == before.get(*name).copied().unwrap_or_default() + 1);
            ensure!(once.count() == 6 && after.len() == 6, "{before:?}, and then {after:?}");
            Ok(after)
        };
        look().await.map_err(|error| format!("{error:#}"))
    })
    .await
}

/// How often webhooks for `/scale` were called, as the API server counts.
async fn calls(plane: &Plane) -> anyhow::Result<BTreeMap<String, u64>> {
    let page = plane.kubectl(&["get", "--raw", "/metrics"]).ok().await?;
    let mut calls = BTreeMap::new();
    for line in page.lines() {
        let Some(labels) = line.strip_prefix("apiserver_admission_webhook_admission_duration_seconds_count{")
        else {
            continue;
        };
        let (_, name) = labels.split_once("name=\"").context("a webhook has a name")?;
        let (name, rest) = name.split_once('"').context("the name ends")?;
        if name.contains(".scale.") {
            let count: u64 = rest.rsplit(' ').next().unwrap_or_default().parse()?;
            *calls.entry(name.to_owned()).or_default() += count;
        }
    }
    Ok(calls)
}
