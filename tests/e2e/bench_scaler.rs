//! The benchmark of the external scaler, short: that it runs, and what holds on any machine.

use anyhow::ensure;
use testbed::bench_scaler::sockets::Open;
use testbed::bench_scaler::{latency, many, start};

use super::suite::{REPLICAS, TESTBED};

/// Requests at once, to all pods and to those of one cluster, as `docs/scaler.md` has it.
const AT_ONCE: (usize, usize) = (256, 64);

const CLUSTERS: usize = 20;

/// Both ways raise and lower a count; every cluster is asked, and what that takes is bounded.
pub async fn short() -> anyhow::Result<()> {
    let plane = start(TESTBED.into(), None).await?;
    let figures = latency::measure(&plane, &latency::Latency { trials: 1 }).await?;
    println!("{figures}");
    for times in [&figures.scaler.up, &figures.scaler.down, &figures.prometheus.up, &figures.prometheus.down]
    {
        ensure!(times.len() == 1 && !times[0].is_zero(), "{figures}");
    }

    let figures = many::measure(&plane, &many::Many { clusters: CLUSTERS, seconds: 6 }).await?;
    println!("{figures}");
    ensure!(figures.asked.len() == CLUSTERS && figures.asked[0] > 0, "{figures}");
    ensure!(figures.replicas.len() == REPLICAS, "{figures}");
    for replica in figures.replicas.values() {
        ensure!(replica.after.resident > 1024 && replica.after.peak >= replica.after.resident, "{figures}");
        let Open { to_pods, to_one, from_keda: _, files } = replica.most;
        ensure!(to_pods <= AT_ONCE.0 && to_one <= AT_ONCE.1, "{figures}");
        ensure!(files > 0, "{figures}");
    }
    // KEDA keeps what it has opened to the scaler.
    ensure!(figures.replicas.values().any(|replica| replica.most.from_keda > 0), "{figures}");
    plane.stop().await
}
