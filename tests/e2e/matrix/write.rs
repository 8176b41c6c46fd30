//! The request of one cell: the same change by each verb.
//!
//! **Architecture invariant**: pure; what is there before is an argument.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::api::{Call, collection};
use super::axes::{Kind, Mode, Verb};

/// Who owns what is applied; the same for what was there before, so that a field that an apply leaves out goes.
pub const MANAGER: &str = "matrix";

pub const APPLY: &str = "application/apply-patch+yaml";
pub const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// What a write can change of an object.
pub fn projection(object: &Value) -> Value {
    let mut metadata = Map::new();
    for key in ["labels", "annotations", "finalizers"] {
        let value = &object["metadata"][key];
        if !value.is_null() {
            metadata.insert(key.into(), value.clone());
        }
    }
    let mut projection = json!({"metadata": metadata});
    if !object["spec"].is_null() {
        projection["spec"] = object["spec"].clone();
    }
    projection
}

/// The request that makes `wanted` of `current`.
pub fn call(
    kind: Kind,
    verb: Verb,
    mode: Mode,
    namespace: &str,
    wanted: &Value,
    current: &Value,
    dry: bool,
) -> Call {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let mut url = collection(kind, namespace);
    if verb != Verb::Create {
        url = format!("{url}/{name}");
    }
    if kind == Kind::Scale {
        url += "/scale";
    }
    // Strict, as kubectl asks for it.
    url = format!("{url}?fieldManager={MANAGER}&fieldValidation=Strict");
    if dry {
        url += "&dryRun=All";
    }
    let target = projection(wanted);
    match verb {
        Verb::Create => Call::new(Method::POST, url).body(wanted.clone()),
        Verb::Put => {
            let mut body = wanted.clone();
            if mode == Mode::Existing && kind != Kind::Scale {
                // As from a manifest, also where the object is being deleted: no manifest says so.
                for key in ["resourceVersion", "uid"] {
                    body["metadata"][key] = current["metadata"][key].clone();
                }
            }
            Call::new(Method::PUT, url).body(body)
        }
        Verb::MergePatch => {
            let patch = if kind == Kind::Scale { target } else { difference(&projection(current), &target) };
            Call::new(Method::PATCH, url).typed(MERGE).body(patch)
        }
        Verb::JsonPatch => {
            let patch = if kind == Kind::Scale {
                json!([{"op": "replace", "path": "/spec/replicas", "value": wanted["spec"]["replicas"]}])
            } else {
                operations(&projection(current), &target)
            };
            Call::new(Method::PATCH, url).typed(JSON_PATCH).body(patch)
        }
        Verb::Apply => Call::new(Method::PATCH, url + "&force=true").typed(APPLY).body(wanted.clone()),
    }
}

/// The merge patch (RFC 7386) from one value to another.
pub fn difference(from: &Value, to: &Value) -> Value {
    let (Some(old), Some(new)) = (from.as_object(), to.as_object()) else { return to.clone() };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => drop(patch.insert(key.clone(), difference(before, value))),
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(patch)
}

/// A JSON patch (RFC 6902) from one projection to another, field by field.
fn operations(from: &Value, to: &Value) -> Value {
    let mut operations = Vec::new();
    if to["spec"].is_null() {
        operations.push(json!({"op": "remove", "path": "/spec"}));
    }
    for part in ["metadata", "spec"] {
        let (Some(old), Some(new)) = (from[part].as_object(), to[part].as_object()) else { continue };
        for key in old.keys().filter(|key| !new.contains_key(*key)) {
            operations.push(json!({"op": "remove", "path": format!("/{part}/{key}")}));
        }
        for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(*value)) {
            operations.push(json!({"op": "add", "path": format!("/{part}/{key}"), "value": value}));
        }
    }
    Value::Array(operations)
}
