//! `cargo bench-abuse`: what hostile connections to the admission port do to the calls of the API server.
//!
//! Reading order: [`target`] (the operator, a process), [`api_server`] (what it reads from), [`calls`] (the API server's own
//! calls), [`attack`] (everybody else's).
//!
//! **Architecture invariant**: callers and attackers run on threads of their own, so that neither waits for the other's
//! turn; they share the machine with the operator, and nothing else.

pub mod api_server;
pub mod attack;
pub mod calls;
pub mod target;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::parts::{PROFILE, operator_binary};
use crate::plane::install_crypto;
use api_server::ApiServer;
use attack::{Attack, Kind, Tally};
use calls::{Caller, Calls};
use target::{Operator, Target};

/// Slowdown that legitimate calls may suffer, in their 99th percentile.
pub const SLOWDOWN: f64 = 10.0;
/// Resident memory that the operator may take, in KiB.
pub const MEMORY: u64 = 128 << 10;

/// Attempts, unless told otherwise.
const ATTEMPTS: usize = 10_000;
/// Seconds of each attack, unless told otherwise.
const SECONDS: u64 = 12;

/// Options of `bench-abuse`.
#[derive(Clone, Debug, Args)]
pub struct BenchAbuse {
    /// Attempts to hold an idle connection; a tenth as many of each slow kind.
    #[arg(long, default_value_t = ATTEMPTS)]
    attempts: usize,
    /// How long each attack lasts, in seconds; without it is measured for as long.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
}

impl Default for BenchAbuse {
    fn default() -> Self {
        Self { attempts: ATTEMPTS, seconds: SECONDS }
    }
}

/// How much is done, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Attempts to hold an idle connection.
    pub attempts: usize,
    /// How long each attack lasts.
    pub span: Duration,
}

impl Extent {
    fn attack(self, kind: Kind) -> Attack {
        let attempts = match kind {
            Kind::IdleTcp | Kind::IdleTls | Kind::Forged => self.attempts,
            Kind::Huge => self.attempts / 50,
            Kind::Handshake | Kind::Header | Kind::Body | Kind::Unread => self.attempts / 10,
        };
        // All of them within three quarters of the time, so that there is some in which all are there; at once is
        // nothing that one machine could do to itself without stealing the processor from whom it measures.
        let seconds = self.span.as_secs_f64() * 0.75;
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let rate = (attempts as f64 / seconds).ceil() as u32;
        Attack { kind, attempts, rate }
    }
}

/// What one attack did.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub attack: String,
    /// Attempts that were made.
    pub attempts: usize,
    /// Connections of it that the server closed meanwhile.
    pub closed: usize,
    /// Calls before it.
    pub without: Calls,
    /// Calls during it.
    pub with: Calls,
    /// The operator's resident memory at most, in KiB.
    pub peak: u64,
    /// What the operator asked of the API server meanwhile.
    pub api_calls: u64,
}

impl Row {
    /// The 99th percentile with the attack over that without it.
    pub fn slowdown(&self) -> f64 {
        self.with.within(990).as_secs_f64() / self.without.within(990).as_secs_f64()
    }

    /// What is not as it must be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.slowdown() > SLOWDOWN {
            faults.push(format!("{}: calls took {:.1} times as long", self.attack, self.slowdown()));
        }
        if self.peak > MEMORY {
            faults.push(format!("{}: {} MiB", self.attack, self.peak >> 10));
        }
        for (when, calls) in [("before", &self.without), ("during", &self.with)] {
            if calls.failed > 0 {
                let why = calls.why.as_deref().unwrap_or_default();
                faults.push(format!("{}: {} calls failed {when}: {why}", self.attack, calls.failed));
            }
        }
        faults
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(
            f,
            "{:<20}{:>9}{:>8}{:>7}{:>7}{:>8.1}{:>8.1}{:>8.1}{:>8.1}{:>7.1}{:>6}{:>6}",
            self.attack,
            self.attempts,
            self.closed,
            self.with.times.len(),
            self.with.failed,
            ms(self.without.within(500)),
            ms(self.with.within(500)),
            ms(self.without.within(990)),
            ms(self.with.within(990)),
            self.slowdown(),
            self.peak >> 10,
            self.api_calls,
        )
    }
}

/// The head of the table.
pub fn head() -> String {
    format!(
        "{:<20}{:>9}{:>8}{:>7}{:>7}{:>16}{:>16}{:>7}{:>6}{:>6}\n{:<51}{:>8}{:>8}{:>8}{:>8}{:>7}{:>6}{:>6}",
        "attack",
        "attempts",
        "closed",
        "calls",
        "failed",
        "p50 ms",
        "p99 ms",
        "p99",
        "MiB",
        "API",
        "",
        "without",
        "with",
        "without",
        "with",
        "ratio",
        "most",
        "calls"
    )
}

/// Measures with the program that cargo builds, and prints one row an attack.
pub fn main(bench: &BenchAbuse) -> anyhow::Result<()> {
    install_crypto();
    let extent = Extent { attempts: bench.attempts, span: Duration::from_secs(bench.seconds) };
    let program = operator_binary()?;
    println!("{}", head());
    let rows = measure(&program, extent, |row| println!("{row}"))?;
    println!("build: {PROFILE}");
    let faults: Vec<_> = rows.iter().flat_map(Row::faults).collect();
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Each attack by itself and then all together, on one operator.
pub fn measure(program: &Path, extent: Extent, mut tell: impl FnMut(&Row)) -> anyhow::Result<Vec<Row>> {
    // Both ends of each connection that is attempted, and some.
    raise_descriptors(u64::try_from(extent.attempts)? + 4096)?;
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (api, operator) = runtime.block_on(async {
        let (api, address) = ApiServer::start().await?;
        let operator = Operator::start(program, folder.path(), &api, address).await?;
        anyhow::Ok((api, operator))
    })?;
    let single = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let callers = single()?;
    let caller = Caller::new(operator.target.clone())?;
    let each = Kind::ALL.map(|kind| (kind.to_string(), vec![extent.attack(kind)]));
    let together = ("all together".to_owned(), Kind::ALL.map(|kind| extent.attack(kind)).to_vec());
    let mut rows = Vec::new();
    // What the first calls cost, nobody measures.
    callers.block_on(calls_for(&caller, Duration::from_secs(1)));
    for (attack, attacks) in each.into_iter().chain([together]) {
        let without = callers.block_on(calls_for(&caller, extent.span));
        operator.forget_peak()?;
        let (before, tally, end) = (api.calls(), Arc::new(Tally::default()), CancellationToken::new());
        let attackers = thread::spawn({
            let (runtime, target) = (single()?, operator.target.clone());
            let (tally, end) = (Arc::clone(&tally), end.clone());
            move || runtime.block_on(attack_by(attacks, target, tally, end))
        });
        let with = callers.block_on(calls_for(&caller, extent.span));
        let (attempts, closed) = (tally.made.load(Ordering::Relaxed), tally.closed.load(Ordering::Relaxed));
        let (peak, api_calls) = (operator.peak()?, api.calls() - before);
        end.cancel();
        attackers.join().ok().context("the attackers panicked")?;
        let row = Row { attack, attempts, closed, without, with, peak, api_calls };
        tell(&row);
        rows.push(row);
    }
    Ok(rows)
}

async fn calls_for(caller: &Caller, span: Duration) -> Calls {
    let end = CancellationToken::new();
    let stop = async {
        sleep_until(Instant::now() + span).await;
        end.cancel();
    };
    tokio::join!(caller.call_until(end.clone()), stop).0
}

async fn attack_by(attacks: Vec<Attack>, target: Target, tally: Arc<Tally>, end: CancellationToken) {
    let running =
        attacks.into_iter().map(|attack| attack.run(target.clone(), Arc::clone(&tally), end.clone()));
    futures::future::join_all(running).await;
}

/// Lets this process have so many files open.
fn raise_descriptors(wanted: u64) -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    anyhow::ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= wanted),
        "{wanted} open files are needed, and {:?} are allowed: raise the hard limit (ulimit -Hn), or take fewer attempts",
        limit.maximum
    );
    limit.current = Some(wanted);
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}
