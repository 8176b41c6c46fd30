//! The StatefulSet that runs a cluster's servers.

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::api::VLLMClusterSpec;
use crate::api::names::headless_service;
use crate::api::workload::{CacheClaim, Retention, UpdateType};

use super::ValidatedCluster;
use super::pod::CACHE;

/// The StatefulSet of a cluster.
pub fn statefulset(cluster: &ValidatedCluster) -> StatefulSet {
    let spec = &cluster.spec;
    let claim = spec.model_cache.as_ref().and_then(|cache| cache.claim.as_ref());
    StatefulSet {
        metadata: cluster.owned(cluster.name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(cluster.replicas),
            service_name: Some(headless_service(&cluster.name)),
            // In order would wait for each model to load before the next, and never leave a broken image by itself.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(update_strategy(spec)),
            selector: LabelSelector { match_labels: Some(cluster.selector()), match_expressions: None },
            template: cluster.template.clone(),
            volume_claim_templates: claim.map(|claim| vec![claim_template(claim)]),
            persistent_volume_claim_retention_policy: claim.map(|_| retention(spec)),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn update_strategy(spec: &VLLMClusterSpec) -> StatefulSetUpdateStrategy {
    let stated = spec.update_strategy.as_ref();
    match stated.and_then(|strategy| strategy.type_) {
        Some(UpdateType::OnDelete) => {
            StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None }
        }
        Some(UpdateType::RollingUpdate) | None => StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".into()),
            // Stated, so that a partition set by hand does not hold back updates unseen.
            rolling_update: Some(RollingUpdateStatefulSetStrategy {
                partition: Some(0),
                max_unavailable: stated.and_then(|strategy| strategy.max_unavailable.clone()),
            }),
        },
    }
}

fn claim_template(claim: &CacheClaim) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(CACHE.into()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: claim.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".into(), claim.size.clone())].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn retention(spec: &VLLMClusterSpec) -> StatefulSetPersistentVolumeClaimRetentionPolicy {
    let stated = spec.model_cache.as_ref().and_then(|cache| cache.retention.as_ref());
    let policy = |retention: Option<Retention>| {
        Some(
            match retention.unwrap_or(Retention::Retain) {
                Retention::Retain => "Retain",
                Retention::Delete => "Delete",
            }
            .to_owned(),
        )
    };
    StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: policy(stated.and_then(|retention| retention.when_deleted)),
        when_scaled: policy(stated.and_then(|retention| retention.when_scaled)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{validated, with};
    use super::*;

    fn spec(cluster: &ValidatedCluster) -> serde_json::Value {
        serde_json::to_value(statefulset(cluster)).unwrap()["spec"].take()
    }

    #[test]
    fn the_selector_is_what_scale_publishes() {
        let set = statefulset(&validated(1));
        let spec = set.spec.unwrap();
        let labels = spec.selector.match_labels.unwrap();
        let written: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(written.join(","), crate::api::names::selector("my-cluster"));
        let pod_labels = spec.template.metadata.unwrap().labels.unwrap();
        assert!(labels.iter().all(|(key, value)| pod_labels.get(key) == Some(value)));
        assert_eq!(spec.service_name.as_deref(), Some("my-cluster-pods"));
        assert_eq!(spec.replicas, Some(1));
    }

    #[test]
    fn pods_change_one_at_a_time_unless_told_otherwise() {
        let one = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
        assert_eq!(spec(&validated(1))["updateStrategy"], one);
        let strategy = |strategy| {
            spec(&with(1, |spec| spec.update_strategy = serde_json::from_value(strategy).unwrap()))["updateStrategy"].take()
        };
        let two =
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": "25%"}});
        assert_eq!(strategy(json!({"maxUnavailable": "25%"})), two);
        assert_eq!(strategy(json!({"type": "OnDelete"})), json!({"type": "OnDelete"}));
    }

    #[test]
    fn a_cache_of_each_replica_is_kept_unless_told_otherwise() {
        let cache = json!({"claim": {"size": "10Gi", "storageClassName": "fast"}});
        let cached = |cache| spec(&with(1, |spec| spec.model_cache = serde_json::from_value(cache).unwrap()));
        let set = cached(cache);
        let claim = &set["volumeClaimTemplates"][0];
        assert_eq!(claim["metadata"]["name"], "model-cache");
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "10Gi");
        assert_eq!(claim["spec"]["storageClassName"], "fast");
        assert_eq!(
            set["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        let set = cached(json!({"claim": {"size": "1Gi"}, "retention": {"whenScaled": "Delete"}}));
        assert_eq!(
            set["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Delete"})
        );
        let set = cached(json!({"existingClaim": "models"}));
        assert!(
            set["volumeClaimTemplates"].is_null() && set["persistentVolumeClaimRetentionPolicy"].is_null()
        );
    }
}
