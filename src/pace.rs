//! How long a watch lasts, and how often what failed is tried again.
//!
//! Architecture invariant: one pace for every watch of the process. kube's own grows to 30 s within one short
//! outage, and what waits for a watch here — readiness, a cleared bundle, a new cluster — is due within seconds.

use std::time::Duration;

use kube::client::retry::RetryPolicy;
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

/// Longest wait, but for chance, before a request that was turned away (429, 503, 504) is sent again.
const REPEAT_CEILING: Duration = Duration::from_secs(4);
/// How often such a request is sent again before it has failed.
const REPEATS: u32 = 5;

/// Objects that one answer to a list brings. Little is kept of each, but the answer is held whole, and a dozen lists begin
/// together when the operator starts.
const PAGE: u32 = 100;

/// A watch of everything, to be narrowed.
pub fn watching() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE)
}

/// When a client sends a request again by itself. kube's own waits double up to a quarter of an hour: whoever met a long
/// outage in that way would sleep through the end of it.
pub fn repeats() -> RetryPolicy {
    let policy = RetryPolicy::new(RETRY / 4, REPEAT_CEILING, REPEATS, true);
    policy.expect("the floor is below the ceiling")
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
