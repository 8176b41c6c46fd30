//! Whether a live object already is what is desired.
//!
//! The API server adds defaults to what is applied, writes quantities in another form and leaves empty values
//! out, so equality would always say no. Instead every value that is stated must be there. Fields that are no
//! longer stated are not seen that way; for them, the desired object bears a digest of itself.
//!
//! Architecture invariant: plain functions of two JSON values.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Annotation with the digest of what was applied last.
pub const DIGEST: &str = "training.distributed-inference.io/applied-digest";

/// Fields that the API server keeps also when they are false, zero or empty, because without them something else holds:
/// links to Services are set, a token is mounted, the image's user is taken, the volume is another.
const KEPT: &[&str] = &[
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "emptyDir",
    "enableServiceLinks",
    "fsGroup",
    "hostUsers",
    "runAsGroup",
    "runAsUser",
];

/// Puts the digest of an object into its annotations. Only the object's own: in a pod template it would restart
/// the pods.
pub fn stamp(object: &mut Value) {
    let digest = Sha256::digest(object.to_string());
    let text = digest.iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    object["metadata"]["annotations"][DIGEST] = Value::String(text);
}

/// Whether `live` has every value that `desired` states.
pub fn states_all(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            desired.iter().all(|(name, value)| match live.get(name) {
                None => is_empty(value) && !KEPT.contains(&name.as_str()),
                Some(found) if matches!(name.as_str(), "limits" | "requests") => {
                    same_quantities(value, found)
                }
                // Of an environment variable that shows a resource, and of a volume in memory.
                Some(found) if matches!(name.as_str(), "divisor" | "sizeLimit") => {
                    same_quantity(value, found)
                }
                // One more key selects other pods; nobody adds one who wants the same.
                Some(found) if name == "selector" => value == found,
                Some(found) => states_all(value, found),
            })
        }
        (Value::Array(desired), Value::Array(live)) => same_list(desired, live),
        (desired, live) => desired == live,
    }
}

/// Lists whose entries have a key are merged by it, and others may add entries; all others are one value.
fn same_list(desired: &[Value], live: &[Value]) -> bool {
    let key = ["name", "mountPath", "uid"]
        .into_iter()
        .find(|key| !desired.is_empty() && desired.iter().all(|entry| entry[key].is_string()));
    match key {
        Some(key) => desired
            .iter()
            .all(|entry| live.iter().any(|found| found[key] == entry[key] && states_all(entry, found))),
        None => {
            desired.len() == live.len()
                && desired.iter().zip(live).all(|(desired, live)| states_all(desired, live))
        }
    }
}

/// The API server leaves out what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

/// Resource lists, in which `1000m` and `1` are the same. The API server stores them rounded up to thousandths.
fn same_quantities(desired: &Value, live: &Value) -> bool {
    let Some(desired) = desired.as_object() else { return desired == live };
    desired.iter().all(|(name, value)| {
        let live = &live[name];
        value == live
            || value
                .as_str()
                .zip(live.as_str())
                .and_then(|(value, live)| {
                    quantity(value).map(thousandths).zip(quantity(live).map(thousandths))
                })
                .is_some_and(|(value, live)| same_number(value, live))
    })
}

fn same_quantity(desired: &Value, live: &Value) -> bool {
    desired == live
        || match (desired.as_str().and_then(quantity), live.as_str().and_then(quantity)) {
            (Some(a), Some(b)) => same_number(a, b),
            _ => false,
        }
}

/// Both come from decimal texts of at most a few digits: a relative slip of 1e-12 is rounding.
fn same_number(a: f64, b: f64) -> bool {
    (a - b).abs() <= a.abs().max(b.abs()) * 1e-12
}

/// A quantity in thousandths, rounded up; what is above a whole number by rounding alone stays.
fn thousandths(value: f64) -> f64 {
    let exact = value * 1e3;
    (exact - exact.abs().max(1.0) * 1e-12).ceil()
}

/// The value of a Kubernetes quantity such as `500m`, `1.5Gi` or `2e3`.
fn quantity(text: &str) -> Option<f64> {
    let suffix_at = text
        .char_indices()
        .find(|(at, c)| c.is_ascii_alphabetic() && !is_exponent(text, *at))
        .map_or(text.len(), |(at, _)| at);
    let (number, suffix) = text.split_at(suffix_at);
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// `e` or `E` followed by a digit or a sign is an exponent, and not the suffix of exa.
fn is_exponent(text: &str, at: usize) -> bool {
    let rest = &text.as_bytes()[at..];
    matches!(rest[0], b'e' | b'E')
        && rest.get(1).is_some_and(|next| next.is_ascii_digit() || matches!(next, b'+' | b'-'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::same(json!({"a": 1}), json!({"a": 1}), true)]
    #[case::defaults_added(json!({"a": {"b": 1}}), json!({"a": {"b": 1, "c": 2}, "d": 3}), true)]
    #[case::changed(json!({"a": 1}), json!({"a": 2}), false)]
    #[case::missing(json!({"a": 1}), json!({}), false)]
    #[case::empty_left_out(json!({"value": "", "list": [], "object": {"a": null}}), json!({}), true)]
    #[case::false_is_not_left_out(json!({"enableServiceLinks": false}), json!({}), false)]
    #[case::zero_is_not_left_out(json!({"runAsUser": 0}), json!({}), false)]
    #[case::a_volume_of_another_source(json!([{"name": "a", "emptyDir": {}}]), json!([{"name": "a", "hostPath": {"path": "/"}}]), false)]
    #[case::not_empty_after_all(json!({"value": ""}), json!({"value": "x"}), false)]
    #[case::keyed_entries_of_others(json!([{"name": "a", "v": 1}]), json!([{"name": "b"}, {"name": "a", "v": 1, "w": 2}]), true)]
    #[case::keyed_entry_changed(json!([{"name": "a", "v": 1}]), json!([{"name": "a", "v": 2}]), false)]
    #[case::plain_list(json!(["a"]), json!(["a", "b"]), false)]
    #[case::quantities(json!({"limits": {"cpu": "1000m", "memory": "1Gi"}}), json!({"limits": {"cpu": "1", "memory": "1024Mi"}}), true)]
    #[case::other_quantities(json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}}), false)]
    #[case::rounded_up(json!({"limits": {"cpu": "100u"}}), json!({"limits": {"cpu": "1m"}}), true)]
    #[case::rounded_up_from_above(json!({"limits": {"cpu": "1100u"}}), json!({"limits": {"cpu": "2m"}}), true)]
    #[case::not_rounded_down(json!({"limits": {"cpu": "1100u"}}), json!({"limits": {"cpu": "1m"}}), false)]
    #[case::a_thousandth_apart(json!({"limits": {"cpu": "7m"}}), json!({"limits": {"cpu": "8m"}}), false)]
    #[case::selector_with_one_key_more(json!({"selector": {"a": "b"}}), json!({"selector": {"a": "b", "c": "d"}}), false)]
    #[case::divisor(json!({"divisor": "1024Ki"}), json!({"divisor": "1Mi"}), true)]
    #[case::other_divisor(json!({"divisor": "1Ki"}), json!({"divisor": "1Mi"}), false)]
    #[case::no_quantities(json!({"limits": {"cpu": "one"}}), json!({"limits": {"cpu": "1"}}), false)]
    fn stated(#[case] desired: Value, #[case] live: Value, #[case] expected: bool) {
        assert_eq!(states_all(&desired, &live), expected);
    }

    #[rstest]
    #[case("500m", 0.5)]
    #[case("2e3", 2000.0)]
    #[case("2E", 2e18)]
    #[case("1.5Ki", 1536.0)]
    fn quantities(#[case] text: &str, #[case] value: f64) {
        assert_eq!(quantity(text), Some(value));
        assert_eq!(quantity("1Zi"), None);
    }

    #[test]
    fn a_field_that_is_no_longer_stated_changes_the_digest() {
        let (mut with, mut without) = (json!({"spec": {"a": 1, "b": 2}}), json!({"spec": {"a": 1}}));
        stamp(&mut with);
        stamp(&mut without);
        assert!(!states_all(&without, &with));
    }
}
