//! Writes of counts and of clusters.

use serde_json::{Value, json};
use vllm_operator::policy::Rule;

use super::{NS, Transcript, WARNED};

/// `kubectl scale`, and KEDA's own write.
pub async fn scale(transcript: &mut Transcript<'_>) -> anyhow::Result<()> {
    for (rules, cluster, count) in [
        (&[Rule::CountBelowOne][..], "plain", 0),
        (&[Rule::CountBelowMinimum], "free", 1),
        (&[Rule::CountAboveMaximum], "free", 11),
        (&[Rule::CountAboveLimit], "plain", 100_001),
        (&[Rule::CountBelowHolder], "held", 2),
        (&[Rule::CountAboveHolder], "held", 7),
        (&[Rule::CountAboveMaximum, Rule::CountAboveHolder], "held", 11),
        (&[Rule::HolderDecidesAgain], "held", 5),
        (&[Rule::CountStillOutsideHolder], "outside", 8),
    ] {
        let line = format!("scale vllmcluster {cluster} --replicas={count} --dry-run=server");
        transcript.run(rules, (NS, &line), None).await?;
    }
    for (rule, count) in [(Rule::HolderOutsideBounds, 4), (Rule::CountAboveMaximum, 6)] {
        let line = format!("scale vllmcluster far --replicas={count} --dry-run=server");
        transcript.run(&[rule], (WARNED, &line), None).await?;
    }
    let line =
        "scale vllmcluster held --replicas=12 --dry-run=server --as=system:serviceaccount:keda:keda-operator";
    transcript.run(&[Rule::CountMovedForAutoscaler], (NS, line), None).await
}

/// `kubectl create` and `kubectl patch`.
pub async fn clusters(transcript: &mut Transcript<'_>) -> anyhow::Result<()> {
    let long = "n".repeat(53);
    for (rule, name, spec) in [
        (Rule::NameTooLong, long.as_str(), json!({})),
        (Rule::NameNoLabel, "1st", json!({})),
        (Rule::NameOfService, "free-pods", json!({})),
        (Rule::MinimumOutOfRange, "new", json!({"minReplicas": 0})),
        (Rule::MaximumOutOfRange, "new", json!({"maxReplicas": 100_001})),
        (Rule::MinimumAboveMaximum, "new", json!({"minReplicas": 5, "maxReplicas": 4})),
        (Rule::CountAboveMaximum, "new", json!({"replicas": 5, "maxReplicas": 4})),
    ] {
        let manifest = json!({
            "apiVersion": "training.distributed-inference.io/v1alpha1",
            "kind": "VLLMCluster",
            "metadata": {"name": name},
            "spec": spec,
        });
        let gist = json!({"name": name, "spec": spec}).to_string();
        transcript
            .run(&[rule], (NS, "create --dry-run=server -f -"), Some((&gist, manifest.to_string())))
            .await?;
    }
    for (rule, cluster, spec) in [
        (Rule::CountMovedByBounds, "free", json!({"maxReplicas": 3})),
        (Rule::BoundsOutsideScaler, "held", json!({"minReplicas": 7})),
        (Rule::BoundsOutsideScaler, "held", json!({"minReplicas": 1, "maxReplicas": 2})),
        (Rule::BoundsCutScaler, "held", json!({"maxReplicas": 5})),
    ] {
        transcript.run(&[rule], (NS, &patch(cluster, &spec)), None).await?;
    }
    // Two drivers are a condition alone: what lets the second one pass has warned its author.
    let several = "get vllmcluster far -o jsonpath={.status.conditions[3].message}";
    transcript.run(&[Rule::BoundsOutsideScaler, Rule::SeveralDrivers], (WARNED, several), None).await
}

fn patch(cluster: &str, spec: &Value) -> String {
    format!("patch vllmcluster {cluster} --dry-run=server --type=merge -p={}", json!({"spec": spec}))
}
