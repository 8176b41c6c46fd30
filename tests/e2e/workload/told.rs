//! What `kubectl describe` tells of a cluster's history: an event for each transition, and none for what goes on.

use std::collections::BTreeMap;

use anyhow::ensure;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use crate::suite::{PATIENCE, get, kubectl};

/// Events of a cluster by type and reason: how many objects, and how often each was seen in all.
type Events = BTreeMap<String, (usize, i64)>;

async fn events(plane: &Plane, ns: &str, cluster: &str) -> anyhow::Result<Events> {
    let list = get(plane, ns, "events.events.k8s.io").await?;
    let ours =
        list["items"].as_array().into_iter().flatten().filter(|event| {
            event["regarding"]["kind"] == "VLLMCluster" && event["regarding"]["name"] == cluster
        });
    let mut events = Events::new();
    for event in ours {
        let [kind, reason] = ["type", "reason"].map(|field| event[field].as_str().unwrap_or_default());
        let (objects, seen) = events.entry(format!("{kind} {reason}")).or_default();
        *objects += 1;
        *seen += event["series"]["count"].as_i64().unwrap_or(1);
    }
    Ok(events)
}

/// The events of clusters that have met their reasons: `serves`, `bad-flag`, and `frozen` that serves again.
pub async fn of_reasons(plane: &Plane, ns: &str) -> anyhow::Result<()> {
    let expected = [
        ("serves", &["Normal EnoughReplicas"][..]),
        // However often it crashes.
        ("bad-flag", &["Warning CrashLoop"]),
        ("frozen", &["Normal EnoughReplicas", "Warning NotHealthy"]),
    ];
    for (cluster, reasons) in expected {
        eventually(&format!("{reasons:?} of {cluster}"), Deadline::after(PATIENCE), || async {
            let events = events(plane, ns, cluster).await.map_err(|error| format!("{error:#}"))?;
            let kinds: Vec<_> = events.keys().map(String::as_str).collect();
            if kinds == reasons { Ok(()) } else { Err(format!("{events:?}")) }
        })
        .await?;
    }
    let crashing = events(plane, ns, "bad-flag").await?;
    ensure!(crashing["Warning CrashLoop"] == (1, 1), "told again: {crashing:?}");
    let frozen = events(plane, ns, "frozen").await?;
    ensure!(frozen["Normal EnoughReplicas"] == (1, 2), "one event is counted up: {frozen:?}");
    let described = kubectl(plane, ns, "describe vllmcluster bad-flag").ok().await?;
    let line = described.lines().find(|line| line.contains("Warning") && line.contains("CrashLoop"));
    ensure!(line.is_some_and(|line| line.contains("vllm-operator")), "{described}");
    Ok(())
}

/// That what drives `cluster` is paused, and that it is not any more.
pub async fn of_pausing(plane: &Plane, ns: &str, scaled_object: &str, cluster: &str) -> anyhow::Result<()> {
    let paused = "autoscaling.keda.sh/paused";
    for (annotation, reason) in [("=true", "AutoscalingPaused"), ("-", "AutoscalingResumed")] {
        kubectl(plane, ns, &format!("annotate scaledobject {scaled_object} {paused}{annotation}"))
            .ok()
            .await?;
        eventually(&format!("{reason} of {cluster}"), Deadline::after(PATIENCE), || async {
            let events = events(plane, ns, cluster).await.map_err(|error| format!("{error:#}"))?;
            let told = events.contains_key(&format!("Normal {reason}"));
            if told { Ok(()) } else { Err(format!("{events:?}")) }
        })
        .await?;
    }
    Ok(())
}
