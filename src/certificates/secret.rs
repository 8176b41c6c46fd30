//! The Secret that holds the CA: read, and written step by step.
//!
//! **Architecture invariant:** one step is one write, and no write without a precondition: a Secret is created, or
//! replaced at the version that was read. Replicas that race so agree on the one that came first.

use certs::{KEYS, SecretBytes, Stored};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use super::{CertificateError, CertificateSettings, bounded};
use crate::api::names;

/// What there is, and what it says; `None`: there is no Secret.
pub async fn read(
    client: &Client,
    settings: &CertificateSettings,
) -> Result<(Option<Secret>, Stored), CertificateError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let name = settings.secret_name.as_str();
    let found = bounded(|| format!("read Secret {name}"), secrets.get_opt(name)).await?;
    let stored = Stored::read(found.as_ref().map(bytes));
    Ok((found, stored))
}

/// Writes `bytes` in place of what was found. `reason` is what is told where that is forbidden.
pub async fn write(
    client: &Client,
    settings: &CertificateSettings,
    found: Option<Secret>,
    bytes: SecretBytes,
    reason: &str,
) -> Result<(), CertificateError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let name = settings.secret_name.as_str();
    if found.as_ref().is_some_and(|found| found.immutable == Some(true)) {
        let (namespace, name, reason) = (settings.namespace.clone(), name.to_owned(), reason.to_owned());
        return Err(CertificateError::Immutable { namespace, name, reason });
    }
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
    // `found` bears the resourceVersion that was read, which makes the replacement conditional.
    let exists = found.is_some();
    let secret = desired(found, bytes, settings);
    if exists {
        bounded(|| format!("replace Secret {name}"), secrets.replace(name, &params, &secret)).await?;
    } else {
        bounded(|| format!("create Secret {name}"), secrets.create(&params, &secret)).await?;
    }
    Ok(())
}

fn bytes(secret: &Secret) -> SecretBytes {
    let value = |key| Some((key, secret.data.as_ref()?.get(key)?.0.clone()));
    KEYS.into_iter().filter_map(value).collect()
}

/// `found` with `bytes` under our keys, and all else as it was; or a new Secret.
fn desired(found: Option<Secret>, bytes: SecretBytes, settings: &CertificateSettings) -> Secret {
    let mut secret =
        found.unwrap_or_else(|| Secret { type_: Some("Opaque".to_owned()), ..Secret::default() });
    secret.metadata.name = Some(settings.secret_name.clone());
    secret.metadata.namespace = Some(settings.namespace.clone());
    // Who has installed the Secret, as Helm does, has named itself there and finds what it made by that.
    let managed_by = secret.labels_mut().entry(names::LABEL_MANAGED_BY.to_owned());
    managed_by.or_insert_with(|| names::OPERATOR.to_owned());
    let data = secret.data.get_or_insert_default();
    data.retain(|key, _| !KEYS.contains(&key.as_str()));
    data.extend(bytes.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))));
    secret
}

#[cfg(test)]
mod tests {
    use certs::{CA_KEY, NEXT_KEY};

    use super::*;
    use crate::certificates::tests::settings;

    #[test]
    fn what_is_stored_is_read_back() {
        let written = SecretBytes::from([(CA_KEY, b"key".to_vec())]);
        let secret = desired(None, written.clone(), &settings());
        assert_eq!(secret.type_.as_deref(), Some("Opaque"));
        assert_eq!(secret.labels()[names::LABEL_MANAGED_BY], "vllm-operator");
        assert_eq!(bytes(&secret), written);
    }

    #[test]
    fn a_replacement_keeps_the_version_read_and_foreign_keys_and_drops_what_is_over() {
        let mut found = desired(None, SecretBytes::from([(NEXT_KEY, b"next".to_vec())]), &settings());
        found.metadata.resource_version = Some("7".into());
        found.data.get_or_insert_default().insert("other".into(), ByteString(b"kept".to_vec()));
        found.labels_mut().insert(names::LABEL_MANAGED_BY.into(), "Helm".into());
        let replaced = desired(Some(found), SecretBytes::from([(CA_KEY, b"key".to_vec())]), &settings());
        assert_eq!(replaced.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(replaced.labels()[names::LABEL_MANAGED_BY], "Helm");
        let data = replaced.data.expect("set by desired");
        assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.key", "other"]);
    }
}
