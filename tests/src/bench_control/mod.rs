//! `cargo bench-control`: what the operator costs a control plane, beside what does the same and nothing else.
//!
//! Reading order: [`put`] (what webhooks add to a write of `/scale`), [`follow`] (from such a write to its StatefulSet),
//! [`many`] (thousands of VLLMClusters). None of their pods has a process.
//!
//! **Architecture invariant**: figures are measured and printed, and compared within one run only; nothing is judged by time.
//! What must hold whatever the machine is asserted by the test that runs small ones.

pub mod follow;
pub mod many;
pub mod put;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::parts::{Binaries, PROFILE, Part, operator_binary};
use crate::plane::{Plane, PlaneOptions, trying_again};
use crate::{addons, hollow, objects};

/// Objects that are created at once.
pub(crate) const CREATORS: usize = 16;
/// Tells a hang from a slow machine.
const PATIENCE: Duration = Duration::from_mins(20);

/// Options of `bench-control`.
#[derive(Clone, Debug, Args)]
pub struct BenchControl {
    /// One of the parts; all where none is named.
    #[command(subcommand)]
    part: Option<Measured>,
}

#[derive(Clone, Debug, Subcommand)]
enum Measured {
    /// What a validating and a mutating webhook add to a PUT of `/scale`: none, the floor, the operator, controller-runtime.
    Put(put::Put),
    /// From a PUT of `/scale` that was answered to its StatefulSet, by the operator and by a bare watch that writes.
    Follow(follow::Follow),
    /// Many VLLMClusters: until all have their StatefulSets, beside a loop that writes the same; a restart; a steady state.
    Many(many::Many),
}

/// Measures each part on planes of its own, and prints its figures.
pub fn main(bench: BenchControl) -> anyhow::Result<()> {
    let parts = match bench.part {
        Some(part) => vec![part],
        None => vec![
            Measured::Put(put::Put::default()),
            Measured::Follow(follow::Follow::default()),
            Measured::Many(many::Many::default()),
        ],
    };
    let testbed = &std::env::current_exe()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        for part in parts {
            match part {
                Measured::Put(put) => {
                    let bench = Bench::start(testbed).await?;
                    println!("{}\n", put::measure(&bench, put.writes).await?);
                    bench.plane.stop().await?;
                }
                Measured::Follow(follow) => {
                    let bench = Bench::start(testbed).await?;
                    println!("{}\n", follow::measure(&bench, follow.writes).await?);
                    bench.plane.stop().await?;
                }
                Measured::Many(many) => println!("{}\n", many::measure(testbed, &many).await?),
            }
        }
        println!("{:<34}{}", "build", PROFILE);
        Ok(())
    })
}

/// A plane with the operator, one replica of which does all the work, KEDA's types, and a hollow node.
pub struct Bench {
    /// The plane.
    pub plane: Plane,
    client: Client,
    _node: hollow::Hollow,
}

impl Bench {
    /// Starts it.
    pub async fn start(testbed: &Path) -> anyhow::Result<Self> {
        let mut options = PlaneOptions::new("bench-control", testbed);
        options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
        options.peer_exe = Some(tokio::task::spawn_blocking(peer_binary).await??);
        let plane = Plane::start(options).await?;
        addons::install_keda_types(&plane).await?;
        addons::install_operator(&plane).await?;
        addons::wait_for_operator(&plane).await?;
        addons::scale_operator(&plane, 1).await?;
        let client = plane.client().await?;
        let node = hollow::start(client.clone()).await?;
        Ok(Self { plane, client, _node: node })
    }
}

fn peer_binary() -> anyhow::Result<PathBuf> {
    Ok(Binaries::for_benches()?.path(Part::Webhook))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("c-{index}")).collect()
}

/// Creates clusters of one replica on the hollow node.
pub(crate) async fn create(client: &Client, namespace: &str, names: &[String]) -> anyhow::Result<()> {
    create_each(client, names.iter().map(|name| (namespace, name.as_str()))).await
}

/// As [`create`], by namespace and name.
async fn create_each<'a>(
    client: &Client,
    clusters: impl Iterator<Item = (&'a str, &'a str)>,
) -> anyhow::Result<()> {
    futures::stream::iter(clusters)
        .map(|(namespace, name)| async move { created(client, namespace, name).await.map(drop) })
        .buffer_unordered(CREATORS)
        .try_collect()
        .await
}

async fn created(client: &Client, namespace: &str, name: &str) -> anyhow::Result<DynamicObject> {
    let cluster = serde_json::from_value(json!({
        "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
        "metadata": {"name": name},
        "spec": {"replicas": 1, "podTemplate": {"spec": hollow::pod_spec()}},
    }))?;
    let (clusters, params) = (objects::clusters(client, namespace), PostParams::default());
    let created = trying_again(|| clusters.create(&params, &cluster)).await;
    created.with_context(|| format!("creating {name}"))
}

/// Waits until those of these names are ready and say that nothing is left to do.
pub(crate) async fn all_settled(clusters: Api<DynamicObject>, names: &[String]) -> anyhow::Result<()> {
    let wanted: &HashSet<_> = &names.iter().collect();
    let clusters = watcher(clusters, watcher::Config::default()).default_backoff().applied_objects();
    let settled = clusters.try_filter_map(|cluster| async move {
        let name = cluster.name_any();
        Ok((is_settled(&cluster) && wanted.contains(&name)).then_some(name))
    });
    all_seen("settled VLLMClusters", names.len(), settled).await
}

fn is_settled(cluster: &DynamicObject) -> bool {
    cluster.data["status"]["observedGeneration"] == Value::from(cluster.metadata.generation)
        && says(cluster, "Ready", "True")
        && says(cluster, "Reconciling", "False")
}

/// Whether an object has this condition with this status.
pub(crate) fn says(object: &DynamicObject, kind: &str, value: &str) -> bool {
    let conditions = object.data["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == value)
}

/// Waits until so many different names have been seen.
pub(crate) async fn all_seen(
    what: &str,
    count: usize,
    names: impl futures::Stream<Item = Result<String, watcher::Error>>,
) -> anyhow::Result<()> {
    let mut names = std::pin::pin!(names);
    let mut seen = HashSet::new();
    let mut latest = Instant::now() + PATIENCE;
    while seen.len() < count {
        match timeout_at(latest, names.next()).await {
            Ok(Some(Ok(name))) => {
                if seen.insert(name) {
                    latest = Instant::now() + PATIENCE;
                }
            }
            // The watch tries again by itself.
            Ok(Some(Err(error))) => tracing::debug!(%error, "watching {what}"),
            Ok(None) | Err(_) => {
                anyhow::bail!("{} of {count} {what}, and no other within {PATIENCE:?}", seen.len());
            }
        }
    }
    Ok(())
}

/// A share of sorted spans, in thousandths.
fn within(sorted: &[Duration], permille: usize) -> Duration {
    crate::bench_abuse::calls::within(sorted, permille).unwrap_or_default()
}

fn millis(span: Duration) -> String {
    format!("{:.2} ms", span.as_secs_f64() * 1e3)
}

fn ratio(span: Duration, base: Duration) -> f64 {
    span.as_secs_f64() / base.as_secs_f64()
}
