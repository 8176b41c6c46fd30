//! How long a watch lasts, and how often what failed is tried again.
//!
//! Architecture invariant: one pace for every watch of the process. kube's own grows to 30 s within one short
//! outage, and what waits for a watch here — readiness, a cleared bundle, a new cluster — is due within seconds.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher;

/// Between two attempts. A handful of watches at this pace are no load for an API server that comes back.
pub const RETRY: Duration = Duration::from_secs(2);

/// After so many seconds the API server ends a watch, having told how far it came; one that has said nothing for five
/// seconds longer is given up. So a connection that died without a word is found, and what it lacked is known, within a
/// minute. To go on with a watch costs the API server next to nothing.
const WATCH_SECONDS: u32 = 40;

/// How long a connection may be silent while it is waited for: longer than a watch may.
pub const READ_TIMEOUT: Duration = Duration::from_secs(50);

/// A watch of everything, to be narrowed.
pub fn watching() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

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
