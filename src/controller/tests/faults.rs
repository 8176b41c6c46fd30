//! Every fault at every write of a set of workloads: the controller ends where it would have ended without, and has made
//! no other writes.
//!
//! It is the whole controller that runs here, with its watches and its waits, in simulated time.

mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::faulty::{Attempt, Fault, Faulty};
use crate::telemetry::Metrics;
use workloads::{Workload, workloads};

/// Longer than the controller waits after so few failures, and than a write is late.
const QUIET: Duration = Duration::from_mins(1);
/// Longer than anybody ever waits.
const LONG_QUIET: Duration = Duration::from_hours(1);

/// Faults by number of the write.
type Faults = Vec<(usize, Fault)>;

/// How one run went.
struct Ended {
    attempts: Vec<Attempt>,
    /// What a restart at the end has written.
    by_restart: Vec<Attempt>,
    /// How often each write was made, without events: a lost one stays lost.
    made: BTreeMap<String, usize>,
    objects: BTreeMap<String, Value>,
}

impl Ended {
    fn writes(&self) -> usize {
        self.attempts.len()
    }
}

fn is_event(what: &str) -> bool {
    what.contains("/events.k8s.io/")
}

async fn process(client: Client) {
    let world = World::default();
    let changed = world.listen();
    run(client, Arc::new(world), changed, Metrics::default().controller, CancellationToken::new()).await;
}

/// Takes a workload to its end with these faults.
async fn take(workload: &Workload, faults: &[(usize, Fault)]) -> Ended {
    let server = workload.start.copy();
    let answering = server.clone();
    let network = Faulty::new(move |request| answering.clone().answer(request), faults.iter().copied());
    let running = network.run(process);
    for step in &workload.steps {
        (step.act)(&server);
        match step.pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => network.at_rest(QUIET).await,
        }
    }
    let attempts = network.attempts();
    network.kill();
    network.at_rest(if faults.is_empty() { LONG_QUIET } else { QUIET }).await;
    let by_restart = network.attempts().split_off(attempts.len());
    running.abort();
    let mut made = BTreeMap::new();
    for attempt in attempts.iter().filter(|attempt| attempt.made && !is_event(&attempt.what)) {
        *made.entry(attempt.what.clone()).or_default() += 1;
    }
    Ended { attempts, by_restart, made, objects: server.everything() }
}

/// What is wrong with a run, seen beside the one without faults.
fn judge(hurried: bool, faultless: &Ended, ended: &Ended, faults: &[(usize, Fault)]) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(ended.by_restart.iter().map(|attempt| format!("only a restart makes {}", attempt.what)));
    let paths: BTreeSet<_> = faultless.objects.keys().chain(ended.objects.keys()).collect();
    for path in paths {
        let (expected, found) = (faultless.objects.get(path), ended.objects.get(path));
        if expected != found {
            let [expected, found] = [expected, found].map(|object| object.cloned().unwrap_or_default());
            wrong.push(format!("{path} differs: {}", json!(json_patch::diff(&expected, &found))));
        }
    }
    let whats: BTreeSet<_> = faultless.made.keys().chain(ended.made.keys()).collect();
    for what in whats {
        let count = |ended: &Ended| ended.made.get(what).copied().unwrap_or_default();
        let (expected, found) = (count(faultless), count(ended));
        // A write that arrives late comes beside its retry. And a failure is told on the status, and that it is over.
        let late = faults.iter().any(|(number, fault)| {
            *fault == Fault::Late && ended.attempts.get(*number).is_some_and(|attempt| attempt.what == *what)
        });
        let told = if what.ends_with("/status") { 2 * faults.len() } else { 0 };
        if found < expected && !hurried || found > expected + usize::from(late) + told {
            wrong.push(format!("{what}: made {found} times, and {expected} times without faults"));
        }
    }
    let refused = ended.attempts.iter().filter(|attempt| !attempt.made).count();
    if refused > faults.len() {
        wrong.push(format!("{refused} writes were not made, of which faults account for {}", faults.len()));
    }
    wrong
}

/// One fault at each of so many writes.
fn singles(writes: usize) -> Vec<Faults> {
    (0..writes).flat_map(|number| Fault::ALL.map(|fault| vec![(number, fault)])).collect()
}

/// A fault at each of so many writes and another one soon after, of each sort of which a controller knows one from
/// the other.
fn pairs(writes: usize) -> Vec<Faults> {
    let sorts = [
        Fault::KilledBefore,
        Fault::KilledAfter,
        Fault::SilenceAfter,
        Fault::Refused(409),
        Fault::Refused(500),
        Fault::NoNamespace,
    ];
    let mut all = Vec::new();
    for (number, soon) in (0..writes).flat_map(|number| [1, 2, 4].map(|soon| (number, soon))) {
        for (one, other) in sorts.iter().flat_map(|one| sorts.map(|other| (*one, other))) {
            all.push(vec![(number, one), (number + soon, other)]);
        }
    }
    all
}

/// How many runs there were, and of how many writes.
struct Trials {
    runs: usize,
    writes: usize,
}

/// Takes every workload through all these faults, on all processors.
fn take_all(faults: fn(usize) -> Vec<Faults>) -> Trials {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let mut cases = Vec::new();
    for workload in runtime().block_on(workloads()) {
        let faultless = runtime().block_on(take(&workload, &[]));
        assert!(faultless.attempts.iter().all(|attempt| attempt.made), "{:#?}", faultless.attempts);
        assert_eq!(faultless.by_restart, [], "{}: a restart writes nothing", workload.name);
        assert!(!faultless.attempts.is_empty(), "{} writes nothing", workload.name);
        cases.push((workload, faultless));
    }
    let of_case = |(workload, faultless)| {
        let all: Vec<_> = faults(Ended::writes(faultless));
        all.into_iter().map(move |faults| (workload, faultless, faults))
    };
    let runs: Vec<_> =
        cases.iter().map(|(workload, faultless)| (workload, faultless)).flat_map(of_case).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((workload, faultless, faults)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let ended = runtime().block_on(take(workload, faults));
            let what = |number: usize| ended.attempts.get(number).map_or("no write", |attempt| &attempt.what);
            let at: Vec<_> =
                faults.iter().map(|(number, fault)| format!("{fault:?} at {}", what(*number))).collect();
            let found = judge(workload.hurried, faultless, &ended, faults).into_iter();
            wrong
                .lock()
                .unwrap()
                .extend(found.map(|found| format!("{}, {}: {found}", workload.name, at.join(", "))));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} runs:\n{}", wrong.len(), runs.len(), wrong.join("\n"));
    Trials { runs: runs.len(), writes: cases.iter().map(|(_, faultless)| faultless.writes()).sum() }
}

#[test]
fn every_fault_at_every_write_ends_as_without_it() {
    let Trials { runs, writes } = take_all(singles);
    println!(
        "row: faults × write points (scripted): {runs} runs, {} faults at each of {writes} writes, each ended as without it",
        Fault::ALL.len()
    );
    assert!(runs >= 1000, "{runs}");
}

#[test]
#[ignore = "takes minutes: cargo test -p vllm-operator --lib two_faults -- --ignored --nocapture"]
fn two_faults_end_as_without_them() {
    let Trials { runs, writes } = take_all(pairs);
    println!(
        "row: pairs of faults (scripted): {runs} runs, from each of {writes} writes on, each ended as without them"
    );
    assert!(runs >= 1000, "{runs}");
}
