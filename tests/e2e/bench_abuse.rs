//! Abuse of the admission port, short: what holds on a busy machine too.

use std::time::Duration;

use anyhow::ensure;
use testbed::bench_abuse::{Extent, MEMORY, head, measure};
use testbed::parts::operator_binary;

const SPAN: Duration = Duration::from_millis(500);
/// What admission may read at once, and what it may read in the time that an attack and its aftermath take; and what the operator
/// reads by itself.
const READS: u64 = 200 + 100 * 3 + 50;

/// Memory and reads stay bounded, and nearly all calls are answered in time, whatever others do.
pub async fn short() -> anyhow::Result<()> {
    tokio::task::spawn_blocking(|| {
        testbed::plane::install_crypto();
        let rows = measure(&operator_binary()?, Extent { attempts: 2000, span: SPAN }, |_| {})?;
        let lines = [head()].into_iter().chain(rows.iter().map(ToString::to_string));
        let table = lines.collect::<Vec<_>>().join("\n");
        ensure!(rows.len() == 9, "{table}");
        for row in &rows {
            ensure!(
                row.attempts > 0 && row.with.times.len() > 20,
                "{}: nothing was measured\n{table}",
                row.attack
            );
            ensure!(row.peak <= MEMORY, "{}: {} MiB\n{table}", row.attack, row.peak >> 10);
            ensure!(row.api_calls <= READS, "{}: {} calls\n{table}", row.attack, row.api_calls);
            ensure!(
                row.with.failed * 10 <= row.with.times.len(),
                "{}: {:?}\n{table}",
                row.attack,
                row.with.why
            );
        }
        Ok(())
    })
    .await?
}
