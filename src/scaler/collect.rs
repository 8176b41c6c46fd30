//! What the servers of the clusters say, gathered when somebody asks.
//!
//! Whoever asks for a cluster whose readings are a moment old is given those, and whoever asks meanwhile waits for the same:
//! KEDA asks twice for each value, and once for each trigger. Nothing is gathered by itself, and what nobody has asked for in
//! [`FORGET`] is dropped.
//!
//! Architecture invariant: all of it is bounded: the time of one gathering, the requests at once, the rounds kept.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use futures::StreamExt as _;
use futures::stream::iter;
use hashbrown::HashMap;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::telemetry::ScalerMetrics;
use crate::world::Key;
use crate::world::servers::Server;

use super::answer::{Fault, Readings, Word};
use super::page::{self, Load};
use super::probe;
use super::trigger::{Signal, Trigger};

/// As long are readings given to whoever asks.
const FRESH: Duration = Duration::from_millis(1500);
/// Longest wait for a page.
const PAGE: Duration = Duration::from_secs(2);
/// Longest wait for an answer whose time is measured, if the target is not nearly as long.
const TIMED: Duration = Duration::from_secs(3);
/// Requests at once, over all clusters.
const AT_ONCE: usize = 256;
/// Requests at once of one cluster, so that a large one leaves room for others.
const OF_ONE: usize = 64;
/// How many rounds a response time is the median of, and how old they may be.
const ROUNDS: usize = 5;
const OLDEST: Duration = Duration::from_mins(1);
/// After that long without anybody asking, a cluster's readings are dropped.
const FORGET: Duration = Duration::from_mins(5);
const METRICS: &str = "/metrics";

/// A cluster, as it is known now.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// How many replicas it wants.
    pub replicas: u32,
    /// The port that its servers listen on.
    pub port: u16,
    /// Its servers.
    pub servers: Vec<Server>,
}

impl Fleet {
    /// Where those are that can be asked.
    fn targets(&self) -> Vec<SocketAddr> {
        let ready = self.servers.iter().filter(|server| server.ready);
        ready.filter_map(|server| Some(SocketAddr::new(server.address?, self.port))).collect()
    }

    /// How many of those that are wanted cannot be asked.
    fn absent(&self) -> u32 {
        let wanted = |server: &&Server| server.ordinal().is_some_and(|ordinal| ordinal < self.replicas);
        let there =
            self.servers.iter().filter(wanted).filter(|server| server.ready && server.address.is_some());
        self.replicas.saturating_sub(u32::try_from(there.count()).unwrap_or(u32::MAX))
    }
}

/// Gathers.
#[derive(Debug)]
pub struct Collector {
    clusters: std::sync::Mutex<Known>,
    permits: Semaphore,
    metrics: ScalerMetrics,
}

#[derive(Debug, Default)]
struct Known {
    clusters: HashMap<Key, Arc<Gathered>>,
    swept: Option<Instant>,
}

/// What is kept of one cluster. Whoever gathers holds the lock of what they gather.
#[derive(Debug, Default)]
struct Gathered {
    asked: std::sync::Mutex<Option<Instant>>,
    loads: Mutex<Option<Round<Load>>>,
    /// By path, and how long a server is waited for.
    times: Mutex<HashMap<(String, Duration), Rounds>>,
    told: std::sync::Mutex<String>,
}

/// What all servers said at one time.
#[derive(Clone, Debug)]
struct Round<T> {
    at: Instant,
    servers: Vec<Word<T>>,
}

/// The last rounds in which times were measured, the newest last.
type Rounds = VecDeque<Round<Duration>>;

impl Collector {
    /// Nothing is known yet.
    pub fn new(metrics: ScalerMetrics) -> Self {
        Self { clusters: std::sync::Mutex::default(), permits: Semaphore::new(AT_ONCE), metrics }
    }

    /// What the servers of a cluster say, as far as a trigger needs it.
    pub async fn readings(&self, key: &Key, fleet: &Fleet, trigger: &Trigger) -> Readings {
        let gathered = self.gathered(key);
        let targets = trigger.measure.targets();
        let mut readings =
            Readings { replicas: fleet.replicas, absent: fleet.absent(), ..Readings::default() };
        if targets.iter().any(|(signal, _)| *signal != Signal::ResponseTime) {
            readings.loads = self.loads(&gathered, fleet).await;
        }
        if let Some((_, target)) = targets.iter().find(|(signal, _)| *signal == Signal::ResponseTime) {
            readings.rounds = self.times(&gathered, fleet, &trigger.path, patience(*target)).await;
        }
        tell(key, &gathered, &readings);
        readings
    }

    async fn loads(&self, gathered: &Gathered, fleet: &Fleet) -> Vec<Word<Load>> {
        let mut last = gathered.loads.lock().await;
        if let Some(round) = last.as_ref().filter(|round| round.at.elapsed() < FRESH) {
            return round.servers.clone();
        }
        let servers = self.of_all(fleet, |address| async move {
            let response = probe::get(address, METRICS, PAGE).await?;
            if response.status != StatusCode::OK {
                return Err(Fault::Status(response.status.as_u16()));
            }
            let text = str::from_utf8(&response.body).map_err(|_| Fault::Garbage("no text"))?;
            match page::read(text) {
                load if load == Load::default() => Err(Fault::Garbage("none of vLLM's metrics")),
                load => Ok(load),
            }
        });
        let servers = servers.await;
        *last = Some(Round { at: Instant::now(), servers: servers.clone() });
        servers
    }

    /// The times of the rounds that count.
    async fn times(
        &self,
        gathered: &Gathered,
        fleet: &Fleet,
        path: &str,
        limit: Duration,
    ) -> Vec<Vec<Word<Duration>>> {
        let mut by_path = gathered.times.lock().await;
        by_path.retain(|_, rounds| rounds.back().is_some_and(|round| round.at.elapsed() < FORGET));
        let rounds = by_path.entry((path.to_owned(), limit)).or_default();
        rounds.retain(|round| round.at.elapsed() < OLDEST);
        if rounds.back().is_none_or(|round| round.at.elapsed() >= FRESH) {
            let servers = self.of_all(fleet, |address| async move {
                let response = probe::get(address, path, limit).await?;
                match response.status {
                    // Who asks for a key answers as fast as who needs none.
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(response.took),
                    status if status.is_success() => Ok(response.took),
                    status => Err(Fault::Status(status.as_u16())),
                }
            });
            let servers = servers.await;
            rounds.push_back(Round { at: Instant::now(), servers });
            if rounds.len() > ROUNDS {
                rounds.pop_front();
            }
        }
        rounds.iter().map(|round| round.servers.clone()).collect()
    }

    /// Asks all servers at once, within what is allowed.
    async fn of_all<T, F>(&self, fleet: &Fleet, ask: impl Fn(SocketAddr) -> F) -> Vec<Word<T>>
    where
        F: Future<Output = Word<T>>,
    {
        let one = async |address| {
            // It is never closed.
            let _permit = self.permits.acquire().await;
            let word = ask(address).await;
            self.metrics.probed(word.as_ref().err().map_or("answered", Fault::kind));
            word
        };
        iter(fleet.targets()).map(one).buffer_unordered(OF_ONE).collect().await
    }

    fn gathered(&self, key: &Key) -> Arc<Gathered> {
        let now = Instant::now();
        let mut known = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if known.swept.is_none_or(|swept| now - swept > FORGET) {
            known.swept = Some(now);
            known.clusters.retain(|_, gathered| {
                let asked = *gathered.asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.is_some_and(|asked| now - asked < FORGET)
            });
        }
        let gathered = Arc::clone(known.clusters.entry(key.clone()).or_default());
        drop(known);
        *gathered.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        gathered
    }
}

/// How long a server is waited for whose time is measured: longer than the target in milliseconds, or nothing could ever
/// exceed it.
fn patience(target: f64) -> Duration {
    TIMED.max(Duration::from_secs_f64(target * 1.25 / 1000.0))
}

/// Logs from where on servers are missing, and from where on none is.
fn tell(key: &Key, gathered: &Gathered, readings: &Readings) {
    let Readings { replicas, absent, loads, rounds } = readings;
    let faults = loads.iter().filter_map(|load| load.as_ref().err());
    let mut faults: Vec<_> = faults
        .chain(rounds.last().into_iter().flatten().filter_map(|time| time.as_ref().err()))
        .map(ToString::to_string)
        .collect();
    if *absent > 0 {
        faults.push(Fault::NotReady.to_string());
    }
    faults.sort();
    faults.dedup();
    let faults = faults.join(", ");
    let mut told = gathered.told.lock().unwrap_or_else(PoisonError::into_inner);
    if *told == faults {
        return;
    }
    let Key { namespace, name } = key;
    if faults.is_empty() {
        info!(namespace, name, "all servers tell their load again");
    } else {
        warn!(
            namespace,
            name, replicas, faults, "the load of some servers is missing: scaling down waits for it"
        );
    }
    *told = faults;
}
