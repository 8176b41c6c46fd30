//! `cargo bench-availability`: three replicas of the operator on a real plane, and bad days for them.
//!
//! [`load`] makes the writes, [`operator`] is what they are judged by, and each other module is one row of the table:
//! [`rotations`] with its [`handshakes`], [`restarts`], [`kills`], [`outages`]; and [`simulated`], what needs no plane.
//!
//! **Architecture invariant**: a row says how often what was tried, and what was lost. It fails for a loss and for a limit that
//! it names, never for being slow.

pub mod handshakes;
pub mod kills;
pub mod load;
pub mod operator;
pub mod outages;
pub mod restarts;
pub mod rotations;
pub mod simulated;

use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::bench_abuse::{self, BenchAbuse};
use crate::parts::{PROFILE, operator_binary};
use crate::plane::{Plane, PlaneOptions};

use load::Tally;

/// Options of `bench-availability`.
#[derive(Clone, Debug, Args)]
pub struct BenchAvailability {
    /// The rows to try; all where none is named.
    #[arg(value_enum)]
    rows: Vec<Kind>,
    /// Writes a second meanwhile.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How often, in place of each row's own number.
    #[arg(long)]
    trials: Option<usize>,
}

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Rotations of the CA and of the leaves.
    Rotations,
    /// Rolling restarts.
    Restarts,
    /// Replicas killed and paused.
    Kills,
    /// The API server and etcd killed.
    Outages,
    /// Hostile connections, as `bench-abuse` makes them.
    Abuse,
    /// What needs no plane: simulations and scripted API servers.
    Simulated,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Rotations, Self::Restarts, Self::Kills, Self::Outages, Self::Simulated];

    /// How often it is tried.
    fn trials(self) -> usize {
        match self {
            Self::Abuse | Self::Simulated => 1,
            Self::Rotations | Self::Kills => 100,
            Self::Restarts => 30,
            Self::Outages => 20,
        }
    }
}

/// What a row came to.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was tried.
    pub what: &'static str,
    /// How often.
    pub trials: usize,
    /// What the writes meanwhile came to, where there were any.
    pub tally: Option<Tally>,
    /// Writes that a webhook was ignored for, or failed, as the API server counts them.
    pub failures: u64,
    /// Figures of this row alone.
    pub figures: String,
    /// Limits that were not kept.
    pub broken: Vec<String>,
}

impl Row {
    /// Whether nothing was lost and every limit was kept.
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
            && self.failures == 0
            && self.tally.as_ref().is_none_or(|tally| tally.lost == 0)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, trials, tally, failures, figures, broken } = self;
        let verdict = if self.holds() { "ok    " } else { "BROKEN" };
        write!(f, "{verdict} {what}: {trials} trials; {figures}")?;
        if let Some(tally) = tally {
            write!(f, "; {tally}; {failures} calls of webhooks failed")?;
        }
        broken.iter().try_for_each(|broken| write!(f, "\n  broken: {broken}"))
    }
}

/// Tries the rows, each on a plane of its own, and prints one line for each.
pub fn main(bench: &BenchAvailability) -> anyhow::Result<()> {
    let rows = if bench.rows.is_empty() { Kind::ALL.to_vec() } else { bench.rows.clone() };
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut broken = 0;
        for kind in rows {
            match kind {
                Kind::Abuse => {
                    let abuse = || bench_abuse::main(&BenchAbuse::default());
                    if let Err(error) = tokio::task::spawn_blocking(abuse).await? {
                        println!("BROKEN hostile connections: {error:#}");
                        broken += 1;
                    }
                    continue;
                }
                Kind::Simulated => {
                    for row in tokio::task::spawn_blocking(simulated::rows).await?? {
                        println!("ok     {row}");
                    }
                    continue;
                }
                Kind::Rotations | Kind::Restarts | Kind::Kills | Kind::Outages => {}
            }
            let row = run(kind, bench.trials.unwrap_or(kind.trials()), bench.rate, std::env::current_exe()?)
                .await?;
            println!("{row}");
            broken += usize::from(!row.holds());
        }
        println!("build: {PROFILE}");
        anyhow::ensure!(broken == 0, "{broken} rows are broken");
        Ok(())
    })
}

/// Tries one row on a plane of its own.
pub async fn run(
    kind: Kind,
    trials: usize,
    rate: u32,
    testbed: impl Into<std::path::PathBuf>,
) -> anyhow::Result<Row> {
    let mut options = PlaneOptions::new("availability", testbed);
    options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
    options.restarts = kind == Kind::Outages;
    let plane = Plane::start(options).await?;
    let row = match kind {
        Kind::Rotations => rotations::try_them(&plane, trials, rate).await,
        Kind::Restarts => restarts::try_them(&plane, trials, rate).await,
        Kind::Kills => kills::try_them(&plane, trials).await,
        Kind::Outages => outages::try_them(&plane, trials, rate).await,
        Kind::Abuse | Kind::Simulated => Err(anyhow::anyhow!("it needs no plane")),
    };
    // A row that came to no end leaves its logs.
    let row = row?;
    plane.stop().await?;
    Ok(row)
}

/// Milliseconds, as figures show them.
fn millis(spans: &[Duration]) -> String {
    let most = spans.iter().max().copied().unwrap_or_default();
    let mut sorted = spans.to_vec();
    sorted.sort();
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    format!("median {} ms, at most {} ms", middle.as_millis(), most.as_millis())
}
