//! Many VLLMClusters, each of one replica: until all have their StatefulSets, beside a loop that writes the same objects and
//! does nothing else; what the operator takes with all of them; a restart; a steady state.
//!
//! The loop's turns stand between those of the operator, each on a plane of its own.
//!
//! They are spread over namespaces: to keep endpoints, Kubernetes itself compares each pod with each Service of its namespace, so
//! that with thousands in one it is the controller manager that is measured.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, PostParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Bench, CREATORS, PATIENCE, all_seen, all_settled, create_each, created, put};
use crate::addons;
use crate::objects::{all_clusters, namespace};
use crate::plane::audit::stateful_sets_read;
use crate::plane::processes::Usage;
use crate::plane::wait::{Deadline, eventually};
use crate::plane::{Plane, Write};

/// How many clusters there are in a namespace.
const PER_NAMESPACE: usize = 100;
/// What the names of the namespaces begin with where the operator writes.
const OURS: &str = "ours";
/// What they begin with where the loop does.
const BARE: &str = "bare";
const OPERATOR: &str = "system:serviceaccount:vllm-operator-system:vllm-operator";

/// Longer than any wait of the operator's between two looks at one cluster: whoever writes nothing for so long has nothing to write.
const QUIET: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Many {
    /// How many VLLMClusters, of one replica each.
    #[arg(long, default_value_t = Self::default().clusters)]
    clusters: usize,
    /// Turns of the operator, and of the loop.
    #[arg(long, default_value_t = Self::default().turns)]
    turns: usize,
    /// Seconds of the steady state.
    #[arg(long, default_value_t = Self::default().steady)]
    steady: u64,
}

impl Default for Many {
    fn default() -> Self {
        Self { clusters: 1000, turns: 2, steady: 600 }
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How many clusters there were.
    pub clusters: usize,
    /// The operator's turns.
    pub ours: Vec<Creation>,
    /// The loop's: from its first request until each cluster had its StatefulSet.
    pub bare: Vec<Duration>,
    /// With all of them.
    pub later: Later,
}

/// All clusters created, with the operator.
#[derive(Clone, Debug)]
pub struct Creation {
    /// From the first request until all were created.
    pub created: Duration,
    /// From the first request until each had its StatefulSet.
    pub stateful_sets: Duration,
    /// From the first request until each was ready and said so.
    pub settled: Duration,
    /// The operator's writes meanwhile, by verb and resource.
    pub writes: BTreeMap<String, usize>,
    /// What the operator had taken before, and with all of them.
    pub usage: [Usage; 2],
}

/// What comes when all clusters are there.
#[derive(Clone, Debug)]
pub struct Later {
    /// What the operator takes with a ScaledObject for each as well.
    pub driven: Usage,
    /// What a webhook takes that knows the same of them, written with controller-runtime.
    pub peer: Usage,
    /// How long nothing happened.
    pub steady: Duration,
    /// Processor time of the operator meanwhile.
    pub processor: Duration,
    /// What it wrote meanwhile, its Lease apart.
    pub writes_of_steady: Vec<Write>,
    /// From the start of the operator's Deployment until its pod was ready.
    pub ready: Duration,
    /// From there too, until it had looked at all clusters.
    pub looked_at: Duration,
    /// What it wrote about them by then.
    pub writes_of_restart: Vec<Write>,
    /// What it has taken by then.
    pub restarted: Usage,
}

fn seconds(span: &Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turns = |spans: &[Duration]| spans.iter().map(seconds).collect::<Vec<_>>().join(", ");
        // A number of clusters is far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let each = |count: usize| count as f64 / self.clusters as f64;
        let of = |span: fn(&Creation) -> Duration| self.ours.iter().map(span).collect::<Vec<_>>();
        let sets = of(|turn| turn.stateful_sets);
        writeln!(f, "{} VLLMClusters of one replica", self.clusters)?;
        writeln!(f, "{:<34}{}", "all created", turns(&of(|turn| turn.created)))?;
        writeln!(f, "{:<34}{}", "all StatefulSets exist", turns(&sets))?;
        writeln!(f, "{:<34}{}", "by a bare loop", turns(&self.bare))?;
        let ratio =
            sets.iter().sum::<Duration>().as_secs_f64() / self.bare.iter().sum::<Duration>().as_secs_f64();
        writeln!(f, "{:<34}{ratio:.2}", "the operator ÷ the loop")?;
        writeln!(f, "{:<34}{}", "all ready, and told", turns(&of(|turn| turn.settled)))?;
        if let Some(Creation { writes, usage: [before, with_all], .. }) = self.ours.last() {
            for (what, count) in writes {
                writeln!(f, "{:<34}{count} ({:.2} per cluster)", format!("writes: {what}"), each(*count))?;
            }
            writeln!(f, "{:<34}{before}", "the operator before")?;
            writeln!(f, "{:<34}{with_all}", "with all of them")?;
        }
        write!(f, "{}", self.later)
    }
}

impl fmt::Display for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Later {
            driven,
            peer,
            steady,
            processor,
            writes_of_steady,
            ready,
            looked_at,
            writes_of_restart,
            restarted,
        } = self;
        writeln!(f, "{:<34}{driven}", "and as many ScaledObjects")?;
        writeln!(f, "{:<34}{peer}", "a webhook of controller-runtime")?;
        let processor = processor.as_secs_f64() / steady.as_secs_f64() * 1e3;
        let writes = writes_of_steady.len();
        writeln!(
            f,
            "{:<34}{writes} writes, {processor:.2} ms of processor time a second",
            format!("steady for {}", seconds(steady))
        )?;
        writeln!(
            f,
            "{:<34}ready after {}, all looked at after {}",
            "restarted",
            seconds(ready),
            seconds(looked_at)
        )?;
        writeln!(f, "{:<34}{}", "restarted: writes about them", writes_of_restart.len())?;
        write!(f, "{:<34}{restarted}", "after the restart")
    }
}

/// Measures on planes of its own.
pub async fn measure(testbed: &Path, many: &Many) -> anyhow::Result<Figures> {
    let clusters = many.clusters;
    let first = Bench::start(testbed).await?;
    let mut ours = vec![creation(&first, clusters).await?];
    let model = model(&first).await?;
    let later = later(&first, clusters, Duration::from_secs(many.steady)).await?;
    first.plane.stop().await?;
    let mut bare = Vec::new();
    for _ in 0..many.turns {
        let bench = Bench::start(testbed).await?;
        bare.push(written_bare(&bench, &model, clusters).await?);
        bench.plane.stop().await?;
    }
    for _ in 1..many.turns {
        let bench = Bench::start(testbed).await?;
        ours.push(creation(&bench, clusters).await?);
        bench.plane.stop().await?;
    }
    Ok(Figures { clusters, ours, bare, later })
}

/// Measures one turn of each on a plane of others, where nobody reconciles afterwards.
pub async fn once(bench: &Bench, clusters: usize, steady: Duration) -> anyhow::Result<Figures> {
    let ours = vec![creation(bench, clusters).await?];
    let model = model(bench).await?;
    let later = later(bench, clusters, steady).await?;
    let bare = vec![written_bare(bench, &model, clusters).await?];
    Ok(Figures { clusters, ours, bare, later })
}

/// A cluster's namespace and name. No two in the same kind of namespaces have one name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    namespace: String,
    name: String,
}

fn places(kind: &str, count: usize) -> Vec<Place> {
    let place =
        |index| Place { namespace: format!("{kind}-{}", index / PER_NAMESPACE), name: format!("c-{index}") };
    (0..count).map(place).collect()
}

async fn namespaces(client: &Client, places: &[Place]) -> anyhow::Result<()> {
    for first in places.iter().step_by(PER_NAMESPACE) {
        namespace(client, &first.namespace).await?;
    }
    Ok(())
}

/// Creates all clusters, with the operator.
async fn creation(bench: &Bench, clusters: usize) -> anyhow::Result<Creation> {
    let (Bench { plane, client, .. }, places) = (bench, &places(OURS, clusters));
    namespaces(client, places).await?;
    let before = usage(plane, "vllm-operator")?;
    let written = plane.writes_by(OPERATOR)?.len();
    let begun = Instant::now();
    let after = |done: anyhow::Result<()>| done.map(|()| begun.elapsed());
    let (created, stateful_sets, settled) = tokio::try_join!(
        async { after(create(client, places).await) },
        async { after(stateful_sets_exist(client, OURS, clusters).await) },
        async { after(all_settled(all_clusters(client), &names(places)).await) },
    )?;
    let mut writes = BTreeMap::new();
    for write in plane.writes_by(OPERATOR)?.split_off(written) {
        *writes.entry(format!("{} {}", write.verb, write.resource)).or_default() += 1;
    }
    let usage = [before, usage(plane, "vllm-operator")?];
    // What has been seen is told at once: the rest takes long, and may fail.
    eprintln!(
        "all created after {}, all StatefulSets after {}, all ready after {}; {}",
        seconds(&created),
        seconds(&stateful_sets),
        seconds(&settled),
        usage[1]
    );
    Ok(Creation { created, stateful_sets, settled, writes, usage })
}

fn names(places: &[Place]) -> Vec<String> {
    places.iter().map(|place| place.name.clone()).collect()
}

async fn create(client: &Client, places: &[Place]) -> anyhow::Result<()> {
    create_each(client, places.iter().map(|place| (place.namespace.as_str(), place.name.as_str()))).await
}

async fn stateful_sets_exist(client: &Client, kind: &str, count: usize) -> anyhow::Result<()> {
    let sets = Api::<PartialObjectMeta<StatefulSet>>::all(client.clone());
    let sets = watcher(sets, watcher::Config::default()).default_backoff().applied_objects();
    let of_kind = |set: &PartialObjectMeta<StatefulSet>| {
        set.namespace().is_some_and(|namespace| namespace.starts_with(&format!("{kind}-")))
    };
    let names = sets.try_filter_map(|set| std::future::ready(Ok(of_kind(&set).then(|| set.name_any()))));
    all_seen("StatefulSets", count, names).await
}

/// What the operator writes for a cluster, as text, and the cluster's name and uid in there.
struct Model {
    name: String,
    uid: String,
    services: Vec<String>,
    stateful_set: String,
}

async fn model(bench: &Bench) -> anyhow::Result<Model> {
    let Bench { client, .. } = bench;
    let Place { namespace, name } = places(OURS, 1).remove(0);
    let of_it =
        |metadata: &ObjectMeta| metadata.owner_references.iter().flatten().any(|owner| owner.name == name);
    let set = Api::<StatefulSet>::namespaced(client.clone(), &namespace).get(&name).await?;
    let owner = set.metadata.owner_references.iter().flatten().next();
    let uid = owner.context("its cluster owns the StatefulSet")?.uid.clone();
    let services =
        Api::<Service>::namespaced(client.clone(), &namespace).list(&ListParams::default()).await?;
    let services = services.items.iter().filter(|service| of_it(&service.metadata));
    let services = services.map(stated).collect::<Result<_, _>>()?;
    Ok(Model { services, stateful_set: stated(&set)?, name, uid })
}

/// An object as whoever writes it states it.
fn stated(object: &impl Serialize) -> anyhow::Result<String> {
    let mut object = serde_json::to_value(object)?;
    let fields = object.as_object_mut().context("an object")?;
    fields.remove("status");
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        object["metadata"].as_object_mut().context("metadata")?.remove(field);
    }
    for field in ["clusterIP", "clusterIPs"] {
        if object["spec"][field] != "None" && object["spec"][field] != json!(["None"]) {
            object["spec"].as_object_mut().context("a spec")?.remove(field);
        }
    }
    Ok(object.to_string())
}

/// Creates all clusters, and for each what the operator would; until each has its StatefulSet. Nobody reconciles meanwhile.
async fn written_bare(bench: &Bench, model: &Model, clusters: usize) -> anyhow::Result<Duration> {
    let (Bench { plane, client, .. }, places) = (bench, &places(BARE, clusters));
    let _nobody = addons::let_nobody_lead(plane, client).await?;
    namespaces(client, places).await?;
    let begun = Instant::now();
    let write = futures::stream::iter(places)
        .map(|Place { namespace, name }| async move {
            let cluster = created(client, namespace, name).await?;
            let uid = cluster.metadata.uid.context("a uid")?;
            let own = |text: &str| text.replace(&model.uid, &uid).replace(&model.name, name);
            for service in &model.services {
                post::<Service>(client, namespace, &own(service)).await?;
            }
            post::<StatefulSet>(client, namespace, &own(&model.stateful_set)).await
        })
        .buffer_unordered(CREATORS)
        .try_collect::<()>();
    tokio::try_join!(write, stateful_sets_exist(client, BARE, clusters))?;
    Ok(begun.elapsed())
}

async fn post<K>(client: &Client, namespace: &str, object: &str) -> anyhow::Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let object: K = serde_json::from_str(object)?;
    let posted =
        Api::<K>::namespaced(client.clone(), namespace).create(&PostParams::default(), &object).await;
    posted.map(drop).with_context(|| format!("creating {} {}", K::kind(&()), object.name_any()))
}

/// With all clusters there: a ScaledObject for each, nothing for a while, and a restart.
async fn later(bench: &Bench, clusters: usize, steady: Duration) -> anyhow::Result<Later> {
    let (Bench { plane, client, .. }, places) = (bench, &places(OURS, clusters));
    futures::stream::iter(places)
        .map(|Place { namespace, name }| put::drive(client, namespace, name))
        .buffer_unordered(CREATORS)
        .try_collect::<()>()
        .await?;
    // What drives them is told in their statuses; until then the API server has no time to show its schema to kubectl.
    all_is_written(plane).await?;
    put::serve(plane).await?;
    let last = places.last().context("a cluster")?;
    eventually("controller-runtime's webhook knows the last", Deadline::after(PATIENCE), || async {
        let answer = put::asked(client, &last.namespace, &last.name).await;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        if answer.contains("is not between 1 and 8") { Ok(()) } else { Err(answer) }
    })
    .await?;
    let (driven, peer) = (usage(plane, "vllm-operator")?, usage(plane, "webhook")?);
    plane.kubectl(&["delete", "namespace", put::SERVERS]).ok().await?;

    let written = all_is_written(plane).await?;
    let (before, begun) = (usage(plane, "vllm-operator")?, Instant::now());
    // Not for a condition: that nothing happens is what is measured.
    tokio::time::sleep(steady).await;
    let (after, steady) = (usage(plane, "vllm-operator")?, begun.elapsed());
    let writes_of_steady = plane.writes_by(OPERATOR)?.split_off(written);
    let processor = after.processor.saturating_sub(before.processor);

    let (ready, looked_at, writes_of_restart) = restart(plane, places).await?;
    let restarted = usage(plane, "vllm-operator")?;
    let later = Later {
        driven,
        peer,
        steady,
        processor,
        writes_of_steady,
        ready,
        looked_at,
        writes_of_restart,
        restarted,
    };
    eprintln!("{later}");
    Ok(later)
}

/// Waits until the operator has written nothing for a while; how much it has written by then.
async fn all_is_written(plane: &Plane) -> anyhow::Result<usize> {
    let last = AtomicUsize::new(plane.writes_by(OPERATOR)?.len());
    eventually("the operator writes nothing", Deadline::after(PATIENCE), || async {
        tokio::time::sleep(QUIET).await;
        let now = plane.writes_by(OPERATOR).map_err(|error| format!("{error:#}"))?.len();
        let before = last.swap(now, Ordering::Relaxed);
        if before == now { Ok(now) } else { Err(format!("{} writes in {QUIET:?}", now - before)) }
    })
    .await
}

/// Stops and starts the operator: how long it takes to be ready, and to look at all clusters, and what it writes.
async fn restart(plane: &Plane, places: &[Place]) -> anyhow::Result<(Duration, Duration, Vec<Write>)> {
    let system = |args: &[&str]| plane.kubectl(&[&["-n", addons::OPERATOR], args].concat()).ok();
    let log = plane.audit_log();
    system(&["scale", "deployment/vllm-operator", "--replicas=0"]).await?;
    let pods = "--selector=app.kubernetes.io/name=vllm-operator";
    system(&["wait", "--for=delete", "pod", pods, "--timeout=90s"]).await?;
    let (before, length) = (plane.writes_by(OPERATOR)?.len(), std::fs::metadata(&log)?.len());
    let begun = Instant::now();
    system(&["scale", "deployment/vllm-operator", "--replicas=1"]).await?;
    let ready = async {
        addons::wait_for_operator(plane).await?;
        Ok(begun.elapsed())
    };
    let all_looked_at = eventually("all clusters are looked at", Deadline::after(PATIENCE), || async {
        let read = stateful_sets_read(&log, OPERATOR, length).map_err(|error| format!("{error:#}"))?;
        let unread = |place: &&Place| !read.contains(&(place.namespace.clone(), place.name.clone()));
        let left = places.iter().filter(unread).count();
        if left == 0 { Ok(begun.elapsed()) } else { Err(format!("{left} are not")) }
    });
    let (ready, looked_at) = tokio::try_join!(ready, all_looked_at)?;
    // What the last looks lead to is written a moment after them; a cluster that is created now is dealt with later.
    let marker = [Place { namespace: places[0].namespace.clone(), name: "marker".to_owned() }];
    let client = plane.client().await?;
    // The operator looks at clusters before the API server has heard that its webhooks can be called again.
    eventually("the webhooks can be called", Deadline::after(PATIENCE), || async {
        create(&client, &marker).await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    all_settled(all_clusters(&client), &names(&marker)).await?;
    let mut writes = plane.writes_by(OPERATOR)?.split_off(before);
    writes.retain(|write| !(write.namespace == marker[0].namespace && write.name.starts_with("marker")));
    Ok((ready, looked_at, writes))
}

/// What a program that runs on a plane takes.
fn usage(plane: &Plane, program: &str) -> anyhow::Result<Usage> {
    let process = plane.processes(program)?.pop();
    process.with_context(|| format!("no process of {program} runs on this plane"))?.usage()
}
