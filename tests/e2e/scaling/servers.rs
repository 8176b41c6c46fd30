//! What the operator's own scaler reads of the servers, without Prometheus: each signal on its own, side by side.

use futures::future::try_join_all;
use serde_json::Value;
use testbed::addons::scaler_trigger;
use testbed::engine::control::Control;
use testbed::plane::Plane;

use super::{Busy, queue, start, waiting};
use crate::suite::forget;

/// By each of them.
pub async fn each_signal(plane: &Plane) -> anyhow::Result<()> {
    let own = scaler_trigger;
    let running = Control { running: Some(100), ..Control::default() };
    let cache = Control { kv_cache_usage: Some(0.9), ..Control::default() };
    let slow = Control { models_delay_ms: 400, ..Control::default() };
    let signals = [
        ("scaling-queue", queue(), Busy::First(waiting(100))),
        ("scaling-running", own(&[("signal", "running"), ("targetValue", "10")]), Busy::First(running)),
        (
            "scaling-kv-cache",
            own(&[("signal", "kv-cache"), ("targetValue", "20")]),
            Busy::First(cache.clone()),
        ),
        // Both of its parts have a say, and the other one does not stand in the way.
        (
            "scaling-combined",
            own(&[("signal", "combined"), ("queueTarget", "10"), ("kvCacheTarget", "20")]),
            Busy::First(cache),
        ),
        (
            "scaling-response-time",
            own(&[("signal", "response-time"), ("targetValue", "100")]),
            Busy::Each(slow),
        ),
    ];
    let driven = signals.into_iter().map(|(namespace, trigger, busy)| by(plane, namespace, trigger, busy));
    try_join_all(driven).await.map(drop)
}

async fn by(plane: &Plane, namespace: &'static str, trigger: Value, busy: Busy) -> anyhow::Result<()> {
    start(plane, namespace, "", &[trigger]).await?.up_and_down(&busy).await?;
    forget(plane, namespace).await
}
