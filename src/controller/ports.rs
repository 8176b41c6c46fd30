//! Ports that another actor has given another number.
//!
//! Server-side apply tells ports apart by their number. One that was renumbered counts as somebody else's, and ours cannot
//! be added beside it, since both bear the same name: every apply would be refused. So the number itself is put back.
//!
//! Architecture invariant: a plain function of JSON values.

use json_patch::jsonptr::PointerBuf;
use json_patch::{Patch, PatchOperation, ReplaceOperation, TestOperation};
use serde_json::{Map, Value, json};

use crate::api::names::FIELD_MANAGER;

/// What puts back the numbers of our ports; `None` where there is nothing to put back. A port that we have applied
/// ourselves is none of these: applying another number takes it away.
pub fn renumbered(desired: &Value, live: &Value) -> Option<Patch> {
    let managers = live["metadata"]["managedFields"].as_array()?;
    let applied =
        managers.iter().find(|entry| entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply")?;
    let mut operations = Vec::new();
    compare(desired, live, &applied["fieldsV1"], &mut Vec::new(), &mut operations);
    (!operations.is_empty()).then_some(Patch(operations))
}

/// Looks for ports at and below a place, of which `owned` says what we have applied.
fn compare(
    desired: &Value,
    live: &Value,
    owned: &Value,
    at: &mut Vec<String>,
    operations: &mut Vec<PatchOperation>,
) {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            for (name, value) in desired {
                let Some(below) = live.get(name) else { continue };
                let owned = &owned[format!("f:{name}")];
                at.push(name.clone());
                match (value, below) {
                    (Value::Array(value), Value::Array(below)) if name == "ports" => {
                        compare_ports(value, below, owned, at, operations);
                    }
                    (value, below) => compare(value, below, owned, at, operations),
                }
                at.pop();
            }
        }
        (Value::Array(desired), Value::Array(live)) => {
            for (entry, index, found) in same_names(desired, live) {
                let key = format!("k:{}", json!({ "name": entry["name"] }));
                at.push(index.to_string());
                compare(entry, found, &owned[key], at, operations);
                at.pop();
            }
        }
        _ => {}
    }
}

fn compare_ports(
    desired: &[Value],
    live: &[Value],
    owned: &Value,
    at: &[String],
    operations: &mut Vec<PatchOperation>,
) {
    for (port, index, found) in same_names(desired, live) {
        let number = if port["port"].is_null() { "containerPort" } else { "port" };
        if found[number] != port[number] && !owns(owned.as_object(), number, &found[number]) {
            let index = index.to_string();
            let path =
                |field| PointerBuf::from_tokens(at.iter().map(String::as_str).chain([index.as_str(), field]));
            operations.push(PatchOperation::Test(TestOperation {
                path: path("name"),
                value: port["name"].clone(),
            }));
            operations.push(PatchOperation::Replace(ReplaceOperation {
                path: path(number),
                value: port[number].clone(),
            }));
        }
    }
}

/// Entries that bear the same name in both: the desired one, and the live one with its index.
fn same_names<'a>(
    desired: &'a [Value],
    live: &'a [Value],
) -> impl Iterator<Item = (&'a Value, usize, &'a Value)> {
    desired.iter().filter(|entry| entry["name"].is_string()).filter_map(|entry| {
        let found = live.iter().enumerate().find(|(_, found)| found["name"] == entry["name"]);
        found.map(|(index, found)| (entry, index, found))
    })
}

/// Whether an entry with this number is among those that are managed.
fn owns(entries: Option<&Map<String, Value>>, field: &str, number: &Value) -> bool {
    let keys = entries.into_iter().flat_map(Map::keys).filter_map(|key| key.strip_prefix("k:"));
    keys.filter_map(|key| serde_json::from_str::<Value>(key).ok()).any(|key| &key[field] == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(number: i32) -> Value {
        let ports = json!([{"name": "http", "containerPort": number}]);
        let containers = json!([{"name": "side"}, {"name": "vllm", "ports": ports}]);
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    /// A live object in which we have applied the port of this number, if any.
    fn managed(mut object: Value, applied: Option<i32>) -> Value {
        let ports = match applied {
            Some(number) => json!({format!(r#"k:{{"containerPort":{number},"protocol":"TCP"}}"#): {".": {}}}),
            None => json!({}),
        };
        let fields = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {r#"k:{"name":"vllm"}"#: {"f:ports": ports}}}}}});
        object["metadata"] = json!({"managedFields": [
            {"manager": "another", "operation": "Update", "fieldsV1": {}},
            {"manager": "vllm-operator", "operation": "Apply", "fieldsV1": fields},
        ]});
        object
    }

    #[test]
    fn a_number_that_another_has_changed_is_put_back() {
        let patch = renumbered(&set(8000), &managed(set(8001), None)).unwrap();
        assert_eq!(
            json!(patch),
            json!([
                {"op": "test", "path": "/spec/template/spec/containers/1/ports/0/name", "value": "http"},
                {"op": "replace", "path": "/spec/template/spec/containers/1/ports/0/containerPort", "value": 8000},
            ])
        );
        let service = |number: i32| json!({"spec": {"ports": [{"name": "http", "port": number}]}});
        let patch = json!(renumbered(&service(80), &managed(service(81), None)).unwrap());
        assert_eq!(patch[1], json!({"op": "replace", "path": "/spec/ports/0/port", "value": 80}));
    }

    #[test]
    fn what_we_have_applied_ourselves_is_left_to_the_next_apply() {
        assert_eq!(renumbered(&set(9000), &managed(set(8000), Some(8000))), None);
        assert_eq!(renumbered(&set(8000), &managed(set(8000), None)), None);
        // Another's port of another name.
        let mut live = managed(set(8000), Some(8000));
        live["spec"]["template"]["spec"]["containers"][1]["ports"][0]["name"] = json!("other");
        assert_eq!(renumbered(&set(8001), &live), None);
        // Nobody has said who manages what.
        assert_eq!(renumbered(&set(8000), &set(8001)), None);
    }
}
