//! What to do next about the Lease, from what was seen of it.
//!
//! Architecture invariant: no clock and no I/O: time and chance are arguments. The clocks of others, which stand in
//! the Lease, are compared with nothing.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::Value;
use tokio::time::Instant;

use super::record::{absent, duration, holder, released, renewed, spec, taken};
use super::{JITTER, Settings};

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing before then.
    Wait(Instant),
    /// Read the Lease.
    Read,
    /// Create the Lease, which is not there.
    Create,
    /// Take a Lease that nobody holds any more.
    TakeOver,
    /// Renew the Lease, which is ours.
    Renew,
    /// Stop leading, before anything else.
    Resign(Loss),
}

/// Why leading has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The last renewal is too long ago.
    #[error("the lease could not be renewed in time")]
    Expired,
    /// The Lease does not name us any more.
    #[error("the lease is held by another")]
    Taken,
}

/// Why a call gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The Lease is another one by now; nothing was written.
    Conflict,
    /// Nothing is known of what became of it.
    Unclear,
}

/// What one candidate knows.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    settings: Settings,
    known: Known,
    /// When what is known must be read anew.
    stale: Option<Instant>,
    seen: Option<Seen>,
    leading_until: Option<Instant>,
    not_before: Instant,
    /// Whether the last write met a newer Lease.
    conflicted: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Known {
    Nothing,
    Absent,
    Present(Box<DynamicObject>),
}

/// The last Lease that was seen, and since when it is so.
#[derive(Clone, Debug)]
struct Seen {
    uid: Option<String>,
    spec: Value,
    /// Whether others hold it.
    of_others: bool,
    /// The end of its duration, from when it was seen to have changed.
    expires: Instant,
}

impl Election {
    /// A candidate that knows nothing yet. No other may ever have the same identity.
    pub fn new(identity: String, settings: Settings, now: Instant) -> Self {
        Self {
            identity,
            settings,
            known: Known::Nothing,
            stale: None,
            seen: None,
            leading_until: None,
            not_before: now,
            conflicted: false,
        }
    }

    /// What to do now.
    pub fn next(&self, now: Instant) -> Step {
        let leading = self.leading_until;
        if leading.is_some_and(|until| now >= until) {
            return Step::Resign(Loss::Expired);
        }
        let until = |at: Instant| Step::Wait(leading.map_or(at, |until| until.min(at)));
        if now < self.not_before {
            return until(self.not_before);
        }
        if self.stale.is_some_and(|stale| now >= stale) {
            return Step::Read;
        }
        let others = self.held_by_others(now);
        match &self.known {
            Known::Nothing => Step::Read,
            // Whoever leads makes it anew.
            Known::Absent if leading.is_none() && others.is_some() => until(self.stale.unwrap_or(now)),
            Known::Absent => Step::Create,
            Known::Present(lease) if self.holds(lease) => Step::Renew,
            Known::Present(_) if leading.is_some() => Step::Resign(Loss::Taken),
            Known::Present(lease) if holder(lease).is_some() && others.is_some() => {
                until(self.stale.unwrap_or(now))
            }
            Known::Present(_) => Step::TakeOver,
        }
    }

    /// The Lease as the write of a [`Step::Create`], [`Step::TakeOver`] or [`Step::Renew`] is to leave it. What it says of
    /// time is for people.
    pub fn lease(&self, name: &str, clock: Timestamp) -> DynamicObject {
        let Self { identity, settings, .. } = self;
        match &self.known {
            Known::Present(lease) if self.holds(lease) => renewed((**lease).clone(), *settings, clock),
            Known::Present(lease) => taken((**lease).clone(), identity, *settings, clock),
            Known::Absent | Known::Nothing => taken(absent(name), identity, *settings, clock),
        }
    }

    /// The Lease as it is given up, if it is known to be ours.
    pub fn release(&self, clock: Timestamp) -> Option<DynamicObject> {
        match &self.known {
            Known::Present(lease) if self.holds(lease) => Some(released((**lease).clone(), clock)),
            _ => None,
        }
    }

    /// Until when this one leads, as things are.
    pub fn leading_until(&self) -> Option<Instant> {
        self.leading_until
    }

    /// When a call that is made now must be over.
    pub fn call_deadline(&self, now: Instant) -> Instant {
        let deadline = now + self.settings.call_timeout();
        self.leading_until.map_or(deadline, |until| until.min(deadline))
    }

    /// The Lease was read. `jitter` is between 0 and 1.
    pub fn read(&mut self, found: Option<DynamicObject>, now: Instant, jitter: f64) {
        match &found {
            Some(lease) => self.see(lease, now),
            None => self.miss(now),
        }
        let held = match &found {
            Some(lease) if holder(lease).is_none_or(|holder| holder == self.identity) => None,
            _ => self.held_by_others(now),
        };
        self.stale = held.map(|expires| expires.min(now + self.pause(jitter)));
        self.known = found.map_or(Known::Absent, |lease| Known::Present(Box::new(lease)));
    }

    /// The Lease was written by a call that was begun at `sent`.
    pub fn written(&mut self, lease: DynamicObject, sent: Instant, now: Instant) {
        self.see(&lease, now);
        self.known = Known::Present(Box::new(lease));
        self.stale = None;
        self.conflicted = false;
        self.leading_until = Some(sent + self.settings.renew_deadline);
        self.not_before = sent + self.settings.retry_period;
    }

    /// A call gave nothing. `jitter` is between 0 and 1.
    pub fn failed(&mut self, failure: Failure, now: Instant, jitter: f64) {
        self.known = Known::Nothing;
        self.stale = None;
        if failure == Failure::Conflict && self.seen.is_none() {
            // There is one after all.
            let expires = now + self.settings.duration;
            self.seen = Some(Seen { uid: Some(String::new()), spec: Value::Null, of_others: true, expires });
        }
        let again = std::mem::replace(&mut self.conflicted, failure == Failure::Conflict);
        // Of a conflict the remedy is to read; who has it twice in a row competes with others.
        let at_once = failure == Failure::Conflict && !again;
        self.not_before = if at_once { now } else { now + self.pause(jitter) };
    }

    /// Word came that nobody holds the Lease.
    pub fn vacated(&mut self, now: Instant) {
        self.known = Known::Nothing;
        self.stale = None;
        self.not_before = now;
    }

    /// What was done under the lease is over.
    pub fn resigned(&mut self) {
        self.known = Known::Nothing;
        self.stale = None;
        self.leading_until = None;
    }

    /// Until when others hold the Lease, by what was seen last.
    fn held_by_others(&self, now: Instant) -> Option<Instant> {
        self.seen.as_ref().filter(|seen| seen.of_others && now < seen.expires).map(|seen| seen.expires)
    }

    fn holds(&self, lease: &DynamicObject) -> bool {
        holder(lease).as_ref() == Some(&self.identity)
    }

    fn see(&mut self, lease: &DynamicObject, now: Instant) {
        let (uid, spec) = (&lease.metadata.uid, spec(lease));
        if self.seen.as_ref().is_some_and(|seen| seen.uid == *uid && seen.spec == *spec) {
            return;
        }
        let of_others = holder(lease).is_some() && !self.holds(lease);
        let expires = now + duration(lease, self.settings);
        self.seen = Some(Seen { uid: uid.clone(), spec: spec.clone(), of_others, expires });
    }

    /// A Lease that was there has gone: whoever held it last, and that need not be whom we saw, may lead on until he
    /// would have renewed it.
    fn miss(&mut self, now: Instant) {
        if let Some(seen) = self.seen.as_mut().filter(|seen| seen.uid.is_some()) {
            let expires = seen.expires.max(now + self.settings.duration);
            *seen = Seen { uid: None, spec: Value::Null, of_others: true, expires };
        }
    }

    /// The wait between two looks; a leader's has no jitter, since nobody competes with it.
    fn pause(&self, jitter: f64) -> Duration {
        let jitter = if self.leading_until.is_some() { 0.0 } else { jitter };
        self.settings.retry_period.mul_f64(1.0 + (JITTER - 1.0) * jitter)
    }
}

#[cfg(test)]
mod tests;
