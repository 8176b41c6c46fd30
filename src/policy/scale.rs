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
/// before.
pub fn by_person(count: Count<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    // A count that the write did not change is wrong since before.
    let unchanged = count.old == Some(count.new);
    if let Some(violation) = count.bounds.violation(count.name, count.new) {
        outcome.refuse_unless(unchanged && Clause::OlderCount.in_force(), violation);
    }
    if unchanged && Clause::UntouchedCount.in_force() {
        return outcome;
    }
    let Some(holder) = count.scaler.filter(|scaler| scaler.holds()) else { return outcome };
    let Some(range) = holder.within(count.bounds) else {
        outcome.warn(Finding::bare(
            Rule::HolderOutsideBounds,
            REPLICAS,
            format!(
                "ScaledObject {:?} wants {} to {} replicas, {KIND} {} allows {} to {}: the two have no count in common; correct one of them",
                holder.name, holder.lower(), holder.upper(), count.name, count.bounds.lower(), count.bounds.upper()
            ),
        ));
        return outcome;
    };
    let (lower, upper) = range;
    if (lower..=upper).contains(&count.new) {
        outcome.warn(Finding::bare(
            Rule::HolderDecidesAgain,
            REPLICAS,
            format!(
                "ScaledObject {:?} holds the count of {KIND} {} and will decide again; to keep {} replicas, {}",
                holder.name,
                count.name,
                count.new,
                holder.how_to_pause()
            ),
        ));
    } else if holder.range().contains(&count.new) {
        // Only the cluster's bounds are in its way, and that is said.
    } else if count.old.is_some_and(|old| moves_towards(range, old, count.new))
        && Clause::TowardsHolder.in_force()
    {
        outcome.warn(Finding::new(
            Rule::CountStillOutsideHolder,
            REPLICAS,
            format!(
                "{} is still outside the range {} to {} of ScaledObject {:?}, which will decide again",
                count.new,
                holder.lower(),
                holder.upper(),
                holder.name
            ),
        ));
    } else {
        outcome.refuse(outside_of_holder(count.new, range, holder));
    }
    outcome
}

/// A count outside of the holder's own range; the way out is the range that the cluster's bounds leave of it.
fn outside_of_holder(new: i32, (lower, upper): (i32, i32), holder: &Scaler) -> Finding {
    let (name, own) = (&holder.name, holder.range());
    let pause = holder.how_to_pause();
    let (rule, message) = if new > *own.end() {
        (
            Rule::CountAboveHolder,
            format!(
                "{new} is above the maximum {} (maxReplicaCount of ScaledObject {name:?}, which holds the count); use {upper} or fewer, raise maxReplicaCount, or {pause}",
                own.end()
            ),
        )
    } else {
        (
            Rule::CountBelowHolder,
            format!(
                "{new} is below the minimum {} (minReplicaCount of ScaledObject {name:?}, which holds the count); use {lower} or more, lower minReplicaCount, or {pause}",
                own.start()
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
            outcome.message().contains("kubectl annotate scaledobject queue autoscaling.keda.sh/paused=true")
        );
        assert!(outcome.rests_on().eq([Basis::Scaler]));
    }

    #[test]
    fn outside_of_both_is_said_at_once() {
        let scaler = scaler(false);
        let outcome = by_person(count(5, 12, Some(&scaler)));
        assert_eq!(outcome.refusals.len(), 2, "{outcome:?}");
        assert!(
            outcome.message().contains("maximum 10") && outcome.message().contains("maximum 6"),
            "{outcome:?}"
        );
    }

    #[rstest]
    #[case::only_the_cluster_is_in_the_way(4, 6, 5, &["6 is above the maximum 5 (spec.maxReplicas"])]
    #[case::both_are(4, 7, 5, &["7 is above the maximum 5 (spec.maxReplicas", "7 is above the maximum 6 (maxReplicaCount of ScaledObject \"queue\", which holds the count); use 5 or fewer"])]
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
        assert!(outcome.warnings[0].to_string().contains("still outside the range 3 to 6"), "{outcome:?}");
    }

    #[test]
    fn within_the_holder_passes_with_the_way_to_pause() {
        let scaler = scaler(false);
        let outcome = by_person(count(4, 5, Some(&scaler)));
        assert!(outcome.allowed());
        assert!(
            outcome.warnings[0].to_string().contains("kubectl annotate scaledobject queue"),
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
        assert!(outcome.warnings[0].to_string().contains("no count in common"), "{outcome:?}");
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
