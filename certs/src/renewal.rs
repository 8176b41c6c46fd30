//! When a replica renews its leaf, and from when on it may count on a CA being known.
//!
//! **Architecture invariant:** pure; times are arguments. What is remembered is lost with the process, and the worst
//! that follows is a wait.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::bundle::{Bundle, CaCertificate};
use crate::rotation::GRAIN;

/// A leaf that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// By whom.
    pub ca: CaCertificate,
    /// The moment from which its life counts, which was before the CA was read.
    pub at: Timestamp,
    /// The last moment of its validity.
    pub not_after: Timestamp,
}

impl Issued {
    /// How long until it is to be replaced by one of `signer`; zero: now.
    ///
    /// One of the same CA is renewed in the last third of its life, so that there is time for failures, and up to a
    /// tenth of its life sooner, by `jitter` (0 to 1), so that replicas do not all do it at once. One of another CA is
    /// kept until every API server can verify what `signer` signs (`known_in`), for as long as it lives.
    pub fn due_in(
        &self,
        signer: &CaCertificate,
        known_in: Option<Duration>,
        now: Timestamp,
        jitter: f64,
    ) -> Duration {
        let left =
            Duration::try_from(self.not_after.duration_since(now)).unwrap_or_default().saturating_sub(GRAIN);
        if self.ca != *signer {
            return known_in.map_or(left, |known_in| known_in.min(left));
        }
        if now < self.at {
            // A clock that was ahead has been set right.
            return Duration::ZERO;
        }
        let life = self.not_after.duration_since(self.at).unsigned_abs();
        left.saturating_sub(life.mul_f64(1.0 / 3.0 + jitter.clamp(0.0, 1.0) / 10.0))
    }
}

/// Since when each CA has been in every configuration, as far as this process has seen it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    looked: bool,
    /// `None`: since long before this process looked for the first time.
    since: BTreeMap<CaCertificate, Option<Duration>>,
}

impl Known {
    /// Notes what all configurations carry, at a time that only ever grows (of this process's own). `settled`: if this
    /// is the first time that they carry anything, it has been so for long, or nothing was trusted before.
    pub fn note(&mut self, carried_by_all: &Bundle, elapsed: Duration, settled: bool) {
        let since = if settled && !self.looked { None } else { Some(elapsed) };
        self.looked |= !carried_by_all.is_empty();
        self.since.retain(|ca, _| carried_by_all.iter().any(|carried| carried == ca));
        for ca in carried_by_all.iter() {
            self.since.entry(ca.clone()).or_insert(since);
        }
    }

    /// How long until every API server can verify what `ca` signs; zero: it can by now; `None`: it is not carried.
    pub fn known_in(&self, ca: &CaCertificate, elapsed: Duration, propagation: Duration) -> Option<Duration> {
        let since = self.since.get(ca)?;
        Some(since.map_or(Duration::ZERO, |since| (since + propagation).saturating_sub(elapsed)))
    }
}
