//! Whole reconciliations against a scripted API server: what is written, and that nothing else is.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::objects::fixture::cluster;

const SET: &str = "/apis/apps/v1/namespaces/t/statefulsets/my-cluster";
const SERVICE: &str = "/api/v1/namespaces/t/services/my-cluster";
const PODS: &str = "/api/v1/namespaces/t/services/my-cluster-pods";
const STATUS: &str =
    "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters/my-cluster/status";

/// An API server that keeps what is applied, and the writes it got.
#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    writes: Arc<Mutex<Vec<String>>>,
    /// A path whose writes fail, and how.
    fails: Option<(&'static str, u16)>,
}

impl Server {
    fn context(&self) -> Context {
        Context { client: self.client(), world: Arc::default(), failures: Mutex::default() }
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<bytes::Bytes>> {
        let path = request.uri().path().to_owned();
        let write = request.method() == "PATCH";
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let failure = self.fails.filter(|(failing, _)| write && *failing == path);
        let (code, answer) = if let Some((_, code)) = failure {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "message": "scripted", "reason": "Scripted", "code": code}),
            )
        } else if write {
            let object: Value = serde_json::from_slice(&body).unwrap();
            if !path.ends_with("/status") {
                self.objects.lock().unwrap().insert(path.clone(), object.clone());
            }
            (200, if path.ends_with("/status") { serde_json::to_value(cluster(2)).unwrap() } else { object })
        } else {
            match self.objects.lock().unwrap().get(&path) {
                Some(object) => (200, object.clone()),
                None => (
                    404,
                    json!({"kind": "Status", "status": "Failure", "message": "none", "reason": "NotFound", "code": 404}),
                ),
            }
        };
        if write {
            self.writes.lock().unwrap().push(path);
        }
        Response::builder().status(code).body(Full::from(answer.to_string())).unwrap()
    }

    fn writes(&self) -> Vec<String> {
        let mut writes = std::mem::take(&mut *self.writes.lock().unwrap());
        // The three objects are written side by side.
        writes.sort();
        writes
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

#[tokio::test]
async fn the_first_reconciliation_makes_all_and_the_second_nothing() {
    let server = Server::default();
    let mut cluster = cluster(2);
    reconcile_readable(&server.context(), &cluster, now()).await.unwrap();
    assert_eq!(server.writes(), [SERVICE, PODS, SET, STATUS]);

    // The status as the first one wrote it, for what exists now.
    let validated = ValidatedCluster::try_from(&cluster).unwrap();
    let observed = observe(&server.client(), &validated).await.unwrap();
    let plan = plan(&validated, &observed);
    let applied = apply(&server.client(), &validated, plan, observed).await;
    cluster.status =
        Some(status::status(&validated, &crate::api::VLLMClusterStatus::default(), &applied, &[], now()));
    assert_eq!(server.writes(), Vec::<String>::new());
    reconcile_readable(&server.context(), &cluster, now()).await.unwrap();
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn one_failure_keeps_back_nothing_else_and_is_tried_again() {
    let server = Server { fails: Some((SET, 503)), ..Server::default() };
    let result = reconcile_readable(&server.context(), &cluster(2), now()).await;
    assert!(result.is_err_and(|error| error.to_string().contains("applying StatefulSet my-cluster")));
    let mut writes = server.writes();
    writes.dedup();
    assert_eq!(writes, [SERVICE, PODS, SET, STATUS]);
}

#[tokio::test]
async fn a_refusal_for_good_waits_for_a_change() {
    let server = Server { fails: Some((SET, 422)), ..Server::default() };
    let action = reconcile_readable(&server.context(), &cluster(2), now()).await.unwrap();
    assert_eq!(action, Action::requeue(STALLED_RETRY));
}

#[tokio::test]
async fn a_cluster_that_is_being_deleted_is_left_to_garbage_collection() {
    let server = Server::default();
    let mut cluster = cluster(2);
    cluster.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    reconcile_readable(&server.context(), &cluster, now()).await.unwrap();
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_statefulset_of_another_is_not_written() {
    let server = Server::default();
    let foreign = json!({"metadata": {"name": "my-cluster", "namespace": "t"}, "spec": {"serviceName": "x", "selector": {}, "template": {}}});
    server.objects.lock().unwrap().insert(SET.into(), foreign);
    let action = reconcile_readable(&server.context(), &cluster(2), now()).await.unwrap();
    assert_eq!(action, Action::requeue(STALLED_RETRY));
    assert_eq!(server.writes(), [SERVICE, PODS, STATUS]);
}

#[test]
fn a_namespace_that_is_going_is_no_reason_to_stall() {
    let error = |code: u16, message: &str| {
        let status = json!({"status": "Failure", "message": message, "reason": "Forbidden", "code": code});
        CallError::Api("applying".into(), kube::Error::Api(serde_json::from_value(status).unwrap()))
    };
    let going = error(
        403,
        "statefulsets.apps \"a\" is forbidden: unable to create new content in namespace t because it is being terminated",
    );
    assert!(going.namespace_is_going() && !going.is_final());
    let quota = error(403, "exceeded quota");
    assert!(!quota.namespace_is_going() && quota.is_final());
    assert!(!error(500, "oh").is_final());
}
