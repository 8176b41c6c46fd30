//! `VLLMCluster`: the workload that users write.
//!
//! Architecture invariant: the shape and its documentation. Rules that need nothing but the object itself
//! stand here as schema and CEL; rules that need another object live in `policy`.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::workload::{
    Accelerator, DisruptionBudget, HuggingFaceToken, ModelCache, PodTemplate, UpdateStrategy,
};

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
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready, or what keeps it from being so"
    ),
    printcolumn(
        name = "Updated",
        type_ = "integer",
        json_path = ".status.updatedReplicas",
        description = "Replicas that run the current spec",
        priority = 1
    ),
    printcolumn(
        name = "Autoscaler",
        type_ = "string",
        json_path = ".status.autoscaling.name",
        description = "Who drives the count",
        priority = 1
    ),
    printcolumn(
        name = "Endpoint",
        type_ = "string",
        json_path = ".status.endpoint",
        description = "Where clients reach the servers",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Why it is ready or not, in a sentence",
        priority = 1
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
    // vLLM's parser demands it.
    validation = Rule::new("!has(self.servedModelName) || has(self.model)")
        .message("servedModelName needs model, which it is another name of: state model too")
        .field_path(".servedModelName"),
    // A StatefulSet's claim templates are fixed.
    validation = Rule::new("has(self.modelCache) && has(self.modelCache.claim) ? has(oldSelf.modelCache) && has(oldSelf.modelCache.claim) && self.modelCache.claim == oldSelf.modelCache.claim : !has(oldSelf.modelCache) || !has(oldSelf.modelCache.claim)")
        .message("modelCache.claim cannot be changed, added or removed, because a StatefulSet's claims are fixed: create a VLLMCluster of another name with the new claim and move clients over, or delete this one and create it anew")
        .field_path(".modelCache"),
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
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^-\s]"))]
    pub model: Option<String>,

    /// The container image of vLLM. Left out: the release that this operator was tested with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,

    /// The name under which clients ask for the model (`--served-model-name`). Left out: the value of model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^\S+$"))]
    pub served_model_name: Option<String>,

    /// The port that the servers and both Services listen on, 1 to 65535. Left out: 8000, vLLM's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,

    /// Over how many accelerators of one pod each layer is split (`--tensor-parallel-size`), 1 to 1024. Left
    /// out: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub tensor_parallel_size: Option<i32>,

    /// Into how many stages on accelerators of one pod the layers are divided (`--pipeline-parallel-size`), 1 to
    /// 1024. Left out: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub pipeline_parallel_size: Option<i32>,

    /// The accelerators of each pod. Left out: as many nvidia.com/gpu as tensorParallelSize times
    /// pipelineParallelSize, unless resources names an accelerator itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,

    /// Further arguments of `vllm serve`, one list entry per word, such as `--max-num-seqs=64`. An argument that
    /// a field stands for is refused here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,

    /// Environment variables of the vLLM container, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,

    /// ConfigMaps and Secrets whose entries become environment variables of the vLLM container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,

    /// Compute resources of the vLLM container, such as `limits: {memory: 32Gi}`. Accelerators are added from
    /// accelerator; the operator adds nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// The Secret that holds the Hugging Face token, which gated models need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face_token: Option<HuggingFaceToken>,

    /// Where downloaded models are kept. Left out: in the container, and gone with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_cache: Option<ModelCache>,

    /// Most that the pod's `/dev/shm` may hold, such as 16Gi; it counts as memory of the pod. Left out: as much as
    /// the node allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_memory_size: Option<Quantity>,

    /// How long a server may take to load its model before it is restarted, in seconds, 10 to 86400. Left out:
    /// 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86_400))]
    pub startup_seconds: Option<i32>,

    /// How long a server that is being stopped may go on answering requests that it has accepted
    /// (`--shutdown-timeout`), in seconds, 0 to 3600. Left out: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub drain_seconds: Option<i32>,

    /// How a change of the pods is rolled out. Left out: one pod at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,

    /// How many pods an eviction, such as the drain of a node, must leave. Left out: no PodDisruptionBudget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption_budget: Option<DisruptionBudget>,

    /// What else the pods should have, in the form of a pod template: labels, node selection, tolerations,
    /// affinity, volumes, further containers, and so on. It is laid over the operator's own template as by a
    /// strategic merge; the container that serves is named vllm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
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

    /// Pods that run the current spec.
    #[serde(default)]
    pub updated_replicas: i32,

    /// Where clients reach the servers: the Service's name and port, within the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Who drives the count. Absent: nobody but people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingStatus>,

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

/// Who drives the count of a `VLLMCluster`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingStatus {
    /// ScaledObject or HorizontalPodAutoscaler.
    #[serde(default)]
    pub kind: String,

    /// Its name.
    #[serde(default)]
    pub name: String,

    /// The lowest count that it asks for within the bounds of the VLLMCluster.
    #[serde(default)]
    pub min_replicas: i32,

    /// The highest count that it asks for within the bounds of the VLLMCluster.
    #[serde(default)]
    pub max_replicas: i32,

    /// Whether it leaves the count alone at present.
    #[serde(default)]
    pub paused: bool,

    /// What it says is wrong with it, in its own words. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
