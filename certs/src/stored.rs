//! The stored bytes: what they say, and what they are after a step.
//!
//! **Architecture invariant:** a pure function of the bytes. It writes nothing, makes no keys and reads no clock;
//! what a rotation needs to go on is in these bytes and nowhere else.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::authority::{Authority, AuthorityError};
use crate::bundle::{Bundle, BundleError, CaCertificate};
use crate::rotation::{Moment, State, Step};

/// The Secret's key for the certificate of the CA that signs.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// The Secret's key for the private key of the CA that signs.
pub const CA_KEY: &str = "ca.key";
/// The Secret's key for the CAs that are trusted, the one that signs among them.
pub const CA_BUNDLE: &str = "ca-bundle.crt";
/// The Secret's key for the certificate of the CA that is to sign next, while there is one.
pub const NEXT_CERTIFICATE: &str = "next-ca.crt";
/// The Secret's key for the private key of the CA that is to sign next.
pub const NEXT_KEY: &str = "next-ca.key";
/// The Secret's key for the time since which the others have been in effect: a digest of them and the time.
pub const SINCE: &str = "in-effect-since";

/// Every key that is ours.
pub const KEYS: [&str; 6] = [CA_CERTIFICATE, CA_KEY, CA_BUNDLE, NEXT_CERTIFICATE, NEXT_KEY, SINCE];

/// How many bytes of the digest are written: it tells states of one Secret apart, and guards nothing.
const DIGEST_LENGTH: usize = 8;

/// What is stored under our keys; others are left out.
pub type SecretBytes = BTreeMap<&'static str, Vec<u8>>;

/// What a Secret says.
pub struct Stored {
    /// All of it but the keys: what is decided on.
    pub state: State,
    /// The CA that signs, where [`State::signer`] is one.
    pub signer: Option<Authority>,
    bytes: SecretBytes,
}

/// Why the stored bundle is overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MendReason {
    /// The Secret has no [`CA_BUNDLE`].
    #[error("the Secret has no {CA_BUNDLE}")]
    Missing,
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] BundleError),
    /// What the CA signs would not be trusted.
    #[error("{CA_BUNDLE} lacks the CA in {CA_CERTIFICATE}")]
    LacksAuthority,
    /// What the next CA will sign would not be trusted.
    #[error("{CA_BUNDLE} lacks the CA in {NEXT_CERTIFICATE}")]
    LacksNext,
}

/// Why the stored CA is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReplaceReason {
    /// There is no Secret.
    #[error("there is no Secret")]
    NoSecret,
    /// The Secret has no [`CA_CERTIFICATE`].
    #[error("the Secret has no {CA_CERTIFICATE}")]
    NoCertificate,
    /// The Secret has no [`CA_KEY`].
    #[error("the Secret has no {CA_KEY}")]
    NoKey,
    /// Certificate and key are no authority.
    #[error(transparent)]
    Unusable(#[from] AuthorityError),
    /// Its validity lies wholly in the future: no client would accept it.
    #[error("the CA is not valid before {not_before}")]
    NotYetValid {
        /// When it begins.
        not_before: Timestamp,
    },
    /// No client accepts it any more.
    #[error("the CA expired at {not_after}")]
    Expired {
        /// When it ended.
        not_after: Timestamp,
    },
}

/// Why the stored next CA is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NextReason {
    /// The Secret has one of [`NEXT_CERTIFICATE`] and [`NEXT_KEY`].
    #[error("the Secret has but one of {NEXT_CERTIFICATE} and {NEXT_KEY}")]
    Half,
    /// Certificate and key are no authority.
    #[error("the next CA: {0}")]
    Unusable(#[from] AuthorityError),
    /// It begins too late, or ends too soon.
    #[error("the next CA is valid from {not_before} until {not_after}, which is no time to begin with")]
    Validity {
        /// When it begins.
        not_before: Timestamp,
        /// When it ends.
        not_after: Timestamp,
    },
}

impl Stored {
    /// What `bytes` say; `None`: there is no Secret.
    pub fn read(bytes: Option<SecretBytes>) -> Self {
        let exists = bytes.is_some();
        let bytes = bytes.unwrap_or_default();
        let value = |key| bytes.get(key).map(Vec::as_slice);
        let authority =
            if exists { signer(value(CA_CERTIFICATE), value(CA_KEY)) } else { Err(ReplaceReason::NoSecret) };
        let next = next(value(NEXT_CERTIFICATE), value(NEXT_KEY));
        let bundle = value(CA_BUNDLE).ok_or(MendReason::Missing).and_then(|text| Ok(Bundle::parse(text)?));
        let since = value(SINCE).and_then(|text| since(text, &bytes));
        let (signer, authority) = match authority {
            Ok(authority) => (Ok(CaCertificate::from(&authority)), Some(authority)),
            Err(reason) => (Err(reason), None),
        };
        Self { state: State { signer, next, bundle, since }, signer: authority, bytes }
    }

    /// What is stored after `step`. `fresh` is the new CA of a step that makes one, `carried` what the configurations
    /// trust.
    pub fn after(
        &self,
        step: &Step,
        fresh: Option<&Authority>,
        carried: &Bundle,
        moment: &Moment,
    ) -> SecretBytes {
        let ca = fresh.map(CaCertificate::from);
        let State { signer: _, next: _, bundle, since } =
            self.state.after(step, ca.as_ref(), carried, moment);
        let mut bytes = self.bytes.clone();
        bytes.remove(SINCE);
        match step {
            Step::Replace(_) => {
                bytes.extend(fresh.into_iter().flat_map(|ca| pair(CA_CERTIFICATE, CA_KEY, ca)));
                bytes.remove(NEXT_CERTIFICATE);
                bytes.remove(NEXT_KEY);
            }
            Step::Introduce(_) => {
                bytes.extend(fresh.into_iter().flat_map(|ca| pair(NEXT_CERTIFICATE, NEXT_KEY, ca)));
            }
            Step::Promote => {
                for (key, next) in [(CA_CERTIFICATE, NEXT_CERTIFICATE), (CA_KEY, NEXT_KEY)] {
                    if let Some(text) = bytes.remove(next) {
                        bytes.insert(key, text);
                    }
                }
            }
            Step::Mend(_) | Step::Witness | Step::Retire | Step::Wait(_) => {}
        }
        if bundle != self.state.bundle
            && let Ok(bundle) = bundle
        {
            bytes.insert(CA_BUNDLE, bundle.to_pem().into_bytes());
        }
        if let Some(since) = since {
            bytes.insert(SINCE, format!("{} {since}", digest(&bytes)).into_bytes());
        }
        bytes
    }
}

fn signer(certificate: Option<&[u8]>, key: Option<&[u8]>) -> Result<Authority, ReplaceReason> {
    let certificate = certificate.ok_or(ReplaceReason::NoCertificate)?;
    let key = key.ok_or(ReplaceReason::NoKey)?;
    Ok(Authority::from_pem(certificate, key)?)
}

fn next(certificate: Option<&[u8]>, key: Option<&[u8]>) -> Option<Result<CaCertificate, NextReason>> {
    match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            let authority = Authority::from_pem(certificate, key);
            Some(authority.map(|authority| CaCertificate::from(&authority)).map_err(NextReason::from))
        }
        _ => Some(Err(NextReason::Half)),
    }
}

fn pair(certificate: &'static str, key: &'static str, ca: &Authority) -> [(&'static str, Vec<u8>); 2] {
    [(certificate, ca.certificate_pem().into_bytes()), (key, ca.key_pem().into_bytes())]
}

/// A time that was written for other contents says nothing of these.
fn since(text: &[u8], bytes: &SecretBytes) -> Option<Timestamp> {
    let (written_for, time) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    if written_for == digest(bytes) { time.parse().ok() } else { None }
}

/// Of what is told to API servers, and who signs.
fn digest(bytes: &SecretBytes) -> String {
    let mut hash = Sha256::new();
    for key in [CA_CERTIFICATE, NEXT_CERTIFICATE, CA_BUNDLE] {
        let text = bytes.get(key).map_or(&[][..], Vec::as_slice);
        // The length keeps the parts apart.
        hash.update(text.len().to_be_bytes());
        hash.update(text);
    }
    let digest = hash.finalize();
    let first = digest.first_chunk::<DIGEST_LENGTH>().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(first))
}

impl fmt::Debug for Stored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, signer: _, bytes: _ } = self;
        formatter.debug_struct("Stored").field("state", state).finish_non_exhaustive()
    }
}
