//! What moves panels, as it happens in a cluster.
//!
//! **Architecture invariant**: nothing is written that only a test could write, but for how engines say they are.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::http::Request;
use futures::future::join_all;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testbed::addons::scaler_trigger;
use testbed::engine::control::Control;
use testbed::plane::Plane;
use testbed::pods::Engines;
use vllm_operator::api::VLLMCluster;

use super::NS;
use crate::suite::{apply, cluster, kubectl, namespace, start_operator, stop_operator, until};

const OPERATOR: &str = "vllm-operator-system";
/// How often that is done which must go on: a rate needs two looks.
const PACE: Duration = Duration::from_secs(1);
/// Refusals at once: reads are shared where several wait for the same one.
const BURST: usize = 32;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Clusters are created, and written to.
    Creation,
    /// A ScaledObject asks the scaler about one.
    Trigger,
    /// Requests wait and run.
    Load,
    /// A server answers with what is no metrics page.
    Sickness,
    /// Counts are written that the ScaledObject does not allow.
    Refusal,
    /// A review is no review.
    Unjudged,
    /// An autoscaler asks for more than the cluster may have.
    Clamp,
    /// A cluster's StatefulSet is refused by a quota.
    Quota,
    /// No replica is left, and somebody writes.
    Outage,
    /// Replicas start anew, and the CA is lost.
    NewAuthority,
}

impl Cause {
    /// In the order in which they happen: later ones need what earlier ones have left.
    pub const ALL: [Self; 10] = [
        Self::Creation,
        Self::Trigger,
        Self::Load,
        Self::Sickness,
        Self::Refusal,
        Self::Unjudged,
        Self::Clamp,
        Self::Quota,
        Self::Outage,
        Self::NewAuthority,
    ];
}

/// Where it happens.
pub struct Ground<'a> {
    plane: &'a Plane,
    clusters: Api<VLLMCluster>,
    engines: Engines,
    last: Cell<Option<Instant>>,
}

impl<'a> Ground<'a> {
    /// In a namespace of its own.
    pub async fn of(plane: &'a Plane) -> anyhow::Result<Self> {
        namespace(plane, NS).await?;
        let clusters = Api::namespaced(plane.client().await?, NS);
        Ok(Self { plane, clusters, engines: Engines::of(plane, NS).await?, last: Cell::default() })
    }

    /// Makes it happen.
    pub async fn make(&self, cause: Cause) -> anyhow::Result<()> {
        let plane = self.plane;
        match cause {
            Cause::Creation => {
                let spec = "replicas: 1\nmaxReplicas: 3\naccelerator: {count: 0}";
                apply(plane, NS, &[cluster("a", spec), cluster("b", spec)].join("---\n")).await?;
            }
            Cause::Trigger => {
                // As many wait later on, so that one replica is enough.
                let trigger = scaler_trigger(&[("signal", "queue"), ("targetValue", "100")]);
                apply(plane, NS, &scaled_object(&trigger).to_string()).await?;
            }
            Cause::Load => {
                let busy = Control {
                    waiting: Some(12),
                    running: Some(3),
                    kv_cache_usage: Some(0.5),
                    ..Control::default()
                };
                self.engines.set("a-0", &busy).await?;
            }
            Cause::Sickness => {
                let sick = Control { garbage_metrics: true, ..Control::default() };
                self.engines.set("a-0", &sick).await?;
            }
            Cause::Refusal => {
                let answers = join_all((0..BURST).map(|_| self.scale("a", 3))).await;
                let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
                let refused = refused.filter(|error| error.to_string().contains("3 is above the maximum 2"));
                ensure!(refused.count() == BURST, "{answers:?}");
            }
            Cause::Unjudged => self.send_no_object().await?,
            Cause::Clamp => {
                let line = "scale vllmcluster b --replicas=9 --as=system:serviceaccount:keda:keda-operator";
                kubectl(plane, NS, line).ok().await?;
            }
            Cause::Quota => {
                let hard = "count/statefulsets.apps";
                kubectl(plane, NS, &format!("create quota full --hard={hard}=2")).ok().await?;
                let counted = [("/status/used/count~1statefulsets.apps", json!("2"))];
                until(plane, NS, "resourcequota/full", &counted).await?;
                apply(plane, NS, &cluster("c", "accelerator: {count: 0}")).await?;
            }
            Cause::Outage => stop_operator(plane).await?,
            Cause::NewAuthority => {
                kubectl(plane, OPERATOR, "delete secret/vllm-operator-ca").ok().await?;
            }
        }
        Ok(())
    }

    /// Does again what must go on, once in [`PACE`].
    pub async fn again(&self, cause: Cause) -> anyhow::Result<()> {
        let now = Instant::now();
        if self.last.get().is_some_and(|last| now.duration_since(last) < PACE) {
            return Ok(());
        }
        self.last.set(Some(now));
        match cause {
            Cause::Creation => {
                let note = json!({"metadata": {"annotations": {"noted": format!("{now:?}")}}});
                self.clusters.patch("a", &PatchParams::default(), &Patch::Merge(note)).await?;
                self.create_none().await?;
            }
            Cause::Outage => {
                let created = self.create_none().await;
                ensure!(
                    created.as_ref().is_err_and(|error| error.to_string().contains("failed calling webhook")),
                    "{created:?}"
                );
                self.scale("b", 3).await.context("counts pass")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes it good again, as far as the next ones need.
    pub async fn end(&self, cause: Cause) -> anyhow::Result<()> {
        match cause {
            Cause::Sickness => self.engines.heal("a-0").await.map(drop),
            Cause::Outage => start_operator(self.plane).await,
            _ => Ok(()),
        }
    }

    /// Creates a cluster as a dry run: an API server calls webhooks for that as for any other.
    async fn create_none(&self) -> kube::Result<VLLMCluster> {
        let object = json!({
            "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
            "metadata": {"name": "d"}, "spec": {"replicas": 1},
        });
        let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        self.clusters.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await
    }

    async fn scale(&self, name: &str, count: i32) -> kube::Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": count}}));
        self.clusters.patch_scale(name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// Asks a replica about nothing, as whoever reaches its port can.
    async fn send_no_object(&self) -> anyhow::Result<()> {
        let line = "get pods -l app.kubernetes.io/name=vllm-operator -o jsonpath={.items[0].metadata.name}";
        let pod = kubectl(self.plane, OPERATOR, line).ok().await?;
        let (group, version) = ("training.distributed-inference.io", "v1alpha1");
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "UPDATE", "name": "x", "namespace": NS, "object": null,
            "kind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}, "subResource": "scale",
            "resource": {"group": group, "version": version, "resource": "vllmclusters"},
            "userInfo": {"username": "somebody"},
        }});
        let path = format!("/api/v1/namespaces/{OPERATOR}/pods/https:{pod}:9443/proxy/validate/vllmclusters");
        let request = Request::post(path).header("content-type", "application/json");
        let client = self.clusters.clone().into_client();
        let answer: Value = client.request(request.body(serde_json::to_vec(&review)?)?).await?;
        ensure!(answer["response"]["allowed"] == false, "{answer}");
        Ok(())
    }
}

/// A ScaledObject of `a` that may have two.
fn scaled_object(trigger: &Value) -> Value {
    json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a",
            },
            "minReplicaCount": 1,
            "maxReplicaCount": 2,
            "triggers": [trigger],
        },
    })
}
