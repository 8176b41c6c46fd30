//! Every state of the chain, from the objects' JSON: the page, the object, and what the documentation says of them.

mod consistent;
mod objects;

use rstest::rstest;
use serde_json::{Value, json};

use super::chain::Reason;
use super::place;
use super::render::page;

use consistent::contradiction;
use objects::{LONG_AGO, NOW, Objects, driven, event, limited, pod, stabilized, with_cpu};

const NO_CPU: &str = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API";
const NO_QUEUE: &str = "the HPA was unable to compute the replica count: unable to get external metric team-a/s0-prometheus/&LabelSelector{MatchLabels:map[string]string{scaledobject.keda.sh/name: queue,},MatchExpressions:[]LabelSelectorRequirement{},}: unable to fetch metrics from external metrics API: Internal error occurred: unable to get external metric s0-prometheus";

#[rstest]
#[case::at_minimum("at_minimum", Reason::AtMinimum, driven(1, "0"), |_: &mut Objects| {})]
#[case::at_a_shared_minimum("at_a_shared_minimum", Reason::AtMinimum, driven(2, "0"), |o: &mut Objects| {
    o.cluster["spec"]["minReplicas"] = json!(2);
    o.hpa("/spec/minReplicas", json!(2));
})]
#[case::followed("followed", Reason::Followed, driven(3, "3500m"), |o: &mut Objects| o.hpa("/status/currentMetrics/0/external/current/averageValue", json!("3")))]
#[case::within_tolerance("within_tolerance", Reason::WithinTolerance, driven(3, "4200m"), |_: &mut Objects| {})]
#[case::at_maximum("at_maximum", Reason::AtMaximum, driven(6, "10"), |o: &mut Objects| limited(o, "TooManyReplicas", "the desired replica count is more than the maximum replica count"))]
#[case::bound_of_the_cluster("bound_of_the_cluster", Reason::ClusterBound, driven(4, "10"), |o: &mut Objects| {
    o.cluster["spec"]["maxReplicas"] = json!(4);
    o.cluster["status"]["conditions"] = json!([{
        "type": "ScalingConflict", "status": "True", "reason": "DoesNotFit", "lastTransitionTime": LONG_AGO,
        "message": "ScaledObject \"queue\" asks for 1 to 6, and the count stays within 1 to 4",
    }]);
    o.hpa("/status/desiredReplicas", json!(6));
})]
#[case::stabilizing("stabilizing", Reason::Stabilizing, driven(5, "400m"), |o: &mut Objects| {
    stabilized(o, "Down");
    o.hpa("/spec/behavior", json!({"scaleDown": {"stabilizationWindowSeconds": 600, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}));
    o.hpa("/status/lastScaleTime", json!("2026-03-01T11:58:00Z"));
    o.events = vec![event("HorizontalPodAutoscaler", "keda-hpa-queue", "Normal", "SuccessfulRescale", "New size: 5; reason: external metric s0-prometheus above target")];
})]
#[case::stabilizing_by_default("stabilizing_by_default", Reason::Stabilizing, driven(5, "400m"), |o: &mut Objects| stabilized(o, "Down"))]
#[case::stabilizing_growth("stabilizing_growth", Reason::Stabilizing, driven(2, "20"), |o: &mut Objects| {
    stabilized(o, "Up");
    o.hpa("/spec/behavior", json!({"scaleUp": {"stabilizationWindowSeconds": 120}}));
})]
#[case::rate_limited("rate_limited", Reason::RateLimited, driven(2, "20"), |o: &mut Objects| {
    limited(o, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
    o.hpa("/spec/behavior", json!({"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}));
})]
#[case::under_way("under_way", Reason::UnderWay, driven(2, "12"), |_: &mut Objects| {})]
#[case::paused("paused", Reason::Paused, driven(3, "0"), |o: &mut Objects| {
    o.scaled_object()["metadata"]["annotations"] = json!({"autoscaling.keda.sh/paused": "true"});
    o.hpas.clear();
})]
#[case::pinned("pinned", Reason::Paused, driven(5, "0"), |o: &mut Objects| {
    o.scaled_object()["metadata"]["annotations"] = json!({"autoscaling.keda.sh/paused-replicas": "5"});
    o.hpas.clear();
})]
#[case::pinned_elsewhere("pinned_elsewhere", Reason::Paused, driven(3, "0"), |o: &mut Objects| {
    o.scaled_object()["metadata"]["annotations"] = json!({"autoscaling.keda.sh/paused-replicas": "9", "autoscaling.keda.sh/paused": "false"});
    o.hpas.clear();
})]
#[case::paused_scale_in("paused_scale_in", Reason::DirectionOff, driven(5, "0"), |o: &mut Objects| {
    o.scaled_object()["metadata"]["annotations"] = json!({"autoscaling.keda.sh/paused-scale-in": "true"});
    o.hpa("/spec/behavior", json!({"scaleDown": {"selectPolicy": "Disabled"}}));
})]
#[case::broken_trigger("broken_trigger", Reason::ScaledObjectFailing, driven(2, "0"), |o: &mut Objects| {
    o.scaled_object()["status"]["conditions"] = json!([{
        "type": "Ready", "status": "False", "reason": "ScaledObjectCheckFailed",
        "message": "failed to ensure HPA is correctly created for ScaledObject",
    }]);
    o.events = vec![event("ScaledObject", "queue", "Warning", "KEDAScalerFailed", "no scaler found for type: htp")];
    o.hpas.clear();
})]
#[case::no_hpa("no_hpa", Reason::HpaMissing, driven(2, "0"), |o: &mut Objects| o.hpas.clear())]
#[case::not_looked("not_looked", Reason::NotLookedYet, driven(2, "0"), |o: &mut Objects| o.hpa("/status", json!({"desiredReplicas": 0, "currentReplicas": 0})))]
#[case::one_value_missing("one_value_missing", Reason::MetricsMissing, driven(5, "400m"), |o: &mut Objects| {
    with_cpu(o, None);
    o.condition("ScalingActive", "False", "FailedGetResourceMetric", NO_CPU);
})]
#[case::all_values_missing("all_values_missing", Reason::MetricsMissing, driven(5, "0"), |o: &mut Objects| {
    o.hpa("/status/currentMetrics", json!([{"type": ""}]));
    o.condition("ScalingActive", "False", "FailedGetExternalMetric", NO_QUEUE);
    o.scaled_object()["status"]["conditions"] = json!([{
        "type": "Ready", "status": "False", "reason": "TriggerError",
        "message": "Triggers defined in ScaledObject are not working correctly",
    }]);
    o.events = vec![event("ScaledObject", "queue", "Warning", "KEDAScalerFailed", "dial tcp: lookup prometheus: no such host")];
})]
#[case::one_missing_others_grow("one_missing_others_grow", Reason::AtMaximum, driven(6, "10"), |o: &mut Objects| {
    with_cpu(o, None);
    o.events = vec![event("HorizontalPodAutoscaler", "keda-hpa-queue", "Warning", "FailedGetResourceMetric", NO_CPU)];
})]
#[case::two_triggers("two_triggers", Reason::Followed, driven(3, "1"), |o: &mut Objects| with_cpu(o, Some(55)))]
#[case::refused_writes("refused_writes", Reason::ScaleFailing, driven(5, "8"), |o: &mut Objects| {
    o.hpa("/status/desiredReplicas", json!(6));
    o.condition("AbleToScale", "False", "FailedUpdateScale", "the HPA controller was unable to update the target scale: admission webhook denied the request");
})]
#[case::outside_of_the_range("outside_of_the_range", Reason::OutsideRange, driven(7, "0"), |o: &mut Objects| o.hpa("/status/currentMetrics", Value::Null))]
#[case::two_scaled_objects("two_scaled_objects", Reason::SeveralDrivers, driven(3, "3"), |o: &mut Objects| {
    let mut second = o.scaled_object().clone();
    second["metadata"]["name"] = json!("second");
    second["status"]["hpaName"] = json!("keda-hpa-second");
    o.scaled_objects.as_mut().unwrap().push(second);
})]
#[case::a_foreign_hpa("a_foreign_hpa", Reason::SeveralDrivers, driven(3, "3"), |o: &mut Objects| {
    let mut foreign = o.hpas[0].clone();
    foreign["metadata"] = json!({"name": "by-hand", "namespace": "team-a"});
    o.hpas.push(foreign);
})]
#[case::a_plain_hpa("a_plain_hpa", Reason::AtMaximum, driven(6, "10"), |o: &mut Objects| {
    o.scaled_objects = None;
    o.hpas[0]["metadata"] = json!({"name": "by-hand", "namespace": "team-a"});
})]
#[case::nobody("nobody", Reason::NoDriver, driven(3, "0"), |o: &mut Objects| {
    o.scaled_objects = Some(Vec::new());
    o.hpas.clear();
})]
#[case::without_keda("without_keda", Reason::NoDriver, driven(3, "0"), |o: &mut Objects| {
    o.scaled_objects = None;
    o.hpas.clear();
})]
#[case::deleting("deleting", Reason::Deleting, driven(3, "0"), |o: &mut Objects| o.cluster["metadata"]["deletionTimestamp"] = json!(NOW))]
#[case::driver_deleting("driver_deleting", Reason::DriverDeleting, driven(3, "0"), |o: &mut Objects| o.scaled_object()["metadata"]["deletionTimestamp"] = json!(NOW))]
#[case::unready("unready", Reason::AtMinimum, driven(2, "0"), |o: &mut Objects| {
    o.hpa("/spec/minReplicas", json!(2));
    o.cluster["status"]["readyReplicas"] = json!(1);
    o.pods[1] = pod(1, false);
    o.unseen = vec!["cannot list events (forbidden): the newest warnings are missing here".into()];
})]
#[case::fallback("fallback", Reason::AtMaximum, driven(6, "10"), |o: &mut Objects| {
    o.scaled_object()["spec"]["fallback"] = json!({"failureThreshold": 3, "replicas": 15});
    o.scaled_object()["status"]["conditions"].as_array_mut().unwrap()[2]["status"] = json!("True");
})]
#[case::a_value_and_memory("a_value_and_memory", Reason::Followed, driven(2, "1"), |o: &mut Objects| {
    let name = json!({"name": "s0-prometheus"});
    o.hpa("/spec/metrics", json!([
        {"type": "External", "external": {"metric": name, "target": {"type": "Value", "value": "100"}}},
        {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
    ]));
    o.hpa("/status/currentMetrics", json!([
        {"type": "External", "external": {"metric": name, "current": {"value": "20500m"}}},
        {"type": "Resource", "resource": {"name": "memory", "current": {"averageValue": "805306368"}}},
    ]));
})]
#[case::formula("formula", Reason::Followed, driven(3, "3"), |o: &mut Objects| {
    o.hpa("/spec/metrics/0/external/metric/name", json!("composite-metric"));
    o.hpa("/status/currentMetrics/0/external/metric/name", json!("composite-metric"));
})]
#[case::own_trigger_without_hpa("own_trigger_without_hpa", Reason::HpaMissing, driven(2, "0"), |o: &mut Objects| {
    o.hpas.clear();
    o.scaled_object()["spec"]["triggers"] = json!([{"type": "external", "metricType": "AverageValue", "metadata": {
        "scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:443", "signal": "queue", "targetValue": "5",
    }}]);
})]
fn pages(
    #[case] name: &str,
    #[case] reason: Reason,
    #[case] mut objects: Objects,
    #[case] change: fn(&mut Objects),
) {
    change(&mut objects);
    let explanation = objects.explained();
    insta::assert_snapshot!(name, page(&explanation));
    assert_eq!(explanation.reason, reason, "{}", explanation.why);
    let numbers = contradiction(&explanation);
    assert_eq!(numbers, None, "{}", explanation.why);
}

#[test]
fn the_json_has_the_fields_that_are_documented() {
    let mut objects = driven(5, "400m");
    stabilized(&mut objects, "Down");
    with_cpu(&mut objects, Some(20));
    let explanation = serde_json::to_value(objects.explained()).unwrap();
    let mut paths = Vec::new();
    collect(&explanation, "", &mut paths);
    let documentation = include_str!("../../../docs/explain-scaling.md");
    let missing: Vec<_> =
        paths.iter().filter(|path| !documentation.contains(&format!("| `{path}` |"))).collect();
    assert!(missing.is_empty(), "not in docs/explain-scaling.md: {missing:?}");
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&explanation).unwrap());
}

fn collect(value: &Value, path: &str, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
                paths.push(path.clone());
                collect(value, &path, paths);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, &format!("{path}[]"), paths)),
        _ => {}
    }
    paths.sort();
    paths.dedup();
}

#[test]
fn every_reason_is_documented() {
    let documentation = include_str!("../../../docs/explain-scaling.md");
    for reason in REASONS {
        let name = serde_json::to_value(reason).unwrap();
        assert!(documentation.contains(&format!("| `{}` |", name.as_str().unwrap())), "{reason:?}");
    }
}

#[test]
fn the_example_of_the_documentation_is_a_page() {
    let mut objects = driven(5, "400m");
    stabilized(&mut objects, "Down");
    with_cpu(&mut objects, Some(20));
    let documentation = include_str!("../../../docs/explain-scaling.md");
    let page = page(&objects.explained());
    assert!(documentation.contains(&page), "docs/explain-scaling.md does not show\n{page}");
}

#[rstest]
#[case("a/b", None, Ok((Some("a"), "b")))]
#[case("b", Some("a"), Ok((Some("a"), "b")))]
#[case("b", None, Ok((None, "b")))]
#[case("a/b", Some("a"), Ok((Some("a"), "b")))]
#[case("a/b", Some("c"), Err("two namespaces"))]
#[case("a/", None, Err("give NAMESPACE/NAME"))]
#[case("/b", None, Err("give NAMESPACE/NAME"))]
#[case("a/b/c", None, Err("give NAMESPACE/NAME"))]
fn places(
    #[case] name: &str,
    #[case] namespace: Option<&str>,
    #[case] expected: Result<(Option<&str>, &str), &str>,
) {
    match (place(name, namespace), expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
        (found, expected) => panic!("{found:?} in place of {expected:?}"),
    }
}

const REASONS: [Reason; 20] = [
    Reason::Deleting,
    Reason::SeveralDrivers,
    Reason::NoDriver,
    Reason::Paused,
    Reason::DriverDeleting,
    Reason::ScaledObjectFailing,
    Reason::HpaMissing,
    Reason::NotLookedYet,
    Reason::ScaleFailing,
    Reason::MetricsMissing,
    Reason::OutsideRange,
    Reason::ClusterBound,
    Reason::AtMaximum,
    Reason::AtMinimum,
    Reason::DirectionOff,
    Reason::Stabilizing,
    Reason::RateLimited,
    Reason::WithinTolerance,
    Reason::Followed,
    Reason::UnderWay,
];
