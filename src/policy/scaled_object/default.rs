//! What is filled in, and which older forms of triggers are brought up to date.
//!
//! Architecture invariant: judges nothing. What is wrong and has no single right form is left for `check`.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation};

use crate::policy::Outcome;

use super::view::{Spec, Trigger};
use super::{Cluster, Write};

/// The metric types of a cpu or memory trigger.
pub(super) const RESOURCE_TYPES: [&str; 2] = ["Utilization", "AverageValue"];

/// The edits to the written object, with a warning for each trigger that was rewritten.
pub fn default(write: &Write<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if write.concerns().is_none() {
        return outcome;
    }
    fill_range(&write.new.spec, write.known.cluster, &mut outcome);
    if write.new.rewrites() {
        for (index, trigger) in write.new.spec.triggers.iter().enumerate() {
            rewrite(index, trigger, &mut outcome);
        }
    }
    outcome
}

/// KEDA's 0 can never work for a minimum, and its 100 may be more than the cluster allows. What the write states
/// is never contradicted: a bound that would cross it is not filled in, so that `check` speaks of the range that
/// was written.
fn fill_range(spec: &Spec, cluster: Option<Cluster>, outcome: &mut Outcome) {
    let lower = cluster.map_or(1, |cluster| cluster.bounds.lower());
    let min = spec.min.unwrap_or(spec.max.map_or(lower, |max| lower.min(max.max(1))));
    if spec.min.is_none() {
        outcome.edits.push(add(&["spec", "minReplicaCount"], min));
    }
    let max = cluster.and_then(|cluster| cluster.bounds.max).filter(|&max| max >= min);
    if let (None, Some(max)) = (spec.max, max) {
        outcome.edits.push(add(&["spec", "maxReplicaCount"], max));
    }
}

fn rewrite(index: usize, trigger: &Trigger, outcome: &mut Outcome) {
    let at = index.to_string();
    let trigger_path = ["spec", "triggers", &at];
    if let Some(metric_type) = older_metric_type(trigger) {
        outcome.edits.push(remove(&[&trigger_path[..], &["metadata", "type"]].concat()));
        if trigger.metric_type.is_none() {
            outcome.edits.push(add(&[&trigger_path[..], &["metricType"]].concat(), metric_type));
        }
        outcome.warnings.push(format!(
            "spec.triggers[{index}]: metadata.type is an older form that KEDA refuses; stored as type: {}, metricType: {metric_type}, metadata without type: change your manifest likewise",
            trigger.type_
        ));
    }
    if trigger.type_ == "prometheus" && trigger.metadata.contains_key("metricName") {
        outcome.edits.push(remove(&[&trigger_path[..], &["metadata", "metricName"]].concat()));
        outcome.warnings.push(format!(
            "spec.triggers[{index}]: metadata.metricName is an older form that KEDA ignores (it names the metric s{index}-prometheus); stored as type: prometheus, metadata without metricName: change your manifest likewise"
        ));
    }
}

/// The metric type that a cpu or memory trigger states in the older place, where that is all it can mean.
fn older_metric_type(trigger: &Trigger) -> Option<&str> {
    let older =
        trigger.value("type").filter(|older| trigger.is_resource() && RESOURCE_TYPES.contains(older))?;
    trigger.metric_type.as_deref().is_none_or(|current| current == older).then_some(older)
}

fn add(path: &[&str], value: impl Into<serde_json::Value>) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: PointerBuf::from_tokens(path.iter().copied()),
        value: value.into(),
    })
}

fn remove(path: &[&str]) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: PointerBuf::from_tokens(path.iter().copied()) })
}
