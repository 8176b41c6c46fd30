//! What benches write to: namespaces, VLLMClusters and ScaledObjects, as objects of any content.
//!
//! **Architecture invariant**: says where they are written, and never what is in them.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, CustomResourceExt as _};
use serde_json::json;
use vllm_operator::api::VLLMCluster;

/// Creates a namespace.
pub async fn namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    let created = Api::all(client.clone()).create(&PostParams::default(), &namespace).await;
    created.map(drop).with_context(|| format!("creating namespace {name}"))
}

/// The VLLMClusters of a namespace.
pub fn clusters(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &VLLMCluster::api_resource())
}

/// The VLLMClusters of all namespaces.
pub fn all_clusters(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &VLLMCluster::api_resource())
}

/// The ScaledObjects of a namespace.
pub fn scaled_objects(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
    Api::namespaced_with(client.clone(), namespace, &kind)
}
