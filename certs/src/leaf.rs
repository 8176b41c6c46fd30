//! What a server presents: a certificate with its key, issued by an authority or read from PEM text.
//!
//! **Architecture invariant:** the key never leaves this process; there is no way to write it out.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore};

use crate::bundle::{Bundle, validity};
use crate::pem::{self, PemError};
use crate::validity::{Validity, unix_time};

/// A server certificate and its key. What an authority issues is a chain of one: clients trust the CA by the bundle.
#[derive(Clone)]
pub struct Leaf {
    pub(crate) certified_key: Arc<CertifiedKey>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// Why a certificate and a key cannot be served.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// The certificate's text holds no whole certificate.
    #[error("the certificate cannot be read: {0}")]
    Certificate(#[source] PemError),
    /// The certificate's content is no X.509 certificate.
    #[error("the certificate is no X.509 certificate")]
    NotX509,
    /// The key's text holds no whole key.
    #[error("the key cannot be read: {0}")]
    Key(#[source] PemError),
    /// Certificate and key belong to different pairs.
    #[error("the key does not fit the certificate")]
    KeyDoesNotFit,
    /// rustls does not take it.
    #[error("the key is not usable: {0}")]
    Unusable(#[source] Error),
}

impl Leaf {
    /// The chain, leaf first, and the key that these PEM texts hold.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, LeafError> {
        let chain = pem::certificates(chain).map_err(LeafError::Certificate)?;
        let Validity { not_before, not_after } =
            chain.first().and_then(validity).ok_or(LeafError::NotX509)?;
        let key = pem::private_key(key).map_err(LeafError::Key)?;
        let provider = rustls::crypto::ring::default_provider();
        let certified_key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => LeafError::KeyDoesNotFit,
            other => LeafError::Unusable(other),
        })?;
        Ok(Self { certified_key: Arc::new(certified_key), not_before, not_after })
    }

    /// What a rustls resolver returns.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified_key)
    }

    /// The certificates that are presented, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    /// The first moment of its validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether a client that trusts `bundle` and asks for `name` accepts it at `at`.
    pub fn verify(&self, bundle: &Bundle, name: &str, at: Timestamp) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        // Go's clients, API servers among them, do not trust a CA outside of its validity; webpki does.
        for ca in bundle.iter().filter(|ca| ca.is_valid(at)) {
            roots.add(CertificateDer::from_slice(&ca.der))?;
        }
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|_| unknown())?;
        let (leaf, intermediates) = self.chain().split_first().ok_or_else(unknown)?;
        let name = ServerName::try_from(name)
            .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
        verifier.verify_server_cert(leaf, intermediates, &name, &[], unix_time(at)).map(drop)
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certified_key: _, not_before, not_after } = self;
        formatter
            .debug_struct("Leaf")
            .field("not_before", not_before)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}
