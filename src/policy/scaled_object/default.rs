//! What is filled in, and which older forms of triggers are brought up to date.
//!
//! Architecture invariant: judges nothing. What is wrong and has no single right form is left for `check`.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation};

use crate::policy::{Clause, Finding, Outcome, Rule};

use super::check::MOST;
use super::view::{Spec, Trigger};
use super::{Cluster, Write, http, own};

/// The metric types of a cpu or memory trigger.
pub(super) const RESOURCE_TYPES: [&str; 2] = ["Utilization", "AverageValue"];

/// The edits to the written object, with a warning for each trigger that was rewritten.
pub fn default(write: &Write<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(cluster) = write.concerns() else { return outcome };
    let Write { new, old: _, known } = *write;
    fill_range(&new.spec, known.cluster, &mut outcome);
    let rewrites = new.rewrites(&known.external);
    for (index, trigger) in new.spec.triggers.iter().enumerate() {
        own::fill(index, trigger, &known.external, &mut outcome);
        if rewrites {
            rewrite(index, trigger, &mut outcome);
            http::rewrite(index, trigger, cluster, known, &mut outcome);
        }
    }
    // All are brought up to date; a hundred sentences about it are enough.
    outcome.warnings.truncate(MOST);
    outcome
}

/// KEDA's 0 can never work for a minimum, and its 100 may be more than the cluster allows. What the write states
/// is never contradicted: a bound that would cross it is not filled in, so that `check` speaks of the range that
/// was written.
fn fill_range(spec: &Spec, cluster: Option<Cluster>, outcome: &mut Outcome) {
    let lower = cluster.map_or(1, |cluster| cluster.bounds.lower());
    let stated = spec.max.filter(|_| Clause::ScalerMinimumWithinStated.in_force());
    let min = spec.min.unwrap_or(stated.map_or(lower, |max| lower.min(max.max(1))));
    let clause = if cluster.is_some() { Clause::ScalerMinimum } else { Clause::ScalerMinimumOfMissing };
    if spec.min.is_none() && clause.in_force() {
        outcome.edits.push(add(&["spec", "minReplicaCount"], min));
    }
    let max = cluster
        .and_then(|cluster| cluster.bounds.max)
        .filter(|&max| max >= min || !Clause::ScalerMaximumWithinStated.in_force());
    if let (None, Some(max), true) = (spec.max, max, Clause::ScalerMaximum.in_force()) {
        outcome.edits.push(add(&["spec", "maxReplicaCount"], max));
    }
}

fn rewrite(index: usize, trigger: &Trigger, outcome: &mut Outcome) {
    let at = index.to_string();
    let trigger_path = ["spec", "triggers", &at];
    if let Some(metric_type) = older_metric_type(trigger).filter(|_| Clause::RewriteType.in_force()) {
        outcome.edits.push(remove(&[&trigger_path[..], &["metadata", "type"]].concat()));
        if trigger.metric_type.is_none() {
            outcome.edits.push(add(&[&trigger_path[..], &["metricType"]].concat(), metric_type));
        }
        outcome.warn(Finding::new(
            Rule::RewroteType,
            format!("spec.triggers[{index}]"),
            format!(
                "metadata.type is out of date and KEDA refuses it; stored as metricType: {metric_type}. In your manifest, move it there"
            ),
        ));
    }
    let older_name = trigger.type_ == "prometheus" && trigger.metadata.contains_key("metricName");
    if older_name && Clause::RewriteMetricName.in_force() {
        outcome.edits.push(remove(&[&trigger_path[..], &["metadata", "metricName"]].concat()));
        outcome.warn(Finding::new(
            Rule::RewroteMetricName,
            format!("spec.triggers[{index}]"),
            format!(
                "metadata.metricName is an older form that KEDA ignores (it names the metric s{index}-prometheus); stored as type: prometheus, metadata without metricName: change your manifest likewise"
            ),
        ));
    }
}

/// The metric type that a cpu or memory trigger states in the older place, where that is all it can mean.
fn older_metric_type(trigger: &Trigger) -> Option<&str> {
    let older =
        trigger.value("type").filter(|older| trigger.is_resource() && RESOURCE_TYPES.contains(older))?;
    trigger.metric_type.as_deref().is_none_or(|current| current == older).then_some(older)
}

pub(super) fn add(path: &[&str], value: impl Into<serde_json::Value>) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: PointerBuf::from_tokens(path.iter().copied()),
        value: value.into(),
    })
}

pub(super) fn replace(path: &[&str], value: impl Into<serde_json::Value>) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation {
        path: PointerBuf::from_tokens(path.iter().copied()),
        value: value.into(),
    })
}

pub(super) fn remove(path: &[&str]) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: PointerBuf::from_tokens(path.iter().copied()) })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::{Bounds, Known, ScaledObject};
    use super::*;
    use crate::api::names::REWRITE_TRIGGERS;

    fn object(spec: &Value) -> Value {
        let mut object = json!({
            "metadata": {"name": "queue"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"},
            },
        });
        json_patch::merge(&mut object["spec"], spec);
        object
    }

    fn run(object: &Value, cluster: Option<Cluster>) -> Outcome {
        let new: ScaledObject = serde_json::from_value(object.clone()).unwrap();
        default(&Write { new: &new, old: None, known: Known { cluster, ..Known::default() } })
    }

    /// The object as it would be stored, and the warnings.
    fn stored(object: &Value, cluster: Option<Cluster>) -> (Value, Vec<String>) {
        let outcome = run(object, cluster);
        assert!(outcome.refusals.is_empty());
        let mut stored = object.clone();
        json_patch::patch(&mut stored, &outcome.edits).unwrap();
        (stored, outcome.warnings.iter().map(ToString::to_string).collect())
    }

    const fn cluster(min: Option<i32>, max: Option<i32>) -> Cluster {
        Cluster { bounds: Bounds { min, max }, cpu_request: true, memory_request: true }
    }

    #[rstest]
    #[case::of_the_cluster(None, None, Some(cluster(Some(2), Some(10))), json!([2, 10]))]
    #[case::of_a_cluster_without(None, None, Some(cluster(None, None)), json!([1, null]))]
    #[case::target_missing(None, None, None, json!([1, null]))]
    #[case::stated(Some(3), Some(20), Some(cluster(Some(2), Some(10))), json!([3, 20]))]
    #[case::stated_below(Some(0), None, Some(cluster(Some(2), Some(10))), json!([0, 10]))]
    #[case::max_below_the_bounds(None, Some(1), Some(cluster(Some(2), Some(10))), json!([1, 1]))]
    #[case::max_impossible(None, Some(0), Some(cluster(Some(2), Some(10))), json!([1, 0]))]
    #[case::min_above_the_bounds(Some(11), None, Some(cluster(Some(2), Some(10))), json!([11, null]))]
    fn ranges(
        #[case] min: Option<i32>,
        #[case] max: Option<i32>,
        #[case] cluster: Option<Cluster>,
        #[case] range: Value,
    ) {
        let mut object = object(&json!({}));
        object["spec"]["minReplicaCount"] = json!(min);
        object["spec"]["maxReplicaCount"] = json!(max);
        let (stored, warnings) = stored(&object, cluster);
        let spec = &stored["spec"];
        assert_eq!(json!([spec["minReplicaCount"], spec["maxReplicaCount"]]), range);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[rstest]
    #[case::cpu(
        json!({"type": "cpu", "metadata": {"type": "Utilization", "value": "80"}}),
        json!({"type": "cpu", "metricType": "Utilization", "metadata": {"value": "80"}}),
        "stored as metricType: Utilization. In your"
    )]
    #[case::memory(
        json!({"type": "memory", "metadata": {"type": " AverageValue", "value": "2Gi"}, "metricType": ""}),
        json!({"type": "memory", "metricType": "AverageValue", "metadata": {"value": "2Gi"}}),
        "stored as metricType: AverageValue"
    )]
    #[case::said_twice(
        json!({"type": "cpu", "metricType": "Utilization", "metadata": {"type": "Utilization", "value": "80"}}),
        json!({"type": "cpu", "metricType": "Utilization", "metadata": {"value": "80"}}),
        "stored as metricType: Utilization"
    )]
    #[case::prometheus(
        json!({"type": "prometheus", "metadata": {"metricName": "x", "query": "up"}}),
        json!({"type": "prometheus", "metadata": {"query": "up"}}),
        "metadata without metricName"
    )]
    fn older_forms(#[case] older: Value, #[case] newer: Value, #[case] says: &str) {
        let other = json!({"type": "cron", "metadata": {"type": "Utilization", "metricName": "x"}});
        let mut object = object(&json!({"minReplicaCount": 1, "triggers": [other, &older]}));
        let (stored, warnings) = stored(&object, None);
        assert_eq!(stored["spec"]["triggers"], json!([other, &newer]));
        let states_it = older["metricType"].as_str().is_some_and(|current| !current.is_empty());
        let edits = if newer["metricType"].is_null() || states_it { 1 } else { 2 };
        assert_eq!(run(&object, None).edits.len(), edits, "no edit that changes nothing");
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warning.starts_with("spec.triggers[1]: ") && warning.contains(says), "{warning}");

        object["metadata"]["annotations"] = json!({REWRITE_TRIGGERS: "false"});
        assert_eq!(run(&object, None), Outcome::default());
        object["metadata"]["annotations"] = json!({REWRITE_TRIGGERS: "true"});
        assert_eq!(run(&object, None).warnings.len(), 1);
    }

    #[rstest]
    #[case::contradiction(json!({"type": "cpu", "metricType": "AverageValue", "metadata": {"type": "Utilization"}}))]
    #[case::unreadable(json!({"type": "cpu", "metadata": {"type": "utilization"}}))]
    #[case::empty(json!({"type": "cpu", "metricType": "Utilization", "metadata": {"type": ""}}))]
    #[case::http(json!({"type": "http", "metadata": {"url": "http://a"}}))]
    #[case::current(json!({"type": "memory", "metricType": "Utilization", "metadata": {"value": "80"}}))]
    fn what_is_left_alone(#[case] trigger: Value) {
        assert_eq!(
            run(&object(&json!({"minReplicaCount": 1, "triggers": [trigger]})), None),
            Outcome::default()
        );
    }
}
