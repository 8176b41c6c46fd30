//! Releases that hold a cluster and what scales it. Helm applies the ScaledObject first: it sorts kinds that it does not
//! know by name.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::json;
use testbed::parts::Part;
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Output, Plane};
use tokio::process::Command;

use super::nobody_was_refused;
use crate::suite::{PATIENCE, forget, kubectl, namespace, until};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/chart");

/// As Helm 4 does it unless told otherwise.
pub async fn server_side(plane: &Plane) -> anyhow::Result<()> {
    releases(plane, "helm-server-side", "--server-side=true").await
}

/// As Helm 3 did it, and as Helm 4 goes on with its releases.
pub async fn client_side(plane: &Plane) -> anyhow::Result<()> {
    releases(plane, "helm-client-side", "--server-side=false").await
}

/// Install, widen, narrow, change something else, raise, roll back, uninstall; the autoscaler wants 7 throughout.
async fn releases(plane: &Plane, ns: &str, side: &str) -> anyhow::Result<()> {
    namespace(plane, ns).await?;
    let upgrade = |values: &str| format!("upgrade a {CHART} {side} --set {values}");

    helm(plane, ns, &format!("install a {CHART} {side}")).await?;
    settled(plane, ns, 4).await?;
    helm(plane, ns, &upgrade("cluster.max=10,scaler.max=10")).await?;
    settled(plane, ns, 7).await?;
    helm(plane, ns, &upgrade("cluster.max=5,scaler.max=5")).await?;
    settled(plane, ns, 5).await?;
    let changed = helm(plane, ns, &upgrade("cluster.max=5,scaler.max=5,model=other")).await?;
    ensure!(!changed.stderr.contains("outside"), "{}", changed.stderr);
    until(plane, ns, "vllmcluster/a", &[("/spec/model", json!("other")), ("/spec/replicas", json!(5))])
        .await?;
    helm(plane, ns, &upgrade("cluster.min=5,cluster.max=10,scaler.min=5,scaler.max=6")).await?;
    settled(plane, ns, 6).await?;
    // Back to 1 to 5, from 5 to 6.
    helm(plane, ns, &format!("rollback a 3 {side}")).await?;
    settled(plane, ns, 5).await?;
    nobody_was_refused(plane, ns).await?;

    helm(plane, ns, "uninstall a --wait --timeout 60s").await?;
    let kinds = "vllmclusters,scaledobjects,hpa,statefulsets,services,pods";
    eventually("the release leaves nothing", Deadline::after(PATIENCE), || async {
        let left = kubectl(plane, ns, &format!("get {kinds} -o name")).ok().await;
        let left = left.map_err(|error| format!("{error:#}"))?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await?;
    nobody_was_refused(plane, ns).await?;
    forget(plane, ns).await
}

/// A chart that states a first count below what its ScaledObject keeps: KEDA raises it, whichever of them comes first.
pub async fn count_below_the_scaler(plane: &Plane) -> anyhow::Result<()> {
    const NS: &str = "helm-first-count";
    namespace(plane, NS).await?;
    let values = "--set replicas=1,cluster.max=10,scaler.min=2,scaler.max=10";
    helm(plane, NS, &format!("install a {CHART} {values}")).await?;
    settled(plane, NS, 7).await?;
    nobody_was_refused(plane, NS).await?;
    forget(plane, NS).await
}

/// KEDA has taken the range in, the autoscaler has its wish within it, and the two agree.
async fn settled(plane: &Plane, ns: &str, count: u32) -> anyhow::Result<()> {
    let wanted = [
        ("/spec/replicas", json!(count)),
        ("/status/readyReplicas", json!(count)),
        ("/status/conditions/3/type", json!("ScalingConflict")),
        ("/status/conditions/3/status", json!("False")),
    ];
    until(plane, ns, "vllmcluster/a", &wanted).await?;
    let hpa = [("/status/desiredReplicas", json!(count)), ("/status/currentReplicas", json!(count))];
    until(plane, ns, "hpa/keda-hpa-a", &hpa).await.map(drop)
}

/// Helm against the plane, its arguments as one types them; its own files lie with the plane's.
async fn helm(plane: &Plane, namespace: &str, line: &str) -> anyhow::Result<Output> {
    let home = |name: &str| plane.state_dir().join("helm").join(name);
    let output = Command::new(plane.spec().binaries.path(Part::Helm))
        .args(["--namespace", namespace])
        .args(line.split_whitespace())
        .env("KUBECONFIG", plane.kubeconfig())
        .env("HELM_CACHE_HOME", home("cache"))
        .env("HELM_CONFIG_HOME", home("config"))
        .env("HELM_DATA_HOME", home("data"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let command = format!("helm {}", line.replace(CHART, "model"));
    let output = tokio::time::timeout(PATIENCE * 2, output)
        .await
        .with_context(|| format!("`{command}` did not end within {:?}", PATIENCE * 2))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "`{command}`: {}\n{stdout}{stderr}", output.status);
    Ok(Output { command, stdout, stderr, status: output.status })
}
