//! Writes to a `VLLMCluster`: the count that a manifest leaves out, and what it may state.
//!
//! Architecture invariant: `default` only fills in, `check` only judges. The mutating webhook runs both, so that
//! its sentence comes before the schema's; the validating one runs `check` on what will be stored.

use crate::api::names::{KIND, MAX_NAME, MAX_REPLICAS};

use super::bounds::REPLICAS;
use super::scale::{Count, by_person};
use super::{Bounds, Clause, Finding, Outcome, Rule, Scaler};

const LOWER: &str = "spec.minReplicas";
const UPPER: &str = "spec.maxReplicas";

/// The part of a spec that the policy reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// `spec.replicas`.
    pub replicas: Option<i32>,
    /// `spec.minReplicas` and `spec.maxReplicas`.
    pub bounds: Bounds,
}

/// One write of a `VLLMCluster`.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The cluster's name; empty while `generateName` has not given it one.
    pub name: &'a str,
    /// The spec that the write states.
    pub new: Spec,
    /// The spec before the write; `None` on creation.
    pub old: Option<Spec>,
    /// Whether the annotation `keep-live-replicas` leaves the live count alone on update.
    pub keep_live: bool,
    /// The attached ScaledObject, if there is one.
    pub scaler: Option<&'a Scaler>,
}

impl Write<'_> {
    fn bounds_changed(&self) -> bool {
        self.old.is_none_or(|old| old.bounds != self.new.bounds)
    }
}

/// The count to store where the write leaves it out, must not touch it, or leaves it outside of new bounds.
/// [`Outcome::replicas`] is `None` where the write already states it.
pub fn default(write: &Write<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let count = match write.old.and_then(|old| old.replicas) {
        None => write.new.replicas.or_else(|| first_count(write)),
        Some(live) => kept_count(write, live, &mut outcome),
    };
    outcome.replicas = count.filter(|_| write.new.replicas != count);
    outcome
}

/// The count of a new cluster that states none.
fn first_count(write: &Write<'_>) -> Option<i32> {
    let bounds = write.new.bounds;
    let raises = |scaler: &&Scaler| {
        scaler.holds() && scaler.within(bounds).is_some() && Clause::FirstCountOfHolder.in_force()
    };
    let first = write.scaler.filter(raises).map_or(1, Scaler::lower);
    let first = if Clause::FirstCountInBounds.in_force() { bounds.nearest(first) } else { first };
    Clause::FirstCount.in_force().then_some(first)
}

/// The count of a cluster that runs `live` replicas.
fn kept_count(write: &Write<'_>, live: i32, outcome: &mut Outcome) -> Option<i32> {
    let bounds = write.new.bounds;
    let stated = write.new.replicas.filter(|_| !(write.keep_live && Clause::KeepLive.in_force()));
    let moves = match stated {
        Some(count) if count != live => return stated,
        Some(_) => Clause::UntouchedToNearest.in_force(),
        None if Clause::LiveCount.in_force() => Clause::AbsentToNearest.in_force(),
        None => return None,
    };
    let nearest = bounds.nearest(live);
    let by_this_write = write.bounds_changed() || !Clause::OldBoundsMoveNothing.in_force();
    if !(moves && by_this_write && nearest != live && bounds.consistent()) {
        return Some(live);
    }
    outcome.warn(Finding::new(
        Rule::CountMovedByBounds,
        REPLICAS,
        format!(
            "the live count {live} is outside the new bounds {} to {} of {KIND} {:?}; stored {nearest}",
            bounds.lower(),
            bounds.upper(),
            write.name
        ),
    ));
    Some(nearest)
}

/// Judges what will be stored.
pub fn check(write: &Write<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let judges_name = write.old.is_none() || !Clause::OlderName.in_force();
    if judges_name && !write.name.is_empty() {
        outcome.refuse_all(name_finding(write.name));
    }
    if write.bounds_changed() || !Clause::OlderBounds.in_force() {
        outcome.refuse_all(bounds_findings(write.new.bounds));
        judge_scaler(write, &mut outcome);
    }
    // A count is judged against bounds only where they make sense together.
    let judges_count = write.new.bounds.consistent() && Clause::StatedCount.in_force();
    if let Some(new) = write.new.replicas.filter(|_| judges_count) {
        let old = write.old.and_then(|old| old.replicas);
        if old == Some(new) && write.bounds_changed() {
            outcome.refuse_all(write.new.bounds.violation(write.name, new));
        } else {
            let count = Count { name: write.name, old, new, bounds: write.new.bounds, scaler: write.scaler };
            let judged = by_person(count);
            outcome.refusals.extend(judged.refusals);
            outcome.warnings.extend(judged.warnings);
        }
    }
    outcome
}

/// What is wrong between a cluster and what drives it, whoever let it pass: refusals and warnings alike, for a
/// condition. Empty: nothing.
pub fn conflicts(name: &str, spec: Spec, scalers: &[Scaler], hpas: &[String]) -> Vec<Finding> {
    let mut outcome = Outcome::default();
    if let Some(replicas) = spec.replicas {
        outcome.refuse_all(spec.bounds.violation(name, replicas));
    }
    for scaler in scalers {
        judge_scaler(
            &Write { name, new: spec, old: None, keep_live: false, scaler: Some(scaler) },
            &mut outcome,
        );
    }
    let drivers: Vec<_> = scalers
        .iter()
        .map(|scaler| format!("ScaledObject {:?}", scaler.name))
        .chain(
            // An HPA that is about to be taken over is no second driver.
            hpas.iter()
                .filter(|hpa| scalers.iter().all(|scaler| scaler.takes_over.as_ref() != Some(hpa)))
                .map(|hpa| format!("HorizontalPodAutoscaler {hpa:?}")),
        )
        .collect();
    if drivers.len() > 1 {
        outcome.warn(Finding::bare(
            Rule::SeveralDrivers,
            REPLICAS,
            format!(
                "{} scale {KIND} {name:?} at once and undo each other's counts; delete all but one",
                drivers.join(" and ")
            ),
        ));
    }
    [outcome.refusals, outcome.warnings].concat()
}

/// The name becomes a Service's (DNS-1035 label) and part of a pod label (at most 52 characters).
fn name_finding(name: &str) -> Option<Finding> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let (rule, message) = if name.len() > MAX_NAME {
        (
            Rule::NameTooLong,
            format!(
                "{name:?} has {} characters; use at most {MAX_NAME}, because the StatefulSet controller puts the name into a pod label and Kubernetes would create no pod",
                name.len()
            ),
        )
    } else if !name.chars().all(legal)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || name.ends_with('-')
    {
        (
            Rule::NameNoLabel,
            format!(
                "{name:?} is no DNS-1035 label; use a-z, 0-9 and '-', starting with a letter and ending with a letter or digit, because Services bear the name"
            ),
        )
    } else {
        return None;
    };
    Some(Finding::new(rule, "metadata.name", message))
}

fn bounds_findings(bounds: Bounds) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (rule, field, bound) in
        [(Rule::MinimumOutOfRange, LOWER, bounds.min), (Rule::MaximumOutOfRange, UPPER, bounds.max)]
    {
        if let Some(bound) = bound.filter(|bound| !(1..=MAX_REPLICAS).contains(bound)) {
            findings.push(Finding::new(
                rule,
                field,
                format!("{bound} is no bound of replicas; use 1 to {MAX_REPLICAS}"),
            ));
        }
    }
    if let (Bounds { min: Some(min), max: Some(max) }, true) = (bounds, findings.is_empty())
        && min > max
    {
        findings.push(Finding::new(
            Rule::MinimumAboveMaximum,
            LOWER,
            format!("{min} is above spec.maxReplicas {max}; use {max} or less, or raise spec.maxReplicas"),
        ));
    }
    findings
}

/// New bounds against the attached ScaledObject: nothing in common refuses, a partial overlap warns.
fn judge_scaler(write: &Write<'_>, outcome: &mut Outcome) {
    let bounds = write.new.bounds;
    let Some(scaler) = write.scaler.filter(|_| bounds.consistent()) else { return };
    let (lower, upper) = (scaler.lower(), scaler.upper());
    match scaler.within(bounds) {
        None => outcome.refuse(Finding::of_scaler(
            Rule::BoundsOutsideScaler,
            if bounds.upper() < lower { UPPER } else { LOWER },
            format!(
                "the bounds {} to {} have no count in common with ScaledObject {:?}, which scales this {KIND} from {lower} to {upper}; choose bounds that overlap {lower} to {upper}, or change the ScaledObject first",
                bounds.lower(), bounds.upper(), scaler.name
            ),
        )),
        Some((low, high)) if (low, high) != (lower, upper) => outcome.warn(Finding::bare(
            Rule::BoundsCutScaler,
            if high < upper { UPPER } else { LOWER },
            format!(
                "ScaledObject {:?} asks for {lower} to {upper} replicas; the bounds of {KIND} {:?} leave {low} to {high} of them",
                scaler.name, write.name
            ),
        )),
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const fn spec(replicas: Option<i32>, min: Option<i32>, max: Option<i32>) -> Spec {
        Spec { replicas, bounds: Bounds { min, max } }
    }

    const fn write(old: Option<Spec>, new: Spec, scaler: Option<&Scaler>) -> Write<'_> {
        Write { name: "a", new, old, keep_live: false, scaler }
    }

    fn scaler(min: i32, max: i32) -> Scaler {
        Scaler { name: "queue".into(), min: Some(min), max: Some(max), paused: false, takes_over: None }
    }

    #[rstest]
    #[case::nothing_known(spec(None, None, None), None, Some(1))]
    #[case::stated(spec(Some(3), None, None), None, None)]
    #[case::raised_to_the_bound(spec(None, Some(2), None), None, Some(2))]
    #[case::raised_to_the_holder(spec(None, None, None), Some(scaler(3, 6)), Some(3))]
    #[case::the_bound_is_higher(spec(None, Some(5), None), Some(scaler(3, 6)), Some(5))]
    #[case::holder_above_the_maximum(spec(None, None, Some(2)), Some(scaler(3, 6)), Some(1))]
    fn an_absent_count_on_creation(
        #[case] new: Spec,
        #[case] scaler: Option<Scaler>,
        #[case] stored: Option<i32>,
    ) {
        assert_eq!(default(&write(None, new, scaler.as_ref())).replicas, stored);
    }

    #[test]
    fn a_paused_scaler_raises_nothing() {
        let paused = Scaler { paused: true, ..scaler(3, 6) };
        assert_eq!(default(&write(None, spec(None, None, None), Some(&paused))).replicas, Some(1));
    }

    #[rstest]
    #[case::absent_keeps_the_live_count(spec(None, None, None), false, Some(7), 0)]
    #[case::stated_is_obeyed(spec(Some(1), None, None), false, None, 0)]
    #[case::kept_by_annotation(spec(Some(1), None, None), true, Some(7), 0)]
    #[case::kept_and_already_so(spec(Some(7), None, None), true, None, 0)]
    #[case::absent_outside_new_bounds(spec(None, None, Some(5)), false, Some(5), 1)]
    #[case::untouched_outside_new_bounds(spec(Some(7), None, Some(5)), false, Some(5), 1)]
    #[case::untouched_below_new_bounds(spec(Some(7), Some(9), None), false, Some(9), 1)]
    #[case::stated_outside_is_for_the_check(spec(Some(8), None, Some(5)), false, None, 0)]
    #[case::inconsistent_bounds_are_for_the_check(spec(None, Some(9), Some(8)), false, Some(7), 0)]
    fn an_update_of_a_cluster_that_runs_seven(
        #[case] new: Spec,
        #[case] keep_live: bool,
        #[case] stored: Option<i32>,
        #[case] warnings: usize,
    ) {
        let old = Some(spec(Some(7), None, None));
        let outcome = default(&Write { keep_live, ..write(old, new, None) });
        assert_eq!((outcome.replicas, outcome.warnings.len()), (stored, warnings), "{outcome:?}");
    }

    #[test]
    fn old_bounds_move_nothing() {
        let old = spec(Some(7), None, Some(5));
        let outcome = default(&write(Some(old), spec(None, None, Some(5)), None));
        assert_eq!((outcome.replicas, outcome.warnings.len()), (Some(7), 0));
    }

    #[rstest]
    #[case::longest(&"a".repeat(52), "")]
    #[case::too_long(&"a".repeat(53), "53 characters; use at most 52")]
    #[case::starts_with_a_digit("1a", "DNS-1035")]
    #[case::dots("a.b", "DNS-1035")]
    #[case::ends_with_a_dash("a-", "DNS-1035")]
    #[case::generated_later("", "")]
    fn names(#[case] name: &str, #[case] says: &str) {
        let outcome = check(&Write { name, ..write(None, spec(Some(1), None, None), None) });
        assert_eq!(outcome.allowed(), says.is_empty(), "{outcome:?}");
        assert!(outcome.message().contains(says), "{outcome:?}");
    }

    #[test]
    fn a_name_is_judged_once() {
        let same = spec(Some(1), None, None);
        assert!(check(&Write { name: "a.b", ..write(Some(same), same, None) }).allowed());
    }

    #[rstest]
    #[case::crossed(spec(Some(3), Some(5), Some(2)), &["spec.minReplicas: 5 is above spec.maxReplicas 2"])]
    #[case::zero(spec(Some(3), Some(0), None), &["spec.minReplicas: 0 is no bound"])]
    #[case::both(spec(Some(3), Some(0), Some(-1)), &["spec.minReplicas: 0", "spec.maxReplicas: -1"])]
    #[case::count_above(spec(Some(9), None, Some(5)), &["spec.replicas: 9 is above the maximum 5"])]
    fn bounds_of_a_new_cluster(#[case] new: Spec, #[case] says: &[&str]) {
        let message = check(&write(None, new, None)).message();
        assert!(says.iter().all(|part| message.contains(part)), "{message}");
    }

    #[rstest]
    #[case::below(
        spec(Some(2), None, Some(2)),
        "spec.maxReplicas: the bounds 1 to 2 have no count in common"
    )]
    #[case::above(
        spec(Some(9), Some(9), None),
        "spec.minReplicas: the bounds 9 to 100000 have no count in common"
    )]
    fn bounds_without_a_common_count(#[case] new: Spec, #[case] says: &str) {
        let queue = scaler(3, 6);
        let outcome = check(&write(Some(spec(new.replicas, None, None)), new, Some(&queue)));
        assert!(outcome.message().contains(says), "{outcome:?}");
        assert!(outcome.rests_on_scaler());
        // The same bounds again are no change of this write.
        assert!(check(&write(Some(new), new, Some(&queue))).allowed());
    }

    #[test]
    fn narrower_bounds_refuse_the_count_that_they_leave_outside() {
        // The mutating webhook moves such a count; without it, the check still holds.
        let old = spec(Some(9), None, None);
        let outcome = check(&write(Some(old), spec(Some(9), None, Some(5)), None));
        assert!(outcome.message().contains("spec.replicas: 9 is above the maximum 5"), "{outcome:?}");
    }

    #[rstest]
    #[case::one_that_fits(spec(Some(4), Some(3), Some(6)), &[scaler(3, 6)], &[], &[])]
    #[case::count_outside(spec(Some(9), None, Some(6)), &[], &[], &["spec.replicas: 9 is above the maximum 6"])]
    #[case::nothing_in_common(spec(Some(1), None, Some(2)), &[scaler(3, 6)], &[], &["spec.maxReplicas: the bounds 1 to 2 have no count in common"])]
    #[case::partial(spec(Some(4), None, Some(5)), &[scaler(3, 6)], &[], &["leave 3 to 5 of them"])]
    #[case::two_scalers(spec(Some(4), None, None), &[scaler(3, 6), Scaler { name: "other".into(), ..scaler(3, 6) }], &[], &["ScaledObject \"queue\" and ScaledObject \"other\" scale VLLMCluster \"a\" at once"])]
    #[case::beside_an_hpa(spec(Some(4), None, None), &[scaler(3, 6)], &["h"], &["ScaledObject \"queue\" and HorizontalPodAutoscaler \"h\""])]
    #[case::taken_over(spec(Some(4), None, None), &[Scaler { takes_over: Some("h".into()), ..scaler(3, 6) }], &["h"], &[])]
    #[case::an_hpa_alone(spec(Some(4), None, None), &[], &["h"], &[])]
    fn conflicts_of(
        #[case] spec: Spec,
        #[case] scalers: &[Scaler],
        #[case] hpas: &[&str],
        #[case] says: &[&str],
    ) {
        let hpas: Vec<_> = hpas.iter().map(|&hpa| hpa.to_owned()).collect();
        let found = conflicts("a", spec, scalers, &hpas);
        assert_eq!(found.len(), says.len(), "{found:?}");
        assert!(found.iter().zip(says).all(|(found, says)| found.to_string().contains(says)), "{found:?}");
    }

    #[test]
    fn a_partial_overlap_warns() {
        let queue = scaler(3, 6);
        let old = spec(Some(4), None, None);
        let outcome = check(&write(Some(old), spec(Some(4), None, Some(5)), Some(&queue)));
        assert!(outcome.allowed());
        assert!(outcome.warnings[0].to_string().contains("leave 3 to 5"), "{outcome:?}");
    }

    #[test]
    fn a_stated_count_is_judged_like_a_scale_by_a_person() {
        let queue = scaler(3, 6);
        let old = spec(Some(4), None, None);
        let outcome = check(&write(Some(old), spec(Some(8), None, None), Some(&queue)));
        assert!(outcome.message().contains("maxReplicaCount of ScaledObject \"queue\""), "{outcome:?}");
    }

    #[test]
    fn an_older_violation_warns() {
        let old = spec(Some(9), None, Some(5));
        let outcome = check(&write(Some(old), old, None));
        assert!(outcome.allowed());
        assert!(outcome.warnings[0].to_string().contains("9 is above the maximum 5"), "{outcome:?}");
    }

    mod properties {
        use super::*;

        proptest::proptest! {
            #[test]
            fn defaulting_twice_is_defaulting_once_and_what_it_fills_in_passes(
                live in 1..30i32, min in proptest::option::of(1..20i32), width in proptest::option::of(0..20i32),
                create in proptest::bool::ANY,
            ) {
                let max = width.map(|width| min.unwrap_or(1) + width);
                let old = (!create).then(|| spec(Some(live), None, None));
                let first = default(&write(old, spec(None, min, max), None)).replicas;
                let stored = spec(first, min, max);
                proptest::prop_assert_eq!(default(&write(old, stored, None)).replicas, None);
                proptest::prop_assert!(check(&write(old, stored, None)).allowed());
            }
        }
    }
}
