//! A few objects and one write, for tests: the objects are what the watches have told and what live reads find, and
//! the answer passes the API server's own checks.
//!
//! Architecture invariant: expects nothing of an answer; what is right stands in the tests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use http_body_util::Full;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use webhook::review::Request;
use webhook::verify::{Call, verify};

use super::{Admission, OwnScaler, Phase, Repeats};
use crate::api::names::{API_VERSION, GROUP, KIND, PLURAL, VERSION};
use crate::policy::Mode;
use crate::world::live::Live;
use crate::world::part::{ClusterPart, HpaPart, ScaledObjectPart};
use crate::world::{Key, World};

/// The namespace of all objects.
pub(crate) const NAMESPACE: &str = "t";
/// A person.
pub(crate) const PERSON: &str = "jane";
/// An autoscaler.
pub(crate) const HPA_CONTROLLER: &str = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
/// Another one.
pub(crate) const KEDA: &str = "system:serviceaccount:keda:keda-operator";

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Cluster,
    Scale,
    ScaledObject,
    /// In one of its versions.
    Hpa(&'static str),
}

impl Resource {
    /// Group, version, plural, kind.
    fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Cluster => (GROUP, VERSION, PLURAL, KIND),
            Self::Scale => ("autoscaling", "v1", PLURAL, "Scale"),
            Self::ScaledObject => ("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
            Self::Hpa(version) => {
                ("autoscaling", version, "horizontalpodautoscalers", "HorizontalPodAutoscaler")
            }
        }
    }
}

/// A write of one object; without `new` a deletion, without `old` a creation.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) resource: Resource,
    pub(crate) user: &'static str,
    pub(crate) new: Option<Value>,
    pub(crate) old: Option<Value>,
}

impl Write {
    pub(crate) fn create(resource: Resource, new: Value) -> Self {
        Self { resource, user: PERSON, new: Some(new), old: None }
    }

    pub(crate) fn update(resource: Resource, old: Value, new: Value) -> Self {
        Self { resource, user: PERSON, new: Some(new), old: Some(old) }
    }

    fn review(&self) -> Value {
        let (group, version, plural, kind) = self.resource.names();
        let (group_of_resource, sub) =
            if self.resource == Resource::Scale { (GROUP, "scale") } else { (group, "") };
        let object = self.new.as_ref().or(self.old.as_ref()).unwrap();
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u",
            "kind": {"group": group, "version": version, "kind": kind},
            "resource": {"group": group_of_resource, "version": version, "resource": plural},
            "subResource": sub,
            "name": if self.old.is_none() && !object["metadata"]["generateName"].is_null() { &Value::Null } else { &object["metadata"]["name"] },
            "namespace": NAMESPACE,
            "operation": match (&self.new, &self.old) {
                (None, _) => "DELETE",
                (_, None) => "CREATE",
                _ => "UPDATE",
            },
            "userInfo": {"username": self.user},
            // The API server sends none along with a deletion; whoever does is to get the same answer.
            "object": object,
            "oldObject": self.old,
        }})
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    /// Empty where it is allowed.
    pub(crate) message: String,
    /// Of all refusals.
    pub(crate) fields: Vec<String>,
    pub(crate) warnings: Vec<String>,
    /// Empty where nothing is changed.
    pub(crate) patch: json_patch::Patch,
}

impl Answer {
    /// The object as the patch leaves it.
    pub(crate) fn apply(&self, object: &Value) -> Value {
        let mut patched = object.clone();
        json_patch::patch(&mut patched, &self.patch).expect("the patch applies");
        patched
    }
}

/// What is there.
pub(crate) struct Plane {
    pub(crate) admission: Admission,
}

impl Plane {
    /// These objects, by their kind.
    pub(crate) fn new(objects: &[(Resource, Value)]) -> Self {
        let world = World::default();
        let mut found = BTreeMap::new();
        for (resource, object) in objects {
            let key = Key::new(NAMESPACE, object["metadata"]["name"].as_str().unwrap());
            match resource {
                Resource::Cluster => world.put_cluster(key.clone(), read::<ClusterPart>(object).facts()),
                Resource::ScaledObject => world.put(&key, read::<ScaledObjectPart>(object).attachment()),
                Resource::Hpa(_) => world.put(&key, read::<HpaPart>(object).attachment()),
                Resource::Scale => panic!("/scale is no object of its own"),
            }
            found.insert((resource.names().2.to_owned(), key.name), object.clone());
        }
        Self::over(Arc::new(world), Live::new(api(found)))
    }

    /// What a world knows, and what live reads find.
    pub(crate) fn over(world: Arc<World>, live: Live) -> Self {
        let admission = Admission {
            world,
            live,
            host_access: false,
            autoscalers: [HPA_CONTROLLER.to_owned(), KEDA.to_owned()].into(),
            mode: Mode::Deny,
            scaler: OwnScaler::usual(),
            metrics: Arc::default(),
            repeats: Repeats::default(),
        };
        Self { admission }
    }

    /// The answer of one webhook.
    pub(crate) async fn answer(&self, phase: Phase, write: &Write) -> Answer {
        let body = serde_json::to_vec(&write.review()).unwrap();
        let request = Request::parse(&body).unwrap();
        let answer = self.admission.review(phase, &request).await.to_bytes(&request.uid);
        let call = Call { uid: &request.uid, mutating: phase == Phase::Mutating, object: request.object };
        let response = match verify(call, &answer) {
            Ok(accepted) => accepted.response,
            Err(violation) => panic!("{violation}: {}", String::from_utf8_lossy(&answer)),
        };
        let patch = response["patch"].as_str().map(|patch| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(patch).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        });
        let texts = |list: &Value, text: fn(&Value) -> &Value| {
            let list = list.as_array().cloned().unwrap_or_default();
            list.iter().filter_map(|entry| text(entry).as_str().map(str::to_owned)).collect()
        };
        assert_ne!(response["status"]["code"], 500, "{response}");
        Answer {
            allowed: response["allowed"] == true,
            message: response["status"]["message"].as_str().unwrap_or_default().to_owned(),
            fields: texts(&response["status"]["details"]["causes"], |cause| &cause["field"]),
            warnings: texts(&response["warnings"], |warning| warning),
            patch: patch.unwrap_or_default(),
        }
    }

    /// The answers of both webhooks, as the API server asks them: the second sees what the first has changed.
    pub(crate) async fn write(&self, write: &Write) -> (Answer, Option<Answer>) {
        let first = self.answer(Phase::Mutating, write).await;
        if !first.allowed {
            return (first, None);
        }
        let changed = Write { new: write.new.as_ref().map(|new| first.apply(new)), ..write.clone() };
        let second = self.answer(Phase::Validating, &changed).await;
        (first, Some(second))
    }
}

fn read<K: DeserializeOwned>(object: &Value) -> K {
    K::deserialize(object).unwrap()
}

/// An API server that has these objects, by plural and name, and no others.
fn api(objects: BTreeMap<(String, String), Value>) -> kube::Client {
    let service = tower::service_fn(move |request: axum::http::Request<Body>| {
        let path = request.uri().path().to_owned();
        let (_, rest) = path.split_once(&format!("/namespaces/{NAMESPACE}/")).unwrap();
        let body = if let Some((plural, name)) = rest.split_once('/') {
            objects.get(&(plural.to_owned(), name.to_owned())).cloned()
        } else {
            let items: Value = objects
                .iter()
                .filter(|((plural, _), _)| plural == rest)
                .map(|(_, object)| object.clone())
                .collect();
            Some(json!({"metadata": {}, "items": items}))
        };
        let (code, body) = body.map_or_else(
            || (404, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"})),
            |body| (200, body),
        );
        let response = axum::http::Response::builder().status(code);
        std::future::ready(Ok::<_, Infallible>(
            response.body(Full::from(body.to_string().into_bytes())).unwrap(),
        ))
    });
    kube::Client::new(service, "default")
}

/// A cluster `name` with this spec.
pub(crate) fn cluster(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": NAMESPACE, "resourceVersion": "1"}, "spec": spec})
}

/// A ScaledObject `name` of cluster `a` with these fields beside its target, and a sound trigger.
pub(crate) fn scaled_object(name: &str, spec: &Value) -> Value {
    let mut object = json!({
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": API_VERSION, "kind": KIND, "name": "a"},
            "triggers": [{"type": "prometheus", "metadata": {"serverAddress": "http://p:9090", "query": "sum(vllm:num_requests_waiting)", "threshold": "4"}}],
        },
    });
    json_patch::merge(&mut object["spec"], spec);
    object
}

/// An HPA `name` of cluster `a`.
pub(crate) fn hpa(name: &str, min: i32, max: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"scaleTargetRef": {"apiVersion": API_VERSION, "kind": KIND, "name": "a"}, "minReplicas": min, "maxReplicas": max},
    })
}

/// A `/scale` of cluster `name`.
pub(crate) fn scale(name: &str, replicas: i32) -> Value {
    json!({"metadata": {"name": name, "namespace": NAMESPACE, "resourceVersion": "1"}, "spec": {"replicas": replicas}})
}
