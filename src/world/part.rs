//! The fields that are read of VLLMClusters and ScaledObjects, by watches, live reads and admission alike.
//!
//! Architecture invariant: shapes and their translation into facts. What is not listed here is never parsed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

use crate::api::names::{
    GROUP, KEDA_GROUP, KIND, PAUSED, PAUSED_REPLICAS, PLURAL, SCALED_OBJECT_KIND, VERSION,
};
use crate::policy::cluster::Spec;
use crate::policy::{Bounds, Scaler};

use super::{Attachment, Cluster};

/// The counts in a `VLLMCluster`'s spec.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SpecPart {
    replicas: Option<i32>,
    min_replicas: Option<i32>,
    max_replicas: Option<i32>,
}

impl From<SpecPart> for Spec {
    fn from(SpecPart { replicas, min_replicas, max_replicas }: SpecPart) -> Self {
        Self { replicas, bounds: Bounds { min: min_replicas, max: max_replicas } }
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

impl ClusterPart {
    /// The facts.
    pub fn facts(&self) -> Cluster {
        let spec: Spec = self.spec.unwrap_or_default().into();
        Cluster {
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
    #[serde(default)]
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaledObjectSpecPart {
    scale_target_ref: Option<ScaleTargetRef>,
    min_replica_count: Option<i32>,
    max_replica_count: Option<i32>,
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
    pub fn attachment(&self) -> Option<Attachment> {
        let spec = self.spec.as_ref()?;
        let target = spec.scale_target_ref.as_ref()?;
        let group = target.api_version.as_deref()?.split_once('/')?.0;
        if group != GROUP
            || target.kind.as_deref() != Some(KIND)
            || self.metadata.deletion_timestamp.is_some()
        {
            return None;
        }
        let scaler = Scaler {
            name: self.metadata.name.clone().unwrap_or_default(),
            min: spec.min_replica_count,
            max: spec.max_replica_count,
            paused: paused(self.metadata.annotations.as_ref()),
        };
        Some(Attachment { cluster: target.name.clone(), scaler })
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
        if let Some(Attachment { cluster, scaler }) = attachment {
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
}
