//! The CAs that clients are to trust: a set of certificates with one way to write it.
//!
//! **Architecture invariant:** the text depends on the set alone, never on the order in which it came
//! together: two replicas that trust the same CAs write the same bytes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::authority::Authority;
use crate::pem::{self, PemError};
use crate::validity::Validity;

/// A set of trusted CA certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Oldest first, so that a bundle reads as its history.
    members: BTreeSet<Member>,
}

/// Ordered by its fields from top to bottom; the DER decides between CAs of the same second.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    not_before: Timestamp,
    not_after: Timestamp,
    certificate: Vec<u8>,
}

/// Why a text is no [`Bundle`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The text holds no whole certificate.
    #[error("the CA bundle cannot be read: {0}")]
    Text(#[from] PemError),
    /// One of its certificates is no X.509 certificate. API servers refuse the whole bundle then.
    #[error("certificate {position} of the CA bundle is no X.509 certificate")]
    NotX509 {
        /// Its position in the text, from 1.
        position: usize,
    },
}

impl Bundle {
    /// Every certificate in `text`, each once.
    pub fn parse(text: &[u8]) -> Result<Self, BundleError> {
        let mut members = BTreeSet::new();
        for (index, certificate) in pem::certificates(text)?.iter().enumerate() {
            let validity = validity(certificate).ok_or(BundleError::NotX509 { position: index + 1 })?;
            members.insert(Member::new(certificate, validity));
        }
        Ok(Self { members })
    }

    /// Trusts `authority` alone.
    pub fn of(authority: &Authority) -> Self {
        Self::default().with(authority)
    }

    /// Trusts `authority` as well.
    #[must_use]
    pub fn with(mut self, authority: &Authority) -> Self {
        let validity = Validity { not_before: authority.not_before(), not_after: authority.not_after() };
        self.members.insert(Member::new(authority.certificate(), validity));
        self
    }

    /// Without those that are past their validity at `now`.
    #[must_use]
    pub fn without_expired(mut self, now: Timestamp) -> Self {
        self.members.retain(|member| member.not_after > now);
        self
    }

    /// Whether what `authority` signs is trusted.
    pub fn contains(&self, authority: &Authority) -> bool {
        self.members.iter().any(|member| member.certificate == authority.certificate().as_ref())
    }

    /// How many CAs are trusted.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// As PEM, oldest CA first.
    pub fn to_pem(&self) -> String {
        self.members
            .iter()
            .map(|member| pem::encode_certificate(&CertificateDer::from_slice(&member.certificate)))
            .collect()
    }
}

impl Member {
    fn new(certificate: &CertificateDer<'_>, validity: Validity) -> Self {
        let Validity { not_before, not_after } = validity;
        Self { not_before, not_after, certificate: certificate.to_vec() }
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Validity::of(parsed.validity()),
        _ => None,
    }
}
