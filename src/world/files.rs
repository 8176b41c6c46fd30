//! A world of whole objects, from manifests or from one listing of a cluster, for judging without watches.
//!
//! Architecture invariant: the same [`World`] and the same [`Live`] as in the operator, so that whoever asks them gets
//! the same answers; what is read "live" here is what was put in.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::names::{GROUP, KEDA_GROUP, KIND, PLURAL, SCALED_OBJECT_KIND};

use super::live::Live;
use super::part::{ClusterPart, HpaPart, ScaledObjectPart};
use super::{Key, World};

/// What kind an object is of, of those that the policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `VLLMCluster`.
    Cluster,
    /// KEDA's `ScaledObject`.
    ScaledObject,
    /// `HorizontalPodAutoscaler`.
    Hpa,
    /// `LimitRange`.
    LimitRange,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::ScaledObject, Self::Hpa, Self::LimitRange];

    /// The kind, as in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => KIND,
            Self::ScaledObject => SCALED_OBJECT_KIND,
            Self::Hpa => "HorizontalPodAutoscaler",
            Self::LimitRange => "LimitRange",
        }
    }

    /// Group and plural, as in URLs.
    pub fn resource(self) -> (&'static str, &'static str) {
        match self {
            Self::Cluster => (GROUP, PLURAL),
            Self::ScaledObject => (KEDA_GROUP, "scaledobjects"),
            Self::Hpa => ("autoscaling", "horizontalpodautoscalers"),
            Self::LimitRange => ("", "limitranges"),
        }
    }
}

/// Objects by kind, namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    objects: BTreeMap<(Kind, String, String), Value>,
}

impl Objects {
    /// Takes in an object, in place of one of the same name.
    pub fn put(&mut self, kind: Kind, namespace: &str, name: &str, object: Value) {
        self.objects.insert((kind, namespace.into(), name.into()), object);
    }

    /// What a watch would have told of them. An object that cannot be read is left out, as a watch does.
    pub fn world(&self) -> World {
        let world = World::default();
        for ((kind, namespace, name), object) in &self.objects {
            let key = Key::new(namespace, name);
            match kind {
                Kind::Cluster => {
                    if let Some(part) = read::<ClusterPart>(object) {
                        world.put_cluster(key, part.facts());
                    }
                }
                Kind::ScaledObject => {
                    let part = read::<ScaledObjectPart>(object);
                    world.put(&key, part.and_then(|part| part.attachment()));
                }
                Kind::Hpa => world.put(&key, read::<HpaPart>(object).and_then(|part| part.attachment())),
                Kind::LimitRange => {}
            }
        }
        world
    }

    /// Live reads that see these objects and no others. To be called within a runtime.
    pub fn live(self: Arc<Self>) -> Live {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, body) = match *request.method() {
                Method::POST => agreement(request.uri().path()),
                _ => self.answer(request.uri().path()),
            };
            let mut response = Response::new(Body::from(body.to_string().into_bytes()));
            *response.status_mut() = status;
            std::future::ready(Ok::<_, Infallible>(response))
        });
        Live::without_rate(Client::new(service, "default"))
    }

    /// The answer to a GET, as the API server gives it.
    fn answer(&self, path: &str) -> (StatusCode, Value) {
        let mut segments = path.trim_start_matches('/').split('/');
        let group = match segments.next() {
            Some("apis") => segments.next().unwrap_or_default(),
            _ => "",
        };
        let rest: Vec<_> = segments.collect();
        let (namespace, plural, name) = match rest[..] {
            [_version, "namespaces", namespace, plural] => (namespace, plural, None),
            [_version, "namespaces", namespace, plural, name] => (namespace, plural, Some(name)),
            _ => return not_found(),
        };
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.resource() == (group, plural)) else {
            return not_found();
        };
        if let Some(name) = name {
            let object = self.objects.get(&(kind, namespace.into(), name.into()));
            return object.map_or_else(not_found, |object| (StatusCode::OK, object.clone()));
        }
        let listed =
            self.objects.iter().filter(|((of, within, _), _)| (*of, within.as_str()) == (kind, namespace));
        let items: Value = listed.map(|(_, object)| object.clone()).collect();
        (StatusCode::OK, json!({"metadata": {}, "items": items}))
    }
}

/// The answer to a question about who may do what, or a dry run: files know nothing against it.
fn agreement(path: &str) -> (StatusCode, Value) {
    match path.rsplit('/').next() {
        Some("subjectaccessreviews") => {
            (StatusCode::CREATED, json!({"spec": {}, "status": {"allowed": true}}))
        }
        Some("statefulsets" | "poddisruptionbudgets") => (StatusCode::CREATED, json!({"metadata": {}})),
        _ => not_found(),
    }
}

fn read<K: Resource + DeserializeOwned>(object: &Value) -> Option<K> {
    K::deserialize(object).ok()
}

fn not_found() -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"});
    (StatusCode::NOT_FOUND, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drives(cluster: &str) -> Value {
        json!({
            "metadata": {"name": "x"},
            "spec": {"scaleTargetRef": {"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": cluster}},
        })
    }

    fn objects() -> Arc<Objects> {
        let mut objects = Objects::default();
        objects.put(Kind::Cluster, "n", "a", json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 5}}));
        objects.put(Kind::Cluster, "n", "unreadable", json!({"metadata": {}, "spec": {"maxReplicas": "5"}}));
        objects.put(Kind::ScaledObject, "n", "x", drives("a"));
        objects.put(Kind::Hpa, "n", "x", drives("b"));
        let limits = json!([{"type": "Container", "default": {"cpu": "1"}}]);
        objects.put(
            Kind::LimitRange,
            "n",
            "r",
            json!({"metadata": {"name": "r"}, "spec": {"limits": limits}}),
        );
        objects.into()
    }

    #[test]
    fn the_world_is_what_a_watch_would_have_told() {
        let world = objects().world();
        let target = world.target("n", "a");
        assert_eq!(target.cluster.as_ref().map(|cluster| cluster.bounds.max), Some(Some(5)));
        assert_eq!((target.scalers.len(), target.hpas.len()), (1, 0));
        assert_eq!(world.target("n", "b").hpas.len(), 1);
        assert_eq!(world.target("n", "unreadable").cluster, None);
        assert_eq!(*world.target("other", "a"), super::super::Target::default());
    }

    #[tokio::test]
    async fn live_reads_see_what_was_put_in() {
        let (live, within) = (objects().live(), std::time::Duration::from_secs(10));
        let cluster = live.cluster("n", "a", within).await.unwrap();
        assert_eq!(cluster.map(|cluster| cluster.bounds.max), Some(Some(5)));
        assert_eq!(live.cluster("other", "a", within).await.unwrap(), None);
        assert_eq!(live.scalers_of("n", within).await.unwrap().len(), 1);
        assert_eq!(live.hpas_of("n", within).await.unwrap().len(), 1);
        assert!(live.default_requests("n", within).await.unwrap().cpu);
        assert_eq!(live.scalers_of("other", within).await.unwrap(), []);
    }
}
