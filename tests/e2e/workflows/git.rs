//! A repository that is the truth of everything it states, applied again and again over what the autoscaler did.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::plane::Plane;

use super::{nobody_was_refused, settled, wanting};
use crate::suite::{apply, cluster, forget, kubectl, namespace, until};

const NS: &str = "git";
/// As Argo CD and Flux do it.
const SYNC: &str = "apply --server-side --field-manager=gitops --force-conflicts -f -";
const KEEP: &str =
    "metadata:\n  annotations: {training.distributed-inference.io/keep-live-replicas: \"true\"}\n";

/// The stated count is obeyed and the autoscaler decides again; with the annotation the live count is left alone.
pub async fn replicas_in_the_manifest(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    let states = |replicas: u32, model: &str| {
        cluster("a", &format!("replicas: {replicas}\nmaxReplicas: 10\nmodel: {model}"))
    };
    let keeps = |replicas, model| states(replicas, model).replacen("metadata:\n", KEEP, 1);

    sync(plane, &states(2, "tiny")).await?;
    apply(plane, NS, &wanting("queue", (1, 8), 6, "")).await?;
    settled(plane, NS, "keda-hpa-queue", 6).await?;
    ensure!(sync(plane, &states(2, "tiny")).await? == "2", "the manifest states 2");
    settled(plane, NS, "keda-hpa-queue", 6).await?;

    // Whatever it states, and with something else changed as well.
    for (replicas, model) in [(2, "tiny"), (9, "tiny"), (2, "other"), (2, "other")] {
        let stored = sync(plane, &keeps(replicas, model)).await?;
        ensure!(stored == "6", "{replicas} {model}: {stored} stored instead of the live count");
        until(plane, NS, "vllmcluster/a", &[("/spec/model", json!(model))]).await?;
    }
    // The same commit again changes nothing, or it would be applied for ever.
    let before = written(plane).await?;
    sync(plane, &keeps(2, "other")).await?;
    let after = written(plane).await?;
    ensure!(after == before, "{before:#}\nbecame {after:#}");

    // Out of the repository again: the manifest is obeyed once more.
    ensure!(sync(plane, &states(3, "other")).await? == "3", "the manifest states 3");
    settled(plane, NS, "keda-hpa-queue", 6).await?;
    nobody_was_refused(plane, NS).await?;
    forget(plane, NS).await
}

/// What the repository's writes leave of themselves; status goes on meanwhile.
async fn written(plane: &Plane) -> anyhow::Result<Value> {
    let line = "get vllmcluster a -o json --show-managed-fields";
    let cluster: Value = serde_json::from_str(&kubectl(plane, NS, line).ok().await?)?;
    let fields = cluster["metadata"]["managedFields"].as_array().context("managed fields")?;
    let own =
        fields.iter().find(|fields| fields["manager"] == "gitops").context("those of the repository")?;
    Ok(json!([cluster["metadata"]["generation"], own]))
}

/// The count that the API server answers with: what was stored, before anybody else could write.
async fn sync(plane: &Plane, manifest: &str) -> anyhow::Result<String> {
    kubectl(plane, NS, &format!("{SYNC} -o jsonpath={{.spec.replicas}}")).stdin(manifest).ok().await
}
