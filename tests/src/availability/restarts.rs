//! Rolling restarts under load.

use std::time::Instant;

use crate::plane::Plane;

use super::load::Load;
use super::operator::{NAMESPACE, failed_calls, install, rolled_out};
use super::{Row, millis};

/// Restarts all replicas, one after the other, so often.
pub async fn try_them(plane: &Plane, trials: usize, rate: u32) -> anyhow::Result<Row> {
    install(plane, &[]).await?;
    let client = plane.client().await?;
    let load = Load::start(&client, rate).await?;
    // What was made while it was being set up counts for nothing.
    load.take();
    let before = failed_calls(plane).await?;
    let mut spans = Vec::new();
    for _ in 0..trials {
        let begun = Instant::now();
        plane.kubectl(&["-n", NAMESPACE, "rollout", "restart", "deployment/vllm-operator"]).ok().await?;
        rolled_out(plane).await?;
        spans.push(begun.elapsed());
    }
    let tally = load.stop().await?;
    Ok(Row {
        what: "rolling restarts, real",
        trials,
        tally: Some(tally),
        failures: failed_calls(plane).await? - before,
        figures: format!("three replicas replaced: {}", millis(&spans)),
        broken: Vec::new(),
    })
}
