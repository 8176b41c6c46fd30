//! What a client presents: a certificate with its key as PEM texts, issued by an authority or read from where they are kept.
//!
//! **Architecture invariant:** whether a pair is good for anything is asked of the very verifier that servers use, so that
//! what passes here is let in there.

use std::fmt;

use jiff::Timestamp;
use rustls::server::danger::ClientCertVerifier as _;

use crate::bundle::Bundle;
use crate::clients::Clients;
use crate::leaf::{Leaf, LeafError};
use crate::renewal::Issued;
use crate::validity::{CLOCK_SKEW, Validity, unix_time};

/// A client certificate and its key. Unlike a server's, this key is written out: whoever calls is another process.
#[derive(Clone)]
pub struct ClientPair {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) validity: Validity,
}

impl ClientPair {
    /// The certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The private key, as PKCS#8 PEM. For the Secret of the client and nothing else.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.validity.not_after
    }
}

/// Who issued the pair that these PEM texts hold, and how long it lives, if a server that trusts `bundle` lets it in under
/// `name` at `at`; otherwise, what is wrong with it.
pub fn stored_pair(
    certificate: &[u8],
    key: &[u8],
    bundle: &Bundle,
    name: &str,
    at: Timestamp,
) -> Result<Issued, PairError> {
    let pair = Leaf::from_pem(certificate, key)?;
    let (leaf, intermediates) = pair.chain().split_first().ok_or(LeafError::NotX509)?;
    let clients = Clients::none_yet(vec![name.to_owned()]);
    let verify = |bundle: &Bundle| {
        clients.trust(bundle, at);
        clients.verify_client_cert(leaf, intermediates, unix_time(at))
    };
    verify(bundle)?;
    let ca = bundle.iter().find(|ca| verify(&Bundle::of(*ca)).is_ok());
    // What all of them verify, one of them does: a chain ends in one.
    let ca = ca.cloned().ok_or(rustls::CertificateError::UnknownIssuer).map_err(rustls::Error::from)?;
    let issued = pair.not_before().checked_add(CLOCK_SKEW).unwrap_or(pair.not_before());
    Ok(Issued { ca, at: issued, not_after: pair.not_after() })
}

/// Why a pair lets nobody in.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// The texts are no pair.
    #[error(transparent)]
    Unusable(#[from] LeafError),
    /// No server that trusts the CAs lets it in.
    #[error("the certificate is not let in: {0}")]
    Refused(#[from] rustls::Error),
}

impl fmt::Debug for ClientPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificate: _, key: _, validity } = self;
        formatter.debug_struct("ClientPair").field("validity", validity).finish_non_exhaustive()
    }
}
