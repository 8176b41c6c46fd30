//! PEM text in and out: certificates and keys as DER, with one error per kind of damage.
//!
//! **Architecture invariant:** nothing here looks inside the DER.

use pem::{EncodeConfig, LineEnding, Pem};
use rustls_pki_types::pem::{Error, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// The largest PEM text that is read, in bytes. A P-256 CA takes about 700; a Secret may hold 1 MiB, and
/// a bundle is copied into every webhook entry of a configuration, which has the same limit.
pub const LARGEST_PEM: usize = 64 * 1024;

/// What is wrong with a PEM text, before anything in it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PemError {
    /// Longer than [`LARGEST_PEM`].
    #[error("it is {bytes} bytes long, more than the {LARGEST_PEM} that are read")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Holds no section of the kind looked for.
    #[error("it holds none")]
    Missing,
    /// A section is begun and not ended.
    #[error("it is cut off: a PEM section is begun and not ended")]
    Truncated,
    /// A section's content is no base64.
    #[error("its base64 is damaged")]
    Damaged,
}

/// Every certificate in `text`, in its order; at least one.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    bounded(text)?;
    let certificates =
        CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(|error| cause(&error))?;
    if certificates.is_empty() { Err(PemError::Missing) } else { Ok(certificates) }
}

/// The first private key in `text`.
pub(crate) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    bounded(text)?;
    PrivateKeyDer::from_pem_slice(text).map_err(|error| cause(&error))
}

/// `certificate` as one PEM section that ends with a line feed.
pub(crate) fn encode_certificate(certificate: &CertificateDer<'_>) -> String {
    // A stored text must not depend on the platform that wrote it.
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new("CERTIFICATE", certificate.as_ref()), config)
}

fn bounded(text: &[u8]) -> Result<(), PemError> {
    if text.len() > LARGEST_PEM { Err(PemError::TooLarge { bytes: text.len() }) } else { Ok(()) }
}

fn cause(error: &Error) -> PemError {
    match error {
        Error::MissingSectionEnd { .. } | Error::IllegalSectionStart { .. } => PemError::Truncated,
        Error::NoItemsFound => PemError::Missing,
        _ => PemError::Damaged,
    }
}
