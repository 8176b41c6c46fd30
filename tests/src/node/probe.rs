//! Probes: when they run, and what their results amount to.
//!
//! **Architecture invariant**: counting is pure ([`Counter`]); the loop below only waits, asks [`check`](super::check) and
//! reports.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::check::{Action, Target};

/// What a probe decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whether the container has started; the others wait for it.
    Startup,
    /// Whether it must be restarted.
    Liveness,
    /// Whether it takes requests.
    Readiness,
}

/// A threshold was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// By which probe.
    pub kind: Kind,
    /// Which way.
    pub success: bool,
    /// The last answer.
    pub message: String,
}

/// Counts results in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    success_threshold: i32,
    failure_threshold: i32,
    run: i32,
    last: Option<bool>,
}

impl Counter {
    /// With the thresholds of `probe`.
    pub fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            run: 0,
            last: None,
        }
    }

    /// Takes in a result; an answer means that its threshold is reached.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        (self.run >= threshold).then_some(success)
    }
}

/// When the first probe follows the initial delay. A kubelet spreads its first probes over a period at random; this is as
/// early as lets most processes open their port first.
const FIRST: Duration = Duration::from_millis(500);

/// Runs the probes of a container for as long as it is polled.
pub async fn run(container: &Container, target: &Target, report: impl Fn(Verdict)) {
    match &container.startup_probe {
        Some(probe) => {
            watch(probe, Kind::Startup, target, |verdict| {
                let done = verdict.success;
                report(verdict);
                done
            })
            .await;
        }
        None => report(Verdict { kind: Kind::Startup, success: true, message: String::new() }),
    }
    let forever = async |probe: Option<&Probe>, kind| {
        let Some(probe) = probe else { return };
        watch(probe, kind, target, |verdict| {
            report(verdict);
            false
        })
        .await;
    };
    tokio::join!(
        forever(container.liveness_probe.as_ref(), Kind::Liveness),
        forever(container.readiness_probe.as_ref(), Kind::Readiness)
    );
}

/// Probes until `done` says so of a verdict.
async fn watch(probe: &Probe, kind: Kind, target: &Target, mut done: impl FnMut(Verdict) -> bool) {
    let seconds = |value: Option<i32>, default: i32| {
        Duration::from_secs(u64::try_from(value.unwrap_or(default)).unwrap_or_default())
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let action = Action::of_probe(probe);
    let mut counter = Counter::new(probe);
    let first = tokio::time::Instant::now() + seconds(probe.initial_delay_seconds, 0) + FIRST;
    let mut ticks = tokio::time::interval_at(first, period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = target.perform(&action, timeout).await;
        let success = result.is_ok();
        let message = result.err().unwrap_or_default();
        if let Some(success) = counter.count(success)
            && done(Verdict { kind, success, message })
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let probe = |success: Option<i32>, failure: Option<i32>| Probe {
            success_threshold: success,
            failure_threshold: failure,
            ..Probe::default()
        };
        let cases: [(_, _, &str, &str); 5] = [
            // Results are + and -; verdicts are + and -, or . for none.
            (None, None, "+-+--+---", "+.+..+..-"),
            (None, Some(1), "-+-", "-+-"),
            (Some(2), Some(2), "+-++--", "...+.-"),
            (Some(2), None, "++++", ".+++"),
            (None, None, "----", "..--"),
        ];
        for (success, failure, results, expected) in cases {
            let mut counter = Counter::new(&probe(success, failure));
            let verdicts: String = results
                .chars()
                .map(|result| match counter.count(result == '+') {
                    Some(true) => '+',
                    Some(false) => '-',
                    None => '.',
                })
                .collect();
            assert_eq!(verdicts, expected, "{success:?} {failure:?} {results}");
        }
    }
}
