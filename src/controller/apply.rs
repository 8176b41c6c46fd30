//! Apply: all writes of one reconciliation.
//!
//! Architecture invariant: each object is written by itself; the failure of one keeps back neither the others nor
//! the status.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::api::VLLMCluster;
use crate::api::names::FIELD_MANAGER;
use crate::objects::ValidatedCluster;

use super::observe::{CALL_TIMEOUT, Observed};
use super::plan::{Plan, Step};
use super::pods::{Cause, Reason};
use super::{CallError, Kind, is_gone};

/// What became of one object.
#[derive(Debug)]
pub enum Outcome {
    /// It states all it should, with what is now live.
    Done(Value),
    /// It is not asked for, and there is none.
    Absent,
    /// It will be made once what bears its name is gone.
    Waiting,
    /// Somebody else has it: the sentence for the condition.
    Foreign(String),
    /// Reading or writing it failed.
    Failed(CallError),
}

impl Outcome {
    /// Why reading or writing it failed, if it did.
    pub fn failure(&self) -> Option<&CallError> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Done(_) | Self::Absent | Self::Waiting | Self::Foreign(_) => None,
        }
    }
}

/// What became of each object.
#[derive(Debug)]
pub struct Applied {
    /// By [`Kind::index`].
    pub outcomes: [Outcome; Kind::ALL.len()],
    /// Our StatefulSet as it was before it was written, or before that failed; `None` if it was not to be written.
    pub set_before: Option<Value>,
    /// What keeps pods from serving, as it was seen before.
    pub cause: Option<Cause>,
}

/// Why there is no cause to tell. It is no reason to reconcile anew: the next event of a pod is.
fn unread(error: &CallError) -> Cause {
    Cause { reason: Reason::Unknown, message: format!("the pods cannot be looked at: {error}") }
}

/// Carries out a plan.
pub async fn apply(client: &Client, cluster: &ValidatedCluster, plan: Plan, observed: Observed) -> Applied {
    let Observed { live, cause } = observed;
    let set = Kind::StatefulSet.index();
    let set_before = match (&plan.steps[set], &live[set]) {
        (Step::Apply(_) | Step::Renumber(_), Ok(live)) => live.clone(),
        _ => None,
    };
    let steps = Kind::ALL.into_iter().zip(plan.steps).zip(live);
    // Boxed: each holds whole objects, of which there are four at once.
    let mut outcomes = steps.map(|((kind, step), live)| {
        Box::pin(async move {
            match (step, live) {
                (Step::Apply(desired), _) => {
                    let name = desired["metadata"]["name"].as_str().unwrap_or_default();
                    // An owned object is ours alone: whoever else states one of our fields loses it.
                    let params = PatchParams::apply(FIELD_MANAGER).force();
                    let patch = Patch::Apply(typed(kind, &desired));
                    done(write(client, cluster, kind, name, &params, &patch).await)
                }
                (Step::Renumber(patch), Ok(Some(live))) => {
                    let name = live["metadata"]["name"].as_str().unwrap_or_default();
                    let params =
                        PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
                    let patch = Patch::Json::<()>(patch);
                    done(write(client, cluster, kind, name, &params, &patch).await)
                }
                (Step::Remove(uid), _) => match remove(client, cluster, kind, uid).await {
                    Ok(()) => Outcome::Absent,
                    Err(error) => Outcome::Failed(error),
                },
                (_, Err(error)) => Outcome::Failed(error),
                (Step::Absent, Ok(_)) => Outcome::Absent,
                (Step::Keep, Ok(Some(live))) => Outcome::Done(live),
                // Nothing is kept that does not exist, and nothing is unread that was read.
                (Step::Keep | Step::Renumber(_) | Step::Wait | Step::Unread, Ok(_)) => Outcome::Waiting,
                (Step::Foreign(owner), Ok(_)) => Outcome::Foreign(owner),
            }
        })
    });
    let mut next = || outcomes.next().expect("there is a step for each kind");
    let (set, pods, service, budget) = (next(), next(), next(), next());
    let (set, pods, service, budget) = tokio::join!(set, pods, service, budget);
    Applied {
        outcomes: [set, pods, service, budget],
        set_before,
        cause: cause.unwrap_or_else(|error| Some(unread(&error))),
    }
}

/// Deletes what is no longer asked for, if it still is the very object that was seen.
async fn remove(
    client: &Client,
    cluster: &ValidatedCluster,
    kind: Kind,
    uid: String,
) -> Result<(), CallError> {
    let what = || format!("deleting {kind} {}", cluster.name);
    // Only a budget can be left out of a spec.
    let api = Api::<PodDisruptionBudget>::namespaced(client.clone(), &cluster.namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    };
    match timeout(CALL_TIMEOUT, api.delete(&cluster.name, &params)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if is_gone(&error, &cluster.name) => Ok(()),
        Ok(Err(error)) => Err(CallError::Api(what(), error)),
        Err(_elapsed) => Err(CallError::Timeout(what())),
    }
}

fn done(written: Result<Value, CallError>) -> Outcome {
    match written {
        Ok(live) => Outcome::Done(live),
        Err(error) => Outcome::Failed(error),
    }
}

async fn write<P: Serialize + Debug>(
    client: &Client,
    cluster: &ValidatedCluster,
    kind: Kind,
    name: &str,
    params: &PatchParams,
    patch: &Patch<P>,
) -> Result<Value, CallError> {
    let what = || format!("applying {kind} {name}");
    let live = async {
        Ok::<_, kube::Error>(match kind {
            Kind::StatefulSet => {
                let api = Api::<StatefulSet>::namespaced(client.clone(), &cluster.namespace);
                serde_json::to_value(api.patch(name, params, patch).await?)
            }
            Kind::HeadlessService | Kind::ClientService => {
                let api = Api::<Service>::namespaced(client.clone(), &cluster.namespace);
                serde_json::to_value(api.patch(name, params, patch).await?)
            }
            Kind::Budget => {
                let api = Api::<PodDisruptionBudget>::namespaced(client.clone(), &cluster.namespace);
                serde_json::to_value(api.patch(name, params, patch).await?)
            }
        })
    };
    match timeout(CALL_TIMEOUT, live).await {
        Ok(Ok(Ok(live))) => Ok(live),
        Ok(Ok(Err(error))) => Err(CallError::Api(what(), kube::Error::SerdeError(error))),
        Ok(Err(error)) => Err(CallError::Api(what(), error)),
        Err(_elapsed) => Err(CallError::Timeout(what())),
    }
}

/// Server-side apply wants the kind in the body.
fn typed(kind: Kind, desired: &Value) -> Value {
    let mut object = desired.clone();
    let (api_version, kind) = match kind {
        Kind::StatefulSet => ("apps/v1", "StatefulSet"),
        Kind::HeadlessService | Kind::ClientService => ("v1", "Service"),
        Kind::Budget => ("policy/v1", "PodDisruptionBudget"),
    };
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    object
}

/// Writes what differs of a status.
pub async fn write_status(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: &Value,
) -> Result<(), CallError> {
    let what = || format!("writing the status of VLLMCluster {name}");
    let api = Api::<VLLMCluster>::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(patch);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    timeout(CALL_TIMEOUT, api.patch_status(name, &params, &patch))
        .await
        .map_err(|_elapsed| CallError::Timeout(what()))?
        .map_err(|error| CallError::Api(what(), error))?;
    Ok(())
}
