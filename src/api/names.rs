//! Every name that another program sees: groups, labels, annotations, conditions, reasons, field managers.
//!
//! Architecture invariant: constants, and functions that only format a name.

/// API group of `VLLMCluster`.
pub const GROUP: &str = "training.distributed-inference.io";
/// The served and stored version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of a `VLLMCluster`.
pub const API_VERSION: &str = "training.distributed-inference.io/v1alpha1";
/// Kind of the workload.
pub const KIND: &str = "VLLMCluster";
/// Plural resource name, as in URLs and admission rules.
pub const PLURAL: &str = "vllmclusters";

/// The namespace that an installation runs in where nothing else is said.
pub const OPERATOR_NAMESPACE: &str = "vllm-operator-system";
/// The domain of a cluster's DNS names where nothing else is said.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The Service under which KEDA reaches the scaler of the operator.
pub const SCALER_SERVICE: &str = "vllm-operator-scaler";
/// The port of that Service.
pub const SCALER_PORT: u16 = 443;
/// The `ClusterTriggerAuthentication` that a trigger answered by the scaler names, and in KEDA's namespace the Secret that it
/// leads to.
pub const SCALER_AUTHENTICATION: &str = "vllm-operator-scaler";
/// The common name of the certificate that KEDA shows to the scaler.
pub const SCALER_CLIENT: &str = "keda";

/// API group of KEDA's `ScaledObject`.
pub const KEDA_GROUP: &str = "keda.sh";
/// `ScaledObject`'s kind.
pub const SCALED_OBJECT_KIND: &str = "ScaledObject";
/// Name of the CRD whose presence tells that KEDA is installed.
pub const SCALED_OBJECT_CRD: &str = "scaledobjects.keda.sh";
/// Set to `"true"` on a `ScaledObject`, it deletes the HPA and freezes the count.
pub const PAUSED: &str = "autoscaling.keda.sh/paused";
/// Set to a number on a `ScaledObject`, it deletes the HPA and pins the count.
pub const PAUSED_REPLICAS: &str = "autoscaling.keda.sh/paused-replicas";
/// Set to `"true"` on a `ScaledObject`, its HPA never scales down.
pub const PAUSED_SCALE_IN: &str = "autoscaling.keda.sh/paused-scale-in";
/// Set to `"true"` on a `ScaledObject`, its HPA never scales up.
pub const PAUSED_SCALE_OUT: &str = "autoscaling.keda.sh/paused-scale-out";

/// Set to `"true"` on a `ScaledObject`, KEDA takes over the HPA that the object names.
pub const TRANSFER_HPA: &str = "scaledobject.keda.sh/transfer-hpa-ownership";
/// The label by which KEDA marks a `ScaledObject`, and with all its labels the HPA that it makes: the name.
pub const OWNER_LABEL: &str = "scaledobject.keda.sh/name";
/// Set to `"false"` on an HPA, it may stand beside a `ScaledObject`.
pub const HPA_OWNERSHIP: &str = "validations.keda.sh/hpa-ownership";

/// Set to `"false"` on a `ScaledObject`, it leaves triggers of an older form as they are; they are refused then.
pub const REWRITE_TRIGGERS: &str = "training.distributed-inference.io/rewrite-triggers";
/// On a `VLLMCluster`: `"true"` lets an update leave the live count alone, whatever `replicas` it states.
pub const KEEP_LIVE_REPLICAS: &str = "training.distributed-inference.io/keep-live-replicas";

/// On a namespace: `deny` or `warn` there, whatever the operator's own mode is.
pub const LABEL_ADMISSION: &str = "training.distributed-inference.io/admission";

/// Selector label: which kind of application.
pub const LABEL_APP: &str = "app";
/// Value of [`LABEL_APP`].
pub const APP: &str = "vllm-cluster";
/// Selector label: which cluster.
pub const LABEL_CLUSTER: &str = "cluster";
/// Selector label: which part of the cluster.
pub const LABEL_COMPONENT: &str = "component";
/// Value of [`LABEL_COMPONENT`] on the servers.
pub const COMPONENT: &str = "vllm-server";
/// Recommended label that names the tool in charge of an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The operator's name: field manager of owned objects, value of [`LABEL_MANAGED_BY`], event reporter.
pub const OPERATOR: &str = "vllm-operator";
/// Field manager of server-side apply.
pub const FIELD_MANAGER: &str = OPERATOR;

/// Name of the container that serves.
pub const CONTAINER: &str = "vllm";
/// Name of the container's and the Services' HTTP port.
pub const PORT_NAME: &str = "http";
/// vLLM's own default port.
pub const PORT: i32 = 8000;

/// Longest name of a cluster: the StatefulSet controller labels pods with `<name>-<hash of 10>`, and a label
/// value has at most 63 characters.
pub const MAX_NAME: usize = 52;
/// Most replicas the schema takes. No Kubernetes cluster supports more pods than 150,000; the bound keeps a
/// slip of the finger, or a 64-bit number cut to 32 bits, from passing as a count.
pub const MAX_REPLICAS: i32 = 100_000;

/// Condition: enough replicas are ready, and they run the current spec.
pub const CONDITION_READY: &str = "Ready";
/// Condition: counts or revisions still differ from the spec.
pub const CONDITION_RECONCILING: &str = "Reconciling";
/// Condition: it will not get further without a person.
pub const CONDITION_STALLED: &str = "Stalled";

/// Condition: what drives the count and the cluster's bounds do not fit together.
pub const CONDITION_SCALING_CONFLICT: &str = "ScalingConflict";

/// The selector of all clusters' pods.
pub fn selector_of_all() -> String {
    format!("{LABEL_APP}={APP},{LABEL_COMPONENT}={COMPONENT}")
}

/// The selector of a cluster's pods, in the form that `/scale` publishes.
///
/// ```
/// assert_eq!(
///     vllm_operator::api::names::selector("my-cluster"),
///     "app=vllm-cluster,cluster=my-cluster,component=vllm-server"
/// );
/// ```
pub fn selector(cluster: &str) -> String {
    format!("{LABEL_APP}={APP},{LABEL_CLUSTER}={cluster},{LABEL_COMPONENT}={COMPONENT}")
}

/// Name of the headless Service that gives each pod its DNS name.
pub fn headless_service(cluster: &str) -> String {
    format!("{cluster}-pods")
}
