//! Recorded reviews, an API server that answers from a table, and admission between the two.
//!
//! Architecture invariant: no answer of admission gets out of here but through the API server's own checks.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use kube::client::Body;
use serde_json::{Value, json};
use webhook::review::Request;
use webhook::verify::{Call, verify};

use super::{Admission, OwnScaler, Phase, Repeats};
use crate::policy::{Bounds, Mode, Scaler};
use crate::world::live::Live;
use crate::world::{Attachment, Cluster, Key};

/// Line numbers, from 0, of the recorded reviews in `tests/fixtures/admission-reviews.jsonl`.
pub(crate) mod recorded {
    pub(crate) const SCALE_3_TO_7: usize = 1;
    pub(crate) const UPDATE: usize = 2;
    pub(crate) const CREATE_WITHOUT_COUNT: usize = 14;
    pub(crate) const UPDATE_WITHOUT_COUNT: [usize; 5] = [15, 16, 17, 18, 19];
    pub(crate) const CREATE_CROSSED_BOUNDS: usize = 21;
    pub(crate) const SCALE_5_TO_0: usize = 26;
    pub(crate) const SCALE_5_TO_9: usize = 27;
    pub(crate) const HPA_2_TO_4: usize = 36;
    pub(crate) const KEDA_3_TO_0: usize = 37;
    pub(crate) const KEDA_3_TO_9: usize = 38;
    pub(crate) const CREATE_SCALED_OBJECT: usize = 39;
    pub(crate) const UPDATE_SCALED_OBJECT: usize = 41;
    pub(crate) const CREATE_HPA: usize = 44;
    pub(crate) const CREATE_HPA_V1: usize = 45;
    pub(crate) const ALL: usize = 61;
}

/// A recorded review.
pub(crate) fn review(line: usize) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/admission-reviews.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(lines.lines().nth(line).unwrap()).unwrap()
}

/// A reference to a `VLLMCluster`.
pub(crate) fn target(cluster: &str) -> Value {
    json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": cluster})
}

/// The creation of a sound ScaledObject of this name, for this cluster.
pub(crate) fn create_scaled_object(name: &str, cluster: &str) -> Value {
    let mut review = review(recorded::CREATE_SCALED_OBJECT);
    let request = &mut review["request"];
    request["namespace"] = json!("t");
    request["name"] = json!(name);
    request["object"]["metadata"] = json!({"name": name, "namespace": "t"});
    request["object"]["spec"] = json!({
        "scaleTargetRef": target(cluster),
        "minReplicaCount": 1,
        "maxReplicaCount": 4,
        "triggers": [{"type": "prometheus", "metadata": {"serverAddress": "http://p:9090", "query": "vector(1)", "threshold": "4"}}],
    });
    review
}

/// What becomes of a request to the scripted API server.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// 200 with this object.
    Object(Value),
    /// This code and object.
    Status(u16, Value),
    /// A failure with this code.
    Failure(u16),
    /// Nobody listens.
    Refused,
    /// No answer, ever.
    Silence,
}

impl From<Value> for Reply {
    fn from(object: Value) -> Self {
        Self::Object(object)
    }
}

/// An API server that answers GETs from a table, 404 to all else, and remembers what was asked.
#[derive(Clone, Default)]
pub(crate) struct Script {
    answers: Arc<BTreeMap<String, Reply>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn client(&self) -> kube::Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: axum::http::Request<Body>| {
            let path = request.uri().path().to_owned();
            let reply = script.answers.get(&path).cloned().unwrap_or(Reply::Failure(404));
            script.asked.lock().unwrap().push(path);
            async move {
                let (code, body) = match reply {
                    Reply::Object(object) => (200, object),
                    Reply::Status(code, object) => (code, object),
                    Reply::Failure(code) => {
                        // By this word kube tells an absent object from other failures.
                        let reason = if code == 404 { "NotFound" } else { "Scripted" };
                        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "as scripted"});
                        (code, status)
                    }
                    Reply::Refused => return Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                    Reply::Silence => return std::future::pending().await,
                };
                let response = axum::http::Response::builder().status(code);
                Ok(response.body(Full::from(body.to_string().into_bytes())).unwrap())
            }
        });
        kube::Client::new(service, "default")
    }
}

pub(crate) struct Fixture {
    pub(crate) admission: Admission,
    script: Script,
}

impl Fixture {
    pub(crate) fn new<P: Into<String>, R: Into<Reply>>(answers: impl IntoIterator<Item = (P, R)>) -> Self {
        let answers = answers.into_iter().map(|(path, answer)| (path.into(), answer.into())).collect();
        let script = Script { answers: Arc::new(answers), ..Script::default() };
        let autoscalers = [
            "system:serviceaccount:keda:keda-operator",
            "system:serviceaccount:kube-system:horizontal-pod-autoscaler",
        ];
        let admission = Admission {
            world: Arc::default(),
            live: Live::new(script.client()),
            host_access: false,
            autoscalers: autoscalers.map(str::to_owned).into(),
            mode: Mode::Deny,
            scaler: OwnScaler::usual(),
            metrics: Arc::default(),
            repeats: Repeats::default(),
        };
        Self { admission, script }
    }

    /// An API server that knows nothing.
    pub(crate) fn empty() -> Self {
        Self::new::<String, Reply>([])
    }

    /// Reads as often as it likes.
    pub(crate) fn without_rate(mut self) -> Self {
        self.admission.live = Live::without_rate(self.script.client());
        self
    }

    /// Others have read all that may be read for an hour.
    pub(crate) fn with_its_rate_used_up(mut self) -> Self {
        self.admission.live = Live::with_its_rate_used_up(self.script.client());
        self
    }

    pub(crate) fn knows(self, cluster: &str, resource_version: &str, bounds: Bounds) -> Self {
        let facts = Cluster { resource_version: resource_version.into(), bounds, ..Cluster::default() };
        self.admission.world.put_cluster(Key::new("t", cluster), facts);
        self
    }

    pub(crate) fn scaler(self, cluster: &str, min: i32, max: i32) -> Self {
        let scaler =
            Scaler { name: "queue".into(), min: Some(min), max: Some(max), paused: false, takes_over: None };
        let attachment = Attachment { cluster: cluster.into(), driver: scaler };
        self.admission.world.put(&Key::new("t", "queue"), Some(attachment));
        self
    }

    pub(crate) async fn answer(&self, phase: Phase, review: &Value) -> Value {
        let body = serde_json::to_vec(review).unwrap();
        let request = Request::parse(&body).unwrap();
        let answer = self.admission.review(phase, &request).await.to_bytes(&request.uid);
        let call = Call { uid: &request.uid, mutating: phase == Phase::Mutating, object: request.object };
        match verify(call, &answer) {
            Ok(accepted) => accepted.response,
            Err(violation) => panic!("{violation}: {}", String::from_utf8_lossy(&answer)),
        }
    }

    /// What has been asked of the API server so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.script.asked()
    }

    /// The API server, to ask it when the rest is given away.
    pub(crate) fn script(&self) -> Script {
        self.script.clone()
    }
}
