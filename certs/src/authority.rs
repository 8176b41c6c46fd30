//! The certificate authority: made anew or read from PEM text, and what it issues.
//!
//! **Architecture invariant:** an [`Authority`] whose key does not fit its certificate, or whose
//! certificate may not sign, cannot be constructed. Whether it is still valid is not decided here.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::client_pair::ClientPair;
use crate::leaf::Leaf;
use crate::pem::{self, PemError};
use crate::validity::{Validity, offset};

/// The longest common name that X.509 allows (`ub-common-name`).
const LONGEST_COMMON_NAME: usize = 64;

/// A CA with its key: ECDSA P-256, signing leaves only.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    validity: Validity,
}

/// Why a certificate and a key are not a usable [`Authority`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The certificate's text holds no whole certificate.
    #[error("the CA certificate cannot be read: {0}")]
    Certificate(#[source] PemError),
    /// More than one certificate: it is not said which one signs.
    #[error("the CA certificate's text holds {count} certificates; exactly one can sign")]
    SeveralCertificates {
        /// How many there are.
        count: usize,
    },
    /// The certificate's content is no X.509 certificate.
    #[error("the CA certificate is no X.509 certificate")]
    NotX509,
    /// Its basic constraints or key usage forbid signing certificates.
    #[error("the certificate is not that of a CA: it may not sign certificates")]
    NotAnAuthority,
    /// The key's text holds no whole key.
    #[error("the CA key cannot be read: {0}")]
    Key(#[source] PemError),
    /// A key of another kind or encoding, or a damaged one.
    #[error("the CA key is not an ECDSA P-256 key in PKCS#8 (\"BEGIN PRIVATE KEY\")")]
    UnsupportedKey,
    /// Certificate and key belong to different pairs.
    #[error("the CA key does not fit the CA certificate")]
    KeyDoesNotFit,
}

/// Why a certificate was not made.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum IssueError {
    /// A server certificate without a name fits no server.
    #[error("a leaf needs at least one name")]
    NoNames,
    /// Neither a DNS name nor an IP address.
    #[error("{name:?} is neither a DNS name nor an IP address")]
    InvalidName {
        /// As given.
        name: String,
    },
    /// What an expired CA signs, nobody accepts.
    #[error("the CA has expired at {not_after}")]
    Expired {
        /// When it expired.
        not_after: Timestamp,
    },
    /// The validity would leave the years that X.509 can write.
    #[error("the lifetime ends outside the years that a certificate can state")]
    LifetimeOutOfRange,
    /// Generating a key or signing failed.
    #[error("signing failed: {0}")]
    Signing(#[from] rcgen::Error),
    /// rustls does not take what was issued.
    #[error("the issued certificate is not usable: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Authority {
    /// A new CA with a new key, valid from [`CLOCK_SKEW`](crate::CLOCK_SKEW) before `now`.
    pub fn generate(common_name: &str, now: Timestamp, lifetime: Duration) -> Result<Self, IssueError> {
        let validity = Validity::starting(now, lifetime).ok_or(IssueError::LifetimeOutOfRange)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(common_name, validity)?;
        // It signs leaves and nothing between: a leaf's key must not become an authority of its own.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = CertificateDer::from(params.self_signed(&key)?);
        Ok(Self { certificate, issuer: Issuer::new(params, key), validity })
    }

    /// The CA whose certificate and PKCS#8 key these PEM texts hold.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let mut certificates = pem::certificates(certificate).map_err(AuthorityError::Certificate)?;
        let count = certificates.len();
        let (Some(certificate), 1) = (certificates.pop(), count) else {
            return Err(AuthorityError::SeveralCertificates { count });
        };
        let (rest, parsed) = X509Certificate::from_der(&certificate).map_err(|_| AuthorityError::NotX509)?;
        if !rest.is_empty() {
            return Err(AuthorityError::NotX509);
        }
        let validity = Validity::of(parsed.validity()).ok_or(AuthorityError::NotX509)?;
        if !may_sign_certificates(&parsed) {
            return Err(AuthorityError::NotAnAuthority);
        }

        let PrivateKeyDer::Pkcs8(key) = pem::private_key(key).map_err(AuthorityError::Key)? else {
            return Err(AuthorityError::UnsupportedKey);
        };
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| AuthorityError::UnsupportedKey)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AuthorityError::KeyDoesNotFit);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| AuthorityError::NotX509)?;
        Ok(Self { certificate, issuer, validity })
    }

    /// A new leaf with a new key for `names` (DNS names or IP addresses). It ends with `lifetime`, or with
    /// the CA where that is sooner.
    pub fn issue(&self, names: &[String], now: Timestamp, lifetime: Duration) -> Result<Leaf, IssueError> {
        let validity = self.validity(now, lifetime)?;
        let first = names.first().ok_or(IssueError::NoNames)?;
        if let Some(name) = names.iter().find(|name| !is_server_name(name)) {
            return Err(IssueError::InvalidName { name: name.clone() });
        }
        // The names that count are the alternative ones; the subject is for those who read it.
        let mut params = params(first, validity)?;
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        let (certificate, key) = self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let provider = rustls::crypto::ring::default_provider();
        let certified_key = Arc::new(CertifiedKey::from_der(vec![certificate], key, &provider)?);
        let Validity { not_before, not_after } = validity;
        Ok(Leaf { certified_key, not_before, not_after })
    }

    /// A new client certificate with a new key and the common name `name`, by which a server knows its caller. It ends
    /// as a leaf does.
    pub fn issue_client(
        &self,
        name: &str,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<ClientPair, IssueError> {
        let validity = self.validity(now, lifetime)?;
        let (certificate, key) = self.sign(params(name, validity)?, ExtendedKeyUsagePurpose::ClientAuth)?;
        let (certificate, key) = (pem::encode_certificate(&certificate), key.serialize_pem());
        Ok(ClientPair { certificate, key, validity })
    }

    /// That of what is issued now.
    fn validity(&self, now: Timestamp, lifetime: Duration) -> Result<Validity, IssueError> {
        let not_after = self.validity.not_after;
        if now >= not_after {
            return Err(IssueError::Expired { not_after });
        }
        let validity = Validity::starting(now, lifetime).ok_or(IssueError::LifetimeOutOfRange)?;
        Ok(validity.ending_by(not_after))
    }

    /// For one use alone: who serves is not believed to be a client, nor the other way round.
    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(CertificateDer<'static>, KeyPair), IssueError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok((CertificateDer::from(params.signed_by(&key, &self.issuer)?), key))
    }

    /// The certificate, as DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate, as one PEM section.
    pub fn certificate_pem(&self) -> String {
        pem::encode_certificate(&self.certificate)
    }

    /// The private key, as PKCS#8 PEM. For the Secret and nothing else.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The first moment of its validity.
    pub fn not_before(&self) -> Timestamp {
        self.validity.not_before
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.validity.not_after
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificate: _, issuer: _, validity } = self;
        formatter.debug_struct("Authority").field("validity", validity).finish_non_exhaustive()
    }
}

/// What CA and leaf have in common.
fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.not_before = offset(validity.not_before).ok_or(IssueError::LifetimeOutOfRange)?;
    params.not_after = offset(validity.not_after).ok_or(IssueError::LifetimeOutOfRange)?;
    params.distinguished_name = DistinguishedName::new();
    let common_name: String = common_name.chars().take(LONGEST_COMMON_NAME).collect();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn may_sign_certificates(certificate: &X509Certificate<'_>) -> bool {
    let usage = match certificate.key_usage() {
        // RFC 5280, 4.2.1.3: without the extension, every use is allowed.
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    certificate.is_ca() && usage
}

fn is_server_name(name: &str) -> bool {
    DnsName::try_from(name).is_ok() || name.parse::<IpAddr>().is_ok()
}
