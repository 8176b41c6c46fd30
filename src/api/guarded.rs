//! An object that may be unreadable, so that one of many ends neither a list nor a watch.
//!
//! kube's `DeserializeGuard` says the same. It makes a tree of each object and copies it before it tries the type; here the text is
//! tried, and a tree is made of one that fails. That takes an API server that writes an event's type before its object, as that of Kubernetes
//! does: of what it has to put aside serde keeps no text.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::PartialObjectMeta;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::Value;
use serde_json::value::RawValue;

/// An object, or why it cannot be read.
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<K, Unreadable>);

/// An object that cannot be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// What can be read of it. Boxed: it is seldom there, and large.
    pub metadata: Box<ObjectMeta>,
    /// What is wrong.
    pub error: String,
}

/// Reads a text.
///
/// # Errors
/// What is wrong with it, without a line and a column: they would be of a text that nobody sees.
pub fn read<T: DeserializeOwned>(text: &RawValue) -> Result<T, String> {
    let as_tree = || serde_json::from_value(serde_json::from_str::<Value>(text.get())?);
    serde_json::from_str(text.get()).or_else(|_| as_tree()).map_err(|error| error.to_string())
}

impl<'de, K: DeserializeOwned + Resource> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(match read(&text) {
            Ok(object) => Ok(object),
            Err(error) => {
                let part = serde_json::from_str::<PartialObjectMeta<K>>(text.get());
                let metadata = Box::new(part.map_err(D::Error::custom)?.metadata);
                Err(Unreadable { metadata, error })
            }
        }))
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &*unreadable.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut *unreadable.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt as _;
    use kube::core::{ObjectList, WatchEvent};

    use super::*;
    use crate::api::VLLMCluster;

    const GOOD: &str = r#"{"apiVersion":"training.distributed-inference.io/v1alpha1","kind":"VLLMCluster","metadata":{"name":"a"},"spec":{"replicas":2}}"#;
    const BAD: &str = r#"{"apiVersion":"training.distributed-inference.io/v1alpha1","kind":"VLLMCluster","metadata":{"name":"b"},"spec":{"replicas":"two"}}"#;

    #[test]
    fn one_that_cannot_be_read_ends_no_list() {
        let list = format!(
            r#"{{"apiVersion":"training.distributed-inference.io/v1alpha1","kind":"VLLMClusterList","metadata":{{}},"items":[{GOOD},{BAD}]}}"#
        );
        let list: ObjectList<Guarded<VLLMCluster>> = serde_json::from_str(&list).unwrap();
        let read = list
            .items
            .iter()
            .map(|object| (object.name_any(), object.0.as_ref().ok().map(|c| c.spec.replicas)));
        assert_eq!(read.collect::<Vec<_>>(), [("a".into(), Some(Some(2))), ("b".into(), None)]);
        // What stands in a list is told without a place in the list's text.
        let unreadable = list.items[1].0.as_ref().unwrap_err();
        assert!(
            unreadable.error.contains("\"two\"") && !unreadable.error.contains("line"),
            "{}",
            unreadable.error
        );
    }

    #[test]
    fn one_that_cannot_be_read_ends_no_watch() {
        let event = format!(r#"{{"type":"MODIFIED","object":{BAD}}}"#);
        let Ok(WatchEvent::Modified(Guarded::<VLLMCluster>(Err(unreadable)))) = serde_json::from_str(&event)
        else {
            panic!("it is told");
        };
        assert_eq!(unreadable.metadata.name.as_deref(), Some("b"));
    }

    #[test]
    fn what_has_no_metadata_is_no_object() {
        serde_json::from_str::<Guarded<VLLMCluster>>(r#"{"metadata":[1],"spec":{}}"#).unwrap_err();
        serde_json::from_str::<Guarded<VLLMCluster>>("5").unwrap_err();
    }
}
