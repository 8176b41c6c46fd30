//! The parts of a `VLLMCluster`'s spec that have fields of their own.
//!
//! Architecture invariant: shapes and their documentation, as in [`super::cluster`]. What a field that is left out
//! stands for is decided in `objects`.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The accelerators of one pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accelerator {
    /// Name of the extended resource, such as nvidia.com/gpu or amd.com/gpu. Left out: nvidia.com/gpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 3, max = 317),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub resource: Option<String>,

    /// How many, 0 to 1024. Left out: tensorParallelSize times pipelineParallelSize. 0: none, for images that run on
    /// the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1024))]
    pub count: Option<i32>,
}

/// Where the Hugging Face token is kept.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceToken {
    /// Name of the Secret, in the namespace of the VLLMCluster.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub secret_name: String,

    /// Key of the token in the Secret. Left out: token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// Where models are kept: in a claim of each replica, or in one that all of them share.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.claim) != has(self.existingClaim)")
        .message("state either claim, for a PersistentVolumeClaim of each replica, or existingClaim, for one that all share"),
    validation = Rule::new("has(self.claim) || !has(self.retention)")
        .message("retention is of the claims that are made from claim; an existing claim is always kept")
        .field_path(".retention"),
)]
pub struct ModelCache {
    /// A PersistentVolumeClaim that is made for each replica. Not changeable: a StatefulSet's claims are fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<CacheClaim>,

    /// Name of a PersistentVolumeClaim that all replicas mount; with more than one node, its volume must be
    /// ReadWriteMany.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub existing_claim: Option<String>,

    /// What becomes of the claims of replicas that go. Left out: they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<CacheRetention>,
}

/// The claim of one replica's model cache.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheClaim {
    /// Size of the volume, such as 100Gi.
    pub size: Quantity,

    /// Name of the StorageClass. Left out: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
}

/// What becomes of the claims of replicas that go.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheRetention {
    /// When the VLLMCluster is deleted. Left out: Retain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<Retention>,

    /// When replicas are removed. Left out: Retain, so that a scale-up finds its models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_scaled: Option<Retention>,
}

/// Whether a claim outlives its replica.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
// In a definition, the type's description would take the place of the field's.
#[schemars(description = "")]
pub enum Retention {
    /// It is kept.
    Retain,
    /// It is deleted.
    Delete,
}

/// How a change of the pods is rolled out.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxUnavailable) || !has(self.type) || self.type == 'RollingUpdate'")
        .message("maxUnavailable is of type RollingUpdate; with OnDelete, pods change when they are deleted")
        .field_path(".maxUnavailable"),
)]
pub struct UpdateStrategy {
    /// RollingUpdate replaces pods one after the other; OnDelete leaves them until they are deleted. Left out:
    /// RollingUpdate.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<UpdateType>,

    /// How many pods, as a number or a percentage, may be unavailable meanwhile. Left out: 1. Kubernetes honours
    /// it from 1.37 on, or with its feature gate `MaxUnavailableStatefulSet`; else one is replaced at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// The ways to replace pods.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
// In a definition, the type's description would take the place of the field's.
#[schemars(description = "")]
pub enum UpdateType {
    /// One after the other.
    RollingUpdate,
    /// When they are deleted.
    OnDelete,
}

/// How many pods an eviction must leave.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.minAvailable) != has(self.maxUnavailable)")
        .message("state either minAvailable or maxUnavailable"),
)]
pub struct DisruptionBudget {
    /// How many pods, as a number or a percentage, must stay available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_available: Option<IntOrString>,

    /// How many pods, as a number or a percentage, may be unavailable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// A pod template that is laid over the operator's own. Kept as it was written: the typed form would drop what it
/// does not know, and add an empty list of containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodTemplate(pub Map<String, Value>);

impl JsonSchema for PodTemplate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PodTemplate".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        PodTemplateSpec::json_schema(generator)
    }

    fn inline_schema() -> bool {
        true
    }
}
