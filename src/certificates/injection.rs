//! The CA bundle in webhook configurations: which patch one needs, and sending it.
//!
//! **Architecture invariant:** nothing but `clientConfig.caBundle` is ever written. The entries belong to
//! whoever installed them; shipped manifests do not state the bundle, so that applying them again leaves it.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::{Api, PatchParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{CertificateError, bounded};
use crate::api::names;

/// What is looked at of one entry of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name, unique in its configuration.
    pub name: &'a str,
    /// The bundle it has now.
    pub ca_bundle: Option<&'a [u8]>,
}

/// A kind that lists webhook entries.
pub trait WebhookConfiguration:
    Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned
{
    /// The entries, in the order of the object.
    fn entries(&self) -> Vec<Entry<'_>>;
}

/// What became of one configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    /// There is no configuration of that name.
    Absent,
    /// Every entry had the bundle.
    Unchanged,
    /// Entries lacked it and have it now.
    Patched,
}

/// The patch after which every entry has `bundle`; `None` if all have it.
///
/// The position of an entry may shift between reading and writing, so each addition first tests that the
/// entry there still bears the name: the API server then refuses the patch as a whole.
pub fn patch(entries: &[Entry<'_>], bundle: &str) -> Option<Patch> {
    let mut operations = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let Entry { name, ca_bundle } = *entry;
        if ca_bundle == Some(bundle.as_bytes()) {
            continue;
        }
        let index = index.to_string();
        operations.push(PatchOperation::Test(TestOperation {
            path: PointerBuf::from_tokens(["webhooks", &index, "name"]),
            value: json!(name),
        }));
        operations.push(PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(["webhooks", &index, "clientConfig", "caBundle"]),
            value: json!(ByteString(bundle.as_bytes().to_vec())),
        }));
    }
    if operations.is_empty() { None } else { Some(Patch(operations)) }
}

/// Puts `bundle` into every entry of the configuration called `name` that lacks it.
pub async fn inject<K: WebhookConfiguration>(
    client: &Client,
    name: &str,
    bundle: &str,
) -> Result<Injection, CertificateError> {
    let configurations: Api<K> = Api::all(client.clone());
    let kind = K::kind(&());
    let Some(found) = bounded(|| format!("read {kind} {name}"), configurations.get_opt(name)).await? else {
        return Ok(Injection::Absent);
    };
    let Some(patch) = patch(&found.entries(), bundle) else {
        return Ok(Injection::Unchanged);
    };
    let params =
        PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = kube::api::Patch::<()>::Json(patch);
    bounded(|| format!("patch {kind} {name}"), configurations.patch(name, &params, &patch)).await?;
    Ok(Injection::Patched)
}

impl WebhookConfiguration for MutatingWebhookConfiguration {
    fn entries(&self) -> Vec<Entry<'_>> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.map(|webhook| entry(&webhook.name, &webhook.client_config)).collect()
    }
}

impl WebhookConfiguration for ValidatingWebhookConfiguration {
    fn entries(&self) -> Vec<Entry<'_>> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.map(|webhook| entry(&webhook.name, &webhook.client_config)).collect()
    }
}

fn entry<'a>(name: &'a str, client_config: &'a WebhookClientConfig) -> Entry<'a> {
    Entry { name, ca_bundle: client_config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const BUNDLE: &str = "-----BEGIN CERTIFICATE-----\n";
    /// [`BUNDLE`] in base64.
    const ENCODED: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==";

    fn configuration(bundles: [Value; 2]) -> Value {
        let [first, second] = bundles;
        let client_config = |bundle: Value| match bundle {
            Value::Null => json!({ "service": { "name": "s", "namespace": "n" } }),
            bundle => json!({ "caBundle": bundle, "service": { "name": "s", "namespace": "n" } }),
        };
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": "w" },
            "webhooks": [
                { "name": "a", "clientConfig": client_config(first), "sideEffects": "None", "admissionReviewVersions": ["v1"] },
                { "name": "b", "clientConfig": client_config(second), "sideEffects": "None", "admissionReviewVersions": ["v1"] },
            ],
        })
    }

    fn needed(configuration: &Value) -> Option<Patch> {
        let parsed: ValidatingWebhookConfiguration =
            serde_json::from_value(configuration.clone()).expect("a valid configuration");
        patch(&parsed.entries(), BUNDLE)
    }

    #[test]
    fn nothing_is_patched_once_every_entry_has_the_bundle() {
        assert_eq!(needed(&configuration([json!(ENCODED), json!(ENCODED)])), None);
        assert_eq!(patch(&[], BUNDLE), None);
    }

    #[test]
    fn only_the_entry_that_differs_is_patched_and_its_name_is_tested_first() {
        let patch = needed(&configuration([json!(ENCODED), Value::Null])).expect("a difference");
        assert_eq!(
            serde_json::to_value(patch).expect("plain data"),
            json!([
                { "op": "test", "path": "/webhooks/1/name", "value": "b" },
                { "op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": ENCODED },
            ])
        );
    }

    #[test]
    fn absent_empty_and_foreign_bundles_become_ours_and_nothing_else_changes() {
        let ours = configuration([json!(ENCODED), json!(ENCODED)]);
        for state in
            [[Value::Null, Value::Null], [json!(""), json!(ENCODED)], [json!("Zm9yZWlnbg=="), Value::Null]]
        {
            let mut patched = configuration(state);
            let patch = needed(&patched).expect("a difference");
            json_patch::patch(&mut patched, &patch).expect("the patch fits what it was made for");
            assert_eq!(patched, ours);
        }
    }

    #[test]
    fn a_patch_for_an_entry_that_moved_is_refused_whole() {
        let patch = needed(&configuration([Value::Null, json!(ENCODED)])).expect("a difference");
        let mut moved = configuration([Value::Null, Value::Null]);
        let webhooks = moved["webhooks"].as_array_mut().expect("a list");
        webhooks.swap(0, 1);
        let before = moved.clone();
        json_patch::patch(&mut moved, &patch).expect_err("the name differs");
        assert_eq!(moved, before);
    }
}
