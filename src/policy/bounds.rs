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
/// The field of the lower bound.
pub const LOWER: &str = "spec.minReplicas";
/// The field of the upper bound.
pub const UPPER: &str = "spec.maxReplicas";

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
        format!("pause it: kubectl annotate --overwrite scaledobject {} {PAUSED}=true", self.name)
    }
}

/// A HorizontalPodAutoscaler that points at a cluster and that no ScaledObject controls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignHpa {
    /// The HPA's name.
    pub name: String,
    /// `spec.minReplicas`; absent, the API server takes 1.
    pub min: i32,
    /// `spec.maxReplicas`.
    pub max: i32,
}

/// What a driver asks for, as sentences about the cluster that it drives tell of it.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The rule that no count suits both.
    rule: Rule,
    /// The rule that bounds leave a part of the range.
    cut: Rule,
    kind: &'static str,
    name: &'a str,
    range: (i32, i32),
    fields: Fields,
}

impl Scaler {
    /// What it asks for.
    pub fn wish(&self) -> Wish<'_> {
        Wish {
            rule: Rule::HolderOutsideBounds,
            cut: Rule::BoundsCutScaler,
            kind: "ScaledObject",
            name: &self.name,
            range: (self.lower(), self.upper()),
            fields: OF_SCALED_OBJECT,
        }
    }
}

impl ForeignHpa {
    /// What it asks for.
    pub fn wish(&self) -> Wish<'_> {
        Wish {
            rule: Rule::HpaOutsideBounds,
            cut: Rule::HpaWider,
            kind: "HorizontalPodAutoscaler",
            name: &self.name,
            range: (self.min, self.max),
            fields: OF_HPA,
        }
    }
}

/// The fields that state a driver's range, as its own kind calls them.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// Of the minimum.
    pub min: &'static str,
    /// Of the maximum.
    pub max: &'static str,
}

/// A ScaledObject's.
pub const OF_SCALED_OBJECT: Fields = Fields { min: "minReplicaCount", max: "maxReplicaCount" };
/// An HPA's.
pub const OF_HPA: Fields = Fields { min: "minReplicas", max: "maxReplicas" };

impl Bounds {
    /// How the bounds come to take in a driver's range, where they leave a part of it out, such as "raise
    /// spec.maxReplicas to 6". `None` where no bounds of a cluster can.
    pub fn to_widen(self, (lower, upper): (i32, i32), whose: &str) -> Option<String> {
        let below = (lower < self.lower()).then(|| format!("lower spec.minReplicas{whose} to {lower}"));
        let above = (upper > self.upper()).then(|| format!("raise spec.maxReplicas{whose} to {upper}"));
        (lower >= 1 && upper <= MAX_REPLICAS).then(|| both(below, above))
    }

    /// How a driver's range comes to lie within the bounds, where a part of it does not.
    pub fn to_narrow(self, (lower, upper): (i32, i32), fields: Fields) -> String {
        let Fields { min, max } = fields;
        both(
            (lower < self.lower()).then(|| format!("raise {min} to {}", self.lower())),
            (upper > self.upper()).then(|| format!("lower {max} to {}", self.upper())),
        )
    }

    /// What is to be said where no count suits these bounds and a driver.
    pub fn no_count_suits(self, name: Name<'_>, driver: Wish<'_>) -> Finding {
        let Wish { rule, kind, name: driver, range: (lower, upper), fields, .. } = driver;
        let Fields { min, max } = fields;
        let (of_cluster, of_driver) = if lower > self.upper() {
            (
                (lower <= MAX_REPLICAS).then(|| format!("raise spec.maxReplicas to {lower} or more, or ")),
                format!("lower {min} to {} or less", self.upper()),
            )
        } else {
            (
                (upper >= 1).then(|| format!("lower spec.minReplicas to {upper} or less, or ")),
                format!("raise {max} to {} or more", self.lower()),
            )
        };
        Finding::bare(
            rule,
            REPLICAS,
            format!(
                "no count suits both: {kind} {driver:?} wants {lower} to {upper}, {KIND} {name} allows {} to {}; {}{of_driver}",
                self.lower(),
                self.upper(),
                of_cluster.unwrap_or_default()
            ),
        )
    }

    /// What is wrong between these bounds and a driver; `None`: nothing.
    pub fn conflict(self, name: Name<'_>, driver: Wish<'_>) -> Option<Finding> {
        let (lower, upper) = driver.range;
        let apart = lower > self.upper() || upper < self.lower();
        if apart { Some(self.no_count_suits(name, driver)) } else { self.cuts(driver) }
    }

    /// What is to be said where these bounds leave only a part of a driver's range; `None` where they leave all of it,
    /// or nothing.
    pub fn cuts(self, driver: Wish<'_>) -> Option<Finding> {
        let Wish { cut, kind, name, range, fields, .. } = driver;
        let (lower, upper) = range;
        let (low, high) = (lower.max(self.lower()), upper.min(self.upper()));
        let widen = self.to_widen(range, "").map(|widen| widen + ", or ").unwrap_or_default();
        (low <= high && (low, high) != range).then(|| {
            Finding::bare(
                cut,
                if high < upper { UPPER } else { LOWER },
                format!(
                    "the count stays within {low} to {high}, whatever {kind} {name:?} ({lower} to {upper}) asks for; {widen}{}",
                    self.to_narrow(range, fields)
                ),
            )
        })
    }
}

fn both(below: Option<String>, above: Option<String>) -> String {
    below.into_iter().chain(above).collect::<Vec<_>>().join(" and ")
}

/// Whether a step from `from` to `to`, both outside of the range and on the same side of it, leads nearer.
/// Such a step is never refused.
pub fn moves_towards((lower, upper): (i32, i32), from: i32, to: i32) -> bool {
    (to > upper && to < from) || (to < lower && to > from)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn what_a_scaled_object_leaves_out_is_kedas_default() {
        let scaler = Scaler { name: "queue".into(), min: None, max: None, paused: false, takes_over: None };
        // KEDA's own minimum is 0; its HPA never asks for less than 1.
        assert_eq!((scaler.lower(), scaler.upper()), (1, 100));
        assert_eq!(scaler.within(Bounds { min: None, max: Some(10) }), Some((1, 10)));
        assert_eq!(scaler.within(Bounds { min: Some(101), max: None }), None);
    }

    #[rstest]
    #[case::above((3, 6), Some("raise spec.maxReplicas to 6"), "lower maxReplicas to 5")]
    #[case::below((1, 5), Some("lower spec.minReplicas to 1"), "raise minReplicas to 2")]
    #[case::both((1, 6), Some("lower spec.minReplicas to 1 and raise spec.maxReplicas to 6"), "raise minReplicas to 2 and lower maxReplicas to 5")]
    #[case::beyond_all_bounds((3, 100_001), None, "lower maxReplicas to 5")]
    fn the_two_ways_out_of_a_partial_overlap(
        #[case] range: (i32, i32),
        #[case] widen: Option<&str>,
        #[case] narrow: &str,
    ) {
        let bounds = Bounds { min: Some(2), max: Some(5) };
        assert_eq!(bounds.to_widen(range, "").as_deref(), widen);
        assert_eq!(bounds.to_narrow(range, OF_HPA), narrow);
    }

    #[rstest]
    #[case::above(
        7,
        9,
        "wants 7 to 9, VLLMCluster \"far\" allows 2 to 5; raise spec.maxReplicas to 7 or more, or lower minReplicaCount to 5 or less"
    )]
    #[case::below(
        1,
        1,
        "wants 1 to 1, VLLMCluster \"far\" allows 2 to 5; lower spec.minReplicas to 1 or less, or raise maxReplicaCount to 2 or more"
    )]
    #[case::above_all(100_001, 100_002, "allows 2 to 5; lower minReplicaCount to 5 or less")]
    #[case::below_all(0, 0, "allows 2 to 5; raise maxReplicaCount to 2 or more")]
    fn the_two_ways_out_where_no_count_suits(#[case] min: i32, #[case] max: i32, #[case] says: &str) {
        let scaler =
            Scaler { name: "queue".into(), min: Some(min), max: Some(max), paused: false, takes_over: None };
        let said =
            Bounds { min: Some(2), max: Some(5) }.no_count_suits("far".into(), scaler.wish()).to_string();
        assert!(
            said.starts_with("no count suits both: ScaledObject \"queue\" wants") && said.ends_with(says),
            "{said}"
        );
    }
}
