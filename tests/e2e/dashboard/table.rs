//! Panel → cause → expectation.
//!
//! **Architecture invariant**: a row names one query of one panel, one series of it, and one cause.

use Cause::{Clamp, Creation, Load, NewAuthority, Outage, Quota, Refusal, Sickness, Trigger, Unjudged};
use Expect::{Falls, Is, Renews, Rises, Starts};

use super::causes::Cause;

/// What becomes of a value.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// Nothing, or 0; then more.
    Starts,
    /// More than before.
    Rises,
    /// Something else; then this.
    Is(f64),
    /// At least this; then less.
    Falls(f64),
    /// More than when the scenario began, though it falls with the time.
    Renews,
}

impl Expect {
    /// Whether a value is as before the cause.
    pub fn is_ahead(self, value: Option<f64>) -> bool {
        match self {
            Self::Starts => value.is_none_or(|value| value <= 0.0),
            Self::Rises | Self::Renews => true,
            Self::Is(wanted) => !is(value, wanted),
            Self::Falls(least) => value.is_some_and(|value| value >= least),
        }
    }

    /// Whether it has become what it must.
    pub fn has_moved(self, before: Option<f64>, now: Option<f64>) -> bool {
        let Some(value) = now else { return false };
        match self {
            Self::Starts => value > 0.0,
            Self::Rises => value > before.unwrap_or_default(),
            Self::Is(wanted) => is(now, wanted),
            Self::Falls(_) => before.is_some_and(|before| value < before),
            Self::Renews => before.is_some_and(|before| value > before),
        }
    }
}

fn is(value: Option<f64>, wanted: f64) -> bool {
    value.is_some_and(|value| (value - wanted).abs() < 1e-9)
}

/// One series of one query.
#[derive(Debug)]
pub struct Row {
    /// The title of its panel.
    pub panel: &'static str,
    /// The query's letter.
    pub query: &'static str,
    /// Labels that the series has, at least.
    pub labels: &'static [(&'static str, &'static str)],
    /// What moves it.
    pub by: Cause,
    /// How.
    pub expect: Expect,
}

impl Row {
    /// Its place in the table.
    pub fn place(&self) -> usize {
        ROWS.iter().position(|row| std::ptr::eq(row, self)).expect("each row is one of the table")
    }

    /// The row and a value, in a line.
    pub fn told(&self, value: Option<f64>) -> String {
        format!("{} {} {:?} {:?}: {value:?}", self.panel, self.query, self.labels, self.expect)
    }
}

const fn row(
    panel: &'static str,
    query: &'static str,
    labels: &'static [(&'static str, &'static str)],
    by: Cause,
    expect: Expect,
) -> Row {
    Row { panel, query, labels, by, expect }
}

const A: (&str, &str) = ("cluster", "a");
const B: (&str, &str) = ("cluster", "b");
const MUTATING: &str = "default.vllmclusters.training.distributed-inference.io";
const RULE: (&str, &str) = ("reason", "scale/above-holder");

/// What moves by what.
pub static ROWS: &[Row] = &[
    row("Answers", "A", &[("resource", "vllmcluster"), ("decision", "allowed")], Creation, Starts),
    row("Time to an answer, 99 of 100", "A", &[("resource", "vllmcluster")], Creation, Starts),
    row("Time to an answer, 99 of 100", "B", &[("name", MUTATING)], Creation, Starts),
    row("Replicas", "A", &[A], Creation, Is(1.0)),
    row("Replicas", "B", &[A], Creation, Is(1.0)),
    row("Replicas", "C", &[A], Creation, Is(1.0)),
    row("Replicas", "D", &[A], Creation, Is(3.0)),
    row("Clusters at a bound", "A", &[A, ("bound", "the least")], Creation, Is(1.0)),
    row("Clusters by state", "A", &[("state", "ready")], Creation, Rises),
    row("Reconciliations", "A", &[("outcome", "succeeded")], Creation, Starts),
    row("Time of a reconciliation, 99 of 100", "A", &[], Creation, Starts),
    row("Silence of watches", "A", &[("resource", "vllmclusters")], Creation, Falls(3.0)),
    row("Silence of watches", "B", &[("resource", "vllmclusters")], Creation, Falls(3.0)),
    row("Values given to KEDA", "A", &[("signal", "queue"), ("outcome", "whole")], Trigger, Starts),
    row("Requests to servers", "A", &[("outcome", "answered")], Trigger, Starts),
    row("Waiting requests", "A", &[A], Load, Is(12.0)),
    row("Running requests", "A", &[A], Load, Is(3.0)),
    row("Use of the KV cache", "A", &[A], Load, Is(0.5)),
    row("Values given to KEDA", "A", &[("signal", "queue"), ("outcome", "held")], Sickness, Starts),
    row("Requests to servers", "A", &[("outcome", "garbage")], Sickness, Starts),
    row("Refusals", "A", &[], Refusal, Starts),
    row("Refused, and why", "A", &[RULE, ("resource", "scale"), ("webhook", "mutating")], Refusal, Starts),
    row("Refusals by rule", "A", &[RULE, ("resource", "scale")], Refusal, Starts),
    row("Live reads", "A", &[], Refusal, Starts),
    row("Live reads", "B", &[], Refusal, Starts),
    row("Writes that were not judged", "A", &[], Unjudged, Starts),
    row(
        "Not judged, and why",
        "A",
        &[("reason", "unreadable-review"), ("resource", "scale")],
        Unjudged,
        Starts,
    ),
    row("Counts moved to a bound", "A", &[], Clamp, Starts),
    row("Clusters at a bound", "A", &[B, ("bound", "the most")], Clamp, Is(3.0)),
    row("Replicas", "A", &[B], Clamp, Is(3.0)),
    row("Replicas", "B", &[B], Clamp, Is(3.0)),
    row(
        "Writes to the API server",
        "A",
        &[("resource", "vllmclusters/status"), ("code", "200")],
        Clamp,
        Starts,
    ),
    row("Stalled clusters", "A", &[], Quota, Rises),
    row("Clusters by state", "A", &[("state", "stalled")], Quota, Rises),
    row("Reconciliations", "A", &[("outcome", "failed")], Quota, Starts),
    row("Leaders", "A", &[], Outage, Is(0.0)),
    row("Replicas that answer", "A", &[], Outage, Is(0.0)),
    row("Calls of admission that fail", "A", &[], Outage, Starts),
    row("Calls that fail", "A", &[("name", MUTATING)], Outage, Starts),
    row("Calls that fail", "B", &[], Outage, Starts),
    row("Alerts", "A", &[("alertname", "VLLMOperatorNoLeader"), ("alertstate", "pending")], Outage, Starts),
    // A replica that starts issues its certificate anew.
    row("Certificates end in", "A", &[], NewAuthority, Renews),
    row("Ends of certificates", "A", &[], NewAuthority, Renews),
    row("CA ends in", "A", &[], NewAuthority, Renews),
    row("Ends of certificates", "B", &[], NewAuthority, Renews),
];
