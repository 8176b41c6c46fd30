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
    members: BTreeSet<CaCertificate>,
}

/// A CA as those see it who trust it.
///
/// Ordered by its fields from top to bottom; the DER decides between CAs of the same second.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CaCertificate {
    /// The first moment of its validity.
    pub not_before: Timestamp,
    /// The last moment of its validity.
    pub not_after: Timestamp,
    /// The certificate as DER.
    pub der: Vec<u8>,
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
            let Validity { not_before, not_after } =
                validity(certificate).ok_or(BundleError::NotX509 { position: index + 1 })?;
            members.insert(CaCertificate { not_before, not_after, der: certificate.to_vec() });
        }
        Ok(Self { members })
    }

    /// Trusts `ca` alone.
    pub fn of(ca: impl Into<CaCertificate>) -> Self {
        Self::default().with(ca)
    }

    /// Trusts `ca` as well.
    #[must_use]
    pub fn with(mut self, ca: impl Into<CaCertificate>) -> Self {
        self.members.insert(ca.into());
        self
    }

    /// Trusts all of `other` as well.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.members.extend(other.members.iter().cloned());
        self
    }

    /// Trusts only what `other` trusts too.
    #[must_use]
    pub fn intersection(mut self, other: &Self) -> Self {
        self.members.retain(|member| other.members.contains(member));
        self
    }

    /// Without those that are past their validity at `now`.
    #[must_use]
    pub fn without_expired(mut self, now: Timestamp) -> Self {
        self.members.retain(|member| member.not_after > now);
        self
    }

    /// The `count` that were made last.
    #[must_use]
    pub fn newest(mut self, count: usize) -> Self {
        while self.members.len() > count {
            self.members.pop_first();
        }
        self
    }

    /// Whether what `ca` signs is trusted.
    pub fn contains(&self, ca: impl Into<CaCertificate>) -> bool {
        self.members.contains(&ca.into())
    }

    /// Whether all that `other` trusts is trusted.
    pub fn covers(&self, other: &Self) -> bool {
        self.members.is_superset(&other.members)
    }

    /// The CAs, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &CaCertificate> {
        self.members.iter()
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
        let certificates = self.members.iter().map(|member| CertificateDer::from_slice(&member.der));
        certificates.map(|certificate| pem::encode_certificate(&certificate)).collect()
    }
}

impl CaCertificate {
    /// Whether its validity covers `at`.
    pub fn is_valid(&self, at: Timestamp) -> bool {
        self.not_before <= at && at < self.not_after
    }
}

impl From<&Authority> for CaCertificate {
    fn from(authority: &Authority) -> Self {
        Self {
            not_before: authority.not_before(),
            not_after: authority.not_after(),
            der: authority.certificate().to_vec(),
        }
    }
}

impl From<&CaCertificate> for CaCertificate {
    fn from(ca: &CaCertificate) -> Self {
        ca.clone()
    }
}

/// `None` for what is no X.509 certificate.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Validity::of(parsed.validity()),
        _ => None,
    }
}
