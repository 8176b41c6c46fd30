//! Writes of a HorizontalPodAutoscaler that points at a `VLLMCluster` and that no ScaledObject controls.
//!
//! The API server judges an HPA before any webhook that validates: what it refuses of the range by itself is said here
//! for those who judge without it.
//!
//! Architecture invariant: judges only; an HPA is never changed.

use crate::api::names::{KIND, OWNER_LABEL, TRANSFER_HPA};

use super::bounds::OF_HPA;
use super::{Bounds, Clause, Finding, Outcome, Rule, Scaler};

/// What KEDA puts before a ScaledObject's name to name its HPA.
const KEDAS: &str = "keda-hpa-";

/// An HPA, as far as the policy reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hpa {
    /// Its name.
    pub name: String,
    /// The `VLLMCluster` that it points at.
    pub cluster: String,
    /// `spec.minReplicas`; absent, 1.
    pub min: i32,
    /// `spec.maxReplicas`.
    pub max: i32,
    /// The ScaledObject that KEDA made it for, by its label or its name.
    pub made_for: Option<String>,
    /// Whether its annotation `validations.keda.sh/hpa-ownership` lets it stand beside a ScaledObject.
    pub beside: bool,
}

/// The name that KEDA gives the HPA of a ScaledObject that states none.
pub fn kedas_name(scaled_object: &str) -> String {
    format!("{KEDAS}{scaled_object}")
}

impl Hpa {
    /// The ScaledObject that KEDA made an HPA for. KEDA copies the labels of a ScaledObject, one of which holds its
    /// name; the marks that it adds by itself give way to those copied.
    pub fn made_for<'a>(name: &'a str, label: Option<&'a str>) -> Option<&'a str> {
        label.or_else(|| name.strip_prefix(KEDAS)).filter(|scaled_object| !scaled_object.is_empty())
    }
}

/// One write of an HPA.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The HPA that the write states.
    pub new: &'a Hpa,
    /// The HPA before the write, where it pointed at a cluster and no ScaledObject controlled it; `None` on
    /// creation.
    pub old: Option<&'a Hpa>,
    /// The cluster's bounds; `None` where there is no such cluster.
    pub bounds: Option<Bounds>,
    /// The attached ScaledObjects.
    pub scalers: &'a [Scaler],
}

/// Judges a write. One that changes nothing of what is read is let through in silence.
pub fn check(write: &Write<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if write.old == Some(write.new) && Clause::UntouchedHpa.in_force() {
        return outcome;
    }
    judge_origin(write, &mut outcome);
    judge_rivals(write, &mut outcome);
    judge_maximum(write, &mut outcome);
    judge_range(write, &mut outcome);
    outcome
}

impl<'a> Write<'a> {
    /// The HPA before the write, where its violations excuse the new one's: it pointed at this cluster already.
    fn predecessor(&self) -> Option<&'a Hpa> {
        self.old.filter(|old| old.cluster == self.new.cluster || !Clause::TurnedHpa.in_force())
    }
}

/// An HPA that is KEDA's own by its marks, but not by its owner.
fn judge_origin(write: &Write<'_>, outcome: &mut Outcome) {
    let Hpa { name, made_for, beside, .. } = write.new;
    let created = write.old.is_none() || !Clause::OlderHpaWithoutOwner.in_force();
    if let Some(scaled_object) = made_for.as_ref().filter(|_| created) {
        let finding = Finding::new(
            Rule::HpaWithoutOwnerCreated,
            "metadata.ownerReferences",
            format!(
                "KEDA makes {name:?} itself from ScaledObject {scaled_object:?}: leave it out of the restore (an HPA of your own: another name, without the label {OWNER_LABEL})"
            ),
        );
        outcome.refuse_unless(*beside && Clause::HpaOwnership.in_force(), finding);
    }
}

/// Whoever else decides on the same count.
fn judge_rivals(write: &Write<'_>, outcome: &mut Outcome) {
    let Hpa { name: hpa, cluster, beside, made_for, .. } = write.new;
    let older = write.predecessor().is_some_and(|old| !old.beside) && Clause::OlderHpaRival.in_force();
    let beside = *beside && Clause::HpaOwnership.in_force();
    let taken_over =
        |scaler: &&Scaler| scaler.takes_over.as_ref() == Some(hpa) && Clause::HpaTakenOver.in_force();
    // Said by its origin.
    let made_for = |scaler: &&Scaler| write.old.is_none() && made_for.as_ref() == Some(&scaler.name);
    let rivals = write.scalers.iter().filter(|scaler| !taken_over(scaler) && !made_for(scaler));
    for Scaler { name, .. } in rivals {
        let finding = Finding::new(
            Rule::HpaBesideScaler,
            "spec.scaleTargetRef",
            format!(
                "ScaledObject {name:?} scales {KIND} {cluster:?} already, and two autoscalers undo each other's counts; put the metrics into its triggers, delete it first: kubectl delete scaledobject {name}, or let it take this HPA over: annotate the ScaledObject {TRANSFER_HPA}: \"true\" and set its spec.advanced.horizontalPodAutoscalerConfig.name to {hpa:?}"
            ),
        );
        outcome.refuse_unless(older || beside, finding);
    }
}

/// What is no range, whatever the cluster.
fn judge_maximum(write: &Write<'_>, outcome: &mut Outcome) {
    let Hpa { min, max, .. } = write.new;
    let lowest = (*min).max(1);
    let (rule, message) = match *max {
        0 => (Rule::HpaMaximumBelowOne, format!("is absent or 0; state the largest count, {lowest} or more")),
        max if max < 1 => {
            (Rule::HpaMaximumBelowOne, format!("{max} is below the minimum 1; use {lowest} or more"))
        }
        max if max < *min => (
            Rule::HpaMaximumBelowMinimum,
            format!("{max} is below minReplicas {min}; use {min} or more, or lower minReplicas"),
        ),
        _ => return,
    };
    outcome.refuse(Finding::new(rule, "spec.maxReplicas", message));
}

/// The HPA's range against the cluster's bounds: nothing in common refuses, a wider range warns.
fn judge_range(write: &Write<'_>, outcome: &mut Outcome) {
    let Hpa { cluster, min, max, .. } = write.new;
    let (min, max) = (*min, *max);
    let Some(bounds) = write.bounds.filter(|bounds| bounds.consistent() && min <= max) else { return };
    let (lower, upper) = (bounds.lower(), bounds.upper());
    // Whichever bound is out of reach alone is at fault: one that was so before is no doing of this write.
    let (field, older) = if max < lower {
        ("spec.maxReplicas", write.predecessor().is_some_and(|old| old.max == max))
    } else if min > upper {
        ("spec.minReplicas", write.predecessor().is_some_and(|old| old.min == min))
    } else {
        if min < lower || max > upper {
            outcome.warn(Finding::bare(
                Rule::HpaWider,
                if max > upper { "spec.maxReplicas" } else { "spec.minReplicas" },
                format!(
                    "the count stays within {} to {}, whatever this HPA ({min} to {max}) asks for: {KIND} {cluster:?} allows {lower} to {upper}; {}{}",
                    min.max(lower),
                    max.min(upper),
                    bounds.to_narrow((min, max), OF_HPA),
                    bounds.to_widen((min, max), " there").map(|widen| format!(", or {widen}")).unwrap_or_default()
                ),
            ));
        }
        return;
    };
    let finding = Finding::new(
        Rule::HpaOutsideBounds,
        field,
        format!(
            "{min} to {max} has no count in common with the bounds {lower} to {upper} of {KIND} {cluster:?}; choose a range that overlaps {lower} to {upper}, or change spec.minReplicas and spec.maxReplicas there first"
        ),
    );
    outcome.refuse_unless(older && Clause::OlderHpaRange.in_force(), finding);
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::policy::Basis;

    const BOUNDS: Option<Bounds> = Some(Bounds { min: Some(2), max: Some(6) });

    fn hpa(min: i32, max: i32) -> Hpa {
        Hpa { name: "h".into(), cluster: "a".into(), min, max, made_for: None, beside: false }
    }

    fn of_b(hpa: Hpa) -> Hpa {
        Hpa { cluster: "b".into(), ..hpa }
    }

    fn beside(hpa: Hpa) -> Hpa {
        Hpa { beside: true, ..hpa }
    }

    fn scaler(name: &str, takes_over: Option<&str>) -> Scaler {
        let takes_over = takes_over.map(str::to_owned);
        Scaler { name: name.into(), min: None, max: None, paused: false, takes_over }
    }

    #[rstest]
    #[case::within(hpa(2, 6), "", 0)]
    #[case::at_the_lower_bound(hpa(1, 2), "", 1)]
    #[case::at_the_upper_bound(hpa(6, 9), "", 1)]
    #[case::below(hpa(1, 1), "spec.maxReplicas: 1 to 1 has no count in common with the bounds 2 to 6", 0)]
    #[case::above(hpa(7, 9), "spec.minReplicas: 7 to 9 has no count in common", 0)]
    #[case::wider_below(hpa(1, 6), "", 1)]
    #[case::wider_above(hpa(2, 7), "", 1)]
    fn range(#[case] new: Hpa, #[case] says: &str, #[case] warnings: usize) {
        let outcome = check(&Write { new: &new, old: None, bounds: BOUNDS, scalers: &[] });
        assert_eq!((outcome.allowed(), outcome.warnings.len()), (says.is_empty(), warnings), "{outcome:?}");
        assert!(outcome.message().contains(says), "{outcome:?}");
        // The same HPA again is no change; a cluster that nobody knows has no bounds; crossed ones are no bounds.
        let again = Write { new: &new, old: Some(&new), bounds: BOUNDS, scalers: &[] };
        assert_eq!(check(&again), Outcome::default());
        for bounds in [None, Some(Bounds { min: Some(6), max: Some(2) })] {
            assert_eq!(check(&Write { old: None, bounds, ..again }), Outcome::default());
        }
    }

    #[rstest]
    #[case::crossed(hpa(9, 3), "spec.maxReplicas: 3 is below minReplicas 9; use 9 or more")]
    #[case::zero(hpa(2, 0), "spec.maxReplicas: is absent or 0; state the largest count, 2 or more")]
    #[case::negative(hpa(1, -1), "spec.maxReplicas: -1 is below the minimum 1; use 1 or more")]
    fn no_range_at_all(#[case] new: Hpa, #[case] says: &str, #[values(None, BOUNDS)] bounds: Option<Bounds>) {
        let outcome = check(&Write { new: &new, old: None, bounds, scalers: &[] });
        assert_eq!((outcome.refusals.len(), outcome.warnings.len()), (1, 0), "{outcome:?}");
        assert!(outcome.message().starts_with(says), "{outcome:?}");
    }

    #[test]
    fn a_wider_range_is_told_what_is_left_of_it() {
        let new = hpa(1, 9);
        let outcome = check(&Write { new: &new, old: None, bounds: BOUNDS, scalers: &[] });
        assert!(
            outcome.warnings[0]
                .to_string()
                .ends_with("the count stays within 2 to 6, whatever this HPA (1 to 9) asks for: VLLMCluster \"a\" allows 2 to 6; raise minReplicas to 2 and lower maxReplicas to 6, or lower spec.minReplicas there to 1 and raise spec.maxReplicas there to 9"),
            "{outcome:?}"
        );
    }

    #[rstest]
    #[case::minimum_was_so(hpa(7, 9), hpa(7, 20), true)]
    #[case::minimum_is_new(hpa(8, 9), hpa(7, 9), false)]
    #[case::maximum_was_so(hpa(0, 1), hpa(1, 1), true)]
    #[case::maximum_is_new(hpa(1, 6), hpa(1, 1), false)]
    #[case::it_pointed_elsewhere(of_b(hpa(7, 9)), hpa(7, 20), false)]
    fn an_older_range_warns(#[case] old: Hpa, #[case] new: Hpa, #[case] allowed: bool) {
        let outcome = check(&Write { new: &new, old: Some(&old), bounds: BOUNDS, scalers: &[] });
        assert_eq!(
            (outcome.allowed(), outcome.warnings.len()),
            (allowed, usize::from(allowed)),
            "{outcome:?}"
        );
        assert!(
            outcome.warnings.iter().all(|warning| warning.message.contains("no count in common")),
            "{outcome:?}"
        );
    }

    #[rstest]
    #[case::beside_one(None, None, hpa(2, 6), 1, 0)]
    #[case::taken_over(Some("h"), None, hpa(2, 6), 0, 0)]
    #[case::another_is_taken_over(Some("other"), None, hpa(2, 6), 1, 0)]
    #[case::excused(None, None, beside(hpa(2, 6)), 0, 1)]
    #[case::it_was_there_before(None, Some(hpa(2, 5)), hpa(2, 6), 0, 1)]
    #[case::it_pointed_elsewhere(None, Some(of_b(hpa(2, 6))), hpa(2, 6), 1, 0)]
    #[case::excused_no_longer(None, Some(beside(hpa(2, 6))), hpa(2, 6), 1, 0)]
    #[case::excused_now(None, Some(hpa(2, 6)), beside(hpa(2, 6)), 0, 1)]
    fn next_to_a_scaled_object(
        #[case] takes_over: Option<&str>,
        #[case] old: Option<Hpa>,
        #[case] new: Hpa,
        #[case] refusals: usize,
        #[case] warnings: usize,
    ) {
        let scalers = [scaler("queue", takes_over)];
        let outcome = check(&Write { new: &new, old: old.as_ref(), bounds: BOUNDS, scalers: &scalers });
        assert_eq!((outcome.refusals.len(), outcome.warnings.len()), (refusals, warnings), "{outcome:?}");
        assert!(outcome.rests_on().eq(vec![Basis::Scaler; refusals]));
        let said: String =
            outcome.refusals.iter().chain(&outcome.warnings).map(ToString::to_string).collect();
        assert_eq!(
            said.contains("spec.scaleTargetRef: ScaledObject \"queue\""),
            refusals + warnings > 0,
            "{said}"
        );
    }

    #[rstest]
    #[case::by_name("keda-hpa-queue", None, Some("queue"))]
    #[case::by_label("h", Some("queue"), Some("queue"))]
    #[case::neither("h", None, None)]
    #[case::no_name("keda-hpa-", None, None)]
    fn whose_it_was(#[case] name: &str, #[case] label: Option<&str>, #[case] made_for: Option<&str>) {
        assert_eq!(Hpa::made_for(name, label), made_for);
    }

    #[test]
    fn one_that_has_lost_its_scaled_object_is_refused_on_creation() {
        let new = Hpa { name: "keda-hpa-queue".into(), made_for: Some("queue".into()), ..hpa(2, 6) };
        let scalers = [scaler("queue", None)];
        for scalers in [&scalers[..], &[]] {
            let write = Write { new: &new, old: None, bounds: BOUNDS, scalers };
            let outcome = check(&write);
            assert_eq!(outcome.refusals.len(), 1, "{outcome:?}");
            assert!(outcome.message().contains("leave it out of the restore"), "{outcome:?}");
            assert!(check(&Write { new: &beside(new.clone()), ..write }).allowed());
            let old = Hpa { min: 3, ..new.clone() };
            let outcome = check(&Write { old: Some(&old), ..write });
            assert!(outcome.allowed(), "{outcome:?}");
        }
    }

    #[test]
    fn each_rival_is_named_and_a_paused_one_too() {
        let new = hpa(7, 9);
        let scalers = [
            scaler("first", None),
            Scaler { paused: true, ..scaler("second", None) },
            scaler("third", Some("h")),
        ];
        let outcome = check(&Write { new: &new, old: None, bounds: BOUNDS, scalers: &scalers });
        assert_eq!(outcome.refusals.len(), 3, "{outcome:?}");
        let message = outcome.message();
        assert!(
            message.contains("\"first\"") && message.contains("kubectl delete scaledobject second"),
            "{message}"
        );
        assert!(!message.contains("third") && message.contains("no count in common"), "{message}");
    }
}
