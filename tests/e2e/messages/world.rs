//! What the writes meet. Nothing in it moves by itself: its ScaledObjects have a trigger that KEDA does not know, and so no
//! HPA; but for `busy`, whose autoscaler wants more than the cluster may have.

use anyhow::ensure;
use serde_json::{Value, json};
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::{NS, WARNED};
use crate::suite::{PATIENCE, apply, cluster, kubectl, namespace, until};

const LABEL: &str = "training.distributed-inference.io/admission";

/// Makes it, and waits until it stands still.
pub async fn made(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    namespace(plane, WARNED).await?;
    for namespace in [NS, WARNED] {
        kubectl(plane, namespace, &format!("label namespace {namespace} {LABEL}=warn")).ok().await?;
    }
    let bounded = "replicas: 4\nminReplicas: 2\nmaxReplicas: 10";
    for (name, spec) in [
        ("plain", "replicas: 1"),
        ("free", "replicas: 4\nminReplicas: 2\nmaxReplicas: 10\nresources: {requests: {cpu: 100m}}"),
        ("held", bounded),
        ("outside", "replicas: 9\nminReplicas: 2\nmaxReplicas: 10"),
        ("driven", "replicas: 2\nmaxReplicas: 5"),
        ("restored", "replicas: 1"),
        ("busy", "replicas: 1\nmaxReplicas: 3"),
        ("kept", "replicas: 1\nmaxReplicas: 3"),
    ] {
        apply(plane, NS, &cluster(name, spec)).await?;
    }
    // What a restore brought in before admission was there.
    warned_of(plane, NS, &hpa("keda-hpa-restored", "restored", (1, 5))).await?;
    kubectl(plane, NS, &format!("label namespace {NS} {LABEL}-")).ok().await?;
    eventually("refusals again", Deadline::after(PATIENCE), || async {
        let told = kubectl(plane, NS, "scale vllmcluster free --replicas=11 --dry-run=server").output().await;
        let told =
            told.map_err(|error| format!("{error:#}"))?.refused().map_err(|error| format!("{error:#}"))?;
        if told.contains("spec.maxReplicas of VLLMCluster") { Ok(()) } else { Err(told) }
    })
    .await?;
    for object in [
        still("queue", "held", (3, 6)),
        still("outside-queue", "outside", (3, 6)),
        still("early", "no-such-cluster", (1, 4)),
        hpa("by-hand", "driven", (1, 5)),
        wanting("busy", (1, 8), 5),
        paused("kept", "2"),
    ] {
        apply(plane, NS, &object.to_string()).await?;
    }
    until(plane, NS, "vllmcluster/busy", &[("/status/readyReplicas", json!(3))]).await?;
    until(plane, NS, "vllmcluster/kept", &[("/status/readyReplicas", json!(2))]).await?;

    apply(plane, WARNED, &cluster("far", "replicas: 3\nminReplicas: 2\nmaxReplicas: 5")).await?;
    for object in [still("queue", "far", (7, 9)), hpa("by-hand", "far", (2, 5))] {
        warned_of(plane, WARNED, &object).await?;
    }
    let shown = [
        ("/status/conditions/3/type", json!("ScalingConflict")),
        ("/status/conditions/3/status", json!("True")),
    ];
    let far = until(plane, WARNED, "vllmcluster/far", &shown).await?;
    ensure!(far["spec"]["replicas"] == 3, "{far:#}");
    Ok(())
}

/// Applies what is refused elsewhere, as soon as the namespace's label is known.
async fn warned_of(plane: &Plane, namespace: &str, object: &Value) -> anyhow::Result<()> {
    eventually("only a warning", Deadline::after(PATIENCE), || async {
        let told = apply(plane, namespace, &object.to_string()).await;
        told.map(drop).map_err(|error| format!("{error:#}"))
    })
    .await
}

/// A ScaledObject whose trigger nobody knows.
pub fn still(name: &str, cluster: &str, range: (u32, u32)) -> Value {
    scaled_object(
        name,
        cluster,
        range,
        &json!({"type": "of-another-release", "metadata": {"address": "there"}}),
    )
}

/// A ScaledObject of the cluster of its name, whose autoscaler wants `count` replicas.
fn wanting(name: &str, range: (u32, u32), count: u32) -> Value {
    let metadata = json!({"serverAddress": "http://prometheus:9090", "query": format!("vector({count})"), "threshold": "1"});
    let mut object = scaled_object(name, name, range, &json!({"type": "prometheus", "metadata": metadata}));
    object["spec"]["pollingInterval"] = json!(1);
    object
}

fn paused(name: &str, count: &str) -> Value {
    let mut object = wanting(name, (1, 3), 1);
    object["metadata"]["annotations"] = json!({"autoscaling.keda.sh/paused-replicas": count});
    object
}

fn scaled_object(name: &str, cluster: &str, (min, max): (u32, u32), trigger: &Value) -> Value {
    json!({
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": target(cluster),
            "minReplicaCount": min,
            "maxReplicaCount": max,
            "triggers": [trigger],
        },
    })
}

/// An HPA on cpu, of which nobody measures the use: it wants nothing.
pub fn hpa(name: &str, cluster: &str, (min, max): (u32, u32)) -> Value {
    json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": target(cluster),
            "minReplicas": min,
            "maxReplicas": max,
            "metrics": [{
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
            }],
        },
    })
}

fn target(cluster: &str) -> Value {
    json!({
        "apiVersion": "training.distributed-inference.io/v1alpha1",
        "kind": "VLLMCluster",
        "name": cluster,
    })
}
