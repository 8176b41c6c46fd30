//! Many clusters with a `queue` ScaledObject each: what the operator takes to answer for all of them.
//!
//! Their pods are on the hollow node, and one process answers at all of their addresses, as an engine of its own each.
//!
//! Of ScaledObjects whose minimum is 1 or more, KEDA's own polls take what the HPA was told last, for as long as that asks
//! (`UsesHPAObservations` in KEDA 2.21). With `useCachedMetrics` it polls at its own interval, and tells HPAs what it has.
//!
//! **Architecture invariant**: no cluster has a queue, so whatever count is written is a mistake.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::sockets::Open;
use super::{queue, scaled_object};
use crate::availability::operator::processes;
use crate::bench_control::{CREATORS, all_seen, all_settled, create, says};
use crate::plane::processes::Usage;
use crate::plane::wait::{Deadline, eventually};
use crate::plane::{Plane, Process, trying_again};
use crate::pods::Engines;
use crate::{hollow, objects};

const NAMESPACE: &str = "bench-scaler";
const CLUSTERS: usize = 500;
const SECONDS: u64 = 60;
pub(super) const POLLING: Duration = Duration::from_secs(5);
/// Tells a hang from a slow machine.
const PATIENCE: Duration = Duration::from_mins(20);
/// Often enough to meet several connections of each round, and rarely enough to cost little.
const SAMPLING: Duration = Duration::from_millis(100);

/// Options of `bench-scaler many`.
#[derive(Clone, Debug, Args)]
pub struct Many {
    /// How many VLLMClusters, of one replica each.
    #[arg(long, default_value_t = CLUSTERS)]
    pub clusters: usize,
    /// How long to measure, in seconds; longer if by then some cluster has not been asked.
    #[arg(long, default_value_t = SECONDS)]
    pub seconds: u64,
}

impl Default for Many {
    fn default() -> Self {
        Self { clusters: CLUSTERS, seconds: SECONDS }
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How often HPAs look.
    pub hpa_period: Duration,
    /// From the first ScaledObject until KEDA said of all that they are ready.
    pub ready: Duration,
    /// How long was measured.
    pub span: Duration,
    /// How often the pods of each cluster were asked meanwhile, the fewest first.
    pub asked: Vec<u64>,
    /// The operator's replicas, by their pods.
    pub replicas: BTreeMap<String, Replica>,
}

/// What a replica of the operator took.
#[derive(Clone, Copy, Debug)]
pub struct Replica {
    /// When measuring began.
    pub before: Usage,
    /// When it ended.
    pub after: Usage,
    /// What was open at most.
    pub most: Open,
}

impl Figures {
    /// Requests that reached the pods.
    pub fn requests(&self) -> u64 {
        self.asked.iter().sum()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hpa_period, ready, span, asked, replicas } = self;
        let span = span.as_secs_f64();
        // Counts are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let rate = self.requests() as f64 / span;
        let (fewest, most) =
            (asked.first().copied().unwrap_or_default(), asked.last().copied().unwrap_or_default());
        writeln!(f, "{:<34}{:.1} s", format!("{} ScaledObjects ready", asked.len()), ready.as_secs_f64())?;
        writeln!(
            f,
            "{:<34}{rate:.1} a second; {fewest} to {most} in {span:.1} s of each cluster",
            "requests to pods"
        )?;
        for (pod, Replica { before, after, most }) in replicas {
            let Open { to_pods, to_one, from_keda, files } = most;
            let processor = after.processor.saturating_sub(before.processor).as_secs_f64() / span;
            writeln!(f, "{pod:<34}{processor:.3} s of processor time a second")?;
            writeln!(f, "{:<34}{} MiB, at most {} MiB", "", after.resident / 1024, after.peak / 1024)?;
            writeln!(
                f,
                "{:<34}connections at most: {to_pods} to pods ({to_one} to one cluster), {from_keda} from KEDA; {files} files",
                "",
            )?;
        }
        write!(f, "KEDA polls every {} s; HPAs look every {} s.", POLLING.as_secs(), hpa_period.as_secs_f64())
    }
}

/// Measures on a plane with KEDA, and a scaler that KEDA can call.
pub async fn measure(plane: &Plane, many: &Many) -> anyhow::Result<Figures> {
    // It would read all of these servers too, on the cores that are measured.
    plane.kubectl(&["-n", "keda", "scale", "deployment/prometheus", "--replicas=0"]).ok().await?;
    unthrottle(plane).await?;
    let client = plane.client().await?;
    let _node = hollow::start(client.clone()).await?;
    objects::namespace(&client, NAMESPACE).await?;
    let names: Vec<_> = (0..many.clusters).map(|index| format!("c-{index}")).collect();
    let clusters = objects::clusters(&client, NAMESPACE);
    tokio::try_join!(create(&client, NAMESPACE, &names), all_settled(clusters, &names))?;
    answer_for_all(&client).await?;
    let engines = Engines::of(plane, NAMESPACE).await?;
    eventually("every pod of the hollow node answers", Deadline::after(PATIENCE), || async {
        asked(&engines, &names).await.map_err(|error| format!("{error:#}"))
    })
    .await?;

    let begun = Instant::now();
    tokio::try_join!(drive(&client, &names), all_ready(&client, names.len()))?;
    let ready = begun.elapsed();
    let none = vec![0; names.len()];
    all_asked(&engines, &names, &none).await?;

    let operators = processes(plane)?;
    let (begun, before) = (Instant::now(), usages(&operators)?);
    let asked_before = asked(&engines, &names).await?;
    let most = sample(&operators, begun + Duration::from_secs(many.seconds)).await?;
    // Should one not have been asked, the measurement is to last until it has been.
    all_asked(&engines, &names, &asked_before).await?;
    let (span, after) = (begun.elapsed(), usages(&operators)?);
    // Each look at all engines takes as long as the first, so that for each of them `span` lies between both.
    let asked_after = asked(&engines, &names).await?;
    nothing_was_scaled(&client).await?;

    let mut asked: Vec<_> =
        asked_after.iter().zip(&asked_before).map(|(after, before)| after - before).collect();
    asked.sort_unstable();
    let taken = before.into_iter().zip(after).zip(most);
    let taken = taken.map(|((before, after), most)| Replica { before, after, most });
    let replicas = operators.into_keys().zip(taken).collect();
    Ok(Figures { hpa_period: plane.spec().hpa_sync_period, ready, span, asked, replicas })
}

/// KEDA makes 20 calls a second of the API server unless told otherwise, and needs one for each poll of a ScaledObject.
async fn unthrottle(plane: &Plane) -> anyhow::Result<()> {
    let argument =
        |value| json!({"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": value});
    let patch = json!([argument("--kube-api-qps=1000"), argument("--kube-api-burst=2000")]).to_string();
    let deployment = "deployment/keda-operator";
    plane.kubectl(&["-n", "keda", "patch", deployment, "--type=json", "-p", &patch]).ok().await?;
    let rolled_out = ["-n", "keda", "rollout", "status", deployment, "--timeout=90s"];
    plane.kubectl(&rolled_out).ok().await.map(drop)
}

/// Starts the engines of all pods that are on the hollow node.
async fn answer_for_all(client: &Client) -> anyhow::Result<()> {
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let listed = pods.list(&ListParams::default()).await?;
    let addresses: Vec<_> = listed.into_iter().filter_map(|pod| pod.status?.pod_ip).collect();
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "engines"},
        "spec": {
            // Where those addresses are local.
            "hostNetwork": true,
            // Those of so many Services are nothing that an engine reads.
            "enableServiceLinks": false,
            "containers": [{"name": "engines", "image": "testbed/engines", "args": addresses}],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await.context("creating the engines")?;
    Ok(())
}

/// How often the operator has asked the pod of each cluster.
async fn asked(engines: &Engines, names: &[String]) -> anyhow::Result<Vec<u64>> {
    futures::stream::iter(names)
        .map(async |name| anyhow::Ok(engines.seen(&format!("{name}-0")).await?.by("vllm-operator")))
        .buffered(CREATORS)
        .try_collect()
        .await
}

/// Waits until the pod of each cluster has been asked more often than it had been.
async fn all_asked(engines: &Engines, names: &[String], before: &[u64]) -> anyhow::Result<()> {
    eventually("KEDA has the operator ask the pods of every cluster", Deadline::after(PATIENCE), || async {
        let asked = asked(engines, names).await.map_err(|error| format!("{error:#}"))?;
        let left = asked.iter().zip(before).filter(|(asked, before)| asked <= before).count();
        if left == 0 { Ok(()) } else { Err(format!("those of {left} were not asked")) }
    })
    .await
}

/// Creates a ScaledObject for each cluster.
async fn drive(client: &Client, names: &[String]) -> anyhow::Result<()> {
    let (objects, params) = (&objects::scaled_objects(client, NAMESPACE), &PostParams::default());
    futures::stream::iter(names)
        .map(async |name| {
            let mut trigger = queue();
            trigger["useCachedMetrics"] = json!(true);
            let object = serde_json::from_value(scaled_object(name, POLLING, &trigger))?;
            let created = trying_again(|| objects.create(params, &object)).await;
            created.with_context(|| format!("creating ScaledObject {name}"))?;
            anyhow::Ok(())
        })
        .buffer_unordered(CREATORS)
        .try_collect()
        .await
}

/// Waits until KEDA says of so many ScaledObjects that they are ready.
async fn all_ready(client: &Client, count: usize) -> anyhow::Result<()> {
    let objects =
        watcher(objects::scaled_objects(client, NAMESPACE), watcher::Config::default()).default_backoff();
    let ready = objects.applied_objects().try_filter_map(|object| async move {
        Ok(says(&object, "Ready", "True").then(|| object.name_any()))
    });
    all_seen("ready ScaledObjects", count, ready).await
}

fn usages(operators: &BTreeMap<String, Process>) -> anyhow::Result<Vec<Usage>> {
    operators.values().map(|process| process.usage()).collect()
}

/// What each had open at most until `end`.
async fn sample(operators: &BTreeMap<String, Process>, end: Instant) -> anyhow::Result<Vec<Open>> {
    let mut most = vec![Open::default(); operators.len()];
    let mut ticks = interval(SAMPLING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        ticks.tick().await;
        for (most, process) in most.iter_mut().zip(operators.values()) {
            *most = most.max(Open::of(*process)?);
        }
    }
    Ok(most)
}

/// The specification of each cluster is the one that it was created with.
async fn nothing_was_scaled(client: &Client) -> anyhow::Result<()> {
    let listed = objects::clusters(client, NAMESPACE).list(&ListParams::default()).await?;
    let written: Vec<_> = listed
        .iter()
        .filter(|cluster| cluster.metadata.generation != Some(1))
        .map(ResourceExt::name_any)
        .collect();
    ensure!(written.is_empty(), "nothing waits, and the count was written of {}", written.join(", "));
    Ok(())
}
