//! Server-side apply and defaults, as the real API server has them: fields that are no longer stated go, keyed lists are
//! merged by key, and what nobody states has its default.
//!
//! Architecture invariant: plain functions of JSON values, of one field manager.

use serde_json::{Value, json};

/// Lists that are merged entry by entry, and what tells their entries apart.
const LIST_KEYS: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("ports", &["port", "containerPort", "protocol"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("ownerReferences", &["uid"]),
];

/// Objects that are one value, as `+structType=atomic` and `+mapType=atomic` say.
const ATOMIC: &[&str] = &[
    "selector",
    "labelSelector",
    "nodeSelector",
    "fieldRef",
    "secretKeyRef",
    "configMapKeyRef",
    "secretRef",
    "configMapRef",
];

/// `live` with `desired` applied by whoever had applied `before`.
pub fn merged(field: &str, live: Option<&Value>, before: &Value, desired: &Value) -> Value {
    match (live, desired) {
        (Some(Value::Object(live)), Value::Object(desired)) if !ATOMIC.contains(&field) => {
            let mut result = live.clone();
            result.retain(|name, _| desired.contains_key(name) || before.get(name).is_none());
            for (name, value) in desired {
                result.insert(name.clone(), merged(name, live.get(name), &before[name], value));
            }
            Value::Object(result)
        }
        (Some(Value::Array(live)), Value::Array(desired)) => {
            let Some((_, keys)) = LIST_KEYS.iter().find(|(list, _)| *list == field) else {
                return Value::Array(desired.clone());
            };
            let same = |a: &Value, b: &Value| keys.iter().all(|key| a[key] == b[key]);
            let find = |list: &[Value], entry: &Value| list.iter().find(|found| same(found, entry)).cloned();
            let before = before.as_array().map(Vec::as_slice).unwrap_or_default();
            let entries = desired.iter().map(|entry| {
                let was = find(before, entry).unwrap_or_default();
                merged("", find(live, entry).as_ref(), &was, entry)
            });
            let of_others = live
                .iter()
                .filter(|entry| find(desired, entry).is_none() && find(before, entry).is_none())
                .cloned();
            entries.chain(of_others).collect()
        }
        (_, desired) => desired.clone(),
    }
}

/// The account has an older name of its own, which fills in the newer one.
pub fn copy_account(pod: &mut Value) {
    if pod["serviceAccountName"].is_null() {
        pod["serviceAccountName"] = pod["serviceAccount"].clone();
    }
    pod["serviceAccount"] = pod["serviceAccountName"].clone();
    if pod["serviceAccount"].is_null() {
        let pod = pod.as_object_mut().unwrap();
        pod.retain(|field, _| !field.starts_with("serviceAccount"));
    }
}

/// An object as it is read: with the defaults that the API server adds, and without what it does not keep.
pub fn seen(path: &str, live: &Value) -> Value {
    let mut object = live.clone();
    let default = |object: &mut Value, field: &str, value: Value| {
        if object[field].is_null() {
            object[field] = value;
        }
    };
    let spec = &mut object["spec"];
    if path.contains("/statefulsets/") {
        default(spec, "revisionHistoryLimit", json!(10));
        let pod = &mut spec["template"]["spec"];
        default(pod, "restartPolicy", json!("Always"));
        default(pod, "dnsPolicy", json!("ClusterFirst"));
        default(pod, "schedulerName", json!("default-scheduler"));
        default(pod, "securityContext", json!({}));
        for container in pod["containers"].as_array_mut().into_iter().flatten() {
            default(container, "imagePullPolicy", json!("IfNotPresent"));
            default(container, "resources", json!({}));
            default(container, "terminationMessagePath", json!("/dev/termination-log"));
            for port in container["ports"].as_array_mut().into_iter().flatten() {
                default(port, "protocol", json!("TCP"));
            }
            for variable in container["env"].as_array_mut().into_iter().flatten() {
                if variable["value"] == "" {
                    variable.as_object_mut().unwrap().remove("value");
                }
            }
        }
    } else if path.contains("/services/") {
        default(spec, "type", json!("ClusterIP"));
        default(spec, "sessionAffinity", json!("None"));
        default(spec, "clusterIP", json!("10.0.0.1"));
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            default(port, "protocol", json!("TCP"));
        }
    }
    object
}

#[test]
fn applied_as_the_real_one_does() {
    let set = |before: Value, live: Value, desired: Value| merged("", Some(&live), &before, &desired);
    // What is no longer stated goes; what others state stays.
    assert_eq!(
        set(json!({"a": 1, "b": 2}), json!({"a": 1, "b": 2, "c": 3}), json!({"a": 4})),
        json!({"a": 4, "c": 3})
    );
    // Entries by key, in the order in which they are stated, behind them those of others.
    assert_eq!(
        set(
            json!({"env": [{"name": "A", "value": "1"}, {"name": "B"}]}),
            json!({"env": [{"name": "X"}, {"name": "A", "value": "1"}, {"name": "B"}]}),
            json!({"env": [{"name": "C"}, {"name": "A"}]}),
        ),
        json!({"env": [{"name": "C"}, {"name": "A"}, {"name": "X"}]})
    );
    // All else is one value.
    assert_eq!(
        set(json!({}), json!({"nodeSelector": {"a": "b"}}), json!({"nodeSelector": {"c": "d"}})),
        json!({"nodeSelector": {"c": "d"}})
    );
    assert_eq!(set(json!({}), json!({"args": ["a"]}), json!({"args": ["b"]})), json!({"args": ["b"]}));
}
