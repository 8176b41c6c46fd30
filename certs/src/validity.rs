//! From when until when a certificate is valid, in the notations that meet here.
//!
//! **Architecture invariant:** no clock: `now` is always the caller's.

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;
use x509_parser::time::ASN1Time;

/// How far `NotBefore` lies before the moment of issue: a client whose clock is behind by less accepts the
/// certificate at once. Node clocks further apart than this break leases and tokens first.
pub const CLOCK_SKEW: Duration = Duration::from_mins(15);

/// A validity whose ends are whole seconds, which is all that X.509 can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Validity {
    /// From [`CLOCK_SKEW`] before `now` until `lifetime` after it; `None` outside the years that can be
    /// written.
    pub(crate) fn starting(now: Timestamp, lifetime: Duration) -> Option<Self> {
        let second = Timestamp::from_second(now.as_second()).ok()?;
        let not_after = second.checked_add(lifetime).ok()?;
        let not_after = Timestamp::from_second(not_after.as_second()).ok()?;
        Some(Self { not_before: second.checked_sub(CLOCK_SKEW).ok()?, not_after })
    }

    /// As written in a certificate.
    pub(crate) fn of(validity: &x509_parser::certificate::Validity) -> Option<Self> {
        Some(Self { not_before: timestamp(validity.not_before)?, not_after: timestamp(validity.not_after)? })
    }

    /// The same, ending no later than `limit`: a leaf that outlives its CA looks valid and is not.
    pub(crate) fn ending_by(self, limit: Timestamp) -> Self {
        Self { not_after: self.not_after.min(limit), ..self }
    }
}

/// `None` outside the years that X.509 can write.
pub(crate) fn offset(timestamp: Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(timestamp.as_second()).ok()
}

/// As rustls has it; before 1970, as 1970.
pub(crate) fn unix_time(timestamp: Timestamp) -> UnixTime {
    let seconds = u64::try_from(timestamp.as_second()).unwrap_or_default();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn timestamp(time: ASN1Time) -> Option<Timestamp> {
    Timestamp::from_second(time.timestamp()).ok()
}
