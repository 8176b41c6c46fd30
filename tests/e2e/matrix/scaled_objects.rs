//! Writes of ScaledObjects: the range, the target, and whoever else scales it. [`super::triggers`] has the rest.
//!
//! **Architecture invariant**: each row states its outcome; none is computed by the code under test.

use serde_json::{Value, json};

use super::axes::{Decider, Kind, Place, Verb, Writer};
use super::case::{Case, Expect};
use super::objects::{annotated, cluster, hpa, scaled_object};

const PAUSED: &str = "autoscaling.keda.sh/paused";
const PAUSED_REPLICAS: &str = "autoscaling.keda.sh/paused-replicas";
const TRANSFER: &str = "scaledobject.keda.sh/transfer-hpa-ownership";

/// A trigger that nothing is wrong with.
pub fn waiting() -> Value {
    json!({"type": "prometheus", "metadata": {
        "serverAddress": "http://prometheus:9090", "query": "sum(vllm:num_requests_waiting)", "threshold": "4",
    }})
}

/// A ScaledObject that nothing is wrong with.
pub fn queue(cluster: &str, min: i32, max: i32) -> Value {
    let spec = json!({"minReplicaCount": min, "maxReplicaCount": max, "triggers": [waiting()]});
    scaled_object("queue@", cluster, spec)
}

/// Four of 2 to 10, whose pods request cpu and no memory.
pub fn bounded() -> Value {
    cluster(
        "a@",
        json!({"replicas": 4, "minReplicas": 2, "maxReplicas": 10, "resources": {"requests": {"cpu": "100m"}}}),
    )
}

/// With a good trigger, and these fields.
pub fn case(name: &'static str, mut spec: Value) -> Case {
    if spec["triggers"].is_null() {
        spec["triggers"] = json!([waiting()]);
    }
    exact(name, spec)
}

fn exact(name: &'static str, spec: Value) -> Case {
    Case::new(Kind::ScaledObject, name, scaled_object("queue@", "a@", spec))
        .around([bounded()])
        .before(queue("a@", 2, 10))
}

fn range(min: i32, max: i32) -> Value {
    json!({"minReplicaCount": min, "maxReplicaCount": max})
}

/// The update comes from another cluster, so that nothing was there before that could excuse it.
fn from_another(mut case: Case) -> Case {
    case.around.push(cluster("b@", json!({"replicas": 4})));
    case.before(queue("b@", 2, 10))
}

pub fn cases() -> Vec<Case> {
    let mut cases = ranges();
    cases.extend(rivals());
    cases.extend(exemptions());
    cases
}

fn ranges() -> Vec<Case> {
    let zero = "a VLLMCluster keeps at least 1 replica, and KEDA would try to scale it to 0 again at every poll; use 2 or more";
    let fallback = |replicas: i32| json!({"minReplicaCount": 3, "maxReplicaCount": 6, "fallback": {"failureThreshold": 3, "replicas": replicas}});
    let missing = "spec.scaleTargetRef.name: there is no VLLMCluster \"a@\" in this namespace; KEDA scales nothing until it exists";
    vec![
        case("good", range(3, 6)),
        case("good-at-both-bounds", range(2, 10)).before(queue("a@", 3, 6)),
        case("range-absent", json!({}))
            .before(queue("a@", 3, 6))
            .expect(Expect::stores([("/minReplicaCount", json!(2)), ("/maxReplicaCount", json!(10))])),
        case("minimum-absent", json!({"maxReplicaCount": 6})).expect(Expect::stores([("/minReplicaCount", json!(2))])),
        case("range-absent-cluster-missing", json!({}))
            .around([])
            .expect(Expect::stores([("/minReplicaCount", json!(1))]).warns(&[missing])),
        case("cluster-missing", range(1, 20)).around([]).expect(Expect::passes().warns(&[missing])),
        case("wider", range(1, 20)).expect(Expect::passes().warns(&[
            "spec.minReplicaCount: the count stays within 2 to 10, whatever this ScaledObject (1 to 20) asks for: VLLMCluster \"a@\" allows 2 to 10; raise minReplicaCount to 2",
        ])),
        case("minimum-zero", range(0, 6))
            .mutating(&["spec.minReplicaCount: 0 is below the minimum 1"]),
        case("minimum-negative", range(-1, 6))
            .mutating(&["spec.minReplicaCount: -1 is below the minimum 1"]),
        case("idle", json!({"minReplicaCount": 3, "maxReplicaCount": 6, "idleReplicaCount": 0}))
            .mutating(&["spec.idleReplicaCount: a VLLMCluster keeps at least 1 replica, so it never idles at 0; remove idleReplicaCount"]),
        case("crossed", range(8, 5)).mutating(&["spec.minReplicaCount: 8 is above maxReplicaCount 5; use 5 or less"]),
        case("minimum-above-kedas-default", json!({"minReplicaCount": 101}))
            .around([])
            .mutating(&["spec.minReplicaCount: 101 is above 100, which KEDA takes for an absent"]),
        case("maximum-zero", range(1, 0)).mutating(&["spec.maxReplicaCount: 0 is below the minimum 1"]),
        case("nothing-in-common-above", range(11, 20)).mutating(&[
            "spec.minReplicaCount: range 11 to 20 and VLLMCluster \"a@\" (2 to 10) have no count in common; overlap 2 to 10, or to move both, first apply",
        ]),
        case("nothing-in-common-below", range(1, 1))
            .mutating(&["spec.maxReplicaCount: range 1 to 1 and VLLMCluster \"a@\" (2 to 10) have no count in common"]),
        case("all-at-once", json!({"minReplicaCount": 0, "maxReplicaCount": 1, "idleReplicaCount": 1, "fallback": {"failureThreshold": 3, "replicas": 11}}))
            .mutating(&[
                zero,
                "spec.idleReplicaCount: KEDA takes nothing but 0",
                "spec.maxReplicaCount: range 1 to 1 and",
                "spec.fallback.replicas: 11 is above the maximum 10",
            ]),
        case("fallback-above", fallback(11)).mutating(&["spec.fallback.replicas: 11 is above the maximum 10 (spec.maxReplicas"]),
        case("fallback-below", fallback(1)).mutating(&["spec.fallback.replicas: 1 is below the minimum 2 (spec.minReplicas"]),
        case("fallback-that-is-not-read", json!({"minReplicaCount": 3, "maxReplicaCount": 6, "fallback": {"failureThreshold": 3, "replicas": 11, "behavior": "currentReplicas"}})),
        case("fallback-without-formula", json!({"minReplicaCount": 3, "maxReplicaCount": 6, "fallback": {"failureThreshold": 3, "replicas": 3, "behavior": "scalingModifiers"}}))
            .mutating(&["spec.fallback.behavior: scalingModifiers needs spec.advanced.scalingModifiers.formula"]),
        case("fallback-unknown-behavior", json!({"minReplicaCount": 3, "maxReplicaCount": 6, "fallback": {"failureThreshold": 3, "replicas": 3, "behavior": "hope"}}))
            .schema("spec.fallback.behavior: Unsupported value: \"hope\""),
        case("paused-replicas-above", range(3, 6)).annotated(PAUSED_REPLICAS, "11")
            .mutating(&["metadata.annotations[autoscaling.keda.sh/paused-replicas]: 11 is above the maximum 10"]),
        case("paused-replicas-below", range(3, 6)).annotated(PAUSED_REPLICAS, "0")
            .mutating(&["metadata.annotations[autoscaling.keda.sh/paused-replicas]: 0 is below the minimum 2"]),
        case("paused-replicas-text", range(3, 6)).annotated(PAUSED_REPLICAS, "many")
            .mutating(&["metadata.annotations[autoscaling.keda.sh/paused-replicas]: \"many\" is no whole number; state the count to keep, from 2 to 10"]),
        case("paused-replicas-within", range(3, 6)).annotated(PAUSED_REPLICAS, "9"),
        case("paused", range(3, 6)).annotated(PAUSED, "true"),
    ]
}

fn rivals() -> Vec<Case> {
    let first = || {
        scaled_object(
            "first@",
            "a@",
            json!({"minReplicaCount": 3, "maxReplicaCount": 6, "triggers": [waiting()]}),
        )
    };
    let by_hpa = || hpa("h@", "a@", json!({"minReplicas": 2, "maxReplicas": 6}));
    let named_hpa = json!({"minReplicaCount": 3, "maxReplicaCount": 6, "advanced": {"horizontalPodAutoscalerConfig": {"name": "h@"}}});
    let already = "spec.scaleTargetRef.name: VLLMCluster \"a@\" is already scaled by ScaledObject \"first@\"; move the triggers there, or delete it first";
    let beside = "spec.scaleTargetRef.name: VLLMCluster \"a@\" is already scaled by HorizontalPodAutoscaler \"h@\"; delete it first, or let KEDA take it over";
    vec![
        from_another(case("second", range(3, 6)).around([bounded(), first()])).mutating(&[already]),
        from_another(case("beside-a-paused-one", range(3, 6)).around([bounded(), annotated(first(), PAUSED, "true")]))
            .mutating(&[already]),
        from_another(case("beside-an-hpa", range(3, 6)).around([bounded(), by_hpa()])).mutating(&[beside]),
        from_another(case("hpa-taken-over", named_hpa.clone()).around([bounded(), by_hpa()])).annotated(TRANSFER, "true"),
        from_another(case("hpa-named-but-not-taken-over", named_hpa).around([bounded(), by_hpa()])).mutating(&[beside]),
        from_another(case("hpa-taken-over-by-no-name", range(3, 6)).around([bounded(), by_hpa()])).annotated(TRANSFER, "true")
            .mutating(&[beside]),
        from_another(case("beside-an-excused-hpa", range(3, 6)).around([
            bounded(),
            annotated(by_hpa(), "validations.keda.sh/hpa-ownership", "false"),
        ])),
        from_another(case("second-and-nothing-in-common", range(11, 20)).around([bounded(), first()])).mutating(&[
            "have no count in common",
            already,
        ]),
        // What is left to KEDA's own webhook.
        case("formula-that-does-not-compile", modifiers("nobody + 1", "5"))
            .expect(Expect::refused(Decider::Keda, &["error validating formula in ScalingModifiers"])),
        case("hpa-name-of-another", json!({"minReplicaCount": 3, "maxReplicaCount": 6, "advanced": {"horizontalPodAutoscalerConfig": {"name": "keda-hpa-elsewhere@"}}}))
            .around([bounded(), scaled_object("elsewhere@", "c@", json!({"minReplicaCount": 1, "maxReplicaCount": 2, "triggers": [waiting()]}))])
            .expect(Expect::refused(Decider::Keda, &["the HPA 'keda-hpa-elsewhere@' is already managed by the ScaledObject 'elsewhere@'"])),
        // Warned by us, it still fails at KEDA's.
        from_another(case("warned-second", range(3, 6)).place(Place::Warned).around([bounded(), first()])).expect(
            Expect::refused(Decider::Keda, &["is already managed by the ScaledObject 'first@'"]).warns(&[already]),
        ),
        case("warned", range(11, 20)).place(Place::Warned).expect(Expect::passes().warns(&["have no count in common"])),
    ]
}

/// Scaling modifiers over a trigger by the name of `x`.
pub fn modifiers(formula: &str, target: &str) -> Value {
    let mut trigger = waiting();
    trigger["name"] = json!("x");
    json!({
        "minReplicaCount": 3, "maxReplicaCount": 6, "triggers": [trigger],
        "advanced": {"scalingModifiers": {"formula": formula, "target": target}},
    })
}

/// Who and what is not judged.
fn exemptions() -> Vec<Case> {
    let deployment = |min: i32| json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a@"}, "minReplicaCount": min, "maxReplicaCount": 6, "triggers": [waiting()]});
    let unspoken = json!({"scaleTargetRef": {"name": "a@"}, "minReplicaCount": 0, "maxReplicaCount": 6, "triggers": [waiting()]});
    let older = || {
        let slip = json!({"type": "promtheus", "metadata": {}});
        scaled_object("queue@", "a@", json!({"minReplicaCount": 0, "maxReplicaCount": 6, "triggers": [slip]}))
    };
    let older_with = |name, spec: Value| {
        let mut case = Case::new(Kind::ScaledObject, name, older())
            .place(Place::Old)
            .around([bounded()])
            .before(older())
            .update_only();
        for (key, value) in spec.as_object().into_iter().flatten() {
            case.write["spec"][key] = value.clone();
        }
        case
    };
    let min_is_older = "spec.minReplicaCount: 0 is below the minimum 1";
    let slip_is_older = "spec.triggers[0].type: KEDA has no trigger \"promtheus\"";
    vec![
        case("of-a-deployment", deployment(0))
            .before(scaled_object("queue@", "", deployment(1)))
            .unasked(Expect::unasked()),
        case("of-nothing-spoken", unspoken)
            .before(scaled_object("queue@", "", deployment(1)))
            .unasked(Expect::unasked()),
        case("from-a-deployment", range(0, 6))
            .before(scaled_object("queue@", "", deployment(0)))
            .update_only()
            .mutating(&[min_is_older]),
        case("to-a-deployment", deployment(0)).update_only(),
        case("by-keda", range(0, 6)).update_only().by(Writer::Keda).unasked(Expect::unasked()),
        case("label", range(2, 10)).update_only().labelled().unasked(Expect::unasked()),
        case("deleting", range(0, 6)).deleting().unasked(Expect::unasked()),
        older_with("older-untouched", json!({"pollingInterval": 15})),
        older_with("older-other-maximum", json!({"maxReplicaCount": 7}))
            .expect(Expect::passes().warns(&["whatever this ScaledObject", min_is_older, slip_is_older])),
        older_with("older-and-a-new-one", json!({"idleReplicaCount": 1})).mutating(&["spec.idleReplicaCount: KEDA takes nothing but 0"]),
        case("unknown-field", json!({"minReplicaCount": 3, "maxReplicaCount": 6, "minReplicas": 3}))
            .unasked(Expect::refused(Decider::Schema, &["unknown field \"spec.minReplicas\""]))
            .expect_by(Verb::Apply, Expect::refused(Decider::Schema, &[".spec.minReplicas: field not declared in schema"])),
        case("count-text", json!({"minReplicaCount": "3", "maxReplicaCount": 6}))
            .schema("spec.minReplicaCount: Invalid value: \"string\": spec.minReplicaCount in body must be of type integer")
            .expect_by(Verb::Apply, Expect::refused(Decider::Schema, &["minReplicaCount"])),
    ]
}
