//! What an answer costs, in what can be counted on any machine: allocations, and reads of the API server.
//!
//! From the bytes of a review to those of its answer, as a connection's task makes them; TLS and HTTP are hyper's and rustls'.

use futures::FutureExt as _;
use rstest::rstest;
use serde_json::{Value, json};
use webhook::review::Request;

use super::Phase;
use super::fixture::{Fixture, create_scaled_object, recorded, review};
use crate::policy::Bounds;
use crate::world::{Cluster, Key};

const BOUNDS: Bounds = Bounds { min: Some(1), max: Some(8) };

/// A cluster with its ScaledObject, as the recorded reviews have it, among so many others.
fn among(others: u32) -> Fixture {
    let fixture = Fixture::empty().knows("a", "349", BOUNDS).scaler("a", 1, 8);
    for other in 0..others {
        let facts = Cluster { bounds: BOUNDS, ..Cluster::default() };
        fixture.admission.world.put_cluster(Key::new("t", &format!("c-{other}")), facts);
    }
    fixture
}

fn scale_to(count: i32) -> Value {
    let mut review = review(recorded::SCALE_3_TO_7);
    review["request"]["object"]["spec"]["replicas"] = json!(count);
    review
}

/// A range within the cluster's bounds, of the ScaledObject that is known.
fn scaled_object(most: i32) -> Value {
    let mut review = create_scaled_object("queue", "a");
    review["request"]["operation"] = json!("UPDATE");
    review["request"]["oldObject"] = review["request"]["object"].clone();
    review["request"]["object"]["spec"]["maxReplicaCount"] = json!(most);
    review
}

/// Allocations of one answer. It waits for nothing, so that one look at its future ends it.
fn allocations(fixture: &Fixture, phase: Phase, body: &[u8]) -> u64 {
    let answer = || {
        let request = Request::parse(body).expect("a review");
        let response = fixture.admission.review(phase, &request).now_or_never().expect("it waits for nothing");
        response.to_bytes(&request.uid)
    };
    // What is counted for the first time makes room for its counter.
    answer();
    allocation_counter::measure(|| drop(answer())).count_total
}

#[rstest]
#[case::scale_allowed(Phase::Validating, scale_to(7), 1)]
#[case::scale_allowed_before(Phase::Mutating, scale_to(7), 1)]
#[case::scale_refused(Phase::Validating, scale_to(9), 1)]
#[case::cluster_updated(Phase::Validating, review(recorded::UPDATE), 1)]
#[case::scaled_object_updated(Phase::Validating, scaled_object(4), 1)]
fn an_answer_is_found_without_a_read_and_costs_the_same_among_many(
    #[case] phase: Phase,
    #[case] review: Value,
    #[case] most: u64,
) {
    let body = serde_json::to_vec(&review).expect("JSON");
    let [few, many] = [10, 10_000].map(|others| {
        let fixture = among(others);
        let allocations = allocations(&fixture, phase, &body);
        assert_eq!(fixture.asked(), Vec::<String>::new());
        allocations
    });
    assert_eq!(few, many, "allocations with 10 and with 10,000 clusters");
    assert!(few <= most, "{few} allocations, and {most} are enough");
}
