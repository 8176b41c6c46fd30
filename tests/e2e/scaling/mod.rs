//! Triggers, each on its own: one [`Signal`] at a time drives a VLLMCluster up and down, by real KEDA, HPA, metrics-server
//! and Prometheus, on engines that are told how to be.
//!
//! A further trigger is a further [`Signal`], in a file of its own or beside its like.
//!
//! **Architecture invariant**: what is asserted is on `/scale` and pods; what a signal's source says is shown in errors alone.

pub mod external;
pub mod prometheus;
pub mod resources;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::engine::control::Control;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};
use testbed::pods::Engines;

use super::suite::{apply, cluster, forget, get, kubectl, namespace, until};

/// metrics-server's two looks, KEDA's and the HPA's periods, and the start or end of pods add up on busy cores.
pub const TURN: Duration = Duration::from_mins(3);
/// The cluster that is driven.
pub const CLUSTER: &str = "a";
/// The most replicas.
pub const MOST: i64 = 3;

/// What drives a cluster.
pub struct Signal {
    /// A namespace of its own.
    pub namespace: &'static str,
    /// Lines of the cluster's spec, beside counts.
    pub spec: &'static str,
    /// The ScaledObject's triggers.
    pub triggers: Value,
    /// What the first pod is told, so that more are wanted than [`MOST`].
    pub busy: Control,
}

/// Up to the most and down to one.
pub async fn up_and_down(plane: &Plane, signal: &Signal) -> anyhow::Result<()> {
    let ns = signal.namespace;
    let engines = start(plane, signal).await?;
    engines.set(&pod(0), &signal.busy).await?;
    all_are(plane, ns, MOST).await?;
    engines.heal(&pod(0)).await?;
    all_are(plane, ns, 1).await?;
    forget(plane, ns).await
}

/// A cluster of one and its ScaledObject, which has its metrics; nothing is asked for yet.
pub async fn start(plane: &Plane, signal: &Signal) -> anyhow::Result<Engines> {
    let Signal { namespace: ns, spec, triggers, busy: _ } = signal;
    namespace(plane, ns).await?;
    let spec = format!("replicas: 1\nmaxReplicas: {MOST}\naccelerator: {{count: 0}}\n{spec}");
    apply(plane, ns, &cluster(CLUSTER, spec.trim_end())).await?;
    until(plane, ns, &format!("vllmcluster/{CLUSTER}"), &[("/status/readyReplicas", json!(1))]).await?;
    apply(plane, ns, &scaled_object(triggers).to_string()).await?;
    kubectl(plane, ns, "wait --for=condition=Ready scaledobject/x --timeout=60s").ok().await?;
    // From here on a count that stays is one that was decided on.
    eventually("the HPA has every metric", Deadline::after(TURN), || async {
        let look = async {
            let hpa = hpa(plane, ns).await?;
            let wanted = triggers.as_array().map_or(0, Vec::len);
            let shown = hpa["status"]["currentMetrics"].as_array().cloned().unwrap_or_default();
            let shown =
                shown.iter().filter(|metric| metric["type"].as_str().is_some_and(|kind| !kind.is_empty()));
            ensure!(active(&hpa) && shown.count() == wanted, "{}", hpa["status"]);
            Ok(())
        };
        look.await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    ensure!(scale(plane, ns).await? == 1, "it grew without a reason: {}", hpa(plane, ns).await?["status"]);
    Engines::of(plane, ns).await
}

/// A pod of the cluster.
pub fn pod(index: usize) -> String {
    format!("{CLUSTER}-{index}")
}

/// A ScaledObject with these triggers that KEDA and HPA act on as soon as they can.
pub fn scaled_object(triggers: &Value) -> Value {
    let at_once = json!({"stabilizationWindowSeconds": 0});
    json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": CLUSTER,
            },
            "minReplicaCount": 1, "maxReplicaCount": MOST, "pollingInterval": 2,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": at_once, "scaleDown": at_once}}},
            "triggers": triggers,
        },
    })
}

/// `/scale`, and the pods that run, have come to `count`.
pub async fn all_are(plane: &Plane, ns: &str, count: i64) -> anyhow::Result<()> {
    eventually(&format!("/scale and pods in {ns} are {count}"), Deadline::after(TURN), || async {
        let look = async {
            let wanted = scale(plane, ns).await?;
            let pods = get(plane, ns, &format!("pods -l cluster={CLUSTER}")).await?;
            let pods = pods["items"].as_array().cloned().context("no list of pods")?;
            let ready = pods.iter().filter(|pod| holds(pod, "Ready")).count();
            if (wanted, pods.len(), ready) == (count, usize::try_from(count)?, usize::try_from(count)?) {
                return Ok(());
            }
            let status = hpa(plane, ns).await?["status"].clone();
            anyhow::bail!("/scale is {wanted}, of {} pods {ready} are ready; HPA: {status}", pods.len())
        };
        look.await.map_err(|error| format!("{error:#}"))
    })
    .await
}

/// What `/scale` wants.
pub async fn scale(plane: &Plane, ns: &str) -> anyhow::Result<i64> {
    let path = format!(
        "/apis/training.distributed-inference.io/v1alpha1/namespaces/{ns}/vllmclusters/{CLUSTER}/scale"
    );
    let scale: Value = serde_json::from_str(&plane.kubectl(&["get", "--raw", &path]).ok().await?)?;
    scale["spec"]["replicas"].as_i64().with_context(|| format!("no count in {scale}"))
}

/// The HPA that KEDA has made.
pub async fn hpa(plane: &Plane, ns: &str) -> anyhow::Result<Value> {
    get(plane, ns, "hpa/keda-hpa-x").await
}

/// Whether an HPA can read its metrics and act on them.
pub fn active(hpa: &Value) -> bool {
    holds(hpa, "AbleToScale") && holds(hpa, "ScalingActive")
}

fn holds(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|found| found["type"] == kind && found["status"] == "True"))
}
