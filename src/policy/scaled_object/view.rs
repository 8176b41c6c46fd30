//! What the policy reads of a `ScaledObject`.
//!
//! Architecture invariant: shapes only. Unknown fields are ignored, null is absent, a wrong type is an error of
//! serde's, which leaves the object to KEDA's schema.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::api::count;
use crate::api::names::{API_VERSION, GROUP, KIND, PAUSED, PAUSED_REPLICAS, REWRITE_TRIGGERS, TRANSFER_HPA};
use crate::policy::Clause;

use super::ExternalScaler;

/// The annotations that the policy reads.
const ANNOTATIONS: [&str; 4] = [PAUSED, PAUSED_REPLICAS, REWRITE_TRIGGERS, TRANSFER_HPA];

/// A `ScaledObject`, as far as the policy reads it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(from = "raw::Object")]
pub struct ScaledObject {
    /// `metadata.name`; empty while `generateName` has not given it one.
    pub name: String,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Whether it has a deletion timestamp.
    pub deleting: bool,
    /// The spec.
    pub spec: Spec,
}

/// A `ScaledObject`'s spec.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(from = "raw::Spec")]
pub struct Spec {
    /// `scaleTargetRef`.
    pub target: Target,
    /// `minReplicaCount`; absent, KEDA takes 0.
    pub min: Option<i32>,
    /// `maxReplicaCount`; absent, KEDA takes 100.
    pub max: Option<i32>,
    /// `idleReplicaCount`.
    pub idle: Option<i32>,
    /// `fallback`.
    pub fallback: Option<Fallback>,
    /// `triggers`.
    pub triggers: Vec<Trigger>,
    /// `advanced.horizontalPodAutoscalerConfig.name`; never empty.
    pub hpa_name: Option<String>,
    /// `advanced.scalingModifiers`, where any of its fields is set.
    pub modifiers: Option<Modifiers>,
}

/// `spec.scaleTargetRef`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Absent: `apps/v1`.
    pub api_version: Option<String>,
    /// Absent: `Deployment`.
    pub kind: Option<String>,
    /// The target's name.
    pub name: Option<String>,
}

impl Target {
    /// The name of the `VLLMCluster` that it names, by any version of our group.
    pub fn cluster(&self) -> Option<&str> {
        let Self { api_version, kind, name } = self;
        let (group, _) = api_version.as_deref()?.split_once('/')?;
        let name = name.as_deref().filter(|name| !name.is_empty())?;
        let of_group = group == GROUP || !Clause::AttachedByGroup.in_force();
        let of_version =
            Clause::AttachedByAnyVersion.in_force() || api_version.as_deref() == Some(API_VERSION);
        // KEDA and the HPA controller find a kind by its lower-case form as well.
        let of_kind = kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case(KIND))
            || !Clause::AttachedByKind.in_force();
        (of_group && of_version && of_kind).then_some(name)
    }
}

/// `spec.fallback`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Fallback {
    /// The count to fall back to.
    #[serde(default, deserialize_with = "count::optional")]
    pub replicas: Option<i32>,
    /// Absent: `static`.
    pub behavior: Option<String>,
}

/// `spec.advanced.scalingModifiers`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Modifiers {
    /// The expression over the triggers' names.
    pub formula: Option<String>,
    /// The target value of its result.
    pub target: Option<String>,
    /// The value of its result from which the target is active.
    pub activation_target: Option<String>,
    /// `AverageValue` or `Value`.
    pub metric_type: Option<String>,
}

/// One of `spec.triggers`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(from = "raw::Trigger")]
pub struct Trigger {
    /// `type`.
    pub type_: String,
    /// `name`; never empty.
    pub name: Option<String>,
    /// `metadata`.
    pub metadata: BTreeMap<String, String>,
    /// `metricType`; never empty.
    pub metric_type: Option<String>,
    /// `useCachedMetrics`.
    pub use_cached_metrics: bool,
    /// `authenticationRef`, where it names something.
    pub authentication: Option<Authentication>,
}

/// A trigger's `authenticationRef`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Authentication {
    /// Without one, the reference is none to KEDA.
    pub name: Option<String>,
    /// Absent: `TriggerAuthentication`.
    pub kind: Option<String>,
}

impl ScaledObject {
    /// The name of the `VLLMCluster` that it names as its target, by any version of our group.
    pub fn targets_cluster(&self) -> Option<&str> {
        self.spec.target.cluster()
    }

    /// Whether all that the policy reads is the same in `other`.
    pub(super) fn reads_like(&self, other: &Self) -> bool {
        self.spec == other.spec
            && ANNOTATIONS.iter().all(|&key| self.annotations.get(key) == other.annotations.get(key))
    }

    /// Whether its annotation keeps triggers of an older form.
    pub(super) fn opts_out(&self) -> bool {
        let keeps = self.annotations.get(REWRITE_TRIGGERS).is_some_and(|value| value == "false");
        keeps && Clause::RewriteOptOut.in_force()
    }

    /// Whether triggers of an older form are brought up to date.
    pub(super) fn rewrites(&self, scaler: &ExternalScaler<'_>) -> bool {
        !self.opts_out() && (scaler.rewrites || !Clause::RewriteFlag.in_force())
    }
}

impl Trigger {
    /// A value of the metadata as KEDA reads it: trimmed, and absent where nothing is left.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Whether the HPA measures it by itself, as a resource of the pods.
    pub(super) fn is_resource(&self) -> bool {
        matches!(self.type_.as_str(), "cpu" | "memory")
    }
}

/// The nested shapes as they stand in the JSON.
mod raw {
    use serde::de::IgnoredAny;

    use crate::api::{count, object};

    use super::{Authentication, BTreeMap, Deserialize, Deserializer, Fallback, Modifiers, Target};

    #[derive(Deserialize)]
    pub struct Object {
        #[serde(default, deserialize_with = "object::optional")]
        metadata: Option<Metadata>,
        #[serde(default, deserialize_with = "object::optional")]
        spec: Option<super::Spec>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        #[serde(default, deserialize_with = "strings")]
        annotations: BTreeMap<String, String>,
        deletion_timestamp: Option<IgnoredAny>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Spec {
        scale_target_ref: Option<Target>,
        #[serde(default, deserialize_with = "count::optional")]
        min_replica_count: Option<i32>,
        #[serde(default, deserialize_with = "count::optional")]
        max_replica_count: Option<i32>,
        #[serde(default, deserialize_with = "count::optional")]
        idle_replica_count: Option<i32>,
        fallback: Option<Fallback>,
        triggers: Option<Vec<super::Trigger>>,
        advanced: Option<Advanced>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Advanced {
        horizontal_pod_autoscaler_config: Option<HpaConfig>,
        scaling_modifiers: Option<Modifiers>,
    }

    #[derive(Deserialize)]
    struct HpaConfig {
        name: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Trigger {
        r#type: Option<String>,
        name: Option<String>,
        #[serde(default, deserialize_with = "strings")]
        metadata: BTreeMap<String, String>,
        metric_type: Option<String>,
        use_cached_metrics: Option<bool>,
        authentication_ref: Option<Authentication>,
    }

    /// A map of strings in which null is absent, at both levels.
    fn strings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
        let map = Option::<BTreeMap<String, Option<String>>>::deserialize(deserializer)?;
        Ok(map.into_iter().flatten().filter_map(|(key, value)| Some((key, value?))).collect())
    }

    fn filled(text: Option<String>) -> Option<String> {
        text.filter(|text| !text.is_empty())
    }

    impl From<Object> for super::ScaledObject {
        fn from(Object { metadata, spec }: Object) -> Self {
            let Metadata { name, annotations, deletion_timestamp } = metadata.unwrap_or_default();
            Self {
                name: name.unwrap_or_default(),
                annotations,
                deleting: deletion_timestamp.is_some(),
                spec: spec.unwrap_or_default(),
            }
        }
    }

    impl From<Spec> for super::Spec {
        fn from(raw: Spec) -> Self {
            let Spec {
                scale_target_ref,
                min_replica_count,
                max_replica_count,
                idle_replica_count,
                fallback,
                triggers,
                advanced,
            } = raw;
            let Advanced { horizontal_pod_autoscaler_config, scaling_modifiers } =
                advanced.unwrap_or_default();
            let modifiers = scaling_modifiers.map(|modifiers| Modifiers {
                formula: filled(modifiers.formula),
                target: filled(modifiers.target),
                activation_target: filled(modifiers.activation_target),
                metric_type: filled(modifiers.metric_type),
            });
            Self {
                target: scale_target_ref.unwrap_or_default(),
                min: min_replica_count,
                max: max_replica_count,
                idle: idle_replica_count,
                fallback,
                triggers: triggers.unwrap_or_default(),
                hpa_name: horizontal_pod_autoscaler_config.and_then(|config| filled(config.name)),
                modifiers: modifiers.filter(|modifiers| *modifiers != Modifiers::default()),
            }
        }
    }

    impl From<Trigger> for super::Trigger {
        fn from(raw: Trigger) -> Self {
            let Trigger { r#type, name, metadata, metric_type, use_cached_metrics, authentication_ref } = raw;
            Self {
                type_: r#type.unwrap_or_default(),
                name: filled(name),
                metadata,
                metric_type: filled(metric_type),
                use_cached_metrics: use_cached_metrics.unwrap_or_default(),
                authentication: authentication_ref.filter(|reference| reference.name.as_deref() > Some("")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn parse(object: Value) -> ScaledObject {
        serde_json::from_value(object).unwrap()
    }

    #[rstest]
    #[case::ours("training.distributed-inference.io/v1alpha1", "VLLMCluster", "a", Some("a"))]
    #[case::any_version("training.distributed-inference.io/v9", "VLLMCluster", "a", Some("a"))]
    #[case::other_group("distributed-inference.io/v1alpha1", "VLLMCluster", "a", None)]
    #[case::longer_group("training.distributed-inference.io.x/v1", "VLLMCluster", "a", None)]
    #[case::no_version("training.distributed-inference.io", "VLLMCluster", "a", None)]
    #[case::lower_case("training.distributed-inference.io/v1alpha1", "vllmcluster", "a", Some("a"))]
    #[case::other_kind("training.distributed-inference.io/v1alpha1", "Deployment", "a", None)]
    #[case::no_name("training.distributed-inference.io/v1alpha1", "VLLMCluster", "", None)]
    fn targets(
        #[case] api_version: &str,
        #[case] kind: &str,
        #[case] name: &str,
        #[case] target: Option<&str>,
    ) {
        let reference = json!({"apiVersion": api_version, "kind": kind, "name": name});
        assert_eq!(parse(json!({"spec": {"scaleTargetRef": reference}})).targets_cluster(), target);
    }

    #[rstest]
    #[case::empty(json!({}))]
    #[case::null(json!({"metadata": null, "spec": null}))]
    #[case::nulls(json!({
        "metadata": {"name": null, "annotations": null, "deletionTimestamp": null},
        "spec": {"scaleTargetRef": null, "minReplicaCount": null, "fallback": null, "triggers": null, "advanced": null},
    }))]
    #[case::deeper_nulls(json!({
        "metadata": {"annotations": {"a": null}},
        "spec": {"advanced": {"horizontalPodAutoscalerConfig": {"name": ""}, "scalingModifiers": {"formula": ""}}},
    }))]
    fn null_and_empty_are_absent(#[case] object: Value) {
        assert_eq!(parse(object), ScaledObject::default());
    }

    #[test]
    fn everything_is_read() {
        let object = parse(json!({
            "apiVersion": "keda.sh/v1alpha1",
            "metadata": {"name": "q", "uid": "u", "annotations": {"a": "b"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "minReplicaCount": 1, "maxReplicaCount": 2, "idleReplicaCount": 0, "pollingInterval": 5,
                "fallback": {"replicas": 3, "failureThreshold": 3, "behavior": "static"},
                "triggers": [{
                    "type": "cpu", "name": "c", "metadata": {"value": "80"}, "metricType": "Utilization",
                    "useCachedMetrics": true, "authenticationRef": {"name": "x"},
                }],
                "advanced": {
                    "horizontalPodAutoscalerConfig": {"name": "h"},
                    "scalingModifiers": {"formula": "c", "target": "5", "activationTarget": "1", "metricType": "Value"},
                },
            },
        }));
        let text = |text: &str| Some(text.to_owned());
        let trigger = Trigger {
            type_: "cpu".into(),
            name: text("c"),
            metadata: [("value".into(), "80".into())].into(),
            metric_type: text("Utilization"),
            use_cached_metrics: true,
            authentication: Some(Authentication { name: text("x"), kind: None }),
        };
        let spec = Spec {
            target: Target::default(),
            min: Some(1),
            max: Some(2),
            idle: Some(0),
            fallback: Some(Fallback { replicas: Some(3), behavior: text("static") }),
            triggers: vec![trigger],
            hpa_name: text("h"),
            modifiers: Some(Modifiers {
                formula: text("c"),
                target: text("5"),
                activation_target: text("1"),
                metric_type: text("Value"),
            }),
        };
        let annotations = [("a".to_owned(), "b".to_owned())].into();
        assert_eq!(object, ScaledObject { name: "q".into(), annotations, deleting: true, spec });
    }

    #[rstest]
    #[case(json!({"spec": {"minReplicaCount": "1"}}))]
    #[case(json!({"spec": {"minReplicaCount": 3_000_000_000_i64}}))]
    #[case(json!({"spec": {"fallback": {"replicas": 1.5}}}))]
    #[case(json!({"spec": {"triggers": [{"metadata": {"threshold": 5}}]}}))]
    fn a_wrong_type_is_an_error(#[case] object: Value) {
        assert!(serde_json::from_value::<ScaledObject>(object).is_err());
    }

    #[rstest]
    #[case::paused(PAUSED, false)]
    #[case::paused_replicas(PAUSED_REPLICAS, false)]
    #[case::rewrite(REWRITE_TRIGGERS, false)]
    #[case::transfer(TRANSFER_HPA, false)]
    #[case::others("example.com/x", true)]
    fn annotations_that_count(#[case] key: &str, #[case] alike: bool) {
        let annotated = parse(json!({"metadata": {"annotations": {key: "true"}}}));
        assert_eq!(annotated.reads_like(&ScaledObject::default()), alike);
    }
}
