//! The PodDisruptionBudget of a cluster, where its spec asks for one.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::ValidatedCluster;

/// The PodDisruptionBudget, of the cluster's own name.
pub fn budget(cluster: &ValidatedCluster) -> Option<PodDisruptionBudget> {
    let budget = cluster.spec.disruption_budget.as_ref()?;
    Some(PodDisruptionBudget {
        metadata: cluster.owned(cluster.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: budget.min_available.clone(),
            max_unavailable: budget.max_unavailable.clone(),
            selector: Some(LabelSelector { match_labels: Some(cluster.selector()), match_expressions: None }),
            // A server that is not ready serves nobody; holding its node would help nobody.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
        }),
        status: None,
    })
}
