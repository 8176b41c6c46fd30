//! A `VLLMCluster` as it is kept between two looks at it: as text, which takes a tenth of what the types do.
//!
//! Architecture invariant: of what is left out, a reconciliation reads nothing.

use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::api::VLLMCluster;
use crate::api::guarded::read;
use crate::api::names::{GROUP, KIND, PLURAL, VERSION};
use crate::world::part;

/// A cluster that has yet to be read.
#[derive(Clone, Debug, Deserialize)]
pub struct Kept {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

/// What is read of metadata, and so without annotations, labels, owners and the record of who manages which field.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let metadata = part::metadata(deserializer)?;
    Ok(ObjectMeta { annotations: None, labels: None, owner_references: None, ..metadata })
}

impl Kept {
    /// The cluster.
    ///
    /// # Errors
    /// What is wrong with its spec or its status.
    pub fn read(&self) -> Result<VLLMCluster, String> {
        let spec = self.spec.as_deref().ok_or("there is none")?;
        let status = self.status.as_deref().map(read).transpose()?;
        Ok(VLLMCluster { metadata: self.metadata.clone(), spec: read(spec)?, status })
    }
}

part::resource!(Kept, KIND, GROUP, VERSION, PLURAL);

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use serde_json::json;

    use super::*;
    use crate::objects::fixture::cluster;

    #[test]
    fn it_is_read_as_it_came() {
        let mut sent = cluster(2);
        sent.metadata.generation = Some(3);
        sent.status = Some(crate::api::VLLMClusterStatus { replicas: 2, ..Default::default() });
        let mut object = serde_json::to_value(&sent).unwrap();
        object["metadata"]["annotations"] = json!({"a": "b"});
        object["metadata"]["labels"] = json!({"a": "b"});
        object["metadata"]["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
        let kept: Kept = serde_json::from_value(object).unwrap();
        assert_eq!(kept.read().unwrap(), sent);
    }

    #[test]
    fn one_that_cannot_be_read_is_kept_too() {
        for (spec, error) in [
            (json!({"replicas": "two"}), r#"invalid type: string "two", expected i32"#),
            (json!(null), "there is none"),
        ] {
            let mut object = serde_json::to_value(cluster(2)).unwrap();
            object["spec"] = spec;
            let kept: Kept = serde_json::from_value(object).unwrap();
            assert_eq!(kept.meta().name, cluster(2).metadata.name);
            assert_eq!(kept.read().unwrap_err(), error);
        }
    }
}
