//! Writes to `/scale`: the count, and who asks for it.
//!
//! Architecture invariant: the rules for a stated count stand here alone; `cluster` uses the same function for
//! the `spec.replicas` of a manifest.

use crate::api::names::KIND;

use super::bounds::{REPLICAS, moves_towards};
use super::{Bounds, Clause, Finding, Name, Outcome, Rule, Scaler, Writer};

/// One write of a count.
#[derive(Clone, Copy, Debug)]
pub struct Count<'a> {
    /// The cluster's name.
    pub name: Name<'a>,
    /// The count before the write; `None` on creation.
    pub old: Option<i32>,
    /// The count that the write states.
    pub new: i32,
    /// The cluster's own bounds, as they will be after the write.
    pub bounds: Bounds,
    /// The attached ScaledObject, if there is one.
    pub scaler: Option<&'a Scaler>,
}

/// Judges a write to `/scale`.
pub fn decide(count: Count<'_>, writer: Writer) -> Outcome {
    match writer {
        Writer::Autoscaler if Clause::AutoscalerIsNoPerson.in_force() => by_autoscaler(count),
        Writer::Person | Writer::Autoscaler => by_person(count),
    }
}

/// An autoscaler's wish outside of the cluster's bounds becomes the nearest bound; all else passes.
fn by_autoscaler(count: Count<'_>) -> Outcome {
    let nearest = count.bounds.nearest(count.new);
    if nearest == count.new || !Clause::NearestBound.in_force() {
        return Outcome::default();
    }
    let clamped_from = Clause::MoveIsTold.in_force().then_some(count.new);
    let mut outcome = Outcome { replicas: Some(nearest), clamped_from, ..Outcome::default() };
    outcome.warn(Finding::new(
        Rule::CountMovedForAutoscaler,
        REPLICAS,
        format!(
            "{} is outside the bounds {} to {} of {KIND} {}; stored {nearest} instead",
            count.new,
            count.bounds.lower(),
            count.bounds.upper(),
            count.name
        ),
    ));
    outcome
}

/// A person's count must lie within the cluster's bounds, and within the holder's range or nearer to it than
/// before. Of a new cluster's first count the holder's say is no refusal: whichever of the two comes first, the
/// holder moves the count by itself.
pub fn by_person(count: Count<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let Count { name, old, new, bounds, scaler } = count;
    // A count that the write did not change is wrong since before.
    let unchanged = old == Some(new);
    let violation = bounds.violation(name, new);
    let holder = scaler.filter(|scaler| scaler.holds() && !(unchanged && Clause::UntouchedCount.in_force()));
    let side = holder.map_or(Side::Within, |holder| Side::of(holder, count));
    match side {
        Side::NoneInCommon(holder) => outcome.warn(bounds.no_count_suits(name, holder.wish())),
        Side::Held(holder) if violation.is_none() => outcome.warn(Finding::bare(
            Rule::HolderDecidesAgain,
            REPLICAS,
            format!(
                "ScaledObject {:?} holds the count of {KIND} {name} and will decide again; to keep {new} {}, {}",
                holder.name,
                if new == 1 { "replica" } else { "replicas" },
                holder.how_to_pause()
            ),
        )),
        Side::Passes(holder) if violation.is_none() => outcome.warn(still_outside(new, holder)),
        // Who is out of reach twice is told of the nearer bound alone: the other is no way out.
        Side::Refused(holder, (lower, upper))
            if violation.is_none() || (upper < new && upper < bounds.upper()) || (lower > new && lower > bounds.lower()) =>
        {
            outcome.refuse(outside_of_holder(new, (lower, upper), holder, violation.is_some()));
            return outcome;
        }
        Side::Within | Side::Held(_) | Side::Passes(_) | Side::Refused(..) => {}
    }
    if let Some(violation) = violation {
        outcome.refuse_unless(unchanged && Clause::OlderCount.in_force(), violation);
    }
    outcome
}

/// Where a count lies, seen from the holder.
enum Side<'a> {
    /// Nothing is to be said of the holder.
    Within,
    /// Its range has nothing in common with the cluster's bounds.
    NoneInCommon(&'a Scaler),
    /// Within its range, and it decides again.
    Held(&'a Scaler),
    /// Outside of its range, which is no reason to refuse.
    Passes(&'a Scaler),
    /// Outside of its range, of which the cluster's bounds leave this.
    Refused(&'a Scaler, (i32, i32)),
}

impl<'a> Side<'a> {
    fn of(holder: &'a Scaler, Count { old, new, bounds, .. }: Count<'_>) -> Self {
        let first = old.is_none();
        let Some(range) = holder.within(bounds) else { return Self::NoneInCommon(holder) };
        if holder.range().contains(&new) {
            return if first && Clause::FirstCountUntold.in_force() {
                Self::Within
            } else {
                Self::Held(holder)
            };
        }
        let passes = match old {
            None => Clause::FirstCountPasses.in_force(),
            Some(old) => moves_towards(range, old, new) && Clause::TowardsHolder.in_force(),
        };
        if passes { Self::Passes(holder) } else { Self::Refused(holder, range) }
    }
}

/// A count that the holder will move back into its range.
fn still_outside(new: i32, holder: &Scaler) -> Finding {
    Finding::new(
        Rule::CountStillOutsideHolder,
        REPLICAS,
        format!(
            "{new} is {} the {} to {} of ScaledObject {:?}, which will decide again; to keep {new}, {}",
            if new < holder.lower() { "below" } else { "above" },
            holder.lower(),
            holder.upper(),
            holder.name,
            holder.how_to_pause()
        ),
    )
}

/// A count outside of the holder's own range; the way out is the range that the cluster's bounds leave of it, and the
/// only one where those refuse the count too.
fn outside_of_holder(new: i32, (lower, upper): (i32, i32), holder: &Scaler, out_of_bounds: bool) -> Finding {
    let (name, own) = (&holder.name, holder.range());
    let ways = |field: &str| {
        if out_of_bounds { String::new() } else { format!(", {field}, or {}", holder.how_to_pause()) }
    };
    let (rule, message) = if new > *own.end() {
        (
            Rule::CountAboveHolder,
            format!(
                "{new} is above the maximum {} (maxReplicaCount of ScaledObject {name:?}, which holds the count); use {upper} or fewer{}",
                own.end(),
                ways("raise maxReplicaCount")
            ),
        )
    } else {
        (
            Rule::CountBelowHolder,
            format!(
                "{new} is below the minimum {} (minReplicaCount of ScaledObject {name:?}, which holds the count); use {lower} or more{}",
                own.start(),
                ways("lower minReplicaCount")
            ),
        )
    };
    Finding::new(rule, REPLICAS, message)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::policy::Basis;

    const BOUNDS: Bounds = Bounds { min: Some(2), max: Some(10) };

    fn scaler(paused: bool) -> Scaler {
        Scaler { name: "queue".into(), min: Some(3), max: Some(6), paused, takes_over: None }
    }

    fn count(old: i32, new: i32, scaler: Option<&Scaler>) -> Count<'_> {
        Count { name: "a".into(), old: Some(old), new, bounds: BOUNDS, scaler }
    }

    #[rstest]
    #[case::below_one(Bounds::default(), 0, "below the minimum 1")]
    #[case::negative(Bounds::default(), -1, "below the minimum 1")]
    #[case::below_own(BOUNDS, 1, "below the minimum 2 (spec.minReplicas")]
    #[case::above_own(BOUNDS, 11, "above the maximum 10 (spec.maxReplicas")]
    #[case::above_all(Bounds::default(), 100_001, "above the maximum 100000")]
    fn a_person_outside_the_bounds_is_refused(#[case] bounds: Bounds, #[case] new: i32, #[case] says: &str) {
        let outcome = by_person(Count { name: "a".into(), old: Some(4), new, bounds, scaler: None });
        assert!(outcome.message().contains(says), "{outcome:?}");
        assert!(outcome.message().contains(&new.to_string()), "{outcome:?}");
        assert!(outcome.rests_on().eq([]));
    }

    #[rstest]
    #[case::lowest(2)]
    #[case::highest(10)]
    fn a_person_at_a_bound_passes_in_silence(#[case] new: i32) {
        assert_eq!(by_person(count(4, new, None)), Outcome::default());
    }

    #[rstest]
    #[case::above(5, 7, "above the maximum 6 (maxReplicaCount of ScaledObject \"queue\"")]
    #[case::below(5, 2, "below the minimum 3 (minReplicaCount of ScaledObject \"queue\"")]
    #[case::further_away(8, 9, "above the maximum 6")]
    #[case::through_the_range(8, 2, "below the minimum 3")]
    fn outside_of_the_holder(#[case] old: i32, #[case] new: i32, #[case] says: &str) {
        let scaler = scaler(false);
        let outcome = by_person(count(old, new, Some(&scaler)));
        assert!(outcome.message().contains(says), "{outcome:?}");
        assert!(
            outcome
                .message()
                .contains("kubectl annotate --overwrite scaledobject queue autoscaling.keda.sh/paused=true")
        );
        assert!(outcome.rests_on().eq([Basis::Scaler]));
    }

    #[rstest]
    #[case::of_the_holder(
        12,
        BOUNDS,
        "spec.replicas: 12 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue\", which holds the count); use 6 or fewer"
    )]
    #[case::of_the_cluster(12, Bounds { min: None, max: Some(5) }, "spec.replicas: 12 is above the maximum 5 (spec.maxReplicas of VLLMCluster \"a\"); use 5 or fewer, or raise spec.maxReplicas")]
    #[case::of_both(12, Bounds { min: None, max: Some(6) }, "spec.replicas: 12 is above the maximum 6 (spec.maxReplicas of VLLMCluster \"a\"); use 6 or fewer, or raise spec.maxReplicas")]
    #[case::minimum_of_the_holder(
        1,
        BOUNDS,
        "spec.replicas: 1 is below the minimum 3 (minReplicaCount of ScaledObject \"queue\", which holds the count); use 3 or more"
    )]
    #[case::minimum_of_the_cluster(1, Bounds { min: Some(4), max: None }, "spec.replicas: 1 is below the minimum 4 (spec.minReplicas of VLLMCluster \"a\"); use 4 or more, or lower spec.minReplicas")]
    fn outside_of_both_the_nearer_bound_is_said_alone(
        #[case] new: i32,
        #[case] bounds: Bounds,
        #[case] says: &str,
    ) {
        let scaler = scaler(false);
        let outcome = by_person(Count { bounds, ..count(5, new, Some(&scaler)) });
        assert_eq!((outcome.message().as_str(), outcome.warnings.len()), (says, 0));
    }

    #[rstest]
    #[case::within_the_holder(5, &[])]
    #[case::below_the_holder(2, &["spec.replicas: 2 is below the 3 to 6 of ScaledObject \"queue\", which will decide again; to keep 2, pause it: kubectl annotate --overwrite scaledobject queue autoscaling.keda.sh/paused=true"])]
    #[case::above_the_holder(9, &["spec.replicas: 9 is above the 3 to 6 of ScaledObject \"queue\", which will decide again; to keep 9, pause it: kubectl annotate --overwrite scaledobject queue autoscaling.keda.sh/paused=true"])]
    fn a_first_count_within_the_bounds_passes(#[case] new: i32, #[case] warns: &[&str]) {
        let scaler = scaler(false);
        let outcome = by_person(Count { old: None, ..count(5, new, Some(&scaler)) });
        let warnings: Vec<_> = outcome.warnings.iter().map(ToString::to_string).collect();
        assert!(outcome.allowed() && warnings == warns, "{outcome:?}");
    }

    #[rstest]
    #[case::above(11, "11 is above the maximum 10 (spec.maxReplicas")]
    #[case::below(1, "1 is below the minimum 2 (spec.minReplicas")]
    fn a_first_count_outside_of_the_bounds_is_refused(#[case] new: i32, #[case] says: &str) {
        let scaler = scaler(false);
        let outcome = by_person(Count { old: None, ..count(5, new, Some(&scaler)) });
        assert_eq!((outcome.refusals.len(), outcome.warnings.len()), (1, 0), "{outcome:?}");
        assert!(outcome.refusals[0].message.starts_with(says), "{outcome:?}");
    }

    #[rstest]
    #[case::only_the_cluster_is_in_the_way(4, 6, 5, &["6 is above the maximum 5 (spec.maxReplicas"])]
    #[case::both_are(4, 7, 5, &["7 is above the maximum 5 (spec.maxReplicas"])]
    #[case::only_the_holder_is(4, 7, 8, &["7 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue\", which holds the count); use 6 or fewer"])]
    #[case::towards_it(9, 7, 5, &["7 is above the maximum 5 (spec.maxReplicas"])]
    fn each_bound_is_said_of_whoever_has_it(
        #[case] old: i32,
        #[case] new: i32,
        #[case] max: i32,
        #[case] says: &[&str],
    ) {
        let scaler = scaler(false);
        let bounds = Bounds { min: None, max: Some(max) };
        let outcome = by_person(Count { bounds, ..count(old, new, Some(&scaler)) });
        let refusals: Vec<_> = outcome.refusals.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(refusals.len(), says.len(), "{refusals:?}");
        assert!(refusals.iter().zip(says).all(|(refusal, says)| refusal.starts_with(says)), "{refusals:?}");
    }

    #[test]
    fn a_step_towards_the_holder_passes_with_a_warning() {
        let scaler = scaler(false);
        let outcome = by_person(count(9, 8, Some(&scaler)));
        assert!(outcome.allowed());
        assert!(outcome.warnings[0].to_string().ends_with("8 is above the 3 to 6 of ScaledObject \"queue\", which will decide again; to keep 8, pause it: kubectl annotate --overwrite scaledobject queue autoscaling.keda.sh/paused=true"), "{outcome:?}");
    }

    #[test]
    fn within_the_holder_passes_with_the_way_to_pause() {
        let scaler = scaler(false);
        let one = Scaler { min: None, ..scaler.clone() };
        let outcome = by_person(Count { bounds: Bounds::default(), ..count(4, 1, Some(&one)) });
        assert!(outcome.warnings[0].to_string().contains("to keep 1 replica, pause it"), "{outcome:?}");
        let outcome = by_person(count(4, 5, Some(&scaler)));
        assert!(outcome.allowed());
        assert!(
            outcome.warnings[0].to_string().contains("kubectl annotate --overwrite scaledobject queue"),
            "{outcome:?}"
        );
    }

    #[test]
    fn a_paused_scaler_holds_nothing() {
        let scaler = scaler(true);
        assert_eq!(by_person(count(5, 9, Some(&scaler))), Outcome::default());
    }

    #[test]
    fn a_scaler_with_nothing_in_common_is_named_and_refuses_nothing() {
        let scaler =
            Scaler { name: "far".into(), min: Some(20), max: Some(30), paused: false, takes_over: None };
        let outcome = by_person(count(5, 9, Some(&scaler)));
        assert!(outcome.allowed());
        assert!(outcome.warnings[0].to_string().contains("no count suits both"), "{outcome:?}");
    }

    #[test]
    fn an_unchanged_count_is_never_refused() {
        let scaler = scaler(false);
        let outcome = by_person(count(11, 11, Some(&scaler)));
        assert!(outcome.allowed());
        assert!(outcome.warnings[0].to_string().contains("above the maximum 10"), "{outcome:?}");
        assert_eq!(by_person(count(9, 9, Some(&scaler))), Outcome::default());
    }

    #[rstest]
    #[case::to_zero(0, Some(2))]
    #[case::below(1, Some(2))]
    #[case::above(12, Some(10))]
    #[case::lowest(2, None)]
    #[case::highest(10, None)]
    #[case::outside_its_own_range(9, None)]
    fn an_autoscaler_is_moved_to_the_nearest_bound_and_never_refused(
        #[case] new: i32,
        #[case] stored: Option<i32>,
    ) {
        let scaler = scaler(false);
        let outcome = decide(count(5, new, Some(&scaler)), Writer::Autoscaler);
        assert!(outcome.allowed());
        assert_eq!(outcome.replicas, stored);
        assert_eq!(outcome.clamped_from, stored.map(|_| new));
        assert_eq!(outcome.warnings.len(), usize::from(stored.is_some()));
    }
}
