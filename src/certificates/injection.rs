//! The CA bundle in webhook configurations: what they carry, which patch one needs, and sending it.
//!
//! **Architecture invariant:** nothing but `clientConfig.caBundle` is ever written, and only to the version that was
//! read. The entries belong to whoever installed them; shipped manifests do not state the bundle, so that applying
//! them again leaves it.

use certs::Bundle;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{CertificateError, CertificateSettings, bounded, of_version, send};

/// cert-manager's cainjector puts a bundle into what bears an annotation of this beginning, and takes every other out.
const INJECTED_BY_CERT_MANAGER: &str = "cert-manager.io/inject-";

/// A configuration as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// `None`: there is none of that name.
    pub found: Option<Found>,
}

/// What is looked at of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    version: String,
    /// Whether cert-manager fills in the bundle.
    pub is_foreign: bool,
    /// The entries, in the order of the object.
    pub entries: Vec<Entry>,
}

/// What is looked at of one entry of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, unique in its configuration.
    pub name: String,
    /// The bundle it has now, as PEM.
    pub ca_bundle: Option<Vec<u8>>,
}

/// The kinds that list webhook entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `MutatingWebhookConfiguration`
    Mutating,
    /// `ValidatingWebhookConfiguration`
    Validating,
}

/// Every configuration that the settings name, as it is now.
pub async fn read(
    client: &Client,
    settings: &CertificateSettings,
) -> Result<Vec<Configuration>, CertificateError> {
    let mut configurations = Vec::new();
    for name in &settings.mutating {
        let found = found::<MutatingWebhookConfiguration>(client, name, |found| {
            found
                .webhooks
                .iter()
                .flatten()
                .map(|webhook| entry(&webhook.name, &webhook.client_config))
                .collect()
        });
        configurations.push(Configuration { kind: Kind::Mutating, name: name.clone(), found: found.await? });
    }
    for name in &settings.validating {
        let found = found::<ValidatingWebhookConfiguration>(client, name, |found| {
            found
                .webhooks
                .iter()
                .flatten()
                .map(|webhook| entry(&webhook.name, &webhook.client_config))
                .collect()
        });
        configurations.push(Configuration {
            kind: Kind::Validating,
            name: name.clone(),
            found: found.await?,
        });
    }
    Ok(configurations)
}

/// What each entry of each configuration trusts; nothing where it has no bundle, or one that cannot be read.
pub fn carried(configurations: &[Configuration]) -> Vec<Bundle> {
    let entries =
        configurations.iter().flat_map(|configuration| &configuration.found).flat_map(|found| &found.entries);
    entries
        .map(|entry| Bundle::parse(entry.ca_bundle.as_deref().unwrap_or_default()).unwrap_or_default())
        .collect()
}

impl Entry {
    /// Its bundle, and `ours` as well; as it is, where it has them.
    pub fn with(&self, ours: &Bundle) -> String {
        let text = self.ca_bundle.as_deref().unwrap_or_default();
        let bundle = Bundle::parse(text).unwrap_or_default();
        match std::str::from_utf8(text) {
            Ok(text) if bundle.covers(ours) => text.to_owned(),
            _ => bundle.union(ours).to_pem(),
        }
    }
}

impl Configuration {
    /// Whether cert-manager fills in its bundle.
    pub fn is_injected_by_cert_manager(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.is_foreign)
    }

    /// The patch after which every entry has the bundle that `wanted` makes of its own; `None` if all have it.
    pub fn patch(&self, wanted: impl Fn(&Entry) -> String) -> Option<Patch> {
        let Found { version, is_foreign: _, entries } = self.found.as_ref()?;
        // What was read is what was decided on: whoever knows less of the Secret than the last writer read this
        // configuration before that write, and is refused.
        let mut operations = vec![of_version(version)];
        for (index, entry) in entries.iter().enumerate() {
            let wanted = wanted(entry);
            if entry.ca_bundle.as_deref() != Some(wanted.as_bytes()) {
                operations.push(PatchOperation::Add(AddOperation {
                    path: PointerBuf::from_tokens([
                        "webhooks",
                        &index.to_string(),
                        "clientConfig",
                        "caBundle",
                    ]),
                    value: json!(ByteString(wanted.into_bytes())),
                }));
            }
        }
        if operations.len() > 1 { Some(Patch(operations)) } else { None }
    }

    /// Sends a patch.
    pub async fn send(&self, client: &Client, patch: Patch) -> Result<(), CertificateError> {
        match self.kind {
            Kind::Mutating => {
                let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
                send(&api, &self.name, patch, || format!("patch {self}")).await
            }
            Kind::Validating => {
                let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
                send(&api, &self.name, patch, || format!("patch {self}")).await
            }
        }
    }
}

impl std::fmt::Display for Configuration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}WebhookConfiguration {}", self.kind, self.name)
    }
}

async fn found<K>(
    client: &Client,
    name: &str,
    entries: impl Fn(&K) -> Vec<Entry>,
) -> Result<Option<Found>, CertificateError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let found = bounded(|| format!("read {} {name}", K::kind(&())), api.get_opt(name)).await?;
    Ok(found.map(|found| Found {
        version: found.resource_version().unwrap_or_default(),
        is_foreign: found.annotations().keys().any(|key| key.starts_with(INJECTED_BY_CERT_MANAGER)),
        entries: entries(&found),
    }))
}

fn entry(name: &str, client_config: &WebhookClientConfig) -> Entry {
    Entry {
        name: name.to_owned(),
        ca_bundle: client_config.ca_bundle.as_ref().map(|bundle| bundle.0.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const BUNDLE: &str = "-----BEGIN CERTIFICATE-----\n";
    /// [`BUNDLE`] in base64.
    const ENCODED: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==";

    fn object(bundles: [Value; 2]) -> Value {
        let [first, second] = bundles;
        let client_config = |bundle: Value| match bundle {
            Value::Null => json!({ "service": { "name": "s", "namespace": "n" } }),
            bundle => json!({ "caBundle": bundle, "service": { "name": "s", "namespace": "n" } }),
        };
        json!({
            "metadata": { "name": "w", "resourceVersion": "7" },
            "webhooks": [
                { "name": "a", "clientConfig": client_config(first), "sideEffects": "None", "admissionReviewVersions": ["v1"] },
                { "name": "b", "clientConfig": client_config(second), "sideEffects": "None", "admissionReviewVersions": ["v1"] },
            ],
        })
    }

    fn needed(object: &Value) -> Option<Patch> {
        let parsed: ValidatingWebhookConfiguration =
            serde_json::from_value(object.clone()).expect("a valid configuration");
        let entries = parsed
            .webhooks
            .iter()
            .flatten()
            .map(|webhook| entry(&webhook.name, &webhook.client_config))
            .collect();
        let found = Found { version: "7".into(), is_foreign: false, entries };
        let read = Configuration { kind: Kind::Validating, name: "w".into(), found: Some(found) };
        read.patch(|_| BUNDLE.to_owned())
    }

    #[test]
    fn nothing_is_patched_once_every_entry_has_the_bundle() {
        assert_eq!(needed(&object([json!(ENCODED), json!(ENCODED)])), None);
        let absent = Configuration { kind: Kind::Mutating, name: "w".into(), found: None };
        assert_eq!(absent.patch(|_| BUNDLE.to_owned()), None);
    }

    #[test]
    fn only_the_entry_that_differs_is_patched_and_only_in_the_version_that_was_read() {
        let patch = needed(&object([json!(ENCODED), Value::Null])).expect("a difference");
        assert_eq!(
            serde_json::to_value(patch).expect("plain data"),
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": ENCODED },
            ])
        );
    }

    #[test]
    fn absent_empty_and_foreign_bundles_become_ours_and_nothing_else_changes() {
        let ours = object([json!(ENCODED), json!(ENCODED)]);
        for state in
            [[Value::Null, Value::Null], [json!(""), json!(ENCODED)], [json!("Zm9yZWlnbg=="), Value::Null]]
        {
            let mut patched = object(state);
            let patch = needed(&patched).expect("a difference");
            json_patch::patch(&mut patched, &patch).expect("the patch fits what it was made for");
            assert_eq!(patched, ours);
        }
    }

    #[test]
    fn a_patch_for_another_version_is_refused_whole() {
        let patch = needed(&object([Value::Null, json!(ENCODED)])).expect("a difference");
        let mut newer = object([Value::Null, Value::Null]);
        newer["metadata"]["resourceVersion"] = json!("8");
        let before = newer.clone();
        json_patch::patch(&mut newer, &patch).expect_err("the version differs");
        assert_eq!(newer, before);
    }
}
