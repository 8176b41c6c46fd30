//! Whole reconciliations against a scripted API server: what is written, and that nothing else is.

mod api_server;
mod bad_days;
mod faults;
mod interleaving;
mod transitions;

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::objects::fixture::cluster;
use crate::telemetry::Metrics;
use crate::world::Attachment;

const SET: &str = "/apis/apps/v1/namespaces/t/statefulsets/my-cluster";
const SERVICE: &str = "/api/v1/namespaces/t/services/my-cluster";
const PODS: &str = "/api/v1/namespaces/t/services/my-cluster-pods";
const STATUS: &str =
    "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters/my-cluster/status";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/t/events";

/// How every owned object is written: server-side apply as one field manager, by force.
const APPLY: &str = "?&force=true&fieldManager=vllm-operator";

/// An API server that keeps what is applied, and the requests it got.
#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
    /// A method and a path that fail, and how.
    fails: Option<(&'static str, &'static str, u16)>,
}

impl Server {
    fn context(&self) -> Context {
        Context::new(self.client(), Arc::default(), Metrics::default().controller)
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
        let (path, method) = (request.uri().path().to_owned(), request.method().to_string());
        let line = format!("{method} {}", request.uri());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        self.requests.lock().unwrap().push((line, body.clone()));
        let failure = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "message": "scripted", "reason": reason, "code": code}),
            )
        };
        let failing = self.fails.filter(|(failing, at, _)| *failing == method && *at == path);
        let (code, answer) = match (failing, method.as_str()) {
            (Some((_, _, code)), _) => failure(code, "Scripted"),
            (None, "PATCH") if path == STATUS => (200, serde_json::to_value(cluster(2)).unwrap()),
            (None, "PATCH") => {
                self.objects.lock().unwrap().insert(path, body.clone());
                (200, body)
            }
            (None, "GET") => match self.objects.lock().unwrap().get(&path) {
                Some(object) => (200, object.clone()),
                None => failure(404, "NotFound"),
            },
            (None, "POST") if path == EVENTS => (200, body),
            (None, _) => failure(405, "MethodNotAllowed"),
        };
        Response::builder().status(code).body(Full::from(answer.to_string())).unwrap()
    }

    /// The requests since the last look, without the reads and the events; sorted, as the three objects are written
    /// side by side.
    fn writes(&self) -> Vec<String> {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap());
        let mut writes: Vec<_> = requests.into_iter().map(|(line, _)| line).collect();
        writes.retain(|line| !line.starts_with("GET ") && !line.contains(EVENTS));
        writes.sort();
        writes
    }

    /// The events among the requests since the last look.
    fn events(&self) -> Vec<(String, Value)> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(line, _)| line.contains(EVENTS)).cloned().collect()
    }
}

fn applies(path: &str) -> String {
    format!("PATCH {path}{APPLY}")
}

fn status_patch() -> String {
    format!("PATCH {STATUS}?&fieldManager=vllm-operator")
}

/// All writes of a reconciliation that applies these and reports, sorted.
fn written(applied: &[&str]) -> Vec<String> {
    let mut writes: Vec<_> = applied.iter().map(|path| applies(path)).chain([status_patch()]).collect();
    writes.sort();
    writes
}

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

#[tokio::test]
async fn the_first_reconciliation_makes_all_and_the_second_nothing() {
    let server = Server::default();
    let mut cluster = cluster(2);
    reconcile_readable(&server.context(), &cluster, now()).await.unwrap();
    assert_eq!(server.writes(), written(&[SERVICE, PODS, SET]));

    // The status as the first one wrote it, for what exists now.
    let validated = ValidatedCluster::try_from(&cluster).unwrap();
    let observed = observe(&server.client(), &Refusals::default(), &validated).await;
    let plan = plan(&validated, &observed);
    let applied = apply(&server.client(), &validated, plan, observed).await;
    cluster.status = Some(status::status(
        &validated,
        &crate::api::VLLMClusterStatus::default(),
        &applied,
        &Drivers::default(),
        now(),
    ));
    assert_eq!(server.writes(), Vec::<String>::new());
    reconcile_readable(&server.context(), &cluster, now()).await.unwrap();
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_written_is_whole_and_owned() {
    let server = Server::default();
    reconcile_readable(&server.context(), &cluster(2), now()).await.unwrap();
    let requests = std::mem::take(&mut *server.requests.lock().unwrap());
    let body = |line: &str| &requests.iter().find(|(request, _)| request == line).unwrap().1;
    for (path, kind, version) in
        [(SET, "StatefulSet", "apps/v1"), (SERVICE, "Service", "v1"), (PODS, "Service", "v1")]
    {
        let object = body(&applies(path));
        assert_eq!((&object["kind"], &object["apiVersion"]), (&json!(kind), &json!(version)));
        let owner = json!([{
            "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "my-cluster",
            "uid": "u-1", "controller": true, "blockOwnerDeletion": true,
        }]);
        assert_eq!(object["metadata"]["ownerReferences"], owner, "{path}");
    }
    assert_eq!(body(&applies(SET))["spec"]["podManagementPolicy"], "Parallel");
    assert_eq!(body(&applies(PODS))["spec"]["publishNotReadyAddresses"], true);
    assert_eq!(body(&applies(PODS))["spec"]["clusterIP"], "None");
    assert_eq!(body(&applies(SERVICE))["spec"]["clusterIP"], Value::Null);
    let status = body(&status_patch());
    assert_eq!(status["status"]["selector"], "app=vllm-cluster,cluster=my-cluster,component=vllm-server");
    // Of the cluster itself nothing but its status is written.
    assert_eq!(status.as_object().unwrap().keys().collect::<Vec<_>>(), ["status"]);
}

#[rstest]
#[case::statefulset(SET, [SERVICE, PODS])]
#[case::service(SERVICE, [PODS, SET])]
#[case::headless(PODS, [SERVICE, SET])]
#[tokio::test]
async fn a_failed_write_keeps_back_nothing_else_and_is_tried_again(
    #[case] failing: &'static str,
    #[case] others: [&str; 2],
) {
    let server = Server { fails: Some(("PATCH", failing, 500)), ..Server::default() };
    let result = reconcile_readable(&server.context(), &cluster(2), now()).await;
    assert!(result.is_err_and(|error| error.to_string().contains("applying") && error.pace == Pace::Soon));
    assert_eq!(server.writes(), written(&[failing, others[0], others[1]]));
}

#[rstest]
#[case::statefulset(SET, [SERVICE, PODS])]
#[case::service(SERVICE, [PODS, SET])]
#[case::headless(PODS, [SERVICE, SET])]
#[tokio::test]
async fn a_failed_read_keeps_back_nothing_else_and_is_tried_again(
    #[case] failing: &'static str,
    #[case] others: [&str; 2],
) {
    let server = Server { fails: Some(("GET", failing, 500)), ..Server::default() };
    let result = reconcile_readable(&server.context(), &cluster(2), now()).await;
    assert!(result.is_err_and(|error| error.to_string().contains("reading")));
    assert_eq!(server.writes(), written(&others));
}

#[tokio::test]
async fn counts_are_told_although_a_write_fails() {
    let mut server = Server::default();
    reconcile_readable(&server.context(), &cluster(2), now()).await.unwrap();
    server.objects.lock().unwrap().get_mut(SET).unwrap()["status"] =
        json!({"replicas": 2, "readyReplicas": 1});
    server.fails = Some(("PATCH", SET, 500));
    server.requests.lock().unwrap().clear();
    reconcile_readable(&server.context(), &cluster(3), now()).await.unwrap_err();
    let requests = std::mem::take(&mut *server.requests.lock().unwrap());
    let (_, status) = requests.iter().find(|(line, _)| *line == status_patch()).unwrap();
    assert_eq!((&status["status"]["replicas"], &status["status"]["readyReplicas"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn a_refusal_for_good_is_tried_again_with_patience() {
    let server = Server { fails: Some(("PATCH", SET, 422)), ..Server::default() };
    let error = reconcile_readable(&server.context(), &cluster(2), now()).await.unwrap_err();
    assert_eq!(error.pace, Pace::Patient);
}

#[test]
fn an_object_leads_to_its_cluster_by_owner_and_by_label() {
    let names = |metadata: Value| {
        let metadata = serde_json::from_value(metadata).unwrap();
        clusters_of(&metadata).into_iter().map(|cluster| cluster.name).collect::<Vec<_>>()
    };
    let owners = json!([{"apiVersion": "x/v1", "kind": "VLLMCluster", "name": "a", "uid": "u"}]);
    assert_eq!(names(json!({"ownerReferences": owners, "labels": {"cluster": "a"}})), ["a"]);
    assert_eq!(names(json!({"ownerReferences": owners, "labels": {"cluster": "b"}})), ["a", "b"]);
    assert_eq!(names(json!({"labels": {"cluster": "b"}})), ["b"]);
    assert!(names(json!({"labels": {"app": "b"}})).is_empty());
}

#[test]
fn long_texts_are_cut_between_characters() {
    assert_eq!(shortened("äöü".into(), 3), "äöü");
    assert_eq!(shortened("äöü".into(), 1), "ä… (2 more characters)");
}

#[tokio::test]
async fn a_refusal_of_any_length_leaves_room_for_the_status() {
    let long = "x".repeat(2_000_000);
    let status = json!({"status": "Failure", "message": long, "reason": "Invalid", "code": 422});
    let error = CallError::Api("applying".into(), kube::Error::Api(serde_json::from_value(status).unwrap()));
    assert!(error.to_string().len() < 2000);
}

#[tokio::test]
async fn a_cluster_that_is_being_deleted_is_left_to_garbage_collection() {
    let server = Server::default();
    let mut cluster = cluster(2);
    cluster.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    reconcile_readable(&server.context(), &cluster, now()).await.unwrap();
    assert_eq!(server.writes(), Vec::<String>::new());
}

/// Of one cluster no list is asked for: it takes the API server longer the more there is of others.
#[tokio::test]
async fn why_pods_are_missing_is_told_without_a_list() {
    let server = Server::default();
    reconcile_readable(&server.context(), &cluster(2), now()).await.unwrap();
    let failed = json!({"phase": "Failed", "reason": "Evicted"});
    let ours = json!({"metadata": {"name": "my-cluster-0", "labels": crate::objects::labels("my-cluster")}, "status": failed});
    let of_another = json!({"metadata": {"name": "my-cluster-1"}, "status": failed});
    {
        let mut objects = server.objects.lock().unwrap();
        let set = objects.get_mut(SET).unwrap();
        set["metadata"]["uid"] = json!("u-2");
        set["status"] = json!({"observedGeneration": 1, "replicas": 1});
        objects.insert("/api/v1/namespaces/t/pods/my-cluster-0".into(), ours);
        objects.insert("/api/v1/namespaces/t/pods/my-cluster-1".into(), of_another);
    }
    let said = "exceeded quota: gpus";
    let event = json!({"metadata": {"namespace": "t", "name": "e"}, "involvedObject": {"uid": "u-2"}, "message": said});
    let event: Event = serde_json::from_value(event).unwrap();
    let context = server.context();
    for (told, expected) in [
        (vec![watcher::Event::Init, watcher::Event::InitDone], "pod my-cluster-0: it has ended: Evicted"),
        (vec![watcher::Event::Apply(event)], said),
    ] {
        for told in &told {
            context.refusals.take(told);
        }
        server.requests.lock().unwrap().clear();
        reconcile_readable(&context, &cluster(2), now()).await.unwrap();
        let requests = server.requests.lock().unwrap();
        let lists = |(line, _): &&(String, Value)| line.starts_with("GET ") && line.contains("Selector=");
        assert_eq!(requests.iter().find(lists), None);
        let (_, status) = requests.iter().find(|(line, _)| *line == status_patch()).unwrap();
        let ready = status["status"]["conditions"][0]["message"].as_str().unwrap();
        assert!(ready.ends_with(&format!("; {expected}")), "{ready}");
    }
}

/// What the StatefulSet controller says comes by the watch, and is asked for no more once that has begun.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_said_is_told() {
    let server = api_server::ApiServer::with(&cluster(2));
    reconcile_readable(&server.context(), &server.cluster(), now()).await.unwrap();
    let mut uid = Value::Null;
    server.edit(SET, |set| {
        uid = set["metadata"]["uid"].clone();
        set["status"] = json!({"observedGeneration": set["metadata"]["generation"], "replicas": 0});
    });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let client = {
        let (server, asked) = (server.clone(), Arc::clone(&asked));
        let service = tower::service_fn(move |request: Request<Body>| {
            asked.lock().unwrap().push(request.uri().path().to_owned());
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    };
    let (_changed, none) = tokio::sync::mpsc::unbounded_channel();
    let metrics = Metrics::default().controller;
    let running = run(client, Arc::default(), none, metrics, CancellationToken::new());
    let _running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(running));
    for said in ["exceeded quota: first", "exceeded quota: second"] {
        server.edit("/api/v1/namespaces/t/events/e", |event| {
            *event = json!({
                "metadata": {"namespace": "t", "name": "e"}, "message": said, "lastTimestamp": "2026-01-01T00:00:00Z",
                "involvedObject": {"namespace": "t", "name": "my-cluster", "uid": uid},
            });
        });
        let told = async {
            while !server.stored()["status"].to_string().contains(said) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), told).await.expect(said);
        if said.ends_with("second") {
            let asked = asked.lock().unwrap();
            assert!(!asked.iter().any(|path| path.ends_with("/namespaces/t/events")), "{asked:?}");
        }
        asked.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_statefulset_of_another_is_not_written() {
    let server = Server::default();
    let foreign = json!({"metadata": {"name": "my-cluster", "namespace": "t"}, "spec": {"serviceName": "x", "selector": {}, "template": {}}});
    server.objects.lock().unwrap().insert(SET.into(), foreign);
    let action = reconcile_readable(&server.context(), &cluster(2), now()).await.unwrap();
    assert_eq!(action, Action::requeue(FOREIGN_RETRY));
    let [(line, event)] = &server.events()[..] else { panic!("{:?}", server.events()) };
    assert!(line.starts_with(&format!("POST {EVENTS}")), "{line}");
    assert_eq!([&event["type"], &event["reason"]], ["Warning", "NameTaken"]);
    assert_eq!(event["regarding"]["name"], "my-cluster");
    assert_eq!(server.writes(), written(&[SERVICE, PODS]));
}

#[tokio::test]
async fn an_event_that_is_refused_keeps_nothing_from_being_done() {
    let server = Server { fails: Some(("POST", EVENTS, 403)), ..Server::default() };
    let foreign = json!({"metadata": {"name": "my-cluster", "namespace": "t"}, "spec": {"serviceName": "x", "selector": {}, "template": {}}});
    server.objects.lock().unwrap().insert(SET.into(), foreign);
    let action = reconcile_readable(&server.context(), &cluster(2), now()).await.unwrap();
    assert_eq!(action, Action::requeue(FOREIGN_RETRY));
    assert_eq!(server.writes(), written(&[SERVICE, PODS]));
}

#[test]
fn a_scaled_object_that_is_being_deleted_changes_no_status() {
    let (world, key) = (World::default(), Key::new("t", "s"));
    let cluster = ValidatedCluster::try_from(&cluster(2)).unwrap();
    let scaler = Scaler { name: "s".into(), min: Some(1), max: Some(4), paused: false, takes_over: None };
    let attachment = |driver| Attachment { cluster: "my-cluster".into(), driver };
    world.put(&key, Some(attachment(scaler.clone())));
    let before = drivers(&world, &cluster);
    assert!(before.autoscaling.is_some());
    // KEDA reads and writes the count now; a status between the two would lose it.
    world.put::<Scaler>(&key, None);
    world.put(&key, Some(Attachment { cluster: "my-cluster".into(), driver: Leaving(scaler) }));
    assert_eq!(drivers(&world, &cluster), before);
    world.put::<Leaving>(&key, None);
    assert_eq!(drivers(&world, &cluster), Drivers::default());
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

#[tokio::test]
async fn an_unreadable_cluster_is_left_alone_and_told() {
    let server = Server::default();
    let mut object = serde_json::to_value(cluster(2)).unwrap();
    object["spec"]["replicas"] = json!("two");
    let of_cluster = STATUS.strip_suffix("/status").unwrap();
    let kept: Kept = serde_json::from_value(object.clone()).unwrap();
    let kept = Arc::new(kept);
    server.objects.lock().unwrap().insert(of_cluster.into(), object.clone());
    let context = Arc::new(server.context());
    let action = reconcile(Arc::clone(&kept), Arc::clone(&context)).await.unwrap();
    assert_eq!(action, Action::await_change());
    let mut requests = std::mem::take(&mut *server.requests.lock().unwrap());
    requests.retain(|(line, _)| !line.contains(EVENTS));
    let (line, patch) = requests.last().unwrap();
    assert_eq!(*line, status_patch());
    let text = patch.to_string();
    assert!(text.contains("the spec cannot be read: ") && text.contains("two"), "{text}");
    // Told once.
    object["status"] = patch["status"].clone();
    server.objects.lock().unwrap().insert(of_cluster.into(), object);
    reconcile(kept, context).await.unwrap();
    assert_eq!(server.writes(), Vec::<String>::new());
}

/// Waits in a row, in seconds.
#[rstest]
#[case::failure(500, [1, 2, 4, 8, 16, 30, 30, 30])]
#[case::conflict(409, [0, 2, 4, 8, 16, 30, 30, 30])]
#[case::refusal(422, [10, 20, 40, 45, 45, 45, 45, 45])]
#[tokio::test]
async fn waits_stay_below_a_minute_and_start_anew_after_a_success(
    #[case] code: u16,
    #[case] expected: [u64; 8],
) {
    let server = Server { fails: Some(("PATCH", SET, code)), ..Server::default() };
    let kept: Arc<Kept> =
        Arc::new(serde_json::from_value(serde_json::to_value(cluster(2)).unwrap()).unwrap());
    let failing = Arc::new(server.context());
    for seconds in expected {
        let error = reconcile(Arc::clone(&kept), Arc::clone(&failing)).await.unwrap_err();
        let action = retry(Arc::clone(&kept), &error, Arc::clone(&failing));
        assert_eq!(action, Action::requeue(Duration::from_secs(seconds)));
    }
    let failures = std::mem::take(&mut *failing.failures());
    let works = Arc::new(Context { failures: Mutex::new(failures), ..Server::default().context() });
    reconcile(kept, Arc::clone(&works)).await.unwrap();
    assert!(works.failures().is_empty());
}
