//! From a PUT of `/scale` that was answered until its StatefulSet has the count: by the operator, and by a bare watch that
//! writes a StatefulSet for each event and does nothing else. They take turns, each in a namespace of its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::Notify;

use super::{Bench, all_settled, create, millis, names, put, ratio, within};
use crate::addons;
use crate::objects::{clusters, namespace};

const OURS: &str = "follow-ours";
const BARE: &str = "follow-bare";
/// Clusters that are written to in turn.
const CLUSTERS: usize = 16;
/// Tells a count that never comes from one that is late.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Follow {
    /// Writes in each namespace.
    #[arg(long, default_value_t = Self::default().writes)]
    pub writes: usize,
}

impl Default for Follow {
    fn default() -> Self {
        Self { writes: 1000 }
    }
}

/// What was measured: how long it took, in order of length.
#[derive(Clone, Debug)]
pub struct Figures {
    /// By the operator.
    pub ours: Vec<Duration>,
    /// By the bare watch.
    pub bare: Vec<Duration>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from /scale to the StatefulSet: {} writes each", self.ours.len())?;
        for (what, permille) in [("p50", 500), ("p99", 990)] {
            let [ours, bare] = [&self.ours, &self.bare].map(|spans| within(spans, permille));
            let ratio = ratio(ours, bare);
            write!(f, "\n{what:<34}{}; a bare watch {}; {ratio:.2} times", millis(ours), millis(bare))?;
        }
        Ok(())
    }
}

/// Measures so many writes in each namespace. The operator watches no other namespace from here on.
pub async fn measure(bench: &Bench, writes: usize) -> anyhow::Result<Figures> {
    let Bench { plane, client, .. } = bench;
    let own = format!("WATCH_NAMESPACES={OURS}");
    plane.kubectl(&["-n", addons::OPERATOR, "set", "env", "deployment/vllm-operator", &own]).ok().await?;
    let status = ["-n", addons::OPERATOR, "rollout", "status", "deployment/vllm-operator", "--timeout=120s"];
    plane.kubectl(&status).ok().await?;
    addons::wait_for_operator(plane).await?;
    let names = names(CLUSTERS);
    for ns in [OURS, BARE] {
        namespace(client, ns).await?;
        create(client, ns, &names).await?;
    }
    all_settled(clusters(client, OURS), &names).await?;
    for name in &names {
        copied(client, name).await?;
    }

    let seen = Seen::default();
    let watched =
        async { tokio::join!(seen.follow(client, OURS), seen.follow(client, BARE), write_bare(client)) };
    let mut spans = [Vec::new(), Vec::new()];
    let written = async {
        for number in 0..writes {
            let (name, count) = (&names[number % CLUSTERS], 1 + (number / CLUSTERS + 1) % 2);
            for (ns, spans) in [OURS, BARE].into_iter().zip(&mut spans) {
                put::scale(client, ns, name, count).await?;
                let answered = Instant::now();
                let at = seen.has(ns, name, i32::try_from(count)?).await?;
                spans.push(at.saturating_duration_since(answered));
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        done = written => done?,
        _ = watched => anyhow::bail!("a watch has ended"),
    }
    let [ours, bare] = spans.map(|mut spans| {
        spans.sort();
        spans
    });
    Ok(Figures { ours, bare })
}

/// Copies a StatefulSet of the operator's to where the bare watch writes.
async fn copied(client: &Client, name: &str) -> anyhow::Result<()> {
    let sets = |ns| Api::<StatefulSet>::namespaced(client.clone(), ns);
    let mut set = sets(OURS).get(name).await?;
    set.metadata = kube::core::ObjectMeta {
        name: Some(name.to_owned()),
        labels: set.metadata.labels,
        ..kube::core::ObjectMeta::default()
    };
    set.status = None;
    sets(BARE).create(&PostParams::default(), &set).await.with_context(|| format!("copying {name}"))?;
    Ok(())
}

/// Writes each cluster's count to its StatefulSet, and does nothing else.
async fn write_bare(client: &Client) {
    let sets = Api::<StatefulSet>::namespaced(client.clone(), BARE);
    let mut clusters = std::pin::pin!(
        watcher(clusters(client, BARE), watcher::Config::default()).default_backoff().applied_objects()
    );
    while let Some(cluster) = clusters.next().await {
        let written = async {
            let cluster: DynamicObject = cluster?;
            let patch = Patch::Merge(json!({"spec": {"replicas": cluster.data["spec"]["replicas"]}}));
            sets.patch(&cluster.name_any(), &PatchParams::default(), &patch).await?;
            anyhow::Ok(())
        };
        // A count that does not come fails the run.
        if let Err(error) = written.await {
            tracing::warn!(error = format!("{error:#}"), "the bare watch");
        }
    }
}

/// A StatefulSet, by namespace and name.
type Name = (&'static str, String);

/// Which counts StatefulSets have, and since when.
#[derive(Default)]
struct Seen {
    counts: Mutex<HashMap<Name, (i32, Instant)>>,
    changed: Notify,
}

impl Seen {
    async fn follow(&self, client: &Client, ns: &'static str) {
        let sets = Api::<StatefulSet>::namespaced(client.clone(), ns);
        let mut sets =
            std::pin::pin!(watcher(sets, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(set) = sets.next().await {
            // The watch tries again by itself.
            let Ok(set) = set else { continue };
            let (name, at) = (set.name_any(), Instant::now());
            let count = set.spec.and_then(|spec| spec.replicas).unwrap_or_default();
            if let Ok(mut counts) = self.counts.lock() {
                let seen = counts.entry((ns, name)).or_insert((count, at));
                if seen.0 != count {
                    *seen = (count, at);
                }
            }
            self.changed.notify_waiters();
        }
    }

    /// Since when this one has the count.
    async fn has(&self, ns: &'static str, name: &str, count: i32) -> anyhow::Result<Instant> {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let changed = self.changed.notified();
                let key = (ns, name.to_owned());
                let seen = self.counts.lock().ok().and_then(|counts| counts.get(&key).copied());
                if let Some((_, at)) = seen.filter(|(seen, _)| *seen == count) {
                    return at;
                }
                changed.await;
            }
        });
        let at =
            waited.await.with_context(|| format!("{ns}/{name} did not come to {count} in {PATIENCE:?}"))?;
        ensure!(at.elapsed() < PATIENCE, "{ns}/{name} had {count} before it was asked for");
        Ok(at)
    }
}
