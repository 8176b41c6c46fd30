//! The fields that are read of VLLMClusters and ScaledObjects, by watches, live reads and admission alike.
//!
//! Architecture invariant: shapes and their translation into facts. What is not listed here is never parsed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::names::{
    GROUP, HPA_OWNERSHIP, KEDA_GROUP, KIND, PAUSED, PAUSED_REPLICAS, PLURAL, SCALED_OBJECT_KIND,
    TRANSFER_HPA, VERSION,
};
use crate::policy::cluster::Spec;
use crate::policy::hpa::Hpa;
use crate::policy::{Bounds, Scaler};

use super::{Attachment, Cluster, ForeignHpa};

/// The counts in a `VLLMCluster`'s spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecPart {
    replicas: Option<i32>,
    min_replicas: Option<i32>,
    max_replicas: Option<i32>,
    resources: Option<ResourcesPart>,
}

impl From<&SpecPart> for Spec {
    fn from(SpecPart { replicas, min_replicas, max_replicas, resources: _ }: &SpecPart) -> Self {
        Self { replicas: *replicas, bounds: Bounds { min: *min_replicas, max: *max_replicas } }
    }
}

/// A `VLLMCluster`, as far as admission reads it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ClusterPart {
    /// Name, namespace, resourceVersion.
    pub metadata: ObjectMeta,
    /// The counts. Absent and null are the same.
    pub spec: Option<SpecPart>,
}

/// Which resources a container states, whatever the amounts.
#[derive(Clone, Debug, Default, Deserialize)]
struct ResourcesPart {
    requests: Option<BTreeMap<String, Option<IgnoredAny>>>,
    limits: Option<BTreeMap<String, Option<IgnoredAny>>>,
}

impl ResourcesPart {
    /// A limit stands for a request where there is none.
    fn request(&self, resource: &str) -> bool {
        [&self.requests, &self.limits]
            .into_iter()
            .flatten()
            .any(|stated| stated.get(resource).is_some_and(Option::is_some))
    }
}

impl ClusterPart {
    /// The facts.
    pub fn facts(&self) -> Cluster {
        let spec = self.spec.as_ref().map(Spec::from).unwrap_or_default();
        let resources = self.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        Cluster {
            cpu_request: resources.is_some_and(|stated| stated.request("cpu")),
            memory_request: resources.is_some_and(|stated| stated.request("memory")),
            resource_version: self.metadata.resource_version.clone().unwrap_or_default(),
            bounds: spec.bounds,
            deleting: self.metadata.deletion_timestamp.is_some(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaleTargetRef {
    /// Absent: `apps/v1`.
    api_version: Option<String>,
    /// Absent: `Deployment`.
    kind: Option<String>,
    name: Option<String>,
}

impl ScaleTargetRef {
    /// The VLLMCluster that it names, in whichever version of its group.
    fn cluster(&self) -> Option<&str> {
        let (group, _) = self.api_version.as_deref()?.split_once('/')?;
        let name = self.name.as_deref().filter(|name| !name.is_empty())?;
        (group == GROUP && self.kind.as_deref() == Some(KIND)).then_some(name)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaledObjectSpecPart {
    scale_target_ref: Option<ScaleTargetRef>,
    min_replica_count: Option<i32>,
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
    pub metadata: ObjectMeta,
    spec: Option<ScaledObjectSpecPart>,
}

impl ScaledObjectPart {
    /// The attachment; `None` if its target is no `VLLMCluster`, or if it is being deleted.
    pub fn attachment(&self) -> Option<Attachment<Scaler>> {
        let spec = self.spec.as_ref()?;
        let cluster = spec.scale_target_ref.as_ref()?.cluster()?;
        if self.metadata.deletion_timestamp.is_some() {
            return None;
        }
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
    scale_target_ref: Option<ScaleTargetRef>,
    min_replicas: Option<i32>,
    max_replicas: Option<i32>,
}

/// A HorizontalPodAutoscaler, as far as admission reads it: the same in each of its versions.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct HpaPart {
    /// Name, namespace, owners.
    pub metadata: ObjectMeta,
    spec: Option<HpaSpecPart>,
}

impl HpaPart {
    /// What the policy judges; `None` if its target is no `VLLMCluster`, or if a ScaledObject controls it. An HPA
    /// that is taken from its ScaledObject so had no predecessor to excuse it.
    pub fn view(&self) -> Option<Hpa> {
        if self.of_scaled_object() {
            return None;
        }
        let spec = self.spec.as_ref()?;
        Some(Hpa {
            name: self.metadata.name.clone().unwrap_or_default(),
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

    /// The attachment; `None` where there is no [`HpaPart::view`], if it may stand beside a ScaledObject, or if it
    /// is being deleted.
    pub fn attachment(&self) -> Option<Attachment<ForeignHpa>> {
        if self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let Hpa { name, cluster, .. } = self.view().filter(|hpa| !hpa.beside)?;
        Some(Attachment { cluster, driver: ForeignHpa { name } })
    }
}

/// Whether KEDA leaves the count alone, by its own rules: `paused-replicas` present, or `paused` present and not
/// false in the sense of Go's `strconv.ParseBool`.
fn paused(annotations: Option<&BTreeMap<String, String>>) -> bool {
    let Some(annotations) = annotations else { return false };
    let no = |value: &String| matches!(value.as_str(), "0" | "f" | "F" | "false" | "FALSE" | "False");
    annotations.contains_key(PAUSED_REPLICAS) || annotations.get(PAUSED).is_some_and(|value| !no(value))
}

macro_rules! resource {
    ($part:ty, $kind:expr, $group:expr, $version:expr, $plural:expr) => {
        impl Resource for $part {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;
            fn kind(&(): &()) -> Cow<'_, str> {
                $kind.into()
            }
            fn group(&(): &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version(&(): &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural(&(): &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(ClusterPart, KIND, GROUP, VERSION, PLURAL);
resource!(HpaPart, "HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers");
resource!(ScaledObjectPart, SCALED_OBJECT_KIND, KEDA_GROUP, VERSION, "scaledobjects");

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn scaled_object(target: &Value, annotations: &Value) -> ScaledObjectPart {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n", "annotations": annotations},
            "spec": {"scaleTargetRef": target, "minReplicaCount": 2},
        }))
        .unwrap()
    }

    #[rstest]
    #[case::ours(json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"}), true)]
    #[case::another_version(json!({"apiVersion": "training.distributed-inference.io/v1", "kind": "VLLMCluster", "name": "a"}), true)]
    #[case::another_group(json!({"apiVersion": "example.io/v1alpha1", "kind": "VLLMCluster", "name": "a"}), false)]
    #[case::another_kind(json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "Other", "name": "a"}), false)]
    #[case::a_deployment_by_default(json!({"name": "a"}), false)]
    fn attached(#[case] target: Value, #[case] expected: bool) {
        let attachment = scaled_object(&target, &json!({})).attachment();
        assert_eq!(attachment.is_some(), expected);
        if let Some(Attachment { cluster, driver: scaler }) = attachment {
            assert_eq!(
                (cluster.as_str(), scaler.min, scaler.max, scaler.paused),
                ("a", Some(2), None, false)
            );
        }
    }

    #[rstest]
    #[case::nothing(json!({}), false)]
    #[case::yes(json!({"autoscaling.keda.sh/paused": "true"}), true)]
    #[case::no(json!({"autoscaling.keda.sh/paused": "false"}), false)]
    #[case::zero(json!({"autoscaling.keda.sh/paused": "0"}), false)]
    #[case::unreadable_is_yes(json!({"autoscaling.keda.sh/paused": "maybe"}), true)]
    #[case::pinned(json!({"autoscaling.keda.sh/paused-replicas": "3"}), true)]
    #[case::pinned_wins(json!({"autoscaling.keda.sh/paused": "false", "autoscaling.keda.sh/paused-replicas": "3"}), true)]
    fn pauses(#[case] annotations: Value, #[case] expected: bool) {
        let annotations: BTreeMap<String, String> = serde_json::from_value(annotations).unwrap();
        assert_eq!(paused(Some(&annotations)), expected);
    }

    #[test]
    fn one_that_is_being_deleted_is_not_attached() {
        let mut part = scaled_object(
            &json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"}),
            &json!({}),
        );
        assert!(part.attachment().is_some());
        part.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(part.attachment(), None);
    }

    #[test]
    fn a_cluster_without_spec_has_no_bounds() {
        let part: ClusterPart =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": null})).unwrap();
        assert_eq!(part.facts().bounds, Bounds::default());
    }

    #[rstest]
    #[case::nothing(json!(null), (false, false))]
    #[case::empty(json!({"requests": null, "limits": {}}), (false, false))]
    #[case::requests(json!({"requests": {"cpu": "1", "memory": "1Gi"}}), (true, true))]
    #[case::a_limit_is_a_request(json!({"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}}), (true, true))]
    #[case::null_is_absent(json!({"requests": {"cpu": null}, "limits": {"memory": null}}), (false, false))]
    #[case::another_resource(json!({"limits": {"nvidia.com/gpu": 1}}), (false, false))]
    fn requests(#[case] resources: Value, #[case] expected: (bool, bool)) {
        let part: ClusterPart =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"resources": resources}}))
                .unwrap();
        let Cluster { cpu_request, memory_request, .. } = part.facts();
        assert_eq!((cpu_request, memory_request), expected);
    }

    #[rstest]
    #[case::announced(json!({TRANSFER_HPA: "true"}), json!("h"), Some("h"))]
    #[case::not_announced(json!({}), json!("h"), None)]
    #[case::only_true_counts(json!({TRANSFER_HPA: "True"}), json!("h"), None)]
    #[case::which_one(json!({TRANSFER_HPA: "true"}), json!(null), None)]
    #[case::no_name(json!({TRANSFER_HPA: "true"}), json!(""), None)]
    fn takes_over(#[case] annotations: Value, #[case] name: Value, #[case] expected: Option<&str>) {
        let part: ScaledObjectPart = serde_json::from_value(json!({
            "metadata": {"name": "s", "annotations": annotations},
            "spec": {"scaleTargetRef": ours(), "advanced": {"horizontalPodAutoscalerConfig": {"name": name}}},
        }))
        .unwrap();
        assert_eq!(part.attachment().unwrap().driver.takes_over.as_deref(), expected);
    }

    fn ours() -> Value {
        json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"})
    }

    fn hpa(metadata: &Value, spec: &Value) -> HpaPart {
        let mut object =
            json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": ours(), "maxReplicas": 5}});
        json_patch::merge(&mut object, &json!({"metadata": metadata, "spec": spec}));
        serde_json::from_value(object).unwrap()
    }

    #[rstest]
    #[case::minimum_left_out(json!({}), Some((1, 5)))]
    #[case::minimum_stated(json!({"minReplicas": 0}), Some((0, 5)))]
    #[case::of_version_1(json!({"targetCPUUtilizationPercentage": 80}), Some((1, 5)))]
    #[case::null_is_absent(json!({"scaleTargetRef": null}), None)]
    #[case::another_group(json!({"scaleTargetRef": {"apiVersion": "example.io/v1"}}), None)]
    #[case::another_kind(json!({"scaleTargetRef": {"kind": "Deployment"}}), None)]
    #[case::no_name(json!({"scaleTargetRef": {"name": null}}), None)]
    fn an_hpa(#[case] spec: Value, #[case] expected: Option<(i32, i32)>) {
        let view = hpa(&json!({}), &spec).view();
        assert_eq!(view.as_ref().map(|view| (view.min, view.max)), expected);
        assert!(
            view.is_none_or(|view| (view.name, view.cluster, view.beside) == ("h".into(), "a".into(), false))
        );
    }

    #[rstest]
    #[case::nobodys(json!({}), true)]
    #[case::kedas(json!({"ownerReferences": [owner("keda.sh/v1alpha1", "ScaledObject", true)]}), false)]
    #[case::not_controlled(json!({"ownerReferences": [owner("keda.sh/v1alpha1", "ScaledObject", false)]}), true)]
    #[case::a_longer_group(json!({"ownerReferences": [owner("keda.sh.io/v1alpha1", "ScaledObject", true)]}), true)]
    #[case::of_a_scaled_job(json!({"ownerReferences": [owner("keda.sh/v1alpha1", "ScaledJob", true)]}), true)]
    #[case::excused(json!({"annotations": {HPA_OWNERSHIP: "false"}}), false)]
    #[case::only_false_excuses(json!({"annotations": {HPA_OWNERSHIP: "true"}}), true)]
    #[case::being_deleted(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), false)]
    fn foreign_hpas(#[case] metadata: Value, #[case] expected: bool) {
        let attachment = hpa(&metadata, &json!({})).attachment();
        let foreign = Attachment { cluster: "a".into(), driver: ForeignHpa { name: "h".into() } };
        assert_eq!(attachment, expected.then_some(foreign));
    }

    #[test]
    fn kedas_own_hpa_is_not_judged_and_excuses_nothing() {
        let owned = json!({"ownerReferences": [owner("keda.sh/v1alpha1", "ScaledObject", true)]});
        assert_eq!(hpa(&owned, &json!({})).view(), None);
    }

    fn owner(api_version: &str, kind: &str, controller: bool) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "name": "s", "uid": "u", "controller": controller})
    }

    #[rstest]
    #[case::by_hand(json!({}), true)]
    #[case::kedas(json!({"ownerReferences": [{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "s", "uid": "u", "controller": true}]}), false)]
    #[case::of_another_controller(json!({"ownerReferences": [{"apiVersion": "example.io/v1", "kind": "ScaledObject", "name": "s", "uid": "u", "controller": true}]}), true)]
    #[case::excused(json!({"annotations": {"validations.keda.sh/hpa-ownership": "false"}}), false)]
    #[case::going(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), false)]
    fn hpas_that_stand_by_themselves(#[case] metadata: Value, #[case] expected: bool) {
        let mut hpa = json!({
            "metadata": metadata,
            "spec": {
                "scaleTargetRef": {"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"},
                "maxReplicas": 3,
            },
        });
        hpa["metadata"]["name"] = json!("h");
        let part: HpaPart = serde_json::from_value(hpa).unwrap();
        assert_eq!(part.attachment().is_some(), expected);
        if let Some(view) = part.view() {
            assert_eq!((view.cluster.as_str(), view.min, view.max), ("a", 1, 3));
        }
    }

    #[test]
    fn an_hpa_is_taken_over_by_name() {
        let mut part = scaled_object(
            &json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"}),
            &json!({"scaledobject.keda.sh/transfer-hpa-ownership": "true"}),
        );
        assert_eq!(part.attachment().unwrap().driver.takes_over, None);
        let advanced = json!({"horizontalPodAutoscalerConfig": {"name": "h"}});
        part.spec.as_mut().unwrap().advanced = serde_json::from_value(advanced).unwrap();
        assert_eq!(part.attachment().unwrap().driver.takes_over.as_deref(), Some("h"));
    }
}
