//! What becomes of a count that is to be put back.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;

use super::{nobody_was_refused, settled, wanting};
use crate::suite::{apply, cluster, forget, kubectl, namespace, replicas, until};

const NS: &str = "original-count";

/// `restoreToOriginalReplicaCount` puts the count back that was there before, or the nearest that the cluster may have.
pub async fn comes_back(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", "replicas: 2\nmaxReplicas: 8")).await?;
    for (min, left) in [(None, "2"), (Some(4), "4")] {
        let restores = wanting("queue", (1, 8), 6, "advanced: {restoreToOriginalReplicaCount: true}");
        apply(plane, NS, &restores).await?;
        settled(plane, NS, "keda-hpa-queue", 6).await?;
        if let Some(min) = min {
            // The ScaledObject first, so that the two never differ.
            for (what, field) in [("scaledobject queue", "minReplicaCount"), ("vllmcluster a", "minReplicas")]
            {
                let line = format!(r#"patch {what} --type=merge -p={{"spec":{{"{field}":{min}}}}}"#);
                kubectl(plane, NS, &line).ok().await?;
            }
            // KEDA gives up on a conflict: the status that follows the patch comes first.
            let taken_in = [("/status/observedGeneration", json!(generation(plane).await?))];
            until(plane, NS, "vllmcluster/a", &taken_in).await?;
        }
        kubectl(plane, NS, "delete scaledobject queue --timeout=60s").ok().await?;
        let stored = replicas(plane, NS, "a").await?;
        ensure!(stored == left, "{stored} instead of {left}");
        kubectl(plane, NS, "wait --for=delete hpa/keda-hpa-queue --timeout=60s").ok().await?;
    }
    nobody_was_refused(plane, NS).await?;
    forget(plane, NS).await
}

async fn generation(plane: &Plane) -> anyhow::Result<u64> {
    let generation = kubectl(plane, NS, "get vllmcluster a -o jsonpath={.metadata.generation}").ok().await?;
    Ok(generation.parse()?)
}
