//! The two ranges of a cluster's count: its own bounds, and within them the range of the ScaledObject that
//! holds it.
//!
//! Architecture invariant: numbers and the sentences about them; which write they are applied to is not known
//! here.

use std::ops::RangeInclusive;

use crate::api::names::{KIND, MAX_REPLICAS, PAUSED};

use super::{Clause, Finding, Name, Rule};

/// The field that every rule about counts speaks of.
pub const REPLICAS: &str = "spec.replicas";

/// A cluster's own hard bounds, `spec.minReplicas` and `spec.maxReplicas`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// `spec.minReplicas`; absent: 1.
    pub min: Option<i32>,
    /// `spec.maxReplicas`; absent: the schema's own maximum.
    pub max: Option<i32>,
}

impl Bounds {
    /// The lowest count the cluster may have, at least 1.
    pub fn lower(self) -> i32 {
        self.min.unwrap_or(1).max(1)
    }

    /// The highest count the cluster may have.
    pub fn upper(self) -> i32 {
        self.max.unwrap_or(MAX_REPLICAS).min(MAX_REPLICAS)
    }

    /// Whether some count satisfies both bounds.
    pub fn consistent(self) -> bool {
        self.lower() <= self.upper()
    }

    /// The count nearest to `replicas` that the cluster may have. For inconsistent bounds, the lower one.
    pub fn nearest(self, replicas: i32) -> i32 {
        replicas.min(self.upper()).max(self.lower())
    }

    /// What is wrong with a count that lies outside of the bounds.
    pub fn violation(self, name: Name<'_>, replicas: i32) -> Option<Finding> {
        let (rule, message) = if replicas < self.lower() {
            match self.min {
                Some(min) if min > 1 => (
                    Rule::CountBelowMinimum,
                    format!(
                        "{replicas} is below the minimum {min} (spec.minReplicas of {KIND} {name}); use {min} or more, or lower spec.minReplicas"
                    ),
                ),
                _ => (
                    Rule::CountBelowOne,
                    format!(
                        "{replicas} is below the minimum 1: a {KIND} keeps at least 1 replica; use 1 or more, or delete {KIND} {name} to stop serving"
                    ),
                ),
            }
        } else if replicas > self.upper() {
            match self.max {
                Some(max) if max <= MAX_REPLICAS => (
                    Rule::CountAboveMaximum,
                    format!(
                        "{replicas} is above the maximum {max} (spec.maxReplicas of {KIND} {name}); use {max} or fewer, or raise spec.maxReplicas"
                    ),
                ),
                _ => (
                    Rule::CountAboveLimit,
                    format!(
                        "{replicas} is above the maximum {MAX_REPLICAS} that any {KIND} may have; use {MAX_REPLICAS} or fewer"
                    ),
                ),
            }
        } else {
            return None;
        };
        Some(Finding::new(rule, REPLICAS, message))
    }
}

/// What is known of a ScaledObject that is attached to a cluster: its target is the cluster, and it is not
/// being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaler {
    /// The ScaledObject's name.
    pub name: String,
    /// `spec.minReplicaCount`; absent, KEDA takes 0.
    pub min: Option<i32>,
    /// `spec.maxReplicaCount`; absent, KEDA takes 100.
    pub max: Option<i32>,
    /// Whether KEDA leaves the count alone because of `autoscaling.keda.sh/paused` or `…/paused-replicas`.
    pub paused: bool,
    /// The HPA that it takes over from its former owner, by `scaledobject.keda.sh/transfer-hpa-ownership`.
    pub takes_over: Option<String>,
}

impl Scaler {
    /// The lowest count that its HPA asks for: never below 1.
    pub fn lower(&self) -> i32 {
        self.min.unwrap_or(0).max(1)
    }

    /// The highest count that its HPA asks for.
    pub fn upper(&self) -> i32 {
        self.max.unwrap_or(100)
    }

    /// Whether it holds the count: KEDA leaves the count alone while it is paused.
    pub fn holds(&self) -> bool {
        !(self.paused && Clause::PausedHoldsNothing.in_force())
    }

    /// Its own range, whatever the cluster allows.
    pub fn range(&self) -> RangeInclusive<i32> {
        self.lower()..=self.upper()
    }

    /// The range that it leaves within a cluster's bounds; `None` where they have nothing in common.
    pub fn within(&self, bounds: Bounds) -> Option<(i32, i32)> {
        let (lower, upper) = (self.lower().max(bounds.lower()), self.upper().min(bounds.upper()));
        (lower <= upper).then_some((lower, upper))
    }

    /// How its user gets it out of the way.
    pub fn how_to_pause(&self) -> String {
        format!("pause it: kubectl annotate scaledobject {} {PAUSED}=true", self.name)
    }
}

/// Whether a step from `from` to `to`, both outside of the range and on the same side of it, leads nearer.
/// Such a step is never refused.
pub fn moves_towards((lower, upper): (i32, i32), from: i32, to: i32) -> bool {
    (to > upper && to < from) || (to < lower && to > from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_scaled_object_leaves_out_is_kedas_default() {
        let scaler = Scaler { name: "queue".into(), min: None, max: None, paused: false, takes_over: None };
        // KEDA's own minimum is 0; its HPA never asks for less than 1.
        assert_eq!((scaler.lower(), scaler.upper()), (1, 100));
        assert_eq!(scaler.within(Bounds { min: None, max: Some(10) }), Some((1, 10)));
        assert_eq!(scaler.within(Bounds { min: Some(101), max: None }), None);
    }
}
