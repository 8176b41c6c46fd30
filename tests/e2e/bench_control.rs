//! The benchmark of the control loop, small: that it runs, and what holds on any machine.

use anyhow::ensure;
use testbed::addons;
use testbed::bench_control::measure;
use testbed::parts::operator_binary;
use testbed::plane::{Plane, PlaneOptions};

use super::suite::TESTBED;

const CLUSTERS: usize = 20;

/// Each object is applied once, and a restart writes nothing.
pub async fn small() -> anyhow::Result<()> {
    let mut options = PlaneOptions::new("bench", TESTBED);
    options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
    let plane = Plane::start(options).await?;
    addons::install_operator(&plane).await?;
    addons::wait_for_operator(&plane).await?;
    let figures = measure(&plane, CLUSTERS).await?;
    let writes = |what: &str| figures.writes.get(what).copied().unwrap_or_default();
    ensure!(writes("patch statefulsets") == CLUSTERS, "{figures}");
    ensure!(writes("patch services") == 2 * CLUSTERS, "{figures}");
    ensure!(writes("patch vllmclusters/status") >= CLUSTERS, "{figures}");
    // That it serves; of the last ones the event may be under way.
    ensure!((1..=CLUSTERS).contains(&writes("create events")), "{figures}");
    // A cluster that is looked at before its own status has come back is told of again, on the same event.
    let kinds = figures.writes.keys().filter(|what| *what != "patch events").count();
    ensure!(kinds == 4, "{figures}\n{:#?}", figures.writes_of_restart);
    ensure!(figures.writes_of_restart.is_empty(), "{:#?}", figures.writes_of_restart);
    ensure!(figures.usage.iter().all(|usage| usage.resident > 1024), "{figures}");
    plane.stop().await
}
