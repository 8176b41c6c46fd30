//! Every state of the chain, from the objects' JSON as API servers, KEDA and the HPA controller write them.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod};
use rstest::rstest;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::VLLMCluster;

use super::chain::{
    Chain, Explanation, HpaLink, Limit, Pause, PauseKind, Reason, ScaleLink, ScaledObjectLink, Stabilizing,
    TargetType, TriggerLink,
};
use super::explain::explain;
use super::place;
use super::render::page;
use super::seen::{ScaledObject, Seen};

const NOW: &str = "2026-03-01T12:00:00Z";
const LONG_AGO: &str = "2026-03-01T08:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// The objects of a namespace, each as JSON.
#[derive(Clone)]
struct Objects {
    cluster: Value,
    scaled_objects: Option<Vec<Value>>,
    hpas: Vec<Value>,
    pods: Vec<Value>,
    events: Vec<Value>,
    unseen: Vec<String>,
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

impl Objects {
    fn seen(&self) -> Seen {
        let count = self.cluster["spec"]["replicas"].clone();
        let status = &self.cluster["status"];
        Seen {
            at: now(),
            cluster: read::<VLLMCluster>(&self.cluster),
            scaled_objects: self
                .scaled_objects
                .as_ref()
                .map(|all| all.iter().map(|object| ScaledObject::read(object).unwrap()).collect()),
            hpas: self.hpas.iter().map(read::<HorizontalPodAutoscaler>).collect(),
            scale: Some(read(&json!({
                "spec": {"replicas": count},
                "status": {"replicas": status["replicas"], "selector": status["selector"]},
            }))),
            set: Some(read(&json!({
                "metadata": {"name": "chat"},
                "spec": {"replicas": count, "selector": {}, "template": {}},
                "status": {
                    "replicas": status["replicas"], "readyReplicas": status["readyReplicas"],
                    "updatedReplicas": status["replicas"],
                },
            }))),
            pods: Some(self.pods.iter().map(read::<Pod>).collect()),
            events: self.events.iter().map(read::<Event>).collect(),
            unseen: self.unseen.clone(),
        }
    }

    fn explained(&self) -> Explanation {
        explain(&self.seen())
    }

    fn scaled_object(&mut self) -> &mut Value {
        &mut self.scaled_objects.as_mut().unwrap()[0]
    }

    /// Sets a field of the HPA, by its JSON pointer.
    fn hpa(&mut self, pointer: &str, value: Value) {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        self.hpas[0].pointer_mut(parent).unwrap()[field] = value;
    }

    fn condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.hpas[0]["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != kind);
        conditions.push(json!({"type": kind, "status": status, "reason": reason, "message": message}));
    }
}

fn pod(ordinal: i32, ready: bool) -> Value {
    let conditions = json!([
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": if ready { "True" } else { "False" }},
    ]);
    let state = json!({"running": {"startedAt": "2026-03-01T11:59:00Z"}});
    json!({
        "metadata": {"name": format!("chat-{ordinal}")},
        "spec": {"nodeName": "n", "containers": []},
        "status": {
            "phase": "Running", "conditions": conditions,
            "containerStatuses": [{
                "name": "vllm", "ready": ready, "started": ready, "restartCount": 0, "image": "", "imageID": "",
                "state": state,
            }],
        },
    })
}

/// So many replicas, all ready, and a queue of which so much falls on each, against 4.
fn driven(count: i32, queue: &str) -> Objects {
    let target =
        json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "chat"});
    let metric = json!({"name": "s0-prometheus", "selector": {"matchLabels": {"scaledobject.keda.sh/name": "queue"}}});
    Objects {
        cluster: json!({
            "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
            "metadata": {"name": "chat", "namespace": "team-a"},
            "spec": {"replicas": count, "maxReplicas": 8},
            "status": {
                "replicas": count, "readyReplicas": count, "updatedReplicas": count,
                "selector": "app=vllm-cluster,cluster=chat,component=vllm-server",
                "conditions": [],
            },
        }),
        scaled_objects: Some(vec![json!({
            "metadata": {"name": "queue", "namespace": "team-a", "annotations": {}},
            "spec": {
                "scaleTargetRef": target, "minReplicaCount": 1, "maxReplicaCount": 6,
                "triggers": [{"type": "prometheus", "metadata": {"threshold": "4"}}],
            },
            "status": {
                "hpaName": "keda-hpa-queue",
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "ScaledObjectReady",
                     "message": "ScaledObject is defined correctly and is ready for scaling"},
                    {"type": "Active", "status": "True", "reason": "ScalerActive", "message": ""},
                    {"type": "Fallback", "status": "False", "reason": "NoFallbackFound", "message": ""},
                ],
            },
        })]),
        hpas: vec![json!({
            "metadata": {
                "name": "keda-hpa-queue", "namespace": "team-a",
                "ownerReferences": [{
                    "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "queue", "uid": "u", "controller": true,
                }],
            },
            "spec": {
                "scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 6,
                "metrics": [{"type": "External", "external": {
                    "metric": metric, "target": {"type": "AverageValue", "averageValue": "4"},
                }}],
            },
            "status": {
                "currentReplicas": count, "desiredReplicas": count, "lastScaleTime": LONG_AGO,
                "currentMetrics": [{"type": "External", "external": {"metric": metric, "current": {"averageValue": queue}}}],
                "conditions": [
                    {"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale", "message": "recommended size matches current size"},
                    {"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound", "message": "the HPA was able to successfully calculate a replica count"},
                    {"type": "ScalingLimited", "status": "False", "reason": "DesiredWithinRange", "message": "the desired count is within the acceptable range"},
                ],
            },
        })],
        pods: (0..count).map(|ordinal| pod(ordinal, true)).collect(),
        events: Vec::new(),
        unseen: Vec::new(),
    }
}

fn event(kind: &str, name: &str, type_: &str, reason: &str, message: &str) -> Value {
    json!({
        "metadata": {"name": "e", "namespace": "team-a"}, "involvedObject": {"kind": kind, "name": name},
        "type": type_, "reason": reason, "message": message, "lastTimestamp": "2026-03-01T11:59:30Z",
    })
}

fn limited(objects: &mut Objects, reason: &str, message: &str) {
    objects.condition("ScalingLimited", "True", reason, message);
}

fn stabilized(objects: &mut Objects, direction: &str) {
    objects.condition(
        "AbleToScale",
        "True",
        &format!("Scale{direction}Stabilized"),
        "recent recommendations were higher than current one, applying the highest recent recommendation",
    );
}

fn with_cpu(objects: &mut Objects, current: Option<i32>) {
    let triggers = &mut objects.scaled_object()["spec"]["triggers"];
    let cpu = json!({"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}});
    triggers.as_array_mut().unwrap().push(cpu);
    let target = json!({"type": "Utilization", "averageUtilization": 70});
    let metrics = objects.hpas[0]["spec"]["metrics"].as_array_mut().unwrap();
    metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    let status = match current {
        Some(percent) => json!({"type": "Resource", "resource": {
            "name": "cpu", "current": {"averageUtilization": percent, "averageValue": "70m"},
        }}),
        // What the controller leaves of a metric that failed.
        None => json!({"type": ""}),
    };
    objects.hpas[0]["status"]["currentMetrics"].as_array_mut().unwrap().push(status);
}

const NO_CPU: &str = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API";
const NO_QUEUE: &str = "the HPA was unable to compute the replica count: unable to get external metric team-a/s0-prometheus/&LabelSelector{MatchLabels:map[string]string{scaledobject.keda.sh/name: queue,},MatchExpressions:[]LabelSelectorRequirement{},}: unable to fetch metrics from external metrics API: Internal error occurred: unable to get external metric s0-prometheus";

#[rstest]
#[case::at_minimum("at_minimum", Reason::AtMinimum, driven(1, "0"), |_: &mut Objects| {})]
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
fn pages(#[case] name: &str, #[case] reason: Reason, #[case] mut objects: Objects, #[case] change: fn(&mut Objects)) {
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
    collect(&explanation, String::new(), &mut paths);
    let documentation = include_str!("../../../docs/explain-scaling.md");
    let missing: Vec<_> = paths.iter().filter(|path| !documentation.contains(&format!("| `{path}` |"))).collect();
    assert!(missing.is_empty(), "not in docs/explain-scaling.md: {missing:?}");
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&explanation).unwrap());
}

fn collect(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
                paths.push(path.clone());
                collect(value, path, paths);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, format!("{path}[]"), paths)),
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

/// What of an explanation's reason does not follow from its own numbers, worked out apart from how the reason was found.
fn contradiction(explanation: &Explanation) -> Option<&'static str> {
    let Explanation { reason, why, change, chain } = explanation;
    let count = chain.scale.replicas;
    let asking: Vec<i32> = chain.triggers.iter().filter(|trigger| trigger.measured).filter_map(|t| t.asks_for).collect();
    let asked = asking.iter().copied().max();
    let hpa = chain.hpa.as_ref();
    let (least, most) = hpa.map_or((1, i32::MAX), |hpa| (hpa.min, hpa.max));
    let wrong = match reason {
        Reason::AtMaximum => count < most || asked.is_none_or(|asked| asked <= count),
        Reason::AtMinimum => count > least || asked.is_none_or(|asked| asked >= count),
        Reason::ClusterBound => Some(count) != chain.scale.max && Some(count) != chain.scale.min && (least..=most).contains(&count)
            && chain.scale.max.is_none_or(|max| count < max) && chain.scale.min.is_none_or(|min| count > min),
        Reason::Followed | Reason::WithinTolerance => asked != Some(count),
        Reason::Stabilizing => {
            let up = hpa.and_then(|hpa| hpa.stabilizing.as_ref()).is_none_or(|window| window.up);
            asked.is_none_or(|asked| if up { asked <= count } else { asked >= count })
        }
        Reason::UnderWay | Reason::RateLimited | Reason::DirectionOff => asked.is_none_or(|asked| asked == count),
        Reason::OutsideRange => (least..=most).contains(&count),
        Reason::HpaMissing | Reason::NoDriver | Reason::ScaledObjectFailing => hpa.is_some(),
        Reason::MetricsMissing => {
            let missing = chain.triggers.iter().any(|trigger| trigger.measured && trigger.asks_for.is_none());
            let inactive = hpa.is_some_and(|hpa| hpa.inactive.is_some());
            !missing && !inactive
        }
        Reason::Paused => chain.scaled_object.as_ref().is_none_or(|found| found.pause.is_none()),
        Reason::SeveralDrivers => chain.other_scaled_objects.is_empty() && chain.other_hpas.is_empty(),
        Reason::Deleting => !chain.deleting,
        Reason::DriverDeleting => chain.scaled_object.as_ref().is_none_or(|found| !found.deleting),
        Reason::ScaleFailing => hpa.is_none_or(|hpa| hpa.unable.is_none()),
        Reason::NotLookedYet => hpa.is_none(),
    };
    match () {
        () if wrong => Some("the reason does not fit the numbers"),
        () if *reason != Reason::Deleting && !why.contains(&format!("is set to {count} replica")) => Some("the count"),
        () if why.is_empty() || !why.ends_with('.') || change.is_empty() || !change.ends_with('.') => Some("no sentence"),
        () => None,
    }
}

mod properties {
    use proptest::option;
    use proptest::prelude::*;

    use super::super::verdict::verdict;
    use super::*;

    fn trigger() -> impl Strategy<Value = TriggerLink> {
        (option::of(0..12_i32), any::<bool>(), any::<bool>()).prop_map(|(asks_for, within_tolerance, measured)| TriggerLink {
            type_: "prometheus".into(),
            metric: Some("s0-prometheus".into()),
            measured,
            target_type: Some(TargetType::AverageValue),
            target: Some(4.0),
            current: asks_for.map(f64::from),
            within_tolerance: within_tolerance && asks_for.is_some(),
            asks_for,
            ..TriggerLink::default()
        })
    }

    fn limit(reasons: &'static [&'static str]) -> impl Strategy<Value = Option<Limit>> {
        option::of(proptest::sample::select(reasons))
            .prop_map(|reason| reason.map(|reason| Limit { reason: reason.into(), message: "m".into() }))
    }

    fn hpa() -> impl Strategy<Value = HpaLink> {
        let stabilizing = option::of(any::<bool>()).prop_map(|up| {
            up.map(|up| Stabilizing { up, window_seconds: 300, window_is_default: true, not_before: None, not_after: now() })
        });
        (
            (1..5_i32, 5..9_i32, option::of(0..9_i32), stabilizing, any::<[bool; 2]>()),
            limit(&["ScaleUpLimit", "ScaleDownLimit", "TooManyReplicas", "TooFewReplicas"]),
            limit(&["FailedGetExternalMetric"]),
            limit(&["FailedUpdateScale", "FailedGetScale"]),
            0..4,
        )
            .prop_map(|((min, max, desired, stabilizing, [up, down]), limited, inactive, unable, healthy)| HpaLink {
                name: "h".into(),
                min,
                max,
                current: desired,
                desired,
                limited,
                // Mostly healthy, or no more than that would be seen.
                inactive: inactive.filter(|_| healthy == 0),
                unable: unable.filter(|_| healthy == 1),
                stabilizing,
                up_disabled: up,
                down_disabled: down,
                ..HpaLink::default()
            })
    }

    fn scaled_object() -> impl Strategy<Value = ScaledObjectLink> {
        (option::of(0..12_i32), 0..6, option::of(any::<bool>()), any::<bool>()).prop_map(|(pinned, state, ready, fallback)| ScaledObjectLink {
            name: "q".into(),
            pause: (state == 0).then_some(Pause { annotation: "a", kind: PauseKind::Whole, replicas: pinned }),
            deleting: state == 1,
            ready,
            last_error: (ready == Some(false)).then(|| "e".into()),
            fallback,
            ..ScaledObjectLink::default()
        })
    }

    fn chain() -> impl Strategy<Value = Chain> {
        let scale = (1..12_i32, option::of(1..4_i32), option::of(4..12_i32), 0..12_i32).prop_map(|(replicas, min, max, ready)| ScaleLink {
            replicas: replicas.clamp(min.unwrap_or(1), max.unwrap_or(12)),
            existing: replicas,
            ready,
            min,
            max,
            ..ScaleLink::default()
        });
        (scale, option::of(scaled_object()), option::weighted(0.9, hpa()), prop::collection::vec(trigger(), 1..4), 0..20).prop_map(
            |(scale, scaled_object, hpa, triggers, rest)| Chain {
                namespace: "n".into(),
                cluster: "c".into(),
                at: now(),
                deleting: rest == 0,
                keda_installed: true,
                scaled_object,
                other_scaled_objects: Vec::new(),
                triggers,
                other_hpas: if rest == 1 && hpa.is_some() { vec!["other".into()] } else { Vec::new() },
                hpa,
                scale,
                stateful_set: None,
                pods: None,
                waiting_for: None,
                unseen: Vec::new(),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_sentence_contradicts_its_numbers(chain in chain()) {
            let found = verdict(&chain);
            let explanation = Explanation { reason: found.reason, why: found.why, change: found.change, chain };
            prop_assert_eq!(contradiction(&explanation), None, "{:#?}", explanation);
            let page = page(&explanation);
            prop_assert!(page.contains(&explanation.why) && page.ends_with(&format!("{}\n", explanation.change)), "{}", page);
        }
    }
}
