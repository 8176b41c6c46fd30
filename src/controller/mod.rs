//! The controller: each cluster becomes a StatefulSet and two Services, and tells how it is.
//!
//! A reconciliation is four steps: `observe` reads, `plan` decides, `apply` writes, `status` reports. Only
//! the first and the third have a client.
//!
//! Architecture invariant: `spec` of a `VLLMCluster` is never written. Nothing is remembered of a reconciliation
//! but how often one has failed, so a restart in steady state writes nothing.

mod apply;
mod difference;
mod events;
mod kept;
mod observe;
mod plan;
pub(crate) mod pods;
mod ports;
mod refusals;
mod status;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::names::{
    API_VERSION, CONDITION_READY, CONDITION_RECONCILING, CONDITION_STALLED, KIND, LABEL_CLUSTER,
    LABEL_MANAGED_BY, OPERATOR, SCALED_OBJECT_KIND, selector_of_all,
};
use crate::api::{AutoscalingStatus, VLLMCluster, VLLMClusterSpec, VLLMClusterStatus};
use crate::objects::{InvalidCluster, ValidatedCluster};
use crate::pace::{self, Steady};
use crate::policy::cluster::Spec;
use crate::policy::{self, Bounds, Scaler};
use crate::telemetry::{ControllerMetrics, Figures, State};
use crate::world::{ForeignHpa, Key, Leaving, Target, World};

use apply::{Outcome, apply, write_status};
use kept::Kept;
use observe::{observe, read_status};
use plan::plan;
use refusals::Refusals;
use status::Drivers;

/// Reconciliations at once: one waits mostly for the API server.
const CONCURRENCY: u16 = 16;
/// First wait after a failure; it doubles up to [`RETRY_CEILING`].
const RETRY_FLOOR: Duration = Duration::from_secs(1);
/// Longest wait after a failure: whatever ends, its end is found out within a minute, calls included.
const RETRY_CEILING: Duration = Duration::from_secs(30);
/// First wait after a refusal that a person must lift, as by a raised quota; it doubles up to [`REFUSED_CEILING`].
const REFUSED_FLOOR: Duration = Duration::from_secs(10);
/// Longest wait after such a refusal. Nobody says when it is lifted, as when a role is given back.
const REFUSED_CEILING: Duration = Duration::from_secs(45);
/// How often to look again at an object of somebody else: its removal has no event that reaches us.
const FOREIGN_RETRY: Duration = Duration::from_secs(15);
/// How often to look again at what is being deleted.
const WAITING_RETRY: Duration = Duration::from_secs(5);
/// Longest text of the API server that is told on, in characters: it repeats what users wrote.
const MAX_TOLD: usize = 1024;

/// The kinds of objects that a cluster consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    StatefulSet,
    HeadlessService,
    ClientService,
    Budget,
}

impl Kind {
    const ALL: [Self; 4] = [Self::StatefulSet, Self::HeadlessService, Self::ClientService, Self::Budget];

    /// Place in arrays that hold one entry for each kind.
    fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StatefulSet => "StatefulSet",
            Self::HeadlessService | Self::ClientService => "Service",
            Self::Budget => "PodDisruptionBudget",
        })
    }
}

/// Why a call to the API server gave nothing.
#[derive(Debug, thiserror::Error)]
enum CallError {
    /// It did not answer in time.
    #[error("{0} took too long; trying again")]
    Timeout(String),
    /// It refused, or could not be reached.
    #[error("{0}: {message}", message = told(.1))]
    Api(String, kube::Error),
}

/// What the API server says, without the form in which it says it: this is read in a condition.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => shortened(status.message.clone(), MAX_TOLD),
        other => shortened(other.to_string(), MAX_TOLD),
    }
}

/// A text of at most `most` characters, and a note of how much is left out.
fn shortened(text: String, most: usize) -> String {
    let Some((cut, _)) = text.char_indices().nth(most) else { return text };
    let (shown, left_out) = text.split_at(cut);
    format!("{shown}… ({} more characters)", left_out.chars().count())
}

impl CallError {
    /// Whether the same call would be refused again until a person changes something.
    fn is_final(&self) -> bool {
        matches!(self, Self::Api(_, kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 404 | 422))
            && !self.namespace_is_going()
    }

    /// Whether somebody else wrote at the same moment, so that the same call may pass now.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(_, kube::Error::Api(status)) if status.code == 409)
    }

    /// Whether the namespace is being deleted, in which nothing can be created any more.
    fn namespace_is_going(&self) -> bool {
        matches!(self, Self::Api(_, kube::Error::Api(status))
            if status.code == 404 && status.message.contains("namespaces")
            || status.code == 403 && status.message.contains("because it is being terminated"))
    }
}

/// Whether the API server says that this very object is gone. A 404 may also be of its namespace or of its kind, as
/// while the API server starts; then the object may well be there.
fn is_gone(error: &kube::Error, name: &str) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404
        && status.details.as_ref().is_some_and(|of| of.name == name && of.kind != "namespaces"))
}

/// A reconciliation that must be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Retry {
    why: String,
    pace: Pace,
}

/// How soon to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Without a wait the first time: somebody else wrote at the same moment.
    AtOnce,
    /// After a second, then ever later.
    Soon,
    /// After ten seconds, then ever later: a person must do something first.
    Patient,
}

impl Pace {
    /// The wait after so many failures before this one.
    fn wait(self, failed: u32) -> Duration {
        let doubled = |floor: Duration, ceiling| floor.saturating_mul(1 << failed.min(6)).min(ceiling);
        match self {
            Self::AtOnce if failed == 0 => Duration::ZERO,
            Self::AtOnce | Self::Soon => doubled(RETRY_FLOOR, RETRY_CEILING),
            Self::Patient => doubled(REFUSED_FLOOR, REFUSED_CEILING),
        }
    }
}

impl From<&CallError> for Retry {
    fn from(error: &CallError) -> Self {
        let pace = match error {
            error if error.is_conflict() => Pace::AtOnce,
            error if error.is_final() => Pace::Patient,
            _ => Pace::Soon,
        };
        Self { why: error.to_string(), pace }
    }
}

struct Context {
    client: Client,
    recorder: Recorder,
    world: Arc<World>,
    metrics: ControllerMetrics,
    refusals: Refusals,
    /// Failures in a row, by namespace and name.
    failures: Mutex<HashMap<(String, String), u32>>,
}

impl Context {
    fn new(client: Client, world: Arc<World>, metrics: ControllerMetrics) -> Self {
        let recorder = Recorder::new(client.clone(), OPERATOR.into());
        Self { client, recorder, world, metrics, refusals: Refusals::default(), failures: Mutex::default() }
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), u32>> {
        // Counts alone, whole after any panic.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reconciles every cluster until `shutdown`, and those in `changed` again: what drives them is another. Failures are
/// counted anew by each run: one term of a leader knows nothing of the one before.
pub async fn run(
    client: Client,
    world: Arc<World>,
    changed: UnboundedReceiver<Key>,
    metrics: ControllerMetrics,
    shutdown: CancellationToken,
) {
    let changed = futures::stream::unfold(changed, |mut changed| async {
        let Key { namespace, name } = changed.recv().await?;
        Some((ObjectRef::new(&name).within(&namespace), changed))
    });
    let ours = pace::watching().labels(&format!("{LABEL_MANAGED_BY}={OPERATOR}"));
    let clusters = Api::<Kept>::all(client.clone());
    // A pod's condition may change where no count of the StatefulSet does. That it has is all that is watched.
    let servers = pace::watching().labels(&selector_of_all());
    // A pod that is refused leaves nothing behind but an event, which comes after the count that lacks it.
    let refusals = pace::watching().fields("reason=FailedCreate,involvedObject.kind=StatefulSet");
    let context = Arc::new(Context::new(client.clone(), world, metrics));
    let refusals = watcher(Api::<Event>::all(client.clone()), refusals).inspect_ok({
        let context = Arc::clone(&context);
        move |told| context.refusals.take(told)
    });
    Controller::new(clusters, pace::watching())
        .watches(Api::<PartialObjectMeta<StatefulSet>>::all(client.clone()), ours.clone(), |set| {
            clusters_of(&set.metadata)
        })
        .watches(Api::<PartialObjectMeta<Service>>::all(client.clone()), ours.clone(), |service| {
            clusters_of(&service.metadata)
        })
        .watches(Api::<PartialObjectMeta<PodDisruptionBudget>>::all(client.clone()), ours, |budget| {
            clusters_of(&budget.metadata)
        })
        .watches_stream(refusals.touched_objects(), |event| {
            let set = event.involved_object;
            // Of a cluster's own name; any other has no cluster, and is forgotten at once.
            let namespace = set.namespace.unwrap_or_default();
            set.name.map(|name| ObjectRef::new(&name).within(&namespace))
        })
        .watches(Api::<PartialObjectMeta<Pod>>::all(client), servers, |pod| clusters_of(&pod.metadata))
        .reconcile_on(changed)
        .trigger_backoff(Steady)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, retry, Arc::clone(&context))
        .for_each(|result| {
            if let Err(error) = result {
                debug!(%error, "reconciliation");
                if let controller::Error::ObjectNotFound(gone) = error {
                    let namespace = gone.namespace.unwrap_or_default();
                    context.metrics.gone(&namespace, &gone.name);
                    context.failures().remove(&(namespace, gone.name));
                }
            }
            std::future::ready(())
        })
        .await;
    context.metrics.resigned();
}

/// The clusters that an object of ours concerns: the one that owns it, and the one that its label names. Usually
/// the same; an object that has lost one of the two still leads home by the other.
fn clusters_of(metadata: &ObjectMeta) -> Vec<ObjectRef<Kept>> {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.kind == KIND);
    let label = metadata.labels.iter().flatten().find(|(name, _)| *name == LABEL_CLUSTER);
    let mut names: Vec<_> =
        owner.map(|owner| &owner.name).into_iter().chain(label.map(|(_, name)| name)).collect();
    names.dedup();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    names.into_iter().map(|name| ObjectRef::new(name).within(namespace)).collect()
}

async fn reconcile(cluster: Arc<Kept>, context: Arc<Context>) -> Result<Action, Retry> {
    if !context.world.scope().has(&cluster.namespace().unwrap_or_default()) {
        return Ok(Action::await_change());
    }
    let begun = Instant::now();
    let ended = reconcile_any(&cluster, &context).await;
    context.metrics.reconciled(ended.is_ok(), begun.elapsed());
    ended
}

async fn reconcile_any(cluster: &Kept, context: &Context) -> Result<Action, Retry> {
    let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let action = match cluster.read() {
        Ok(cluster) => reconcile_readable(context, &cluster, Timestamp::now()).await?,
        Err(error) => {
            let (namespace, name) = (key.0.as_str(), key.1.as_str());
            warn!(namespace, name, error, "VLLMCluster cannot be read and is left alone");
            report_unreadable(context, cluster.meta(), &error).await?;
            Action::await_change()
        }
    };
    context.failures().remove(&key);
    Ok(action)
}

async fn reconcile_readable(
    context: &Context,
    cluster: &VLLMCluster,
    now: Timestamp,
) -> Result<Action, Retry> {
    let client = &context.client;
    if cluster.metadata.deletion_timestamp.is_some() {
        // What it owns goes by garbage collection.
        return Ok(Action::await_change());
    }
    let before = cluster.status.clone().unwrap_or_default();
    let (after, action) = match ValidatedCluster::try_from(cluster) {
        Ok(cluster) => {
            // Boxed, as the objects in them are large.
            let observed = Box::pin(observe(client, &context.refusals, &cluster)).await;
            let plan = plan(&cluster, &observed);
            let applied = Box::pin(apply(client, &cluster, plan, observed)).await;
            let drivers = drivers(&context.world, &cluster);
            (status::status(&cluster, &before, &applied, &drivers, now), next(&applied.outcomes))
        }
        Err(
            invalid @ (InvalidCluster::NameTooLong(_)
            | InvalidCluster::NoReplicas
            | InvalidCluster::PodTemplate(_)),
        ) => {
            let generation = cluster.metadata.generation.unwrap_or_default();
            let after =
                status::unbuildable(&cluster.name_any(), generation, &before, &invalid.to_string(), now);
            (after, Ok(Action::await_change()))
        }
        Err(invalid @ InvalidCluster::Incomplete(_)) => {
            return Err(Retry { why: invalid.to_string(), pace: Pace::Soon });
        }
    };
    context.metrics.seen(
        cluster.metadata.namespace.as_deref().unwrap_or_default(),
        cluster.metadata.name.as_deref().unwrap_or_default(),
        figures(&cluster.spec, &after),
    );
    report(context, &cluster.metadata, cluster.status.as_ref(), &after).await?;
    action
}

/// What metrics tell of a cluster.
fn figures(spec: &VLLMClusterSpec, status: &VLLMClusterStatus) -> Figures {
    let holds = |kind: &str| {
        status.conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let (min, max) = match &status.autoscaling {
        Some(driver) => (driver.min_replicas, Some(driver.max_replicas)),
        None => (spec.min_replicas.unwrap_or(1), spec.max_replicas),
    };
    Figures {
        desired: spec.replicas.unwrap_or_default(),
        ready: status.ready_replicas,
        min,
        max,
        state: if holds(CONDITION_STALLED) {
            State::Stalled
        } else if holds(CONDITION_RECONCILING) || !holds(CONDITION_READY) {
            State::Reconciling
        } else {
            State::Ready
        },
    }
}

/// Writes what differs of a status, and tells of it.
async fn report(
    context: &Context,
    metadata: &ObjectMeta,
    before: Option<&VLLMClusterStatus>,
    after: &VLLMClusterStatus,
) -> Result<(), Retry> {
    let Some(patch) = status::patch(before, after) else { return Ok(()) };
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    match write_status(&context.client, namespace, name, &patch).await {
        // Deleted meanwhile.
        Err(CallError::Api(_, error)) if is_gone(&error, name) => Ok(()),
        Err(error) => Err(Retry::from(&error)),
        Ok(()) => {
            let ObjectMeta { name, namespace, uid, .. } = metadata.clone();
            let (kind, api_version) = (Some(KIND.into()), Some(API_VERSION.into()));
            let cluster =
                ObjectReference { api_version, kind, name, namespace, uid, ..ObjectReference::default() };
            events::publish(&context.recorder, &cluster, &events::notices(before, after)).await;
            Ok(())
        }
    }
}

/// Tells on a cluster that it cannot be read. Its status is read by itself: the fault is in the spec.
async fn report_unreadable(context: &Context, metadata: &ObjectMeta, why: &str) -> Result<(), Retry> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let before = read_status(&context.client, metadata.namespace.as_deref().unwrap_or_default(), name)
        .await
        .map_err(|error| Retry::from(&error))?;
    let why = format!("the spec cannot be read: {why}; correct it, or update the operator");
    let generation = metadata.generation.unwrap_or_default();
    let after =
        status::unbuildable(name, generation, &before.clone().unwrap_or_default(), &why, Timestamp::now());
    report(context, metadata, before.as_ref(), &after).await
}

/// What drives the cluster's count, and what does not fit between the two.
fn drivers(world: &World, cluster: &ValidatedCluster) -> Drivers {
    let VLLMClusterSpec { min_replicas, max_replicas, .. } = cluster.spec;
    let bounds = Bounds { min: min_replicas, max: max_replicas };
    let target = world.target(&cluster.namespace, &cluster.name);
    // One that is being deleted counts until it is gone. KEDA puts the original count back meanwhile, by a read and a
    // conditional write; a status of ours between the two would lose that count for good.
    let mut scalers = target.scalers.clone();
    let leaving = target.leaving.iter().map(|Leaving(scaler)| scaler);
    scalers.extend(
        leaving.filter(|going| target.scalers.iter().all(|scaler| scaler.name != going.name)).cloned(),
    );
    let spec = Spec { replicas: Some(cluster.replicas), bounds };
    let conflicts = policy::cluster::conflicts(&cluster.name, spec, &scalers, &target.hpas);
    Drivers {
        conflicts: conflicts.iter().map(ToString::to_string).collect(),
        autoscaling: in_charge(world, &cluster.namespace, &target, bounds),
    }
}

/// The driver in charge: the ScaledObject that holds the count, else a paused one, else one that is being deleted and
/// not gone yet, else an HPA.
fn in_charge(world: &World, namespace: &str, target: &Target, bounds: Bounds) -> Option<AutoscalingStatus> {
    if let Some(scaler) = target.scaler().or(target.leaving.first().map(|Leaving(scaler)| scaler)) {
        let (min, max) = scaler.within(bounds).unwrap_or((scaler.lower(), scaler.upper()));
        let error = world.error::<Scaler>(namespace, &scaler.name);
        return Some(AutoscalingStatus {
            kind: SCALED_OBJECT_KIND.into(),
            name: scaler.name.clone(),
            min_replicas: min,
            max_replicas: max,
            paused: scaler.paused,
            last_error: error.map(|error| shortened(error, MAX_TOLD)),
        });
    }
    let hpa = target.hpas.first()?;
    let error = world.error::<ForeignHpa>(namespace, &hpa.name);
    Some(AutoscalingStatus {
        kind: "HorizontalPodAutoscaler".into(),
        name: hpa.name.clone(),
        min_replicas: hpa.min.max(bounds.lower()),
        max_replicas: hpa.max.min(bounds.upper()),
        paused: false,
        last_error: error.map(|error| shortened(error, MAX_TOLD)),
    })
}

/// When to look again, from what became of the objects: the most urgent of them decides.
fn next(outcomes: &[Outcome]) -> Result<Action, Retry> {
    let failed = || outcomes.iter().filter_map(Outcome::failure);
    if failed().any(CallError::namespace_is_going) {
        // Usually the cluster goes with it. If not, nobody says so.
        return Ok(Action::requeue(FOREIGN_RETRY));
    }
    if let Some(error) = failed().find(|error| !error.is_final()) {
        return Err(Retry::from(error));
    }
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Waiting)) {
        return Ok(Action::requeue(WAITING_RETRY));
    }
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Foreign(_))) {
        return Ok(Action::requeue(FOREIGN_RETRY));
    }
    failed().next().map_or(Ok(Action::await_change()), |refused| Err(Retry::from(refused)))
}

// The signature is that of the controller's error policy.
#[allow(clippy::needless_pass_by_value)]
fn retry(cluster: Arc<Kept>, error: &Retry, context: Arc<Context>) -> Action {
    let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let mut failures = context.failures();
    let failed = failures.entry(key.clone()).or_default();
    let wait = error.pace.wait(*failed);
    if *failed == 0 {
        warn!(namespace = key.0, name = key.1, %error, "reconciliation failed; trying again");
    }
    *failed = failed.saturating_add(1);
    Action::requeue(wait)
}

#[cfg(test)]
mod tests;
