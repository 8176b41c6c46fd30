//! The objects that a cluster consists of, as the API server has them.
//!
//! **Architecture invariant**: read, and made comparable; nothing is judged here.

use std::collections::BTreeSet;

use anyhow::Context as _;
use axum::http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Plane, trying_again};

use super::suite::{PATIENCE, kubectl};

/// Whom the audit log names for the operator's writes.
pub const OPERATOR: &str = "system:serviceaccount:vllm-operator-system:vllm-operator";
/// The annotation that the operator puts on what it applies.
const DIGEST: &str = "training.distributed-inference.io/applied-digest";

/// The kinds of owned objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    StatefulSet,
    ClientService,
    HeadlessService,
    Budget,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::StatefulSet, Self::ClientService, Self::HeadlessService, Self::Budget];

    /// Plural of the resource, as the audit log has it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::StatefulSet => "statefulsets",
            Self::ClientService | Self::HeadlessService => "services",
            Self::Budget => "poddisruptionbudgets",
        }
    }

    /// Name of the object of a cluster.
    pub fn name(self, cluster: &str) -> String {
        match self {
            Self::StatefulSet | Self::ClientService | Self::Budget => cluster.to_owned(),
            Self::HeadlessService => format!("{cluster}-pods"),
        }
    }

    /// Where the object of a cluster is.
    pub fn path(self, namespace: &str, cluster: &str) -> String {
        let group = match self {
            Self::StatefulSet => "apis/apps/v1",
            Self::ClientService | Self::HeadlessService => "api/v1",
            Self::Budget => "apis/policy/v1",
        };
        format!("/{group}/namespaces/{namespace}/{}/{}", self.resource(), self.name(cluster))
    }
}

/// Where a cluster is.
pub fn cluster_path(namespace: &str, cluster: &str) -> String {
    format!("/apis/training.distributed-inference.io/v1alpha1/namespaces/{namespace}/vllmclusters/{cluster}")
}

/// A cluster as it is created.
pub fn cluster(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// Creates a cluster.
pub async fn create(client: &Client, namespace: &str, name: &str, spec: &Value) -> anyhow::Result<()> {
    let path = cluster_path(namespace, name);
    let collection = path.rsplit_once('/').map_or("", |(collection, _)| collection);
    send(client, Method::POST, collection, &cluster(namespace, name, spec))
        .await
        .with_context(|| format!("creating {namespace}/{name}: {spec}"))?;
    Ok(())
}

/// Sends an object to a path.
pub async fn send(client: &Client, method: Method, path: &str, object: &Value) -> kube::Result<Value> {
    trying_again(|| async {
        let request = Request::builder().method(&method).uri(path).header("content-type", "application/json");
        let request = request.body(object.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
        client.request(request).await
    })
    .await
}

/// An object; `None` if there is none.
pub async fn get(client: &Client, path: &str) -> anyhow::Result<Option<Value>> {
    match client.request::<Value>(Request::get(path).body(Vec::new())?).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {path}")),
    }
}

/// The owned objects of a cluster that exist.
pub async fn objects(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Vec<(Kind, Value)>> {
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        let object = get(client, &kind.path(namespace, name)).await?;
        objects.extend(object.map(|object| (kind, object)));
    }
    Ok(objects)
}

/// Waits until the operator has told that it has seen the current spec of a cluster.
pub async fn observed(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Value> {
    let path = cluster_path(namespace, name);
    let what = format!("the current generation of {namespace}/{name} is observed");
    eventually(&what, Deadline::after(PATIENCE), || async {
        let cluster = get(client, &path).await.map_err(|error| format!("{error:#}"))?;
        let cluster = cluster.ok_or("it does not exist")?;
        let seen = cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"];
        if seen { Ok(cluster) } else { Err(cluster["status"].to_string()) }
    })
    .await
}

/// What two objects made from the same spec, for clusters of the same name, have in common.
pub fn comparable(object: &Value) -> Value {
    let mut object = object.clone();
    for assigned in
        ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "namespace"]
    {
        object["metadata"][assigned] = Value::Null;
    }
    object["metadata"]["annotations"][DIGEST] = Value::Null;
    for owner in object["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
        owner["uid"] = Value::Null;
    }
    if object["spec"]["clusterIP"].as_str().is_some_and(|address| address != "None") {
        object["spec"]["clusterIP"] = Value::Null;
        object["spec"]["clusterIPs"] = Value::Null;
    }
    object["status"] = Value::Null;
    object
}

/// Where two values differ, each place with both.
pub fn differences(found: &Value, wanted: &Value, at: &str, all: &mut Vec<String>) {
    match (found, wanted) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for name in names {
                differences(&found[name], &wanted[name], &format!("{at}/{name}"), all);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differences(one, other, &format!("{at}/{index}"), all);
            }
        }
        _ if found == wanted => {}
        _ => all.push(format!("{at} is {found} instead of {wanted}")),
    }
}

/// A namespace in which clusters get all of their objects, and those get no pods.
pub async fn namespace_without_pods(plane: &Plane, name: &str) -> anyhow::Result<()> {
    super::suite::namespace(plane, name).await?;
    kubectl(plane, name, "create quota no-pods --hard=pods=0").ok().await.map(drop)
}
