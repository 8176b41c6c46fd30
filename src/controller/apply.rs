//! Apply: all writes of one reconciliation.
//!
//! Architecture invariant: each object is written by itself; the failure of one keeps back neither the others nor
//! the status.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::timeout;

use crate::api::VLLMCluster;
use crate::api::names::FIELD_MANAGER;
use crate::objects::ValidatedCluster;

use super::observe::{CALL_TIMEOUT, Observed};
use super::plan::{Plan, Step};
use super::{CallError, Kind};

/// What became of one object.
#[derive(Debug)]
pub enum Outcome {
    /// It states all it should, with what is now live.
    Done(Value),
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
            Self::Done(_) | Self::Waiting | Self::Foreign(_) => None,
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
}

/// Carries out a plan.
pub async fn apply(client: &Client, cluster: &ValidatedCluster, plan: Plan, observed: Observed) -> Applied {
    let set = Kind::StatefulSet.index();
    let set_before = match (&plan.steps[set], &observed.live[set]) {
        (Step::Apply(_), Ok(live)) => live.clone(),
        _ => None,
    };
    let steps = Kind::ALL.into_iter().zip(plan.steps).zip(observed.live);
    let mut outcomes = steps.map(|((kind, step), live)| async move {
        match (step, live) {
            (Step::Apply(desired), _) => match write(client, cluster, kind, &desired).await {
                Ok(live) => Outcome::Done(live),
                Err(error) => Outcome::Failed(error),
            },
            (_, Err(error)) => Outcome::Failed(error),
            (Step::Keep, Ok(Some(live))) => Outcome::Done(live),
            // Nothing is kept that does not exist, and nothing is unread that was read.
            (Step::Keep | Step::Wait | Step::Unread, Ok(_)) => Outcome::Waiting,
            (Step::Foreign(owner), Ok(_)) => Outcome::Foreign(owner),
        }
    });
    let mut next = || outcomes.next().expect("there is a step for each kind");
    let (first, second, third) = (next(), next(), next());
    let (first, second, third) = tokio::join!(first, second, third);
    Applied { outcomes: [first, second, third], set_before }
}

async fn write(
    client: &Client,
    cluster: &ValidatedCluster,
    kind: Kind,
    desired: &Value,
) -> Result<Value, CallError> {
    let name = desired["metadata"]["name"].as_str().unwrap_or_default();
    let what = || format!("applying {kind} {name}");
    // An owned object is ours alone: whoever else states one of our fields loses it.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(typed(kind, desired));
    let live = async {
        Ok::<_, kube::Error>(match kind {
            Kind::StatefulSet => {
                let api = Api::<StatefulSet>::namespaced(client.clone(), &cluster.namespace);
                serde_json::to_value(api.patch(name, &params, &patch).await?)
            }
            Kind::HeadlessService | Kind::ClientService => {
                let api = Api::<Service>::namespaced(client.clone(), &cluster.namespace);
                serde_json::to_value(api.patch(name, &params, &patch).await?)
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
