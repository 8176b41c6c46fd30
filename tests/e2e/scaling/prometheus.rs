//! The queue by way of Prometheus: `vllm_request_queue_size`, as the rule in `deploy/prometheus` records it.

use serde_json::json;
use testbed::plane::Plane;

use super::{Busy, Signal, up_and_down, waiting};

const NS: &str = "scaling-prometheus";

/// By the recorded metric, of this namespace's cluster alone.
pub async fn recorded_metric(plane: &Plane) -> anyhow::Result<()> {
    let query = format!(r#"sum(vllm_request_queue_size{{job="vllm-cluster",namespace="{NS}",cluster="a"}})"#);
    let signal = Signal {
        namespace: NS,
        spec: "",
        triggers: json!([{"type": "prometheus", "metadata": {
            "serverAddress": "http://prometheus:9090", "query": query, "threshold": "10",
            // An empty result is no queue of 0: without the rule, or with labels of another form, this fails.
            "ignoreNullValues": "false",
        }}]),
        busy: Busy::First(waiting(100)),
    };
    up_and_down(plane, &signal).await
}
