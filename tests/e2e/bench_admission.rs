//! A short form of `cargo bench-admission`: every server answers every review as it must, and every figure is there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use testbed::bench_admission::{Extent, measure};
use testbed::parts::operator_binary;

use super::suite::TESTBED;

/// Two sizes, one round.
pub async fn short() -> anyhow::Result<()> {
    let operator = tokio::task::spawn_blocking(operator_binary).await??;
    let extent = Extent { objects: vec![5, 25], rounds: 1, turn: Duration::from_millis(200) };
    let figures = measure(Path::new(TESTBED), &operator, &extent).await?;
    for objects in extent.objects {
        for server in ["floor", "ours", "Go"] {
            for what in ["/scale, allowed", "/scale, refused", "new connection, /scale"] {
                let micros = figures.micros(objects, what, server);
                let micros = micros.with_context(|| format!("{server}, {what}, {objects}"))?;
                ensure!(micros > 0.0, "{server} took no time for {what}");
            }
        }
        for server in ["floor", "ours", "KEDA"] {
            for what in ["ScaledObject, allowed", "ScaledObject, refused"] {
                ensure!(figures.micros(objects, what, server).is_some(), "{server}, {what}, {objects}");
            }
        }
        for what in ["VLLMCluster, 8 KB", "VLLMCluster, 64 KB"] {
            ensure!(figures.micros(objects, what, "ours").is_some(), "{what}");
            ensure!(figures.micros(objects, what, "Go").is_none(), "Go has no rule for a {what}");
        }
    }
    ensure!(figures.latencies.len() == 6, "{:?}", figures.latencies);
    ensure!(figures.resident.iter().all(|(_, kib)| *kib > 0), "{:?}", figures.resident);
    println!("{}", figures.table());
    Ok(())
}
