//! What is read of each object, and what of it is a fact.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn scaled_object(target: &Value, annotations: &Value) -> ScaledObjectPart {
    serde_json::from_value(json!({
        "metadata": {"name": "s", "namespace": "n", "annotations": annotations},
        "spec": {"scaleTargetRef": target, "minReplicaCount": 2},
    }))
    .unwrap()
}

#[rstest]
#[case::ours(json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"}), true)]
#[case::another_version(json!({"apiVersion": "training.distributed-inference.io/v1", "kind": "VLLMCluster", "name": "a"}), true)]
#[case::another_group(json!({"apiVersion": "example.io/v1alpha1", "kind": "VLLMCluster", "name": "a"}), false)]
#[case::another_kind(json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "Other", "name": "a"}), false)]
#[case::a_deployment_by_default(json!({"name": "a"}), false)]
fn attached(#[case] target: Value, #[case] expected: bool) {
    let attachment = scaled_object(&target, &json!({})).attachment();
    assert_eq!(attachment.is_some(), expected);
    if let Some(Attachment { cluster, driver: scaler }) = attachment {
        assert_eq!((cluster.as_str(), scaler.min, scaler.max, scaler.paused), ("a", Some(2), None, false));
    }
}

#[rstest]
#[case::nothing(json!({}), false)]
#[case::yes(json!({"autoscaling.keda.sh/paused": "true"}), true)]
#[case::no(json!({"autoscaling.keda.sh/paused": "false"}), false)]
#[case::zero(json!({"autoscaling.keda.sh/paused": "0"}), false)]
#[case::unreadable_is_yes(json!({"autoscaling.keda.sh/paused": "maybe"}), true)]
#[case::pinned(json!({"autoscaling.keda.sh/paused-replicas": "3"}), true)]
#[case::pinned_wins(json!({"autoscaling.keda.sh/paused": "false", "autoscaling.keda.sh/paused-replicas": "3"}), true)]
fn pauses(#[case] annotations: Value, #[case] expected: bool) {
    let annotations: BTreeMap<String, String> = serde_json::from_value(annotations).unwrap();
    assert_eq!(paused(Some(&annotations)), expected);
}

#[test]
fn one_that_is_being_deleted_is_not_attached() {
    let mut part = scaled_object(
        &json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"}),
        &json!({}),
    );
    assert!(part.attachment().is_some());
    part.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(part.attachment(), None);
}

#[test]
fn a_cluster_without_spec_has_no_bounds() {
    let part: ClusterPart = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": null})).unwrap();
    assert_eq!(part.facts().bounds, Bounds::default());
}

#[rstest]
#[case::nothing(json!(null), (false, false))]
#[case::empty(json!({"requests": null, "limits": {}}), (false, false))]
#[case::requests(json!({"requests": {"cpu": "1", "memory": "1Gi"}}), (true, true))]
#[case::a_limit_is_a_request(json!({"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}}), (true, true))]
#[case::null_is_absent(json!({"requests": {"cpu": null}, "limits": {"memory": null}}), (false, false))]
#[case::nothing_of_it(json!({"requests": {"cpu": "0", "memory": 0}, "limits": {"cpu": "0e3", "memory": "-1Gi"}}), (false, false))]
#[case::some_of_it(json!({"requests": {"cpu": "0.5e3", "memory": "+1E"}}), (true, true))]
#[case::another_resource(json!({"limits": {"nvidia.com/gpu": 1}}), (false, false))]
fn requests(#[case] resources: Value, #[case] expected: (bool, bool)) {
    let part: ClusterPart =
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"resources": resources}})).unwrap();
    let Cluster { cpu_request, memory_request, .. } = part.facts();
    assert_eq!((cpu_request, memory_request), expected);
}

#[rstest]
#[case::announced(json!({TRANSFER_HPA: "true"}), json!("h"), Some("h"))]
#[case::not_announced(json!({}), json!("h"), None)]
#[case::only_true_counts(json!({TRANSFER_HPA: "True"}), json!("h"), None)]
#[case::which_one(json!({TRANSFER_HPA: "true"}), json!(null), None)]
#[case::no_name(json!({TRANSFER_HPA: "true"}), json!(""), None)]
fn takes_over(#[case] annotations: Value, #[case] name: Value, #[case] expected: Option<&str>) {
    let part: ScaledObjectPart = serde_json::from_value(json!({
        "metadata": {"name": "s", "annotations": annotations},
        "spec": {"scaleTargetRef": ours(), "advanced": {"horizontalPodAutoscalerConfig": {"name": name}}},
    }))
    .unwrap();
    assert_eq!(part.attachment().unwrap().driver.takes_over.as_deref(), expected);
}

fn ours() -> Value {
    json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"})
}

fn hpa(metadata: &Value, spec: &Value) -> HpaPart {
    let mut object = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": ours(), "maxReplicas": 5}});
    json_patch::merge(&mut object, &json!({"metadata": metadata, "spec": spec}));
    serde_json::from_value(object).unwrap()
}

#[rstest]
#[case::minimum_left_out(json!({}), Some((1, 5)))]
#[case::minimum_stated(json!({"minReplicas": 0}), Some((0, 5)))]
#[case::of_version_1(json!({"targetCPUUtilizationPercentage": 80}), Some((1, 5)))]
#[case::null_is_absent(json!({"scaleTargetRef": null}), None)]
#[case::another_group(json!({"scaleTargetRef": {"apiVersion": "example.io/v1"}}), None)]
#[case::another_kind(json!({"scaleTargetRef": {"kind": "Deployment"}}), None)]
#[case::no_name(json!({"scaleTargetRef": {"name": null}}), None)]
fn an_hpa(#[case] spec: Value, #[case] expected: Option<(i32, i32)>) {
    let view = hpa(&json!({}), &spec).view();
    assert_eq!(view.as_ref().map(|view| (view.min, view.max)), expected);
    assert!(
        view.is_none_or(|view| (view.name, view.cluster, view.beside) == ("h".into(), "a".into(), false))
    );
}

#[rstest]
#[case::nobodys(json!({}), true)]
#[case::kedas(json!({"ownerReferences": [owner("keda.sh/v1alpha1", "ScaledObject", true)]}), false)]
#[case::not_controlled(json!({"ownerReferences": [owner("keda.sh/v1alpha1", "ScaledObject", false)]}), true)]
#[case::a_longer_group(json!({"ownerReferences": [owner("keda.sh.io/v1alpha1", "ScaledObject", true)]}), true)]
#[case::of_a_scaled_job(json!({"ownerReferences": [owner("keda.sh/v1alpha1", "ScaledJob", true)]}), true)]
#[case::excused(json!({"annotations": {HPA_OWNERSHIP: "false"}}), false)]
#[case::only_false_excuses(json!({"annotations": {HPA_OWNERSHIP: "true"}}), true)]
#[case::being_deleted(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), false)]
fn foreign_hpas(#[case] metadata: Value, #[case] expected: bool) {
    let attachment = hpa(&metadata, &json!({})).attachment();
    let foreign = Attachment { cluster: "a".into(), driver: ForeignHpa { name: "h".into(), min: 1, max: 5 } };
    assert_eq!(attachment, expected.then_some(foreign));
}

fn owner(api_version: &str, kind: &str, controller: bool) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": "s", "uid": "u", "controller": controller})
}
