//! Live reads against a scripted API server.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http_body_util::Full;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;

/// What a read may take, if nothing else is said.
const TIMEOUT: Duration = Duration::from_millis(900);

/// Answers every request with `body`, or never.
fn live(code: u16, body: Option<Value>) -> Live {
    let service = tower::service_fn(move |_: axum::http::Request<Body>| {
        let body = body.clone();
        async move {
            let Some(body) = body else { return std::future::pending().await };
            let response = axum::http::Response::builder().status(code);
            Ok::<_, Infallible>(response.body(Full::from(body.to_string().into_bytes())).unwrap())
        }
    });
    Live::new(Client::new(service, "default"))
}

fn list(items: &Value) -> Live {
    live(200, Some(json!({"metadata": {}, "items": items})))
}

fn drives(name: &str, cluster: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "n"},
        "spec": {"scaleTargetRef": {"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": cluster}},
    })
}

#[tokio::test]
async fn of_a_list_what_drives_a_cluster_counts_and_what_cannot_be_read_is_left_out() {
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"scaleTargetRef": {"name": "d"}}});
    let unreadable = json!({"metadata": {"name": "u"}, "spec": {"scaleTargetRef": 5}});
    let live = list(&json!([drives("x", "a"), deployment, unreadable, drives("y", "b")]));
    let scalers = live.scalers_of("n", TIMEOUT).await.unwrap();
    let seen = scalers.iter().map(|found| (found.cluster.as_str(), found.driver.name.as_str()));
    assert_eq!(seen.collect::<Vec<_>>(), [("a", "x"), ("b", "y")]);
    let hpas = live.hpas_of("n", TIMEOUT).await.unwrap();
    let seen = hpas.iter().map(|found| (found.cluster.as_str(), found.driver.name.as_str()));
    assert_eq!(seen.collect::<Vec<_>>(), [("a", "x"), ("b", "y")]);
}

#[rstest::rstest]
#[case::none(json!([]), (false, false))]
#[case::no_spec(json!([{"metadata": {"name": "r"}}]), (false, false))]
#[case::request(json!([limits("Container", "defaultRequest", "cpu")]), (true, false))]
#[case::limit(json!([limits("Container", "default", "memory")]), (false, true))]
#[case::two(json!([limits("Container", "default", "memory"), limits("Container", "defaultRequest", "cpu")]), (true, true))]
#[case::a_bound_is_no_default(json!([limits("Container", "max", "cpu")]), (false, false))]
#[case::of_pods(json!([limits("Pod", "default", "cpu")]), (false, false))]
#[tokio::test]
async fn requests_by_default(#[case] ranges: Value, #[case] expected: (bool, bool)) {
    let DefaultRequests { cpu, memory } = list(&ranges).default_requests("n", TIMEOUT).await.unwrap();
    assert_eq!((cpu, memory), expected);
}

fn limits(of: &str, field: &str, resource: &str) -> Value {
    json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": of, field: {resource: "1"}}]}})
}

#[tokio::test]
async fn a_kind_that_is_not_installed_has_no_objects_and_a_failure_is_no_empty_list() {
    let status = |code: u16| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "x", "message": "m"});
    assert_eq!(live(404, Some(status(404))).scalers_of("n", TIMEOUT).await.unwrap(), []);
    let error = live(503, Some(status(503))).scalers_of("n", TIMEOUT).await.unwrap_err();
    assert!(error.to_string().starts_with("reading ScaledObjects of n failed"), "{error}");
}

#[rstest::rstest]
#[tokio::test(start_paused = true)]
async fn a_read_that_never_comes_ends_when_it_is_told_to(#[values(900, 2000)] ms: u64) {
    let (live, within) = (live(200, None), Duration::from_millis(ms));
    let begun = tokio::time::Instant::now();
    let errors = [
        live.cluster("n", "a", within).await.unwrap_err(),
        live.scaler("n", "a", within).await.unwrap_err(),
        live.scalers_of("n", within).await.unwrap_err(),
        live.hpas_of("n", within).await.unwrap_err(),
        live.default_requests("n", within).await.unwrap_err(),
    ];
    assert_eq!(begun.elapsed(), 5 * within);
    for error in errors.map(|error| error.to_string()) {
        assert!(error.ends_with(&format!(" took longer than {ms} ms")), "{error}");
    }
}

/// Longer than any read may take: reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(10);

/// An API server that holds back each answer until it is released. A cluster's resourceVersion is the number of
/// the call as it came in.
struct Held {
    live: Live,
    reads: LiveReads,
    called: Arc<Semaphore>,
    released: Arc<Semaphore>,
    calls: Arc<AtomicUsize>,
    /// The calls whose caller did not wait for the answer.
    given_up: Arc<Mutex<Vec<usize>>>,
}

struct Call {
    number: usize,
    answered: bool,
    given_up: Arc<Mutex<Vec<usize>>>,
}

impl Call {
    fn answer(mut self) {
        self.answered = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answered {
            self.given_up.lock().unwrap().push(self.number);
        }
    }
}

impl Held {
    fn new() -> Self {
        let (called, released) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let calls = Arc::new(AtomicUsize::new(0));
        let given_up = Arc::new(Mutex::new(Vec::new()));
        let service = {
            let (called, released) = (Arc::clone(&called), Arc::clone(&released));
            let (calls, given_up) = (Arc::clone(&calls), Arc::clone(&given_up));
            tower::service_fn(move |_: axum::http::Request<Body>| {
                let number = calls.fetch_add(1, Ordering::Relaxed) + 1;
                called.add_permits(1);
                let call = Call { number, answered: false, given_up: Arc::clone(&given_up) };
                let released = Arc::clone(&released);
                async move {
                    released.acquire().await.unwrap().forget();
                    call.answer();
                    let body = json!({"metadata": {"name": "a", "resourceVersion": number.to_string()}});
                    Ok::<_, Infallible>(axum::http::Response::new(Full::from(body.to_string().into_bytes())))
                }
            })
        };
        let reads = LiveReads::default();
        let live = Live::counting(Client::new(service, "default"), reads.clone());
        Self { live, reads, called, released, calls, given_up }
    }

    /// Begins a read, as far as it goes without an answer.
    async fn begin(&self) -> JoinHandle<Result<String, LiveError>> {
        let live = self.live.clone();
        let read = tokio::spawn(async move {
            live.cluster("n", "a", TIMEOUT).await.map(|cluster| cluster.unwrap().resource_version)
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        read
    }

    async fn called(&self) {
        let call = timeout(DEADLINE, self.called.acquire()).await;
        let Ok(call) = call else {
            panic!("no further call within {DEADLINE:?}; so far: {:?}", self.counts())
        };
        call.unwrap().forget();
    }

    fn counts(&self) -> (u64, u64, u64) {
        (self.reads.sent.get(), self.reads.shared.get(), self.reads.limited.get())
    }
}

#[tokio::test]
async fn a_read_answers_nobody_who_came_after_its_start() {
    let held = Held::new();
    let first = held.begin().await;
    held.called().await;
    // What is stored may have changed by now, and the first answer may be from before.
    let (second, third) = (held.begin().await, held.begin().await);
    assert_eq!(held.calls.load(Ordering::Relaxed), 1, "one at a time");
    held.released.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap(), "1");
    held.called().await;
    let fourth = held.begin().await;
    held.released.add_permits(1);
    assert_eq!((second.await.unwrap().unwrap(), third.await.unwrap().unwrap()), ("2".into(), "2".into()));
    held.released.add_permits(1);
    assert_eq!(fourth.await.unwrap().unwrap(), "3");
    assert_eq!(held.counts(), (3, 1, 0));
    // Nothing is kept: neither an answer nor the memory of a read.
    held.released.add_permits(1);
    assert_eq!(held.begin().await.await.unwrap().unwrap(), "4");
    assert!(held.live.clusters.is_empty());
}

#[tokio::test]
async fn a_crowd_costs_two_reads() {
    let held = Held::new();
    held.released.add_permits(10);
    let reads = std::iter::repeat_with(|| held.live.cluster("n", "a", TIMEOUT)).take(500);
    let versions = futures::future::try_join_all(reads).await.unwrap();
    assert_eq!(versions.len(), 500);
    assert_eq!((held.calls.load(Ordering::Relaxed), held.counts()), (2, (2, 498, 0)));
}

#[tokio::test]
async fn one_who_leaves_takes_nobody_along() {
    let held = Held::new();
    let first = held.begin().await;
    held.called().await;
    // The second brings the read that the third joins.
    let (second, third) = (held.begin().await, held.begin().await);
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    held.released.add_permits(1);
    first.await.unwrap().unwrap();
    held.called().await;
    let fourth = held.begin().await;
    fourth.abort();
    held.released.add_permits(1);
    assert_eq!(third.await.unwrap().unwrap(), "2");
    assert_eq!(*held.given_up.lock().unwrap(), Vec::<usize>::new());
}

#[tokio::test]
async fn a_read_for_nobody_is_given_up() {
    let held = Held::new();
    let (first, second) = (held.begin().await, held.begin().await);
    held.called().await;
    first.abort();
    first.await.unwrap_err();
    // The second one's turn comes without an answer to the first.
    held.called().await;
    second.abort();
    second.await.unwrap_err();
    assert_eq!(*held.given_up.lock().unwrap(), [1, 2]);
    assert!(held.live.clusters.is_empty());
    held.released.add_permits(1);
    assert_eq!(held.begin().await.await.unwrap().unwrap(), "3");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_lost_holds_up_the_next_for_a_moment_only() {
    let held = Held::new();
    let begun = tokio::time::Instant::now();
    let first = held.begin().await;
    held.called().await;
    let second = held.begin().await;
    held.called().await;
    assert_eq!(begun.elapsed(), flights::PATIENCE);
    // Whoever waits has their own limit.
    assert!(matches!(first.await.unwrap(), Err(LiveError::Timeout(..))));
    assert_eq!(begun.elapsed(), TIMEOUT);
    assert!(matches!(second.await.unwrap(), Err(LiveError::Timeout(..))));
    assert_eq!(begun.elapsed(), TIMEOUT);
    assert_eq!(*held.given_up.lock().unwrap(), [1, 2]);
}

#[tokio::test]
async fn a_failure_is_shared_too() {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"});
    let live = live(403, Some(status));
    let reads = std::iter::repeat_with(|| live.cluster("n", "a", TIMEOUT)).take(3);
    for failed in futures::future::join_all(reads).await {
        let error = failed.unwrap_err().to_string();
        assert!(error.starts_with("reading VLLMCluster n/a failed"), "{error}");
    }
}

#[tokio::test]
async fn all_reads_together_have_a_rate() {
    let held = Held::new();
    held.released.add_permits(10_000);
    let begun = Instant::now();
    let read = |number| {
        let live = held.live.clone();
        async move {
            // Of whatever kind, it is the same rate.
            match number % 3 {
                0 => live.scalers_of(&format!("n{number}"), TIMEOUT).await.map(drop),
                1 => live.hpas_of(&format!("n{number}"), TIMEOUT).await.map(drop),
                _ => live.cluster("n", &format!("c{number}"), TIMEOUT).await.map(drop),
            }
        }
    };
    let answers = futures::future::join_all((0..600).map(read)).await;
    // On a busy machine some of so many reads may take too long; they were sent all the same.
    let limited =
        answers.into_iter().filter_map(Result::err).filter(|error| matches!(error, LiveError::Rate(_)));
    let limited: Vec<_> = limited.map(|error| error.to_string()).collect();
    let allowed = u64::from(BURST.get()) + u64::from(RATE.get()) * (begun.elapsed().as_secs() + 1);
    let (sent, shared, counted) = held.counts();
    // Those beyond the burst wait for their turn, and those whose turn is too far off do not.
    assert!((u64::from(BURST.get()) + 1..=allowed).contains(&sent), "{sent} of at most {allowed} reads sent");
    assert_eq!(sent, held.calls.load(Ordering::Relaxed) as u64);
    assert_eq!((shared, counted, sent + counted), (0, limited.len() as u64, 600));
    let says = " was not read, since more than 100 objects a second would be";
    assert!(!limited.is_empty() && limited.iter().all(|error| error.ends_with(says)), "{limited:?}");
}
