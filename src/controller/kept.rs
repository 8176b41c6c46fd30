//! A `VLLMCluster` as it is kept between two looks at it.
//!
//! Architecture invariant: of what is left out, a reconciliation reads nothing.

use std::borrow::Cow;

use kube::Resource;
use kube::core::DeserializeGuard;
use serde::{Deserialize, Deserializer};

use crate::api::VLLMCluster;

/// A cluster, or why it cannot be read; without the record of who manages which field, which is most of a small object.
#[derive(Clone, Debug)]
pub struct Kept(pub DeserializeGuard<VLLMCluster>);

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut cluster = DeserializeGuard::deserialize(deserializer)?;
        cluster.meta_mut().managed_fields = None;
        Ok(Self(cluster))
    }
}

impl Resource for Kept {
    type DynamicType = <VLLMCluster as Resource>::DynamicType;
    type Scope = <VLLMCluster as Resource>::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        VLLMCluster::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        VLLMCluster::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        VLLMCluster::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        VLLMCluster::plural(dt)
    }

    fn meta(&self) -> &kube::core::ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_manages_which_field_is_not_kept() {
        for replicas in [json!(2), json!("unreadable")] {
            let kept: Kept = serde_json::from_value(json!({
                "apiVersion": VLLMCluster::api_version(&()), "kind": VLLMCluster::kind(&()),
                "metadata": {"name": "a", "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]},
                "spec": {"replicas": replicas},
            }))
            .expect("a cluster");
            assert_eq!(kept.meta().managed_fields, None);
            assert_eq!(kept.meta().name.as_deref(), Some("a"));
        }
    }
}
