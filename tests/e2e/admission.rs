//! What admission refuses, and what it moves.

use anyhow::ensure;
use testbed::plane::Plane;

use testbed::plane::wait::{Deadline, eventually};

use super::suite::{PATIENCE, apply, cluster, forget, kubectl, namespace, replicas, scaled_object};

const NS: &str = "admission";

/// Each refusal has the number, the bound and who set it, in admission's own words: the schema's are others.
pub async fn outside_of_a_range(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", "replicas: 2\nmaxReplicas: 10")).await?;
    apply(plane, NS, &scaled_object(NS, "queue", "a", 1, 4)).await?;
    for (count, says) in [
        ("0", "spec.replicas: 0 is below the minimum 1: a VLLMCluster keeps at least 1 replica"),
        // Of two maxima, the lower one is told.
        (
            "11",
            "spec.replicas: 11 is above the maximum 4 (maxReplicaCount of ScaledObject \"queue\", which holds the count); use 4 or fewer",
        ),
        (
            "5",
            "spec.replicas: 5 is above the maximum 4 (maxReplicaCount of ScaledObject \"queue\", which holds the count)",
        ),
    ] {
        let text = kubectl(plane, NS, &format!("scale vllmcluster a --replicas={count}"))
            .output()
            .await?
            .refused()?;
        ensure!(text.contains(says), "{text}");
        ensure!(!text.contains("should be"), "that is the schema's sentence: {text}");
    }
    // The same rules hold for a manifest.
    let manifest = cluster("a", "replicas: 11\nmaxReplicas: 10");
    let text = kubectl(plane, NS, "apply -f -").stdin(manifest).output().await?.refused()?;
    ensure!(
        text.contains("spec.replicas: 11 is above the maximum 4 (maxReplicaCount of ScaledObject \"queue\""),
        "{text}"
    );
    let text =
        kubectl(plane, NS, "create -f -").stdin(cluster(&"a".repeat(53), "")).output().await?.refused()?;
    ensure!(text.contains("53 characters; use at most 52"), "{text}");
    // In a namespace that is only warned, the same count passes with the same sentence; the schema still refuses.
    kubectl(plane, NS, "label namespace admission training.distributed-inference.io/admission=warn")
        .ok()
        .await?;
    eventually("a warning in place of a refusal", Deadline::after(PATIENCE), || async {
        let line = "scale vllmcluster a --replicas=5 --dry-run=server";
        let told = kubectl(plane, NS, line).output().await.map_err(|error| format!("{error:#}"))?;
        let warned =
            told.status.success() && told.stderr.contains("Warning: spec.replicas: 5 is above the maximum 4");
        if warned { Ok(()) } else { Err(told.stdout + &told.stderr) }
    })
    .await?;
    let text = kubectl(plane, NS, "scale vllmcluster a --replicas=11").output().await?.refused()?;
    ensure!(text.contains("11 is above maxReplicas 10"), "{text}");
    kubectl(plane, NS, "label namespace admission training.distributed-inference.io/admission-").ok().await?;
    // Once paused, the ScaledObject holds nothing.
    kubectl(plane, NS, "annotate scaledobject queue autoscaling.keda.sh/paused=true").ok().await?;
    kubectl(plane, NS, "scale vllmcluster a --replicas=5").ok().await?;
    ensure!(replicas(plane, NS, "a").await? == "5");
    Ok(())
}

/// KEDA's own identity asks for what the cluster cannot have, and gets the nearest it can.
pub async fn autoscaler_is_moved(plane: &Plane) -> anyhow::Result<()> {
    for (asked, stored) in [("0", "1"), ("12", "10")] {
        let line =
            format!("scale vllmcluster a --replicas={asked} --as=system:serviceaccount:keda:keda-operator");
        kubectl(plane, NS, &line).ok().await?;
        ensure!(replicas(plane, NS, "a").await? == stored, "asked for {asked}");
    }
    forget(plane, NS).await
}
