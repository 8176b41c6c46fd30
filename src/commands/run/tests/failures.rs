//! The failure table, cell by cell: the operator is up, and what an answer needs cannot be read.
//!
//! Whatever the webhook's failure policy: HTTP 200, refused, code 500, "try again", and the mode `warn` makes no
//! difference. A failed HTTP call would count as one of the webhook's, and pass under `Ignore`.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::admit::Phase;
use crate::admit::fixture::{Fixture, Reply, recorded, review};
use crate::policy::{Bounds, Mode};
use crate::telemetry::AdmissionMetrics;
use crate::world::Key;

const CLUSTERS: &str = "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters/a";
const SCALED_OBJECTS: &str = "/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects";
const SCALED_OBJECT: &str = "/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects/queue";
const HPAS: &str = "/apis/autoscaling/v2/namespaces/t/horizontalpodautoscalers";
const LIMIT_RANGES: &str = "/api/v1/namespaces/t/limitranges";

/// A recorded review, of the cluster `a` in namespace `t`.
fn of_cluster(line: usize) -> Value {
    let mut review = review(line);
    review["request"]["namespace"] = json!("t");
    review["request"]["name"] = json!("a");
    review
}

fn target() -> Value {
    json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"})
}

/// A new ScaledObject `new` with a range that has nothing in common with [`UP_TO_SIX`].
fn scaled_object() -> Value {
    let mut review = of_cluster(recorded::CREATE_SCALED_OBJECT);
    review["request"]["name"] = json!("new");
    review["request"]["object"]["metadata"]["name"] = json!("new");
    review["request"]["object"]["spec"] = json!({
        "scaleTargetRef": target(),
        "minReplicaCount": 7,
        "maxReplicaCount": 9,
        "triggers": [{"type": "prometheus", "metadata": {"serverAddress": "http://p:9090", "query": "sum(vllm:num_requests_waiting)", "threshold": "4"}}],
    });
    review
}

fn hpa() -> Value {
    let mut review = of_cluster(recorded::CREATE_HPA);
    review["request"]["object"]["spec"]["scaleTargetRef"] = target();
    review
}

/// A cluster whose count is changed to one that the ScaledObject `queue`, up to six, does not allow.
fn cluster() -> Value {
    let mut review = of_cluster(recorded::CREATE_WITHOUT_COUNT);
    let request = &mut review["request"];
    request["operation"] = json!("UPDATE");
    request["oldObject"] = request["object"].clone();
    request["oldObject"]["spec"]["replicas"] = json!(3);
    request["object"]["spec"]["replicas"] = json!(7);
    review
}

fn scale_by(user: &str) -> Value {
    let mut review = of_cluster(recorded::SCALE_3_TO_7);
    review["request"]["userInfo"]["username"] = json!(user);
    review
}

const KEDA: &str = "system:serviceaccount:keda:keda-operator";
const UP_TO_SIX: Bounds = Bounds { min: None, max: Some(6) };

/// What admission knows before the review comes.
#[derive(Clone, Copy, Debug)]
enum Known {
    Nothing,
    /// The cluster as of the scale review's resourceVersion, without bounds, and the ScaledObject `queue`.
    ClusterAndScaler,
    /// The cluster, up to six.
    Cluster,
}

fn fixture(known: Known, failing: &'static str, reply: &Reply) -> Fixture {
    // All else can be read.
    let cluster = json!({"metadata": {"name": "a", "namespace": "t", "resourceVersion": "349"}, "spec": {"maxReplicas": 6}});
    let none = json!({"metadata": {}, "items": []});
    let mut answers = vec![
        (CLUSTERS, Reply::Object(cluster)),
        (SCALED_OBJECTS, Reply::Object(none.clone())),
        (HPAS, Reply::Object(none.clone())),
        (LIMIT_RANGES, Reply::Object(none)),
        (SCALED_OBJECT, Reply::Failure(404)),
    ];
    for (path, answer) in &mut answers {
        if *path == failing {
            *answer = reply.clone();
        }
    }
    let fixture = Fixture::new(answers);
    match known {
        Known::Nothing => fixture,
        Known::ClusterAndScaler => fixture.knows("a", "349", Bounds::default()).scaler("a", 1, 6),
        Known::Cluster => fixture.knows("a", "1", UP_TO_SIX),
    }
}

/// How long the API server waits for the webhook at this path.
fn timeout_of(path: &str) -> Duration {
    let manifests: Vec<Value> =
        serde_saphyr::from_multiple(include_str!("../../../../deploy/operator.yaml")).unwrap();
    let webhooks = manifests.iter().filter_map(|manifest| manifest["webhooks"].as_array()).flatten();
    let mut here = webhooks.filter(|webhook| webhook["clientConfig"]["service"]["path"] == path);
    Duration::from_secs(here.next().unwrap()["timeoutSeconds"].as_u64().unwrap())
}

#[rstest]
#[case::cluster_default_by_its_scaled_object(
    MUTATE_CLUSTER,
    cluster(),
    Known::ClusterAndScaler,
    SCALED_OBJECT
)]
#[case::cluster_check_by_its_scaled_object(
    VALIDATE_CLUSTER,
    cluster(),
    Known::ClusterAndScaler,
    SCALED_OBJECT
)]
#[case::scale_by_the_cluster(MUTATE_SCALE, scale_by("admin"), Known::Nothing, CLUSTERS)]
#[case::scale_by_the_cluster_finally(VALIDATE_SCALE, scale_by("admin"), Known::Nothing, CLUSTERS)]
#[case::scale_by_the_scaled_object(MUTATE_SCALE, scale_by("admin"), Known::ClusterAndScaler, SCALED_OBJECT)]
#[case::scale_by_the_scaled_object_finally(
    VALIDATE_SCALE,
    scale_by("admin"),
    Known::ClusterAndScaler,
    SCALED_OBJECT
)]
#[case::scale_of_keda_by_the_cluster(MUTATE_SCALE, scale_by(KEDA), Known::Nothing, CLUSTERS)]
#[case::scaled_object_default_by_an_unknown_cluster(
    MUTATE_SCALED_OBJECT,
    scaled_object(),
    Known::Nothing,
    CLUSTERS
)]
#[case::scaled_object_check_by_an_unknown_cluster(
    VALIDATE_SCALED_OBJECT,
    scaled_object(),
    Known::Nothing,
    CLUSTERS
)]
#[case::scaled_object_default_by_the_cluster(MUTATE_SCALED_OBJECT, scaled_object(), Known::Cluster, CLUSTERS)]
#[case::scaled_object_check_by_the_cluster(VALIDATE_SCALED_OBJECT, scaled_object(), Known::Cluster, CLUSTERS)]
#[case::scaled_object_default_by_others(
    MUTATE_SCALED_OBJECT,
    scaled_object(),
    Known::Cluster,
    SCALED_OBJECTS
)]
#[case::scaled_object_check_by_others(
    VALIDATE_SCALED_OBJECT,
    scaled_object(),
    Known::Cluster,
    SCALED_OBJECTS
)]
#[case::scaled_object_default_by_hpas(MUTATE_SCALED_OBJECT, scaled_object(), Known::Cluster, HPAS)]
#[case::scaled_object_check_by_hpas(VALIDATE_SCALED_OBJECT, scaled_object(), Known::Cluster, HPAS)]
#[case::scaled_object_default_by_limit_ranges(
    MUTATE_SCALED_OBJECT,
    scaled_object(),
    Known::Cluster,
    LIMIT_RANGES
)]
#[case::scaled_object_check_by_limit_ranges(
    VALIDATE_SCALED_OBJECT,
    scaled_object(),
    Known::Cluster,
    LIMIT_RANGES
)]
#[case::hpa_by_an_unknown_cluster(VALIDATE_HPA, hpa(), Known::Nothing, CLUSTERS)]
#[case::hpa_by_scaled_objects(VALIDATE_HPA, hpa(), Known::ClusterAndScaler, SCALED_OBJECTS)]
// Time passes only while nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn a_look_up_that_fails_is_a_refusal_that_says_try_again(
    #[case] path: &str,
    #[case] review: Value,
    #[case] known: Known,
    #[case] failing: &'static str,
    #[values(Mode::Deny, Mode::Warn)] mode: Mode,
    #[values(Reply::Failure(500), Reply::Failure(403), Reply::Refused, Reply::Silence)] reply: Reply,
) {
    let mut fixture = fixture(known, failing, &reply);
    fixture.admission.mode = mode;
    let metrics = Arc::clone(&fixture.admission.metrics);
    let begun = Instant::now();
    let answer = Answer::from_routes(&routes(fixture), path, &review).await;
    // A review needs two reads in a row at the most, and the API server must still get the answer.
    let (waited, webhook) = (begun.elapsed(), timeout_of(path));
    assert!(2 * waited < webhook, "{waited:?} of {webhook:?}");
    assert_eq!(waited > webhook / 3, matches!(reply, Reply::Silence), "{waited:?} of {webhook:?}");
    assert_eq!((answer.allowed(), answer.code()), (false, 500), "{answer:?}");
    assert!(
        answer.message().starts_with("reading ") && answer.message().ends_with("; try again"),
        "{answer:?}"
    );
    let AdmissionMetrics { scale, cluster, scaled_object, hpa, .. } = &metrics.admission;
    let phases = [Phase::Mutating, Phase::Validating];
    let failed = [scale, cluster, scaled_object, hpa]
        .into_iter()
        .flat_map(|answers| phases.map(|phase| answers.failed(phase, "live-read").get()));
    assert_eq!(failed.sum::<u64>(), 1);
}

#[rstest]
#[case(MUTATE_SCALE, scale_by("admin"), Known::Nothing)]
#[case(VALIDATE_SCALED_OBJECT, scaled_object(), Known::Nothing)]
#[case(VALIDATE_HPA, hpa(), Known::Nothing)]
#[tokio::test]
async fn beyond_the_rate_clients_are_told_to_wait(
    #[case] path: &str,
    #[case] review: Value,
    #[case] known: Known,
    #[values(Mode::Deny, Mode::Warn)] mode: Mode,
) {
    let mut fixture = fixture(known, "", &Reply::Silence).with_its_rate_used_up();
    fixture.admission.mode = mode;
    let answer = Answer::from_routes(&routes(fixture), path, &review).await;
    assert_eq!(answer.code(), 429, "{answer:?}");
    assert!(!answer.allowed());
    assert_eq!(answer.response["status"]["details"]["retryAfterSeconds"], 1, "{answer:?}");
    assert!(answer.message().ends_with("; try again"), "{answer:?}");
}

#[tokio::test]
async fn forged_reviews_do_not_hammer_the_api_server() {
    let fixture = fixture(Known::Cluster, "", &Reply::Silence);
    let script = fixture.script();
    let metrics = Arc::clone(&fixture.admission.metrics);
    let routes = routes(fixture);
    // Each claims a resourceVersion that is not known, and so makes admission read.
    let forged = |cluster: String, number: u32| {
        let mut review = scale_by("admin");
        review["request"]["name"] = json!(cluster);
        review["request"]["oldObject"]["metadata"]["resourceVersion"] = json!(format!("forged-{number}"));
        let routes = routes.clone();
        async move { Answer::from_routes(&routes, MUTATE_SCALE, &review).await }
    };
    for answer in futures::future::join_all((0..600).map(|number| forged("a".into(), number))).await {
        assert_eq!(answer.code(), 422, "7 is above 6: {answer:?}");
    }
    assert_eq!(script.asked(), [CLUSTERS; 2], "for 600 reviews at once");

    let begun = std::time::Instant::now();
    let each_of_another = (0..1000).map(|number| forged(format!("c{number}"), number));
    let answers = futures::future::join_all(each_of_another).await;
    let sent = script.asked().len() as u64;
    let allowed = 200 + 100 * (begun.elapsed().as_secs() + 1);
    assert!((200..=allowed).contains(&sent), "{sent} calls of at most {allowed}");
    let limited = answers.iter().filter(|answer| answer.code() == 429).count();
    let failed = answers.iter().filter(|answer| answer.code() == 500).count();
    let gone = answers.iter().filter(|answer| answer.allowed()).count();
    // On a busy machine some of so many take too long.
    assert!(limited > 0 && limited + failed + gone == 1000, "{limited} {failed} {gone}");
    let counted = ["too-many-live-reads", "live-read"]
        .map(|reason| metrics.admission.scale.failed(Phase::Mutating, reason).get());
    assert_eq!(counted, [limited as u64, failed as u64]);
}

#[tokio::test]
async fn a_namespaces_mode_changes_nothing_of_a_failure() {
    let fixture = fixture(Known::Nothing, CLUSTERS, &Reply::Refused);
    fixture.admission.world.put_mode("t".to_owned(), Some(Mode::Warn));
    // Known to be there, but not how it is now.
    fixture.admission.world.put_cluster(Key::new("t", "a"), crate::world::Cluster::default());
    let answer = Answer::from_routes(&routes(fixture), VALIDATE_SCALE, &scale_by("admin")).await;
    assert_eq!((answer.allowed(), answer.code()), (false, 500), "{answer:?}");
}
