//! What becomes of a count that is to be put back.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;

use super::nobody_was_refused;
use crate::suite::{apply, cluster, forget, kubectl, namespace, replicas, until};

const NS: &str = "original-count";
/// With a trigger that KEDA does not know: it remembers the count, and makes no HPA. One that is about to go with its
/// ScaledObject would still move the count that was put back.
const SCALER: &str = "
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: queue}
spec:
  scaleTargetRef: {apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: a}
  minReplicaCount: 1
  maxReplicaCount: 8
  advanced: {restoreToOriginalReplicaCount: true}
  triggers: [{type: of-another-release, metadata: {address: there}}]
";

/// `restoreToOriginalReplicaCount` puts the count back that was there before, or the nearest that the cluster may have.
pub async fn comes_back(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", "replicas: 2\nmaxReplicas: 8")).await?;
    for (min, left) in [(1, "2"), (4, "4")] {
        apply(plane, NS, SCALER).await?;
        until(plane, NS, "scaledobject/queue", &[("/status/originalReplicaCount", json!(2))]).await?;
        kubectl(plane, NS, "scale vllmcluster a --replicas=6").ok().await?;
        let line = format!(r#"patch vllmcluster a --type=merge -p={{"spec":{{"minReplicas":{min}}}}}"#);
        kubectl(plane, NS, &line).ok().await?;
        // KEDA gives up on a conflict, so nothing may be written once its ScaledObject goes: not even that they fit again.
        let generation =
            kubectl(plane, NS, "get vllmcluster a -o jsonpath={.metadata.generation}").ok().await?;
        let still = [
            ("/status/observedGeneration", json!(generation.parse::<u64>()?)),
            ("/status/readyReplicas", json!(6)),
            ("/status/conditions/1/type", json!("Reconciling")),
            ("/status/conditions/1/status", json!("False")),
        ];
        until(plane, NS, "vllmcluster/a", &still).await?;
        kubectl(plane, NS, "delete scaledobject queue --timeout=60s").ok().await?;
        let stored = replicas(plane, NS, "a").await?;
        ensure!(stored == left, "{stored} instead of {left}");
    }
    nobody_was_refused(plane, NS).await?;
    forget(plane, NS).await
}
