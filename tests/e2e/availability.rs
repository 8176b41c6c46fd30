//! The rows of `cargo bench-availability`, with a few trials each: nothing is lost, and every limit is kept.

use anyhow::ensure;
use testbed::availability::{Kind, run};

use super::suite::TESTBED;

/// Writes a second; the command makes more.
const RATE: u32 = 40;

/// One row, with so many trials.
pub async fn row(kind: Kind, trials: usize) -> anyhow::Result<()> {
    let row = run(kind, trials, RATE, TESTBED).await?;
    ensure!(row.holds(), "{row}");
    let judged = row.tally.as_ref().map(testbed::availability::load::Tally::judged);
    ensure!(judged.is_none_or(|judged| judged > 100), "nothing to lose: {row}");
    println!("{row}");
    Ok(())
}
