//! One row a clause: what is changed in a sound ScaledObject, which field is named, and what is said. Each row is
//! judged three times: as a creation, as an update that brings the fault in, and as one that leaves it as it was.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::names::TRANSFER_HPA;
use crate::policy::{Basis, Rule};

mod external;
mod keda;

/// A ScaledObject in which there is nothing to find, with a merge patch.
fn object(patch: &Value) -> ScaledObject {
    let mut sound = json!({
        "metadata": {"name": "queue"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"},
            "minReplicaCount": 2,
            "maxReplicaCount": 10,
            "triggers": [prometheus(&json!({}))],
        },
    });
    json_patch::merge(&mut sound, patch);
    serde_json::from_value(sound).unwrap()
}

fn with_triggers(triggers: &Value) -> Value {
    json!({"spec": {"triggers": triggers}})
}

fn prometheus(metadata: &Value) -> Value {
    let mut all = json!({
        "serverAddress": "http://prometheus:9090", "query": "sum(vllm:num_requests_waiting)", "threshold": "5",
    });
    json_patch::merge(&mut all, metadata);
    json!({"type": "prometheus", "metadata": all})
}

fn metrics_api(metadata: &Value) -> Value {
    let mut all = json!({"url": "https://example/load", "valueLocation": "waiting", "targetValue": "5"});
    json_patch::merge(&mut all, metadata);
    json!({"type": "metrics-api", "metadata": all})
}

fn cpu(metric_type: &Value, metadata: &Value) -> Value {
    let mut all = json!({"value": "80"});
    json_patch::merge(&mut all, metadata);
    json!({"type": "cpu", "metadata": all, "metricType": metric_type})
}

const BOUNDS: Bounds = Bounds { min: Some(2), max: Some(10) };
const CLUSTER: Cluster = Cluster { bounds: BOUNDS, cpu_request: true, memory_request: true };
const KNOWN: Known<'static> = Known {
    cluster: Some(CLUSTER),
    scalers: &[],
    hpas: &[],
    namespace: "t",
    external: ExternalScaler::USUAL,
};

fn judge(new: &ScaledObject, old: Option<&ScaledObject>, known: Known<'_>) -> crate::policy::Outcome {
    check(&Write { new, old, known })
}

/// The fault as a creation, as a new fault, and as an old one beside a change of something else that is read.
fn assert_refused(patch: &Value, known: Known<'_>, field: &str, says: &str) {
    let bad = object(patch);
    let created = judge(&bad, None, known);
    let [finding] = &created.refusals[..] else { panic!("one refusal of {field}: {created:#?}") };
    assert_eq!(finding.field, field, "{finding:?}");
    assert!(finding.message.contains(says), "{:?} does not say {says:?}", finding.message);

    let mut other = bad.clone();
    other.annotations.insert(crate::api::names::PAUSED.into(), "true".into());
    let updated = judge(&other, Some(&bad), known);
    assert!(updated.allowed(), "an older fault refuses nothing: {updated:#?}");
    assert!(updated.warnings.contains(finding), "{updated:#?}");
}

fn assert_new_fault_refused(patch: &Value) {
    let (sound, bad) = (object(&json!({})), object(patch));
    assert!(!judge(&bad, Some(&sound), KNOWN).allowed());
    assert!(judge(&sound, Some(&bad), KNOWN).allowed(), "a correction passes");
}

#[rstest]
#[case::min_absent(json!({"minReplicaCount": null}), "spec.minReplicaCount", "means 0 to KEDA")]
#[case::min_zero(json!({"minReplicaCount": 0}), "spec.minReplicaCount", "0 is below the minimum 1")]
#[case::min_negative(json!({"minReplicaCount": -1}), "spec.minReplicaCount", "-1 is below the minimum 1")]
#[case::idle(json!({"idleReplicaCount": 0}), "spec.idleReplicaCount", "so it never idles at 0; remove idleReplicaCount")]
#[case::idle_above(json!({"idleReplicaCount": 1}), "spec.idleReplicaCount", "KEDA takes nothing but 0, and")]
#[case::crossed(json!({"minReplicaCount": 5, "maxReplicaCount": 4}), "spec.minReplicaCount", "5 is above maxReplicaCount 4")]
#[case::crossed_by_absence(json!({"minReplicaCount": 101, "maxReplicaCount": null}), "spec.minReplicaCount", "101 is above 100, which KEDA takes")]
#[case::max_zero(json!({"maxReplicaCount": 0}), "spec.maxReplicaCount", "0 is below the minimum 1")]
#[case::below_the_bounds(json!({"minReplicaCount": 1, "maxReplicaCount": 1}), "spec.maxReplicaCount", "range 1 to 1 and VLLMCluster \"a\" (2 to 10) have no count in common; overlap 2 to 10, or to move both, first apply a range that covers both (1 to 10), then the VLLMCluster, then this")]
#[case::above_the_bounds(json!({"minReplicaCount": 11, "maxReplicaCount": 12}), "spec.minReplicaCount", "range 11 to 12 and VLLMCluster \"a\" (2 to 10) have no count in common")]
#[case::above_the_bounds_by_absence(json!({"minReplicaCount": 11, "maxReplicaCount": null}), "spec.minReplicaCount", "range 11 to 100 and")]
#[case::fallback_below(json!({"fallback": {"replicas": 1}}), "spec.fallback.replicas", "1 is below the minimum 2 (spec.minReplicas")]
#[case::fallback_above(json!({"fallback": {"replicas": 11, "behavior": "currentReplicasIfHigher"}}), "spec.fallback.replicas", "11 is above the maximum 10")]
#[case::fallback_without_formula(json!({"fallback": {"replicas": 0, "behavior": "scalingModifiers"}}), "spec.fallback.behavior", "needs spec.advanced.scalingModifiers.formula")]
#[case::fallback_of_resources(json!({"fallback": {"replicas": 2}, "triggers": [cpu(&json!("Utilization"), &json!({}))]}), "spec.fallback", "have no fallback")]
#[case::hpa_name(json!({"advanced": {"horizontalPodAutoscalerConfig": {"name": "h".repeat(64)}}}), "spec.advanced.horizontalPodAutoscalerConfig.name", "64 characters; use at most 63")]
#[case::formula_missing(json!({"advanced": {"scalingModifiers": {"activationTarget": "5"}}}), "spec.advanced.scalingModifiers.formula", "is missing")]
#[case::formula_without_target(json!({"advanced": {"scalingModifiers": {"formula": "q"}}}), "spec.advanced.scalingModifiers.target", "is missing")]
#[case::target_zero(json!({"advanced": {"scalingModifiers": {"formula": "q", "target": "0"}}}), "spec.advanced.scalingModifiers.target", "\"0\" is no number above 0")]
#[case::target_unreadable(json!({"advanced": {"scalingModifiers": {"formula": "q", "target": "x"}}}), "spec.advanced.scalingModifiers.target", "\"x\" is no number above 0")]
#[case::no_triggers(json!({"triggers": []}), "spec.triggers", "there is none")]
fn the_spec(#[case] patch: Value, #[case] field: &str, #[case] says: &str) {
    let patch = json!({"spec": patch});
    assert_refused(&patch, KNOWN, field, says);
    assert_new_fault_refused(&patch);
}

#[rstest]
#[case::paused_below(json!({"annotations": {"autoscaling.keda.sh/paused-replicas": "1"}}), "metadata.annotations[autoscaling.keda.sh/paused-replicas]", "1 is below the minimum 2")]
#[case::paused_above(json!({"annotations": {"autoscaling.keda.sh/paused-replicas": "11"}}), "metadata.annotations[autoscaling.keda.sh/paused-replicas]", "11 is above the maximum 10")]
#[case::paused_unreadable(json!({"annotations": {"autoscaling.keda.sh/paused-replicas": "two"}}), "metadata.annotations[autoscaling.keda.sh/paused-replicas]", "\"two\" is no whole number; state the count to keep, from 2 to 10")]
#[case::paused_empty(json!({"annotations": {"autoscaling.keda.sh/paused-replicas": ""}}), "metadata.annotations[autoscaling.keda.sh/paused-replicas]", "\"\" is no whole number")]
fn the_metadata(#[case] patch: Value, #[case] field: &str, #[case] says: &str) {
    let patch = json!({"metadata": patch});
    assert_refused(&patch, KNOWN, field, says);
    assert_new_fault_refused(&patch);
}

#[rstest]
#[case::long_name(&"n".repeat(64), "64 characters; use at most 63")]
#[case::long_hpa_name(&"n".repeat(55), "use at most 54, or set spec.advanced")]
fn the_name(#[case] name: &str, #[case] says: &str) {
    assert_refused(&json!({"metadata": {"name": name}}), KNOWN, "metadata.name", says);
}

#[rstest]
#[case::a_slip(json!({"type": "promethues", "metadata": {}}), "type", "use \"prometheus\"")]
#[case::upper_case(json!({"type": "CPU", "metadata": {}}), "type", "use \"cpu\"")]
#[case::cached_cpu(json!({"type": "cpu", "metadata": {"value": "80"}, "metricType": "Utilization", "useCachedMetrics": true}), "useCachedMetrics", "of a cpu trigger")]
#[case::cached_memory(json!({"type": "memory", "metadata": {"value": "80"}, "metricType": "Utilization", "useCachedMetrics": true}), "useCachedMetrics", "of a memory trigger")]
#[case::cached_cron(json!({"type": "cron", "metadata": {}, "useCachedMetrics": true}), "useCachedMetrics", "of a cron trigger")]
#[case::metric_name(prometheus(&json!({"metricName": "x"})), "metadata.metricName", "remove it")]
#[case::no_address(prometheus(&json!({"serverAddress": null})), "metadata.serverAddress", "is missing; state an address")]
#[case::address(prometheus(&json!({"serverAddress": "prometheus:9090"})), "metadata.serverAddress", "no URL")]
#[case::no_query(prometheus(&json!({"query": " "})), "metadata.query", "is missing; state a query such as")]
#[case::no_threshold(prometheus(&json!({"threshold": null})), "metadata.threshold", "is missing; state a number")]
#[case::threshold(prometheus(&json!({"threshold": "five"})), "metadata.threshold", "\"five\" is no number")]
#[case::threshold_zero(prometheus(&json!({"threshold": "0"})), "metadata.threshold", "\"0\" is not above 0")]
#[case::activation(prometheus(&json!({"activationThreshold": "x"})), "metadata.activationThreshold", "no number")]
#[case::ignore_null(prometheus(&json!({"ignoreNullValues": "yes"})), "metadata.ignoreNullValues", "neither true nor false")]
#[case::unsafe_ssl(prometheus(&json!({"unsafeSsl": "yes"})), "metadata.unsafeSsl", "neither true nor false")]
#[case::timeout(prometheus(&json!({"timeout": "soon"})), "metadata.timeout", "no duration")]
#[case::headers(prometheus(&json!({"customHeaders": "a"})), "metadata.customHeaders", "no list of key=value")]
#[case::parameters(prometheus(&json!({"queryParameters": "a"})), "metadata.queryParameters", "no list of key=value")]
#[case::metric_type(json!({"type": "prometheus", "metricType": "Utilization", "metadata": {"serverAddress": "http://p", "query": "up", "threshold": "1"}}), "metricType", "use AverageValue or Value")]
#[case::no_url(metrics_api(&json!({"url": null})), "metadata.url", "is missing")]
#[case::url(metrics_api(&json!({"url": "example"})), "metadata.url", "no URL")]
#[case::no_location(metrics_api(&json!({"valueLocation": null})), "metadata.valueLocation", "is missing; state where")]
#[case::no_target(metrics_api(&json!({"targetValue": null})), "metadata.targetValue", "is missing")]
#[case::target(metrics_api(&json!({"targetValue": "0"})), "metadata.targetValue", "not above 0")]
#[case::activation_target(metrics_api(&json!({"activationTargetValue": "x"})), "metadata.activationTargetValue", "no number")]
#[case::api_unsafe_ssl(metrics_api(&json!({"unsafeSsl": "yes"})), "metadata.unsafeSsl", "neither")]
#[case::aggregate(metrics_api(&json!({"aggregateFromKubeServiceEndpoints": "yes"})), "metadata.aggregateFromKubeServiceEndpoints", "neither")]
#[case::api_timeout(metrics_api(&json!({"timeout": "soon"})), "metadata.timeout", "no duration")]
#[case::format(metrics_api(&json!({"format": "toml"})), "metadata.format", "use json, prometheus, xml, yaml")]
#[case::aggregation(metrics_api(&json!({"aggregationType": "median"})), "metadata.aggregationType", "use average, sum, max, min")]
#[case::older_type(cpu(&json!(null), &json!({"type": "Utilization"})), "metadata.type", "set metricType: Utilization beside type: cpu")]
#[case::older_type_unreadable(cpu(&json!(null), &json!({"type": "utilization"})), "metadata.type", "set metricType to Utilization or AverageValue")]
#[case::contradicting_types(cpu(&json!("Utilization"), &json!({"type": "AverageValue"})), "metadata.type", "metricType says \"Utilization\"; remove metadata.type")]
#[case::no_type(cpu(&json!(null), &json!({})), "metricType", "is missing; set it to Utilization or AverageValue")]
#[case::wrong_type(cpu(&json!("Value"), &json!({})), "metricType", "\"Value\" is nothing a cpu trigger")]
#[case::no_value(cpu(&json!("Utilization"), &json!({"value": null})), "metadata.value", "is missing; state a whole number")]
#[case::no_quantity(cpu(&json!("AverageValue"), &json!({"value": null})), "metadata.value", "is missing; state a quantity")]
#[case::percentage(cpu(&json!("Utilization"), &json!({"value": "80%"})), "metadata.value", "\"80%\" is no percentage")]
#[case::quantity(cpu(&json!("AverageValue"), &json!({"value": "0"})), "metadata.value", "\"0\" is no quantity above 0")]
fn a_trigger(#[case] trigger: Value, #[case] field: &str, #[case] says: &str) {
    let patch = with_triggers(&json!([prometheus(&json!({})), trigger]));
    assert_refused(&patch, KNOWN, &format!("spec.triggers[1].{field}"), says);
    assert_new_fault_refused(&patch);
}

#[rstest]
#[case::cpu("cpu", Cluster { cpu_request: false, ..CLUSTER })]
#[case::memory("memory", Cluster { memory_request: false, ..CLUSTER })]
fn a_resource_that_no_pod_requests(#[case] type_: &str, #[case] cluster: Cluster) {
    let trigger = |type_| {
        with_triggers(&json!([{"type": type_, "metricType": "Utilization", "metadata": {"value": "80"}}]))
    };
    let known = Known { cluster: Some(cluster), ..KNOWN };
    let says = format!("the pods of VLLMCluster \"a\" request no {type_}");
    assert_refused(&trigger(type_), known, "spec.triggers[0].type", &says);
    let other = if type_ == "cpu" { "memory" } else { "cpu" };
    assert!(judge(&object(&trigger(other)), None, known).allowed());
    assert!(judge(&object(&trigger(type_)), None, Known { cluster: None, ..KNOWN }).allowed());
}

#[test]
fn a_name_is_used_once() {
    let mut named = prometheus(&json!({}));
    named["name"] = json!("q");
    let patch = with_triggers(&json!([named, prometheus(&json!({})), named]));
    assert_refused(&patch, KNOWN, "spec.triggers[2].name", "\"q\" is the name of an earlier trigger too");
}

#[test]
fn a_prometheus_trigger_that_feeds_a_formula_needs_a_threshold_all_the_same() {
    let patch = json!({"spec": {
        "triggers": [prometheus(&json!({"threshold": null}))],
        "advanced": {"scalingModifiers": {"formula": "q", "target": "1"}},
    }});
    assert_refused(&patch, KNOWN, "spec.triggers[0].metadata.threshold", "is missing; state a number");
}

#[test]
fn a_second_scaled_object() {
    let scalers = [Scaler { name: "first".into(), min: None, max: None, paused: false, takes_over: None }];
    let known = Known { scalers: &scalers, ..KNOWN };
    assert_refused(&json!({}), known, "spec.scaleTargetRef.name", "already scaled by ScaledObject \"first\"");
    assert!(judge(&object(&json!({})), None, known).rests_on().eq([Basis::Scaler]));
}

#[rstest]
#[case::plain(json!({}), true)]
#[case::transfer_of_no_name(json!({"metadata": {"annotations": {TRANSFER_HPA: "true"}}}), true)]
#[case::name_without_transfer(json!({"spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": "old"}}}}), true)]
#[case::transfer_denied(json!({
    "metadata": {"annotations": {TRANSFER_HPA: "yes"}},
    "spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": "old"}}},
}), true)]
#[case::transfer_of_another(json!({
    "metadata": {"annotations": {TRANSFER_HPA: "true"}},
    "spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": "new"}}},
}), true)]
#[case::transfer(json!({
    "metadata": {"annotations": {TRANSFER_HPA: "true"}},
    "spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": "old"}}},
}), false)]
fn a_foreign_hpa(#[case] patch: Value, #[case] refused: bool) {
    let hpas = ["old".to_owned()];
    let known = Known { hpas: &hpas, ..KNOWN };
    if refused {
        let says = "already scaled by HorizontalPodAutoscaler \"old\"; delete it first";
        assert_refused(&patch, known, "spec.scaleTargetRef.name", says);
    } else {
        assert_eq!(judge(&object(&patch), None, known), crate::policy::Outcome::default());
    }
}

/// What passes, with the warnings it gets.
#[rstest]
#[case::sound(json!({}), &[])]
#[case::name_given_later(json!({"metadata": {"name": ""}}), &[])]
#[case::longest_name(json!({"metadata": {"name": "n".repeat(54)}}), &[])]
#[case::long_name_of_a_named_hpa(json!({"metadata": {"name": "n".repeat(63)}, "spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": "h".repeat(63)}}}}), &[])]
#[case::narrower(json!({"spec": {"minReplicaCount": 3, "maxReplicaCount": 9}}), &[])]
#[case::wider_below(json!({"spec": {"minReplicaCount": 1}}), &["the count stays within 2 to 10, whatever this ScaledObject (1 to 10) asks for: VLLMCluster \"a\" allows 2 to 10; raise minReplicaCount to 2, or lower spec.minReplicas there to 1"])]
#[case::wider_above(json!({"spec": {"maxReplicaCount": null}}), &["the count stays within 2 to 10, whatever this ScaledObject (2 to 100) asks for: VLLMCluster \"a\" allows 2 to 10; lower maxReplicaCount to 10, or raise spec.maxReplicas there to 100"])]
#[case::fallback(json!({"spec": {"fallback": {"replicas": 10}}}), &[])]
#[case::fallback_unread(json!({"spec": {"fallback": {"replicas": 0, "behavior": "currentReplicas"}}}), &[])]
#[case::fallback_by_formula(json!({"spec": {"fallback": {"replicas": 0, "behavior": "scalingModifiers"}, "advanced": {"scalingModifiers": {"formula": "q ?? 1", "target": "1"}}}}), &[])]
#[case::fallback_of_resources_in_a_formula(json!({"spec": {
    "fallback": {"replicas": 2},
    "triggers": [cpu(&json!("Utilization"), &json!({}))],
    "advanced": {"scalingModifiers": {"formula": "1", "target": "1"}},
}}), &[])]
#[case::paused_at_a_bound(json!({"metadata": {"annotations": {"autoscaling.keda.sh/paused-replicas": "2"}}}), &[])]
#[case::cached_prometheus(with_triggers(&json!([{"type": "prometheus", "useCachedMetrics": true, "metadata": {"serverAddress": "http://p", "query": "up", "threshold": "1"}, "metricType": "Value"}])), &[])]
#[case::every_key(with_triggers(&json!([
    prometheus(&json!({"activationThreshold": "0", "ignoreNullValues": "false", "unsafeSsl": "true", "timeout": "5s", "customHeaders": "a=b", "queryParameters": "c=d"})),
    metrics_api(&json!({"activationTargetValue": "0", "unsafeSsl": "true", "aggregateFromKubeServiceEndpoints": "true", "timeout": "500", "format": "yaml", "aggregationType": "max"})),
    cpu(&json!("Utilization"), &json!({"containerName": "vllm"})),
    cpu(&json!("AverageValue"), &json!({"value": "500m", "type": ""})),
])), &[])]
#[case::feeding_a_formula(json!({"spec": {
    "triggers": [prometheus(&json!({"threshold": "0"})), metrics_api(&json!({"targetValue": null}))],
    "advanced": {"scalingModifiers": {"formula": "q", "target": "0.5"}},
}}), &[])]
#[case::other_known_types(with_triggers(&json!([{"type": "kafka", "metadata": {}}, {"type": "external", "metadata": {}}, {"type": "cron", "metadata": {}}])), &[])]
#[case::unknown_type(with_triggers(&json!([{"type": "tokens-per-second", "metadata": {}}])), &["spec.triggers[0].type: KEDA 2.21 has no trigger \"tokens-per-second\""])]
#[case::metric_that_vllm_lacks(with_triggers(&json!([prometheus(&json!({"query": "vllm_request_queue_size"}))])), &["spec.triggers[0].metadata.query: vLLM exports no vllm_request_queue_size, and an empty result counts as 0; the recording rule in deploy/prometheus/rules.yaml provides it: load that into your Prometheus, or use vllm:num_requests_waiting"])]
fn what_passes(#[case] patch: Value, #[case] warnings: &[&str]) {
    let outcome = judge(&object(&patch), None, KNOWN);
    assert!(outcome.allowed(), "{outcome:#?}");
    assert_eq!(outcome.warnings.len(), warnings.len(), "{outcome:#?}");
    for (warning, says) in outcome.warnings.iter().zip(warnings) {
        assert!(warning.to_string().contains(says), "{warning}");
    }
}

#[rstest]
#[case::fallback(json!({"spec": {"fallback": {"replicas": 0}}}), "0 is below the minimum 1")]
#[case::paused(json!({"metadata": {"annotations": {"autoscaling.keda.sh/paused-replicas": "0"}}}), "0 is below the minimum 1")]
#[case::min(json!({"spec": {"minReplicaCount": 0}}), "use 1 or more")]
fn a_target_that_is_missing(#[case] patch: Value, #[case] says: &str) {
    let known = Known { cluster: None, ..KNOWN };
    let outcome = judge(&object(&json!({})), None, known);
    assert!(outcome.allowed());
    assert!(
        outcome.warnings[0].to_string().contains("there is no VLLMCluster \"a\" in this namespace"),
        "{outcome:?}"
    );
    assert_eq!(outcome.warnings.len(), 1);
    assert!(judge(&object(&patch), None, known).message().contains(says));
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let bad = object(
        &json!({"spec": {"minReplicaCount": 0, "idleReplicaCount": 0, "triggers": [{"type": "http"}, {"type": "cpu"}]}}),
    );
    let fields: Vec<_> = judge(&bad, None, KNOWN).refusals.into_iter().map(|finding| finding.field).collect();
    assert_eq!(
        fields,
        [
            "spec.minReplicaCount",
            "spec.idleReplicaCount",
            "spec.triggers[0].metadata.url",
            "spec.triggers[0].metadata.targetValue",
            "spec.triggers[1].metricType",
            "spec.triggers[1].metadata.value"
        ]
    );
}

#[test]
fn an_older_fault_is_still_one_when_its_trigger_moves() {
    let bad = prometheus(&json!({"threshold": "five"}));
    let old = object(&with_triggers(&json!([prometheus(&json!({})), bad])));
    let moved = object(&with_triggers(&json!([bad])));
    let outcome = judge(&moved, Some(&old), KNOWN);
    assert!(
        outcome.allowed() && outcome.warnings[0].to_string().contains("spec.triggers[0].metadata.threshold"),
        "{outcome:?}"
    );
    // A second one is new, and so is another wrong value.
    assert_eq!(judge(&object(&with_triggers(&json!([bad, bad]))), Some(&old), KNOWN).refusals.len(), 1);
    let other = object(&with_triggers(&json!([prometheus(&json!({"threshold": "six"}))])));
    assert!(!judge(&other, Some(&old), KNOWN).allowed());
}

#[test]
fn bounds_that_moved_away_are_no_fault_of_an_update() {
    let old = object(&json!({}));
    let new = object(&json!({"spec": {"triggers": [prometheus(&json!({"threshold": "6"}))]}}));
    let away = Cluster { bounds: Bounds { min: Some(20), max: None }, ..CLUSTER };
    let outcome = judge(&new, Some(&old), Known { cluster: Some(away), ..KNOWN });
    assert!(
        outcome.allowed() && outcome.warnings[0].to_string().contains("no count in common"),
        "{outcome:?}"
    );
}

#[test]
fn inconsistent_bounds_are_not_spoken_of() {
    let crossed = Cluster { bounds: Bounds { min: Some(5), max: Some(4) }, ..CLUSTER };
    let outcome = judge(&object(&json!({})), None, Known { cluster: Some(crossed), ..KNOWN });
    assert_eq!(outcome, crate::policy::Outcome::default());
}

#[test]
fn turning_to_a_cluster_is_like_a_creation() {
    let bad = json!({"spec": {"minReplicaCount": 0}});
    let mut elsewhere = bad.clone();
    json_patch::merge(&mut elsewhere, &json!({"spec": {"scaleTargetRef": {"kind": "Deployment"}}}));
    let mut other = bad.clone();
    json_patch::merge(&mut other, &json!({"spec": {"scaleTargetRef": {"name": "b"}}}));
    for old in [elsewhere.clone(), other] {
        assert!(!judge(&object(&bad), Some(&object(&old)), KNOWN).allowed());
    }
    assert_eq!(judge(&object(&elsewhere), Some(&object(&bad)), KNOWN), crate::policy::Outcome::default());
}

#[rstest]
#[case::deleted(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"minReplicaCount": 0}}), None)]
#[case::unchanged(json!({"spec": {"minReplicaCount": 0}}), Some(json!({"spec": {"minReplicaCount": 0, "pollingInterval": 5}})))]
#[case::other_annotations(json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"minReplicaCount": null}}), Some(json!({"spec": {"minReplicaCount": null}})))]
#[case::elsewhere(json!({"spec": {"scaleTargetRef": {"kind": "Deployment"}, "minReplicaCount": null}}), None)]
fn nothing_is_said(#[case] new: Value, #[case] old: Option<Value>) {
    let (new, old) = (object(&new), old.map(|old| object(&old)));
    let write = Write { new: &new, old: old.as_ref(), known: Known { cluster: None, ..KNOWN } };
    assert_eq!(check(&write), crate::policy::Outcome::default());
    assert_eq!(default(&write), crate::policy::Outcome::default());
}

/// As many as an object has room for. What is wrong with the first hundred is told, and that there is more.
#[test]
fn a_hundred_findings_are_enough() {
    let misspelt = |count: usize| with_triggers(&json!(vec![json!({"type": "promethes"}); count]));
    let enormous = object(&misspelt(100_000));
    let outcome = judge(&enormous, None, KNOWN);
    let told: Vec<_> = outcome.warnings.iter().map(|warning| warning.rule).collect();
    assert_eq!((outcome.refusals.len(), told), (100, vec![Rule::ScalerFindingsLeftOut]));
    assert_eq!(judge(&object(&misspelt(100)), None, KNOWN).warnings, []);

    // Not even that many older faults excuse a new one, nor do they refuse.
    let mut triggers = vec![json!({"type": "promethes"}); 300];
    let old = object(&with_triggers(&json!(triggers)));
    triggers.remove(0);
    let outcome = judge(&object(&with_triggers(&json!(triggers))), Some(&old), KNOWN);
    assert_eq!((outcome.refusals.len(), outcome.warnings.len()), (0, 101));
    triggers.push(json!({"type": "cpuu"}));
    let outcome = judge(&object(&with_triggers(&json!(triggers))), Some(&old), KNOWN);
    assert_eq!(outcome.refusals.len(), 1);

    // Nor do that many warnings hide a refusal.
    let mut triggers = vec![json!({"type": "of-another-release"}); 300];
    triggers.push(json!({"type": "promethues"}));
    let outcome = judge(&object(&with_triggers(&json!(triggers))), None, KNOWN);
    assert_eq!((outcome.refusals.len(), outcome.warnings.len()), (1, 101));
}

#[test]
fn all_triggers_are_rewritten_and_a_hundred_told() {
    let older = json!({"type": "cpu", "metadata": {"type": "Utilization", "value": "80"}});
    let new = object(&with_triggers(&json!(vec![older; 150])));
    let outcome = default(&Write { new: &new, old: None, known: KNOWN });
    assert_eq!((outcome.edits.len(), outcome.warnings.len()), (300, 100));
}
