//! An API server in memory: it applies as the real one does, and tells those who watch.
//!
//! Architecture invariant: one field manager alone writes here. What conflicts of several do is tried on the real one.
//! It answers every request; what goes wrong on the way is [`crate::faulty`]'s.

mod conditional;
mod fields;
mod watch;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch::Sender;

use super::super::Context;
use crate::api::VLLMCluster;
use crate::telemetry::Metrics;
use fields::{copy_account, merged, seen};

/// The cluster's path.
const CLUSTER: &str = "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters/my-cluster";

/// What is kept of an object.
#[derive(Clone, Debug, Default)]
struct Stored {
    /// As it was applied last.
    applied: Value,
    /// Without defaults.
    live: Value,
}

/// One change of an object, as readers see it. The number of changes so far is the resourceVersion.
#[derive(Clone, Debug)]
struct Change {
    path: String,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Clone, Debug, Default)]
struct Store {
    objects: BTreeMap<String, Stored>,
    changes: Vec<Change>,
}

impl Store {
    /// Stores an object. One that is as it was is no change.
    fn put(&mut self, path: &str, mut new: Stored) {
        let before = self.objects.get(path).map(|before| before.live.clone());
        if before.as_ref() != Some(&new.live) {
            let version = self.changes.len() + 1;
            let metadata = |object: &Option<Value>, field: &str| {
                object.as_ref().map(|object| object["metadata"][field].clone()).unwrap_or_default()
            };
            let of_before = metadata(&before, "generation").as_i64();
            let same_spec = before.as_ref().is_some_and(|before| before["spec"] == new.live["spec"]);
            let generation = of_before.map_or(1, |of_before| of_before + i64::from(!same_spec));
            new.live["metadata"]["resourceVersion"] = json!(version.to_string());
            new.live["metadata"]["generation"] = json!(generation);
            if new.live["metadata"]["uid"].is_null() {
                new.live["metadata"]["uid"] = json!(format!("uid {version}"));
            }
            let after = Some(seen(path, &new.live));
            let before = before.map(|before| seen(path, &before));
            self.changes.push(Change { path: path.to_owned(), before, after });
        }
        self.objects.insert(path.to_owned(), new);
    }

    fn remove(&mut self, path: &str) -> Option<Value> {
        let before = seen(path, &self.objects.remove(path)?.live);
        self.changes.push(Change { path: path.to_owned(), before: Some(before.clone()), after: None });
        Some(before)
    }
}

/// The API server, and what was written since the last look. A clone is the same server.
#[derive(Clone)]
pub struct ApiServer {
    store: Arc<Mutex<Store>>,
    /// How many changes there were.
    told: Sender<usize>,
    writes: Arc<Mutex<Vec<String>>>,
}

impl ApiServer {
    /// One that holds nothing.
    pub fn empty() -> Self {
        Self { store: Arc::default(), told: Sender::new(0), writes: Arc::default() }
    }

    /// One that holds this cluster and nothing else.
    pub fn with(cluster: &VLLMCluster) -> Self {
        let server = Self::empty();
        server.create(cluster);
        server
    }

    /// Another one that holds the same, and goes its own way.
    pub fn copy(&self) -> Self {
        let store = self.store().clone();
        let told = Sender::new(store.changes.len());
        Self { store: Arc::new(Mutex::new(store)), told, writes: Arc::default() }
    }

    /// Creates the cluster.
    pub fn create(&self, cluster: &VLLMCluster) {
        let live = serde_json::to_value(cluster).unwrap();
        self.write(|store| store.put(CLUSTER, Stored { live, ..Stored::default() }));
    }

    /// The cluster as it is stored.
    pub fn cluster(&self) -> VLLMCluster {
        serde_json::from_value(self.store().objects[CLUSTER].live.clone()).unwrap()
    }

    /// Another spec, of the next generation.
    pub fn change(&self, spec: &Value) {
        self.edit(CLUSTER, |cluster| cluster["spec"] = spec.clone());
    }

    /// What somebody else writes into an object.
    pub fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        self.write(|store| {
            let mut stored = store.objects.get(path).cloned().unwrap_or_default();
            edit(&mut stored.live);
            store.put(path, stored);
        });
    }

    /// Deletes an object at once.
    pub fn delete(&self, path: &str) {
        self.write(|store| store.remove(path).expect("it exists"));
    }

    /// Deletes the cluster; what it owned stays, by whether it keeps its owner, to be collected, or not.
    pub fn delete_cluster(&self, orphans: bool) {
        let owned: Vec<_> = self.store().objects.keys().filter(|path| *path != CLUSTER).cloned().collect();
        for path in owned.iter().filter(|_| orphans) {
            self.edit(path, |object| object["metadata"]["ownerReferences"] = json!([]));
        }
        self.delete(CLUSTER);
    }

    /// Collects what belongs to a cluster that is gone.
    pub fn collect(&self) {
        let uid = |stored: &Stored| stored.live["metadata"]["uid"].clone();
        let live: Vec<_> = self.store().objects.values().map(uid).collect();
        let gone = |object: &Value| {
            let owner = &object["metadata"]["ownerReferences"][0]["uid"];
            owner.is_string() && !live.contains(owner)
        };
        let paths: Vec<_> = {
            let store = self.store();
            let gone = store.objects.iter().filter(|(_, stored)| gone(&stored.live));
            gone.map(|(path, _)| path.clone()).collect()
        };
        for path in paths {
            self.delete(&path);
        }
    }

    /// Takes every StatefulSet to where it has all the pods that it wants, ready and of its spec.
    pub fn settle(&self) {
        let is_set = |path: &&String| path.contains("/statefulsets/");
        let sets: Vec<_> = self.store().objects.keys().filter(is_set).cloned().collect();
        for path in sets {
            self.edit(&path, |set| {
                let (wanted, generation) = (&set["spec"]["replicas"], &set["metadata"]["generation"]);
                set["status"] = json!({
                    "observedGeneration": generation, "replicas": wanted, "readyReplicas": wanted,
                    "updatedReplicas": wanted, "currentRevision": "a", "updateRevision": "a",
                });
            });
        }
    }

    /// All that exists but the cluster, by path, as a reader sees it; without what tells two equal objects apart.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        let mut objects = self.everything();
        objects.remove(CLUSTER);
        objects
    }

    /// As [`Self::objects`], with the cluster; without the times of its conditions, which are those of the run.
    pub fn everything(&self) -> BTreeMap<String, Value> {
        let read = |(path, stored): (&String, &Stored)| {
            let mut object = seen(path, &stored.live);
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.retain(|field, _| !matches!(field.as_str(), "uid" | "resourceVersion" | "generation"));
            // What it was changed to and back in between is no part of where it ends.
            if path.contains("/statefulsets/") && object["status"].is_object() {
                object["status"].as_object_mut().unwrap().remove("observedGeneration");
            }
            for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
                condition.as_object_mut().unwrap().remove("lastTransitionTime");
            }
            if object["status"].is_null() {
                object.as_object_mut().unwrap().remove("status");
            }
            (path.clone(), object)
        };
        self.store().objects.iter().map(read).collect()
    }

    /// Method and path of the writes since the last look, sorted: objects are written side by side.
    pub fn writes(&self) -> Vec<String> {
        let mut writes = std::mem::take(&mut *self.writes.lock().unwrap());
        writes.sort();
        writes
    }

    /// The cluster as it is stored, in whatever form.
    pub fn stored(&self) -> Value {
        self.store().objects[CLUSTER].live.clone()
    }

    /// An object as it was after so many of its changes; `None` if there were fewer. The cluster, if no path is named.
    pub fn version(&self, path: Option<&str>, changes: usize) -> Option<Value> {
        let path = path.unwrap_or(CLUSTER);
        let store = self.store();
        let of_path = store.changes.iter().filter(|change| change.path == path);
        of_path.map(|change| &change.after).nth(changes.checked_sub(1)?)?.clone()
    }

    /// What a reconciliation needs, with this server behind the client.
    pub fn context(&self) -> Context {
        Context::new(self.client(), Arc::default(), Metrics::default().controller)
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Answers one request.
    pub async fn answer(self, request: Request<kube::client::Body>) -> Response<Body> {
        let (uri, method) = (request.uri().clone(), request.method().to_string());
        let path = uri.path().to_owned();
        let is_json_patch =
            request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json-patch+json");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        if path.contains("/events.k8s.io/") || path == "/version" {
            return response(200, &body);
        }
        if method == "GET" {
            let found = self.store().objects.get(&path).map(|stored| seen(&path, &stored.live));
            return match found {
                Some(object) => response(200, &object),
                None if watch::is_of_one(&path) => response(404, &not_found(&path)),
                None => self.list_or_watch(&uri),
            };
        }
        self.writes.lock().unwrap().push(format!("{method} {path}"));
        let written = match method.as_str() {
            "PATCH" if path.ends_with("/status") => self.merge_status(&path, &body),
            "PATCH" if is_json_patch => self.patch(&path, body),
            "PATCH" => Ok(self.apply(&path, body)),
            "POST" => self.create_new(&path, body),
            "PUT" => self.replace(&path, body),
            "DELETE" => self.remove(&path, &body),
            other => panic!("{other} {path}"),
        };
        written.map_or_else(|(code, failure)| response(code, &failure), |object| response(200, &object))
    }

    fn merge_status(&self, path: &str, differences: &Value) -> Result<Value, (u16, Value)> {
        let of_object = path.strip_suffix("/status").unwrap();
        if !self.store().objects.contains_key(of_object) {
            return Err((404, not_found(of_object)));
        }
        self.edit(of_object, |cluster| json_patch::merge(cluster, differences));
        Ok(self.store().objects[of_object].live.clone())
    }

    fn apply(&self, path: &str, desired: Value) -> Value {
        self.write(|store| {
            let before = store.objects.get(path).cloned().unwrap_or_default();
            let mut live = merged("", Some(&before.live), &before.applied, &desired);
            if path.contains("/statefulsets/") {
                copy_account(&mut live["spec"]["template"]["spec"]);
            }
            store.put(path, Stored { applied: desired, live });
            seen(path, &store.objects[path].live)
        })
    }

    fn remove(&self, path: &str, options: &Value) -> Result<Value, (u16, Value)> {
        self.write(|store| {
            let gone = || (404, not_found(path));
            let uid = &store.objects.get(path).ok_or_else(gone)?.live["metadata"]["uid"];
            if options["preconditions"]["uid"] != *uid {
                return Err((409, failure(409, "Conflict", "the uid in the precondition is another")));
            }
            store.remove(path).ok_or_else(gone)
        })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Writes, and tells those who watch.
    fn write<T>(&self, write: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store();
        let written = write(&mut store);
        self.told.send_replace(store.changes.len());
        written
    }
}

fn response(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string())).unwrap()
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code})
}

fn not_found(path: &str) -> Value {
    let mut parts = path.rsplit('/');
    let (name, kind) = (parts.next(), parts.next());
    let mut failure = failure(404, "NotFound", "not found");
    failure["details"] = json!({"name": name, "kind": kind});
    failure
}
