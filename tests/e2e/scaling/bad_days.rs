//! The operator's bad days, as the HPA sees them: nothing is scaled because of them, and scaling goes on by itself.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use testbed::addons::{introduce_scaler, scale_operator, wait_for_operator};
use testbed::plane::Plane;
use tokio::time::timeout;

use super::{Driven, active, queue, start, waiting};
use crate::certificates;
use crate::suite::{REPLICAS, forget, kubectl};

const OPERATOR: &str = "vllm-operator-system";
const SERVICE: &str = "vllm-operator-scaler";
const MINUTE: Duration = Duration::from_mins(1);

/// One of three replicas gone, all started anew, certificates rotated, and nobody to be reached for a minute.
pub async fn scale_nothing(plane: &Plane) -> anyhow::Result<()> {
    scale_operator(plane, 3).await?;
    introduce_scaler(plane).await?;
    let driven = start(plane, "scaling-bad-days", "", &[queue()]).await?;
    // 15 want two replicas, and 25 three.
    moves_to(&driven, 2, 15, "7500m").await?;

    kept(&driven, 2, async || {
        kubectl(plane, OPERATOR, &format!("delete {}", leader(plane).await?)).ok().await?;
        wait_for_operator(plane).await
    })
    .await?;
    moves_to(&driven, 3, 25, "8334m").await?;

    kept(&driven, 3, async || {
        kubectl(plane, OPERATOR, "delete pods -l app.kubernetes.io/name=vllm-operator").ok().await?;
        wait_for_operator(plane).await
    })
    .await?;
    moves_to(&driven, 2, 15, "7500m").await?;

    kept(&driven, 2, async || certificates::rotated(plane).await).await?;
    moves_to(&driven, 3, 25, "8334m").await?;

    kept(&driven, 3, async || {
        lead_to(plane, "nobody").await?;
        // KEDA keeps its connections, and these lead to those who were there.
        kubectl(plane, OPERATOR, "delete pods -l app.kubernetes.io/name=vllm-operator").ok().await?;
        wait_for_operator(plane).await?;
        let cut_off = is_cut_off(&driven).await;
        lead_to(plane, "vllm-operator").await?;
        cut_off
    })
    .await?;
    moves_to(&driven, 2, 15, "7500m").await?;

    scale_operator(plane, REPLICAS).await?;
    forget(plane, driven.namespace).await
}

/// With so many requests waiting it comes to `count`, and stays.
async fn moves_to(driven: &Driven<'_>, count: i64, requests: u32, average: &str) -> anyhow::Result<()> {
    driven.engines.set(&driven.pod(0), &waiting(requests)).await?;
    driven.all_are(count).await?;
    driven.decided_on(average).await
}

/// The count stays, whatever `day` it is.
async fn kept(
    driven: &Driven<'_>,
    count: i32,
    day: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let counts = driven.follow().await?;
    day().await?;
    ensure!(counts.seen()? == [count], "counts on the way: {:?}", counts.seen()?);
    Ok(())
}

/// From when the HPA says that it has no metric, for a minute.
async fn is_cut_off(driven: &Driven<'_>) -> anyhow::Result<()> {
    driven
        .look("the HPA has no metric", async || {
            let hpa = driven.hpa().await?;
            ensure!(!active(&hpa), "{}", hpa["status"]);
            Ok(())
        })
        .await?;
    let connected = driven.look("the HPA has a metric", async || {
        let hpa = driven.hpa().await?;
        ensure!(active(&hpa), "{}", hpa["status"]);
        Ok(())
    });
    ensure!(
        timeout(MINUTE, connected).await.is_err(),
        "the scaler was reached though its Service leads nowhere"
    );
    Ok(())
}

/// Has the scaler's Service lead to the pods of this name.
async fn lead_to(plane: &Plane, name: &str) -> anyhow::Result<()> {
    let selector = json!({"spec": {"selector": {"app.kubernetes.io/name": name}}}).to_string();
    plane.kubectl(&["-n", OPERATOR, "patch", "service", SERVICE, "-p", &selector]).ok().await.map(drop)
}

async fn leader(plane: &Plane) -> anyhow::Result<String> {
    let (pod, _) =
        testbed::availability::operator::leader(plane).await.map_err(|why| anyhow::anyhow!(why))?;
    Ok(format!("pod/{pod}"))
}
