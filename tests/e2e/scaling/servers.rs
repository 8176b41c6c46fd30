//! What the operator's own scaler reads of the servers, without Prometheus: each signal on its own, side by side.

use futures::future::try_join_all;
use serde_json::json;
use testbed::engine::control::Control;
use testbed::plane::Plane;

use super::{Busy, Signal, own, queue, up_and_down, waiting};

/// By each of them.
pub async fn each_signal(plane: &Plane) -> anyhow::Result<()> {
    let signal = |namespace, trigger, busy| Signal { namespace, spec: "", triggers: json!([trigger]), busy };
    let running = Control { running: Some(100), ..Control::default() };
    let cache = Control { kv_cache_usage: Some(0.9), ..Control::default() };
    let slow = Control { models_delay_ms: 400, ..Control::default() };
    let signals = [
        signal("scaling-queue", queue(), Busy::First(waiting(100))),
        signal("scaling-running", own(&[("signal", "running"), ("targetValue", "10")]), Busy::First(running)),
        signal(
            "scaling-kv-cache",
            own(&[("signal", "kv-cache"), ("targetValue", "20")]),
            Busy::First(cache.clone()),
        ),
        // Both of its parts have a say, and the other one does not stand in the way.
        signal(
            "scaling-combined",
            own(&[("signal", "combined"), ("queueTarget", "10"), ("kvCacheTarget", "20")]),
            Busy::First(cache),
        ),
        signal(
            "scaling-response-time",
            own(&[("signal", "response-time"), ("targetValue", "100")]),
            Busy::Each(slow),
        ),
    ];
    try_join_all(signals.iter().map(|signal| up_and_down(plane, signal))).await.map(drop)
}
