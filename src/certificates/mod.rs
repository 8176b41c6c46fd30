//! Certificates: the CA's Secret, the served leaf, and the bundle in the webhook configurations.
//!
//! - [`secret`]: the Secret that holds the CA: read, made, mended.
//! - [`injection`]: which patch a webhook configuration needs, and sending it.
//! - [`mod@run`]: the loop that keeps all three in step.
//!
//! **Architecture invariant:** whether a stored CA is good enough is decided in the crate `certs`, and what
//! to patch in a plain function; what is here reads, compares and writes, and only on a difference. Every
//! replica runs it: whichever comes second finds nothing left to write.

pub mod injection;
pub mod run;
pub mod secret;

use std::future::Future;
use std::time::Duration;

use thiserror::Error;

pub use self::run::run;
pub use self::secret::{Trust, ensure_authority};

/// How long one call to the API server may take, kube's own retries included. The required reaction times
/// (10 s for a cleared bundle, 30 s for a lost CA) leave room for one that fails.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// What to keep in step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSettings {
    /// Namespace of the Secret and of the Service.
    pub namespace: String,
    /// Secret that holds the CA.
    pub secret_name: String,
    /// Service through which the API server reaches us; the leaf bears its DNS names.
    pub service_name: String,
    /// `MutatingWebhookConfigurations` whose entries are to trust the CA.
    pub mutating: Vec<String>,
    /// `ValidatingWebhookConfigurations` whose entries are to trust the CA.
    pub validating: Vec<String>,
    /// Validity of a CA that we make.
    pub ca_lifetime: Duration,
    /// Validity of a leaf; it ends with the CA where that is sooner.
    pub leaf_lifetime: Duration,
}

impl CertificateSettings {
    /// Ten years: until the CA rotates by itself, it outlives the installation.
    pub const CA_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
    /// A year, the longest that clients commonly accept.
    pub const LEAF_LIFETIME: Duration = Duration::from_hours(365 * 24);

    /// The names under which the API server (`<service>.<namespace>.svc`) and others in the cluster know us.
    pub fn server_names(&self) -> Vec<String> {
        let name = format!("{}.{}", self.service_name, self.namespace);
        vec![format!("{name}.svc"), format!("{name}.svc.cluster.local"), name]
    }
}

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

/// What went wrong in one sentence: kube prints the whole `Status` object after it.
fn summary(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl CertificateError {
    /// Whether the write met a newer, a new or a vanished object: to read again is the whole remedy.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Call { source, .. }
            if matches!(source.as_ref(), kube::Error::Api(status) if matches!(status.code, 404 | 409)))
    }
}
