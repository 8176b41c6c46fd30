//! Leader election on a Lease, by client-go's rules.
//!
//! Reading order: [`Settings`] (how long is long), [`record`] (what a Lease says), [`decide`] (what to do next),
//! [`store`] (the calls), [`fence`] (what keeps a paused leader from writing), [`mod@run`] (the loop).
//!
//! - A Lease counts as held for its duration from when *we saw* it change last; clocks of others are never compared.
//! - Every write names the version that it replaces, so of two writers one fails.
//! - A leader stops [`Settings::renew_deadline`] after it *sent* its last renewal that succeeded. Others saw that
//!   renewal later than that, and wait longer: by then nobody leads.
//!
//! Architecture invariant: nothing here knows what is done under the lease. A lease does not fence what has left this
//! process already: each write of a leader must be harmless when made twice.

mod decide;
mod fence;
mod record;
mod run;
#[cfg(test)]
mod simulation;
mod store;

use std::time::Duration;

use thiserror::Error;

pub use self::fence::{Fence, fenced_client};
pub use self::run::{Candidate, TermError, run};
pub use self::store::{LeaseApi, LeaseStore, StoreError};

/// Waits of those who do not lead are longer by up to this factor, so that they do not all ask at the same moment.
pub const JITTER: f64 = 1.2;

/// The longest duration of a lease. A Lease that states more was not written by an operator, and does not keep all
/// of them from leading for longer.
pub const LONGEST: Duration = Duration::from_mins(5);

/// How long is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

/// Durations that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// The lease ends before its leader has stopped.
    #[error(
        "a lease duration of {} s must be longer than the renew deadline of {} s: raise the former or lower the latter",
        .0.as_secs(), .1.as_secs()
    )]
    DurationTooShort(Duration, Duration),
    /// There is no second try before the leader has to stop.
    #[error(
        "a renew deadline of {} s must be longer than {JITTER} times the retry period of {} s: raise the former or lower the latter",
        .0.as_secs(), .1.as_secs()
    )]
    DeadlineTooShort(Duration, Duration),
    /// It would be asked for without a pause.
    #[error("the retry period must be at least 1 s")]
    NoRetryPeriod,
    /// Nobody would lead for too long after a crash.
    #[error("a lease duration of {} s is too long: give at most {} s", .0.as_secs(), LONGEST.as_secs())]
    DurationTooLong(Duration),
}

impl Settings {
    /// `duration`: how long others wait before they take over from one who does not renew. `renew_deadline`: how long
    /// a leader leads on without having renewed. `retry_period`: how often it renews, and how often others look.
    pub fn new(
        duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, InvalidSettings> {
        if duration > LONGEST {
            return Err(InvalidSettings::DurationTooLong(duration));
        }
        if duration <= renew_deadline {
            return Err(InvalidSettings::DurationTooShort(duration, renew_deadline));
        }
        if renew_deadline <= retry_period.mul_f64(JITTER) {
            return Err(InvalidSettings::DeadlineTooShort(renew_deadline, retry_period));
        }
        if retry_period < Duration::from_secs(1) {
            return Err(InvalidSettings::NoRetryPeriod);
        }
        Ok(Self { duration, renew_deadline, retry_period })
    }

    /// How long one call may take: of a renewal that hangs there is a second try before the deadline.
    fn call_timeout(self) -> Duration {
        self.renew_deadline / 2
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(15, 10, 2, Ok(()))]
    #[case(11, 10, 2, Ok(()))]
    #[case(10, 10, 2, Err("a lease duration of 10 s must be longer than the renew deadline of 10 s"))]
    #[case(15, 6, 5, Err("a renew deadline of 6 s must be longer than 1.2 times the retry period of 5 s"))]
    #[case(15, 7, 5, Ok(()))]
    #[case(15, 10, 0, Err("the retry period must be at least 1 s"))]
    #[case(301, 10, 2, Err("a lease duration of 301 s is too long: give at most 300 s"))]
    fn durations_must_go_together(
        #[case] duration: u64,
        #[case] deadline: u64,
        #[case] retry: u64,
        #[case] wanted: Result<(), &str>,
    ) {
        let [duration, deadline, retry] = [duration, deadline, retry].map(Duration::from_secs);
        match (Settings::new(duration, deadline, retry), wanted) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(text)) => assert!(error.to_string().starts_with(text), "{error}"),
            (found, wanted) => panic!("{found:?} in place of {wanted:?}"),
        }
    }
}
