//! The controller: each cluster becomes a StatefulSet and two Services, and tells how it is.
//!
//! A reconciliation is four steps: `observe` reads, `plan` decides, `apply` writes, `status` reports. Only
//! the first and the third have a client.
//!
//! Architecture invariant: `spec` of a `VLLMCluster` is never written. Nothing is remembered between two
//! reconciliations but how often one has failed, so a restart in steady state writes nothing.

mod apply;
mod difference;
mod observe;
mod plan;
mod status;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::names::{LABEL_MANAGED_BY, OPERATOR};
use crate::api::{VLLMCluster, VLLMClusterSpec};
use crate::objects::{InvalidCluster, ValidatedCluster};
use crate::pace::Steady;
use crate::policy::cluster::Spec;
use crate::policy::{self, Bounds};
use crate::world::{Key, Target, World};

use apply::{Outcome, apply, write_status};
use observe::observe;
use plan::plan;

/// Reconciliations at once: one waits mostly for the API server.
const CONCURRENCY: u16 = 8;
/// First wait after a failure; it doubles up to [`RETRY_CEILING`].
const RETRY_FLOOR: Duration = Duration::from_secs(1);
/// Longest wait after a failure.
const RETRY_CEILING: Duration = Duration::from_mins(1);
/// How often to look again at what needs a person: a quota may be raised without any event of ours.
const STALLED_RETRY: Duration = Duration::from_mins(5);

/// The kinds of objects that a cluster consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    StatefulSet,
    HeadlessService,
    ClientService,
}

impl Kind {
    const ALL: [Self; 3] = [Self::StatefulSet, Self::HeadlessService, Self::ClientService];

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
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
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

/// A reconciliation that must be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Retry {
    why: String,
    /// Without a wait, the first time.
    at_once: bool,
}

impl From<&CallError> for Retry {
    fn from(error: &CallError) -> Self {
        Self { why: error.to_string(), at_once: error.is_conflict() }
    }
}

struct Context {
    client: Client,
    world: Arc<World>,
    /// Failures in a row, by namespace and name.
    failures: Mutex<HashMap<(String, String), u32>>,
}

impl Context {
    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), u32>> {
        // Counts alone, whole after any panic.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reconciles every cluster until `shutdown`, and those in `changed` again: what drives them is another.
pub async fn run(
    client: Client,
    world: Arc<World>,
    changed: UnboundedReceiver<Key>,
    shutdown: CancellationToken,
) {
    let changed = futures::stream::unfold(changed, |mut changed| async {
        let Key { namespace, name } = changed.recv().await?;
        Some((ObjectRef::new(&name).within(&namespace), changed))
    });
    let ours = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={OPERATOR}"));
    let clusters = Api::<DeserializeGuard<VLLMCluster>>::all(client.clone());
    let context = Arc::new(Context { client: client.clone(), world, failures: Mutex::default() });
    Controller::new(clusters, watcher::Config::default())
        .owns(Api::<StatefulSet>::all(client.clone()), ours.clone())
        .owns(Api::<Service>::all(client), ours)
        .reconcile_on(changed)
        .trigger_backoff(Steady)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, retry, Arc::clone(&context))
        .for_each(|result| {
            if let Err(error) = result {
                debug!(%error, "reconciliation");
                if let controller::Error::ObjectNotFound(gone) = error {
                    context.failures().remove(&(gone.namespace.unwrap_or_default(), gone.name));
                }
            }
            std::future::ready(())
        })
        .await;
}

async fn reconcile(
    cluster: Arc<DeserializeGuard<VLLMCluster>>,
    context: Arc<Context>,
) -> Result<Action, Retry> {
    let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let action = match &cluster.0 {
        Ok(cluster) => reconcile_readable(&context, cluster, Timestamp::now()).await?,
        Err(invalid) => {
            warn!(
                namespace = key.0,
                name = key.1,
                error = invalid.error,
                "VLLMCluster cannot be read and is left alone"
            );
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
            let observed = observe(client, &cluster).await;
            let plan = plan(&cluster, &observed);
            let applied = apply(client, &cluster, plan, observed).await;
            let conflicts = conflicts(&context.world, &cluster);
            (status::status(&cluster, &before, &applied, &conflicts, now), next(&applied.outcomes))
        }
        Err(invalid @ (InvalidCluster::NameTooLong(_) | InvalidCluster::NoReplicas)) => {
            let generation = cluster.metadata.generation.unwrap_or_default();
            let after =
                status::unbuildable(&cluster.name_any(), generation, &before, &invalid.to_string(), now);
            (after, Ok(Action::await_change()))
        }
        Err(invalid @ InvalidCluster::Incomplete(_)) => {
            return Err(Retry { why: invalid.to_string(), at_once: false });
        }
    };
    if let Some(patch) = status::patch(cluster.status.as_ref(), &after) {
        let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
        match write_status(client, &namespace, &name, &patch).await {
            // Deleted meanwhile.
            Err(CallError::Api(_, kube::Error::Api(status))) if status.code == 404 => {}
            Err(error) => return Err(Retry::from(&error)),
            Ok(()) => {}
        }
    }
    action
}

/// What does not fit between the cluster and what drives it.
fn conflicts(world: &World, cluster: &ValidatedCluster) -> Vec<String> {
    let VLLMClusterSpec { min_replicas, max_replicas, .. } = cluster.spec;
    let bounds = Bounds { min: min_replicas, max: max_replicas };
    let Target { cluster: _, scalers, hpas } = world.target(&cluster.namespace, &cluster.name);
    let hpas: Vec<_> = hpas.into_iter().map(|hpa| hpa.name).collect();
    policy::cluster::conflicts(
        &cluster.name,
        Spec { replicas: Some(cluster.replicas), bounds },
        &scalers,
        &hpas,
    )
}

/// When to look again, from what became of the objects.
fn next(outcomes: &[Outcome]) -> Result<Action, Retry> {
    let mut action = Action::await_change();
    for outcome in outcomes {
        match outcome {
            Outcome::Failed(error) if error.namespace_is_going() => return Ok(Action::await_change()),
            Outcome::Failed(error) if error.is_final() => action = Action::requeue(STALLED_RETRY),
            Outcome::Failed(error) => return Err(Retry::from(error)),
            // Objects of others have no event that reaches us.
            Outcome::Foreign(_) => action = Action::requeue(STALLED_RETRY),
            Outcome::Waiting => return Ok(Action::requeue(RETRY_FLOOR * 5)),
            Outcome::Done(_) => {}
        }
    }
    Ok(action)
}

// The signature is that of the controller's error policy.
#[allow(clippy::needless_pass_by_value)]
fn retry(cluster: Arc<DeserializeGuard<VLLMCluster>>, error: &Retry, context: Arc<Context>) -> Action {
    let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let mut failures = context.failures();
    let failed = failures.entry(key.clone()).or_default();
    let wait = if error.at_once && *failed == 0 {
        Duration::ZERO
    } else {
        RETRY_FLOOR.saturating_mul(1 << (*failed).min(6)).min(RETRY_CEILING)
    };
    if *failed == 0 {
        warn!(namespace = key.0, name = key.1, %error, "reconciliation failed; trying again");
    }
    *failed = failed.saturating_add(1);
    Action::requeue(wait)
}

#[cfg(test)]
mod tests;
