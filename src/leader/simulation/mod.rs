//! Thousands of bad days in simulated time: the loop itself, several replicas, and a Lease on a server that is slow, cut
//! off, or loses answers, while replicas are paused, killed, stopped and started, each with a clock of its own.
//!
//! What must hold, by the one true time: never two at once may act as leader; who may not, has stopped; once the faults
//! are over, there is a leader within the lease and a retry; and one that stops in order is followed within 2 s.
//!
//! Architecture invariant: the replicas are [`super::run`] as it is; only the server and what is led are played.

mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Candidate, Fence, Settings};
use server::{Day, Link, Pausable, Reached, State};

const REPLICAS: usize = 3;
/// Between two acts of a leader. What overlaps for less than this is missed, unless a term begins in it.
const ACT: Duration = Duration::from_millis(300);
/// A call when nothing is wrong: both ways, and how far word of a vacancy lags.
const USUAL: Duration = Duration::from_millis(20);
/// For what is computed in no time at all.
const MARGIN: Duration = Duration::from_millis(200);
const HAND_OVER: Duration = Duration::from_secs(2);

/// What a leader does: acts where its fence lets it, and tells what it must not see.
async fn lead(day: Arc<Day>, replica: usize, fence: Fence, ending: CancellationToken) {
    let mut closed_since = None;
    while !ending.is_cancelled() {
        let now = Instant::now();
        day.with(|state| {
            let leaders = state.leaders();
            if fence.is_open() {
                state.acts += 1;
                closed_since = None;
            } else {
                // A paused process is late with everything.
                let since = *closed_since.get_or_insert(now);
                if now.duration_since(since.max(state.paused_until[replica])) > ACT * 2 {
                    state.wrong.push(format!("{replica} goes on without the lease since {since:?}"));
                }
            }
            if leaders.len() > 1 {
                state.wrong.push(format!("{leaders:?} lead at once"));
            }
        });
        sleep(ACT).await;
    }
}

/// A process of a replica.
struct Process {
    task: AbortOnDropHandle<()>,
    shutdown: CancellationToken,
}

fn settings() -> Settings {
    let [duration, deadline, retry] = [15, 10, 2].map(Duration::from_secs);
    Settings::new(duration, deadline, retry).expect("client-go's")
}

/// Starts a replica; each start is another process to the others, with a clock that is wrong by up to an hour.
fn start(day: &Arc<Day>, replica: usize) -> Process {
    let fence = Fence::default();
    let (number, wrong_by) = day.with(|state| {
        state.fences.insert(replica, fence.clone());
        (state.rng.u32(..), SignedDuration::from_secs(state.rng.i64(-3600..3600)))
    });
    let begun = Instant::now();
    let clock = move || {
        let passed = SignedDuration::try_from(begun.elapsed()).expect("minutes");
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(500_000) + passed + wrong_by
    };
    let candidate = Candidate {
        store: Reached { day: Arc::clone(day), replica },
        name: "l".into(),
        identity: format!("r{replica}_{number}"),
        settings: settings(),
        fence: fence.clone(),
        leading: Gauge::default(),
        clock: Arc::new(clock),
    };
    let shutdown = CancellationToken::new();
    let (stop, of_work) = (shutdown.clone(), Arc::clone(day));
    let process = async move {
        let work = |ending| {
            Pausable::new(lead(Arc::clone(&of_work), replica, fence.clone(), ending), &of_work, replica)
        };
        super::run(&candidate, work, stop).await.expect("it ends at its end");
    };
    Process { task: AbortOnDropHandle::new(tokio::spawn(Pausable::new(process, day, replica))), shutdown }
}

/// Waits until one leads, and returns which.
async fn led(day: &Day, within: Duration, what: &str) -> usize {
    let deadline = Instant::now() + within;
    loop {
        if let [leader] = day.with(|state| state.leaders())[..] {
            return leader;
        }
        assert!(Instant::now() < deadline, "{what}: nobody leads after {within:?}");
        sleep(MARGIN / 4).await;
    }
}

/// Some minutes of faults, then peace, then a hand-over in order.
async fn day(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    // Of which the jitter is, too.
    fastrand::seed(seed);
    let now = Instant::now();
    let state = State {
        rng: rng.fork(),
        lease: None,
        version: 0,
        deleted: false,
        links: [Link::Good; REPLICAS],
        paused_until: [now; REPLICAS],
        fences: BTreeMap::new(),
        acts: 0,
        faults_end: now + Duration::from_secs(rng.u64(5..30)),
        wrong: Vec::new(),
    };
    let day = Arc::new(Day { state: Mutex::new(state), vacant: broadcast::channel(4).0 });
    let mut processes: Vec<_> = (0..REPLICAS).map(|replica| Some(start(&day, replica))).collect();
    // A process that starts after the Lease was deleted cannot know that it was held: on these days none does.
    let by_hand = rng.bool();
    if by_hand {
        sleep(settings().retry_period).await;
    }
    let faults_end = day.with(|state| state.faults_end);
    while Instant::now() < faults_end {
        fault(&day, &mut rng, &mut processes, by_hand, faults_end).await;
        sleep(Duration::from_millis(rng.u64(0..5_000))).await;
    }
    day.with(|state| state.links = [Link::Good; REPLICAS]);
    for (replica, process) in processes.iter_mut().enumerate() {
        if process.as_ref().is_none_or(|process| process.shutdown.is_cancelled()) {
            *process = Some(start(&day, replica));
        }
    }
    // The end of a call that hung, the look after that, and the end of the lease that it shows.
    let retry = settings().retry_period.mul_f64(super::JITTER);
    let within = settings().duration + settings().call_timeout() + retry + MARGIN;
    sleep(within).await;
    let leader = led(&day, Duration::ZERO, "after the faults").await;
    for _ in 0..4 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(day.with(|state| state.leaders()), [leader], "it leads on in peace");
    }
    let stopped = processes[leader].take().expect("it leads");
    stopped.shutdown.cancel();
    stopped.task.await.expect("in order");
    let next = led(&day, HAND_OVER, "after the leader stopped in order").await;
    assert_ne!(next, leader);
    sleep(ACT * 3).await;
    day.with(|state| {
        assert!(state.wrong.is_empty(), "{:?}", &state.wrong[..state.wrong.len().min(3)]);
        state.acts
    })
}

/// One thing that goes wrong, or is well again.
async fn fault(
    day: &Arc<Day>,
    rng: &mut Rng,
    processes: &mut [Option<Process>],
    by_hand: bool,
    end: Instant,
) {
    let replica = rng.usize(..REPLICAS);
    let left = end.saturating_duration_since(Instant::now());
    match rng.u8(..if by_hand { 8 } else { 10 }) {
        0 => day.with(|state| state.links = [Link::Cut; REPLICAS]),
        1 => day.with(|state| state.links[replica] = Link::Cut),
        2 => day.with(|state| state.links[replica] = Link::Lossy),
        3 => day.with(|state| state.links[replica] = Link::Slow(Duration::from_secs(rng.u64(1..20)))),
        4 | 5 => day.with(|state| state.links = [Link::Good; REPLICAS]),
        6 => {
            let pause = Duration::from_millis(rng.u64(0..30_000)).min(left);
            let replica = leader_or(day, rng, replica);
            day.with(|state| {
                let until = &mut state.paused_until[replica];
                *until = (*until).max(Instant::now() + pause);
            });
        }
        7 if by_hand => day.with(|state| match (rng.u8(..3), &mut state.lease) {
            // Once: who was cut off meanwhile takes a second time for the first.
            (0, lease) if !std::mem::replace(&mut state.deleted, true) => *lease = None,
            (0 | 1, Some(lease)) => {
                lease.data["spec"]["holderIdentity"] = json!("a stranger");
                let lease = lease.clone();
                state.store(lease);
            }
            (_, Some(lease)) => {
                lease.data["spec"]["leaseDurationSeconds"] = json!(-1);
                let lease = lease.clone();
                state.store(lease);
            }
            (_, None) => {}
        }),
        7 | 8 => {
            let replica = leader_or(day, rng, replica);
            drop(processes[replica].take());
            // Its tasks are gone before the next begins.
            tokio::task::yield_now().await;
            processes[replica] = Some(start(day, replica));
        }
        _ => {
            let replica = leader_or(day, rng, replica);
            let restarted = match processes[replica].take() {
                Some(process) if !process.shutdown.is_cancelled() => {
                    process.shutdown.cancel();
                    process
                }
                // It has long been told to end, and does not.
                _ => start(day, replica),
            };
            processes[replica] = Some(restarted);
        }
    }
}

/// Mostly the leader: what befalls others matters less.
fn leader_or(day: &Day, rng: &mut Rng, replica: usize) -> usize {
    let leader = day.with(|state| state.leaders().first().copied());
    leader.filter(|_| rng.u8(..4) > 0).unwrap_or(replica)
}

fn simulate(seeds: std::ops::Range<u64>) -> u64 {
    let mut acts = 0;
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let day = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(day(seed))));
        acts += day.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("seed {seed}: {text}")
        });
    }
    acts
}

#[test]
fn ten_thousand_bad_days_have_one_leader_at_a_time() {
    const DAYS: u64 = 10_000;
    const THREADS: u64 = 4;
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            std::thread::spawn(move || simulate(thread * DAYS / THREADS..(thread + 1) * DAYS / THREADS))
        })
        .collect();
    let acts: u64 =
        threads.into_iter().map(|thread| thread.join().expect("a seed that is named above")).sum();
    println!("row: leader election (simulated): {DAYS} schedules, never two leaders; {acts} acts of leaders");
    assert!(acts > DAYS * 30, "leaders act: {acts}");
}
