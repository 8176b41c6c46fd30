//! A restart in steady state.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;
use testbed::plane::audit::stateful_sets_read;
use testbed::plane::wait::{Deadline, eventually};

use super::suite::{PATIENCE, apply, cluster, forget, namespace, start_operator, stop_operator, until};

const NS: &str = "steady-state";
const OPERATOR: &str = "system:serviceaccount:vllm-operator-system:vllm-operator";

/// Clusters that are as they should be are not written to, by an operator that knows nothing yet.
pub async fn restart(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    // All that a spec may state, since each field is stored in the API server's own form.
    let full = "replicas: 2\nminReplicas: 1\nmaxReplicas: 4\nmodel: tiny\nimage: vllm/vllm-openai:v0.32.0\n\
        args: [--max-num-seqs=4]\nenv:\n- {name: EMPTY, value: ''}\n- {name: SET, value: x}\n\
        resources: {limits: {cpu: 1000m, memory: 1024Mi}, requests: {cpu: '0.5'}}";
    apply(plane, NS, &cluster("full", full)).await?;
    apply(plane, NS, &cluster("bare", "")).await?;
    for (name, count) in [("full", 2), ("bare", 1)] {
        settled(plane, name, count).await?;
    }
    let before = plane.writes_by(OPERATOR)?.len();
    stop_operator(plane).await?;
    let (log, length) = (plane.audit_log(), plane.audit_log().metadata()?.len());
    start_operator(plane).await?;
    eventually("both clusters are looked at", Deadline::after(PATIENCE), || async {
        let read = stateful_sets_read(&log, OPERATOR, length).map_err(|error| format!("{error:#}"))?;
        let all = ["full", "bare"].iter().all(|name| read.contains(&(NS.to_owned(), (*name).to_owned())));
        if all { Ok(()) } else { Err(format!("{read:?}")) }
    })
    .await?;
    // What the last looks lead to is written a moment after them; a cluster that is created now is dealt with later.
    apply(plane, NS, &cluster("marker", "")).await?;
    settled(plane, "marker", 1).await?;
    let after: Vec<_> = plane.writes_by(OPERATOR)?.split_off(before);
    let (of_marker, others): (Vec<_>, Vec<_>) =
        after.into_iter().partition(|write| write.name.starts_with("marker") && write.namespace == NS);
    ensure!(others.is_empty(), "{others:#?}");
    ensure!(of_marker.len() >= 4, "the writes are counted: {of_marker:#?}");
    forget(plane, NS).await
}

async fn settled(plane: &Plane, name: &str, count: i64) -> anyhow::Result<()> {
    let wanted = [("/status/readyReplicas", json!(count)), ("/status/conditions/1/status", json!("False"))];
    let cluster = until(plane, NS, &format!("vllmcluster/{name}"), &wanted).await?;
    ensure!(cluster["status"]["conditions"][1]["type"] == "Reconciling", "{cluster:#}");
    Ok(())
}
