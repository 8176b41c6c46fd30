//! What the operator's own scaler reads of the servers: without Prometheus, and by the older form of a trigger as well.

use serde_json::{Value, json};
use testbed::engine::control::Control;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::{Signal, TURN, up_and_down};
use crate::suite::{get, kubectl};

/// As users have it.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/keda.yaml");

/// By the requests that wait.
pub async fn queue(plane: &Plane) -> anyhow::Result<()> {
    introduce(plane).await?;
    let signal = Signal {
        namespace: "scaling-queue",
        spec: "",
        triggers: json!([{"type": "external", "metadata": {
            "scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:443",
            "signal": "queue",
            "targetValue": "10",
        }}]),
        busy: Control { waiting: Some(100), ..Control::default() },
    };
    up_and_down(plane, &signal).await
}

/// Lets KEDA call the scaler, and waits until it can.
async fn introduce(plane: &Plane) -> anyhow::Result<()> {
    kubectl(plane, "keda", &format!("apply -f {MANIFEST}")).ok().await?;
    eventually("KEDA has its certificate", Deadline::after(TURN), || async {
        let secret = get(plane, "keda", "secret/vllm-operator-scaler").await;
        match secret.map(|secret| secret["data"]["tls.crt"].clone()) {
            Ok(Value::String(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
