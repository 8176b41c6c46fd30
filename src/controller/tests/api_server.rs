//! An API server in memory that applies as the real one does: fields that are no longer stated go, keyed lists are
//! merged by key, and what nobody states has its default.
//!
//! Architecture invariant: one field manager alone writes here. What conflicts of several do is tried on the real one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::super::Context;
use crate::api::VLLMCluster;

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

/// What is kept of an object.
#[derive(Clone, Debug, Default)]
struct Stored {
    /// As it was applied last.
    applied: Value,
    /// Without defaults.
    live: Value,
}

/// The API server, one cluster, and what was written since the last look. A clone is the same server.
#[derive(Clone)]
pub struct ApiServer {
    objects: Arc<Mutex<BTreeMap<String, Stored>>>,
    cluster: Arc<Mutex<Value>>,
    writes: Arc<Mutex<Vec<String>>>,
}

impl ApiServer {
    /// One that holds this cluster and nothing else.
    pub fn with(cluster: &VLLMCluster) -> Self {
        Self {
            objects: Arc::default(),
            cluster: Arc::new(Mutex::new(serde_json::to_value(cluster).unwrap())),
            writes: Arc::default(),
        }
    }

    /// Another one that holds the same, and goes its own way.
    pub fn copy(&self) -> Self {
        Self {
            objects: Arc::new(Mutex::new(self.objects.lock().unwrap().clone())),
            cluster: Arc::new(Mutex::new(self.cluster.lock().unwrap().clone())),
            writes: Arc::default(),
        }
    }

    /// The cluster as it is stored.
    pub fn cluster(&self) -> VLLMCluster {
        serde_json::from_value(self.cluster.lock().unwrap().clone()).unwrap()
    }

    /// Another spec, of the next generation.
    pub fn change(&self, spec: &Value) {
        let mut cluster = self.cluster.lock().unwrap();
        cluster["spec"] = spec.clone();
        cluster["metadata"]["generation"] = json!(cluster["metadata"]["generation"].as_i64().unwrap() + 1);
    }

    /// All else that exists, by path, as a reader sees it.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        let objects = self.objects.lock().unwrap();
        objects.iter().map(|(path, stored)| (path.clone(), seen(path, &stored.live))).collect()
    }

    /// Method and path of the writes since the last look, sorted: objects are written side by side.
    pub fn writes(&self) -> Vec<String> {
        let mut writes = std::mem::take(&mut *self.writes.lock().unwrap());
        writes.sort();
        writes
    }

    /// What a reconciliation needs, with this server behind the client.
    pub fn context(&self) -> Context {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Context::new(Client::new(service, "default"), Arc::default())
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<bytes::Bytes>> {
        let (path, method) = (request.uri().path().to_owned(), request.method().to_string());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        if path.contains("/events.k8s.io/") {
            return Response::new(Full::from(body.to_string()));
        }
        if method != "GET" {
            self.writes.lock().unwrap().push(format!("{method} {path}"));
        }
        let answer = match method.as_str() {
            "PATCH" if path.ends_with("/status") => Some(self.patch_cluster(&body)),
            "PATCH" => Some(self.apply(&path, body)),
            "DELETE" => self.objects.lock().unwrap().remove(&path).map(|stored| stored.live),
            "GET" if path.ends_with("/pods") || path.ends_with("/events") => {
                Some(json!({"metadata": {}, "items": []}))
            }
            "GET" => self.objects.lock().unwrap().get(&path).map(|stored| seen(&path, &stored.live)),
            other => panic!("{other} {path}"),
        };
        let (code, answer) = answer.map_or_else(
            || (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})),
            |answer| (200, answer),
        );
        Response::builder().status(code).body(Full::from(answer.to_string())).unwrap()
    }

    fn patch_cluster(&self, patch: &Value) -> Value {
        let mut cluster = self.cluster.lock().unwrap();
        json_patch::merge(&mut cluster, patch);
        cluster.clone()
    }

    fn apply(&self, path: &str, desired: Value) -> Value {
        let mut objects = self.objects.lock().unwrap();
        let before = objects.remove(path).unwrap_or_default();
        let mut live = merged("", Some(&before.live), &before.applied, &desired);
        if path.contains("/statefulsets/") {
            copy_account(&mut live["spec"]["template"]["spec"]);
        }
        let answer = seen(path, &live);
        objects.insert(path.to_owned(), Stored { applied: desired, live });
        answer
    }
}

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
fn copy_account(pod: &mut Value) {
    if pod["serviceAccountName"].is_null() {
        pod["serviceAccountName"] = pod["serviceAccount"].clone();
    }
    pod["serviceAccount"] = pod["serviceAccountName"].clone();
    if pod["serviceAccount"].is_null() {
        let pod = pod.as_object_mut().unwrap();
        pod.retain(|field, _| !field.starts_with("serviceAccount"));
    }
}

/// An object as it is read: with what the API server adds, and without what it does not keep.
fn seen(path: &str, live: &Value) -> Value {
    let mut object = live.clone();
    object["metadata"]["uid"] = json!(format!("uid of {path}"));
    object["metadata"]["resourceVersion"] = json!("1");
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
