//! What KEDA trusts and shows when it calls the scaler: a Secret in its namespace, to which a `ClusterTriggerAuthentication`
//! leads.
//!
//! **Architecture invariant:** nothing here holds up a webhook, a rotation or readiness: what fails is told, and tried again.
//! Only the leader writes, only on a difference, and only to the version that was read before the Secret of the CA was: so
//! whoever knows less of that than the last writer is refused. The Secret is never created here: whoever may create Secrets
//! beside KEDA can have a token of KEDA's own made for it.

use std::collections::BTreeMap;
use std::time::Duration;

use certs::{Authority, Bundle, CaCertificate, ClientPair, Issued, Leaf, stored_pair};
use futures::stream::{BoxStream, StreamExt as _, empty, once};
use jiff::Timestamp;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::info;

use super::run::{Certificates, Turn, changes_of};
use super::{CertificateError, CertificateSettings, bounded, of_version, send};
use crate::api::names::{self, SCALER_AUTHENTICATION, SCALER_CLIENT};
use crate::args::ScalerMode;

/// The Secret's key for the CAs that KEDA trusts.
const CA: &str = "ca.crt";
/// The Secret's key for the certificate that KEDA shows.
const CERTIFICATE: &str = "tls.crt";
/// The Secret's key for the private key of that certificate.
const KEY: &str = "tls.key";
/// Which of KEDA's parameters is to come from which key of the Secret.
const PARAMETERS: [(&str, &str); 3] = [("caCert", CA), ("tlsClientCert", CERTIFICATE), ("tlsClientKey", KEY)];

/// Between two looks for what is not in order yet, or not there at all.
const LOOK: Duration = Duration::from_secs(5);

/// What there is for KEDA, as it was read.
pub struct Seen {
    /// `None`: there is none, as where KEDA is not installed. Otherwise, what is wrong with it.
    authentication: Result<Option<Result<(), String>>, CertificateError>,
    secret: Result<Option<Kept>, CertificateError>,
}

/// The Secret, as far as it is ours.
struct Kept {
    version: String,
    immutable: bool,
    /// `None`: it has no data at all.
    data: Option<BTreeMap<String, ByteString>>,
}

/// What the scaler serves, and whom it lets in.
pub struct Serving<'a> {
    /// What is served.
    pub leaf: Option<&'a Leaf>,
    /// Whose clients are let in.
    pub bundle: &'a Bundle,
    /// The time by the API server.
    pub at: Timestamp,
}

/// Who issues the certificate that KEDA shows.
pub struct Issuer<'a> {
    /// The CA that signs.
    pub authority: &'a Authority,
    /// How long until every replica knows it; `None`: that is not to be told.
    pub known_in: Option<Duration>,
}

/// How what there is fits what is served.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// KEDA can call.
    Published,
    /// KEDA is not installed, or is not to know of us.
    Absent,
    /// KEDA cannot call, because of this.
    Unfit(String),
    /// It cannot be seen; what was last known holds.
    Unknown(String),
}

/// What there is now; `None` where KEDA shows no certificate, or does not call at all.
pub async fn read(client: &Client, settings: &CertificateSettings) -> Option<Seen> {
    if settings.scaler != ScalerMode::Tls {
        return None;
    }
    let namespace = &settings.keda_namespace;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = bounded(
        || format!("read Secret {SCALER_AUTHENTICATION} in namespace {namespace}"),
        secrets.get_opt(SCALER_AUTHENTICATION),
    );
    let (authentication, secret) = tokio::join!(authentication(client), secret);
    let authentication = authentication.map(|found| found.map(|found| judge_authentication(&found.data)));
    Some(Seen { authentication, secret: secret.map(|found| found.map(Kept::from)) })
}

/// An item when KEDA's authentication has come, and whenever the Secret may have changed from then on. Of a kind that is not
/// there nothing can be watched; to ask for one object every few seconds costs an API server next to nothing.
pub fn changes(client: &Client, settings: &CertificateSettings) -> BoxStream<'static, ()> {
    if settings.scaler != ScalerMode::Tls {
        return empty().boxed();
    }
    let secrets = Api::namespaced(client.clone(), &settings.keda_namespace);
    let client = client.clone();
    let comes = async move {
        while !matches!(authentication(&client).await, Ok(Some(_))) {
            sleep(LOOK).await;
        }
    };
    let secret = move |()| once(async {}).chain(changes_of::<Secret>(secrets.clone(), SCALER_AUTHENTICATION));
    once(comes).flat_map(secret).boxed()
}

async fn authentication(client: &Client) -> Result<Option<DynamicObject>, CertificateError> {
    let kind = GroupVersionKind::gvk(names::KEDA_GROUP, "v1alpha1", "ClusterTriggerAuthentication");
    let resource = ApiResource::from_gvk_with_plural(&kind, "clustertriggerauthentications");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let action = || format!("read ClusterTriggerAuthentication {SCALER_AUTHENTICATION}");
    let found = bounded(action, api.get_opt(SCALER_AUTHENTICATION)).await;
    let unknown = |source: &kube::Error| matches!(source, kube::Error::Api(status) if status.code == 404);
    match found {
        // Where there is no such kind, the answer is no more than the code.
        Err(CertificateError::Call { source, .. }) if unknown(&source) => Ok(None),
        found => found,
    }
}

/// Whether KEDA reads each of its parameters from our Secret, and from nowhere else; otherwise, a sentence of what is wrong.
pub fn judge_authentication(object: &Value) -> Result<(), String> {
    let spec = &object["spec"];
    let wrong = |what: String| {
        format!(
            "ClusterTriggerAuthentication {SCALER_AUTHENTICATION} {what}; apply deploy/keda.yaml, which has it right"
        )
    };
    // With a file, KEDA reads nothing else.
    if spec["filePath"].as_str().is_some_and(|path| !path.is_empty()) {
        return Err(wrong("leads to a file (filePath)".to_owned()));
    }
    for (parameter, key) in PARAMETERS {
        // Of two of one name, KEDA takes the later.
        let mut entries = spec["secretTargetRef"].as_array().into_iter().flatten();
        let found = entries.rfind(|entry| entry["parameter"] == parameter);
        if !found.is_some_and(|entry| entry["name"] == SCALER_AUTHENTICATION && entry["key"] == key) {
            return Err(wrong(format!(
                "does not take {parameter} from {key} of Secret {SCALER_AUTHENTICATION}"
            )));
        }
    }
    Ok(())
}

impl From<Secret> for Kept {
    fn from(secret: Secret) -> Self {
        let version = secret.resource_version().unwrap_or_default();
        Self { version, immutable: secret.immutable == Some(true), data: secret.data }
    }
}

impl Kept {
    fn value(&self, key: &str) -> &[u8] {
        self.data.as_ref().and_then(|data| data.get(key)).map_or(&[], |value| &value.0)
    }

    /// The CAs that KEDA trusts.
    fn bundle(&self) -> Bundle {
        Bundle::parse(self.value(CA)).unwrap_or_default()
    }

    /// The pair that KEDA shows, if `bundle` lets it in.
    fn pair(&self, bundle: &Bundle, at: Timestamp) -> Result<Issued, certs::PairError> {
        stored_pair(self.value(CERTIFICATE), self.value(KEY), bundle, SCALER_CLIENT, at)
    }

    /// The patch after which KEDA trusts `bundle`, and shows `pair` where that is a new one; `None` if that is so already.
    fn patch(&self, bundle: &Bundle, pair: Option<&ClientPair>) -> Option<Patch> {
        let mut wanted = vec![(CA, bundle.to_pem())];
        if let Some(pair) = pair {
            wanted.push((CERTIFICATE, pair.certificate_pem().to_owned()));
            wanted.push((KEY, pair.key_pem().to_owned()));
        }
        wanted.retain(|(key, text)| self.value(key) != text.as_bytes());
        if wanted.is_empty() {
            return None;
        }
        let mut operations = vec![of_version(&self.version)];
        let mut add = |path: &[&str], value| {
            let path = PointerBuf::from_tokens(path.iter().copied());
            operations.push(PatchOperation::Add(AddOperation { path, value }));
        };
        if self.data.is_none() {
            add(&["data"], json!({}));
        }
        for (key, text) in wanted {
            add(&["data", key], json!(ByteString(text.into_bytes())));
        }
        Some(Patch(operations))
    }
}

impl Seen {
    /// Whether KEDA verifies `leaf` and could not verify one of `signer`.
    pub fn would_lose(&self, leaf: &Leaf, signer: &CaCertificate, name: &str, at: Timestamp) -> bool {
        let Ok(Some(kept)) = &self.secret else { return false };
        let bundle = kept.bundle();
        !bundle.contains(signer) && leaf.verify(&bundle, name, at).is_ok()
    }

    /// Has KEDA trust and show what it is to, if that is this replica's to do, and says whether KEDA can call.
    pub async fn turn(
        &self,
        certificates: &Certificates,
        turn: &mut Turn,
        serving: &Serving<'_>,
        issuer: Option<&Issuer<'_>>,
    ) {
        let leads = *certificates.leading.borrow();
        if let (Some(issuer), Ok(Some(kept)), true) = (issuer, &self.secret, leads)
            && let Err(error) = keep(certificates, turn, serving, issuer, kept).await
        {
            turn.keda.push(error.to_string());
        }
        match self.verdict(serving, &certificates.settings) {
            Verdict::Published => turn.published = Some(true),
            Verdict::Absent => turn.published = Some(false),
            Verdict::Unfit(reason) => {
                turn.published = Some(false);
                turn.keda.push(reason);
                turn.again_in(Some(LOOK));
            }
            Verdict::Unknown(reason) => {
                turn.keda.push(reason);
                turn.again_in(Some(LOOK));
            }
        }
    }

    fn verdict(&self, serving: &Serving<'_>, settings: &CertificateSettings) -> Verdict {
        let CertificateSettings { keda_namespace: namespace, .. } = settings;
        let kept = match (&self.authentication, &self.secret) {
            (Err(error), _) | (Ok(Some(Ok(()))), Err(error)) => return Verdict::Unknown(error.to_string()),
            (Ok(None), Ok(None) | Err(_)) => return Verdict::Absent,
            (Ok(None), Ok(Some(_))) => {
                return Verdict::Unfit(format!(
                    "there is no ClusterTriggerAuthentication {SCALER_AUTHENTICATION}; apply deploy/keda.yaml once KEDA is installed"
                ));
            }
            (Ok(Some(Err(reason))), _) => return Verdict::Unfit(reason.clone()),
            (Ok(Some(Ok(()))), Ok(None)) => {
                return Verdict::Unfit(format!(
                    "there is no Secret {SCALER_AUTHENTICATION} in namespace {namespace}; apply deploy/keda.yaml"
                ));
            }
            (Ok(Some(Ok(()))), Ok(Some(kept))) => kept,
        };
        let unfit = |key: &str, what: String| {
            Verdict::Unfit(format!("{key} of Secret {SCALER_AUTHENTICATION} in namespace {namespace} {what}"))
        };
        let Serving { leaf, bundle, at } = *serving;
        let Some(leaf) = leaf else {
            return Verdict::Unfit("there is no certificate to serve to KEDA".to_owned());
        };
        let name = settings.scaler_name();
        if let Err(error) = leaf.verify(&kept.bundle(), &name, at) {
            return unfit(CA, format!("does not verify what is served as {name}: {error}"));
        }
        if bundle.is_empty() {
            return Verdict::Unfit(
                "there is no CA to verify KEDA's certificate by; name it with --tls-ca-file".to_owned(),
            );
        }
        match kept.pair(bundle, at) {
            Ok(_) => Verdict::Published,
            Err(error) => {
                unfit(CERTIFICATE, format!("and {KEY} are no pair that the scaler lets in: {error}"))
            }
        }
    }
}

/// Writes what KEDA is to trust and to show, if it is something else.
async fn keep(
    certificates: &Certificates,
    turn: &mut Turn,
    serving: &Serving<'_>,
    issuer: &Issuer<'_>,
    kept: &Kept,
) -> Result<(), CertificateError> {
    let Certificates { client, settings, .. } = certificates;
    let Issuer { authority, known_in } = *issuer;
    let Serving { leaf: _, bundle, at } = *serving;
    // A pair that is let in is kept until every replica knows the CA that signs now: as a leaf is.
    let due_in = kept.pair(bundle, at).map(|pair| pair.due_in(&authority.into(), known_in, at, 0.0));
    let pair = match due_in {
        Ok(due_in) if !due_in.is_zero() => {
            turn.again_in(Some(due_in));
            None
        }
        _ => Some(authority.issue_client(SCALER_CLIENT, at, settings.policy.leaf_lifetime)?),
    };
    let Some(patch) = kept.patch(bundle, pair.as_ref()) else { return Ok(()) };
    let namespace = &settings.keda_namespace;
    if kept.immutable {
        let (namespace, name) = (namespace.clone(), SCALER_AUTHENTICATION.to_owned());
        return Err(CertificateError::ImmutableForKeda { namespace, name });
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let action = || format!("patch Secret {SCALER_AUTHENTICATION} in namespace {namespace}");
    send(&secrets, SCALER_AUTHENTICATION, patch, action).await?;
    info!(
        namespace,
        secret = SCALER_AUTHENTICATION,
        cas = bundle.len(),
        new_certificate = pair.is_some(),
        "told KEDA what to trust and to show"
    );
    // Whether it is there is seen when it is read.
    turn.again_in(Some(Duration::ZERO));
    Ok(())
}
