//! The objects that rows are made of.
//!
//! **Architecture invariant**: manifests as users write them; nothing is filled in that the API server should.

use serde_json::{Map, Value, json};

use super::axes::GROUP;

/// A `VLLMCluster`; `@` in any text becomes what sets one stage apart from another.
pub fn cluster(name: &str, spec: Value) -> Value {
    let mut object =
        json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "VLLMCluster", "metadata": {"name": name}});
    if !spec.is_null() {
        object["spec"] = spec;
    }
    object
}

/// What a driver of a cluster points at.
pub fn target(cluster: &str) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "VLLMCluster", "name": cluster})
}

/// A ScaledObject with these further fields of its spec.
pub fn scaled_object(name: &str, cluster: &str, spec: Value) -> Value {
    driver("keda.sh/v1alpha1", "ScaledObject", name, cluster, spec)
}

/// An HPA with these further fields of its spec; the API version is the case's.
pub fn hpa(name: &str, cluster: &str, spec: Value) -> Value {
    driver("autoscaling/v2", "HorizontalPodAutoscaler", name, cluster, spec)
}

fn driver(api_version: &str, kind: &str, name: &str, cluster: &str, mut spec: Value) -> Value {
    if spec["scaleTargetRef"].is_null() {
        spec["scaleTargetRef"] = target(cluster);
    }
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// The object with one annotation more.
pub fn annotated(mut object: Value, key: &str, value: &str) -> Value {
    let annotations = &mut object["metadata"]["annotations"];
    if annotations.is_null() {
        *annotations = Value::Object(Map::new());
    }
    annotations[key] = json!(value);
    object
}

/// The object with a finalizer that holds it while it is being deleted.
pub fn held(mut object: Value) -> Value {
    object["metadata"]["finalizers"] = json!(["example.com/matrix"]);
    object
}
