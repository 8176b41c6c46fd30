//! What a cluster consists of: one pure constructor per produced kind.
//!
//! Architecture invariant: no client and no look at what exists. The constructors take a [`ValidatedCluster`], so
//! that an object which cannot be built never reaches them.

pub mod arguments;
pub mod budget;
pub mod origin;
mod overlay;
pub mod pod;
pub mod service;
pub mod statefulset;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::names::{
    API_VERSION, APP, COMPONENT, KIND, LABEL_APP, LABEL_CLUSTER, LABEL_COMPONENT, LABEL_MANAGED_BY, MAX_NAME,
    OPERATOR,
};
use crate::api::{VLLMCluster, VLLMClusterSpec};

/// A cluster that objects can be built from.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedCluster {
    /// Its name: at most 52 characters.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid, for owner references.
    pub uid: String,
    /// The generation of its spec.
    pub generation: i64,
    /// How many servers to run.
    pub replicas: i32,
    /// All else that it states.
    pub spec: VLLMClusterSpec,
    /// Its pods, with the spec's own template laid over the operator's.
    pub template: PodTemplateSpec,
}

/// Why no objects can be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCluster {
    /// The object did not come from an API server.
    #[error("the object has no {0}; it was not read from an API server")]
    Incomplete(&'static str),
    /// Pods of so long a name would never be created.
    #[error(
        "the name has {0} characters, and pods can be created for at most {MAX_NAME}: create a VLLMCluster with a shorter name and delete this one"
    )]
    NameTooLong(usize),
    /// Slipped past webhook and schema.
    #[error("spec.replicas is missing: state a number of 1 or more")]
    NoReplicas,
    /// Slipped past webhook and schema.
    #[error("spec.podTemplate is no pod template: {0}; correct the field that this names")]
    PodTemplate(String),
}

impl TryFrom<&VLLMCluster> for ValidatedCluster {
    type Error = InvalidCluster;

    fn try_from(cluster: &VLLMCluster) -> Result<Self, InvalidCluster> {
        let VLLMCluster { metadata, spec, status: _ } = cluster;
        let name = metadata.name.clone().ok_or(InvalidCluster::Incomplete("name"))?;
        if name.len() > MAX_NAME {
            return Err(InvalidCluster::NameTooLong(name.len()));
        }
        let template = pod::template(labels(&name), spec)
            .map_err(|error| InvalidCluster::PodTemplate(error.to_string()))?;
        Ok(Self {
            namespace: metadata.namespace.clone().ok_or(InvalidCluster::Incomplete("namespace"))?,
            uid: metadata.uid.clone().ok_or(InvalidCluster::Incomplete("uid"))?,
            generation: metadata.generation.unwrap_or_default(),
            replicas: spec.replicas.ok_or(InvalidCluster::NoReplicas)?,
            spec: spec.clone(),
            template,
            name,
        })
    }
}

/// The labels that select the servers of a cluster, and nothing else in the namespace.
fn selector(cluster: &str) -> BTreeMap<String, String> {
    [(LABEL_APP, APP), (LABEL_CLUSTER, cluster), (LABEL_COMPONENT, COMPONENT)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The selector labels and the recommended ones.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    let recommended = [
        ("app.kubernetes.io/name", "vllm"),
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/component", COMPONENT),
        (LABEL_MANAGED_BY, OPERATOR),
    ];
    let mut labels = selector(cluster);
    labels.extend(recommended.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

impl ValidatedCluster {
    /// The labels that select the servers, and nothing else in the namespace.
    pub fn selector(&self) -> BTreeMap<String, String> {
        selector(&self.name)
    }

    /// Metadata of an owned object: it goes with the cluster by garbage collection.
    fn owned(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels(&self.name)),
            owner_references: Some(vec![OwnerReference {
                api_version: API_VERSION.into(),
                kind: KIND.into(),
                name: self.name.clone(),
                uid: self.uid.clone(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    pub(crate) fn cluster(replicas: i32) -> VLLMCluster {
        VLLMCluster {
            metadata: ObjectMeta {
                name: Some("my-cluster".into()),
                namespace: Some("t".into()),
                uid: Some("u-1".into()),
                generation: Some(1),
                ..ObjectMeta::default()
            },
            spec: VLLMClusterSpec {
                replicas: Some(replicas),
                model: Some("Qwen/Qwen3-0.6B".into()),
                ..VLLMClusterSpec::default()
            },
            status: None,
        }
    }

    pub(crate) fn validated(replicas: i32) -> ValidatedCluster {
        with(replicas, |_| {})
    }

    /// As [`validated`], with a changed spec.
    pub(crate) fn with(replicas: i32, change: impl FnOnce(&mut VLLMClusterSpec)) -> ValidatedCluster {
        let mut cluster = cluster(replicas);
        change(&mut cluster.spec);
        ValidatedCluster::try_from(&cluster).unwrap()
    }

    #[test]
    fn what_cannot_be_built_is_named() {
        let mut nameless = cluster(1);
        nameless.spec.replicas = None;
        assert_eq!(ValidatedCluster::try_from(&nameless), Err(InvalidCluster::NoReplicas));
        nameless.metadata.name = Some("a".repeat(53));
        assert_eq!(ValidatedCluster::try_from(&nameless), Err(InvalidCluster::NameTooLong(53)));
        nameless.metadata.name = None;
        assert_eq!(ValidatedCluster::try_from(&nameless), Err(InvalidCluster::Incomplete("name")));
    }
}
