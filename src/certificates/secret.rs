//! The Secret that holds the CA: read, made where there is none, mended where it is damaged.
//!
//! **Architecture invariant:** no write without a precondition: a Secret is created, or replaced at the
//! version that was read. Replicas that race so agree on the one that came first.

use std::collections::BTreeMap;

use certs::{Assessment, Authority, Bundle, CA_BUNDLE, CA_CERTIFICATE, CA_KEY, Policy, SecretBytes};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use tracing::warn;

use super::{CertificateError, CertificateSettings, bounded};
use crate::api::names;

/// How often a race for the Secret is run. Replicas start together at most a handful at a time, and each round
/// has a winner.
const ATTEMPTS: u32 = 5;

/// A CA is replaced when it has less left than this part of its life: its leaves end with it.
const LEAST_REMAINING_PART: u32 = 10;

/// Who signs, and who is to be trusted.
#[derive(Debug)]
pub struct Trust {
    /// The CA that signs.
    pub authority: Authority,
    /// The CAs to be trusted, the one that signs among them.
    pub bundle: Bundle,
}

/// The CA in the Secret; where there is no usable one, it is made and stored first.
pub async fn ensure_authority(
    client: &Client,
    settings: &CertificateSettings,
    now: Timestamp,
) -> Result<Trust, CertificateError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let name = settings.secret_name.as_str();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let found = bounded(|| format!("read Secret {name}"), secrets.get_opt(name)).await?;
        let (trust, done, reason) = match assess(found.as_ref(), now, settings) {
            Assessment::Usable { authority, bundle } => return Ok(Trust { authority, bundle }),
            Assessment::Mend { authority, bundle, reason } => {
                (Trust { authority, bundle }, "mended the CA bundle", reason.to_string())
            }
            Assessment::Replace { reason } => {
                let common_name = format!("{}.{} CA", settings.service_name, settings.namespace);
                let authority = Authority::generate(&common_name, now, settings.ca_lifetime)?;
                let bundle = Bundle::of(&authority);
                (Trust { authority, bundle }, "stored a new CA", reason.to_string())
            }
        };
        if found.as_ref().is_some_and(|found| found.immutable == Some(true)) {
            let (namespace, name) = (settings.namespace.clone(), name.to_owned());
            return Err(CertificateError::Immutable { namespace, name, reason });
        }
        match store(&secrets, found, &trust, settings).await {
            Ok(()) => {
                warn!(secret = name, reason, "{done}");
                return Ok(trust);
            }
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

async fn store(
    secrets: &Api<Secret>,
    found: Option<Secret>,
    trust: &Trust,
    settings: &CertificateSettings,
) -> Result<(), CertificateError> {
    let name = settings.secret_name.as_str();
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
    // `found` bears the resourceVersion that was read, which makes the replacement conditional.
    let exists = found.is_some();
    let secret = desired(found, trust, settings);
    if exists {
        bounded(|| format!("replace Secret {name}"), secrets.replace(name, &params, &secret)).await?;
    } else {
        bounded(|| format!("create Secret {name}"), secrets.create(&params, &secret)).await?;
    }
    Ok(())
}

/// `found` with the CA in it, and all else as it was; or a new Secret.
fn desired(found: Option<Secret>, trust: &Trust, settings: &CertificateSettings) -> Secret {
    let mut secret =
        found.unwrap_or_else(|| Secret { type_: Some("Opaque".to_owned()), ..Secret::default() });
    secret.metadata.name = Some(settings.secret_name.clone());
    secret.metadata.namespace = Some(settings.namespace.clone());
    secret.labels_mut().insert(names::LABEL_MANAGED_BY.to_owned(), names::OPERATOR.to_owned());
    let data: &mut BTreeMap<_, _> = secret.data.get_or_insert_default();
    for (key, text) in [
        (CA_CERTIFICATE, trust.authority.certificate_pem()),
        (CA_KEY, trust.authority.key_pem()),
        (CA_BUNDLE, trust.bundle.to_pem()),
    ] {
        data.insert(key.to_owned(), ByteString(text.into_bytes()));
    }
    secret
}

fn assess(secret: Option<&Secret>, now: Timestamp, settings: &CertificateSettings) -> Assessment {
    let policy = Policy { least_remaining: settings.ca_lifetime / LEAST_REMAINING_PART };
    let bytes = secret.map(|secret| {
        let value = |key| Some(secret.data.as_ref()?.get(key)?.0.as_slice());
        SecretBytes { ca_certificate: value(CA_CERTIFICATE), ca_key: value(CA_KEY), bundle: value(CA_BUNDLE) }
    });
    certs::assess(bytes.as_ref(), now, &policy)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings() -> CertificateSettings {
        CertificateSettings {
            namespace: "vllm-operator-system".into(),
            secret_name: "ca".into(),
            service_name: "vllm-operator".into(),
            mutating: vec![],
            validating: vec![],
            ca_lifetime: Duration::from_hours(1000),
            leaf_lifetime: Duration::from_hours(10),
        }
    }

    fn now() -> Timestamp {
        "2030-01-01T00:00:00Z".parse().expect("a literal")
    }

    fn trust() -> Trust {
        let authority = Authority::generate("test", now(), settings().ca_lifetime).expect("in range");
        let bundle = Bundle::of(&authority);
        Trust { authority, bundle }
    }

    #[test]
    fn what_is_stored_is_found_usable() {
        let trust = trust();
        let secret = desired(None, &trust, &settings());
        assert_eq!(secret.type_.as_deref(), Some("Opaque"));
        assert_eq!(secret.labels()[names::LABEL_MANAGED_BY], "vllm-operator");
        let Assessment::Usable { authority, bundle } = assess(Some(&secret), now(), &settings()) else {
            panic!("not usable: {:?}", assess(Some(&secret), now(), &settings()));
        };
        assert_eq!(authority.certificate(), trust.authority.certificate());
        assert_eq!(bundle, trust.bundle);
    }

    #[test]
    fn a_replacement_keeps_the_version_read_and_foreign_keys() {
        let mut found = desired(None, &trust(), &settings());
        found.metadata.resource_version = Some("7".into());
        found.data.get_or_insert_default().insert("other".into(), ByteString(b"kept".to_vec()));
        let replaced = desired(Some(found.clone()), &trust(), &settings());
        assert_eq!(replaced.metadata.resource_version.as_deref(), Some("7"));
        let (before, after) = (found.data.expect("set above"), replaced.data.expect("set by desired"));
        assert_eq!(after["other"], before["other"]);
        assert_ne!(after[CA_KEY], before[CA_KEY]);
    }

    #[test]
    fn a_ca_in_the_last_tenth_of_its_life_is_replaced() {
        let secret = desired(None, &trust(), &settings());
        let at = |hours| now() + Duration::from_hours(hours);
        assert!(matches!(assess(Some(&secret), at(899), &settings()), Assessment::Usable { .. }));
        assert!(matches!(assess(Some(&secret), at(900), &settings()), Assessment::Replace { .. }));
    }
}
