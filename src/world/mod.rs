//! What admission knows: bounds of clusters and the ScaledObjects attached to them, indexed by target.
//!
//! [`part`] holds the few fields that are read of each object, [`watch`] or [`files`] fills the index, [`live`] reads a
//! single object when what is known may be old, [`claims`] remembers what was let through and is not stored yet. [`servers`]
//! knows the pods of each cluster, for the scaler.
//!
//! Architecture invariant: compact facts alone, no whole objects; the lock is never held across an await, and
//! the cost of a look-up does not grow with the number of objects.

pub mod claims;
pub mod files;
pub mod live;
pub mod part;
pub mod scope;
pub mod servers;
pub mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hashbrown::{Equivalent, HashMap};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

pub use crate::policy::ForeignHpa;
use crate::policy::{Bounds, Mode, Scaler};

use claims::{Claimant, Claimed, Claims};
use scope::Scope;

/// A cluster as admission sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The resourceVersion that the facts are of.
    pub resource_version: String,
    /// Its own bounds.
    pub bounds: Bounds,
    /// Whether its container requests cpu, by a request or a limit.
    pub cpu_request: bool,
    /// Whether its container requests memory, likewise.
    pub memory_request: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its uid, by which its StatefulSet is told.
    pub uid: Arc<str>,
    /// How many replicas it wants.
    pub replicas: i32,
    /// The port that its servers listen on.
    pub port: u16,
}

/// What is known of one scale target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The cluster; `None` if a ScaledObject names one that does not exist.
    pub cluster: Option<Cluster>,
    /// The attached ScaledObjects in the order of their names; KEDA allows one.
    pub scalers: Vec<Scaler>,
    /// The HPAs that no ScaledObject controls, in the order of their names.
    pub hpas: Vec<ForeignHpa>,
    /// ScaledObjects that are being deleted. They drive nothing any more, but KEDA may still have to put a count back.
    pub leaving: Vec<Leaving>,
}

/// A ScaledObject that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving(pub Scaler);

impl Target {
    /// The ScaledObject that counts: the one that holds the count, or else a paused one.
    pub fn scaler(&self) -> Option<&Scaler> {
        self.scalers.iter().find(|scaler| scaler.holds()).or(self.scalers.first())
    }
}

/// A namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

impl Key {
    /// A key of its own.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// A borrowed [`Key`], so that a look-up allocates nothing.
#[derive(Hash)]
struct KeyRef<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.namespace == key.namespace && self.name == key.name
    }
}

/// A driver and the cluster that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment<D> {
    /// The name of the cluster, in the driver's namespace.
    pub cluster: String,
    /// What is known of the driver.
    pub driver: D,
}

impl<D> Attachment<D> {
    /// The driver, if it is attached to this cluster.
    pub fn driver_of(self, cluster: &str) -> Option<D> {
        (self.cluster == cluster).then_some(self.driver)
    }
}

/// One kind of driver: where a target keeps it.
pub trait Attached: Sized + Clone + PartialEq + Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> &str;
    /// Where a target keeps those of its kind.
    fn of(target: &mut Target) -> &mut Vec<Self>;
    /// Which cluster each of its kind names: an update may name another one.
    fn index(index: &mut Index) -> &mut HashMap<Key, String>;
    /// Takes in that there is one by this name, where it claims the cluster.
    fn told(claimed: &mut Claimed, name: &str);
    /// What those of its kind say is wrong with them.
    fn errors(index: &mut Index) -> &mut HashMap<Key, String>;
}

impl Attached for Scaler {
    fn name(&self) -> &str {
        &self.name
    }
    fn of(target: &mut Target) -> &mut Vec<Self> {
        &mut target.scalers
    }
    fn index(index: &mut Index) -> &mut HashMap<Key, String> {
        &mut index.scalers
    }
    fn told(claimed: &mut Claimed, name: &str) {
        claimed.scaler_told(name);
    }
    fn errors(index: &mut Index) -> &mut HashMap<Key, String> {
        &mut index.scaler_errors
    }
}

impl Attached for Leaving {
    fn name(&self) -> &str {
        &self.0.name
    }
    fn of(target: &mut Target) -> &mut Vec<Self> {
        &mut target.leaving
    }
    fn index(index: &mut Index) -> &mut HashMap<Key, String> {
        &mut index.leaving
    }
    fn told(claimed: &mut Claimed, name: &str) {
        claimed.scaler_told(name);
    }
    fn errors(index: &mut Index) -> &mut HashMap<Key, String> {
        &mut index.scaler_errors
    }
}

impl Attached for ForeignHpa {
    fn name(&self) -> &str {
        &self.name
    }
    fn of(target: &mut Target) -> &mut Vec<Self> {
        &mut target.hpas
    }
    fn index(index: &mut Index) -> &mut HashMap<Key, String> {
        &mut index.hpas
    }
    fn told(claimed: &mut Claimed, name: &str) {
        claimed.hpa_told(name);
    }
    fn errors(index: &mut Index) -> &mut HashMap<Key, String> {
        &mut index.hpa_errors
    }
}

/// What the lock guards.
#[derive(Debug, Default)]
pub struct Index {
    /// Shared, so that a look-up copies nothing; a change copies one that somebody is looking at.
    targets: HashMap<Key, Arc<Target>>,
    scalers: HashMap<Key, String>,
    hpas: HashMap<Key, String>,
    leaving: HashMap<Key, String>,
    scaler_errors: HashMap<Key, String>,
    hpa_errors: HashMap<Key, String>,
    /// Modes of the namespaces whose label names one.
    modes: HashMap<String, Mode>,
}

/// The index. Cheap to share behind an `Arc`.
#[derive(Debug, Default)]
pub struct World {
    index: RwLock<Index>,
    claims: Mutex<Claims>,
    /// Who is told of clusters whose drivers have changed.
    listener: Mutex<Option<UnboundedSender<Key>>>,
    /// The pods of each cluster.
    pub servers: servers::Servers,
    scope: Scope,
}

impl World {
    /// One that knows nothing yet, and of nothing but these namespaces.
    pub fn within(scope: Scope) -> Self {
        Self { scope, ..Self::default() }
    }

    /// The namespaces whose objects are known here.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Tells of each cluster whose drivers change from now on, in place of whoever listened before. The listener must
    /// keep up: it is told without waiting. While nobody listens, nothing is kept.
    pub fn listen(&self) -> UnboundedReceiver<Key> {
        let (listener, changes) = unbounded_channel();
        *self.listener() = Some(listener);
        changes
    }

    fn tell(&self, changed: impl IntoIterator<Item = Key>) {
        let mut listener = self.listener();
        let mut changed = changed.into_iter();
        if listener.as_ref().is_some_and(|told| !changed.all(|key| told.send(key).is_ok())) {
            // It has gone.
            *listener = None;
        }
    }

    fn listener(&self) -> MutexGuard<'_, Option<UnboundedSender<Key>>> {
        // One value, whole after any panic.
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the cluster that a ScaledObject drives, or has driven until its deletion began.
    pub fn driven_by(&self, namespace: &str, scaled_object: &str) -> Option<String> {
        let (index, key) = (self.read(), KeyRef { namespace, name: scaled_object });
        index.scalers.get(&key).or_else(|| index.leaving.get(&key)).cloned()
    }

    /// What is known of a cluster by that name. Nothing known: an empty target.
    pub fn target(&self, namespace: &str, name: &str) -> Arc<Target> {
        self.read().targets.get(&KeyRef { namespace, name }).cloned().unwrap_or_default()
    }

    /// Takes in a cluster, new or changed.
    pub fn put_cluster(&self, key: Key, cluster: Cluster) {
        self.write().target(key).cluster = Some(cluster);
    }

    /// Forgets a cluster that is gone.
    pub fn remove_cluster(&self, key: &Key) {
        self.write().change(key, |target| target.cluster = None);
    }

    /// Takes in all clusters of a fresh list; those it lacks are gone.
    pub fn replace_clusters(&self, clusters: Vec<(Key, Cluster)>) {
        let mut index = self.write();
        index.change_all(|target| target.cluster = None);
        for (key, cluster) in clusters {
            index.target(key).cluster = Some(cluster);
        }
    }

    /// Takes in a driver, new or changed; `None` if it is attached to no cluster.
    pub fn put<D: Attached>(&self, key: &Key, attachment: Option<Attachment<D>>) {
        let mut index = self.write();
        if attachment.as_ref().is_some_and(|attachment| index.knows(key, attachment)) {
            return;
        }
        let left = index.detach::<D>(key);
        let joined = attachment.map(|attachment| index.attach(key, attachment));
        drop(index);
        if let Some(target) = &joined {
            self.claims().told::<D>(target, &key.name);
        }
        self.tell(left.into_iter().chain(joined));
    }

    /// Takes in all drivers of one kind from a fresh list; those it lacks are gone.
    pub fn replace<D: Attached>(&self, drivers: Vec<(Key, Attachment<D>)>) {
        let mut index = self.write();
        let left: Vec<_> =
            D::index(&mut index).drain().map(|(key, cluster)| Key::new(key.namespace, cluster)).collect();
        index.change_all(|target| D::of(target).clear());
        let mut claims = self.claims();
        let attach = |(key, attachment): (Key, Attachment<D>)| {
            let target = index.attach(&key, attachment);
            claims.told::<D>(&target, &key.name);
            target
        };
        let joined: Vec<_> = drivers.into_iter().map(attach).collect();
        drop((index, claims));
        self.tell(left.into_iter().chain(joined));
    }

    /// The claims that a driver of this cluster is to be judged beside: of those let through a moment ago.
    pub fn rivals<D: Claimant>(&self, target: &Key, driver: &D, now: Instant) -> Claimed {
        self.claims().rivals(target, driver, now)
    }

    /// Claims a cluster for a driver that is let through, unless its rivals are others by now than those beside which
    /// it was judged.
    pub fn claim<D: Claimant>(&self, target: &Key, driver: D, now: Instant, judged_beside: &Claimed) -> bool {
        self.claims().claim(target, driver, now, judged_beside)
    }

    /// What a driver says is wrong with it.
    pub fn error<D: Attached>(&self, namespace: &str, name: &str) -> Option<String> {
        D::errors(&mut self.write()).get(&KeyRef { namespace, name }).cloned()
    }

    /// Takes in what a driver says is wrong with it; `None`: nothing.
    pub fn put_error<D: Attached>(&self, key: &Key, error: Option<String>) {
        let mut index = self.write();
        let errors = D::errors(&mut index);
        if errors.get(key) == error.as_ref() {
            return;
        }
        match error {
            Some(error) => errors.insert(key.clone(), error),
            None => errors.remove(key),
        };
        let cluster = D::index(&mut index).get(key).map(|cluster| Key::new(&key.namespace, cluster));
        drop(index);
        self.tell(cluster);
    }

    /// Takes in what all drivers of a fresh list say is wrong with them.
    pub fn replace_errors<D: Attached>(&self, errors: Vec<(Key, Option<String>)>) {
        let errors = errors.into_iter().filter_map(|(key, error)| Some((key, error?))).collect();
        // Whoever is concerned is told by `replace`, which comes next.
        *D::errors(&mut self.write()) = errors;
    }

    /// The mode that a namespace's label names.
    pub fn mode(&self, namespace: &str) -> Option<Mode> {
        self.read().modes.get(namespace).copied()
    }

    /// Takes in a namespace's mode; `None` if its label names none.
    pub fn put_mode(&self, namespace: String, mode: Option<Mode>) {
        let mut index = self.write();
        match mode {
            Some(mode) => index.modes.insert(namespace, mode),
            None => index.modes.remove(&namespace),
        };
    }

    /// Takes in the modes of all labelled namespaces.
    pub fn replace_modes(&self, modes: impl IntoIterator<Item = (String, Mode)>) {
        self.write().modes = modes.into_iter().collect();
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        // What a panicking writer leaves is at the worst a claim too many or too few.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        // Every change leaves the index whole, so what a panicking writer left is usable.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    /// Whether a driver is known to be just this, and attached to the same cluster.
    fn knows<D: Attached>(&mut self, key: &Key, Attachment { cluster, driver }: &Attachment<D>) -> bool {
        let (namespace, name) = (key.namespace.as_str(), cluster.as_str());
        D::index(self).get(key) == Some(cluster)
            && self
                .targets
                .get_mut(&KeyRef { namespace, name })
                .is_some_and(|target| D::of(Arc::make_mut(target)).contains(driver))
    }

    /// The cluster that the driver is attached to now.
    fn attach<D: Attached>(&mut self, key: &Key, Attachment { cluster, driver }: Attachment<D>) -> Key {
        let target = Key::new(&key.namespace, &cluster);
        let drivers = D::of(self.target(target.clone()));
        let place = drivers.partition_point(|known| known.name() < driver.name());
        drivers.insert(place, driver);
        D::index(self).insert(key.clone(), cluster);
        target
    }

    /// The cluster that the driver was attached to.
    fn detach<D: Attached>(&mut self, key: &Key) -> Option<Key> {
        let target = Key::new(&key.namespace, D::index(self).remove(key)?);
        self.change(&target, |target| D::of(target).retain(|driver| driver.name() != key.name));
        Some(target)
    }

    /// A target to be added to; a new one, where nothing is known of it yet.
    fn target(&mut self, key: Key) -> &mut Target {
        Arc::make_mut(self.targets.entry(key).or_default())
    }

    /// Changes a target, and drops it once nothing is known of it any more.
    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Target)) {
        if let Some(target) = self.targets.get_mut(key) {
            let target = Arc::make_mut(target);
            change(target);
            if *target == Target::default() {
                self.targets.remove(key);
            }
        }
    }

    /// Changes every target, and drops those of which nothing is known any more.
    fn change_all(&mut self, change: impl Fn(&mut Target)) {
        self.targets.retain(|_, target| {
            let target = Arc::make_mut(target);
            change(target);
            *target != Target::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(resource_version: &str) -> Cluster {
        Cluster { resource_version: resource_version.into(), ..Cluster::default() }
    }

    fn attachment(cluster: &str, name: &str, paused: bool) -> Attachment<Scaler> {
        let scaler = Scaler { name: name.into(), min: None, max: None, paused, takes_over: None };
        Attachment { cluster: cluster.into(), driver: scaler }
    }

    fn names(target: &Target) -> Vec<&str> {
        target.scalers.iter().map(|scaler| scaler.name.as_str()).collect()
    }

    #[test]
    fn either_may_come_first() {
        let world = World::default();
        world.put(&Key::new("n", "s"), Some(attachment("a", "s", false)));
        assert_eq!(names(&world.target("n", "a")), ["s"]);
        world.put_cluster(Key::new("n", "a"), cluster("1"));
        let target = world.target("n", "a");
        assert_eq!(names(&target), ["s"]);
        assert_eq!(target.cluster, Some(cluster("1")));
        assert_eq!(*world.target("other", "a"), Target::default());
    }

    #[test]
    fn a_scaler_may_move_and_leaves_nothing_behind() {
        let world = World::default();
        let key = Key::new("n", "s");
        world.put(&key, Some(attachment("a", "s", false)));
        world.put(&key, Some(attachment("b", "s", false)));
        assert_eq!(*world.target("n", "a"), Target::default());
        assert_eq!(names(&world.target("n", "b")), ["s"]);
        world.put::<Scaler>(&key, None);
        assert!(world.read().targets.is_empty() && world.read().scalers.is_empty());
    }

    #[test]
    fn the_one_that_holds_counts() {
        let world = World::default();
        world.put(&Key::new("n", "b"), Some(attachment("a", "b", false)));
        world.put(&Key::new("n", "a"), Some(attachment("a", "a", true)));
        let target = world.target("n", "a");
        assert_eq!(names(&target), ["a", "b"]);
        assert_eq!(target.scaler().map(|scaler| scaler.name.as_str()), Some("b"));
        world.put::<Scaler>(&Key::new("n", "b"), None);
        assert_eq!(world.target("n", "a").scaler().map(|scaler| scaler.name.clone()), Some("a".into()));
    }

    #[test]
    fn a_list_replaces_all_of_its_kind_and_nothing_of_the_other() {
        let world = World::default();
        world.put_cluster(Key::new("n", "gone"), cluster("1"));
        world.put_cluster(Key::new("n", "kept"), cluster("1"));
        world.put(&Key::new("n", "s"), Some(attachment("gone", "s", false)));
        world.replace_clusters(vec![(Key::new("n", "kept"), cluster("2"))]);
        assert_eq!(world.target("n", "kept").cluster, Some(cluster("2")));
        assert_eq!(world.target("n", "gone").cluster, None);
        assert_eq!(names(&world.target("n", "gone")), ["s"]);
        world.replace::<Scaler>(Vec::new());
        assert_eq!(*world.target("n", "gone"), Target::default());
        assert_eq!(world.target("n", "kept").cluster, Some(cluster("2")));
        world.remove_cluster(&Key::new("n", "kept"));
        assert!(world.read().targets.is_empty());
    }

    #[test]
    fn drivers_of_one_kind_leave_the_other_alone() {
        let world = World::default();
        let hpa =
            || Attachment { cluster: "a".into(), driver: ForeignHpa { name: "h".into(), min: 1, max: 5 } };
        world.put(&Key::new("n", "s"), Some(attachment("a", "s", false)));
        world.put(&Key::new("n", "h"), Some(hpa()));
        assert_eq!(world.target("n", "a").hpas, [ForeignHpa { name: "h".into(), min: 1, max: 5 }]);
        world.replace::<Scaler>(Vec::new());
        assert_eq!(world.target("n", "a").hpas.len(), 1);
        world.replace(vec![(Key::new("n", "h"), hpa())]);
        assert_eq!(world.target("n", "a").hpas.len(), 1);
        world.put::<ForeignHpa>(&Key::new("n", "h"), None);
        assert!(world.read().targets.is_empty() && world.read().hpas.is_empty());
    }

    #[test]
    fn the_listener_is_told_of_the_clusters_that_a_driver_left_and_joined() {
        let world = World::default();
        // Nobody listens yet.
        world.put(&Key::new("n", "early"), Some(attachment("a", "early", false)));
        world.put::<Scaler>(&Key::new("n", "early"), None);
        let mut changes = world.listen();
        let mut told =
            || std::iter::from_fn(|| changes.try_recv().ok()).map(|key| key.name).collect::<Vec<_>>();
        world.put(&Key::new("n", "s"), Some(attachment("a", "s", false)));
        assert_eq!(told(), ["a"]);
        world.put(&Key::new("n", "s"), Some(attachment("b", "s", false)));
        assert_eq!(told(), ["a", "b"]);
        world.put_cluster(Key::new("n", "b"), cluster("1"));
        assert_eq!(told(), Vec::<String>::new());
        world.replace(vec![(Key::new("n", "t"), attachment("c", "t", false))]);
        assert_eq!(told(), ["b", "c"]);
        // The same again is no news, and what is wrong with it is.
        world.put(&Key::new("n", "t"), Some(attachment("c", "t", false)));
        assert_eq!(told(), Vec::<String>::new());
        world.put_error::<Scaler>(&Key::new("n", "t"), Some("no Prometheus".into()));
        assert_eq!(
            (told(), world.error::<Scaler>("n", "t")),
            (vec!["c".into()], Some("no Prometheus".into()))
        );
        world.put_error::<Scaler>(&Key::new("n", "t"), Some("no Prometheus".into()));
        assert_eq!(told(), Vec::<String>::new());
        world.put_error::<Scaler>(&Key::new("n", "t"), None);
        assert_eq!((told(), world.error::<Scaler>("n", "t")), (vec!["c".into()], None));
        // The next takes its place; and once it has gone, nothing is kept for it.
        let mut next = world.listen();
        assert!(changes.try_recv().is_err() && changes.is_closed());
        world.put(&Key::new("n", "t"), Some(attachment("d", "t", false)));
        assert_eq!(std::iter::from_fn(|| next.try_recv().ok()).count(), 2);
        drop(next);
        world.put(&Key::new("n", "t"), Some(attachment("c", "t", false)));
        assert!(world.listener().is_none());
    }
}
