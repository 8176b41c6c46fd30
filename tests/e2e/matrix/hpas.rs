//! Writes of HorizontalPodAutoscalers, in each of the two versions.
//!
//! **Architecture invariant**: each row states its outcome; none is computed by the code under test.

use serde_json::{Value, json};

use super::axes::{Decider, Kind, Place, Verb};
use super::case::{Case, Expect};
use super::objects::{annotated, cluster, hpa, scaled_object};
use super::scaled_objects::{queue, waiting};

const OWNERSHIP: &str = "validations.keda.sh/hpa-ownership";

/// Four of 2 to 10.
fn bounded() -> Value {
    cluster("a@", json!({"replicas": 4, "minReplicas": 2, "maxReplicas": 10}))
}

fn range(min: i32, max: i32) -> Value {
    json!({"minReplicas": min, "maxReplicas": max})
}

pub fn cases(kind: Kind) -> Vec<Case> {
    let mut cases = ranges(kind);
    cases.extend(rivals(kind));
    cases.extend(exemptions(kind));
    cases
}

fn case(kind: Kind, name: &'static str, spec: Value) -> Case {
    Case::new(kind, name, hpa("h@", "a@", spec)).around([bounded()]).before(hpa("h@", "a@", range(2, 6)))
}

fn ranges(kind: Kind) -> Vec<Case> {
    let case = |name, spec| case(kind, name, spec);
    let one = || vec![("/minReplicas", json!(1))];
    let undecoded = |says| Expect::refused(Decider::Schema, &[says]);
    vec![
        case("good", range(3, 6)),
        case("good-at-both-bounds", range(2, 10)),
        case("wider", range(1, 20)).expect(Expect::passes().warns(&[
            "the count stays within 2 to 10, whatever this HPA (1 to 20) asks for: VLLMCluster \"a@\" allows 2 to 10; raise minReplicas to 2",
        ])),
        // The API server fills it in.
        case("minimum-absent", json!({"maxReplicas": 6}))
            .expect(Expect { stored: one(), ..Expect::passes() }.warns(&[
                "the count stays within 2 to 6, whatever this HPA (1 to 6) asks for: VLLMCluster \"a@\" allows 2 to 10; raise minReplicas to 2, or lower spec.minReplicas there to 1",
            ]))
            .expect_down(Expect { stored: one(), ..Expect::unasked() }),
        case("nothing-in-common-above", range(11, 20)).validating(&[
            "spec.minReplicas: 11 to 20 has no count in common with the bounds 2 to 10 of VLLMCluster \"a@\"",
        ]),
        case("nothing-in-common-below", range(1, 1)).validating(&[
            "spec.maxReplicas: 1 to 1 has no count in common with the bounds 2 to 10 of VLLMCluster \"a@\"",
        ]),
        case("crossed", range(9, 3))
            .schema("spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"),
        case("maximum-zero", json!({"maxReplicas": 0})).schema("spec.maxReplicas: Required value"),
        case("maximum-text", json!({"maxReplicas": "six"})).unasked(undecoded("maxReplicas")),
        case("unknown-field", json!({"maxReplicas": 6, "maxReplica": 6}))
            .unasked(undecoded("unknown field \"spec.maxReplica\""))
            .expect_by(Verb::Apply, undecoded(".spec.maxReplica: field not declared in schema")),
        case("cluster-missing", range(11, 20)).around([]),
        case("older-range-untouched", range(11, 30))
            .place(Place::Old)
            .before(hpa("h@", "a@", range(11, 20)))
            .update_only()
            .expect(
                Expect::passes()
                    .warns(&["spec.minReplicas: 11 to 30 has no count in common with the bounds 2 to 10"]),
            ),
        case("older-range-made-another", range(12, 20))
            .place(Place::Old)
            .before(hpa("h@", "a@", range(11, 20)))
            .update_only()
            .validating(&["spec.minReplicas: 12 to 20 has no count in common"]),
        case("warned", range(11, 20)).place(Place::Warned).expect(
            Expect::passes()
                .warns(&["spec.minReplicas: 11 to 20 has no count in common with the bounds 2 to 10"]),
        ),
    ]
}

/// Beside this ScaledObject; the update comes from another cluster, so that nothing was there before to excuse it.
fn beside(kind: Kind, name: &'static str, spec: Value, scaled_object: Value) -> Case {
    case(kind, name, spec)
        .around([bounded(), scaled_object, cluster("b@", json!({"replicas": 4}))])
        .before(hpa("h@", "b@", range(2, 6)))
}

fn rivals(kind: Kind) -> Vec<Case> {
    let already = "ScaledObject \"queue@\" scales VLLMCluster \"a@\" already, and two autoscalers undo each other's counts";
    let paused = annotated(queue("a@", 3, 6), "autoscaling.keda.sh/paused", "true");
    let takes_over = json!({
        "minReplicaCount": 3, "maxReplicaCount": 6, "triggers": [waiting()],
        "advanced": {"horizontalPodAutoscalerConfig": {"name": "h@"}},
    });
    let takes_over = annotated(
        scaled_object("queue@", "a@", takes_over),
        "scaledobject.keda.sh/transfer-hpa-ownership",
        "true",
    );
    vec![
        beside(kind, "beside-a-scaled-object", range(2, 6), queue("a@", 3, 6)).validating(&[already]),
        beside(kind, "beside-and-nothing-in-common", range(11, 20), queue("a@", 3, 6))
            .validating(&[already, "spec.minReplicas: 11 to 20 has no count in common"]),
        beside(kind, "beside-a-paused-one", range(2, 6), paused).validating(&[already]),
        beside(kind, "beside-but-excused", range(2, 6), queue("a@", 3, 6))
            .annotated(OWNERSHIP, "false")
            .expect(Expect::passes().warns(&[already])),
        beside(kind, "beside-but-taken-over", range(2, 6), takes_over),
    ]
}

/// Who and what is not judged.
fn exemptions(kind: Kind) -> Vec<Case> {
    let case = |name, spec| case(kind, name, spec);
    let deployment = |min: i32| {
        json!({
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a@"},
            "minReplicas": min, "maxReplicas": 20,
        })
    };
    vec![
        case("label", range(2, 6)).update_only().labelled(),
        case("deleting", range(11, 20)).deleting().unasked(Expect::unasked()),
        case("of-a-deployment", deployment(11))
            .before(hpa("h@", "", deployment(1)))
            .unasked(Expect::unasked()),
        {
            let mut case = case("of-a-scaled-object", range(11, 20))
                .around([bounded(), queue("a@", 3, 6)])
                .create_only()
                .unasked(Expect::unasked());
            case.write["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "queue@", "controller": true,
                "uid": "uid of queue@",
            }]);
            case
        },
    ]
}
