//! Observe: all reads of one reconciliation.
//!
//! Architecture invariant: reads alone, and nothing is decided from them here. A read that fails keeps back no other.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube::core::DynamicObject;
use kube::{Api, Client, CustomResourceExt as _, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use crate::api::names::{KIND, headless_service};
use crate::api::{VLLMCluster, VLLMClusterStatus};
use crate::objects::ValidatedCluster;

use super::{CallError, Kind};

/// Longest wait for one answer. Reconciliation is tried again, so it need not outwait a slow API server.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// What exists of a cluster's objects.
#[derive(Debug)]
pub struct Observed {
    /// The live objects by [`Kind::index`], `None` for what does not exist. As JSON: they are compared by what is
    /// stated, not by type.
    pub live: [Result<Option<Value>, CallError>; Kind::ALL.len()],
}

/// Reads what exists under the names of the cluster's objects, whoever it belongs to.
pub async fn observe(client: &Client, cluster: &ValidatedCluster) -> Observed {
    let namespace = &cluster.namespace;
    let headless = headless_service(&cluster.name);
    let (set, pods, service) = tokio::join!(
        read::<StatefulSet>(client, namespace, &cluster.name),
        read::<Service>(client, namespace, &headless),
        read::<Service>(client, namespace, &cluster.name),
    );
    let mut live = [Ok(None), Ok(None), Ok(None)];
    live[Kind::StatefulSet.index()] = set;
    live[Kind::HeadlessService.index()] = pods;
    live[Kind::ClientService.index()] = service;
    Observed { live }
}

async fn read<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<Value>, CallError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let what = || format!("reading {} {name}", K::kind(&()));
    let object = timeout(CALL_TIMEOUT, api.get_opt(name))
        .await
        .map_err(|_elapsed| CallError::Timeout(what()))?
        .map_err(|error| CallError::Api(what(), error))?;
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
    let object = timeout(CALL_TIMEOUT, api.get_opt(name))
        .await
        .map_err(|_elapsed| CallError::Timeout(what()))?
        .map_err(|error| CallError::Api(what(), error))?;
    Ok(object.and_then(|object| serde_json::from_value(object.data["status"].clone()).ok()))
}
