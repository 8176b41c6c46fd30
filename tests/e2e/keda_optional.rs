//! KEDA comes, goes and comes again: the operator works throughout, and ScaledObjects count while they exist.

use anyhow::{Context as _, ensure};
use testbed::addons;
use testbed::parts::operator_binary;
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Plane, PlaneOptions};

use super::suite::{PATIENCE, TESTBED, apply, cluster, kubectl, replicas, scaled_object};

const NS: &str = "default";

/// Without the CRD, with it, without it again, and with it once more.
pub async fn comes_and_goes() -> anyhow::Result<()> {
    let mut options = PlaneOptions::new("keda-optional", TESTBED);
    options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
    let plane = Plane::start(options).await?;
    addons::install_operator(&plane).await?;
    addons::wait_for_operator(&plane).await?;

    apply(&plane, NS, &cluster("a", "replicas: 2\nmaxReplicas: 10")).await?;
    scale(&plane, 8).await?;
    let crd = plane.spec().binaries.keda_manifests().join("crd/bases/keda.sh_scaledobjects.yaml");
    let crd = crd.to_str().context("a path in UTF-8")?;
    for _ in 0..2 {
        kubectl(&plane, NS, &format!("apply --server-side -f {crd}")).ok().await?;
        kubectl(&plane, NS, "wait --for=condition=Established crd/scaledobjects.keda.sh --timeout=60s")
            .ok()
            .await?;
        apply(&plane, NS, &scaled_object(NS, "queue", "a", 1, 4)).await?;
        // As soon as it exists: the watch has it within its pace.
        eventually("the ScaledObject holds the count", Deadline::after(PATIENCE), || async {
            let line = "scale vllmcluster a --replicas=9 --dry-run=server";
            let output = kubectl(&plane, NS, line).output().await.map_err(|error| format!("{error:#}"))?;
            let refusal = "above the maximum 4 (maxReplicaCount of ScaledObject \"queue\"";
            if output.stderr.contains(refusal) { Ok(()) } else { Err(output.stdout + &output.stderr) }
        })
        .await?;
        kubectl(&plane, NS, "delete crd scaledobjects.keda.sh").ok().await?;
        eventually("nobody holds the count", Deadline::after(PATIENCE), || async {
            let line = "scale vllmcluster a --replicas=9 --dry-run=server";
            kubectl(&plane, NS, line).ok().await.map(drop).map_err(|error| format!("{error:#}"))
        })
        .await?;
        scale(&plane, 7).await?;
        scale(&plane, 8).await?;
    }
    plane.stop().await
}

async fn scale(plane: &Plane, count: u32) -> anyhow::Result<()> {
    kubectl(plane, NS, &format!("scale vllmcluster a --replicas={count}")).ok().await?;
    let stored = replicas(plane, NS, "a").await?;
    ensure!(stored == count.to_string(), "{stored}");
    Ok(())
}
