//! Manifests that say little, and counts that leave them.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;

use super::suite::{apply, cluster, forget, get, kubectl, namespace, replicas, until};

const NS: &str = "manifests";
/// First argument with which this program is kubectl's editor: it takes the count out of the file.
pub const EDITOR: &str = "take-out-replicas";

/// Nothing but a count, and nothing at all.
pub async fn least_manifests(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("two", "replicas: 2")).await?;
    apply(plane, NS, &cluster("bare", "")).await?;
    until(plane, NS, "vllmcluster/two", &[("/status/readyReplicas", json!(2))]).await?;
    let wanted = [("/spec", json!({"replicas": 1})), ("/status/readyReplicas", json!(1))];
    until(plane, NS, "vllmcluster/bare", &wanted).await?;
    Ok(())
}

/// A cluster scaled to 7 stays so whichever way its manifest loses the count; an explicit 1 is obeyed.
pub async fn count_leaves(plane: &Plane) -> anyhow::Result<()> {
    let with = |name: &str| cluster(name, "replicas: 3\nmodel: tiny");
    let without = |name: &str| cluster(name, "model: tiny");

    apply(plane, NS, &with("client-side")).await?;
    to_seven(plane, "client-side").await?;
    apply(plane, NS, &without("client-side")).await?;
    still_seven(plane, "client-side").await?;

    let server_side = "apply --server-side -f -";
    kubectl(plane, NS, server_side).stdin(with("server-side")).ok().await?;
    to_seven(plane, "server-side").await?;
    kubectl(plane, NS, server_side).stdin(without("server-side")).ok().await?;
    still_seven(plane, "server-side").await?;

    kubectl(plane, NS, "create -f -").stdin(with("replaced")).ok().await?;
    to_seven(plane, "replaced").await?;
    kubectl(plane, NS, "replace -f -").stdin(without("replaced")).ok().await?;
    still_seven(plane, "replaced").await?;

    kubectl(plane, NS, "create -f -").stdin(with("patched")).ok().await?;
    to_seven(plane, "patched").await?;
    kubectl(plane, NS, r#"patch vllmcluster patched --type=merge -p={"spec":{"replicas":null}}"#)
        .ok()
        .await?;
    still_seven(plane, "patched").await?;

    kubectl(plane, NS, "create -f -").stdin(with("edited")).ok().await?;
    to_seven(plane, "edited").await?;
    let this = std::env::current_exe()?;
    let editor = format!("{} {EDITOR}", this.display());
    // It changes the model too: an edit that changes nothing is not sent.
    kubectl(plane, NS, "edit vllmcluster edited").env("KUBE_EDITOR", editor).ok().await?;
    let edited = get(plane, NS, "vllmcluster/edited").await?;
    ensure!(edited["spec"]["model"] == "edited", "the editor did not run: {edited:#}");
    still_seven(plane, "edited").await?;

    apply(plane, NS, &cluster("client-side", "replicas: 1\nmodel: tiny")).await?;
    ensure!(replicas(plane, NS, "client-side").await? == "1");
    forget(plane, NS).await
}

async fn to_seven(plane: &Plane, name: &str) -> anyhow::Result<()> {
    ensure!(replicas(plane, NS, name).await? == "3");
    kubectl(plane, NS, &format!("scale vllmcluster {name} --replicas=7")).ok().await?;
    // Settled: `kubectl replace` reads and writes, and a status written in between is a conflict.
    let wanted = [("/status/readyReplicas", json!(7)), ("/status/conditions/1/status", json!("False"))];
    until(plane, NS, &format!("vllmcluster/{name}"), &wanted).await.map(drop)
}

async fn still_seven(plane: &Plane, name: &str) -> anyhow::Result<()> {
    let cluster = get(plane, NS, &format!("vllmcluster/{name}")).await?;
    ensure!(cluster["spec"]["replicas"] == 7, "{name}: {cluster:#}");
    // What StatefulSet gets to see of it is 7 as well, and never less in between: a fleet is not restarted.
    until(plane, NS, &format!("statefulset/{name}"), &[("/spec/replicas", json!(7))]).await?;
    Ok(())
}

/// What the editor makes of a file: without its count, and of another model.
pub fn edited(text: &str) -> String {
    let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("  replicas:")).collect();
    kept.join("\n").replace("model: tiny", "model: edited") + "\n"
}
