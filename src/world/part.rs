//! The fields that are read of VLLMClusters and ScaledObjects, by watches, live reads and admission alike.
//!
//! Architecture invariant: shapes and their translation into facts. What is not listed here is never parsed.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::go::parse_bool;
use crate::api::names::{
    GROUP, HPA_OWNERSHIP, KEDA_GROUP, KIND, OWNER_LABEL, PAUSED, PAUSED_REPLICAS, PLURAL, PORT,
    SCALED_OBJECT_KIND, TRANSFER_HPA, VERSION,
};
use crate::api::{count, object};
use crate::policy::cluster::Spec;
use crate::policy::hpa::Hpa;
use crate::policy::scaled_object::view::Target;
use crate::policy::{Bounds, Clause, Scaler};

use super::servers::{PodPart, SetPart};
use super::{Attachment, Cluster, ForeignHpa, Leaving};

/// For `deserialize_with`: of an object's metadata what is read here, and so without the record of who manages which field, which
/// is most of a small object.
pub(crate) fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Part {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        deletion_timestamp: Option<Time>,
        annotations: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }

    let part: Part = object::required(deserializer)?;
    Ok(ObjectMeta {
        name: part.name,
        namespace: part.namespace,
        uid: part.uid,
        resource_version: part.resource_version,
        generation: part.generation,
        deletion_timestamp: part.deletion_timestamp,
        annotations: part.annotations,
        labels: part.labels,
        owner_references: part.owner_references,
        ..ObjectMeta::default()
    })
}

/// The counts in a `VLLMCluster`'s spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecPart {
    #[serde(default, deserialize_with = "count::optional")]
    replicas: Option<i32>,
    #[serde(default, deserialize_with = "count::optional")]
    min_replicas: Option<i32>,
    #[serde(default, deserialize_with = "count::optional")]
    max_replicas: Option<i32>,
    #[serde(default, deserialize_with = "count::optional")]
    port: Option<i32>,
    resources: Option<ResourcesPart>,
}

impl From<&SpecPart> for Spec {
    fn from(SpecPart { replicas, min_replicas, max_replicas, port: _, resources: _ }: &SpecPart) -> Self {
        Self { replicas: *replicas, bounds: Bounds { min: *min_replicas, max: *max_replicas } }
    }
}

/// A `VLLMCluster`, as far as admission reads it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ClusterPart {
    /// Name, namespace, resourceVersion.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// The counts. Absent and null are the same.
    #[serde(default, deserialize_with = "object::optional")]
    pub spec: Option<SpecPart>,
}

/// Which resources a container states.
#[derive(Clone, Debug, Default, Deserialize)]
struct ResourcesPart {
    requests: Option<BTreeMap<String, Value>>,
    limits: Option<BTreeMap<String, Value>>,
}

impl ResourcesPart {
    /// A limit stands for a request where there is none.
    fn request(&self, resource: &str) -> bool {
        let limits = self.limits.as_ref().filter(|_| Clause::LimitIsRequest.in_force());
        [self.requests.as_ref(), limits].into_iter().flatten().any(|stated| {
            stated.get(resource).is_some_and(|amount| match amount {
                Value::Number(number) => number.as_f64().is_some_and(|number| number > 0.0),
                Value::String(text) => is_some_amount(text),
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
            })
        })
    }
}

/// Whether a quantity is above 0: of nothing there is no share for an HPA to measure, and to KEDA a request of 0 is
/// none.
pub(super) fn is_some_amount(quantity: &str) -> bool {
    let number = quantity.trim_start_matches('+').trim_end_matches(|c: char| !c.is_ascii_digit());
    let digits = number.split(['e', 'E']).next().unwrap_or_default();
    !digits.starts_with('-') && digits.contains(|c: char| ('1'..='9').contains(&c))
}

impl ClusterPart {
    /// The facts.
    pub fn facts(&self) -> Cluster {
        let spec = self.spec.as_ref().map(Spec::from).unwrap_or_default();
        let resources = self.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        let port = self.spec.as_ref().and_then(|spec| spec.port);
        Cluster {
            cpu_request: resources.is_some_and(|stated| stated.request("cpu")),
            memory_request: resources.is_some_and(|stated| stated.request("memory")),
            resource_version: self.metadata.resource_version.clone().unwrap_or_default(),
            bounds: spec.bounds,
            deleting: self.metadata.deletion_timestamp.is_some(),
            uid: self.metadata.uid.as_deref().unwrap_or_default().into(),
            replicas: spec.replicas.unwrap_or(1),
            // The schema holds it to a port; at 0 nobody listens.
            port: u16::try_from(port.unwrap_or(PORT)).unwrap_or_default(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaledObjectSpecPart {
    scale_target_ref: Option<Target>,
    #[serde(default, deserialize_with = "count::optional")]
    min_replica_count: Option<i32>,
    #[serde(default, deserialize_with = "count::optional")]
    max_replica_count: Option<i32>,
    advanced: Option<AdvancedPart>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdvancedPart {
    horizontal_pod_autoscaler_config: Option<HpaConfigPart>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct HpaConfigPart {
    name: Option<String>,
}

impl ScaledObjectSpecPart {
    fn hpa_name(&self) -> Option<&str> {
        let config = self.advanced.as_ref()?.horizontal_pod_autoscaler_config.as_ref()?;
        config.name.as_deref().filter(|name| !name.is_empty())
    }
}

/// A `ScaledObject`, as far as admission reads it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ScaledObjectPart {
    /// Name, namespace, annotations.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(default, deserialize_with = "object::optional")]
    spec: Option<ScaledObjectSpecPart>,
    status: Option<StatusPart>,
}

impl ScaledObjectPart {
    /// What KEDA says is wrong with it.
    pub fn error(&self) -> Option<String> {
        failing(self.status.as_ref(), &["Ready"])
    }

    /// The attachment; `None` if its target is no `VLLMCluster`, or if it is being deleted.
    pub fn attachment(&self) -> Option<Attachment<Scaler>> {
        let deleting = self.metadata.deletion_timestamp.is_some() && Clause::AttachedWhileKept.in_force();
        self.target().filter(|_| !deleting)
    }

    /// What it was attached to, if it is being deleted.
    pub fn leaving(&self) -> Option<Attachment<Leaving>> {
        let Attachment { cluster, driver } =
            self.target().filter(|_| self.metadata.deletion_timestamp.is_some())?;
        Some(Attachment { cluster, driver: Leaving(driver) })
    }

    fn target(&self) -> Option<Attachment<Scaler>> {
        let spec = self.spec.as_ref()?;
        let cluster = spec.scale_target_ref.as_ref()?.cluster()?;
        let annotations = self.metadata.annotations.as_ref();
        let takes_over =
            annotations.and_then(|all| all.get(TRANSFER_HPA)).is_some_and(|value| value == "true");
        let scaler = Scaler {
            name: self.metadata.name.clone().unwrap_or_default(),
            min: spec.min_replica_count,
            max: spec.max_replica_count,
            paused: paused(annotations),
            takes_over: takes_over.then(|| spec.hpa_name().map(str::to_owned)).flatten(),
        };
        Some(Attachment { cluster: cluster.to_owned(), driver: scaler })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HpaSpecPart {
    scale_target_ref: Option<Target>,
    #[serde(default, deserialize_with = "count::optional")]
    min_replicas: Option<i32>,
    #[serde(default, deserialize_with = "count::optional")]
    max_replicas: Option<i32>,
}

/// A HorizontalPodAutoscaler, as far as admission reads it: the same in each of its versions.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct HpaPart {
    /// Name, namespace, owners.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(default, deserialize_with = "object::optional")]
    spec: Option<HpaSpecPart>,
    status: Option<StatusPart>,
}

impl HpaPart {
    /// What the HPA controller says is wrong with it.
    pub fn error(&self) -> Option<String> {
        failing(self.status.as_ref(), &["AbleToScale", "ScalingActive"])
    }

    /// What the policy judges; `None` if its target is no `VLLMCluster`.
    pub fn view(&self) -> Option<Hpa> {
        let spec = self.spec.as_ref()?;
        let name = self.metadata.name.clone().unwrap_or_default();
        let label = self.metadata.labels.as_ref().and_then(|all| all.get(OWNER_LABEL));
        Some(Hpa {
            made_for: Hpa::made_for(&name, label.map(String::as_str)).map(str::to_owned),
            name,
            cluster: spec.scale_target_ref.as_ref()?.cluster()?.to_owned(),
            // What the API server takes for an absent minimum.
            min: spec.min_replicas.unwrap_or(1),
            max: spec.max_replicas.unwrap_or_default(),
            beside: self.annotation(HPA_OWNERSHIP) == Some("false"),
        })
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether a ScaledObject controls it: then KEDA made it, and what it may be was judged there.
    pub fn of_scaled_object(&self) -> bool {
        self.metadata.owner_references.iter().flatten().any(|owner| {
            owner.controller == Some(true)
                && owner.kind == SCALED_OBJECT_KIND
                && owner.api_version.split_once('/').is_some_and(|(group, _)| group == KEDA_GROUP)
        })
    }

    /// The attachment; `None` where there is no [`HpaPart::view`], if a ScaledObject controls it, if it may stand
    /// beside one, or if it is being deleted.
    pub fn attachment(&self) -> Option<Attachment<ForeignHpa>> {
        let controlled = self.of_scaled_object() && Clause::ControlledHpa.in_force();
        if controlled || self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let excused = |hpa: &Hpa| hpa.beside && Clause::Ownership.in_force();
        let Hpa { name, cluster, min, max, .. } = self.view().filter(|hpa| !excused(hpa))?;
        Some(Attachment { cluster, driver: ForeignHpa { name, min, max } })
    }
}

/// A condition in a status, as KEDA, the HPA controller and kubelets write it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ConditionPart {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) status: Option<String>,
    message: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct StatusPart {
    conditions: Option<Vec<ConditionPart>>,
}

/// The message of the first of these conditions that is false.
fn failing(status: Option<&StatusPart>, kinds: &[&str]) -> Option<String> {
    let conditions = status?.conditions.as_ref()?;
    let failing = conditions.iter().find(|condition| {
        condition.status.as_deref() == Some("False")
            && condition.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
    })?;
    failing.message.clone()
}

/// Whether KEDA leaves the count alone, by its own rules: `paused-replicas` present, or `paused` present and not
/// false in the sense of Go's `strconv.ParseBool`.
fn paused(annotations: Option<&BTreeMap<String, String>>) -> bool {
    let Some(annotations) = annotations else { return false };
    let is_set = |value: &String| parse_bool(value) != Some(false);
    annotations.contains_key(PAUSED_REPLICAS) || annotations.get(PAUSED).is_some_and(is_set)
}

/// A kind that is read in part: how the API server knows it, and its field `metadata`.
macro_rules! resource {
    ($part:ty, $kind:expr, $group:expr, $version:expr, $plural:expr) => {
        impl kube::Resource for $part {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;
            fn kind(&(): &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }
            fn group(&(): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version(&(): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural(&(): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &kube::core::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use resource;

resource!(ClusterPart, KIND, GROUP, VERSION, PLURAL);
resource!(HpaPart, "HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers");
resource!(SetPart, "StatefulSet", "apps", "v1", "statefulsets");
resource!(PodPart, "Pod", "", "v1", "pods");
resource!(ScaledObjectPart, SCALED_OBJECT_KIND, KEDA_GROUP, VERSION, "scaledobjects");

#[cfg(test)]
mod tests;
