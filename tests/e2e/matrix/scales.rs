//! Writes to `/scale`.
//!
//! **Architecture invariant**: each row states its outcome; none is computed by the code under test.

use serde_json::{Value, json};

use super::axes::{Decider, Kind, Place, Verb, Writer};
use super::case::{Case, Expect};
use super::objects::{annotated, cluster};
use super::scaled_objects::queue;

/// Four of 2 to 10.
fn bounded() -> Value {
    cluster("a@", json!({"replicas": 4, "minReplicas": 2, "maxReplicas": 10}))
}

fn case(name: &'static str, count: impl Into<Value>) -> Case {
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a@"},
        "spec": {"replicas": count.into()},
    });
    // The API server cannot apply to the scale of a custom resource: it takes the scale for one, and converts it.
    let converted = Expect::refused(
        Decider::Schema,
        &["request to convert CR to an invalid group/version: autoscaling/v1"],
    );
    Case::new(Kind::Scale, name, scale).before(bounded()).expect_by(Verb::Apply, converted)
}

/// With a ScaledObject that holds 3 to 6.
fn held_case(name: &'static str, count: i32) -> Case {
    case(name, count).around([queue("a@", 3, 6)])
}

/// By KEDA, which is moved to the nearest bound.
fn moved(name: &'static str, count: i32, stored: i32, warns: &'static str) -> Case {
    case(name, count).by(Writer::Keda).expect(Expect::stores([("/replicas", json!(stored))]).warns(&[warns]))
}

pub fn cases() -> Vec<Case> {
    let unbounded = || cluster("a@", json!({"replicas": 4}));
    let nine = || cluster("a@", json!({"replicas": 9}));
    let below = "1 is below minReplicas 2";
    let above = "11 is above maxReplicas 10";
    let undecoded = |says| Expect::refused(Decider::Schema, &[says]);
    // What the API server says of a scale of a custom resource that it cannot decode.
    let unregistered = "no kind is registered for the type v1.Scale";
    let one_at_least = "should be greater than or equal to 1";
    vec![
        case("good", 5),
        case("good-at-the-minimum", 2),
        case("good-at-the-maximum", 10),
        case("good-unchanged", 4).by_default(Verb::Apply),
        case("below-own-minimum", 1)
            .mutating(&["spec.replicas: 1 is below the minimum 2 (spec.minReplicas of VLLMCluster \"a@\")"])
            .schema_too(below),
        case("above-own-maximum", 11)
            .mutating(&["spec.replicas: 11 is above the maximum 10 (spec.maxReplicas of VLLMCluster \"a@\")"])
            .schema_too(above),
        case("zero", 0)
            .before(unbounded())
            .mutating(&["spec.replicas: 0 is below the minimum 1: a VLLMCluster keeps at least 1 replica"])
            .schema_too(one_at_least),
        case("negative", -1)
            .before(unbounded())
            .mutating(&["spec.replicas: -1 is below the minimum 1"])
            .schema_too(one_at_least),
        case("above-every-maximum", 100_001)
            .before(unbounded())
            .mutating(&["spec.replicas: 100001 is above the maximum 100000"])
            .schema_too("should be less than or equal to 100000"),
        // Cut to 32 bits, it would be 1.
        case("beyond-32-bits", 4_294_967_297_i64)
            .before(unbounded())
            .unasked(undecoded("cannot unmarshal number 4294967297"))
            .expect_by(Verb::Put, undecoded(unregistered))
            .expect_by(Verb::Apply, undecoded("autoscaling/v1, Kind=Scale")),
        case("text", "five")
            .unasked(undecoded("cannot unmarshal string"))
            .expect_by(Verb::Put, undecoded(unregistered))
            .expect_by(Verb::Apply, undecoded("autoscaling/v1, Kind=Scale")),
        // Against the ScaledObject.
        held_case("held-within", 5).expect(Expect::passes().warns(&[
            "ScaledObject \"queue@\" holds the count of VLLMCluster \"a@\" and will decide again; to keep 5 replicas, pause it: kubectl annotate --overwrite scaledobject queue@",
        ])),
        held_case("held-above", 9).mutating(&[
            "spec.replicas: 9 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue@\", which holds the count); use 6 or fewer, raise maxReplicaCount, or pause it",
        ]),
        held_case("held-below", 2).mutating(&[
            "spec.replicas: 2 is below the minimum 3 (minReplicaCount of ScaledObject \"queue@\", which holds the count)",
        ]),
        held_case("held-above-and-above-own-maximum", 11)
            .mutating(&["spec.replicas: 11 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue@\", which holds the count); use 6 or fewer"])
            .schema_too(above),
        held_case("moves-towards", 8).before(nine()).expect(Expect::passes().warns(&[
            "spec.replicas: 8 is above the 3 to 6 of ScaledObject \"queue@\", which will decide again; to keep 8, pause it",
        ])),
        held_case("moves-away", 10).before(nine()).mutating(&["spec.replicas: 10 is above the maximum 6"]),
        held_case("moves-through", 2).before(nine()).mutating(&["spec.replicas: 2 is below the minimum 3"]),
        held_case("older-count-untouched", 9).before(nine()).by_default(Verb::Apply),
        case("paused-holds-nothing", 9).around([annotated(queue("a@", 3, 6), "autoscaling.keda.sh/paused", "true")]),
        case("paused-at-a-count-holds-nothing", 9)
            .around([annotated(queue("a@", 3, 6), "autoscaling.keda.sh/paused-replicas", "4")]),
        case("older-range-refuses-nothing", 1)
            .place(Place::Old)
            .before(cluster("a@", json!({"replicas": 2, "maxReplicas": 2})))
            .around([queue("a@", 3, 6)])
            .expect(Expect::passes().warns(&[
                "no count suits both: ScaledObject \"queue@\" wants 3 to 6, VLLMCluster \"a@\" allows 1 to 2; raise spec.maxReplicas to 3 or more, or lower minReplicaCount to 2 or less",
            ])),
        // Autoscalers.
        case("autoscaler-within", 7).by(Writer::Keda),
        case("autoscaler-outside-of-its-own-range", 9).around([queue("a@", 3, 6)]).by(Writer::Keda),
        moved("autoscaler-above", 12, 10, "spec.replicas: 12 is outside the bounds 2 to 10 of VLLMCluster \"a@\"; stored 10 instead")
            .schema_too("12 is above maxReplicas 10"),
        moved("autoscaler-below", 1, 2, "spec.replicas: 1 is outside the bounds 2 to 10 of VLLMCluster \"a@\"; stored 2 instead")
            .schema_too(below),
        moved("autoscaler-to-zero", 0, 2, "spec.replicas: 0 is outside the bounds 2 to 10").schema_too(one_at_least),
        moved("hpa-controller-above", 12, 10, "spec.replicas: 12 is outside the bounds 2 to 10")
            .by(Writer::HpaController)
            .schema_too("12 is above maxReplicas 10"),
        // Warned in place of refused; the schema refuses still.
        held_case("warned", 9).place(Place::Warned).expect(Expect::passes().warns(&[
            "spec.replicas: 9 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue@\"",
        ])),
        case("warned-but-schema", 11).place(Place::Warned).schema(above),
        // What is being deleted is not judged, but still held to the schema.
        held_case("deleting", 9).deleting(),
        held_case("deleting-still-holds-the-schema", 11).deleting().schema(above),
        case("null", Value::Null)
            .before(unbounded())
            .mutating(&["spec.replicas: 0 is below the minimum 1"])
            .schema_too(one_at_least),
    ]
}
