//! How often a failed watch is tried again.
//!
//! Architecture invariant: one pace for every watch of the process. kube's own grows to 30 s within one short
//! outage, and what waits for a watch here — readiness, a cleared bundle, a new cluster — is due within seconds.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// Between two attempts. A handful of watches at this pace are no load for an API server that comes back.
const RETRY: Duration = Duration::from_secs(2);

/// The same wait before every attempt.
#[derive(Debug)]
pub struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(RETRY)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}
