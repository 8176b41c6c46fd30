//! VLLMClusters and what drives them, by what they say of themselves and what admission says of them.

use serde_json::Value;

use crate::api::names::{CONDITION_READY, CONDITION_SCALING_CONFLICT, CONDITION_STALLED};
use crate::api::reasons;
use crate::commands::lint::Refused;

use super::finding::{Check, Finding};
use super::seen::{Seen, about, condition};

/// Why a cluster does not serve, where that ends by itself.
const PASSING: [&str; 6] = [
    reasons::LOADING,
    reasons::STARTING,
    reasons::TERMINATING,
    reasons::ROLLING_OUT,
    reasons::NOT_ENOUGH_REPLICAS,
    reasons::SPEC_NOT_TAKEN,
];

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let scaling = &seen.scaling;
    let refused = scaling.refused.iter().map(|Refused { kind, namespace, name, message }| {
        Finding::new(
            Check::ObjectRefused,
            format!("{}/{name} in namespace {namespace}", kind.to_lowercase()),
            message,
            "correct it as the sentence says; it was stored while admission did not answer or only warned",
        )
    });
    let mut findings: Vec<_> = refused.collect();
    findings.extend(scaling.scaled_objects.iter().filter_map(scaled_object));
    findings.extend(scaling.hpas.iter().filter_map(hpa));
    findings.extend(scaling.clusters.iter().flat_map(cluster));
    findings
}

/// What a condition says, where it has this status.
fn told<'a>(object: &'a Value, kind: &str, status: &str) -> Option<(&'a str, &'a str)> {
    let condition = condition(object, kind).filter(|condition| condition["status"] == status)?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    Some((text("reason"), text("message")))
}

fn scaled_object(object: &Value) -> Option<Finding> {
    let (_, message) = told(object, "Ready", "False")?;
    Some(Finding::new(
        Check::ScaledObjectNotReady,
        about("scaledobject", object),
        format!("KEDA says that it does not work: {message}."),
        format!("vllm-operator explain-scaling {} follows the chain", place(object)),
    ))
}

fn hpa(object: &Value) -> Option<Finding> {
    let (what, (reason, message)) = ["AbleToScale", "ScalingActive"]
        .into_iter()
        .find_map(|kind| Some((kind, told(object, kind, "False")?)))
        // Nobody has stopped it by mistake who has set the count to 0.
        .filter(|(_, (reason, _))| *reason != "ScalingDisabled")?;
    Some(Finding::new(
        Check::HpaInactive,
        about("hpa", object),
        format!("{what} is False, {reason}: {message}."),
        "see what is said of KEDA and of who serves metrics; kubectl describe hpa tells what was tried",
    ))
}

fn cluster(object: &Value) -> Vec<Finding> {
    let about = about("vllmcluster", object);
    let explain = || {
        format!(
            "kubectl describe vllmcluster -n {}; docs/vllmcluster.md tells each reason",
            place(object).replace('/', " ")
        )
    };
    let mut findings = Vec::new();
    if let Some((reason, message)) = told(object, CONDITION_STALLED, "True") {
        findings.push(Finding::new(Check::ClusterStalled, &about, format!("{reason}: {message}"), explain()));
    } else if let Some((reason, message)) =
        told(object, CONDITION_READY, "False").filter(|(reason, _)| !PASSING.contains(reason))
    {
        findings.push(Finding::new(
            Check::ClusterNotReady,
            &about,
            format!("{reason}: {message}"),
            explain(),
        ));
    }
    if let Some((_, message)) = told(object, CONDITION_SCALING_CONFLICT, "True") {
        findings.push(Finding::new(
            Check::ScalingConflict,
            &about,
            message,
            "make the bounds of the VLLMCluster and the range of what drives it overlap",
        ));
    }
    let (generation, observed) = (&object["metadata"]["generation"], &object["status"]["observedGeneration"]);
    if generation != observed && object["metadata"]["deletionTimestamp"].is_null() {
        findings.push(Finding::new(
            Check::ClusterBehind,
            &about,
            "Its last change has not been taken up yet.",
            "look again in a few seconds; if it stays so, see what is said of the replica that leads",
        ));
    }
    findings
}

/// `namespace/name`.
fn place(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, status: &str, reason: &str) -> Value {
        json!({
            "metadata": {"namespace": "team", "name": "a", "generation": 1},
            "status": {
                "observedGeneration": 1,
                "conditions": [{"type": kind, "status": status, "reason": reason, "message": "why"}],
            },
        })
    }

    fn of_cluster(kind: &str, status: &str, reason: &str) -> Vec<Check> {
        cluster(&object(kind, status, reason)).into_iter().map(|finding| finding.check).collect()
    }

    #[test]
    fn a_cluster_says_what_a_person_must_do_and_no_more() {
        assert_eq!(of_cluster("Ready", "True", reasons::ENOUGH_REPLICAS), []);
        assert_eq!(of_cluster("Stalled", "False", reasons::NOTHING_IN_THE_WAY), []);
        assert_eq!(of_cluster("Ready", "False", reasons::LOADING), []);
        assert_eq!(of_cluster("Ready", "False", reasons::IMAGE_PULL), [Check::ClusterNotReady]);
        assert_eq!(of_cluster("Stalled", "True", reasons::NAME_TAKEN), [Check::ClusterStalled]);
        assert_eq!(of_cluster("ScalingConflict", "True", reasons::DOES_NOT_FIT), [Check::ScalingConflict]);
        let mut behind = object("Ready", "True", reasons::ENOUGH_REPLICAS);
        behind["metadata"]["generation"] = json!(2);
        assert_eq!(cluster(&behind)[0].check, Check::ClusterBehind);
    }

    #[test]
    fn what_drives_a_cluster_says_why_it_does_not() {
        assert_eq!(scaled_object(&object("Ready", "True", "")), None);
        assert_eq!(scaled_object(&object("Ready", "Unknown", "")), None);
        let found = scaled_object(&object("Ready", "False", "")).expect("a finding");
        assert!(found.remedy.contains("explain-scaling team/a"), "{found:?}");
        assert_eq!(hpa(&object("ScalingActive", "False", "ScalingDisabled")), None);
        assert_eq!(hpa(&object("ScalingActive", "True", "ValidMetricFound")), None);
        let found = hpa(&object("ScalingActive", "False", "FailedGetExternalMetric")).expect("a finding");
        assert_eq!(found.message, "ScalingActive is False, FailedGetExternalMetric: why.");
    }
}
