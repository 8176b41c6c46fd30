//! The benchmark of the control plane, small: that it runs, and what holds on any machine.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use testbed::bench_control::{Bench, follow, many, put};

use super::suite::TESTBED;

const CLUSTERS: usize = 20;
const WRITES: usize = 32;
const STEADY: Duration = Duration::from_secs(10);

/// Each object is applied once; neither a restart nor a steady state writes anything. Every count comes to its StatefulSet,
/// and whoever is called is called for each write.
pub async fn small() -> anyhow::Result<()> {
    let bench = Bench::start(Path::new(TESTBED)).await?;
    let figures = many::once(&bench, CLUSTERS, STEADY).await?;
    println!("{figures}");
    let (creation, later) = (&figures.ours[0], &figures.later);
    let writes = |what: &str| creation.writes.get(what).copied().unwrap_or_default();
    ensure!(writes("patch statefulsets") == CLUSTERS, "{figures}");
    ensure!(writes("patch services") == 2 * CLUSTERS, "{figures}");
    ensure!(writes("patch vllmclusters/status") >= CLUSTERS, "{figures}");
    // That it serves; of the last ones the event may be under way.
    ensure!((1..=CLUSTERS).contains(&writes("create events")), "{figures}");
    // A cluster that is looked at before its own status has come back is told of again, on the same event.
    let kinds = creation.writes.keys().filter(|what| *what != "patch events").count();
    ensure!(kinds == 4, "{figures}\n{:#?}", creation.writes);
    ensure!(later.writes_of_steady.is_empty(), "{:#?}", later.writes_of_steady);
    ensure!(later.writes_of_restart.is_empty(), "{:#?}", later.writes_of_restart);
    ensure!(creation.usage.iter().all(|usage| usage.resident > 1024), "{figures}");
    println!("{}", put::measure(&bench, WRITES).await?);
    bench.plane.stop().await?;

    let bench = Bench::start(Path::new(TESTBED)).await?;
    let follow = follow::measure(&bench, WRITES).await?;
    println!("{follow}");
    ensure!([&follow.ours, &follow.bare].iter().all(|spans| spans.len() == WRITES), "{follow}");
    bench.plane.stop().await
}
