//! Days on which the API server lets its clients down: a whole replica has come to know what happened meanwhile, and has
//! done what follows from it, a minute after the end of each.
//!
//! It is all of the operator that watches: the index of admission, the certificates, the controller and the Lease, in
//! simulated time. What it should know is what another one knows that is started when all is over.

mod network;
mod replica;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::api_server::ApiServer;
use super::*;
use crate::objects::fixture::cluster;
use crate::pace::RETRY;
use network::{Day, Network};
use replica::{LEASE, Replica, WEBHOOKS};

const CLUSTERS: &str = "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters";
const SETS: &str = "/apis/apps/v1/namespaces/t/statefulsets";
const SCALERS: &str = "/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects";
const HPAS: &str = "/apis/autoscaling/v2/namespaces/t/horizontalpodautoscalers";
const KEDA: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/scaledobjects.keda.sh";
const NAMESPACE: &str = "/api/v1/namespaces/t";
/// All clusters that there ever are.
const NAMES: [&str; 4] = ["my-cluster", "gone", "new", "late"];

/// By when all is as it should be.
const WITHIN: Duration = Duration::from_mins(1);
/// Longer than anything takes on a good day.
const REST: Duration = Duration::from_mins(5);

/// What happens beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// Objects come, change and go.
    Changes,
    /// Likewise, and the Lease is deleted.
    LostLease,
    /// The store is set back to what it was an hour ago.
    Restore,
    /// The kind is removed with all its objects, and comes back with new ones.
    LostKind,
}

struct Case {
    what: &'static str,
    day: Day,
    lasts: Duration,
    beside: Beside,
}

fn cases() -> Vec<Case> {
    let (short, long) = (Duration::from_secs(90), Duration::from_mins(10));
    let case = |what, day, lasts| Case { what, day, lasts, beside: Beside::Changes };
    vec![
        case("410 in the stream", Day::Gone, short),
        case("410 at the start of a watch, and for its version ever after", Day::GoneAtStart, short),
        case("410 in the middle of pages", Day::GoneInPages, short),
        case("watches that end as soon as they begin", Day::Closing, short),
        case("connections that are half open, for a moment", Day::Silent, Duration::from_secs(1)),
        case("connections that are half open", Day::Silent, short),
        case("403", Day::Answered(403), short),
        // So long that waits which double would have grown beyond a minute.
        case("403 to writes", Day::WritesAnswered(403), Duration::from_secs(380)),
        case("500 to writes", Day::WritesAnswered(500), Duration::from_secs(380)),
        case("429 with Retry-After", Day::Answered(429), short),
        case("500", Day::Answered(500), short),
        case("503 for ten minutes", Day::Answered(503), long),
        case("an outage of ten minutes", Day::Refused, long),
        Case { what: "a lost Lease", day: Day::Good, lasts: short, beside: Beside::LostLease },
        Case {
            what: "a lost Lease in an outage",
            day: Day::Refused,
            lasts: short,
            beside: Beside::LostLease,
        },
        Case { what: "an older revision", day: Day::Refused, lasts: short, beside: Beside::Restore },
        Case {
            what: "a lost kind",
            day: Day::NoKind("vllmclusters"),
            lasts: short,
            beside: Beside::LostKind,
        },
    ]
}

fn make(server: &ApiServer, name: &str, replicas: i32) {
    let mut made = serde_json::to_value(cluster(replicas)).unwrap();
    made["metadata"]["name"] = json!(name);
    made["metadata"]["uid"] = json!(format!("{name} of {}", server.changes()));
    made["spec"]["minReplicas"] = json!(1);
    server.put(&format!("{CLUSTERS}/{name}"), &made);
}

/// Collects what belongs to clusters that are gone, also what was made for one by somebody who had not heard of that.
async fn collector(server: ApiServer) {
    loop {
        server.collect();
        sleep(Duration::from_secs(2)).await;
    }
}

fn attach(server: &ApiServer, collection: &str, name: &str, target: &str, max: i32) {
    let target = json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": target});
    let spec = json!({"scaleTargetRef": target, "maxReplicas": max, "maxReplicaCount": max});
    let metadata = json!({"name": name, "namespace": "t"});
    server.put(&format!("{collection}/{name}"), &json!({"metadata": metadata, "spec": spec}));
}

fn mode(server: &ApiServer, mode: &str) {
    let labels = json!({"training.distributed-inference.io/admission": mode});
    server.put(NAMESPACE, &json!({"metadata": {"name": "t", "labels": labels}}));
}

/// What there is at first.
fn first() -> ApiServer {
    let server = ApiServer::empty();
    make(&server, "my-cluster", 2);
    make(&server, "gone", 2);
    server.put(KEDA, &json!({"metadata": {"name": "scaledobjects.keda.sh"}}));
    attach(&server, SCALERS, "stays", "my-cluster", 5);
    attach(&server, SCALERS, "goes", "gone", 5);
    attach(&server, HPAS, "moves", "gone", 5);
    mode(&server, "warn");
    for path in WEBHOOKS {
        let webhook = |name| json!({"name": name, "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
        server.put(path, &json!({"metadata": {"name": "w"}, "webhooks": [webhook("a"), webhook("b")]}));
    }
    server
}

/// Objects come, change and go.
fn changes(server: &ApiServer) {
    server.edit(&format!("{CLUSTERS}/my-cluster"), |object| object["spec"]["replicas"] = json!(3));
    make(server, "new", 4);
    server.delete(&format!("{CLUSTERS}/gone"));
    attach(server, SCALERS, "stays", "my-cluster", 7);
    attach(server, SCALERS, "comes", "new", 5);
    server.delete(&format!("{SCALERS}/goes"));
    attach(server, HPAS, "moves", "new", 6);
    mode(server, "deny");
    server.edit(WEBHOOKS[1], |object| {
        object["webhooks"][0]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    });
}

/// What is not as it should be, with StatefulSets of these replicas.
async fn wrong(server: &ApiServer, replica: &Replica, sets: &BTreeMap<&str, i64>) -> Vec<String> {
    let mut wrong = replica.wrong(server);
    let known = Replica::known(server).await;
    for name in NAMES {
        let (known, expected) = (replica.world.target("t", name), known.target("t", name));
        if known != expected {
            wrong.push(format!("of {name} is known {known:?}, and should be {expected:?}"));
        }
        let set = server.object(&format!("{SETS}/{name}"));
        let replicas = set.map(|set| set["spec"]["replicas"].as_i64().unwrap());
        if replicas.as_ref() != sets.get(name) {
            wrong.push(format!(
                "{name} has a StatefulSet of {replicas:?}, and should have {:?}",
                sets.get(name)
            ));
        }
    }
    if replica.world.mode("t") != known.mode("t") {
        wrong.push(format!("the namespace's mode is known as {:?}", replica.world.mode("t")));
    }
    wrong
}

/// What a watch is of, if a call is one.
fn watched(call: &str) -> Option<String> {
    let query = call.split_once('?').filter(|(_, query)| query.contains("watch=true"))?.1;
    let query: Vec<_> = query.split('&').filter(|part| !part.starts_with("resourceVersion=")).collect();
    Some(format!("{}?{}", call.split_once('?')?.0, query.join("&")))
}

/// The most calls within a minute.
fn busiest(calls: &[(Instant, String)]) -> usize {
    let minute = Duration::from_mins(1);
    let from =
        |start: usize| calls[start..].iter().take_while(|(at, _)| *at < calls[start].0 + minute).count();
    (0..calls.len()).map(from).max().unwrap_or_default()
}

/// How long it took until all was as it should be, and the most calls within a minute; or what was wrong. The day begins
/// at this moment of the life of a watch.
async fn live_through(case: &Case, moment: Duration) -> Result<(Duration, usize), String> {
    let server = first();
    let network = Network::new(&server);
    let replica = Replica::start(&network);
    let _collecting = AbortOnDropHandle::new(tokio::spawn(collector(server.clone())));
    sleep(REST).await;
    let mut sets = BTreeMap::from([("my-cluster", 2), ("gone", 2)]);
    let about = format!("{}, {moment:?}", case.what);
    assert_eq!(wrong(&server, &replica, &sets).await, [""; 0], "{about}: before");
    let older = (case.beside == Beside::Restore).then(|| server.snapshot());
    if older.is_some() {
        make(&server, "late", 1);
        server.edit(&format!("{CLUSTERS}/my-cluster"), |object| object["spec"]["replicas"] = json!(5));
        attach(&server, SCALERS, "late", "late", 5);
        sleep(REST).await;
    }
    sleep(moment).await;
    let watches: BTreeSet<_> = network.calls().iter().filter_map(|(_, call)| watched(call)).collect();
    // Clusters and their pods are watched by two each, whose requests are the same; and the Lease, while another may hold it.
    let watches = watches.len() + 3;
    assert_eq!(watches, 17, "{about}: of what else?");

    network.begin(case.day);
    sleep(case.lasts / 2).await;
    match (case.beside, older) {
        (Beside::Restore, Some(older)) => server.restore(older),
        (Beside::LostKind, _) => {
            NAMES.iter().take(2).for_each(|name| server.delete(&format!("{CLUSTERS}/{name}")));
            sets = BTreeMap::new();
        }
        (beside, _) => {
            if beside == Beside::LostLease {
                server.delete(LEASE);
            }
            changes(&server);
            sets = BTreeMap::from([("my-cluster", 3), ("new", 4)]);
        }
    }
    sleep(case.lasts / 2).await;
    network.begin(Day::Good);
    let end = Instant::now();
    if matches!(case.beside, Beside::Restore | Beside::LostKind) {
        // Of a version that the watches have long left behind.
        make(&server, "my-cluster", 6);
        sets.insert("my-cluster", 6);
    }
    let took = loop {
        let wrong = wrong(&server, &replica, &sets).await;
        if wrong.is_empty() {
            break end.elapsed();
        }
        if end.elapsed() >= WITHIN {
            return Err(format!("{about}: {wrong:#?}"));
        }
        sleep(Duration::from_secs(1)).await;
    };
    sleep(WITHIN).await;
    let wrong = wrong(&server, &replica, &sets).await;
    if !wrong.is_empty() {
        return Err(format!("{about}, after a while: {wrong:#?}"));
    }
    let calls = network.calls();
    let most = busiest(&calls);
    // Each watch lists and begins once in its pace; likewise the Lease is read and written, and certificates are looked
    // after in six calls.
    let turns = usize::try_from(Duration::from_mins(1).as_secs() / RETRY.as_secs()).unwrap();
    let bound = (2 * watches + 2 + 6) * turns;
    if most > bound {
        return Err(format!("{about}: {most} calls within a minute, and {bound} would be many"));
    }
    Ok((took, most))
}

/// Lives through each day from so many moments on, on all processors.
fn live_through_all(moments: u32) {
    let cases = cases();
    // Over more than the life of a watch.
    let moment = |number| Duration::from_secs(48) * number / moments;
    let runs: Vec<_> =
        cases.iter().flat_map(|case| (0..moments).map(move |number| (case, moment(number)))).collect();
    let (next, ended) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((case, moment)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().start_paused(true).build().unwrap();
            let run = runtime.block_on(live_through(case, *moment));
            ended.lock().unwrap().push(run);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (good, wrong): (Vec<_>, Vec<_>) = ended.into_inner().unwrap().into_iter().partition(Result::is_ok);
    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} of {} runs:\n{}", wrong.len(), runs.len(), wrong.join("\n"));
    let (took, most): (Vec<_>, Vec<_>) = good.into_iter().flatten().unzip();
    println!(
        "row: bad days of the API server (scripted): {} runs of {} kinds, all in order at most {} s after the end, at most {} calls a minute",
        runs.len(),
        cases.len(),
        took.into_iter().max().unwrap_or_default().as_secs(),
        most.into_iter().max().unwrap_or_default(),
    );
}

#[test]
fn a_minute_after_each_bad_day_all_is_as_it_should_be() {
    live_through_all(2);
}

#[test]
#[ignore = "takes minutes: cargo test -p vllm-operator --lib bad_days_from -- --ignored --nocapture"]
fn bad_days_from_each_moment_of_a_watch() {
    live_through_all(12);
}
