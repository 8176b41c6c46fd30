//! Certificates: the served leaf, the CA behind it, and the bundle in the webhook configurations.
//!
//! - [`settings`]: what is served, and when which step is due.
//! - [`clock`]: what time the API server says it is.
//! - [`injection`]: what the webhook configurations carry, and the patch that one needs.
//! - [`secret`]: the Secret that holds the CA: read, and written step by step.
//! - [`issued`]: one turn where leaves are issued by that CA.
//! - [`files`]: one turn where the leaf is read from mounted files.
//! - [`keda`]: the Secret by which KEDA and the external scaler know each other.
//! - [`clients`]: the file with the CAs of whoever may call.
//! - [`mod@run`]: the loop that takes a turn whenever something may have changed.
//!
//! **Architecture invariant:** what is to be done is decided in the crate `certs`, and what to patch in a plain
//! function; what is here reads, compares and writes, and only on a difference. Every replica runs it: whichever comes
//! second finds nothing left to write. `docs/certificates.md` tells the whole of it.

pub mod clients;
pub mod clock;
pub mod files;
pub mod injection;
pub mod issued;
pub mod keda;
pub mod run;
pub mod secret;
pub mod settings;

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use json_patch::jsonptr::PointerBuf;
use json_patch::{PatchOperation, TestOperation};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::api::names::FIELD_MANAGER;

pub use self::keda::judge_authentication;
pub use self::run::{Certificates, run};
pub use self::settings::{CertificateSettings, Source};

/// How long one call to the API server may take, kube's own retries included. The required reaction times
/// (10 s for a cleared bundle, 30 s for a lost CA) leave room for one that fails.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a step did not succeed. All of them are tried again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The API server refused, or could not be reached.
    #[error("cannot {action}: {}", summary(source))]
    Call {
        /// What was tried.
        action: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("cannot {action}: no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout {
        /// What was tried.
        action: String,
    },
    /// The Secret holds no usable CA and cannot be mended.
    #[error(
        "Secret {name} holds no usable CA ({reason}) and is immutable; delete it, and it is made anew: kubectl -n {namespace} delete secret {name}"
    )]
    Immutable {
        /// The Secret's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The Secret that KEDA reads is to be changed and cannot be.
    #[error(
        "Secret {name} in namespace {namespace} is not up to date and is immutable; delete it and apply deploy/keda.yaml: kubectl -n {namespace} delete secret {name}"
    )]
    ImmutableForKeda {
        /// The Secret's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A mounted file cannot be used.
    #[error("{path}: {reason}; what was read before stays in use")]
    File {
        /// Which one.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Making a CA or a leaf failed.
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] certs::IssueError),
}

/// Awaits `call` for at most [`CALL_TIMEOUT`]; `action` completes "cannot …".
async fn bounded<T>(
    action: impl FnOnce() -> String,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, CertificateError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(CertificateError::Call { action: action(), source: Box::new(source) }),
        Err(_) => Err(CertificateError::Timeout { action: action() }),
    }
}

/// The beginning of a patch that changes nothing but the version that was read.
fn of_version(version: &str) -> PatchOperation {
    PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: version.into(),
    })
}

/// Sends a patch as ours; `action` completes "cannot …".
async fn send<K>(
    api: &Api<K>,
    name: &str,
    patch: json_patch::Patch,
    action: impl FnOnce() -> String,
) -> Result<(), CertificateError>
where
    K: Clone + Debug + DeserializeOwned,
{
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    bounded(action, api.patch(name, &params, &Patch::<()>::Json(patch))).await.map(drop)
}

/// What went wrong in one sentence: kube prints the whole `Status` object after it.
fn summary(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl CertificateError {
    /// Whether the write met a newer, a new or a vanished object: to read again is the whole remedy. 422 is how the
    /// API server says that the version in a patch is not the present one.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Call { source, .. }
            if matches!(source.as_ref(), kube::Error::Api(status) if matches!(status.code, 404 | 409 | 422)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
