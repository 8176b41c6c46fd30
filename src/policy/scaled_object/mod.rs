//! Writes to a `ScaledObject` that points at a `VLLMCluster`: what is filled in, which older forms are brought up
//! to date, and what is refused because KEDA, the HPA and the cluster would disagree about it.
//!
//! Read [`view`] for what is read of the object, [`default()`] for what is changed, [`check()`] for what is judged;
//! `triggers` judges one trigger and `values` one value of its metadata, `metrics` knows vLLM's metrics. Of the operator's own
//! scaler, `external` is what is known, `own` judges the triggers that it answers, and `http` those of the older form that
//! become such.
//!
//! Whatever KEDA 2.21's own webhook refuses is refused here too, because that webhook fails open and names one
//! reason at a time. Left to it, since this policy cannot know better:
//! - whether a `scalingModifiers.formula` compiles and names existing triggers: it is a program in KEDA's own
//!   expression language;
//! - two ScaledObjects that claim one HPA name for different targets: the other one's target may be a Deployment, and
//!   of ScaledObjects with such targets nothing is known here, so that half a check would promise a whole one;
//! - its two warnings that `pollingInterval` and `cooldownPeriod` have no effect;
//! - negative `fallback.failureThreshold` and unknown enum values, which KEDA's schema refuses before any webhook
//!   that validates is called.
//!
//! Only what a write changed may refuse it: a violation that the old object had too, word for word, in the world as
//! it is now, becomes a warning. A write that changes nothing of what is read gets no answer at all.
//!
//! Architecture invariant: as in all of [`super`], plain functions; patches are returned, never applied.

mod check;
mod default;
mod external;
mod http;
mod metrics;
mod own;
mod triggers;
mod values;
pub mod view;

use super::{Bounds, Clause, Scaler};

pub use check::check;
pub use default::default;
pub use external::{ExternalScaler, Reach};
pub use view::ScaledObject;

/// What is known of the target `VLLMCluster`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its bounds.
    pub bounds: Bounds,
    /// Whether its pods will request cpu: by requests, limits, a `LimitRange`, or at pod level.
    pub cpu_request: bool,
    /// Whether its pods will request memory, likewise.
    pub memory_request: bool,
}

/// What is known around the ScaledObject.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The target; `None` where it does not exist (yet).
    pub cluster: Option<Cluster>,
    /// Other ScaledObjects that are attached to the same cluster.
    pub scalers: &'a [Scaler],
    /// Names of HPAs that point at the cluster and that no ScaledObject controls, without those whose annotation
    /// `validations.keda.sh/hpa-ownership: "false"` excuses them.
    pub hpas: &'a [String],
    /// The namespace of the object.
    pub namespace: &'a str,
    /// The operator's own scaler.
    pub external: ExternalScaler<'a>,
}

/// One write of a `ScaledObject`.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The object that the write states.
    pub new: &'a ScaledObject,
    /// The object before the write; `None` on creation.
    pub old: Option<&'a ScaledObject>,
    /// What is known around it.
    pub known: Known<'a>,
}

impl<'a> Write<'a> {
    /// The cluster's name, where there is anything to say about this write, whatever is known.
    pub fn concerns(&self) -> Option<&'a str> {
        let cluster = self.new.targets_cluster()?;
        let unchanged =
            self.old.is_some_and(|old| old.reads_like(self.new)) && Clause::UntouchedScaler.in_force();
        // A PUT from a manifest has no deletion timestamp yet when the mutating webhook is asked.
        let deleting = (self.new.deleting || self.old.is_some_and(|old| old.deleting))
            && Clause::DeletedScaler.in_force();
        (!deleting && !unchanged).then_some(cluster)
    }

    /// The old object, where its violations excuse the new one's: it was already attached to this cluster.
    fn predecessor(&self) -> Option<&'a ScaledObject> {
        let same = |old: &&ScaledObject| old.targets_cluster() == self.new.targets_cluster();
        self.old.filter(|old| same(old) || !Clause::TurnedScaler.in_force())
    }
}

#[cfg(test)]
mod tests;
