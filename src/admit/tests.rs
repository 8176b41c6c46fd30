//! Reviews recorded from a real API server, answered against a scripted one.

use base64::Engine as _;
use rstest::rstest;
use serde_json::json;

use super::fixture::{Fixture, Reply, recorded, review};
use super::*;
use crate::policy::{Bounds, Rule};
use crate::world::{Cluster, Key};

fn patch(response: &Value) -> Value {
    let Some(patch) = response["patch"].as_str() else { return Value::Null };
    assert_eq!(response["patchType"], "JSONPatch");
    let bytes = base64::engine::general_purpose::STANDARD.decode(patch).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn set_replicas(replicas: i32) -> Value {
    json!([{"op": "add", "path": "/spec/replicas", "value": replicas}])
}

const UP_TO_FIVE: Bounds = Bounds { min: None, max: Some(5) };

#[rstest]
#[case::to_zero(recorded::SCALE_5_TO_0, "spec.replicas: 0 is below the minimum 1", Rule::CountBelowOne)]
#[case::above(
    recorded::SCALE_5_TO_9,
    "spec.replicas: 9 is above the maximum 5 (spec.maxReplicas",
    Rule::CountAboveMaximum
)]
#[tokio::test]
async fn a_scale_outside_the_bounds_is_refused_from_what_is_known(
    #[case] line: usize,
    #[case] says: &str,
    #[case] rule: Rule,
    #[values(Phase::Mutating, Phase::Validating)] phase: Phase,
) {
    let fixture = Fixture::empty().knows("over", "655", UP_TO_FIVE);
    let response = fixture.answer(phase, &review(line)).await;
    let status = &response["status"];
    assert_eq!(
        (&response["allowed"], &status["code"], &status["reason"]),
        (&json!(false), &json!(422), &json!("Invalid"))
    );
    assert!(status["message"].as_str().unwrap().contains(says), "{response}");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.replicas");
    assert_eq!(
        (&status["details"]["kind"], &status["details"]["name"]),
        (&json!("VLLMCluster"), &json!("over"))
    );
    assert_eq!(fixture.asked(), Vec::<String>::new());
    assert_eq!(fixture.admission.metrics.admission.scale.denied(phase, rule.as_str()).get(), 1);
}

#[tokio::test]
async fn where_refusals_only_warn_the_write_passes() {
    let recorded = review(recorded::SCALE_5_TO_9);
    let namespace = recorded["request"]["namespace"].as_str().unwrap().to_owned();
    let mut fixture = Fixture::empty().knows("over", "655", UP_TO_FIVE);
    fixture.admission.world.put_mode(namespace.clone(), Some(Mode::Warn));
    let response = fixture.answer(Phase::Validating, &recorded).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert!(response["warnings"][0].as_str().unwrap().contains("9 is above the maximum 5"), "{response}");
    // The label goes before the operator's own mode, either way.
    fixture.admission.mode = Mode::Warn;
    fixture.admission.world.put_mode(namespace.clone(), Some(Mode::Deny));
    assert_eq!(fixture.answer(Phase::Validating, &recorded).await["allowed"], false);
    fixture.admission.world.put_mode(namespace, None);
    assert_eq!(fixture.answer(Phase::Validating, &recorded).await["allowed"], true);
}

#[tokio::test]
async fn a_cluster_known_too_late_is_read_live() {
    let path = "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters/over";
    let live = json!({"metadata": {"name": "over", "namespace": "t", "resourceVersion": "655"}, "spec": {"replicas": 5, "maxReplicas": 9}});
    let fixture = Fixture::new([(path, live)]).knows("over", "654", UP_TO_FIVE);
    let response = fixture.answer(Phase::Validating, &review(recorded::SCALE_5_TO_9)).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(fixture.asked(), [path]);
}

#[tokio::test]
async fn a_cluster_that_is_gone_or_going_is_not_judged() {
    let fixture = Fixture::empty();
    assert_eq!(fixture.answer(Phase::Validating, &review(recorded::SCALE_5_TO_0)).await["allowed"], true);
    let fixture = Fixture::empty();
    let facts =
        Cluster { resource_version: "655".into(), bounds: UP_TO_FIVE, deleting: true, ..Cluster::default() };
    fixture.admission.world.put_cluster(Key::new("t", "over"), facts);
    assert_eq!(fixture.answer(Phase::Validating, &review(recorded::SCALE_5_TO_0)).await["allowed"], true);
    assert_eq!(fixture.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_look_up_says_try_again() {
    let path = "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters/over";
    let fixture = Fixture::new([(path, Reply::Failure(503))]);
    let response = fixture.answer(Phase::Mutating, &review(recorded::SCALE_5_TO_9)).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(500)));
    assert!(response["status"]["message"].as_str().unwrap().ends_with("try again"), "{response}");
    assert_eq!(fixture.admission.metrics.admission.scale.failed(Phase::Mutating, "live-read").get(), 1);
}

#[rstest]
#[case::kedas_zero(recorded::KEDA_3_TO_0, "p0", "855", set_replicas(1))]
#[case::kedas_nine(recorded::KEDA_3_TO_9, "p9", "934", set_replicas(5))]
#[case::within(recorded::HPA_2_TO_4, "h", "785", Value::Null)]
#[tokio::test]
async fn an_autoscaler_is_never_refused(
    #[case] line: usize,
    #[case] cluster: &str,
    #[case] resource_version: &str,
    #[case] expected: Value,
) {
    // The scaler's range is narrower than what is asked for: that is KEDA's own business.
    let mut recorded = review(line);
    recorded["request"]["namespace"] = json!("t");
    let fixture = Fixture::empty().knows(cluster, resource_version, UP_TO_FIVE).scaler(cluster, 1, 2);
    let response = fixture.answer(Phase::Mutating, &recorded).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(patch(&response), expected);
    assert_eq!(response["auditAnnotations"].is_object(), !expected.is_null());
    assert_eq!(fixture.admission.metrics.admission.clamped.get(), u64::from(!expected.is_null()));
    let response = fixture.answer(Phase::Validating, &recorded).await;
    assert_eq!((&response["allowed"], patch(&response)), (&json!(true), Value::Null));
}

const SCALER: &str = "/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects/queue";

fn scaled_object(max: i32) -> Value {
    json!({
        "metadata": {"name": "queue", "namespace": "t"},
        "spec": {"scaleTargetRef": {"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"}, "minReplicaCount": 1, "maxReplicaCount": max},
    })
}

fn of_another_cluster() -> Value {
    let mut scaled_object = scaled_object(6);
    scaled_object["spec"]["scaleTargetRef"]["name"] = json!("b");
    scaled_object
}

#[tokio::test]
async fn a_refusal_that_rests_on_a_scaled_object_reads_it_first() {
    let fixture =
        Fixture::new([(SCALER, scaled_object(6))]).knows("a", "349", Bounds::default()).scaler("a", 1, 6);
    let response = fixture.answer(Phase::Mutating, &review(recorded::SCALE_3_TO_7)).await;
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("7 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue\""),
        "{response}"
    );
    assert_eq!(fixture.asked(), [SCALER]);
}

#[rstest]
#[case::widened(Some(scaled_object(9)))]
#[case::deleted(None)]
#[case::of_another_cluster_now(Some(of_another_cluster()))]
#[tokio::test]
async fn a_scaled_object_that_has_changed_meanwhile_refuses_nothing(#[case] live: Option<Value>) {
    let fixture =
        Fixture::new(live.map(|live| (SCALER, live))).knows("a", "349", Bounds::default()).scaler("a", 1, 6);
    let response = fixture.answer(Phase::Mutating, &review(recorded::SCALE_3_TO_7)).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(fixture.asked(), [SCALER]);
}

#[tokio::test]
async fn warnings_are_said_once() {
    let fixture = Fixture::empty().knows("a", "349", Bounds::default()).scaler("a", 1, 9);
    let recorded = review(recorded::SCALE_3_TO_7);
    assert_eq!(fixture.answer(Phase::Mutating, &recorded).await["warnings"], Value::Null);
    let warnings = &fixture.answer(Phase::Validating, &recorded).await["warnings"];
    assert!(warnings[0].as_str().unwrap().contains("will decide again"), "{warnings}");
}

#[tokio::test]
async fn a_count_that_is_left_out_is_filled_in() {
    let fixture = Fixture::empty();
    let response = fixture.answer(Phase::Mutating, &review(recorded::CREATE_WITHOUT_COUNT)).await;
    assert_eq!(patch(&response), set_replicas(1));
    for line in recorded::UPDATE_WITHOUT_COUNT {
        let response = fixture.answer(Phase::Mutating, &review(line)).await;
        assert_eq!((&response["allowed"], patch(&response)), (&json!(true), set_replicas(7)), "line {line}");
    }
    assert_eq!(fixture.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_spec_is_made() {
    let mut recorded = review(recorded::CREATE_WITHOUT_COUNT);
    recorded["request"]["object"]["spec"] = Value::Null;
    let response = Fixture::empty().answer(Phase::Mutating, &recorded).await;
    assert_eq!(patch(&response), json!([{"op": "add", "path": "/spec", "value": {"replicas": 1}}]));
}

#[tokio::test]
async fn keep_live_replicas_leaves_the_live_count_alone() {
    let mut recorded = review(2);
    recorded["request"]["object"]["metadata"]["annotations"]["training.distributed-inference.io/keep-live-replicas"] =
        json!("true");
    let response = Fixture::empty().answer(Phase::Mutating, &recorded).await;
    assert_eq!(patch(&response), set_replicas(7));
}

#[tokio::test]
async fn crossed_bounds_get_our_sentence_before_the_schemas() {
    let response = Fixture::empty().answer(Phase::Mutating, &review(recorded::CREATE_CROSSED_BOUNDS)).await;
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("spec.minReplicas: 6 is above spec.maxReplicas 3"), "{response}");
    assert_eq!(response["patch"], Value::Null);
}

#[tokio::test]
async fn a_wrong_type_is_left_to_the_schema() {
    let mut recorded = review(recorded::CREATE_WITHOUT_COUNT);
    recorded["request"]["object"]["spec"]["replicas"] = json!("three");
    let response = Fixture::empty().answer(Phase::Mutating, &recorded).await;
    assert_eq!((&response["allowed"], patch(&response)), (&json!(true), Value::Null));
}

#[tokio::test]
async fn other_resources_are_not_judged() {
    let mut recorded = review(recorded::CREATE_SCALED_OBJECT);
    recorded["request"]["resource"]["resource"] = json!("scaledjobs");
    let response = Fixture::empty().answer(Phase::Validating, &recorded).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(500)));
    assert!(response["status"]["message"].as_str().unwrap().contains("scaledjobs"), "{response}");
}

/// The recorded creation of a ScaledObject, for cluster `a` in namespace `t`, with this spec beside its target.
fn scaled_object_review(spec: &Value) -> Value {
    let mut recorded = review(recorded::CREATE_SCALED_OBJECT);
    let request = &mut recorded["request"];
    request["namespace"] = json!("t");
    request["name"] = json!("new");
    request["object"]["metadata"]["name"] = json!("new");
    request["object"]["spec"] = spec.clone();
    request["object"]["spec"]["scaleTargetRef"] = json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"});
    recorded
}

fn triggers() -> Value {
    json!([{"type": "prometheus", "metadata": {"serverAddress": "http://p:9090", "query": "sum(vllm:num_requests_waiting)", "threshold": "4"}}])
}

#[tokio::test]
async fn a_scaled_object_takes_its_range_from_the_cluster() {
    let bounds = Bounds { min: Some(2), max: Some(6) };
    let fixture = Fixture::empty().knows("a", "1", bounds);
    let response =
        fixture.answer(Phase::Mutating, &scaled_object_review(&json!({"triggers": triggers()}))).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(
        patch(&response),
        json!([
            {"op": "add", "path": "/spec/minReplicaCount", "value": 2},
            {"op": "add", "path": "/spec/maxReplicaCount", "value": 6},
        ])
    );
    assert_eq!(fixture.asked(), Vec::<String>::new());
}

const CLUSTER_A: &str = "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters/a";

#[tokio::test]
async fn a_refused_scaled_object_was_judged_by_what_is_live() {
    let review =
        scaled_object_review(&json!({"minReplicaCount": 7, "maxReplicaCount": 9, "triggers": triggers()}));
    let known = Bounds { min: None, max: Some(6) };
    // Widened meanwhile.
    let live = json!({"metadata": {"name": "a", "namespace": "t"}, "spec": {"maxReplicas": 9}});
    let fixture = Fixture::new([(CLUSTER_A, live)]).knows("a", "1", known);
    assert_eq!(fixture.answer(Phase::Validating, &review).await["allowed"], true);
    let live = json!({"metadata": {"name": "a", "namespace": "t"}, "spec": {"maxReplicas": 6}});
    let fixture = Fixture::new([(CLUSTER_A, live)]).knows("a", "1", known);
    let response = fixture.answer(Phase::Validating, &review).await;
    assert_eq!(response["status"]["details"]["kind"], "ScaledObject", "{response}");
    assert!(response["status"]["message"].as_str().unwrap().contains("no count in common"), "{response}");
    assert_eq!(
        fixture
            .admission
            .metrics
            .admission
            .scaled_object
            .denied(Phase::Validating, Rule::ScalerOutsideBounds.as_str())
            .get(),
        1
    );
}

#[tokio::test]
async fn a_cluster_that_no_watch_has_told_of_is_read_live() {
    let live = json!({"metadata": {"name": "a", "namespace": "t"}, "spec": {"minReplicas": 3}});
    let fixture = Fixture::new([(CLUSTER_A, live)]);
    let response =
        fixture.answer(Phase::Mutating, &scaled_object_review(&json!({"triggers": triggers()}))).await;
    assert_eq!(patch(&response), json!([{"op": "add", "path": "/spec/minReplicaCount", "value": 3}]));
    assert_eq!(fixture.asked(), [CLUSTER_A]);
}

#[tokio::test]
async fn requests_that_a_limit_range_gives_count() {
    let cpu = json!([{"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}]);
    let review = scaled_object_review(&json!({"minReplicaCount": 1, "triggers": cpu}));
    let cluster = json!({"metadata": {"name": "a", "namespace": "t"}, "spec": {"replicas": 1}});
    let fixture = Fixture::new([(CLUSTER_A, cluster.clone())]).knows("a", "1", Bounds::default());
    let response = fixture.answer(Phase::Validating, &review).await;
    assert_eq!(response["status"]["details"]["causes"].as_array().map(Vec::len), Some(1), "{response}");
    assert!(response["status"]["message"].as_str().unwrap().contains("spec.triggers[0]"), "{response}");
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}});
    let ranges = json!({"metadata": {}, "items": [range]});
    let fixture = Fixture::new([(CLUSTER_A, cluster), ("/api/v1/namespaces/t/limitranges", ranges)]).knows(
        "a",
        "1",
        Bounds::default(),
    );
    let response = fixture.answer(Phase::Validating, &review).await;
    assert_eq!(response["allowed"], true, "{response}");
}

fn hpa_review(owners: &Value) -> Value {
    let mut recorded = review(recorded::CREATE_HPA);
    recorded["request"]["namespace"] = json!("t");
    recorded["request"]["object"]["metadata"]["ownerReferences"] = owners.clone();
    recorded["request"]["object"]["spec"]["scaleTargetRef"] = json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"});
    recorded
}

#[tokio::test]
async fn an_hpa_beside_a_scaled_object_is_refused_unless_it_is_kedas_own() {
    let listed = json!({"metadata": {}, "items": [scaled_object(6)]});
    let path = "/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects";
    let fixture = Fixture::new([(path, listed)]).knows("a", "1", Bounds::default()).scaler("a", 1, 6);
    let response = fixture.answer(Phase::Validating, &hpa_review(&Value::Null)).await;
    assert_eq!(response["status"]["details"]["kind"], "HorizontalPodAutoscaler", "{response}");
    assert!(response["status"]["message"].as_str().unwrap().contains("ScaledObject \"queue\""), "{response}");
    let owners = json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "queue", "uid": "u", "controller": true}]);
    assert_eq!(fixture.answer(Phase::Validating, &hpa_review(&owners)).await["allowed"], true);
    // Deleted meanwhile: nobody is beside it.
    let fixture = Fixture::empty().knows("a", "1", Bounds::default()).scaler("a", 1, 6);
    assert_eq!(fixture.answer(Phase::Validating, &hpa_review(&Value::Null)).await["allowed"], true);
}

const ALL_AROUND: [&str; 4] = [
    "/api/v1/namespaces/t/limitranges",
    "/apis/autoscaling/v2/namespaces/t/horizontalpodautoscalers",
    "/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects",
    CLUSTER_A,
];

fn trigger(type_: &str) -> Value {
    json!({"minReplicaCount": 1, "triggers": [{"type": type_, "metricType": "Utilization", "metadata": {"value": "70"}}]})
}

fn hpa_of(name: &str, min: i32) -> Value {
    let mut review = hpa_review(&Value::Null);
    review["request"]["object"]["metadata"]["name"] = json!(name);
    review["request"]["object"]["spec"]["minReplicas"] = json!(min);
    review["request"]["object"]["spec"]["maxReplicas"] = json!(9);
    review
}

/// The live reads for one refusal, beside a cluster of up to five that is known: none for what is wrong by itself.
#[rstest]
#[case::slip_in_a_trigger(scaled_object_review(&trigger("promtheus")), &[])]
#[case::zero(scaled_object_review(&json!({"minReplicaCount": 0, "maxReplicaCount": 2, "triggers": triggers()})), &[])]
#[case::no_common_range(scaled_object_review(&json!({"minReplicaCount": 7, "maxReplicaCount": 9, "triggers": triggers()})), &ALL_AROUND)]
#[case::no_common_range_and_a_slip(scaled_object_review(&json!({"minReplicaCount": 7, "maxReplicaCount": 9, "triggers": trigger("promtheus")["triggers"]})), &ALL_AROUND)]
#[case::fallback(scaled_object_review(&json!({"minReplicaCount": 1, "fallback": {"replicas": 6}, "triggers": triggers()})), &ALL_AROUND)]
#[case::no_request(scaled_object_review(&trigger("cpu")), &ALL_AROUND)]
#[case::hpa_of_no_owner(hpa_of("keda-hpa-queue", 1), &[])]
#[case::hpa_outside(hpa_of("h", 7), &ALL_AROUND[2..])]
#[tokio::test]
async fn a_refusal_reads_what_it_rests_on(#[case] review: Value, #[case] reads: &[&str]) {
    let live = json!({"metadata": {"name": "a", "namespace": "t"}, "spec": {"maxReplicas": 5}});
    let bounds = Bounds { min: None, max: Some(5) };
    let fixture = Fixture::new([(CLUSTER_A, live)]).knows("a", "1", bounds);
    let response = fixture.answer(Phase::Validating, &review).await;
    assert_eq!(response["allowed"], false, "{response}");
    let mut asked = fixture.asked();
    asked.sort();
    assert_eq!(asked, reads, "{response}");
}

#[rstest]
#[case::second_scaled_object(scaled_object_review(&json!({"minReplicaCount": 1, "triggers": triggers()})))]
#[case::hpa(hpa_of("h", 1))]
#[tokio::test]
async fn a_rival_that_is_gone_refuses_nothing(#[case] review: Value) {
    let live = json!({"metadata": {"name": "a", "namespace": "t"}, "spec": {"maxReplicas": 9}});
    let fixture = Fixture::new([(CLUSTER_A, live)]).knows("a", "1", UP_TO_FIVE).scaler("a", 1, 5);
    let response = fixture.answer(Phase::Validating, &review).await;
    assert_eq!(response["allowed"], true, "{response}");
}

#[tokio::test]
async fn an_update_that_says_nothing_new_reads_nothing() {
    let mut review = scaled_object_review(&trigger("promtheus"));
    review["request"]["operation"] = json!("UPDATE");
    review["request"]["oldObject"] = review["request"]["object"].clone();
    let fixture = Fixture::empty();
    let response = fixture.answer(Phase::Validating, &review).await;
    assert_eq!((&response["allowed"], fixture.asked().len()), (&json!(true), 0), "{response}");
}
