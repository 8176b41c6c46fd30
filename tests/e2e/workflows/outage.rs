//! What people do about autoscaling while the operator is down.

use serde_json::json;
use testbed::plane::Plane;

use super::{nobody_was_refused, settled, wanting};
use crate::suite::{apply, cluster, forget, kubectl, namespace, start_operator, stop_operator, until};

const NS: &str = "unpaused";
const PAUSE: &str = "autoscaling.keda.sh/paused";

/// Autoscaling is switched off and on again while the operator is down.
pub async fn unpaused(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", "replicas: 2\nmaxReplicas: 8")).await?;
    apply(plane, NS, &wanting("queue", (1, 8), 6, "")).await?;
    settled(plane, NS, "keda-hpa-queue", 6).await?;
    stop_operator(plane).await?;
    kubectl(plane, NS, &format!("annotate scaledobject queue {PAUSE}=true")).ok().await?;
    kubectl(plane, NS, "wait --for=delete hpa/keda-hpa-queue --timeout=60s").ok().await?;
    kubectl(plane, NS, "scale vllmcluster a --replicas=3").ok().await?;
    kubectl(plane, NS, &format!("annotate scaledobject queue {PAUSE}-")).ok().await?;
    let wanted = [("/spec/replicas", json!(6))];
    until(plane, NS, "vllmcluster/a", &wanted).await?;
    start_operator(plane).await?;
    settled(plane, NS, "keda-hpa-queue", 6).await?;
    nobody_was_refused(plane, NS).await?;
    forget(plane, NS).await
}
