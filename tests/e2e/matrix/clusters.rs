//! Writes of whole VLLMClusters.
//!
//! **Architecture invariant**: each row states its outcome; none is computed by the code under test.

use serde_json::{Value, json};

use super::axes::{Decider, Kind, Place, Verb};
use super::case::{Case, Expect};
use super::objects::{annotated, cluster, scaled_object};
use super::scaled_objects::queue;

const KEEP_LIVE: &str = "training.distributed-inference.io/keep-live-replicas";
const PAUSED: &str = "autoscaling.keda.sh/paused";

/// A cluster that runs four, without bounds.
fn four() -> Value {
    cluster("a@", json!({"replicas": 4}))
}

fn case(name: &'static str, spec: Value) -> Case {
    Case::new(Kind::Cluster, name, cluster("a@", spec)).before(four())
}

/// With a ScaledObject that holds 3 to 6.
fn held_case(name: &'static str, spec: Value) -> Case {
    case(name, spec).around([queue("a@", 3, 6)])
}

pub fn cases() -> Vec<Case> {
    let mut cases = filled_in();
    cases.extend(counts());
    cases.extend(holder());
    cases.extend(older());
    cases.extend(shapes());
    cases.extend(names());
    cases
}

/// Nothing is wrong with them, or what they leave out is filled in.
fn filled_in() -> Vec<Case> {
    vec![
        case(
            "good",
            json!({"replicas": 3, "minReplicas": 2, "maxReplicas": 10, "model": "m", "args": ["--seed=1"]}),
        ),
        case("good-at-both-bounds", json!({"replicas": 3, "minReplicas": 3, "maxReplicas": 3})),
        case("count-absent", json!({"model": "m"}))
            .expect(Expect::stores([("/replicas", json!(4))]))
            .expect_on_create(Expect::stores([("/replicas", json!(1))])),
        case("spec-absent", Value::Null)
            .expect(Expect::stores([("/replicas", json!(4))]))
            .expect_on_create(Expect::stores([("/replicas", json!(1))])),
        case("count-absent-below-new-bounds", json!({"minReplicas": 6}))
            .expect(
                Expect::stores([("/replicas", json!(6))])
                    .warns(&["spec.replicas: the live count 4 is outside the new bounds 6 to 100000"]),
            )
            .expect_on_create(Expect::stores([("/replicas", json!(6))])),
        held_case("count-absent-and-held", json!({"model": "m"}))
            .expect(Expect::stores([("/replicas", json!(4))]))
            .expect_on_create(Expect::stores([("/replicas", json!(3))])),
        case("count-untouched-above-new-bounds", json!({"replicas": 4, "maxReplicas": 2}))
            .update_only()
            .expect(
                Expect::stores([("/replicas", json!(2))])
                    .warns(&["spec.replicas: the live count 4 is outside the new bounds 1 to 2"]),
            ),
        case("keep-live-count", json!({"replicas": 2, "model": "m"}))
            .annotated(KEEP_LIVE, "true")
            .expect(Expect::stores([("/replicas", json!(4))]))
            .expect_on_create(Expect::passes()),
    ]
}

/// Counts and bounds that the cluster itself cannot have.
fn counts() -> Vec<Case> {
    vec![
        case("count-zero", json!({"replicas": 0}))
            .mutating(&["spec.replicas: 0 is below the minimum 1: a VLLMCluster keeps at least 1 replica"]),
        case("count-negative", json!({"replicas": -1})).mutating(&["spec.replicas: -1 is below the minimum 1"]),
        case("count-below-own-minimum", json!({"replicas": 1, "minReplicas": 2})).mutating(&[
            "spec.replicas: 1 is below the minimum 2 (spec.minReplicas of VLLMCluster \"a@\"); use 2 or more",
        ]),
        case("count-above-own-maximum", json!({"replicas": 11, "maxReplicas": 10})).mutating(&[
            "spec.replicas: 11 is above the maximum 10 (spec.maxReplicas of VLLMCluster \"a@\"); use 10 or fewer",
        ]),
        case("count-above-every-maximum", json!({"replicas": 100_001}))
            .mutating(&["spec.replicas: 100001 is above the maximum 100000 that any VLLMCluster may have"]),
        case("bounds-crossed", json!({"replicas": 3, "minReplicas": 5, "maxReplicas": 2}))
            .mutating(&["spec.minReplicas: 5 is above spec.maxReplicas 2; use 2 or less"]),
        case("minimum-zero", json!({"replicas": 3, "minReplicas": 0}))
            .mutating(&["spec.minReplicas: 0 is no minimum; use 1 to 100000"]),
        case("both-bounds-out-of-range", json!({"replicas": 3, "minReplicas": 0, "maxReplicas": 100_001})).mutating(&[
            "spec.minReplicas: 0 is no minimum",
            "spec.maxReplicas: 100001 is no maximum; use 1 to 100000",
        ]),
    ]
}

/// Against the ScaledObject.
fn holder() -> Vec<Case> {
    vec![
        held_case("held-within", json!({"replicas": 5})).expect(Expect::passes().warns(&[
            "ScaledObject \"queue@\" holds the count of VLLMCluster \"a@\" and will decide again; to keep 5 replicas, pause it",
        ])).expect_on_create(Expect::passes()),
        held_case("held-above", json!({"replicas": 9})).mutating(&[
            "spec.replicas: 9 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue@\", which holds the count); use 6 or fewer",
        ]).expect_on_create(Expect::passes().warns(&[
            "spec.replicas: 9 is above the 3 to 6 of ScaledObject \"queue@\", which will decide again; to keep 9, pause it",
        ])),
        held_case("held-below", json!({"replicas": 2})).mutating(&[
            "spec.replicas: 2 is below the minimum 3 (minReplicaCount of ScaledObject \"queue@\", which holds the count); use 3 or more",
        ]).expect_on_create(Expect::passes().warns(&[
            "spec.replicas: 2 is below the 3 to 6 of ScaledObject \"queue@\", which will decide again; to keep 2, pause it",
        ])),
        held_case("held-above-and-above-own-maximum", json!({"replicas": 12, "maxReplicas": 10})).mutating(&[
            "spec.replicas: 12 is above the maximum 6 (maxReplicaCount",
        ]).expect_on_create(Expect::refused(Decider::Mutating, &["spec.replicas: 12 is above the maximum 10 (spec.maxReplicas"])),
        held_case("nothing-in-common-below", json!({"replicas": 2, "maxReplicas": 2})).expect(
            Expect::refused(Decider::Mutating, &[
                "spec.maxReplicas: bounds 1 to 2 and ScaledObject \"queue@\" (3 to 6) have no count in common; overlap 3 to 6, or to move both, first apply",
            ])
,
        ),
        held_case("nothing-in-common-above", json!({"replicas": 8, "minReplicas": 7})).expect(
            Expect::refused(Decider::Mutating, &[
                "spec.minReplicas: bounds 7 to 100000 and ScaledObject \"queue@\" (3 to 6) have no count in common",
            ])
,
        ),
        held_case("partial-overlap", json!({"replicas": 4, "maxReplicas": 5}))
            .expect(Expect::passes().warns(&[
                "the count stays within 3 to 5, whatever ScaledObject \"queue@\" (3 to 6) asks for; raise spec.maxReplicas to 6, or lower maxReplicaCount to 5",
            ])),
        case("paused-holds-nothing", json!({"replicas": 9})).around([annotated(queue("a@", 3, 6), PAUSED, "true")]),
        held_case("moves-towards", json!({"replicas": 8}))
            .before(cluster("a@", json!({"replicas": 9})))
            .update_only()
            .expect(Expect::passes().warns(&[
                "spec.replicas: 8 is above the 3 to 6 of ScaledObject \"queue@\", which will decide again; to keep 8, pause it",
            ])),
        held_case("moves-away", json!({"replicas": 10}))
            .before(cluster("a@", json!({"replicas": 9})))
            .update_only()
            .mutating(&["spec.replicas: 10 is above the maximum 6 (maxReplicaCount"]),
        held_case("moves-through", json!({"replicas": 2}))
            .before(cluster("a@", json!({"replicas": 9})))
            .update_only()
            .mutating(&["spec.replicas: 2 is below the minimum 3 (minReplicaCount"]),
    ]
}

/// What is older than the write, what is not judged, and what is only warned about.
fn older() -> Vec<Case> {
    vec![
        held_case("older-count-untouched", json!({"replicas": 9, "model": "m"}))
            .before(cluster("a@", json!({"replicas": 9})))
            .update_only(),
        held_case("older-range-untouched", json!({"replicas": 2, "maxReplicas": 2, "model": "m"}))
            .place(Place::Old)
            .before(cluster("a@", json!({"replicas": 2, "maxReplicas": 2})))
            .update_only(),
        held_case("older-range-other-count", json!({"replicas": 1, "maxReplicas": 2}))
            .place(Place::Old)
            .before(cluster("a@", json!({"replicas": 2, "maxReplicas": 2})))
            .update_only()
            .expect(Expect::passes().warns(&["no count suits both: ScaledObject \"queue@\" wants 3 to 6"])),
        // Nobody asks us about labels, nor about what is being deleted.
        case("label", json!({"replicas": 4})).update_only().labelled().unasked(Expect::unasked()),
        case("deleting", json!({"replicas": 9})).update_only().deleting().unasked(Expect::unasked()),
        case("deleting-still-holds-the-schema", json!({"replicas": 0}))
            .deleting()
            .unasked(Expect::refused(Decider::Schema, &["should be greater than or equal to 1"])),
        // Warned in place of refused; the schema refuses still.
        held_case("warned", json!({"replicas": 9}))
            .place(Place::Warned)
            .expect(Expect::passes().warns(&[
                "spec.replicas: 9 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue@\"",
            ]))
            .expect_on_create(
                Expect::passes().warns(&["spec.replicas: 9 is above the 3 to 6 of ScaledObject \"queue@\""]),
            ),
        case("warned-but-schema", json!({"replicas": 11, "maxReplicas": 10}))
            .place(Place::Warned)
            .schema("11 is above maxReplicas 10"),
    ]
}

/// Values of a wrong type, unknown fields, and what only the schema knows.
fn shapes() -> Vec<Case> {
    let untyped = |says| Expect::refused(Decider::Schema, &[says]);
    vec![
        case("count-text", json!({"replicas": "two"}))
            .schema("spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer")
            .expect_by(Verb::Apply, untyped("spec.replicas")),
        case("count-fraction", json!({"replicas": 1.5})).schema("spec.replicas"),
        case("count-beyond-32-bits", json!({"replicas": 4_294_967_297_i64})).schema("spec.replicas"),
        case("count-in-the-wrong-place", json!({"replicas": 3, "replica": 5}))
            .unasked(untyped("unknown field \"spec.replica\""))
            .expect_by(Verb::Apply, untyped(".spec.replica: field not declared in schema")),
        case("quantity-nobody-can-read", json!({"replicas": 3, "resources": {"requests": {"cpu": "1e3m"}}}))
            .schema("spec.resources.requests.cpu"),
        case("model-empty", json!({"replicas": 3, "model": ""})).schema("spec.model"),
        case(
            "env-twice",
            json!({"replicas": 3, "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
        )
        .schema("spec.env[1]: Duplicate value")
        .expect_by(Verb::Apply, untyped("duplicate entries for key [name=\"A\"]")),
    ]
}

/// Names, which are judged once.
fn names() -> Vec<Case> {
    let named = |name, metadata_name: String| {
        Case::new(Kind::Cluster, name, cluster(&metadata_name, json!({"replicas": 3})))
    };
    vec![
        named("name-as-long-as-may-be", "a".repeat(49) + "@"),
        named("name-too-long", "a".repeat(50) + "@")
            .mutating(&["has 53 characters; use at most 52, because the StatefulSet controller"]),
        named("name-starts-with-a-digit", "1a@".into()).mutating(&["metadata.name: \"1a@\" is no DNS-1035 label"]),
        named("name-with-a-dot", "a.@".into()).mutating(&["metadata.name: \"a.@\" is no DNS-1035 label"]),
        named("name-in-capitals", "A@".into()).mutating(&["metadata.name: \"A@\" is no DNS-1035 label"]),
        Case::new(Kind::Cluster, "name-and-count-at-once", cluster("1b@", json!({"replicas": 0}))).mutating(&[
            "metadata.name: \"1b@\" is no DNS-1035 label",
            "spec.replicas: 0 is below the minimum 1",
        ]),
        {
            let mut case = named("name-generated-too-long", String::new())
                .mutating(&["begins a name of 62 characters; use at most 47, because the StatefulSet controller"]);
            case.write["metadata"] = json!({"generateName": "a".repeat(57)});
            case
        },
        Case::new(
            Kind::Cluster,
            "before-its-scaled-object",
            cluster("a@", json!({"replicas": 5, "minReplicas": 3, "maxReplicas": 6})),
        )
        .around([scaled_object("other@", "elsewhere@", json!({"minReplicaCount": 1, "maxReplicaCount": 2, "triggers": [super::scaled_objects::waiting()]}))]),
    ]
}
