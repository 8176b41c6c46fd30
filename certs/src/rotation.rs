//! The rotation of the CA: from what is stored to the next step, and from a step to what is stored after it.
//!
//! A CA is replaced with overlap. Each arrow is one conditional write, and each wait ends by stored facts:
//!
//! ```text
//!  signer A, trusted {A}
//!    │ Introduce: A has less than the lead left
//!  signer A, next B, trusted {A, B}
//!    │ Witness:   every configuration carries {A, B}; since when is stored
//!    │ Promote:   that is longer ago than the propagation delay
//!  signer B, trusted {A, B}
//!    │ Witness:   B is seen to sign; since when is stored
//!    │ Retire:    that is longer ago than a leaf lives
//!  signer B, trusted {B}
//! ```
//!
//! Why no API server ever meets a leaf that it cannot verify:
//! - *Before B signs, every API server knows B.* `Promote` follows a `Witness` by the propagation delay, and whoever
//!   injects reads the configurations before the Secret and patches them at the version read, so that once a
//!   configuration carries {A, B} nobody who still knows {A} alone can write over it.
//! - *Before A is dropped, no leaf of A is left.* A leaf is issued only from a Secret read after the moment from which
//!   its life counts, so A's last one ends at most one leaf's life after `Promote`. The time in a `Witness` is one from
//!   *after* the Secret was seen with B as its signer. A replica that sees nothing any more cannot renew its leaf at
//!   all: when A is dropped its leaf has ended by itself.
//!
//! **Architecture invariant:** a pure function of what is stored, whether it is in place, the time and the policy;
//! no keys, so that ten thousand schedules are a matter of seconds.

use std::time::Duration;

use jiff::Timestamp;

use crate::bundle::{Bundle, CaCertificate};
use crate::stored::{MendReason, NextReason, ReplaceReason};
use crate::validity::CLOCK_SKEW;

/// Times of HTTP and of X.509 are whole seconds: of two of them, the difference is off by up to one.
pub(crate) const GRAIN: Duration = Duration::from_secs(1);

/// Most CAs that are kept beside the ones that are needed, when a bundle is made anew. A rotation has one.
const MOST_KEPT: usize = 8;

/// When which step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long before its end a CA is rotated.
    pub lead: Duration,
    /// How long a leaf lives at most.
    pub leaf_lifetime: Duration,
    /// How long after a change of a configuration every API server has it at the latest.
    pub propagation: Duration,
    /// How far apart the clocks that write and read times may be.
    pub clock_tolerance: Duration,
}

/// What is stored, without the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The CA that signs.
    pub signer: Result<CaCertificate, ReplaceReason>,
    /// The one that is to sign next, while there is one.
    pub next: Option<Result<CaCertificate, NextReason>>,
    /// The CAs that are trusted.
    pub bundle: Result<Bundle, MendReason>,
    /// Since when the three above have been in effect, if that was written down for them.
    pub since: Option<Timestamp>,
}

/// The times around the reading of what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Before anything was read, by the API server's clock: it is the one that verifies.
    pub before: Timestamp,
    /// After all was read, by the same clock.
    pub after: Timestamp,
    /// By our own clock.
    pub own: Timestamp,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is no CA to sign with: make one, without overlap where there is nothing left to overlap with.
    Replace(ReplaceReason),
    /// The bundle is damaged, or lacks what it must have.
    Mend(MendReason),
    /// Make the next CA and have it trusted beside the one that signs.
    Introduce(IntroduceReason),
    /// Write down that what is stored has been in effect by now.
    Witness,
    /// The next CA signs from now on.
    Promote,
    /// Trust the CA that signs, and no other.
    Retire,
    /// Nothing, at least until then; `None`: until something changes.
    Wait(Option<Timestamp>),
}

/// Why a next CA is made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IntroduceReason {
    /// The one that signs ends soon.
    #[error("the CA expires at {not_after}")]
    EndsSoon {
        /// When it ends.
        not_after: Timestamp,
    },
    /// There was one, and it cannot be used.
    #[error("{0}")]
    NextUnusable(NextReason),
}

impl Step {
    /// Whether it needs a CA that does not exist yet.
    pub fn makes_ca(&self) -> bool {
        matches!(self, Self::Replace(_) | Self::Introduce(_))
    }

    /// Whether every replica may do it. What is broken is mended by whoever finds it first: a start must not wait
    /// for a leader, and the precondition on the version lets one of them win. What belongs to an orderly rotation
    /// is the leader's, so that it is one clock and one process that goes through it.
    pub fn is_for_everyone(&self) -> bool {
        matches!(self, Self::Replace(_) | Self::Mend(_))
    }
}

impl Moment {
    /// Whether our clock and the API server's tell about the same time. While they do not, one of them is wrong, and
    /// nothing is begun or ended that rests on a time.
    pub fn clocks_agree(&self) -> bool {
        self.own.duration_since(self.before).unsigned_abs() <= CLOCK_SKEW
    }
}

/// The next step. `in_place`: every configuration carries exactly the stored bundle, seen before the Secret was read.
pub fn next_step(state: &State, in_place: bool, moment: &Moment, policy: &Policy) -> Step {
    let State { signer, next, bundle, since } = state;
    let now = moment.before;
    let signer = match signer {
        Ok(signer) => signer,
        Err(reason) => return Step::Replace(reason.clone()),
    };
    // What one clock calls expired and the other does not, is left to whoever has the right time.
    let valid_by_either = [now, moment.own].iter().any(|at| signer.is_valid(*at));
    if !valid_by_either {
        let CaCertificate { not_before, not_after, .. } = *signer;
        return Step::Replace(if now < not_before {
            ReplaceReason::NotYetValid { not_before }
        } else {
            ReplaceReason::Expired { not_after }
        });
    }
    let bundle = match bundle {
        Ok(bundle) if !bundle.contains(signer) => return Step::Mend(MendReason::LacksAuthority),
        Ok(bundle) => bundle,
        Err(reason) => return Step::Mend(reason.clone()),
    };
    if matches!(next, Some(Ok(next)) if !bundle.contains(next)) {
        return Step::Mend(MendReason::LacksNext);
    }
    // Half of the lead is for the clocks to be set right, and for what is old to be retired first. After that the API
    // server's clock is believed, and a third CA trusted: to do nothing would lose the one that signs for certain.
    let not_after = signer.not_after;
    let overdue = now >= sub(not_after, policy.lead / 2);
    if !moment.clocks_agree() && !overdue {
        return Step::Wait(None);
    }
    match next {
        Some(Err(reason)) => Step::Introduce(IntroduceReason::NextUnusable(reason.clone())),
        Some(Ok(next)) if now < next.not_before || add(now, policy.lead) >= next.not_after => {
            let CaCertificate { not_before, not_after, .. } = *next;
            Step::Introduce(IntroduceReason::NextUnusable(NextReason::Validity { not_before, not_after }))
        }
        Some(Ok(_)) if !in_place => Step::Wait(None),
        Some(Ok(_)) => once(*since, policy.propagation + policy.clock_tolerance, now, Step::Promote),
        None if bundle.len() > 1 && !overdue && !in_place && since.is_none() => Step::Wait(None),
        None if bundle.len() > 1 && !overdue => {
            once(*since, policy.leaf_lifetime + policy.clock_tolerance, now, Step::Retire)
        }
        None if now >= sub(not_after, policy.lead) => {
            Step::Introduce(IntroduceReason::EndsSoon { not_after })
        }
        None => Step::Wait(Some(sub(not_after, policy.lead))),
    }
}

/// `step` once `wait` has passed since; before that, since when is to be written down.
fn once(since: Option<Timestamp>, wait: Duration, now: Timestamp, step: Step) -> Step {
    match since.map(|since| add(since, wait + GRAIN)) {
        None => Step::Witness,
        Some(due) if now >= due => step,
        Some(due) => Step::Wait(Some(due)),
    }
}

impl State {
    /// What is stored after `step`. `fresh` is the new CA of a step that makes one; `carried` is what the
    /// configurations trust, which a bundle that is lost is made anew from.
    #[must_use]
    pub fn after(
        &self,
        step: &Step,
        fresh: Option<&CaCertificate>,
        carried: &Bundle,
        moment: &Moment,
    ) -> Self {
        let state = Self { since: None, ..self.clone() };
        match (step, fresh) {
            (Step::Replace(_), Some(fresh)) => Self {
                signer: Ok(fresh.clone()),
                next: None,
                bundle: Ok(self.kept(carried, moment).with(fresh)),
                ..state
            },
            (Step::Mend(_), _) => {
                let needed = self.signer.iter().chain(self.next.iter().flatten());
                let bundle = needed.fold(self.kept(carried, moment), Bundle::with);
                Self { bundle: Ok(bundle), ..state }
            }
            (Step::Introduce(_), Some(fresh)) => {
                // Whatever else is still trusted stays so: it goes with the next `Retire`.
                let bundle = self.bundle.clone().unwrap_or_default().newest(MOST_KEPT);
                let bundle = self.signer.iter().fold(bundle, Bundle::with).with(fresh);
                Self { next: Some(Ok(fresh.clone())), bundle: Ok(bundle), ..state }
            }
            (Step::Witness, _) => Self { since: Some(moment.after), ..state },
            (Step::Promote, _) => match &self.next {
                Some(Ok(next)) => Self { signer: Ok(next.clone()), next: None, ..state },
                _ => self.clone(),
            },
            (Step::Retire, _) => {
                Self { bundle: Ok(self.signer.iter().fold(Bundle::default(), Bundle::with)), ..state }
            }
            (Step::Wait(_) | Step::Replace(_) | Step::Introduce(_), _) => self.clone(),
        }
    }

    /// Whether the CA that signs was trusted everywhere long before now, as an orderly rotation sees to. After a
    /// replacement it may not be, until that is written down or all others are gone.
    pub fn is_settled(&self, moment: &Moment, policy: &Policy) -> bool {
        let alone = self.bundle.as_ref().is_ok_and(|bundle| bundle.len() == 1);
        let since = |since| moment.before >= add(since, policy.propagation + policy.clock_tolerance + GRAIN);
        alone || self.next.is_some() || self.since.is_some_and(since)
    }

    /// What goes on being trusted when a bundle is made anew: leaves of these may still be served.
    fn kept(&self, carried: &Bundle, moment: &Moment) -> Bundle {
        let stored = self.bundle.clone().unwrap_or_default();
        stored.union(carried).without_expired(moment.before).newest(MOST_KEPT)
    }
}

fn add(at: Timestamp, wait: Duration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

fn sub(at: Timestamp, lead: Duration) -> Timestamp {
    at.checked_sub(lead).unwrap_or(Timestamp::MIN)
}
