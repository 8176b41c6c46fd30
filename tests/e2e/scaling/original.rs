//! The manifest that the project was born from, as it is: four triggers, two of them of forms that KEDA does not know.

use testbed::engine::control::Control;
use testbed::plane::Plane;

use super::{Busy, Driven, at_once, waiting};
use crate::suite::{apply, forget, kubectl, namespace};

const NS: &str = "original";
/// As it was written, with the cluster that it drives.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lint/original.yaml");
/// What it finds there: the Service that its `http` trigger names, and requests of cpu and memory for those who state none,
/// without which neither could be a percentage.
const THERE: &str = "
apiVersion: v1
kind: Service
metadata: {name: vllm-cluster}
spec: {selector: {app: vllm-cluster}, ports: [{port: 8000}]}
---
apiVersion: v1
kind: LimitRange
metadata: {name: defaults}
spec: {limits: [{type: Container, defaultRequest: {cpu: 100m, memory: 100Mi}}]}
";

/// It is ready, its HPA has all four metrics, and each of the four on its own drives the cluster up and down.
pub async fn works(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, THERE).await?;
    kubectl(plane, NS, &format!("apply -f {MANIFEST}")).ok().await?;
    let driven = Driven::of(plane, NS, "my-vllm-cluster", "my-cluster-scaler").await?;
    driven.has_metrics(4).await?;

    // By its own settings, each way down would take five minutes.
    let sooner = at_once().to_string();
    let patch = ["-n", NS, "patch", "scaledobject", "my-cluster-scaler", "--type=merge", "-p", &sooner];
    plane.kubectl(&patch).ok().await?;
    driven.all_are(1).await?;
    for busy in [
        Busy::First(waiting(200)),
        Busy::Each(Control { models_delay_ms: 400, ..Control::default() }),
        Busy::First(Control { cpu_millicores: 600, ..Control::default() }),
        Busy::First(Control { memory_mib: 400, ..Control::default() }),
    ] {
        driven.up_and_down(&busy).await?;
    }
    forget(plane, NS).await
}
