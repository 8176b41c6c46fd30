//! The closed loop: HTTP load → queue → Prometheus → KEDA → HPA → `/scale` → StatefulSet → pods → status, and back.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use testbed::load;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::scaling::active;
use super::suite::{Counts, apply, cluster, forget, get, kubectl, namespace, scaled_object, until};

const NS: &str = "closed-loop";
const HPA: &str = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
const KEDA: &str = "system:serviceaccount:keda:keda-operator";

/// KEDA's, the HPA's and the pods' periods add up on two busy cores.
const TURN: Duration = Duration::from_secs(90);

/// Up from 1 and down again, never outside the range, and nobody refused on the way.
pub async fn up_and_down(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", "replicas: 1\nmaxReplicas: 5\nargs: [--max-num-seqs=4]")).await?;
    until(plane, NS, "vllmcluster/a", &[("/status/readyReplicas", json!(1))]).await?;
    let counts = Counts::follow(plane, NS, "a").await?;
    apply(plane, NS, &scaled_object(NS, "queue", "a", 1, 3)).await?;
    kubectl(plane, NS, "wait --for=condition=Ready scaledobject/queue --timeout=60s").ok().await?;

    apply(plane, NS, &load::pod("http://a:8000", 40)).await?;
    all_are(plane, 3).await?;
    healthy(plane).await?;
    kubectl(plane, NS, "delete pod load --wait=false").ok().await?;
    all_are(plane, 1).await?;
    healthy(plane).await?;

    let seen = counts.seen()?;
    ensure!(seen.iter().all(|count| (1..=3).contains(count)), "counts on the way: {seen:?}");
    ensure!(
        seen.first() == Some(&1) && seen.contains(&3) && seen.last() == Some(&1),
        "counts on the way: {seen:?}"
    );
    for user in [HPA, KEDA] {
        let writes = plane.writes_by(user)?;
        let refused: Vec<_> = writes
            .iter()
            .filter(|write| {
                write.namespace == NS && write.resource == "vllmclusters/scale" && write.code >= 400
            })
            .collect();
        ensure!(refused.is_empty(), "refused: {refused:?}");
    }
    let scaled = plane
        .writes_by(HPA)?
        .iter()
        .filter(|write| write.namespace == NS && write.resource == "vllmclusters/scale")
        .count();
    ensure!(scaled >= 2, "the HPA itself wrote to /scale {scaled} times, up and down");
    forget(plane, NS).await
}

/// Spec, StatefulSet, pods and status have come to the same count.
async fn all_are(plane: &Plane, count: i64) -> anyhow::Result<()> {
    eventually(&format!("everything is {count}"), Deadline::after(TURN), || async {
        let look = async {
            let cluster = get(plane, NS, "vllmcluster/a").await?;
            let set = get(plane, NS, "statefulset/a").await?;
            let pods = get(plane, NS, "pods -l cluster=a").await?;
            let pods = pods["items"].as_array().map(Vec::len).context("no list of pods")?;
            let counts = [
                &cluster["spec"]["replicas"],
                &cluster["status"]["replicas"],
                &cluster["status"]["readyReplicas"],
                &set["spec"]["replicas"],
                &json!(pods),
            ];
            ensure!(counts.iter().all(|seen| seen.as_i64() == Some(count)), "{counts:?}");
            Ok(())
        };
        look.await.map_err(|error| format!("{error:#}"))
    })
    .await
}

/// The HPA can scale and has its metric.
async fn healthy(plane: &Plane) -> anyhow::Result<()> {
    let hpa = get(plane, NS, "hpa/keda-hpa-queue").await?;
    ensure!(active(&hpa), "{:#}", hpa["status"]);
    Ok(())
}
