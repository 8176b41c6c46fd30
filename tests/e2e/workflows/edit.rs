//! A change to something that has been wrong for a while.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::{nobody_was_refused, wanting};
use crate::suite::{PATIENCE, apply, cluster, forget, get, kubectl, namespace, until};

const NS: &str = "edit";
/// First argument with which this program is kubectl's editor: it puts another image into the file.
pub const EDITOR: &str = "put-in-another-image";
const MODE: &str = "training.distributed-inference.io/admission";

/// `kubectl edit` of an image where older rules are broken: a range without a count in common, on both sides of it.
pub async fn image_on_an_older_violation(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    // How it got there: under an operator that only warned.
    kubectl(plane, NS, &format!("label namespace {NS} {MODE}=warn")).ok().await?;
    let image = "image: vllm/vllm-openai:v0.32.0";
    apply(plane, NS, &cluster("a", &format!("replicas: 5\nminReplicas: 5\nmaxReplicas: 9\n{image}"))).await?;
    eventually(
        "a ScaledObject far from the bounds, and only a warning",
        Deadline::after(PATIENCE),
        || async {
            let told = kubectl(plane, NS, "apply -f -").stdin(wanting("queue", (1, 4), 3, "")).output().await;
            told.and_then(testbed::plane::Output::ok).map(drop).map_err(|error| format!("{error:#}"))
        },
    )
    .await?;
    kubectl(plane, NS, &format!("label namespace {NS} {MODE}-")).ok().await?;
    let further =
        r#"patch scaledobject queue --type=merge --dry-run=server -p={"spec":{"maxReplicaCount":3}}"#;
    eventually("refusals again", Deadline::after(PATIENCE), || async {
        let told = kubectl(plane, NS, further).output().await.map_err(|error| format!("{error:#}"))?;
        told.refused().map(drop).map_err(|error| format!("{error:#}"))
    })
    .await?;

    let editor = format!("{} {EDITOR}", std::env::current_exe()?.display());
    let edited = kubectl(plane, NS, "edit vllmcluster a").env("KUBE_EDITOR", editor).output().await?;
    ensure!(edited.status.success(), "{}{}", edited.stdout, edited.stderr);
    let stored = get(plane, NS, "vllmcluster/a").await?;
    ensure!(stored["spec"]["image"] == "vllm/vllm-openai:edited", "the editor did not run: {stored:#}");
    ensure!(stored["spec"]["replicas"] == 5, "{stored:#}");
    // The same on the other side: another query, and the range that has been wrong all along.
    apply(plane, NS, &wanting("queue", (1, 4), 2, "")).await?;
    // It is shown all the while, and each side may be mended by itself.
    let shown = [
        ("/status/conditions/3/type", json!("ScalingConflict")),
        ("/status/conditions/3/status", json!("True")),
    ];
    until(plane, NS, "vllmcluster/a", &shown).await?;
    apply(plane, NS, &wanting("queue", (1, 6), 2, "")).await?;
    nobody_was_refused(plane, NS).await?;
    forget(plane, NS).await
}

/// What the editor makes of a file: of another image.
pub fn edited(text: &str) -> String {
    text.replace("vllm-openai:v0.32.0", "vllm-openai:edited")
}
