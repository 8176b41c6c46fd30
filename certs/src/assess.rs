//! Judges the stored bytes: use them, mend them, or replace them.
//!
//! **Architecture invariant:** a pure function of the bytes, the time and the policy. It writes nothing and
//! makes no keys; and it is the only place that says when a stored CA is no longer good enough.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use crate::authority::{Authority, AuthorityError};
use crate::bundle::{Bundle, BundleError};

/// The Secret's key for the certificate of the CA that signs.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// The Secret's key for the private key of the CA that signs.
pub const CA_KEY: &str = "ca.key";
/// The Secret's key for the CAs that are trusted, the one that signs among them.
pub const CA_BUNDLE: &str = "ca-bundle.crt";

/// What a Secret holds under the three names; `None` where it lacks one.
#[derive(Clone, Copy, Default)]
pub struct SecretBytes<'a> {
    /// Under [`CA_CERTIFICATE`].
    pub ca_certificate: Option<&'a [u8]>,
    /// Under [`CA_KEY`].
    pub ca_key: Option<&'a [u8]>,
    /// Under [`CA_BUNDLE`].
    pub bundle: Option<&'a [u8]>,
}

/// What counts as good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A CA with less validity left than this is replaced: leaves issued from it would end too soon.
    pub least_remaining: Duration,
}

/// The verdict on the stored bytes.
#[derive(Debug)]
pub enum Assessment {
    /// Sign with this authority and have this bundle trusted; nothing is to be written.
    Usable {
        /// The CA that signs.
        authority: Authority,
        /// What is trusted: the stored bundle without expired CAs.
        bundle: Bundle,
    },
    /// The authority is good and stays; the stored bundle is to be overwritten with this one.
    Mend {
        /// The CA that signs.
        authority: Authority,
        /// What is to be stored, and trusted.
        bundle: Bundle,
        /// What was wrong with the stored one.
        reason: MendReason,
    },
    /// There is no authority to sign with: make one.
    Replace {
        /// Why.
        reason: ReplaceReason,
    },
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
    /// Expired, or with less left than [`Policy::least_remaining`].
    #[error("the CA expires at {not_after}")]
    Expires {
        /// When it ends.
        not_after: Timestamp,
    },
}

/// Judges what is stored (`None`: no Secret at all) at `now`.
pub fn assess(secret: Option<&SecretBytes<'_>>, now: Timestamp, policy: &Policy) -> Assessment {
    let authority = match stored_authority(secret, now, policy) {
        Ok(authority) => authority,
        Err(reason) => return Assessment::Replace { reason },
    };
    let stored = secret.and_then(|secret| secret.bundle).ok_or(MendReason::Missing);
    match stored.and_then(|text| Bundle::parse(text).map_err(MendReason::from)) {
        Ok(bundle) if bundle.contains(&authority) => {
            Assessment::Usable { authority, bundle: bundle.without_expired(now) }
        }
        Ok(bundle) => {
            let bundle = bundle.with(&authority).without_expired(now);
            Assessment::Mend { authority, bundle, reason: MendReason::LacksAuthority }
        }
        Err(reason) => {
            let bundle = Bundle::of(&authority);
            Assessment::Mend { authority, bundle, reason }
        }
    }
}

fn stored_authority(
    secret: Option<&SecretBytes<'_>>,
    now: Timestamp,
    policy: &Policy,
) -> Result<Authority, ReplaceReason> {
    let SecretBytes { ca_certificate, ca_key, bundle: _ } = *secret.ok_or(ReplaceReason::NoSecret)?;
    let certificate = ca_certificate.ok_or(ReplaceReason::NoCertificate)?;
    let key = ca_key.ok_or(ReplaceReason::NoKey)?;
    let authority = Authority::from_pem(certificate, key)?;

    let (not_before, not_after) = (authority.not_before(), authority.not_after());
    if now < not_before {
        return Err(ReplaceReason::NotYetValid { not_before });
    }
    let needed_until = now.checked_add(policy.least_remaining).unwrap_or(Timestamp::MAX);
    if needed_until >= not_after {
        return Err(ReplaceReason::Expires { not_after });
    }
    Ok(authority)
}

impl fmt::Debug for SecretBytes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |bytes: Option<&[u8]>| bytes.map(<[u8]>::len);
        let Self { ca_certificate, ca_key, bundle } = self;
        formatter
            .debug_struct("SecretBytes")
            .field("ca_certificate_length", &length(*ca_certificate))
            .field("ca_key_length", &length(*ca_key))
            .field("bundle_length", &length(*bundle))
            .finish()
    }
}
