//! Each check of KEDA 2.21's own webhook (`apis/keda/v1alpha1/scaledobject_webhook.go` and what it calls), by the
//! function that makes it, and the rule of ours that refuses the same.
//!
//! What is left to KEDA stands in the head of [`super::super`]. Its checks of `failureThreshold`, of the formula's
//! `metricType` and of negative counts are its schema's as well, which the API server asks first.

use super::*;
use crate::policy::Rule;

const RIVAL: &str = "first";

/// What is wrong in KEDA's eyes, and our rule for it.
#[rstest]
// CheckReplicaCountBoundsAreValid, called by verifyReplicaCount.
#[case::min_above_max(json!({"spec": {"minReplicaCount": 5, "maxReplicaCount": 4}}), Rule::ScalerMinimumAboveMaximum)]
#[case::min_above_default_max(json!({"spec": {"minReplicaCount": 101, "maxReplicaCount": null}}), Rule::ScalerMinimumAboveDefault)]
#[case::idle_not_below_min(json!({"spec": {"idleReplicaCount": 2}}), Rule::ScalerIdle)]
// verifyName.
#[case::name(json!({"metadata": {"name": "n".repeat(64)}}), Rule::ScalerNameTooLong)]
#[case::hpa_name(json!({"spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": "h".repeat(64)}}}}), Rule::HpaNameTooLong)]
#[case::default_hpa_name(json!({"metadata": {"name": "n".repeat(55)}}), Rule::DefaultHpaNameTooLong)]
// CheckFallbackValid, called by verifyFallback.
#[case::fallback_replicas(json!({"spec": {"fallback": {"replicas": -1}}}), Rule::FallbackOutsideBounds)]
#[case::fallback_of_resources(json!({"spec": {"fallback": {"replicas": 2}, "triggers": [cpu(&json!("Utilization"), &json!({}))]}}), Rule::FallbackOfResources)]
// ValidateTriggers, called by verifyTriggers.
#[case::no_triggers(with_triggers(&json!([])), Rule::NoTriggers)]
#[case::cached_metrics(with_triggers(&json!([{"type": "cron", "metadata": {}, "useCachedMetrics": true}])), Rule::CachedMetrics)]
#[case::name_twice(with_triggers(&json!([{"type": "cron", "name": "q", "metadata": {}}, {"type": "cron", "name": "q", "metadata": {}}])), Rule::TriggerNameTwice)]
// verifyScaledObjects.
#[case::second_scaled_object(json!({}), Rule::SecondScaler)]
#[case::formula_missing(json!({"spec": {"advanced": {"scalingModifiers": {"target": "5"}}}}), Rule::FormulaMissing)]
#[case::formula_without_target(json!({"spec": {"advanced": {"scalingModifiers": {"formula": "q"}}}}), Rule::FormulaWithoutTarget)]
#[case::formula_target(json!({"spec": {"advanced": {"scalingModifiers": {"formula": "q", "target": "-1"}}}}), Rule::FormulaTargetNotPositive)]
#[case::fallback_without_formula(json!({"spec": {"fallback": {"replicas": 2, "behavior": "scalingModifiers"}}}), Rule::FallbackWithoutFormula)]
// verifyHpas.
#[case::other_hpa(json!({}), Rule::ForeignHpa)]
#[case::transfer_without_a_name(json!({"metadata": {"annotations": {TRANSFER_HPA: "true"}}}), Rule::ForeignHpa)]
#[case::its_own_without_owner(json!({}), Rule::HpaWithoutOwner)]
// verifyCPUMemoryScalers, which KEDA skips for custom resources.
#[case::requests(with_triggers(&json!([cpu(&json!("Utilization"), &json!({}))])), Rule::CpuWithoutRequest)]
#[case::only_resources_from_zero(json!({"spec": {"minReplicaCount": 0, "triggers": [cpu(&json!("Utilization"), &json!({}))]}}), Rule::ScalerMinimumBelowOne)]
#[case::only_resources_from_nothing(json!({"spec": {"minReplicaCount": null, "triggers": [cpu(&json!("Utilization"), &json!({}))]}}), Rule::ScalerMinimumAbsent)]
fn what_kedas_webhook_refuses(#[case] patch: Value, #[case] rule: Rule) {
    let rival = Scaler { name: RIVAL.into(), min: None, max: None, paused: false, takes_over: None };
    let (scalers, hpas) = match rule {
        Rule::SecondScaler => (vec![rival], vec![]),
        Rule::ForeignHpa => (vec![], vec!["old".to_owned()]),
        Rule::HpaWithoutOwner => (vec![], vec!["keda-hpa-queue".to_owned()]),
        _ => (vec![], vec![]),
    };
    let cpu_request = rule != Rule::CpuWithoutRequest;
    let cluster = Some(Cluster { cpu_request, ..CLUSTER });
    let outcome = judge(&object(&patch), None, Known { cluster, scalers: &scalers, hpas: &hpas, ..KNOWN });
    let rules: Vec<_> = outcome.refusals.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, [rule], "{outcome:#?}");
}

/// What it lets pass, we do not refuse for its sake.
#[rstest]
#[case::ownership_is_transferred(json!({
    "metadata": {"annotations": {TRANSFER_HPA: "true"}},
    "spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": "old"}}},
}))]
#[case::a_formula_may_feed_on_resources_alone(json!({"spec": {
    "fallback": {"replicas": 2},
    "triggers": [cpu(&json!("Utilization"), &json!({}))],
    "advanced": {"scalingModifiers": {"formula": "1", "target": "1"}},
}}))]
#[case::a_removed_finalizer(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"triggers": []}}))]
fn what_kedas_webhook_lets_pass(#[case] patch: Value) {
    let hpas: &[String] = if patch["metadata"]["annotations"].is_null() { &[] } else { &["old".to_owned()] };
    let outcome = judge(&object(&patch), None, Known { hpas, ..KNOWN });
    assert!(outcome.allowed(), "{outcome:#?}");
}
