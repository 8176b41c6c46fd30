//! What an answer costs, in what can be counted on any machine: allocations, and reads of the API server.
//!
//! From the bytes of a review to those of its answer, as a connection's task makes them; TLS and HTTP are hyper's and rustls'.
//! A program of its own: what counts allocations slows down all that allocates.

use std::convert::Infallible;
use std::sync::Arc;

use axum::http::{Request, Response};
use futures::FutureExt as _;
use kube::client::Body;
use rstest::rstest;
use serde_json::{Value, json};
use vllm_operator::admit::{Admission, OwnScaler, Phase, Repeats};
use vllm_operator::policy::{Bounds, Mode, Scaler};
use vllm_operator::world::live::Live;
use vllm_operator::world::{Attachment, Cluster, Key, World};

type Answer = Result<Response<Body>, Infallible>;

const BOUNDS: Bounds = Bounds { min: Some(1), max: Some(8) };

/// Lines, from 0, of the recorded reviews: of `/scale`, of a cluster, and of a ScaledObject, all updates.
const SCALE: usize = 1;
const CLUSTER: usize = 2;
const SCALED_OBJECT: usize = 40;

/// An operator that knows the cluster of the recorded reviews with its ScaledObject, among so many other clusters.
fn among(others: u32) -> Admission {
    let world = World::default();
    let cluster = Cluster { resource_version: "349".into(), bounds: BOUNDS, ..Cluster::default() };
    for namespace in ["t", "u"] {
        world.put_cluster(Key::new(namespace, "a"), cluster.clone());
        let driver =
            Scaler { name: "a".into(), min: Some(1), max: Some(20), paused: false, takes_over: None };
        world.put(&Key::new(namespace, "a"), Some(Attachment { cluster: "a".into(), driver }));
    }
    for other in 0..others {
        world.put_cluster(Key::new("t", format!("c-{other}")), cluster.clone());
    }
    // Whoever asks it waits.
    let api_server = tower::service_fn(|_request: Request<Body>| std::future::pending::<Answer>());
    Admission {
        world: Arc::new(world),
        live: Live::new(kube::Client::new(api_server, "default")),
        host_access: false,
        autoscalers: ["system:serviceaccount:kube-system:horizontal-pod-autoscaler".to_owned()].into(),
        mode: Mode::Deny,
        scaler: OwnScaler::usual(),
        metrics: Arc::default(),
        repeats: Repeats::default(),
    }
}

fn recorded(line: usize) -> Value {
    let lines = include_str!("../fixtures/admission-reviews.jsonl");
    serde_json::from_str(lines.lines().nth(line).expect("that many lines")).expect("a review")
}

fn scale_to(count: i32) -> Value {
    let mut review = recorded(SCALE);
    review["request"]["object"]["spec"]["replicas"] = json!(count);
    review
}

/// Another range within the cluster's bounds, by a person.
fn range() -> Value {
    let mut review = recorded(SCALED_OBJECT);
    review["request"]["userInfo"]["username"] = json!("admin");
    for (version, most) in [("object", 4), ("oldObject", 6)] {
        review["request"][version]["spec"]["maxReplicaCount"] = json!(most);
    }
    review
}

/// Allocations of one answer. It waits for nothing, so that one look at its future ends it.
fn allocations(admission: &Admission, phase: Phase, body: &[u8]) -> u64 {
    let answer = || {
        let request = webhook::review::Request::parse(body).expect("a review");
        let response = admission.review(phase, &request).now_or_never().expect("it waits for nothing");
        response.to_bytes(&request.uid)
    };
    // What is counted for the first time makes room for its counter.
    answer();
    allocation_counter::measure(|| drop(answer())).count_total
}

#[rstest]
#[case::scale_allowed(Phase::Validating, scale_to(7), 13)]
#[case::scale_allowed_before(Phase::Mutating, scale_to(7), 12)]
#[case::scale_refused(Phase::Validating, scale_to(9), 23)]
#[case::cluster_updated(Phase::Validating, recorded(CLUSTER), 34)]
#[case::scaled_object_updated(Phase::Validating, range(), 68)]
#[tokio::test]
async fn an_answer_is_found_without_a_read_and_costs_the_same_among_many(
    #[case] phase: Phase,
    #[case] review: Value,
    #[case] most: u64,
) {
    let body = serde_json::to_vec(&review).expect("JSON");
    let [few, many] = [10, 10_000].map(|others| allocations(&among(others), phase, &body));
    assert_eq!(few, many, "allocations with 10 and with 10,000 clusters");
    assert!(few <= most, "{few} allocations, and {most} are enough");
}
