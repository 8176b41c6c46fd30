//! Lays a user's pod template over the operator's, by the rules of Kubernetes' strategic merge patch.
//!
//! Architecture invariant: plain functions of two JSON values. Which fields a user may not state is judged
//! elsewhere; here all of them would win.

use serde_json::{Map, Value};

/// The lists of a pod template that are merged entry by entry, and the key of their entries: the `patchMergeKey`s of
/// Kubernetes' own types. All other lists are one value.
const MERGE_KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("volumes", "name"),
    ("imagePullSecrets", "name"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
    ("resourceClaims", "name"),
    ("schedulingGates", "name"),
];

/// Lists whose entries of the same key are replaced as a whole: a volume of another source keeps nothing of the one
/// before (`retainKeys`).
const REPLACED: &[&str] = &["volumes"];

/// The key by which the entries of a list are told apart; `None`: the list is one value.
pub(super) fn merge_key(list: &str) -> Option<&'static str> {
    MERGE_KEYS.iter().find(|(name, _)| *name == list).map(|(_, key)| *key)
}

/// `base` with what `overlay` states on top.
pub fn laid_over(base: Value, overlay: &Map<String, Value>) -> Value {
    merge_value("", base, &Value::Object(overlay.clone()))
}

fn merge_value(field: &str, base: Value, overlay: &Value) -> Value {
    match (base, overlay) {
        (Value::Object(mut base), Value::Object(overlay)) => {
            for (name, value) in overlay {
                let below = base.remove(name).unwrap_or(Value::Null);
                base.insert(name.clone(), merge_value(name, below, value));
            }
            Value::Object(base)
        }
        (Value::Array(base), Value::Array(overlay)) => match merge_key(field) {
            Some(key) => Value::Array(merge_list(field, key, base, overlay)),
            None => Value::Array(overlay.clone()),
        },
        (_, overlay) => overlay.clone(),
    }
}

/// Entries of the base in their order, changed where the overlay has the same key; then the overlay's others, as they are:
/// of two with one key the API server tells.
fn merge_list(field: &str, key: &str, base: Vec<Value>, overlay: &[Value]) -> Vec<Value> {
    let of_base = base.len();
    let (mut merged, mut changed) = (base, vec![false; of_base]);
    for entry in overlay {
        let place = (0..of_base)
            .find(|place| !changed[*place] && !entry[key].is_null() && merged[*place][key] == entry[key]);
        match place {
            Some(place) => {
                changed[place] = true;
                let below = merged[place].take();
                merged[place] = match field {
                    field if REPLACED.contains(&field) => entry.clone(),
                    field => merge_value(field, below, entry),
                };
            }
            None => merged.push(entry.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::nothing(json!({"a": 1}), json!({}), json!({"a": 1}))]
    #[case::a_field_more(json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2}))]
    #[case::a_field_changed(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 3}}), json!({"a": {"b": 3, "c": 2}}))]
    #[case::by_name(
        json!({"containers": [{"name": "vllm", "image": "a"}]}),
        json!({"containers": [{"name": "side"}, {"name": "vllm", "tty": true}]}),
        json!({"containers": [{"name": "vllm", "image": "a", "tty": true}, {"name": "side"}]})
    )]
    #[case::nested_by_name(
        json!({"containers": [{"name": "vllm", "env": [{"name": "A", "value": "1"}]}]}),
        json!({"containers": [{"name": "vllm", "env": [{"name": "B", "value": "2"}]}]}),
        json!({"containers": [{"name": "vllm", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]})
    )]
    #[case::a_volume_of_another_source(
        json!({"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]}),
        json!({"volumes": [{"name": "shm", "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "shm", "hostPath": {"path": "/x"}}]})
    )]
    #[case::one_value(json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}]}), json!({"tolerations": [{"key": "b"}]}))]
    #[case::entries_without_key(json!({"env": [{"value": "1"}]}), json!({"env": [{"value": "2"}]}), json!({"env": [{"value": "1"}, {"value": "2"}]}))]
    #[case::two_of_one_key_stay_two(
        json!({"ports": [{"containerPort": 1}]}),
        json!({"ports": [{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 1, "name": "a"}, {"containerPort": 1, "name": "b"}]}),
        json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 1, "name": "b"}]})
    )]
    fn merged(#[case] base: Value, #[case] overlay: Value, #[case] expected: Value) {
        assert_eq!(laid_over(base, overlay.as_object().unwrap()), expected);
    }

    proptest::proptest! {
        #[test]
        fn twice_is_once(names in proptest::collection::btree_set("[a-c]", 0..4), image in "[a-z]{1,3}") {
            let overlay = json!({"spec": {"containers": names.iter().map(|name| json!({"name": name, "image": image})).collect::<Vec<_>>()}});
            let base = json!({"spec": {"containers": [{"name": "a", "image": "base", "args": ["x"]}]}});
            let once = laid_over(base, overlay.as_object().unwrap());
            let twice = laid_over(once.clone(), overlay.as_object().unwrap());
            proptest::prop_assert_eq!(once, twice);
        }
    }
}
