//! Releases that hold a cluster and what scales it. Helm applies the ScaledObject first: it sorts kinds that it does not
//! know by name.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Output, Plane};

use super::nobody_was_refused;
use crate::suite::{self, PATIENCE, forget, kubectl, namespace, until};

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

/// Helm, which is to succeed.
async fn helm(plane: &Plane, namespace: &str, line: &str) -> anyhow::Result<Output> {
    let output = suite::helm(plane, namespace, line).await?;
    let Output { command, stdout, stderr, status } = &output;
    ensure!(status.success(), "`{command}`: {status}\n{stdout}{stderr}");
    Ok(output)
}
