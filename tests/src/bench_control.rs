//! `cargo bench-control`: many `VLLMClusters` on one plane, their pods without processes, and what that costs.
//!
//! **Architecture invariant**: figures are measured and printed; nothing is judged by time. What must hold whatever the
//! machine is asserted by the test that runs a small one.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, CustomResourceExt as _, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;
use vllm_operator::api::VLLMCluster;

use crate::parts::operator_binary;
use crate::plane::audit::stateful_sets_read;
use crate::plane::processes::Usage;
use crate::plane::wait::{Deadline, eventually};
use crate::plane::{Plane, PlaneOptions, Write, trying_again};
use crate::{addons, hollow};

const NAMESPACE: &str = "bench";
const OPERATOR: &str = "system:serviceaccount:vllm-operator-system:vllm-operator";
/// Objects that are created at once.
pub(crate) const CREATORS: usize = 16;
/// Tells a hang from a slow machine.
const PATIENCE: Duration = Duration::from_mins(20);

/// Options of `bench-control`.
#[derive(Clone, Debug, Args)]
pub struct BenchControl {
    /// How many VLLMClusters, of one replica each.
    #[arg(long, default_value_t = 1000)]
    clusters: usize,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How many clusters there were.
    pub clusters: usize,
    /// From the first request until all were created.
    pub created: Duration,
    /// From the first request until each had its StatefulSet.
    pub stateful_sets: Duration,
    /// From the first request until each was ready and said so.
    pub settled: Duration,
    /// The operator's writes meanwhile, by verb and resource.
    pub writes: BTreeMap<String, usize>,
    /// What the operator has taken before, with all of them, and after a restart.
    pub usage: [Usage; 3],
    /// From the start of the operator's Deployment until it had looked at all of them.
    pub looked_at: Duration,
    /// What it wrote about them by then.
    pub writes_of_restart: Vec<Write>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, with_all, restarted] = self.usage;
        let seconds = |label: &str, span: Duration| format!("{label:<34}{:.1} s", span.as_secs_f64());
        // A number of clusters is far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let each = |count: usize| count as f64 / self.clusters as f64;
        writeln!(f, "{} VLLMClusters of one replica", self.clusters)?;
        writeln!(f, "{}", seconds("all created", self.created))?;
        writeln!(f, "{}", seconds("all StatefulSets exist", self.stateful_sets))?;
        writeln!(f, "{}", seconds("all ready, and told", self.settled))?;
        for (what, count) in &self.writes {
            writeln!(f, "{:<34}{count} ({:.2} per cluster)", format!("writes: {what}"), each(*count))?;
        }
        writeln!(f, "{:<34}{before}", "the operator before")?;
        writeln!(f, "{:<34}{with_all}", "with all of them")?;
        writeln!(f, "{:<34}{restarted}", "after a restart")?;
        writeln!(f, "{}", seconds("restarted: all looked at again", self.looked_at))?;
        write!(f, "{:<34}{}", "restarted: writes about them", self.writes_of_restart.len())
    }
}

/// Starts a plane with the operator, and measures on it.
pub fn main(bench: &BenchControl) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut options = PlaneOptions::new("bench-control", std::env::current_exe()?);
        options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
        let plane = Plane::start(options).await?;
        addons::install_operator(&plane).await?;
        addons::wait_for_operator(&plane).await?;
        let figures = measure(&plane, bench.clusters).await?;
        println!("{figures}");
        println!("{:<34}{}", "build", if cfg!(debug_assertions) { "debug" } else { "release" });
        plane.stop().await
    })
}

/// Measures so many clusters on a plane with a ready operator.
pub async fn measure(plane: &Plane, clusters: usize) -> anyhow::Result<Figures> {
    // One alone does all the work, and is what is measured.
    addons::scale_operator(plane, 1).await?;
    let client = plane.client().await?;
    let _node = hollow::start(client.clone()).await?;
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;

    let before = usage(plane)?;
    let written = plane.writes_by(OPERATOR)?.len();
    let names: Vec<_> = (0..clusters).map(|index| format!("c-{index}")).collect();
    let begun = Instant::now();
    let after = |done: anyhow::Result<()>| done.map(|()| begun.elapsed());
    let (created, stateful_sets, settled) = tokio::try_join!(
        async { after(create(&client, NAMESPACE, &names).await) },
        async { after(stateful_sets_exist(&client, clusters).await) },
        async { after(all_settled(&client, NAMESPACE, &names).await) },
    )?;
    let mut writes = BTreeMap::new();
    for write in plane.writes_by(OPERATOR)?.split_off(written) {
        *writes.entry(format!("{} {}", write.verb, write.resource)).or_default() += 1;
    }
    let with_all = usage(plane)?;
    let (looked_at, writes_of_restart) = restart(plane, &names).await?;
    let usage = [before, with_all, usage(plane)?];
    Ok(Figures { clusters, created, stateful_sets, settled, writes, usage, looked_at, writes_of_restart })
}

fn api(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &VLLMCluster::api_resource())
}

/// Creates clusters of one replica on the hollow node.
pub(crate) async fn create(client: &Client, namespace: &str, names: &[String]) -> anyhow::Result<()> {
    let (clusters, params) = (&api(client, namespace), &PostParams::default());
    futures::stream::iter(names)
        .map(|name| async move {
            let cluster = serde_json::from_value(json!({
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
                "metadata": {"name": name},
                "spec": {"replicas": 1, "podTemplate": {"spec": hollow::pod_spec()}},
            }))?;
            let created = trying_again(|| clusters.create(params, &cluster)).await;
            created.with_context(|| format!("creating {name}"))?;
            anyhow::Ok(())
        })
        .buffer_unordered(CREATORS)
        .try_collect()
        .await
}

async fn stateful_sets_exist(client: &Client, count: usize) -> anyhow::Result<()> {
    let sets = Api::<PartialObjectMeta<StatefulSet>>::namespaced(client.clone(), NAMESPACE);
    let sets = watcher(sets, watcher::Config::default()).default_backoff().applied_objects();
    all_seen("StatefulSets", count, sets.try_filter_map(|set| async move { Ok(Some(set.name_any())) })).await
}

/// Waits until these clusters are ready and say that nothing is left to do.
pub(crate) async fn all_settled(client: &Client, namespace: &str, names: &[String]) -> anyhow::Result<()> {
    let clusters =
        watcher(api(client, namespace), watcher::Config::default()).default_backoff().applied_objects();
    let settled = clusters.try_filter_map(|cluster| async move {
        let name = cluster.name_any();
        Ok((is_settled(&cluster) && names.contains(&name)).then_some(name))
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
    let counted = async {
        while seen.len() < count {
            match names.next().await {
                Some(Ok(name)) => drop(seen.insert(name)),
                // The watch tries again by itself.
                Some(Err(error)) => tracing::debug!(%error, "watching {what}"),
                None => break,
            }
        }
    };
    let in_time = timeout(PATIENCE, counted).await.is_ok();
    anyhow::ensure!(in_time && seen.len() >= count, "{} of {count} {what} within {PATIENCE:?}", seen.len());
    Ok(())
}

/// Stops and starts the operator: how long it takes to look at all clusters, and what it writes.
async fn restart(plane: &Plane, names: &[String]) -> anyhow::Result<(Duration, Vec<Write>)> {
    let system = |args: &[&str]| plane.kubectl(&[&["-n", "vllm-operator-system"], args].concat()).ok();
    let log = plane.audit_log();
    system(&["scale", "deployment/vllm-operator", "--replicas=0"]).await?;
    let pods = "--selector=app.kubernetes.io/name=vllm-operator";
    system(&["wait", "--for=delete", "pod", pods, "--timeout=90s"]).await?;
    let (before, length) = (plane.writes_by(OPERATOR)?.len(), std::fs::metadata(&log)?.len());
    let begun = Instant::now();
    system(&["scale", "deployment/vllm-operator", "--replicas=1"]).await?;
    eventually("all clusters are looked at", Deadline::after(PATIENCE), || async {
        let read = stateful_sets_read(&log, OPERATOR, length).map_err(|error| format!("{error:#}"))?;
        let left =
            names.iter().filter(|name| !read.contains(&(NAMESPACE.to_owned(), (*name).clone()))).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} are not")) }
    })
    .await?;
    let looked_at = begun.elapsed();
    // What the last looks lead to is written a moment after them; a cluster that is created now is dealt with later.
    let marker = ["marker".to_owned()];
    let client = plane.client().await?;
    // The operator looks at clusters before the API server has heard that its webhooks can be called again.
    eventually("the webhooks can be called", Deadline::after(PATIENCE), || async {
        create(&client, NAMESPACE, &marker).await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    all_settled(&client, NAMESPACE, &marker).await?;
    let mut writes = plane.writes_by(OPERATOR)?.split_off(before);
    writes.retain(|write| !(write.namespace == NAMESPACE && write.name.starts_with("marker")));
    Ok((looked_at, writes))
}

/// What the operator that runs on a plane takes.
fn usage(plane: &Plane) -> anyhow::Result<Usage> {
    let process = plane.processes("vllm-operator")?.pop();
    process.context("no process of the operator runs on this plane")?.usage()
}
