//! What pods use, by way of metrics-server: time of processors and memory, both used for real.

use serde_json::json;
use testbed::engine::control::Control;
use testbed::plane::Plane;

use super::{Busy, Signal, up_and_down};

/// An idle engine of a debug build uses a small part of either.
pub(super) const REQUESTS: &str = "resources: {requests: {cpu: 100m, memory: 100Mi}}";

/// By the time of processors.
pub async fn cpu(plane: &Plane) -> anyhow::Result<()> {
    let signal = Signal {
        namespace: "scaling-cpu",
        spec: REQUESTS,
        triggers: json!([{"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}]),
        // Of three pods it is 200 % on average, so that all three are still wanted, on a busy machine too.
        busy: Busy::First(Control { cpu_millicores: 600, ..Control::default() }),
    };
    up_and_down(plane, &signal).await
}

/// By memory.
pub async fn memory(plane: &Plane) -> anyhow::Result<()> {
    let signal = Signal {
        namespace: "scaling-memory",
        spec: REQUESTS,
        triggers: json!([{"type": "memory", "metricType": "Utilization", "metadata": {"value": "80"}}]),
        busy: Busy::First(Control { memory_mib: 400, ..Control::default() }),
    };
    up_and_down(plane, &signal).await
}
