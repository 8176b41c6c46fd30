//! While the operator is down, the schema holds the bounds, good writes pass, and namespaces go.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;

use super::suite::{
    apply, cluster, forget, kubectl, namespace, replicas, start_operator, stop_operator, until,
};

const NS: &str = "operator-down";
const GOING: &str = "operator-down-going";

/// 0 and above the maximum are refused in the schema's words, a good scale goes through.
pub async fn schema_holds(plane: &Plane) -> anyhow::Result<()> {
    for name in [NS, GOING] {
        namespace(plane, name).await?;
        apply(plane, name, &cluster("a", "replicas: 2\nmaxReplicas: 5")).await?;
        until(plane, name, "vllmcluster/a", &[("/status/readyReplicas", json!(2))]).await?;
    }
    stop_operator(plane).await?;
    for (count, says) in [
        ("0", "spec.replicas in body should be greater than or equal to 1"),
        ("6", "6 is above maxReplicas 5"),
    ] {
        let text = kubectl(plane, NS, &format!("scale vllmcluster a --replicas={count}"))
            .output()
            .await?
            .refused()?;
        ensure!(text.contains(says) && !text.contains("spec.maxReplicas of VLLMCluster"), "{text}");
    }
    kubectl(plane, NS, "scale vllmcluster a --replicas=4").ok().await?;
    ensure!(replicas(plane, NS, "a").await? == "4");
    // Whole clusters wait for the operator: an unchecked one may lie outside of every range.
    let text =
        kubectl(plane, NS, "create -f -").stdin(cluster("b", "replicas: 1")).output().await?.refused()?;
    ensure!(
        text.contains("failed calling webhook \"default.vllmclusters.training.distributed-inference.io\""),
        "{text}"
    );
    Ok(())
}

/// A namespace with a cluster in it goes although nobody is there to clean up; then the operator goes on.
pub async fn namespace_goes(plane: &Plane) -> anyhow::Result<()> {
    kubectl(plane, GOING, &format!("delete namespace {GOING} --timeout=60s")).ok().await?;
    start_operator(plane).await?;
    until(plane, NS, "vllmcluster/a", &[("/status/readyReplicas", json!(4))]).await?;
    forget(plane, NS).await
}
