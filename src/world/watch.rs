//! Watches that fill the index: VLLMClusters and HPAs always, ScaledObjects while KEDA's CRD is there.
//!
//! Architecture invariant: an event becomes facts and is dropped; no object is kept. One unreadable object is
//! reported and the watch goes on.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::future::{BoxFuture, pending};
use futures::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch::Sender;
use tracing::{info, warn};

use crate::api::guarded::Guarded;
use crate::api::names::{LABEL_ADMISSION, SCALED_OBJECT_CRD, selector_of_all};
use crate::pace::{self, Steady};
use crate::policy::{Mode, Scaler};

use super::part::{ClusterPart, HpaPart, ScaledObjectPart};
use super::servers::{PodPart, Server, Set, SetPart};
use super::{Attachment, Cluster, ForeignHpa, Key, Leaving, World};

/// Which watches have seen their whole list once since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
// One flag a watch; they change by themselves, so there is no state that they would be parts of.
#[allow(clippy::struct_excessive_bools)]
pub struct Synced {
    /// All clusters are known.
    pub clusters: bool,
    /// All ScaledObjects are known, or it is known that there are none because KEDA is not installed.
    pub scalers: bool,
    /// All HPAs are known.
    pub hpas: bool,
    /// All namespaces with a mode of their own are known.
    pub namespaces: bool,
    /// All StatefulSets of clusters are known, or nobody asks for them.
    pub sets: bool,
    /// All pods of clusters are known, or nobody asks for them.
    pub pods: bool,
}

impl Synced {
    /// Everything is known.
    pub const ALL: Self =
        Self { clusters: true, scalers: true, hpas: true, namespaces: true, sets: true, pods: true };
}

/// Where a watch puts what it sees.
trait Sink<K> {
    type Fact;
    /// The fact of an object; `None` if the object is of no concern.
    fn fact(&self, object: &K) -> Option<Self::Fact>;
    fn put(&self, key: Key, fact: Option<Self::Fact>);
    fn replace(&self, facts: Vec<(Key, Self::Fact)>);
    fn synced(&self, synced: &mut Synced);
    fn world(&self) -> &World;
}

struct Clusters(Arc<World>);
struct Hpas(Arc<World>);
struct Scalers(Arc<World>);
struct Namespaces(Arc<World>);
struct Sets(Arc<World>);
struct Pods(Arc<World>);

impl Sink<ClusterPart> for Clusters {
    type Fact = Cluster;
    fn fact(&self, object: &ClusterPart) -> Option<Cluster> {
        Some(object.facts())
    }
    fn put(&self, key: Key, fact: Option<Cluster>) {
        match fact {
            Some(cluster) => self.0.put_cluster(key, cluster),
            None => self.0.remove_cluster(&key),
        }
    }
    fn replace(&self, facts: Vec<(Key, Cluster)>) {
        self.0.replace_clusters(facts);
    }
    fn synced(&self, synced: &mut Synced) {
        synced.clusters = true;
    }
    fn world(&self) -> &World {
        &self.0
    }
}

/// What is known of a driver, and what it says is wrong with it.
type Told<F> = (F, Option<String>);

/// What a fresh list says, by key.
type Listed<F> = Vec<(Key, F)>;

/// The facts of a fresh list, and beside them what the drivers say is wrong with them.
fn apart<F>(facts: Listed<Told<F>>) -> (Listed<F>, Listed<Option<String>>) {
    facts.into_iter().map(|(key, (fact, error))| ((key.clone(), fact), (key, error))).unzip()
}

impl Sink<HpaPart> for Hpas {
    type Fact = Told<Attachment<ForeignHpa>>;
    fn fact(&self, object: &HpaPart) -> Option<Self::Fact> {
        Some((object.attachment()?, object.error()))
    }
    fn put(&self, key: Key, fact: Option<Self::Fact>) {
        let (attachment, error) = fact.unzip();
        self.0.put(&key, attachment);
        self.0.put_error::<ForeignHpa>(&key, error.flatten());
    }
    fn replace(&self, facts: Vec<(Key, Self::Fact)>) {
        let (facts, errors) = apart(facts);
        self.0.replace_errors::<ForeignHpa>(errors);
        self.0.replace(facts);
    }
    fn synced(&self, synced: &mut Synced) {
        synced.hpas = true;
    }
    fn world(&self) -> &World {
        &self.0
    }
}

/// A ScaledObject that drives a cluster, or one that is about to have done so.
enum Standing {
    Attached(Attachment<Scaler>),
    Leaving(Attachment<Leaving>),
}

impl Sink<ScaledObjectPart> for Scalers {
    type Fact = Told<Standing>;
    fn fact(&self, object: &ScaledObjectPart) -> Option<Self::Fact> {
        let attached = object.attachment().map(Standing::Attached);
        let standing = attached.or_else(|| object.leaving().map(Standing::Leaving))?;
        Some((standing, object.error()))
    }
    // Known as leaving before it is no driver any more: whoever looks in between sees it at least once.
    fn put(&self, key: Key, fact: Option<Self::Fact>) {
        let (standing, error) = fact.unzip();
        let (attached, leaving) = match standing {
            Some(Standing::Attached(attached)) => (Some(attached), None),
            Some(Standing::Leaving(leaving)) => (None, Some(leaving)),
            None => (None, None),
        };
        self.0.put(&key, leaving);
        self.0.put(&key, attached);
        self.0.put_error::<Scaler>(&key, error.flatten());
    }
    fn replace(&self, facts: Vec<(Key, Self::Fact)>) {
        let (facts, errors) = apart(facts);
        let (mut attached, mut leaving) = (Vec::new(), Vec::new());
        for (key, fact) in facts {
            match fact {
                Standing::Attached(fact) => attached.push((key, fact)),
                Standing::Leaving(fact) => leaving.push((key, fact)),
            }
        }
        self.0.replace_errors::<Scaler>(errors);
        self.0.replace(leaving);
        self.0.replace(attached);
    }
    fn synced(&self, synced: &mut Synced) {
        synced.scalers = true;
    }
    fn world(&self) -> &World {
        &self.0
    }
}

impl Sink<PartialObjectMeta<Namespace>> for Namespaces {
    type Fact = Mode;
    fn fact(&self, namespace: &PartialObjectMeta<Namespace>) -> Option<Mode> {
        Mode::of_label(namespace.labels().get(LABEL_ADMISSION)?)
    }
    fn put(&self, key: Key, fact: Option<Mode>) {
        self.0.put_mode(key.name, fact);
    }
    fn replace(&self, facts: Vec<(Key, Mode)>) {
        self.0.replace_modes(facts.into_iter().map(|(key, mode)| (key.name, mode)));
    }
    fn synced(&self, synced: &mut Synced) {
        synced.namespaces = true;
    }
    fn world(&self) -> &World {
        &self.0
    }
}

impl Sink<SetPart> for Sets {
    type Fact = Set;
    fn fact(&self, object: &SetPart) -> Option<Set> {
        object.facts()
    }
    fn put(&self, key: Key, fact: Option<Set>) {
        self.0.servers.put_set(key, fact);
    }
    fn replace(&self, facts: Vec<(Key, Set)>) {
        self.0.servers.replace_sets(facts);
    }
    fn synced(&self, synced: &mut Synced) {
        synced.sets = true;
    }
    fn world(&self) -> &World {
        &self.0
    }
}

impl Sink<PodPart> for Pods {
    type Fact = (Box<str>, Server);
    fn fact(&self, object: &PodPart) -> Option<Self::Fact> {
        object.facts()
    }
    fn put(&self, key: Key, fact: Option<Self::Fact>) {
        self.0.servers.put_pod(&key, fact);
    }
    fn replace(&self, facts: Vec<(Key, Self::Fact)>) {
        self.0.servers.replace_pods(facts);
    }
    fn synced(&self, synced: &mut Synced) {
        synced.pods = true;
    }
    fn world(&self) -> &World {
        &self.0
    }
}

/// Fills what is known of the servers of clusters.
async fn servers(client: Client, world: Arc<World>, synced: &Sender<Synced>) {
    let ours = || pace::watching().labels(&selector_of_all());
    let sets = feed(Sets(Arc::clone(&world)), events::<SetPart>(client.clone(), ours()), synced);
    let pods = feed(Pods(world), events::<PodPart>(client, ours()), synced);
    tokio::join!(sets, pods);
}

/// Fills `world` for as long as it is polled; with what is known of servers, if anybody asks for it.
pub async fn run(client: Client, world: Arc<World>, synced: Sender<Synced>, asks_for_servers: bool) {
    let all = pace::watching;
    let labelled = all().labels(LABEL_ADMISSION);
    let clusters = feed(Clusters(Arc::clone(&world)), events::<ClusterPart>(client.clone(), all()), &synced);
    let hpas = feed(Hpas(Arc::clone(&world)), events::<HpaPart>(client.clone(), all()), &synced);
    let namespaces = feed(Namespaces(Arc::clone(&world)), events(client.clone(), labelled), &synced);
    let scalers = scalers(client.clone(), Arc::clone(&world), &synced);
    let all = async { tokio::join!(clusters, hpas, namespaces, scalers) }.boxed();
    if asks_for_servers {
        tokio::join!(all, servers(client, world, &synced));
    } else {
        synced.send_modify(|synced| (synced.sets, synced.pods) = (true, true));
        all.await;
    }
}

/// Watches ScaledObjects while their CRD exists. A watch on an absent resource polls for ever, and one whose CRD
/// was removed never lists again, so it starts and ends with the CRD.
async fn scalers(client: Client, world: Arc<World>, synced: &Sender<Synced>) {
    let crds = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
    let only = pace::watching().fields(&format!("metadata.name={SCALED_OBJECT_CRD}"));
    let mut crds = pin!(watcher(crds, only).backoff(Steady));
    let mut feeding: Option<BoxFuture<'_, ()>> = None;
    let mut listed = false;
    loop {
        let event = tokio::select! {
            // Safe to cancel: a stream loses nothing between two polls.
            event = crds.next() => event,
            // Polled through a reference, so it goes on where it was.
            () = feeding.as_mut().map_or_else(|| pending().boxed(), |feed| feed.boxed()) => {
                feeding = None;
                continue;
            }
        };
        let exists =
            |crd: PartialObjectMeta<CustomResourceDefinition>| crd.metadata.deletion_timestamp.is_none();
        let present = match event {
            Some(Ok(Event::Apply(crd))) => exists(crd),
            Some(Ok(Event::Delete(_))) => false,
            Some(Ok(Event::Init)) => {
                listed = false;
                continue;
            }
            Some(Ok(Event::InitApply(crd))) => {
                listed = exists(crd);
                continue;
            }
            Some(Ok(Event::InitDone)) => listed,
            Some(Err(error)) => {
                warn!(%error, "watching for KEDA's CRD failed; trying again");
                continue;
            }
            None => return,
        };
        if present && feeding.is_none() {
            info!("KEDA is installed: watching ScaledObjects");
            feeding = Some(
                feed(
                    Scalers(Arc::clone(&world)),
                    events::<ScaledObjectPart>(client.clone(), pace::watching()),
                    synced,
                )
                .boxed(),
            );
        } else if !present {
            info!("KEDA is not installed: no ScaledObject holds a count");
            feeding = None;
            world.replace::<Leaving>(Vec::new());
            world.replace::<Scaler>(Vec::new());
            synced.send_if_modified(|synced| !std::mem::replace(&mut synced.scalers, true));
        }
    }
}

fn events<K>(
    client: Client,
    which: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<Guarded<K>>>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(Api::<Guarded<K>>::all(client), which).backoff(Steady)
}

/// Puts the events of one watch into the index.
async fn feed<K, S>(
    sink: S,
    events: impl Stream<Item = watcher::Result<Event<Guarded<K>>>>,
    synced: &Sender<Synced>,
) where
    K: Resource<DynamicType = ()>,
    S: Sink<K>,
{
    let mut events = pin!(events);
    let mut list = Vec::new();
    let mut failing = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => list.clear(),
            Ok(Event::InitApply(object)) => {
                let (key, fact) = read(&sink, &object);
                list.extend(fact.map(|fact| (key, fact)));
            }
            Ok(Event::InitDone) => {
                failing = false;
                sink.replace(std::mem::take(&mut list));
                synced.send_if_modified(|synced| {
                    let before = *synced;
                    sink.synced(synced);
                    *synced != before
                });
            }
            Ok(Event::Apply(object)) => {
                let (key, fact) = read(&sink, &object);
                sink.put(key, fact);
            }
            Ok(Event::Delete(object)) => sink.put(key_of(&object), None),
            // Said once, until a list succeeds again.
            Err(error) if !std::mem::replace(&mut failing, true) => {
                warn!(kind = %K::kind(&()), %error, "cannot watch; trying again every few seconds");
            }
            Err(_) => {}
        }
    }
}

fn read<K, S>(sink: &S, object: &Guarded<K>) -> (Key, Option<S::Fact>)
where
    K: Resource<DynamicType = ()>,
    S: Sink<K>,
{
    let key = key_of(object);
    match &object.0 {
        _ if !sink.world().scope().has(&key.namespace) => (key, None),
        Ok(object) => (key, sink.fact(object)),
        Err(invalid) => {
            warn!(kind = %K::kind(&()), namespace = key.namespace, name = key.name, error = invalid.error, "object cannot be read and is left out");
            (key, None)
        }
    }
}

fn key_of<K: Resource<DynamicType = ()>>(object: &Guarded<K>) -> Key {
    Key::new(object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use serde_json::{Value, json};

    use super::super::scope::Scope;
    use super::*;

    fn hpa(name: &str, target: &Value) -> Guarded<HpaPart> {
        let target = json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": target});
        let object = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"scaleTargetRef": target, "maxReplicas": 5}});
        serde_json::from_value(object).unwrap()
    }

    #[tokio::test]
    async fn hpas_are_known_once_listed_and_follow_their_events() {
        let world = Arc::new(World::default());
        let (synced, seen) = tokio::sync::watch::channel(Synced::default());
        let on = async |events: Vec<Event<Guarded<HpaPart>>>| {
            feed(Hpas(Arc::clone(&world)), stream::iter(events.into_iter().map(Ok)), &synced).await;
            ["a", "b"].map(|cluster| {
                let target = world.target("n", cluster);
                target.hpas.iter().map(|hpa| hpa.name.clone()).collect::<Vec<_>>().join(" ")
            })
        };
        // The target's name is a number: unreadable, and no end of the watch.
        let listed =
            [hpa("y", &json!("a")), hpa("x", &json!("a")), hpa("z", &json!(5))].map(Event::InitApply);
        assert_eq!(on([Event::Init].into_iter().chain(listed).collect()).await, ["", ""]);
        assert_eq!(*seen.borrow(), Synced::default());
        let listed =
            [hpa("y", &json!("a")), hpa("x", &json!("a")), hpa("z", &json!(5))].map(Event::InitApply);
        let events = [Event::Init].into_iter().chain(listed).chain([Event::InitDone]);
        assert_eq!(on(events.collect()).await, ["x y", ""]);
        assert_eq!(*seen.borrow(), Synced { hpas: true, ..Synced::default() });
        assert_eq!(on(vec![Event::Apply(hpa("x", &json!("b")))]).await, ["y", "x"]);
        // What becomes unreadable is of no concern any more.
        assert_eq!(on(vec![Event::Apply(hpa("x", &json!(5)))]).await, ["y", ""]);
        assert_eq!(on(vec![Event::Delete(hpa("y", &json!("a")))]).await, ["", ""]);
    }

    #[tokio::test]
    async fn what_lies_elsewhere_is_not_known() {
        let world = Arc::new(World::within(Scope::of(&["m".into()])));
        let (synced, seen) = tokio::sync::watch::channel(Synced::default());
        let listed = [Event::Init, Event::InitApply(hpa("x", &json!("a"))), Event::InitDone];
        let events = listed.into_iter().chain([Event::Apply(hpa("y", &json!("a")))]);
        feed(Hpas(Arc::clone(&world)), stream::iter(events.map(Ok)), &synced).await;
        assert_eq!(world.target("n", "a").hpas, []);
        assert!(seen.borrow().hpas, "and that is no reason to wait");
    }

    #[tokio::test]
    async fn a_scaled_object_is_known_as_leaving_until_it_is_gone() {
        let world = Arc::new(World::default());
        let (synced, _seen) = tokio::sync::watch::channel(Synced::default());
        let target = json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"});
        let mut object =
            json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"scaleTargetRef": target}});
        let here: Guarded<ScaledObjectPart> = serde_json::from_value(object.clone()).unwrap();
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let going: Guarded<ScaledObjectPart> = serde_json::from_value(object).unwrap();
        let on = async |events: Vec<Event<Guarded<ScaledObjectPart>>>| {
            feed(Scalers(Arc::clone(&world)), stream::iter(events.into_iter().map(Ok)), &synced).await;
            let target = world.target("n", "a");
            (target.scalers.len(), target.leaving.len())
        };
        assert_eq!(on(vec![Event::Apply(here)]).await, (1, 0));
        assert_eq!(on(vec![Event::Apply(going.clone())]).await, (0, 1));
        assert_eq!(on(vec![Event::Init, Event::InitApply(going.clone()), Event::InitDone]).await, (0, 1));
        assert_eq!(on(vec![Event::Delete(going)]).await, (0, 0));
    }
}
