//! What a Lease says, and what is written into it.
//!
//! Architecture invariant: pure, and total: a Lease may hold anything. What is not ours in it is kept.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ApiResource, DynamicObject};
use serde_json::{Map, Value, json};

use super::{LONGEST, Settings};

/// Who holds a Lease. An empty name is nobody's; one that is no text is somebody's whom we do not know.
pub fn holder(lease: &DynamicObject) -> Option<String> {
    match spec(lease).get("holderIdentity") {
        None | Some(Value::Null) => None,
        Some(Value::String(holder)) => (!holder.is_empty()).then(|| holder.clone()),
        Some(unknown) => Some(unknown.to_string()),
    }
}

/// How long a Lease is held from its last change, by what it says itself: its holder keeps to that. Where it says
/// nothing sensible, as long as we would hold it.
pub fn duration(lease: &DynamicObject, settings: Settings) -> Duration {
    let seconds = spec(lease).get("leaseDurationSeconds").and_then(Value::as_u64);
    let seconds = seconds.filter(|seconds| *seconds > 0);
    seconds.map_or(settings.duration, Duration::from_secs).min(LONGEST)
}

/// How often the Lease has gone from one holder to another.
pub fn transitions(lease: &DynamicObject) -> i32 {
    let transitions = spec(lease).get("leaseTransitions").and_then(Value::as_i64);
    // What is stored is an int32 and not negative.
    i32::try_from(transitions.unwrap_or_default().max(0)).unwrap_or(i32::MAX)
}

/// A Lease that does not exist yet. The namespace is that of the call.
pub fn absent(name: &str) -> DynamicObject {
    DynamicObject::new(name, &ApiResource::erase::<Lease>(&()))
}

/// The Lease as its holder renews it.
pub fn renewed(mut lease: DynamicObject, settings: Settings, clock: Timestamp) -> DynamicObject {
    let spec = spec_mut(&mut lease);
    spec.insert("leaseDurationSeconds".into(), json!(settings.duration.as_secs()));
    spec.insert("renewTime".into(), json!(MicroTime(clock)));
    lease
}

/// The Lease as a new holder writes it.
pub fn taken(
    mut lease: DynamicObject,
    identity: &str,
    settings: Settings,
    clock: Timestamp,
) -> DynamicObject {
    let existed = lease.metadata.resource_version.is_some();
    let transitions = if existed { transitions(&lease).saturating_add(1) } else { 0 };
    let spec = spec_mut(&mut lease);
    spec.insert("holderIdentity".into(), json!(identity));
    spec.insert("acquireTime".into(), json!(MicroTime(clock)));
    spec.insert("leaseTransitions".into(), json!(transitions));
    renewed(lease, settings, clock)
}

/// The Lease as its holder gives it up: nobody's, and for those who do not know that, only for a second.
pub fn released(mut lease: DynamicObject, clock: Timestamp) -> DynamicObject {
    let transitions = transitions(&lease);
    let spec = spec_mut(&mut lease);
    spec.insert("holderIdentity".into(), json!(""));
    spec.insert("leaseDurationSeconds".into(), json!(1));
    spec.insert("acquireTime".into(), json!(MicroTime(clock)));
    spec.insert("renewTime".into(), json!(MicroTime(clock)));
    spec.insert("leaseTransitions".into(), json!(transitions));
    lease
}

/// The whole of what its holder says: any change of it is a sign of life.
pub fn spec(lease: &DynamicObject) -> &Value {
    lease.data.get("spec").unwrap_or(&Value::Null)
}

fn spec_mut(lease: &mut DynamicObject) -> &mut Map<String, Value> {
    if !lease.data.is_object() {
        lease.data = json!({});
    }
    if !spec(lease).is_object() {
        lease.data["spec"] = json!({});
    }
    lease.data["spec"].as_object_mut().expect("made one just above")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn settings() -> Settings {
        let [duration, deadline, retry] = [15, 10, 2].map(Duration::from_secs);
        Settings::new(duration, deadline, retry).expect("client-go's")
    }

    fn lease(spec: &Value) -> DynamicObject {
        let lease =
            json!({"metadata": {"name": "l", "resourceVersion": "7", "labels": {"a": "b"}}, "spec": spec});
        serde_json::from_value(lease).expect("an object")
    }

    fn clock() -> Timestamp {
        "2030-01-01T00:00:00.5Z".parse().expect("a literal")
    }

    #[rstest]
    #[case::held(json!({"holderIdentity": "a", "leaseDurationSeconds": 20}), Some("a"), 20)]
    #[case::released(json!({"holderIdentity": "", "leaseDurationSeconds": 1}), None, 1)]
    #[case::no_spec(Value::Null, None, 15)]
    #[case::no_object(json!("x"), None, 15)]
    #[case::null_holder(json!({"holderIdentity": null}), None, 15)]
    #[case::unknown_holder(json!({"holderIdentity": 5}), Some("5"), 15)]
    #[case::no_duration(json!({"holderIdentity": "a"}), Some("a"), 15)]
    #[case::negative(json!({"holderIdentity": "a", "leaseDurationSeconds": -3}), Some("a"), 15)]
    #[case::zero(json!({"holderIdentity": "a", "leaseDurationSeconds": 0}), Some("a"), 15)]
    #[case::a_text(json!({"holderIdentity": "a", "leaseDurationSeconds": "20"}), Some("a"), 15)]
    #[case::for_ever(json!({"holderIdentity": "a", "leaseDurationSeconds": i32::MAX}), Some("a"), 300)]
    fn anything_can_be_read(#[case] spec: Value, #[case] held_by: Option<&str>, #[case] seconds: u64) {
        let lease = lease(&spec);
        assert_eq!(holder(&lease).as_deref(), held_by);
        assert_eq!(duration(&lease, settings()).as_secs(), seconds);
        // And whatever it was, it can be taken.
        assert_eq!(holder(&taken(lease, "me", settings(), clock())).as_deref(), Some("me"));
    }

    #[test]
    fn records_are_kept_as_client_go_keeps_them() {
        let created = taken(absent("l"), "a", settings(), clock());
        let time = "2030-01-01T00:00:00.500000Z";
        let wanted = json!({
            "holderIdentity": "a", "leaseDurationSeconds": 15, "acquireTime": time, "renewTime": time,
            "leaseTransitions": 0,
        });
        assert_eq!(spec(&created), &wanted);
        assert_eq!(created.types.as_ref().map(|types| types.kind.as_str()), Some("Lease"));

        let later = clock() + Duration::from_secs(2);
        let mut theirs = wanted.clone();
        theirs["preferredHolder"] = json!("b");
        let renewed = renewed(lease(&theirs), settings(), later);
        theirs["renewTime"] = json!("2030-01-01T00:00:02.500000Z");
        assert_eq!(spec(&renewed), &theirs);

        let taken = taken(renewed, "b", settings(), clock());
        let of_taken = |field: &str| spec(&taken)[field].clone();
        assert_eq!((of_taken("leaseTransitions"), of_taken("acquireTime")), (json!(1), json!(time)));
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("7"), "the precondition");
        assert!(taken.metadata.labels.as_ref().is_some_and(|labels| labels.len() == 1));

        let released = released(taken, later);
        let wanted = json!({
            "holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 1, "preferredHolder": "b",
            "acquireTime": "2030-01-01T00:00:02.500000Z", "renewTime": "2030-01-01T00:00:02.500000Z",
        });
        assert_eq!(spec(&released), &wanted);
    }

    #[rstest]
    #[case(json!(-4), 1)]
    #[case(json!("x"), 1)]
    #[case(json!(i32::MAX), i32::MAX)]
    #[case(json!(i64::MAX), i32::MAX)]
    fn transitions_stay_within_an_int32(#[case] before: Value, #[case] after: i32) {
        let taken = taken(lease(&json!({"leaseTransitions": before})), "a", settings(), clock());
        assert_eq!(transitions(&taken), after);
    }
}
