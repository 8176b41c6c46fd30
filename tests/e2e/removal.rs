//! What goes with a cluster, and what comes back.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::suite::{PATIENCE, apply, cluster, forget, get, kubectl, namespace, until};

const NS: &str = "removal";
/// Every kind that a cluster brings about, directly or through controllers.
pub const KINDS: &str =
    "vllmclusters,statefulsets,services,pods,controllerrevisions,endpointslices,persistentvolumeclaims";

/// A StatefulSet deleted by hand is made again.
pub async fn statefulset_comes_back(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", "replicas: 2")).await?;
    until(plane, NS, "vllmcluster/a", &[("/status/readyReplicas", json!(2))]).await?;
    let before = get(plane, NS, "statefulset/a").await?["metadata"]["uid"].clone();
    kubectl(plane, NS, "delete statefulset a").ok().await?;
    eventually("another StatefulSet with two ready pods", Deadline::after(PATIENCE), || async {
        let set = get(plane, NS, "statefulset/a").await.map_err(|error| format!("{error:#}"))?;
        let back = set["metadata"]["uid"] != before && set["status"]["readyReplicas"] == 2;
        back.then_some(()).ok_or_else(|| set["status"].to_string())
    })
    .await
}

/// What a cluster left behind without owner serves on as the new cluster's, and drift is put right.
pub async fn orphans_are_adopted(plane: &Plane) -> anyhow::Result<()> {
    let pod = get(plane, NS, "pod/a-0").await?["metadata"]["uid"].clone();
    kubectl(plane, NS, "delete vllmcluster a --cascade=orphan").ok().await?;
    let left = get(plane, NS, "statefulset/a").await?;
    ensure!(left["metadata"]["ownerReferences"].is_null(), "{}", left["metadata"]);
    apply(plane, NS, &cluster("a", "replicas: 2")).await?;
    let uid = get(plane, NS, "vllmcluster/a").await?["metadata"]["uid"].clone();
    let owned = [("/metadata/ownerReferences/0/uid", uid)];
    for what in ["statefulset/a", "service/a", "service/a-pods"] {
        until(plane, NS, what, &owned).await?;
    }
    until(plane, NS, "vllmcluster/a", &[("/status/readyReplicas", json!(2))]).await?;
    ensure!(get(plane, NS, "pod/a-0").await?["metadata"]["uid"] == pod, "the pod was made anew");
    // A hand that takes the owner away.
    kubectl(
        plane,
        NS,
        "patch service a --type=json -p [{\"op\":\"remove\",\"path\":\"/metadata/ownerReferences\"}]",
    )
    .ok()
    .await?;
    until(plane, NS, "service/a", &owned).await?;
    // And one that selects no pod any more.
    kubectl(plane, NS, "patch service a -p {\"spec\":{\"selector\":{\"nobody\":\"here\"}}}").ok().await?;
    until(plane, NS, "service/a", &[("/spec/selector/nobody", json!(null))]).await.map(drop)
}

/// Deleting a cluster removes all that it brought about.
pub async fn cluster_leaves_nothing(plane: &Plane) -> anyhow::Result<()> {
    let there = kubectl(plane, NS, &format!("get {KINDS} -o name")).ok().await?;
    ensure!(there.lines().count() >= 6, "nothing to remove: {there}");
    kubectl(plane, NS, "delete vllmcluster a").ok().await?;
    eventually("nothing is left", Deadline::after(PATIENCE), || async {
        let left = kubectl(plane, NS, &format!("get {KINDS} -o name"))
            .ok()
            .await
            .map_err(|error| format!("{error:#}"))?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await?;
    forget(plane, NS).await
}
