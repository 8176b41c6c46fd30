//! Every change from one valid spec to another, on the real API server: it ends as a fresh creation of the new spec
//! does, with one write for each object that differs.
//!
//! For each walk of the table one cluster goes from state to state until it has made every change of two states. Beside
//! it, each state has a cluster that was created in it. Their pods are kept from being created: what they do is no
//! matter here.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use axum::http::Method;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::Client;
use serde::Deserialize;
use serde_json::{Map, Value};
use testbed::plane::{Plane, Write};

use super::owned::{
    Kind, OPERATOR, cluster_path, comparable, create, differences, get, namespace_without_pods, objects,
    observed, send,
};
use super::suite::kubectl;

const TABLE: &str = include_str!("../fixtures/transitions.yaml");
const NS: &str = "transitions";
/// Clusters that are worked on at once.
const AT_ONCE: usize = 6;

#[derive(Deserialize)]
struct Table {
    base: Map<String, Value>,
    walks: BTreeMap<String, Vec<Map<String, Value>>>,
}

/// One part of the spec, and the specs that it is taken through.
struct Walk {
    name: String,
    specs: Vec<Value>,
}

/// The objects of a cluster, in their comparable form.
type Objects = BTreeMap<Kind, Value>;

fn walks() -> anyhow::Result<Vec<Walk>> {
    let Table { base, walks } = serde_saphyr::from_str(TABLE).context("the table of transitions")?;
    let spec = |state: Map<String, Value>| {
        let mut spec = base.clone();
        spec.extend(state);
        spec.retain(|_, value| !value.is_null());
        Value::Object(spec)
    };
    let walk =
        |(name, states): (String, Vec<_>)| Walk { name, specs: states.into_iter().map(spec).collect() };
    Ok(walks.into_iter().map(walk).collect())
}

/// A way through so many states, from the first, that makes each change from one to another once.
fn way(states: usize) -> Vec<usize> {
    let mut open: Vec<Vec<usize>> =
        (0..states).map(|from| (0..states).filter(|&to| to != from).collect()).collect();
    // As many changes lead to each state as lead away, so a way that is followed to its end is a circle, and circles
    // are joined where they meet.
    let (mut way, mut path) = (Vec::new(), vec![0]);
    while let Some(&at) = path.last() {
        match open[at].pop() {
            Some(to) => path.push(to),
            None => way.extend(path.pop()),
        }
    }
    way.reverse();
    way
}

/// Where the clusters are that were created in a state.
fn fresh_namespace(state: usize) -> String {
    format!("{NS}-{state}")
}

/// Takes every walk.
pub async fn every_change(plane: &Plane) -> anyhow::Result<()> {
    let (walks, client) = (walks()?, plane.client().await?);
    let most = walks.iter().map(|walk| walk.specs.len()).max().unwrap_or_default();
    let namespaces: Vec<_> = [NS.to_owned()].into_iter().chain((0..most).map(fresh_namespace)).collect();
    for namespace in &namespaces {
        namespace_without_pods(plane, namespace).await?;
    }
    let fresh = at_once(walks.iter().map(|walk| created(&client, walk))).await?;
    let steps = at_once(walks.iter().zip(&fresh).map(|(walk, fresh)| taken(&client, walk, fresh))).await?;
    let changes = steps.iter().map(|steps| steps.len() - 1).sum::<usize>();
    ensure!(changes >= 200, "{changes} changes");
    let mut writes = BTreeMap::<_, Vec<_>>::new();
    let mut of_status = 0;
    for write in plane.writes_by(OPERATOR)?.into_iter().filter(|write| write.namespace == NS) {
        if write.resource == "vllmclusters/status" {
            of_status += 1;
        } else {
            let cluster = write.name.strip_suffix("-pods").unwrap_or(&write.name).to_owned();
            writes.entry(cluster).or_default().push(write);
        }
    }
    let mut failures: Vec<_> = steps.iter().flatten().flat_map(|step| step.failures.clone()).collect();
    for (walk, steps) in walks.iter().zip(&steps) {
        let writes = writes.remove(&walk.name).unwrap_or_default();
        failures.extend(judge_writes(&walk.name, steps, &writes).err().map(|error| format!("{error:#}")));
    }
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    // One when the spec was taken, one when the StatefulSet controller has seen it, and one in between at most.
    ensure!(of_status <= 3 * (changes + walks.len()), "{of_status} writes of a status for {changes} changes");
    // All at once: each takes a while to go.
    let all = namespaces.join(" ");
    kubectl(plane, NS, &format!("delete namespace {all} --timeout=120s")).ok().await.map(drop)
}

/// Some at a time; their results in order.
async fn at_once<T>(
    all: impl Iterator<Item = impl Future<Output = anyhow::Result<T>>>,
) -> anyhow::Result<Vec<T>> {
    futures::stream::iter(all.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await
}

async fn seen(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Objects> {
    observed(client, namespace, name).await?;
    let objects = objects(client, namespace, name).await?;
    Ok(objects.into_iter().map(|(kind, object)| (kind, comparable(&object))).collect())
}

/// What a fresh creation of each state makes.
async fn created(client: &Client, walk: &Walk) -> anyhow::Result<Vec<Objects>> {
    let mut all = Vec::new();
    for (state, spec) in walk.specs.iter().enumerate() {
        let namespace = fresh_namespace(state);
        create(client, &namespace, &walk.name, spec).await?;
        all.push(seen(client, &namespace, &walk.name).await?);
    }
    Ok(all)
}

/// Takes one cluster through all changes; the writes that each of them is to make.
async fn taken(client: &Client, walk: &Walk, fresh: &[Objects]) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut from = None;
    for to in way(walk.specs.len()) {
        let mut step = Step::between(from, to, walk, fresh);
        match from {
            None => create(client, NS, &walk.name, &walk.specs[to]).await?,
            Some(_) => {
                replace(client, &walk.name, &walk.specs[to]).await.with_context(|| step.what.clone())?;
            }
        }
        let found = seen(client, NS, &walk.name).await.with_context(|| step.what.clone())?;
        let mut differing = Vec::new();
        for kind in Kind::ALL {
            let object = |objects: &Objects| objects.get(&kind).cloned().unwrap_or_default();
            differences(&object(&found), &object(&fresh[to]), &format!("{kind:?}"), &mut differing);
        }
        if !differing.is_empty() {
            step.failures.push(format!("{}: not as a fresh creation: {differing:#?}", step.what));
        }
        steps.push(step);
        from = Some(to);
    }
    Ok(steps)
}

/// As `kubectl replace` does it.
async fn replace(client: &Client, name: &str, spec: &Value) -> anyhow::Result<()> {
    let path = cluster_path(NS, name);
    for _ in 0..10 {
        let mut cluster = get(client, &path).await?.context("the cluster is gone")?;
        cluster["spec"] = spec.clone();
        match send(client, Method::PUT, &path, &cluster).await {
            Ok(_) => return Ok(()),
            // The operator has written the status meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("ten conflicts in a row")
}

/// One change, and the operator's writes that it needs.
struct Step {
    what: String,
    /// Verb, resource and name, sorted.
    writes: Vec<String>,
    /// What was seen instead of what was wanted.
    failures: Vec<String>,
}

impl Step {
    fn between(from: Option<usize>, to: usize, walk: &Walk, fresh: &[Objects]) -> Self {
        let nothing = Objects::new();
        let before = from.map_or(&nothing, |from| &fresh[from]);
        let what = match from {
            None => format!("{}: created as {}", walk.name, walk.specs[to]),
            Some(from) => format!("{}: {} -> {}", walk.name, walk.specs[from], walk.specs[to]),
        };
        let line = |verb: &str, kind: Kind| format!("{verb} {} {}", kind.resource(), kind.name(&walk.name));
        let mut writes: Vec<_> = Kind::ALL
            .into_iter()
            .filter_map(|kind| match (before.get(&kind), fresh[to].get(&kind)) {
                (before, Some(after)) if before != Some(after) => Some(line("patch", kind)),
                (Some(_), None) => Some(line("delete", kind)),
                _ => None,
            })
            .collect();
        writes.sort();
        Self { what, writes, failures: Vec::new() }
    }
}

/// Holds the writes of one cluster's objects, in their order, against what each step needs.
fn judge_writes(walk: &str, steps: &[Step], writes: &[Write]) -> anyhow::Result<()> {
    let mut rest = writes;
    for step in steps {
        let (of_step, later) = rest.split_at(step.writes.len().min(rest.len()));
        let mut found: Vec<_> =
            of_step.iter().map(|write| format!("{} {} {}", write.verb, write.resource, write.name)).collect();
        found.sort();
        ensure!(
            found == step.writes && of_step.iter().all(|write| write.code < 300),
            "{}: needs {:?}, found {of_step:#?}",
            step.what,
            step.writes
        );
        rest = later;
    }
    ensure!(rest.is_empty(), "{walk}: more writes than needed: {rest:#?}");
    Ok(())
}
