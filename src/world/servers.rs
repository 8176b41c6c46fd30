//! The servers of each cluster: which pods its StatefulSet owns, and where they are reached.
//!
//! A pod is a cluster's if the cluster's StatefulSet, by its uid, controls it, and the cluster, by its uid, that StatefulSet:
//! labels and names alone are anybody's to write.
//!
//! Architecture invariant: compact facts, no whole objects; the lock is never held across an await.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use hashbrown::HashMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;

use super::part::{ConditionPart, metadata};
use super::{Key, KeyRef};

/// A pod that may be a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The pod's name.
    pub name: Arc<str>,
    /// Where it is reached; `None` while it has no address.
    pub address: Option<IpAddr>,
    /// Whether its readiness probe passes.
    pub ready: bool,
    /// The uid of the StatefulSet that controls it.
    set: Arc<str>,
}

impl Server {
    /// One of no StatefulSet.
    #[cfg(test)]
    pub(crate) fn stub(name: &str, address: IpAddr, ready: bool) -> Self {
        Self { name: name.into(), address: Some(address), ready, set: "".into() }
    }

    /// Its number within the StatefulSet.
    pub fn ordinal(&self) -> Option<u32> {
        self.name.rsplit_once('-')?.1.parse().ok()
    }
}

/// A StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    uid: Arc<str>,
    /// The uid of what controls it.
    owner: Arc<str>,
}

/// All servers, by their clusters.
#[derive(Debug, Default)]
pub struct Servers(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    sets: HashMap<Key, Set>,
    /// By namespace, and the name of the StatefulSet.
    pods: HashMap<Key, Vec<Server>>,
    /// Which StatefulSet's name each pod is kept under.
    under: HashMap<Key, Box<str>>,
}

impl Servers {
    /// The servers of the cluster with that uid, in no order. Those that are being deleted are none any more.
    pub fn of(&self, namespace: &str, cluster: &str, uid: &str) -> Vec<Server> {
        let index = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // The StatefulSet bears the cluster's name.
        let key = KeyRef { namespace, name: cluster };
        let Some(set) = index.sets.get(&key).filter(|set| *set.owner == *uid) else { return Vec::new() };
        let pods = index.pods.get(&key).into_iter().flatten();
        pods.filter(|pod| pod.set == set.uid).cloned().collect()
    }

    /// Takes in a StatefulSet, new or changed; `None` if it is gone.
    pub(super) fn put_set(&self, key: Key, set: Option<Set>) {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match set {
            Some(set) => index.sets.insert(key, set),
            None => index.sets.remove(&key),
        };
    }

    /// Takes in all StatefulSets of a fresh list.
    pub(super) fn replace_sets(&self, sets: Vec<(Key, Set)>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).sets = sets.into_iter().collect();
    }

    /// Takes in a pod, new or changed; `None` if it is no server, or none any more.
    pub(super) fn put_pod(&self, key: &Key, pod: Option<(Box<str>, Server)>) {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        index.forget(key);
        if let Some((set, server)) = pod {
            index.take(key.clone(), set, server);
        }
    }

    /// Takes in all pods of a fresh list.
    pub(super) fn replace_pods(&self, pods: Vec<(Key, (Box<str>, Server))>) {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        index.pods.clear();
        index.under.clear();
        for (key, (set, server)) in pods {
            index.take(key, set, server);
        }
    }
}

impl Index {
    fn take(&mut self, key: Key, set: Box<str>, server: Server) {
        self.pods.entry(Key::new(&*key.namespace, &*set)).or_default().push(server);
        self.under.insert(key, set);
    }

    fn forget(&mut self, key: &Key) {
        let Some(set) = self.under.remove(key) else { return };
        let kept_under = Key::new(&*key.namespace, set);
        if let Some(pods) = self.pods.get_mut(&kept_under) {
            pods.retain(|pod| *pod.name != key.name);
            if pods.is_empty() {
                self.pods.remove(&kept_under);
            }
        }
    }
}

/// A StatefulSet, as far as it tells whose it is.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SetPart {
    /// Name, namespace, uid, owners.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
}

impl SetPart {
    /// The facts; `None` if nothing controls it.
    pub fn facts(&self) -> Option<Set> {
        let owner = controller(&self.metadata)?;
        Some(Set { uid: self.metadata.uid.as_deref()?.into(), owner: owner.uid.as_str().into() })
    }
}

/// A pod, as far as it tells whose it is and where it is reached.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodPart {
    /// Name, namespace, owners.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    status: Option<PodStatusPart>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PodStatusPart {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Option<Vec<ConditionPart>>,
}

impl PodPart {
    /// The name of the StatefulSet that controls it, and the facts; `None` if none does, or if it is being deleted.
    pub fn facts(&self) -> Option<(Box<str>, Server)> {
        if self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let owner = controller(&self.metadata).filter(|owner| owner.kind == "StatefulSet")?;
        let status = self.status.as_ref();
        let ready =
            status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().any(|condition| {
                condition.kind.as_deref() == Some("Ready") && condition.status.as_deref() == Some("True")
            });
        let server = Server {
            name: self.metadata.name.as_deref().unwrap_or_default().into(),
            address: status
                .and_then(|status| status.pod_ip.as_deref())
                .and_then(|address| address.parse().ok()),
            ready,
            set: owner.uid.as_str().into(),
        };
        Some((owner.name.as_str().into(), server))
    }
}

fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(uid: &str, owner: &str) -> Option<Set> {
        let part: SetPart = serde_json::from_value(
            json!({"metadata": {"name": "a", "namespace": "n", "uid": uid, "ownerReferences": [
                {"apiVersion": "v1", "kind": "X", "name": "x", "uid": "other"},
                {"apiVersion": "v1", "kind": "VLLMCluster", "name": "a", "uid": owner, "controller": true},
            ]}}),
        )
        .unwrap();
        part.facts()
    }

    fn pod(name: &str, set: &str, uid: &str) -> Option<(Box<str>, Server)> {
        let part: PodPart = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "labels": {"app": "vllm-cluster", "cluster": "a"}, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": set, "uid": uid, "controller": true},
            ]},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        part.facts()
    }

    fn names(servers: &Servers, uid: &str) -> Vec<String> {
        let mut names: Vec<_> =
            servers.of("n", "a", uid).iter().map(|server| server.name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn servers_are_told_by_uid_and_not_by_name_or_label() {
        let servers = Servers::default();
        let put = |name: &str, pod| servers.put_pod(&Key::new("n", name), pod);
        put("a-0", pod("a-0", "a", "set"));
        assert_eq!(names(&servers, "cluster"), [""; 0], "its StatefulSet is not known yet");
        servers.put_set(Key::new("n", "a"), set("set", "cluster"));
        assert_eq!(names(&servers, "cluster"), ["a-0"]);
        put("a-1", pod("a-1", "a", "of an older StatefulSet"));
        put("a-2", pod("a-2", "b", "set"));
        assert_eq!(names(&servers, "cluster"), ["a-0"]);
        assert_eq!(names(&servers, "of an older cluster"), [""; 0]);
        assert!(servers.of("m", "a", "cluster").is_empty());
        servers.put_set(Key::new("n", "a"), set("set", "somebody else's"));
        assert_eq!(names(&servers, "cluster"), [""; 0]);
    }

    #[test]
    fn what_goes_leaves_nothing_behind() {
        let servers = Servers::default();
        servers.replace_sets(vec![(Key::new("n", "a"), set("set", "cluster").unwrap())]);
        let key = |name: &str| Key::new("n", name);
        servers.replace_pods(["a-0", "a-1"].map(|name| (key(name), pod(name, "a", "set").unwrap())).into());
        assert_eq!(names(&servers, "cluster"), ["a-0", "a-1"]);
        servers.put_pod(&key("a-0"), pod("a-0", "a", "set"));
        assert_eq!(names(&servers, "cluster"), ["a-0", "a-1"], "once each");
        servers.put_pod(&key("a-0"), None);
        servers.put_pod(&key("a-1"), None);
        servers.put_set(key("a"), None);
        let index = servers.0.read().unwrap();
        assert!(index.pods.is_empty() && index.under.is_empty() && index.sets.is_empty());
    }

    #[test]
    fn a_pod_that_goes_or_belongs_to_nobody_is_no_server() {
        let read = |metadata| {
            let part: PodPart = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            part.facts()
        };
        let owners = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "a", "uid": "u", "controller": true}]);
        assert!(
            read(json!({"name": "a-0", "ownerReferences": owners}))
                .is_some_and(|(_, server)| !server.ready && server.address.is_none())
        );
        assert!(read(json!({"name": "a-0"})).is_none());
        assert!(
            read(
                json!({"name": "a-0", "ownerReferences": owners, "deletionTimestamp": "2026-01-01T00:00:00Z"})
            )
            .is_none()
        );
        let replica_set = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u", "controller": true}]);
        assert!(read(json!({"name": "a-0", "ownerReferences": replica_set})).is_none());
        assert_eq!(pod("a-12", "a", "u").and_then(|(_, server)| server.ordinal()), Some(12));
    }
}
