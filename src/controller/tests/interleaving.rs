//! Writers of one count, in every order: an HPA, KEDA, people who scale and apply, and the controller, of which each
//! knows what was true a while ago. At rest, the StatefulSet has the last count that was accepted.
//!
//! Architecture invariant: admission and the controller are the real ones; who else writes is as the API server sees it.

mod writers;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt as _;

use super::api_server::ApiServer;
use super::*;
use crate::admit::harness::{HPA_CONTROLLER, KEDA, Plane};
use crate::world::live::Live;
use crate::world::part::ClusterPart;
use writers::Scaling;

/// Steps until everybody stops.
const STEPS: usize = 40;

/// One who reconciles, and what its watches have told so far.
#[derive(Clone, Copy, Debug)]
struct Reconciler {
    clusters: usize,
    sets: usize,
    /// It has heard of something since it has looked.
    due: bool,
}

/// One schedule.
struct Schedule {
    random: fastrand::Rng,
    server: ApiServer,
    context: Context,
    plane: Plane,
    /// Versions of the cluster that admission's watch has told.
    known: usize,
    leader: Reconciler,
    /// Who has led before, and does not know yet that it does not any more.
    former: Option<Reconciler>,
    autoscalers: [Scaling; 2],
    /// The spec that the last accepted write has left.
    accepted: Value,
    /// Every count that was accepted.
    counts: Vec<Value>,
    told: Vec<String>,
}

/// An object as a watch tells of it.
fn read<K: serde::de::DeserializeOwned>(object: &Value) -> K {
    K::deserialize(object).unwrap()
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let mut created = cluster(2);
        created.spec.max_replicas = Some(8);
        let server = ApiServer::with(&created);
        let spec = server.stored()["spec"].clone();
        let world = Arc::new(World::default());
        let mut schedule = Self {
            random: fastrand::Rng::with_seed(seed),
            context: server.context(),
            plane: Plane::over(world, Live::without_rate(server.client())),
            known: 0,
            leader: Reconciler { clusters: 0, sets: 0, due: false },
            former: None,
            autoscalers: [Scaling::of(HPA_CONTROLLER), Scaling::of(KEDA)],
            counts: vec![spec["replicas"].clone()],
            accepted: spec,
            told: Vec::new(),
            server,
        };
        schedule.leader = schedule.started();
        schedule.tell_admission();
        schedule
    }

    /// A controller that has just listed what there is.
    fn started(&self) -> Reconciler {
        let mut started = Reconciler { clusters: 0, sets: 0, due: true };
        while self.server.version(None, started.clusters + 1).is_some() {
            started.clusters += 1;
        }
        while self.server.version(Some(SET), started.sets + 1).is_some() {
            started.sets += 1;
        }
        started
    }

    /// Tells admission of the next version of the cluster.
    fn tell_admission(&mut self) {
        if let Some(next) = self.server.version(None, self.known + 1) {
            self.known += 1;
            let key = Key::new("t", "my-cluster");
            self.plane.admission.world.put_cluster(key, read::<ClusterPart>(&next).facts());
        }
    }

    /// Tells a controller of the next version of one of both.
    fn tell(&self, to: &mut Reconciler, of_cluster: bool) -> bool {
        let (path, seen) = if of_cluster { (None, &mut to.clusters) } else { (Some(SET), &mut to.sets) };
        let news = self.server.version(path, *seen + 1).is_some();
        if news {
            *seen += 1;
            to.due = true;
        }
        news
    }

    /// Reconciles the cluster that this one knows.
    async fn reconcile(&mut self, by: &mut Reconciler) {
        by.due = false;
        let before = self.server.stored()["spec"].clone();
        let cluster = read(&self.server.version(None, by.clusters).unwrap());
        reconcile_readable(&self.context, &cluster, now()).await.unwrap();
        assert_eq!(self.server.stored()["spec"], before, "a reconciliation writes no spec");
        let count = self.server.objects()[SET]["spec"]["replicas"].clone();
        assert!(self.counts.contains(&count), "the StatefulSet has {count}, which nobody asked for");
        self.told.push(format!("reconciled version {}: {count}", by.clusters));
    }

    async fn step(&mut self) {
        match self.random.u8(..24) {
            0..=9 => self.others_write().await,
            10..=12 => self.tell_admission(),
            13..=17 => {
                let mut leader = self.leader;
                let of_cluster = self.random.bool();
                self.tell(&mut leader, of_cluster);
                self.leader = leader;
            }
            18..=20 if self.leader.due => {
                let mut leader = self.leader;
                self.reconcile(&mut leader).await;
                self.leader = leader;
            }
            21 => {
                let started = self.started();
                self.told.push("another leads".into());
                self.former = Some(std::mem::replace(&mut self.leader, started));
            }
            22 => {
                if let Some(mut former) = self.former.take() {
                    let of_cluster = self.random.bool();
                    self.tell(&mut former, of_cluster);
                    if former.due {
                        self.told.push("who has led before".into());
                        self.reconcile(&mut former).await;
                    }
                    self.former = Some(former).filter(|_| self.random.bool());
                }
            }
            23 => self.server.settle(),
            _ => {}
        }
    }

    /// Lets everybody hear all and do what is due.
    async fn rest(&mut self) {
        let mut leader = self.leader;
        for _ in 0..10 {
            while self.tell(&mut leader, true) || self.tell(&mut leader, false) {}
            if !leader.due {
                return;
            }
            self.reconcile(&mut leader).await;
        }
        panic!("it never comes to rest");
    }

    async fn take(&mut self) {
        for _ in 0..STEPS {
            self.step().await;
        }
        self.rest().await;
        let spec = &self.server.stored()["spec"];
        assert_eq!(*spec, self.accepted, "nobody but who is accepted writes a spec");
        let count = &self.server.objects()[SET]["spec"]["replicas"];
        assert_eq!(*count, spec["replicas"], "the last accepted count is what the StatefulSet has");
    }
}

/// Takes so many schedules, on all processors, and says how many writes of others were accepted. Panics with the seed of
/// one that went wrong, and with what was done in it.
fn take_all(schedules: u64) -> u64 {
    let (next, accepted) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= schedules {
                return;
            }
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let mut schedule = Schedule::new(seed);
                let taken = AssertUnwindSafe(schedule.take()).catch_unwind().await;
                assert!(taken.is_ok(), "seed {seed}:\n{}", schedule.told.join("\n"));
                // The first count is that of the creation.
                accepted.fetch_add(schedule.counts.len() as u64 - 1, Ordering::Relaxed);
            });
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    accepted.into_inner()
}

fn last_accepted_is_what_there_is(schedules: u64) {
    let accepted = take_all(schedules);
    println!(
        "row: writers that interleave (simulated): {schedules} schedules, {accepted} accepted writes, the last of each schedule is what the StatefulSet has"
    );
    assert!(accepted > schedules, "{accepted}");
}

#[test]
fn the_last_accepted_count_is_what_the_statefulset_has() {
    last_accepted_is_what_there_is(500);
}

#[test]
#[ignore = "takes minutes: cargo test -p vllm-operator --lib ten_thousand -- --ignored --nocapture"]
fn the_last_accepted_count_of_ten_thousand_schedules() {
    last_accepted_is_what_there_is(10_000);
}
