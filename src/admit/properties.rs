//! What holds for every write, whatever it states: at least 10,000 of them for each property, through whole reviews.
//!
//! Architecture invariant: no row of the policy stands here, or the same mistake would be made twice; bounds are held
//! against the schema, one webhook's answer against the other's.

use std::future::Future;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::harness::{Answer, HPA_CONTROLLER, Plane, Resource, Write, cluster, hpa, scale, scaled_object};
use super::schema::complaints;
use super::{OwnScaler, Phase};
use crate::api::names::{KEEP_LIVE_REPLICAS, MAX_REPLICAS, PAUSED, REWRITE_TRIGGERS};
use crate::args::ScalerMode;
use crate::policy::clause::UNREAD;

const CASES: u32 = 10_000;

/// Live reads of a [`Plane`] need a runtime, and nothing of it but its clock.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A count as people and programs write it.
fn count() -> impl Strategy<Value = i32> {
    const LIMITS: [i32; 7] = [i32::MIN, -1, 0, MAX_REPLICAS - 1, MAX_REPLICAS, MAX_REPLICAS + 1, i32::MAX];
    prop_oneof![12 => 1..13, 1 => prop::sample::select(&LIMITS[..])]
}

/// Any counts, absent ones too.
fn counts() -> impl Strategy<Value = Value> {
    let count = || prop::option::weighted(0.7, count());
    (count(), count(), count()).prop_map(|(replicas, min, max)| {
        without_nulls(json!({
            "replicas": replicas, "minReplicas": min, "maxReplicas": max,
        }))
    })
}

/// Counts that the API server has stored.
fn stored_counts() -> impl Strategy<Value = Value> {
    let bounds = (prop::option::of(1..13), prop::option::of(0..13));
    (bounds, 0..13i32).prop_map(|((min, width), above)| {
        let lower: i32 = min.unwrap_or(1);
        let max = width.map(|width: i32| lower + width);
        let replicas = (lower + above).min(max.unwrap_or(i32::MAX));
        without_nulls(json!({"replicas": replicas, "minReplicas": min, "maxReplicas": max}))
    })
}

fn without_nulls(mut object: Value) -> Value {
    object.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    object
}

/// The ScaledObject of cluster `a`, if there is one.
fn scaler() -> impl Strategy<Value = Option<Value>> {
    let range = (prop::option::of(0..13), prop::option::of(0..25));
    prop::option::of((range, prop::bool::weighted(0.2))).prop_map(|scaler| {
        let ((min, max), paused) = scaler?;
        let mut object =
            scaled_object("queue", &without_nulls(json!({"minReplicaCount": min, "maxReplicaCount": max})));
        if paused {
            object["metadata"]["annotations"] = json!({PAUSED: "true"});
        }
        Some(object)
    })
}

/// A cluster `a` as it is and as it is to be, with fields that are nobody's business.
fn cluster_write() -> impl Strategy<Value = Write> {
    let new = (counts(), prop::bool::weighted(0.2), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (prop::option::of(stored_counts()), new).prop_map(|(old, (counts, keep, no_spec, null_count))| {
        let mut new = cluster("a", &counts);
        new["metadata"]["labels"] = json!({"a/b~c": "d"});
        if keep {
            new["metadata"]["annotations"] = json!({KEEP_LIVE_REPLICAS: "true"});
        }
        if no_spec {
            new["spec"] = Value::Null;
        } else {
            new["spec"]["model"] = json!("m");
            new["spec"]["args"] = json!(["--max-num-seqs=1"]);
            if null_count && new["spec"]["replicas"].is_null() {
                new["spec"]["replicas"] = Value::Null;
            }
        }
        match old {
            Some(old) => Write::update(Resource::Cluster, cluster("a", &old), new),
            None => Write::create(Resource::Cluster, new),
        }
    })
}

fn plane(scaler: Option<Value>, cluster: Option<&Value>) -> Plane {
    let scaler = scaler.map(|scaler| (Resource::ScaledObject, scaler));
    let cluster = cluster.map(|cluster| (Resource::Cluster, cluster.clone()));
    let objects: Vec<_> = scaler.into_iter().chain(cluster).collect();
    // A live read would find these very objects, at the price of ten answers.
    UNREAD.set(true);
    // Its client starts a task.
    block_on(async { Plane::new(&objects) })
}

/// What was written, patched once; and nothing is left to patch the second time.
fn mutated_twice(plane: &Plane, write: &Write) -> Result<(Answer, Value), TestCaseError> {
    let written = write.new.as_ref().unwrap();
    let first = block_on(plane.answer(Phase::Mutating, write));
    let once = first.apply(written);
    let again = Write { new: Some(once.clone()), ..write.clone() };
    let second = block_on(plane.answer(Phase::Mutating, &again));
    prop_assert_eq!(second.allowed, first.allowed, "{:?} {:?}", first, second);
    prop_assert!(second.patch.0.is_empty(), "{:?} after {:?}", second.patch, first.patch);
    Ok((first, once))
}

/// An object without the fields that the policy may change.
fn rest(mut object: Value) -> Value {
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.retain(|field, _| !matches!(field.as_str(), "replicas" | "minReplicaCount" | "maxReplicaCount"));
        for trigger in spec.get_mut("triggers").and_then(Value::as_array_mut).into_iter().flatten() {
            let fields = trigger.as_object_mut().unwrap();
            fields.remove("metricType");
            let is_of_the_scaler = matches!(fields["type"].as_str(), Some("http" | "external"));
            if is_of_the_scaler || fields["type"] == "external-push" {
                fields.remove("authenticationRef");
            }
            if is_of_the_scaler {
                fields.remove("type");
            }
            let of_http = |key: &str| matches!(key, "url" | "scalerAddress" | "signal" | "path");
            fields["metadata"].as_object_mut().unwrap().retain(|key, _| {
                !(matches!(key.as_str(), "type" | "metricName") || is_of_the_scaler && of_http(key))
            });
        }
        if spec.is_empty() {
            object["spec"] = Value::Null;
        }
    }
    object
}

fn text(values: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(values))
}

/// A trigger in its present or an older form, or in none.
fn trigger() -> impl Strategy<Value = Value> {
    prop_oneof![3 => trigger_of_keda(), 2 => trigger_of_the_scaler()]
}

fn trigger_of_keda() -> impl Strategy<Value = Value> {
    (
        prop::sample::select(&["cpu", "memory", "prometheus", "http", "cron"][..]),
        text(&["", "Utilization", "AverageValue", "Value"]),
        text(&["", " ", "Utilization", " AverageValue ", "other"]),
        text(&["", "queue"]),
    )
        .prop_map(|(type_, metric_type, older, metric_name)| {
            let metadata = without_nulls(json!({
                "value": "80", "serverAddress": "http://p", "query": "up", "threshold": "1",
                "type": older, "metricName": metric_name,
            }));
            without_nulls(json!({"type": type_, "metricType": metric_type, "metadata": metadata}))
        })
}

/// One that the operator's own scaler is to answer, mostly.
fn trigger_of_the_scaler() -> impl Strategy<Value = Value> {
    (
        prop::sample::select(&["http", "http", "external", "external", "external-push"][..]),
        text(&["", "AverageValue", "Value"]),
        prop::option::weighted(0.3, prop::sample::select(&["", "mine", "vllm-operator-scaler"][..])),
        prop::option::weighted(0.9, prop::sample::select(&["100", " 5 ", "0", "x", ""][..])),
        prop::option::weighted(
            0.9,
            prop::sample::select(
                &["http://a", "http://a.t/x?y", "https://a.b.svc:1//", "http://a.example/", "http://u@a/", "a", ""][..],
            ),
        ),
        (
            prop::sample::select(
                &[
                    "vllm-operator-scaler.vllm-operator-system.svc:443",
                    " vllm-operator-scaler.vllm-operator-system.svc:443",
                    "vllm-operator-scaler.vllm-operator-system:443",
                    "scaler.elsewhere:443",
                ][..],
            ),
            prop::option::weighted(
                0.9,
                prop::sample::select(&["response-time", "queue", "combined", "que"][..]),
            ),
            text(&["/health", "x", ""]),
            text(&["5", ""]),
        ),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(type_, metric_type, name, target, url, own, unknown)| {
            let (address, signal, path, queue) = own;
            let metadata = if type_ == "http" {
                json!({"url": url, "targetValue": target})
            } else {
                json!({
                    "scalerAddress": address, "signal": signal, "targetValue": target, "path": path,
                    "queueTarget": queue,
                })
            };
            let mut metadata = without_nulls(metadata);
            if unknown {
                metadata["other"] = json!("");
            }
            let reference = name.map(|name| json!({"kind": "ClusterTriggerAuthentication", "name": name}));
            without_nulls(json!({
                "type": type_, "metricType": metric_type, "authenticationRef": reference, "metadata": metadata,
            }))
        })
}

/// The operator's own scaler, within reach mostly.
fn own_scaler() -> impl Strategy<Value = OwnScaler> {
    const MODES: [ScalerMode; 4] = [ScalerMode::Tls, ScalerMode::Tls, ScalerMode::Plaintext, ScalerMode::Off];
    (prop::sample::select(&MODES[..]), prop::bool::weighted(0.8), prop::bool::weighted(0.8)).prop_map(
        |(mode, is_published, rewrites)| {
            let published = tokio::sync::watch::channel(is_published).1;
            OwnScaler { mode, rewrites, published, ..OwnScaler::usual() }
        },
    )
}

/// A ScaledObject as it is to be.
fn scaled_object_spec() -> impl Strategy<Value = (Value, bool)> {
    let bound = || prop::option::weighted(0.6, count());
    (bound(), bound(), prop::option::weighted(0.1, count()), prop::collection::vec(trigger(), 0..4), any::<bool>())
        .prop_map(|(min, max, idle, triggers, rewrites)| {
            let spec = json!({
                "minReplicaCount": min, "maxReplicaCount": max, "idleReplicaCount": idle, "triggers": triggers,
                "pollingInterval": 5,
            });
            (without_nulls(spec), rewrites)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn of_a_cluster_twice_is_once_the_rest_stays_and_what_passes_is_valid(
        write in cluster_write(), scaler in scaler(),
    ) {
        let plane = plane(scaler, write.old.as_ref());
        let (first, stored) = mutated_twice(&plane, &write)?;
        prop_assert_eq!(rest(stored.clone()), rest(write.new.clone().unwrap()));
        if first.allowed {
            prop_assert_eq!(complaints(&stored), Vec::<String>::new(), "{}", stored);
            let validated = Write { new: Some(stored), ..write };
            let second = block_on(plane.answer(Phase::Validating, &validated));
            prop_assert!(second.allowed && second.patch.0.is_empty(), "{:?}", second);
        }
    }

    #[test]
    fn on_bounds_the_schema_and_the_policy_agree(write in cluster_write()) {
        let plane = plane(None, write.old.as_ref());
        let (first, stored) = mutated_twice(&plane, &write)?;
        // Refused, there is no patch: what the schema would have seen is what was written, with a count at least.
        let mut seen = stored;
        if !first.allowed && seen["spec"]["replicas"].is_null() {
            let bounds = [&seen["spec"]["minReplicas"], &seen["spec"]["maxReplicas"]];
            let bound = bounds.iter().find_map(|bound| bound.as_i64()).unwrap_or(1);
            seen["spec"]["replicas"] = json!(bound);
        }
        prop_assert_eq!(first.allowed, complaints(&seen).is_empty(), "{:?} {:?}", first, complaints(&seen));
        // Without the mutating webhook, the validating one says the same of what states its count.
        if write.old.is_none() && !write.new.as_ref().unwrap()["spec"]["replicas"].is_null() {
            let validated = block_on(plane.answer(Phase::Validating, &write));
            prop_assert_eq!(validated.allowed, complaints(write.new.as_ref().unwrap()).is_empty());
        }
    }

    #[test]
    fn scale_and_an_update_to_the_same_count_get_the_same_verdict(
        old in stored_counts(), to in count(), scaler in scaler(),
    ) {
        let before = cluster("a", &old);
        let mut after = before.clone();
        after["spec"]["replicas"] = json!(to);
        let plane = plane(scaler, Some(&before));
        let from = i32::try_from(old["replicas"].as_i64().unwrap()).unwrap();
        let scaled = block_on(plane.write(&Write::update(Resource::Scale, scale("a", from), scale("a", to))));
        let updated = block_on(plane.write(&Write::update(Resource::Cluster, before, after)));
        prop_assert_eq!(scaled.0.allowed, updated.0.allowed, "{:?} {:?}", scaled.0, updated.0);
        prop_assert_eq!(&scaled.0.message, &updated.0.message);
        prop_assert_eq!(scaled.1.is_some(), updated.1.is_some());
        if let (Some(scaled), Some(updated)) = (scaled.1, updated.1) {
            prop_assert_eq!((scaled.allowed, &scaled.message), (updated.allowed, &updated.message));
            prop_assert_eq!(scaled.warnings, updated.warnings);
        }
    }

    #[test]
    fn no_step_towards_the_holder_is_refused(
        (lower, width) in (1..20i32, 0..10i32), (min, max, overhang) in (0..20i32, 0..10i32, 0..10i32), (from, way) in (1..40i32, 0..40i32), above in any::<bool>(),
    ) {
        // The step is from outside of the common range to its far end at most.
        let bounds = json!({"minReplicas": lower, "maxReplicas": lower + width});
        let min = lower + (min - overhang).clamp(-20, width);
        let min = min.max(1);
        let max = (min + max).max(lower) - min;
        let (near, far) = (min.max(lower), (min + max).min(lower + width));
        let (from, to) = if above {
            let from = (far + from).min(lower + width);
            (from, (from - way).max(near))
        } else {
            let from = (near - from).max(lower);
            (from, (from + way).min(far))
        };
        let holder = scaled_object("queue", &json!({"minReplicaCount": min, "maxReplicaCount": min + max}));
        let of = |count: i32| {
            let mut cluster = cluster("a", &bounds);
            cluster["spec"]["replicas"] = json!(count);
            cluster
        };
        let plane = plane(Some(holder), Some(&of(from)));
        for write in [
            Write::update(Resource::Scale, scale("a", from), scale("a", to)),
            Write::update(Resource::Cluster, of(from), of(to)),
        ] {
            let (first, second) = block_on(plane.write(&write));
            prop_assert!(first.allowed && second.is_some_and(|second| second.allowed), "{} to {}: {:?}", from, to, first);
        }
    }

    #[test]
    fn an_autoscaler_is_never_refused_and_what_it_stores_is_valid(
        old in stored_counts(), to in count(), scaler in scaler(),
    ) {
        let before = cluster("a", &old);
        let plane = plane(scaler, Some(&before));
        let from = i32::try_from(old["replicas"].as_i64().unwrap()).unwrap();
        let write = Write { user: HPA_CONTROLLER, ..Write::update(Resource::Scale, scale("a", from), scale("a", to)) };
        let (first, stored) = mutated_twice(&plane, &write)?;
        prop_assert!(first.allowed);
        prop_assert_eq!(rest(stored.clone()), rest(write.new.clone().unwrap()));
        let mut after = before;
        after["spec"]["replicas"] = stored["spec"]["replicas"].clone();
        prop_assert_eq!(complaints(&after), Vec::<String>::new());
        prop_assert_eq!(first.patch.0.is_empty(), stored["spec"]["replicas"] == json!(to));
        let second = block_on(plane.answer(Phase::Validating, &Write { new: Some(stored), ..write }));
        prop_assert!(second.allowed);
    }

    #[test]
    fn of_a_scaled_object_twice_is_once_the_rest_stays_and_what_passes_is_valid(
        (spec, rewrites) in scaled_object_spec(), older in prop::option::of(scaled_object_spec()),
        target in prop::option::weighted(0.9, stored_counts()), scaler in own_scaler(),
    ) {
        let object = |(spec, rewrites): (Value, bool)| {
            let mut object = scaled_object("queue", &spec);
            if !rewrites {
                object["metadata"]["annotations"] = json!({REWRITE_TRIGGERS: "false"});
            }
            object
        };
        let new = object((spec, rewrites));
        let write = match older {
            Some(older) => Write::update(Resource::ScaledObject, object(older), new.clone()),
            None => Write::create(Resource::ScaledObject, new.clone()),
        };
        let mut plane = plane(None, target.map(|counts| cluster("a", &counts)).as_ref());
        plane.admission.scaler = scaler;
        let (first, stored) = mutated_twice(&plane, &write)?;
        // What is filled in is no fault.
        let stated = ["minReplicaCount", "maxReplicaCount", "idleReplicaCount"];
        if stated.iter().all(|field| new["spec"][field].is_null()) {
            prop_assert!(!first.fields.iter().any(|field| field.ends_with("ReplicaCount")), "{:?}", first);
        }
        prop_assert_eq!(rest(stored.clone()), rest(new));
        if first.allowed {
            let second = block_on(plane.answer(Phase::Validating, &Write { new: Some(stored.clone()), ..write.clone() }));
            prop_assert!(second.allowed && second.patch.0.is_empty(), "{:?}", second);
            // KEDA's own rule about the range.
            let spec = &stored["spec"];
            let (min, max) = (&spec["minReplicaCount"], spec["maxReplicaCount"].as_i64().unwrap_or(100));
            prop_assert!(write.old.is_some() || min.as_i64().is_some_and(|min| (1..=max).contains(&min)), "{}", spec);
        }
    }

    #[test]
    fn an_hpa_is_never_changed_and_all_its_versions_get_the_same_verdict(
        (min, max, old_max) in (count(), count(), prop::option::of(count())), scaler in scaler(),
        target in prop::option::weighted(0.9, stored_counts()),
    ) {
        let plane = plane(scaler, target.map(|counts| cluster("a", &counts)).as_ref());
        let answers = ["v1", "v2"].map(|version| {
            let resource = Resource::Hpa(version);
            let write = match old_max {
                Some(old_max) => Write::update(resource, hpa("h", min, old_max), hpa("h", min, max)),
                None => Write::create(resource, hpa("h", min, max)),
            };
            block_on(plane.answer(Phase::Validating, &write))
        });
        let [first, second] = &answers;
        prop_assert!(first.patch.0.is_empty());
        prop_assert_eq!((first.allowed, &first.message, &first.warnings), (second.allowed, &second.message, &second.warnings));
    }
}
