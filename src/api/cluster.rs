//! `VLLMCluster`: the workload that users write.
//!
//! Architecture invariant: the shape and its documentation. Rules that need nothing but the object itself
//! stand here as schema and CEL; rules that need another object live in `policy`.

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// What a `VLLMCluster` should be: how many vLLM servers, of which model, and the bounds of scaling.
// `kube`'s derive writes the root type `VLLMCluster`, whose documentation is the `doc` attribute.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "training.distributed-inference.io",
    version = "v1alpha1",
    kind = "VLLMCluster",
    plural = "vllmclusters",
    singular = "vllmcluster",
    shortname = "vllm",
    category = "all",
    namespaced,
    status = "VLLMClusterStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "VLLMCluster runs a number of identical vLLM servers for one model, and is scaled through its scale subresource, by hand or by KEDA.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether enough replicas serve, and run the current spec"
    ),
    printcolumn(
        name = "Serving",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Replicas that are ready"
    ),
    printcolumn(
        name = "Wanted",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Replicas asked for"
    ),
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".spec.model",
        description = "The model served; empty: vLLM's own default"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || !has(self.minReplicas) || self.replicas >= self.minReplicas")
        .message(Message::Expression("'%d is below minReplicas %d'.format([self.replicas, self.minReplicas])".into()))
        .field_path(".replicas"),
    validation = Rule::new("!has(self.replicas) || !has(self.maxReplicas) || self.replicas <= self.maxReplicas")
        .message(Message::Expression("'%d is above maxReplicas %d'.format([self.replicas, self.maxReplicas])".into()))
        .field_path(".replicas"),
    validation = Rule::new("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message(Message::Expression("'minReplicas %d is above maxReplicas %d'.format([self.minReplicas, self.maxReplicas])".into()))
        .field_path(".minReplicas"),
)]
pub struct VLLMClusterSpec {
    /// How many vLLM servers to run. At least 1. Left out: 1 on creation (or the lower bound, where that is
    /// higher), and the live count on update, so that a manifest without it never undoes what an autoscaler did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub replicas: Option<i32>,

    /// Hard lower bound of replicas, at least 1. No scaling, by hand or by an autoscaler, goes below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_replicas: Option<i32>,

    /// Hard upper bound of replicas, at least minReplicas. No scaling, by hand or by an autoscaler, goes above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_replicas: Option<i32>,

    /// The model to serve: a Hugging Face name such as Qwen/Qwen3-0.6B, or a path in the container. Left out:
    /// vLLM's own default model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"\S"))]
    pub model: Option<String>,

    /// The container image of vLLM. Left out: the release that this operator was tested with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,

    /// Further arguments of `vllm serve`, one list entry per word, such as `--max-num-seqs=64`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,

    /// Environment variables of the vLLM container, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,

    /// Compute resources of the vLLM container, such as `limits: {nvidia.com/gpu: 1}`. The operator adds none
    /// of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// What was last seen of a `VLLMCluster`. Written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VLLMClusterStatus {
    /// Pods that exist, as the StatefulSet's status counts them. Autoscalers divide by this number.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that are ready to serve.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Label selector of the pods, as the scale subresource publishes it. Without it the HPA does nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,

    /// Name of the StatefulSet that runs the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set_name: Option<String>,

    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: at least max(1, minReplicas) replicas serve and run the current spec. Reconciling: counts or
    /// revisions still differ. Stalled: it will not get further without a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
