//! HPAs change hands, and KEDA writes all of its own anew.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::{nobody_was_refused, settled, wanting};
use crate::suite::{PATIENCE, apply, cluster, forget, get, kubectl, namespace, until};

const NS: &str = "handover";
const ANEW: &str = "written-anew";
const VERSION: &str = "app.kubernetes.io/version";
const BY_HAND: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: by-hand}
spec:
  scaleTargetRef: {apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: a}
  minReplicas: 2
  maxReplicas: 5
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]
";

/// From an HPA by hand to a ScaledObject, without a moment in which nobody drives the cluster.
pub async fn from_hpa_to_keda(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    let resources = "resources: {requests: {cpu: 100m}}";
    apply(plane, NS, &cluster("a", &format!("replicas: 2\nmaxReplicas: 8\n{resources}"))).await?;
    apply(plane, NS, BY_HAND).await?;
    let uid = get(plane, NS, "hpa/by-hand").await?["metadata"]["uid"].clone();
    let named = "advanced: {horizontalPodAutoscalerConfig: {name: by-hand}}";
    let takes_over = wanting("queue", (1, 8), 6, named).replacen(
        "metadata: {name: queue}",
        "metadata: {name: queue, annotations: {scaledobject.keda.sh/transfer-hpa-ownership: \"true\"}}",
        1,
    );
    apply(plane, NS, &takes_over).await?;
    settled(plane, NS, "by-hand", 6).await?;
    let owned = [("/metadata/ownerReferences/0/name", json!("queue")), ("/metadata/uid", uid)];
    until(plane, NS, "hpa/by-hand", &owned).await?;
    let quiet = [
        ("/status/conditions/3/type", json!("ScalingConflict")),
        ("/status/conditions/3/status", json!("False")),
    ];
    until(plane, NS, "vllmcluster/a", &quiet).await?;
    let all = kubectl(plane, NS, "get hpa -o name").ok().await?;
    ensure!(all.lines().count() == 1, "{all}");
    nobody_was_refused(plane, NS).await?;
    forget(plane, NS).await
}

/// As after an upgrade of KEDA: HPAs that bear another version, and HPAs that are gone, come to what KEDA wants of them.
pub async fn all_written_anew(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, ANEW).await?;
    apply(plane, ANEW, &cluster("a", "replicas: 2\nmaxReplicas: 8")).await?;
    apply(plane, ANEW, &wanting("queue", (1, 8), 6, "")).await?;
    settled(plane, ANEW, "keda-hpa-queue", 6).await?;
    let version = get(plane, ANEW, "hpa/keda-hpa-queue").await?["metadata"]["labels"][VERSION].clone();
    ensure!(version.is_string(), "KEDA's HPAs bear its version: {version}");
    // Its bounds have come to be narrower than the HPA meanwhile: the write of KEDA is not the one to suffer.
    kubectl(plane, ANEW, r#"patch vllmcluster a --type=merge -p={"spec":{"maxReplicas":7}}"#).ok().await?;
    kubectl(plane, ANEW, &format!("label hpa --all --overwrite {VERSION}=2.20.0")).ok().await?;
    kubectl(plane, "keda", "rollout restart deployment/keda-operator").ok().await?;
    kubectl(plane, "keda", "rollout status deployment/keda-operator --timeout=90s").ok().await?;
    eventually("HPAs of this version", Deadline::after(PATIENCE), || async {
        let hpa = get(plane, ANEW, "hpa/keda-hpa-queue").await.map_err(|error| format!("{error:#}"))?;
        let labels = &hpa["metadata"]["labels"];
        if labels[VERSION] == version { Ok(()) } else { Err(labels.to_string()) }
    })
    .await?;
    let uid = get(plane, ANEW, "hpa/keda-hpa-queue").await?["metadata"]["uid"].clone();
    kubectl(plane, ANEW, "delete hpa --all").ok().await?;
    eventually("another HPA", Deadline::after(PATIENCE), || async {
        let hpa = get(plane, ANEW, "hpa/keda-hpa-queue").await.map_err(|error| format!("{error:#}"))?;
        if hpa["metadata"]["uid"] == uid { Err("still the one before".to_owned()) } else { Ok(()) }
    })
    .await?;
    settled(plane, ANEW, "keda-hpa-queue", 6).await?;
    nobody_was_refused(plane, ANEW).await?;
    forget(plane, ANEW).await
}
