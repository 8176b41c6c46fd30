//! Rows of the policy that only a whole review shows: who is asked about whom, deletions, names to come.

use rstest::rstest;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::policy::Mode;

use super::harness::{Plane, Resource, Write, cluster, hpa, scaled_object};
use super::{OwnScaler, Phase};

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
        let going = Write::update(resource, deleted(sound.clone()), deleted(object.clone()));
        // As a PUT from a manifest comes to the mutating webhook.
        let put = Write::update(resource, deleted(sound), object.clone());
        let gone = Write { new: None, old: Some(object.clone()), ..created.clone() };
        let phases = if matches!(resource, Resource::Hpa(_)) {
            &[Phase::Validating][..]
        } else {
            &[Phase::Mutating, Phase::Validating]
        };
        for (write, phase) in
            [going, put, gone].iter().flat_map(|write| phases.iter().map(move |of| (write, *of)))
        {
            let answer = plane.answer(phase, write).await;
            let silent = answer.warnings.is_empty() && answer.patch.0.is_empty();
            assert!(answer.allowed && silent, "{phase:?} {write:?} {answer:?}");
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

/// What is readable is filled in and judged; what is not is the schema's, which names the field and the type.
#[rstest]
#[case::float(json!({"replicas": 3.0, "maxReplicas": 2.0}), &["spec.replicas"], &json!(null))]
#[case::sound_float(json!({"replicas": 3.0}), &[], &json!(3.0))]
#[case::text(json!({"replicas": "3", "minReplicas": 9, "maxReplicas": 8}), &["spec.minReplicas"], &json!(null))]
#[case::only_text(json!({"replicas": "3"}), &[], &json!("3"))]
#[case::fraction(json!({"replicas": 3.5}), &[], &json!(3.5))]
#[case::i64_count(json!({"replicas": 3_000_000_000_i64}), &[], &json!(3_000_000_000_i64))]
#[case::i64_bound(json!({"maxReplicas": 3_000_000_000_i64}), &[], &json!(1))]
#[case::i64_bound_beside_another(json!({"maxReplicas": 3_000_000_000_i64, "minReplicas": 4}), &[], &json!(4))]
#[case::text_bound(json!({"minReplicas": "3"}), &[], &json!(1))]
#[case::list_bound(json!({"minReplicas": [3]}), &[], &json!(1))]
#[tokio::test]
async fn counts_of_another_type(#[case] spec: Value, #[case] refused: &[&str], #[case] stored: &Value) {
    let write = Write::create(Resource::Cluster, cluster("a", &spec));
    let answer = Plane::new(&[]).answer(Phase::Mutating, &write).await;
    assert_eq!(answer.fields, refused, "{answer:?}");
    if answer.allowed {
        assert_eq!(&answer.apply(&write.new.unwrap())["spec"]["replicas"], stored);
    }
}

#[rstest]
#[case::yet_without_a_name(Phase::Mutating, json!({"generateName": "a-"}), "VLLMCluster with generateName \"a-\": ", "spec.maxReplicas of VLLMCluster with generateName \"a-\"")]
#[case::with_the_name_it_got(Phase::Validating, json!({"generateName": "a-", "name": "a-x7k2p"}), "VLLMCluster \"a-x7k2p\": ", "spec.maxReplicas of VLLMCluster \"a-x7k2p\"")]
#[tokio::test]
async fn a_name_to_come_is_not_printed_empty(
    #[case] phase: Phase,
    #[case] metadata: Value,
    #[case] begins: &str,
    #[case] says: &str,
) {
    let mut object = cluster("a", &json!({"replicas": 9, "maxReplicas": 5}));
    object["metadata"] = metadata;
    let answer = Plane::new(&[]).answer(phase, &Write::create(Resource::Cluster, object)).await;
    assert!(answer.message.starts_with(begins) && answer.message.contains(says), "{answer:?}");
}

#[tokio::test]
async fn a_cluster_whose_service_is_anothers_is_refused_while_the_other_is_there() {
    let sound = json!({"replicas": 1});
    let create = |name| Write::create(Resource::Cluster, cluster(name, &sound));
    for (there, new) in [("a", "a-pods"), ("a-pods", "a")] {
        let plane = Plane::new(&[(Resource::Cluster, cluster(there, &sound))]);
        let answer = plane.answer(Phase::Mutating, &create(new)).await;
        assert_eq!(answer.fields, ["metadata.name"], "{answer:?}");
        assert!(answer.message.contains(&format!("of VLLMCluster {there:?}")), "{answer:?}");
        assert!(plane.answer(Phase::Mutating, &create("b")).await.allowed);
        // Deleted, which the watch has not told yet.
        let mut gone = Plane::new(&[]);
        gone.admission.world = plane.admission.world.clone();
        assert!(gone.answer(Phase::Mutating, &create(new)).await.allowed);
    }
}

#[tokio::test]
async fn a_refused_write_is_told_nothing_of_what_would_have_been_stored() {
    let mut plane = Plane::new(&[(
        Resource::ScaledObject,
        scaled_object("queue", &json!({"minReplicaCount": 7, "maxReplicaCount": 9})),
    )]);
    let old = cluster("a", &json!({"replicas": 8}));
    let write =
        Write::update(Resource::Cluster, old, cluster("a", &json!({"replicas": 8, "maxReplicas": 5})));
    let answer = plane.answer(Phase::Mutating, &write).await;
    assert_eq!((&answer.fields[..], &answer.warnings[..]), (&["spec.maxReplicas".to_owned()][..], &[][..]));
    // Where refusals only warn, it is stored, and that is said.
    plane.admission.mode = Mode::Warn;
    let answer = plane.answer(Phase::Mutating, &write).await;
    assert!(answer.allowed && answer.warnings[0].contains("stored 5"), "{answer:?}");
}

/// Objects that a backup brings back without owners, in the order of their kinds: the HPA is KEDA's to make, and let in
/// it would keep the ScaledObject out.
#[tokio::test]
async fn a_restore_without_owners_loses_nothing_but_the_hpa_that_keda_makes_anew() {
    let restored = || Write::create(Resource::Hpa("v2"), hpa("keda-hpa-queue", 1, 5));
    let answer = Plane::new(&[]).answer(Phase::Validating, &restored()).await;
    assert_eq!(answer.fields, ["metadata.ownerReferences"], "{answer:?}");
    assert!(answer.message.contains("leave it out of the restore"), "{answer:?}");
    let queue = scaled_object("queue", &json!({"minReplicaCount": 1, "maxReplicaCount": 5}));
    let answer = Plane::new(&[])
        .answer(Phase::Validating, &Write::create(Resource::ScaledObject, queue.clone()))
        .await;
    assert!(answer.allowed, "{answer:?}");
    let plane = Plane::new(&[
        (Resource::ScaledObject, queue.clone()),
        (Resource::Cluster, cluster("a", &json!({"replicas": 1}))),
    ]);
    assert_eq!(plane.answer(Phase::Validating, &restored()).await.fields, ["metadata.ownerReferences"]);
    // It came in while nobody answered: the sentence names the way out.
    let plane = Plane::new(&[(Resource::Hpa("v2"), restored().new.unwrap())]);
    let answer = plane.answer(Phase::Validating, &Write::create(Resource::ScaledObject, queue)).await;
    assert_eq!(answer.fields, ["spec.scaleTargetRef.name"], "{answer:?}");
    assert!(answer.message.contains("kubectl delete hpa keda-hpa-queue"), "{answer:?}");
}

/// The API server sends none such; whoever does is judged as far as that goes.
#[rstest]
#[case::null(&json!(null))]
#[case::no_metadata(&json!({"spec": {"replicas": 9, "maxReplicas": 5}}))]
#[case::a_list_for_a_spec(&json!({"metadata": {"name": "a"}, "spec": [9, 1, 5]}))]
#[tokio::test]
async fn an_old_cluster_that_cannot_be_read_excuses_nothing(#[case] old: &Value) {
    let plane = Plane::new(&[]);
    for (spec, fields) in [
        (json!({"replicas": 3, "maxReplicas": 5}), &[][..]),
        (json!({"replicas": 9, "maxReplicas": 5}), &["spec.replicas"]),
        (json!({"replicas": 3, "minReplicas": 5, "maxReplicas": 2}), &["spec.minReplicas"]),
        (json!({"maxReplicas": 5}), &[]),
    ] {
        for phase in [Phase::Mutating, Phase::Validating] {
            let write = Write::update(Resource::Cluster, old.clone(), cluster("a", &spec));
            let answer = plane.answer(phase, &write).await;
            assert_eq!(answer.fields, fields, "{phase:?} {answer:?}");
            assert!(answer.patch.0.is_empty(), "an absent count stays so: {answer:?}");
        }
    }
}

/// Whether KEDA can reach the scaler is asked anew with each review.
#[tokio::test]
async fn an_http_trigger_waits_until_the_trust_is_published() {
    let mut plane = up_to_five();
    let (publish, published) = watch::channel(false);
    plane.admission.scaler = OwnScaler { published, ..OwnScaler::usual() };
    let http = json!([{"type": "http", "metadata": {"url": "http://x.t/health", "targetValue": "100"}}]);
    let write =
        Write::create(Resource::ScaledObject, scaled_object("queue", &json!({"triggers": http.clone()})));
    let answer = plane.answer(Phase::Mutating, &write).await;
    assert_eq!(answer.fields, ["spec.triggers[0].type"], "{answer:?}");
    assert!(answer.message.contains("apply deploy/keda.yaml"), "{answer:?}");

    publish.send_replace(true);
    let answer = plane.answer(Phase::Mutating, &write).await;
    let stored = answer.apply(write.new.as_ref().unwrap());
    let trigger = &stored["spec"]["triggers"][0];
    assert_eq!((&trigger["type"], &trigger["metadata"]["path"]), (&json!("external"), &json!("/health")));
    assert!(answer.warnings[0].contains("stored as {type: external, "), "{answer:?}");
    let (again, validated) = plane.write(&Write::create(Resource::ScaledObject, stored.clone())).await;
    let validated = validated.unwrap();
    assert!(again.patch.0.is_empty() && again.warnings.is_empty(), "{again:?}");
    assert!(validated.allowed && validated.warnings.is_empty(), "{validated:?}");

    // Out of reach again, what is there may be changed, and is warned about.
    publish.send_replace(false);
    let mut other = stored.clone();
    other["spec"]["maxReplicaCount"] = json!(3);
    let (first, second) = plane.write(&Write::update(Resource::ScaledObject, stored, other)).await;
    let second = second.unwrap();
    assert!(first.allowed && second.allowed && second.warnings[0].contains("deploy/keda.yaml"), "{second:?}");
    // A host of another namespace is known by the namespace of the request.
    publish.send_replace(true);
    let elsewhere = json!([{"type": "http", "metadata": {"url": "http://x.u/health", "targetValue": "100"}}]);
    let write =
        Write::create(Resource::ScaledObject, scaled_object("queue", &json!({"triggers": elsewhere})));
    let answer = plane.answer(Phase::Mutating, &write).await;
    assert!(answer.message.contains("\"x.u\" is no Service here"), "{answer:?}");
}
