//! The benchmark of the control plane, small: that it runs, and what holds on any machine.

use std::path::Path;

use anyhow::ensure;
use testbed::bench_control::{follow, many, put};

use super::suite::TESTBED;

const CLUSTERS: usize = 20;
const WRITES: usize = 32;

/// Each object is applied once; neither a restart nor a steady state writes anything.
pub async fn small() -> anyhow::Result<()> {
    let figures = many::measure(Path::new(TESTBED), &many::Many::of(CLUSTERS, 10)).await?;
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
    Ok(())
}

/// Whoever is called is called for each write, and every count comes to its StatefulSet.
pub async fn scale() -> anyhow::Result<()> {
    let put = put::measure(Path::new(TESTBED), &put::Put::of(WRITES)).await?;
    println!("{put}");
    let follow = follow::measure(Path::new(TESTBED), &follow::Follow::of(WRITES)).await?;
    println!("{follow}");
    ensure!([&follow.ours, &follow.bare].iter().all(|spans| spans.len() == WRITES), "{follow}");
    Ok(())
}
