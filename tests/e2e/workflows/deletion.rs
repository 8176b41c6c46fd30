//! ScaledObject, cluster and namespace, deleted in every order: nothing stays terminating.

use anyhow::ensure;
use futures::future::try_join_all;
use testbed::plane::Plane;

use super::{nobody_was_refused, wanting};
use crate::suite::{apply, cluster, kubectl, namespace, start_operator, stop_operator};

const ORDERS: [[&str; 3]; 6] = [
    ["scaledobject", "vllmcluster", "namespace"],
    ["scaledobject", "namespace", "vllmcluster"],
    ["vllmcluster", "scaledobject", "namespace"],
    ["vllmcluster", "namespace", "scaledobject"],
    ["namespace", "scaledobject", "vllmcluster"],
    ["namespace", "vllmcluster", "scaledobject"],
];

/// Every order, with the operator there.
pub async fn while_up(plane: &Plane) -> anyhow::Result<()> {
    let names = ORDERS.map(|order| format!("deleted-{}", order.map(|kind| &kind[..1]).concat()));
    try_join_all(names.iter().zip(ORDERS).map(|(name, order)| async move {
        made(plane, name).await?;
        deleted(plane, name, order).await
    }))
    .await?;
    try_join_all(names.iter().map(|name| nobody_was_refused(plane, name))).await.map(drop)
}

/// Every order, without it.
pub async fn while_down(plane: &Plane) -> anyhow::Result<()> {
    let names = ORDERS.map(|order| format!("deleted-while-down-{}", order.map(|kind| &kind[..1]).concat()));
    try_join_all(names.iter().map(|name| made(plane, name))).await?;
    stop_operator(plane).await?;
    try_join_all(names.iter().zip(ORDERS).map(|(name, order)| deleted(plane, name, order))).await?;
    start_operator(plane).await?;
    try_join_all(names.iter().map(|name| nobody_was_refused(plane, name))).await.map(drop)
}

/// A cluster that KEDA drives and that would be given its count back.
async fn made(plane: &Plane, ns: &str) -> anyhow::Result<()> {
    namespace(plane, ns).await?;
    apply(plane, ns, &cluster("a", "replicas: 1\nmaxReplicas: 4")).await?;
    let restores = "advanced: {restoreToOriginalReplicaCount: true}";
    apply(plane, ns, &wanting("queue", (1, 4), 2, restores)).await?;
    super::settled(plane, ns, "keda-hpa-queue", 2).await
}

/// One after the other, without waiting for any of them; then until all are gone.
async fn deleted(plane: &Plane, ns: &str, order: [&str; 3]) -> anyhow::Result<()> {
    for kind in order {
        let name = if kind == "namespace" {
            ns
        } else if kind == "vllmcluster" {
            "a"
        } else {
            "queue"
        };
        let line = format!("delete {kind} {name} --wait=false --ignore-not-found");
        kubectl(plane, ns, &line).ok().await?;
    }
    let gone =
        kubectl(plane, ns, &format!("wait --for=delete namespace/{ns} --timeout=60s")).output().await?;
    if !gone.status.success() {
        let left = kubectl(plane, ns, &format!("get namespace {ns} -o jsonpath={{.status.conditions}}"))
            .ok()
            .await?;
        ensure!(gone.status.success(), "{order:?}: {ns} is still there: {left}");
    }
    Ok(())
}
