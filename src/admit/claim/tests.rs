//! Two drivers for one cluster: the second comes before any watch has told of the first.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use crate::admit::Phase;
use crate::admit::fixture::{Fixture, create_scaled_object, recorded, review, target};
use crate::policy::{Bounds, Scaler};
use crate::world::{Attachment, Key};

const CLUSTER: &str = "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters/a";
const SCALED_OBJECTS: &str = "/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects";
const A_MOMENT_AGO: &str =
    "(it was let through a moment ago; if nothing came of it, try again in a few seconds)";

fn scaled_object(name: &str) -> Value {
    create_scaled_object(name, "a")
}

fn hpa(name: &str) -> Value {
    let mut review = review(recorded::CREATE_HPA);
    let request = &mut review["request"];
    request["namespace"] = json!("t");
    request["name"] = json!(name);
    request["object"]["metadata"] = json!({"name": name, "namespace": "t"});
    request["object"]["spec"]["scaleTargetRef"] = target("a");
    request["object"]["spec"]["minReplicas"] = json!(1);
    request["object"]["spec"]["maxReplicas"] = json!(4);
    review
}

/// A write with these changes.
fn with(mut review: Value, changes: &Value) -> Value {
    json_patch::merge(&mut review["request"], changes);
    review
}

fn annotated(review: Value, key: &str, value: &str) -> Value {
    with(review, &json!({"object": {"metadata": {"annotations": {key: value}}}}))
}

/// An update of what pointed at this cluster.
fn update(review: Value, from: &str) -> Value {
    let mut old = review["request"]["object"].clone();
    old["spec"]["scaleTargetRef"] = target(from);
    old["spec"]["maxReplicaCount"] = json!(3);
    with(review, &json!({"operation": "UPDATE", "oldObject": old}))
}

/// A cluster that is known, and these ScaledObjects by a live read.
fn stored(scaled_objects: &[Value]) -> Fixture {
    let items: Value = scaled_objects.iter().map(|review| review["request"]["object"].clone()).collect();
    let cluster = json!({"metadata": {"name": "a", "namespace": "t", "resourceVersion": "1"}});
    Fixture::new([(CLUSTER, cluster), (SCALED_OBJECTS, json!({"metadata": {}, "items": items}))]).knows(
        "a",
        "1",
        Bounds::default(),
    )
}

async fn allowed(fixture: &Fixture, review: &Value) -> bool {
    fixture.answer(Phase::Validating, review).await["allowed"] == true
}

async fn refusal(fixture: &Fixture, review: &Value) -> String {
    let response = fixture.answer(Phase::Validating, review).await;
    assert_eq!(
        (&response["allowed"], &response["status"]["code"]),
        (&json!(false), &json!(422)),
        "{response}"
    );
    response["status"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn of_two_scaled_objects_one_is_let_through() {
    let fixture = stored(&[]);
    assert!(allowed(&fixture, &scaled_object("left")).await);
    let says = refusal(&fixture, &scaled_object("right")).await;
    let sentence = "VLLMCluster \"a\" is already scaled by ScaledObject \"left\"; move the triggers there, or delete it first: kubectl delete scaledobject left";
    assert!(says.ends_with(&format!("{sentence} {A_MOMENT_AGO}")), "{says}");
    assert_eq!(fixture.asked(), Vec::<String>::new());
    // A dry run says the same, and whoever tries again is no rival of themselves.
    let says = refusal(&fixture, &with(scaled_object("right"), &json!({"dryRun": true}))).await;
    assert!(says.contains(sentence), "{says}");
    assert!(allowed(&fixture, &scaled_object("left")).await);
}

#[rstest]
#[case::two_hpas(hpa("one"), hpa("two"), true)]
#[case::hpa_beside_scaled_object(scaled_object("left"), hpa("one"), false)]
#[case::scaled_object_beside_hpa(hpa("one"), scaled_object("left"), false)]
#[case::hpa_that_may_stand_beside(
    scaled_object("left"),
    annotated(hpa("one"), "validations.keda.sh/hpa-ownership", "false"),
    true
)]
#[case::beside_hpa_that_may_stand_there(
    annotated(hpa("one"), "validations.keda.sh/hpa-ownership", "false"),
    scaled_object("left"),
    true
)]
#[case::hpa_that_is_taken_over(
    hpa("one"),
    with(
        annotated(scaled_object("left"), "scaledobject.keda.sh/transfer-hpa-ownership", "true"),
        &json!({"object": {"spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": "one"}}}}})
    ),
    true
)]
#[case::of_another_namespace(scaled_object("left"), with(scaled_object("right"), &json!({"namespace": "u"})), true)]
#[case::of_another_cluster(
    scaled_object("left"),
    with(scaled_object("right"), &json!({"object": {"spec": {"scaleTargetRef": target("b")}}})),
    true
)]
#[case::turned_to_the_cluster(scaled_object("left"), update(scaled_object("right"), "b"), false)]
#[case::of_the_cluster_already(scaled_object("left"), update(scaled_object("right"), "a"), true)]
#[case::beside_one_of_the_cluster_already(update(scaled_object("left"), "a"), scaled_object("right"), true)]
#[case::after_a_dry_run(with(scaled_object("left"), &json!({"dryRun": true})), scaled_object("right"), true)]
#[tokio::test]
async fn the_second_is_judged_beside_the_first(
    #[case] first: Value,
    #[case] second: Value,
    #[case] passes: bool,
) {
    let fixture = stored(&[]);
    assert!(allowed(&fixture, &first).await);
    if passes {
        assert!(allowed(&fixture, &second).await);
    } else {
        let says = refusal(&fixture, &second).await;
        assert!(says.ends_with(A_MOMENT_AGO), "{says}");
    }
}

#[tokio::test]
async fn what_is_not_let_through_claims_nothing() {
    let fixture = stored(&[]);
    let zero = with(scaled_object("left"), &json!({"object": {"spec": {"minReplicaCount": 0}}}));
    refusal(&fixture, &zero).await;
    // Others are asked after the mutating webhook, and the schema.
    assert_eq!(fixture.answer(Phase::Mutating, &scaled_object("left")).await["allowed"], true);
    assert!(allowed(&fixture, &scaled_object("right")).await);
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_which_nothing_came_ends() {
    let fixture = stored(&[]);
    assert!(allowed(&fixture, &scaled_object("left")).await);
    tokio::time::advance(Duration::from_millis(1900)).await;
    refusal(&fixture, &scaled_object("right")).await;
    tokio::time::advance(Duration::from_millis(100)).await;
    assert!(allowed(&fixture, &scaled_object("right")).await);
    assert_eq!(fixture.asked().len(), 4);
    // Which claims in its turn.
    let says = refusal(&fixture, &scaled_object("left")).await;
    assert!(says.contains("\"right\""), "{says}");
}

#[tokio::test(start_paused = true)]
async fn what_came_of_a_claim_is_read_before_any_watch_tells_of_it() {
    let fixture = stored(&[scaled_object("left")]);
    assert!(allowed(&fixture, &scaled_object("left")).await);
    tokio::time::advance(Duration::from_secs(5)).await;
    for rival in [scaled_object("right"), hpa("one")] {
        let says = refusal(&fixture, &rival).await;
        assert!(says.contains("\"left\"") && !says.contains(A_MOMENT_AGO), "{says}");
    }
}

#[rstest]
#[tokio::test]
async fn one_that_was_stored_and_deleted_at_once_is_in_nobodys_way(#[values(false, true)] by_a_list: bool) {
    let fixture = stored(&[]);
    assert!(allowed(&fixture, &scaled_object("left")).await);
    let driver = Scaler { name: "left".into(), min: Some(1), max: Some(4), paused: false, takes_over: None };
    let (key, attachment) = (Key::new("t", "left"), Attachment { cluster: "a".into(), driver });
    let world = &fixture.admission.world;
    if by_a_list {
        world.replace(vec![(key.clone(), attachment)]);
    } else {
        world.put(&key, Some(attachment));
    }
    world.put::<Scaler>(&key, None);
    assert!(allowed(&fixture, &scaled_object("right")).await);
}
