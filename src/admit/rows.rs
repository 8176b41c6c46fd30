//! Rows of the policy that only a whole review shows: who is asked about whom, deletions, names to come.

use serde_json::{Value, json};

use super::Phase;
use super::harness::{Plane, Resource, Write, cluster, hpa, scaled_object};

fn deleted(mut object: Value) -> Value {
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    object
}

fn controlled(mut hpa: Value) -> Value {
    hpa["metadata"]["ownerReferences"] = json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "queue", "uid": "u", "controller": true}]);
    hpa
}

/// A bad object of each kind, beside a cluster that takes up to five.
fn bad() -> [(Resource, Value); 4] {
    [
        (Resource::Cluster, cluster("b", &json!({"replicas": 9, "maxReplicas": 5}))),
        (Resource::ScaledObject, scaled_object("queue", &json!({"minReplicaCount": 7}))),
        (Resource::Hpa("v1"), hpa("h", 7, 9)),
        (Resource::Hpa("v2"), hpa("h", 7, 9)),
    ]
}

fn up_to_five() -> Plane {
    Plane::new(&[(Resource::Cluster, cluster("a", &json!({"replicas": 1, "maxReplicas": 5})))])
}

#[tokio::test]
async fn what_is_bad_is_refused_while_it_lives_and_let_go_when_it_goes() {
    let plane = up_to_five();
    for (resource, object) in bad() {
        let created = Write::create(resource, object.clone());
        assert!(!plane.answer(Phase::Validating, &created).await.allowed, "{resource:?}");
        // Not seen from an API server, which sends no object along; whoever does gets the same answer.
        let mut sound = object.clone();
        sound["spec"].as_object_mut().unwrap().retain(|field, _| field == "scaleTargetRef");
        let going = Write::update(resource, deleted(sound), deleted(object.clone()));
        let gone = Write { new: None, old: Some(object.clone()), ..created.clone() };
        for write in [going, gone] {
            let answer = plane.answer(Phase::Validating, &write).await;
            assert!(answer.allowed && answer.warnings.is_empty(), "{write:?} {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_scaled_object_is_no_rival_of_itself() {
    let before = scaled_object("queue", &json!({"minReplicaCount": 1, "maxReplicaCount": 4}));
    let after = scaled_object("queue", &json!({"minReplicaCount": 2, "maxReplicaCount": 4}));
    let plane = Plane::new(&[
        (Resource::Cluster, cluster("a", &json!({"replicas": 1, "maxReplicas": 5}))),
        (Resource::ScaledObject, before.clone()),
    ]);
    let answer =
        plane.answer(Phase::Validating, &Write::update(Resource::ScaledObject, before, after.clone())).await;
    assert!(answer.allowed && answer.warnings.is_empty(), "{answer:?}");
    let mut second = after;
    second["metadata"]["name"] = json!("second");
    let answer = plane.answer(Phase::Validating, &Write::create(Resource::ScaledObject, second)).await;
    assert_eq!(answer.fields, ["spec.scaleTargetRef.name"]);
}

#[tokio::test]
async fn what_keda_makes_of_a_scaled_object_is_not_judged_again() {
    let plane = up_to_five();
    for version in ["v1", "v2"] {
        let write = Write::create(Resource::Hpa(version), controlled(hpa("keda-hpa-queue", 7, 9)));
        let answer = plane.answer(Phase::Validating, &write).await;
        assert!(answer.allowed && answer.warnings.is_empty(), "{answer:?}");
        // Taken from its ScaledObject, it has no predecessor that would excuse it.
        let taken = Write::update(Resource::Hpa(version), write.new.unwrap(), hpa("keda-hpa-queue", 7, 9));
        assert!(!plane.answer(Phase::Validating, &taken).await.allowed);
    }
}
