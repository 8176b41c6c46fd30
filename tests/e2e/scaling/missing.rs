//! Servers that say nothing, or nothing that can be read, while others are loaded: nothing is taken away meanwhile.

use anyhow::ensure;
use serde_json::json;
use testbed::engine::control::{Control, Hang};
use testbed::plane::Plane;

use super::{Busy, Driven, MOST, queue, start, waiting};
use crate::suite::{forget, kubectl};

/// An idle engine of a debug build uses a small part of either.
const REQUESTS: &str = "resources: {requests: {cpu: 100m, memory: 100Mi}}";
/// What waits at each of three servers where all is well: 27 keep three, and 18 would keep but two.
const WAITING: u32 = 9;
/// What the HPA sees then, for a replica.
const ALL_SPEAK: &str = "9";
/// What waits at each of two where they alone keep three: no new server, at which nothing waits, takes one away.
const WAITING_AT_TWO: u32 = 16;
/// What the HPA sees then, for each of three.
const TWO_KEEP_THREE: &str = "10667m";
/// What it sees where one is silent: that which keeps three.
const ONE_IS_SILENT: &str = "10";

/// Three stay three, whatever one of them does; and another trigger goes on where all are silent.
pub async fn takes_nothing_away(plane: &Plane) -> anyhow::Result<()> {
    let cpu = json!({"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}});
    let driven = start(plane, "scaling-missing", REQUESTS, &[queue(), cpu]).await?;
    driven.engines.set(&driven.pod(0), &waiting(100)).await?;
    driven.all_are(MOST).await?;
    for index in 0..MOST {
        driven.engines.set(&driven.pod(index), &waiting(WAITING)).await?;
    }
    driven.decided_on(ALL_SPEAK).await?;

    let counts = driven.follow().await?;
    for fault in [
        Control { hang: Hang::Metrics, ..Control::default() },
        Control { hang: Hang::AllButHealth, ..Control::default() },
        // Longer than anybody waits for it.
        Control { metrics_delay_ms: 10_000, ..Control::default() },
        Control { garbage_metrics: true, ..Control::default() },
        Control { redirect: Some("/testbed/landing".into()), ..Control::default() },
    ] {
        driven.engines.set(&driven.pod(1), &fault).await?;
        driven.decided_on(ONE_IS_SILENT).await?;
        speaks_again(&driven, 1).await?;
    }
    disappears(&driven).await?;
    ensure!(counts.seen()? == [3], "counts on the way: {:?}", counts.seen()?);

    for index in 0..MOST {
        driven.engines.heal(&driven.pod(index)).await?;
    }
    driven.all_are(1).await?;
    // Nobody knows of a queue, and cpu alone asks for more.
    let busy = Control { cpu_millicores: 600, hang: Hang::AllButHealth, ..Control::default() };
    driven.up_and_down(&Busy::First(busy)).await?;
    forget(plane, driven.namespace).await
}

async fn speaks_again(driven: &Driven<'_>, index: i64) -> anyhow::Result<()> {
    driven.engines.set(&driven.pod(index), &waiting(WAITING)).await?;
    driven.decided_on(ALL_SPEAK).await
}

/// One is gone, and there is no room for another.
async fn disappears(driven: &Driven<'_>) -> anyhow::Result<()> {
    let nodes =
        |what: &str| kubectl(driven.plane, driven.namespace, &format!("{what} -l kubernetes.io/os=linux"));
    nodes("cordon").ok().await?;
    let gone = async {
        kubectl(driven.plane, driven.namespace, &format!("delete pod {}", driven.pod(1))).ok().await?;
        driven.decided_on(ONE_IS_SILENT).await?;
        for index in [0, 2] {
            driven.engines.set(&driven.pod(index), &waiting(WAITING_AT_TWO)).await?;
        }
        driven.decided_on(TWO_KEEP_THREE).await
    };
    let gone = gone.await;
    nodes("uncordon").ok().await?;
    gone?;
    driven.all_are(MOST).await?;
    for index in [1, 0, 2] {
        driven.engines.set(&driven.pod(index), &waiting(WAITING)).await?;
    }
    driven.decided_on(ALL_SPEAK).await
}
