//! Every change from one valid spec to another: it converges to what a fresh creation of the new one makes, with one
//! write for each object that differs.
//!
//! The specs are those of `tests/fixtures/transitions.yaml`, which the real plane is put through as well.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api_server::ApiServer;
use super::*;
use crate::api::crd;

/// Types of Kubernetes' own: what is inside of them is not ours to list.
const FOREIGN_TYPES: &[&str] = &["env", "envFrom", "resources", "podTemplate"];
/// Fields that the schema lets nobody change.
const IMMUTABLE: &[&str] = &["modelCache.claim.size", "modelCache.claim.storageClassName"];

#[derive(Deserialize)]
struct Table {
    base: Map<String, Value>,
    walks: BTreeMap<String, Vec<Map<String, Value>>>,
}

impl Table {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/transitions.yaml");
        serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The base with these states on top; null takes a field away.
    fn spec(&self, states: &[&Map<String, Value>]) -> Value {
        let mut spec = self.base.clone();
        spec.extend(states.iter().copied().flatten().map(|(name, value)| (name.clone(), value.clone())));
        spec.retain(|_, value| !value.is_null());
        Value::Object(spec)
    }

    /// The specs of each walk.
    fn walks(&self) -> Vec<Vec<Value>> {
        let of_walk =
            |states: &Vec<Map<String, Value>>| states.iter().map(|state| self.spec(&[state])).collect();
        self.walks.values().map(of_walk).collect()
    }

    /// Walks through two parts of the spec at once: each and the one after it.
    fn double_walks(&self) -> Vec<Vec<Value>> {
        // Each walk of a cache claim has its own, which cannot be changed.
        let walks: Vec<_> = self.walks.iter().filter(|(name, _)| !name.starts_with("own-cache")).collect();
        let both = |walks: &[(&String, &Vec<Map<String, Value>>)]| {
            let (one, other) = (walks[0].1, walks[1].1);
            one.iter().zip(other).map(|(one, other)| self.spec(&[one, other])).collect()
        };
        walks.windows(2).map(both).collect()
    }
}

/// Each ordered pair of two that differ.
fn ordered_pairs<T>(all: &[T]) -> impl Iterator<Item = (&T, &T)> {
    let pairs = all
        .iter()
        .enumerate()
        .flat_map(|(i, old)| all.iter().enumerate().map(move |(j, new)| (i, j, old, new)));
    pairs.filter(|(i, j, _, _)| i != j).map(|(_, _, old, new)| (old, new))
}

/// The cluster `my-cluster` with this spec.
fn cluster_of(spec: &Value) -> VLLMCluster {
    VLLMCluster { spec: serde_json::from_value(spec.clone()).unwrap(), ..cluster(1) }
}

async fn reconciled(server: &ApiServer) {
    reconcile_readable(&server.context(), &server.cluster(), now()).await.unwrap();
}

/// Objects by path, but for the digest of what was applied.
fn comparable(objects: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let mut objects = objects;
    for object in objects.values_mut() {
        let digest = object["metadata"]["annotations"].as_object_mut().unwrap().remove(difference::DIGEST);
        assert!(digest.is_some_and(|digest| digest.is_string()));
    }
    objects
}

/// A server on which a cluster of this spec was created and is as it should be.
async fn created(spec: &Value) -> ApiServer {
    let server = ApiServer::with(&cluster_of(spec));
    reconciled(&server).await;
    assert!(server.writes().len() >= 4, "{spec} is created");
    reconciled(&server).await;
    assert_eq!(server.writes(), Vec::<String>::new(), "{spec} is as it should be");
    server
}

/// One apply for each object that differs, one deletion for each that goes, and the status.
fn fewest(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<String> {
    let applied = new.iter().filter(|(path, object)| old.get(*path) != Some(object));
    let gone = old.keys().filter(|path| !new.contains_key(*path));
    let mut writes: Vec<_> = applied
        .map(|(path, _)| format!("PATCH {path}"))
        .chain(gone.map(|path| format!("DELETE {path}")))
        .chain([format!("PATCH {STATUS}")])
        .collect();
    writes.sort();
    writes
}

/// Makes each change of two specs of a walk, and says how many these are.
async fn take(walk: &[Value]) -> usize {
    let mut states = Vec::new();
    for spec in walk {
        let server = created(spec).await;
        states.push((spec, comparable(server.objects()), server));
    }
    let mut changes = 0;
    for ((old, from, server), (new, to, _)) in ordered_pairs(&states) {
        let server = server.copy();
        server.change(new);
        reconciled(&server).await;
        assert_eq!(server.writes(), fewest(from, to), "{old} -> {new}");
        assert_eq!(comparable(server.objects()), *to, "{old} -> {new}");
        reconciled(&server).await;
        assert_eq!(server.writes(), Vec::<String>::new(), "{old} -> {new} is at its end");
        changes += 1;
    }
    changes
}

#[tokio::test]
async fn every_change_ends_as_a_fresh_creation_with_the_fewest_writes() {
    let mut changes = 0;
    for walk in Table::read().walks() {
        changes += take(&walk).await;
    }
    assert!(changes >= 200, "{changes}");
}

#[tokio::test]
async fn two_changes_at_once_end_as_a_fresh_creation_with_the_fewest_writes() {
    let mut changes = 0;
    for walk in Table::read().double_walks() {
        changes += take(&walk).await;
    }
    assert!(changes >= 100, "{changes}");
}

/// The fields of a schema, down to those that hold a value.
fn fields(schema: &Value, prefix: &str, all: &mut BTreeSet<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        if property["properties"].is_object() && !FOREIGN_TYPES.contains(&path.as_str()) {
            fields(property, &format!("{path}."), all);
        } else {
            all.insert(path);
        }
    }
}

/// The value of a field in a spec; null where it is not stated.
fn value(spec: &Value, field: &str) -> Value {
    field.split('.').try_fold(spec, |value, name| value.get(name)).cloned().unwrap_or_default()
}

#[test]
fn every_field_is_changed_in_the_table() {
    let table = Table::read();
    let definition = crd::definition();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut all = BTreeSet::new();
    fields(schema, "", &mut all);
    assert!(all.contains("accelerator.count") && all.contains("podTemplate") && all.len() > 25, "{all:?}");
    let walks = table.walks();
    let pairs: Vec<_> = walks.iter().flat_map(|walk| ordered_pairs(walk)).collect();
    let stated = |field: &str| pairs.iter().any(|(old, _)| !value(old, field).is_null());
    let changed = |field: &str| pairs.iter().any(|(old, new)| value(old, field) != value(new, field));
    let missing: Vec<_> = all
        .iter()
        .filter(|field| !stated(field) || !(changed(field) || IMMUTABLE.contains(&field.as_str())))
        .collect();
    assert!(missing.is_empty(), "tests/fixtures/transitions.yaml has no change of {missing:?}");
    assert!(IMMUTABLE.iter().all(|field| all.contains(*field) && !changed(field)));
}

#[test]
fn a_field_that_no_walk_states_is_missed() {
    let schema = json!({"properties": {"accelerator": {"properties": {"count": {}, "speed": {}}}, "env": {"properties": {"x": {}}}}});
    let mut all = BTreeSet::new();
    fields(&schema, "", &mut all);
    assert_eq!(all.into_iter().collect::<Vec<_>>(), ["accelerator.count", "accelerator.speed", "env"]);
    assert_eq!(value(&json!({"a": {"b": 1}}), "a.b"), 1);
    assert_eq!(value(&json!({"a": {"b": 1}}), "a.c"), Value::Null);
}
