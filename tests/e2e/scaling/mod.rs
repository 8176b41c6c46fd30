//! Triggers: what drives a VLLMCluster up and down, and what must not, by real KEDA, HPA, metrics-server and Prometheus, on
//! engines that are told how to be.
//!
//! [`Driven`] is what all of them look at. Each signal of the servers on its own drives a cluster in [`servers`]; Prometheus, a
//! response time, cpu and memory do in [`original`], one after the other, beside each other. What keeps a count where it is
//! stands in [`missing`], [`bad_days`] and [`isolation`].
//!
//! **Architecture invariant**: what is asserted is on `/scale` and pods; what a signal's source says is waited for, so that a
//! count that stays is one that was decided on.

pub mod bad_days;
pub mod isolation;
pub mod missing;
pub mod original;
pub mod servers;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::addons::scaler_trigger;
use testbed::engine::control::Control;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};
use testbed::pods::Engines;

use super::suite::{Counts, apply, cluster, get, kubectl, namespace, until};

/// metrics-server's two looks, KEDA's and the HPA's periods, and the start or end of pods add up on busy cores.
const TURN: Duration = Duration::from_mins(3);
/// The cluster that [`start`] makes, and its ScaledObject.
const CLUSTER: &str = "a";
const SCALED_OBJECT: &str = "x";
/// The most replicas.
const MOST: i64 = 3;

/// What pods are told.
enum Busy {
    /// The first, which moves any sum or mean.
    First(Control),
    /// Each as soon as there is one: none alone moves a median.
    Each(Control),
}

/// A cluster of one, with these lines of its spec beside counts, and a ScaledObject with these triggers, in a namespace of their own.
/// The autoscaler has its metrics; nothing is asked for yet.
async fn start<'a>(
    plane: &'a Plane,
    ns: &'static str,
    spec: &str,
    triggers: &[Value],
) -> anyhow::Result<Driven<'a>> {
    namespace(plane, ns).await?;
    let spec = format!("replicas: 1\nmaxReplicas: {MOST}\naccelerator: {{count: 0}}\n{spec}");
    apply(plane, ns, &cluster(CLUSTER, spec.trim_end())).await?;
    until(plane, ns, &format!("vllmcluster/{CLUSTER}"), &[("/status/readyReplicas", json!(1))]).await?;
    apply(plane, ns, &scaled_object(triggers).to_string()).await?;
    let driven = Driven::of(plane, ns, CLUSTER, SCALED_OBJECT).await?;
    driven.has_metrics(triggers.len()).await?;
    let count = driven.scale().await?;
    ensure!(count == 1, "it grew to {count} without a reason: {}", driven.hpa().await?["status"]);
    Ok(driven)
}

/// A ScaledObject with these triggers that KEDA and HPA act on as soon as they can.
fn scaled_object(triggers: &[Value]) -> Value {
    let mut object = json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": SCALED_OBJECT},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": CLUSTER,
            },
            "minReplicaCount": 1,
            "triggers": triggers,
        },
    });
    json_patch::merge(&mut object, &at_once());
    object
}

/// What makes a ScaledObject's autoscaler act as soon as it can, within [`MOST`].
fn at_once() -> Value {
    let at_once = json!({"stabilizationWindowSeconds": 0});
    json!({"spec": {
        "maxReplicaCount": MOST,
        "pollingInterval": 2,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": at_once, "scaleDown": at_once}}},
    }})
}

/// A trigger on the requests that wait: more than 10 for a replica want another.
fn queue() -> Value {
    scaler_trigger(&[("signal", "queue"), ("targetValue", "10")])
}

/// An engine at which so many requests wait.
fn waiting(requests: u32) -> Control {
    Control { waiting: Some(requests), ..Control::default() }
}

/// A cluster that a ScaledObject drives.
struct Driven<'a> {
    plane: &'a Plane,
    namespace: &'static str,
    cluster: &'static str,
    scaled_object: &'static str,
    engines: Engines,
}

impl<'a> Driven<'a> {
    async fn of(
        plane: &'a Plane,
        namespace: &'static str,
        cluster: &'static str,
        scaled_object: &'static str,
    ) -> anyhow::Result<Self> {
        let engines = Engines::of(plane, namespace).await?;
        Ok(Self { plane, namespace, cluster, scaled_object, engines })
    }

    /// Waits until the ScaledObject is ready and its HPA has so many metrics to act on.
    async fn has_metrics(&self, count: usize) -> anyhow::Result<()> {
        let ready = format!("wait --for=condition=Ready scaledobject/{} --timeout=60s", self.scaled_object);
        kubectl(self.plane, self.namespace, &ready).ok().await?;
        self.look(&format!("the HPA has {count} metrics"), async || {
            let hpa = self.hpa().await?;
            let shown =
                metrics(&hpa).filter(|metric| metric["type"].as_str().is_some_and(|kind| !kind.is_empty()));
            ensure!(active(&hpa) && shown.count() == count, "{}", hpa["status"]);
            Ok(())
        })
        .await
    }

    /// Up to the most as long as it is busy, and down to one.
    async fn up_and_down(&self, busy: &Busy) -> anyhow::Result<()> {
        match busy {
            Busy::First(control) => {
                self.engines.set(&self.pod(0), control).await?;
                self.all_are(MOST).await?;
                self.engines.heal(&self.pod(0)).await?;
            }
            Busy::Each(control) => {
                self.look(&format!("all are told, and {MOST}"), async || {
                    for index in 0..MOST {
                        // Not all of them are there yet.
                        let _ = self.engines.set(&self.pod(index), control).await;
                    }
                    self.counts_are(MOST).await
                })
                .await?;
                for index in 0..MOST {
                    self.engines.heal(&self.pod(index)).await?;
                }
            }
        }
        self.all_are(1).await
    }

    /// Waits until `/scale`, and the pods that run, have come to `count`.
    async fn all_are(&self, count: i64) -> anyhow::Result<()> {
        self.look(&format!("/scale and pods are {count}"), async || self.counts_are(count).await).await
    }

    async fn counts_are(&self, count: i64) -> anyhow::Result<()> {
        let wanted = self.scale().await?;
        let pods = get(self.plane, self.namespace, &format!("pods -l cluster={}", self.cluster)).await?;
        let pods = pods["items"].as_array().cloned().context("no list of pods")?;
        let ready = pods.iter().filter(|pod| holds(pod, "Ready")).count();
        if (wanted, pods.len(), ready) == (count, usize::try_from(count)?, usize::try_from(count)?) {
            return Ok(());
        }
        let status = self.hpa().await?["status"].clone();
        anyhow::bail!("/scale is {wanted}, of {} pods {ready} are ready; HPA: {status}", pods.len())
    }

    /// Waits until the HPA has seen this for a replica of the only metric that is not of pods: it has decided on it.
    async fn decided_on(&self, average: &str) -> anyhow::Result<()> {
        self.look(&format!("the HPA has seen {average}"), async || {
            let hpa = self.hpa().await?;
            let external = metrics(&hpa).find(|metric| metric["type"] == "External").context("no metric")?;
            let seen = &external["external"]["current"]["averageValue"];
            ensure!(active(&hpa) && seen == average, "{seen}; {}", hpa["status"]);
            Ok(())
        })
        .await
    }

    /// What `/scale` wants.
    async fn scale(&self) -> anyhow::Result<i64> {
        let Self { namespace, cluster, .. } = self;
        let path = format!(
            "/apis/training.distributed-inference.io/v1alpha1/namespaces/{namespace}/vllmclusters/{cluster}/scale"
        );
        let scale: Value = serde_json::from_str(&self.plane.kubectl(&["get", "--raw", &path]).ok().await?)?;
        scale["spec"]["replicas"].as_i64().with_context(|| format!("no count in {scale}"))
    }

    /// Every count that is wanted of the cluster from now on.
    async fn follow(&self) -> anyhow::Result<Counts> {
        Counts::follow(self.plane, self.namespace, self.cluster).await
    }

    /// The HPA that KEDA has made.
    async fn hpa(&self) -> anyhow::Result<Value> {
        get(self.plane, self.namespace, &format!("hpa/keda-hpa-{}", self.scaled_object)).await
    }

    /// A pod of the cluster.
    fn pod(&self, index: i64) -> String {
        format!("{}-{index}", self.cluster)
    }

    async fn look(&self, what: &str, look: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        eventually(&format!("{}: {what}", self.namespace), Deadline::after(TURN), || async {
            look().await.map_err(|error| format!("{error:#}"))
        })
        .await
    }
}

fn metrics(hpa: &Value) -> impl Iterator<Item = &Value> {
    hpa["status"]["currentMetrics"].as_array().into_iter().flatten()
}

/// Whether an HPA can read its metrics and act on them.
pub fn active(hpa: &Value) -> bool {
    holds(hpa, "AbleToScale") && holds(hpa, "ScalingActive")
}

fn holds(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|found| found["type"] == kind && found["status"] == "True"))
}
