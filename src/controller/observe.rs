//! Observe: all reads of one reconciliation.
//!
//! Architecture invariant: reads alone, and nothing is decided from them here. A read that fails keeps back no other.

use std::ops::Range;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::{Api, Client, CustomResourceExt as _, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use crate::api::names::{KIND, headless_service, selector};
use crate::api::{VLLMCluster, VLLMClusterStatus};
use crate::objects::ValidatedCluster;
use crate::objects::pod::startup_seconds;

use super::pods::{self, Cause};
use super::refusals::{NotListed, Refusal, Refusals};
use super::{CallError, Kind};

/// Longest wait for one answer. Reconciliation is tried again, so it need not outwait a slow API server.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Most pods that are looked at for a cause: the first that are not ready tell enough.
const MOST_PODS: u32 = 500;

/// So many pods are read one by one. The API server has no index of labels: a list takes it longer the more pods the namespace has.
const FEW_PODS: i64 = 4;

/// What exists of a cluster's objects.
#[derive(Debug)]
pub struct Observed {
    /// The live objects by [`Kind::index`], `None` for what does not exist. As JSON: they are compared by what is
    /// stated, not by type.
    pub live: [Result<Option<Value>, CallError>; Kind::ALL.len()],
    /// What keeps pods from serving; `None` where all that are wanted do.
    pub cause: Result<Option<Cause>, CallError>,
}

/// Reads what exists under the names of the cluster's objects, whoever it belongs to.
pub async fn observe(client: &Client, refusals: &Refusals, cluster: &ValidatedCluster) -> Observed {
    let namespace = &cluster.namespace;
    let headless = headless_service(&cluster.name);
    let (set, pods, service, budget) = tokio::join!(
        read::<StatefulSet>(client, namespace, &cluster.name),
        read::<Service>(client, namespace, &headless),
        read::<Service>(client, namespace, &cluster.name),
        read::<PodDisruptionBudget>(client, namespace, &cluster.name),
    );
    let mut live = Kind::ALL.map(|_| Ok(None));
    live[Kind::StatefulSet.index()] = set;
    live[Kind::HeadlessService.index()] = pods;
    live[Kind::ClientService.index()] = service;
    live[Kind::Budget.index()] = budget;
    let cause = match &live[Kind::StatefulSet.index()] {
        Ok(Some(set)) => cause(client, refusals, cluster, set).await,
        _ => Ok(None),
    };
    Observed { live, cause }
}

/// Looks for the cause where the StatefulSet has fewer ready pods than it wants: pods that do not exist first.
async fn cause(
    client: &Client,
    refusals: &Refusals,
    cluster: &ValidatedCluster,
    set: &Value,
) -> Result<Option<Cause>, CallError> {
    let count = |pointer: &str| set.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let wanted = count("/spec/replicas");
    if count("/status/readyReplicas") >= wanted {
        return Ok(None);
    }
    let first = count("/spec/ordinals/start");
    let pods = pods_of(client, cluster, first..first.saturating_add(wanted)).await?;
    let seen = count("/status/observedGeneration") >= count("/metadata/generation");
    if seen && count("/status/replicas") < wanted {
        let uid = set["metadata"]["uid"].as_str().unwrap_or_default();
        let refusal = match refusals.of(&cluster.namespace, uid) {
            Ok(refusal) => refusal,
            Err(NotListed) => newest_refusal(client, &cluster.namespace, uid).await?,
        };
        if let Some(refusal) = refusal.filter(|refusal| pods::is_in_force(refusal, &pods)) {
            return Ok(Some(refusal.cause));
        }
    }
    Ok(pods::cause(&pods, startup_seconds(&cluster.spec)))
}

/// The cluster's pods of these ordinals; of all, if they are many.
async fn pods_of(
    client: &Client,
    cluster: &ValidatedCluster,
    ordinals: Range<i64>,
) -> Result<Vec<Pod>, CallError> {
    let pods = Api::<Pod>::namespaced(client.clone(), &cluster.namespace);
    if ordinals.end - ordinals.start > FEW_PODS {
        let params = ListParams::default().labels(&selector(&cluster.name)).limit(MOST_PODS);
        let what = || format!("listing pods of {}", cluster.name);
        return Ok(bounded(what, pods.list(&params)).await?.items);
    }
    let (pods, labels) = (&pods, &cluster.selector());
    let read = ordinals.map(|ordinal| async move {
        let name = format!("{}-{ordinal}", cluster.name);
        let pod = bounded(|| format!("reading pod {name}"), pods.get_opt(&name)).await?;
        // Somebody else's pod may bear the name.
        Ok(pod.filter(|pod| labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value))))
    });
    Ok(try_join_all(read).await?.into_iter().flatten().collect())
}

/// Why the StatefulSet controller could not create a pod, as it said last.
async fn newest_refusal(client: &Client, namespace: &str, uid: &str) -> Result<Option<Refusal>, CallError> {
    let events = Api::<Event>::namespaced(client.clone(), namespace);
    let params = ListParams::default()
        .fields(&format!("involvedObject.uid={uid},reason=FailedCreate"))
        .limit(MOST_PODS);
    let events = bounded(|| "listing events".into(), events.list(&params)).await?.items;
    Ok(events.iter().map(Refusal::from).max())
}

/// A call that takes [`CALL_TIMEOUT`] at most.
async fn bounded<T>(
    what: impl Fn() -> String,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, CallError> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(CallError::Api(what(), error)),
        Err(_elapsed) => Err(CallError::Timeout(what())),
    }
}

async fn read<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<Value>, CallError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let what = || format!("reading {} {name}", K::kind(&()));
    let object = bounded(what, api.get_opt(name)).await?;
    // What was read from JSON has a JSON form.
    Ok(object.map(|object| serde_json::to_value(object).expect("an object has a JSON form")))
}

/// The status of a cluster whose spec cannot be read; `None` where there is none, or none that can be read.
pub async fn read_status(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<VLLMClusterStatus>, CallError> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &VLLMCluster::api_resource());
    let what = || format!("reading {KIND} {name}");
    let object = bounded(what, api.get_opt(name)).await?;
    Ok(object.and_then(|object| serde_json::from_value(object.data["status"].clone()).ok()))
}
