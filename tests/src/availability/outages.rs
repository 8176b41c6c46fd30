//! The API server and etcd, killed and started again under load.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::plane::Plane;
use crate::plane::wait::{Deadline, eventually};

use super::load::{Load, Tally};
use super::operator::{PATIENCE, failed_calls, install};
use super::{Row, millis};

/// How soon all must be as before.
const STEADY_WITHIN: Duration = Duration::from_mins(1);
/// How long nothing must be lost, to be steady.
const STEADY_FOR: Duration = Duration::from_secs(5);

/// Kills them so often, in turns.
pub async fn try_them(plane: &Plane, trials: usize, rate: u32) -> anyhow::Result<Row> {
    install(plane, &[]).await?;
    let client = plane.client().await?;
    let load = Load::start(&client, rate).await?;
    let (mut whole, mut broken, mut spans, mut failures) = (Tally::default(), Vec::new(), Vec::new(), 0);
    for trial in 0..trials {
        let before = failed_calls(plane).await?;
        let component = ["kube-apiserver", "etcd"][trial % 2];
        load.outage_begins();
        for process in plane.processes(component)? {
            process.signal(Signal::KILL)?;
        }
        eventually("the API server is ready", Deadline::after(PATIENCE), || async {
            let ready = plane.kubectl(&["get", "--raw", "/readyz"]).ok().await;
            ready.map(drop).map_err(|error| format!("{error:#}"))
        })
        .await?;
        load.can_be_judged().await?;
        let begun = Instant::now();
        load.outage_ends();
        match steady(&load, begun).await {
            Some(took) => spans.push(took),
            None => broken.push(format!("trial {trial}, {component}: not steady within a minute")),
        }
        let after = failed_calls(plane).await?;
        // An API server that was started again counts from 0.
        failures += if component == "etcd" { after.saturating_sub(before) } else { 0 };
        whole.add(load.take());
    }
    whole.add(load.stop().await?);
    Ok(Row {
        what: "API server or etcd killed and started again, real",
        trials,
        tally: Some(whole),
        failures,
        figures: format!("steady after readiness: {}", millis(&spans)),
        broken,
    })
}

/// When nothing was lost any more, if that came in time.
async fn steady(load: &Load, begun: Instant) -> Option<Duration> {
    while begun.elapsed() < STEADY_WITHIN {
        let since = begun.elapsed();
        let seen = load.watch(STEADY_FOR).await;
        if seen.lost == 0 && seen.unreachable == 0 && seen.judged() > 0 {
            return Some(since);
        }
    }
    None
}
