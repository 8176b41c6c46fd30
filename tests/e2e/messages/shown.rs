//! What stands in conditions and events, and what is said while the operator is down.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::{Value, json};
use testbed::plane::Plane;

use super::world::still;
use super::{NS, Transcript, WARNED};
use crate::suite::{cluster, get, start_operator, stop_operator, until};

/// How a start went is not what is wrong: before discovery has seen the CRD, or before a pod is up.
const AT_THE_START: [&str; 3] = ["FailedGetScale", "FailedComputeMetricsReplicas", "FailedGetExternalMetric"];

/// A cluster, its ScaledObject and its HPA, where they disagree.
pub async fn while_up(plane: &Plane) -> anyhow::Result<String> {
    let mut text = String::new();
    let moved = [("/status/desiredReplicas", json!(5)), ("/status/currentReplicas", json!(3))];
    until(plane, NS, "hpa/keda-hpa-busy", &moved).await?;
    let polled =
        [("/status/conditions/1/status", json!("True")), ("/status/conditions/4/status", json!("True"))];
    until(plane, NS, "scaledobject/busy", &polled).await?;
    for (why, namespace, what) in [
        ("the autoscaler wants 5 of at most 3", NS, "vllmcluster/busy"),
        ("the autoscaler wants 5 of at most 3", NS, "scaledobject/busy"),
        ("the autoscaler wants 5 of at most 3", NS, "hpa/keda-hpa-busy"),
        ("no count in common, and two that drive it", WARNED, "vllmcluster/far"),
        ("a trigger that KEDA does not know", NS, "scaledobject/outside-queue"),
        ("its cluster does not exist", NS, "scaledobject/early"),
        ("kept at a count", NS, "scaledobject/kept"),
    ] {
        shown(plane, &mut text, why, namespace, what).await?;
    }
    Ok(text)
}

/// The schema's sentences, those of the failure policy, and what the HPA makes of them.
pub async fn while_down(plane: &Plane) -> anyhow::Result<String> {
    stop_operator(plane).await?;
    let mut transcript = Transcript::new(plane);
    for count in [0, 1, 11] {
        let line = format!("scale vllmcluster free --replicas={count}");
        transcript.run(&[], (NS, &line), None).await?;
    }
    for (gist, manifest) in [
        ("a VLLMCluster", cluster("new", "replicas: 1")),
        ("a ScaledObject of a VLLMCluster", still("new", "free", (2, 4)).to_string()),
    ] {
        transcript.run(&[], (NS, "create -f -"), Some((gist, manifest))).await?;
    }
    let refused = [("/status/conditions/0/reason", json!("FailedUpdateScale"))];
    until(plane, NS, "hpa/keda-hpa-busy", &refused).await?;
    let mut text = transcript.text;
    shown(plane, &mut text, "the autoscaler wants 5 of at most 3", NS, "hpa/keda-hpa-busy").await?;
    start_operator(plane).await?;
    Ok(text)
}

/// Its conditions in their order, and the different things that its events say. Those of a cluster say what its conditions
/// said at the time, which is told by [`crate::workload::told`].
async fn shown(
    plane: &Plane,
    text: &mut String,
    why: &str,
    namespace: &str,
    what: &str,
) -> anyhow::Result<()> {
    let object = get(plane, namespace, what).await?;
    writeln!(text, "## {what}: {why}")?;
    let field = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    for condition in object["status"]["conditions"].as_array().context("conditions")? {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|name| field(condition, name));
        writeln!(text, "{kind}={status} {reason}: {message}")?;
    }
    let name = what.split_once('/').map_or(what, |(_, name)| name);
    let events =
        get(plane, namespace, &format!("events --field-selector=involvedObject.name={name}")).await?;
    let events: BTreeSet<_> = events["items"]
        .as_array()
        .context("events")?
        .iter()
        .filter(|event| event["involvedObject"]["kind"] == object["kind"] && object["kind"] != "VLLMCluster")
        .map(|event| ["type", "reason", "message"].map(|name| field(event, name)))
        .filter(|[_, reason, _]| !AT_THE_START.contains(&reason.as_str()))
        .collect();
    for [kind, reason, message] in events {
        writeln!(text, "Event {kind} {reason}: {message}")?;
    }
    text.push('\n');
    Ok(())
}
