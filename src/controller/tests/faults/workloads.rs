//! What a cluster goes through: what others do to it, each time followed by the controller's answer.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::api_server::ApiServer;
use super::super::{PODS, SERVICE, SET};
use super::{QUIET, process};
use crate::api::VLLMCluster;
use crate::faulty::Faulty;
use crate::objects::fixture::cluster;

/// What somebody does, and how long it takes until the next does something; `None`: until the controller is at rest.
pub struct Step {
    pub act: Box<dyn Fn(&ApiServer) + Send + Sync>,
    pub pause: Option<Duration>,
}

/// One workload.
pub struct Workload {
    pub name: &'static str,
    /// What is there at its start.
    pub start: ApiServer,
    pub steps: Vec<Step>,
    /// Somebody comes in between, so that a write that fails may be needed no more.
    pub hurried: bool,
}

impl Workload {
    fn new(name: &'static str, start: &ApiServer) -> Self {
        Self { name, start: start.copy(), steps: Vec::new(), hurried: false }
    }

    fn then(mut self, act: impl Fn(&ApiServer) + Send + Sync + 'static) -> Self {
        self.steps.push(Step { act: Box::new(act), pause: None });
        self
    }

    fn at_once(mut self, act: impl Fn(&ApiServer) + Send + Sync + 'static, pause: Duration) -> Self {
        self.steps.push(Step { act: Box::new(act), pause: Some(pause) });
        self.hurried = true;
        self
    }

    fn change(self, spec: Value) -> Self {
        self.then(move |server| server.change(&spec))
    }

    /// Its pods come.
    fn settle(self) -> Self {
        self.then(ApiServer::settle)
    }
}

/// A spec of these fields.
fn spec(fields: &Value) -> Value {
    let mut spec = json!({"replicas": 2, "model": "tiny"});
    json_patch::merge(&mut spec, fields);
    spec
}

/// The cluster that was made with this uid.
fn made_as(uid: &str, spec: Value) -> VLLMCluster {
    let mut made = VLLMCluster { spec: serde_json::from_value(spec).unwrap(), ..cluster(1) };
    made.metadata.uid = Some(uid.to_owned());
    made
}

/// A server on which a cluster of this spec has all it needs.
async fn settled(spec: Value) -> ApiServer {
    let server = ApiServer::with(&made_as("u-1", spec));
    let answering = server.clone();
    let faulty = Faulty::new(move |request| answering.clone().answer(request), []);
    let running = faulty.run(process);
    faulty.at_rest(QUIET).await;
    server.settle();
    faulty.at_rest(QUIET).await;
    running.abort();
    server
}

/// All of them.
pub async fn workloads() -> Vec<Workload> {
    let plain = settled(spec(&json!({}))).await;
    let budget = json!({"disruptionBudget": {"minAvailable": 1}});
    let with_budget = settled(spec(&budget)).await;
    let with_cache = settled(spec(&json!({"modelCache": {"existingClaim": "models"}}))).await;
    let everything = json!({
        "replicas": 3, "port": 9000, "image": "vllm/vllm-openai:v0.31.0", "disruptionBudget": {"minAvailable": 1},
    });
    let create = |uid: &'static str| move |server: &ApiServer| server.create(&made_as(uid, spec(&json!({}))));
    let foreign = json!({"metadata": {"name": "my-cluster", "namespace": "t"}, "spec": {"replicas": 1, "serviceName": "x", "selector": {}, "template": {}}});
    let empty = ApiServer::empty();
    let second = Duration::from_secs(1);
    let new = Workload::new;
    vec![
        new("create", &empty).then(create("u-1")).settle(),
        new("scale up", &plain).change(spec(&json!({"replicas": 5}))).settle(),
        new("scale down", &plain).change(spec(&json!({"replicas": 1}))).settle(),
        new("another image", &plain).change(spec(&json!({"image": "vllm/vllm-openai:v0.31.0"}))).settle(),
        new("another port", &plain).change(spec(&json!({"port": 9000}))).settle(),
        new("all at once and back", &plain)
            .change(spec(&everything))
            .settle()
            .change(spec(&json!({})))
            .settle(),
        new("cache claim removed", &with_cache).change(spec(&json!({}))).settle(),
        new("budget added", &plain).change(spec(&budget)).settle(),
        new("budget removed", &with_budget).change(spec(&json!({}))),
        new("no count, then one", &plain).change(json!({"model": "tiny"})).change(spec(&json!({}))),
        new("unreadable, then readable", &plain)
            .change(json!({"replicas": "two"}))
            .change(spec(&json!({"replicas": 3})))
            .settle(),
        new("a hand in what is owned", &with_budget)
            .then(|server| server.delete(SERVICE))
            .then(|server| {
                server.edit(SET, |set| set["spec"]["replicas"] = json!(9));
                server.edit(PODS, |service| service["spec"]["ports"] = json!([]));
            })
            .settle(),
        new("the name is taken, then free", &empty)
            .then(move |server| {
                server.edit(SET, |set| *set = foreign.clone());
                create("u-1")(server);
            })
            .then(|server| server.delete(SET))
            .settle(),
        new("deleted, left behind, adopted", &with_budget)
            .then(|server| server.delete_cluster(true))
            .then(create("u-2"))
            .settle(),
        new("deleted and made anew before it is collected", &with_budget)
            .then(move |server| {
                server.delete_cluster(false);
                create("u-2")(server);
            })
            .then(ApiServer::collect)
            .settle(),
        new("deleted while it is made", &empty)
            .at_once(create("u-1"), second)
            .then(|server| server.delete_cluster(false))
            .then(ApiServer::collect),
        new("changed while it is changed", &plain)
            .at_once(|server| server.change(&spec(&json!({"replicas": 4}))), second)
            .change(spec(&json!({"replicas": 3, "port": 9000})))
            .settle(),
    ]
}
