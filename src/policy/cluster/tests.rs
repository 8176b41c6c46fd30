//! Rows of the policy for whole clusters.

use rstest::rstest;

use super::*;
use crate::policy::Basis;

const fn spec(replicas: Option<i32>, min: Option<i32>, max: Option<i32>) -> Spec {
    Spec { replicas, bounds: Bounds { min, max } }
}

const fn write(old: Option<Spec>, new: Spec, scaler: Option<&Scaler>) -> Write<'_> {
    Write { name: Name::Given("a"), new, old, keep_live: false, scaler, neighbours: &[] }
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
#[case::longest("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "")]
#[case::too_long("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "53 characters; use at most 52")]
#[case::starts_with_a_digit("1a", "DNS-1035")]
#[case::dots("a.b", "DNS-1035")]
#[case::ends_with_a_dash("a-", "DNS-1035")]
#[case::generated(Name::Generated("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), "")]
#[case::generated_with_a_dash(Name::Generated("a-"), "")]
#[case::generated_too_long(
    Name::Generated("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    "metadata.generateName: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" begins a name of 53 characters; use at most 47"
)]
#[case::generated_with_dots(Name::Generated("a."), "metadata.generateName: \"a.\" begins no DNS-1035")]
fn names(#[case] name: impl Into<Name<'static>>, #[case] says: &str) {
    let outcome = check(&Write { name: name.into(), ..write(None, spec(Some(1), None, None), None) });
    assert_eq!(outcome.allowed(), says.is_empty(), "{outcome:?}");
    assert!(outcome.message().contains(says), "{outcome:?}");
}

#[test]
fn a_name_is_judged_once() {
    let same = spec(Some(1), None, None);
    assert!(check(&Write { name: "a.b".into(), ..write(Some(same), same, None) }).allowed());
}

#[test]
fn a_bound_that_was_none_before_warns() {
    let old = spec(Some(3), None, Some(200_000));
    let outcome = check(&write(Some(old), spec(Some(3), Some(2), Some(200_000)), None));
    assert!(outcome.allowed(), "{outcome:?}");
    assert!(outcome.warnings[0].message.contains("200000 is no maximum; use 1 to 100000"), "{outcome:?}");
    assert!(!check(&write(Some(old), spec(Some(3), None, Some(200_001)), None)).allowed());
}

#[rstest]
#[case::of_a_shorter_one("a-pods", "a", "\"a-pods\" is the headless Service of VLLMCluster \"a\"")]
#[case::of_a_longer_one(
    "a",
    "a-pods",
    "the headless Service of VLLMCluster \"a\" would be \"a-pods\", which is the Service of VLLMCluster \"a-pods\""
)]
fn a_service_of_another(#[case] name: &'static str, #[case] neighbour: &str, #[case] says: &str) {
    assert!(rivals_for_services(name).any(|rival| rival == neighbour));
    let neighbours = [neighbour.to_owned()];
    let same = spec(Some(1), None, None);
    let new = Write { name: name.into(), neighbours: &neighbours, ..write(None, same, None) };
    assert!(check(&new).message().contains(says), "{:?}", check(&new));
    assert!(check(&Write { old: Some(same), ..new }).allowed());
}

#[rstest]
#[case::crossed(spec(Some(3), Some(5), Some(2)), &["spec.minReplicas: 5 is above spec.maxReplicas 2"])]
#[case::zero(spec(Some(3), Some(0), None), &["spec.minReplicas: 0 is no minimum"])]
#[case::both(spec(Some(3), Some(0), Some(-1)), &["spec.minReplicas: 0", "spec.maxReplicas: -1"])]
#[case::count_above(spec(Some(9), None, Some(5)), &["spec.replicas: 9 is above the maximum 5"])]
fn bounds_of_a_new_cluster(#[case] new: Spec, #[case] says: &[&str]) {
    let message = check(&write(None, new, None)).message();
    assert!(says.iter().all(|part| message.contains(part)), "{message}");
}

#[rstest]
#[case::below(
    spec(Some(2), None, Some(2)),
    "spec.maxReplicas: bounds 1 to 2 and ScaledObject \"queue\" (3 to 6) have no count in common; overlap 3 to 6, or to move both, first apply bounds that cover both (1 to 6), then the ScaledObject, then these"
)]
#[case::above(
    spec(Some(9), Some(9), None),
    "spec.minReplicas: bounds 9 to 100000 and ScaledObject \"queue\" (3 to 6) have no count in common; overlap 3 to 6, or to move both, first apply bounds that cover both (3 to 100000)"
)]
fn bounds_without_a_common_count(#[case] new: Spec, #[case] says: &str) {
    let queue = scaler(3, 6);
    let outcome = check(&write(Some(spec(new.replicas, None, None)), new, Some(&queue)));
    assert!(outcome.message().contains(says), "{outcome:?}");
    assert!(outcome.rests_on().eq([Basis::Scaler]));
    // Nothing in common before: nearer now, or further away, it is an older fault.
    let apart = spec(new.replicas, new.bounds.min.map(|min| min + 1), new.bounds.max.map(|max| max - 1));
    for (old, new) in [(apart, new), (new, apart)] {
        let outcome = check(&write(Some(old), Spec { replicas: None, ..new }, Some(&queue)));
        assert!(outcome.allowed(), "{outcome:?}");
        assert!(outcome.warnings[0].message.contains("no count in common"), "{outcome:?}");
    }
    // The same bounds again are no change of this write.
    assert_eq!(check(&write(Some(new), new, Some(&queue))), Outcome::default());
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
#[case::nothing_in_common(spec(Some(1), None, Some(2)), &[scaler(3, 6)], &[], &["no count suits both: ScaledObject \"queue\" wants 3 to 6"])]
#[case::crossed_bounds(spec(None, Some(5), Some(4)), &[scaler(3, 6)], &[], &[])]
#[case::partial(spec(Some(4), None, Some(5)), &[scaler(3, 6)], &[], &["the count stays within 3 to 5, whatever ScaledObject \"queue\" (3 to 6) asks for; raise spec.maxReplicas to 6, or lower maxReplicaCount to 5"])]
#[case::two_scalers(spec(Some(4), None, None), &[scaler(3, 6), Scaler { name: "other".into(), ..scaler(3, 6) }], &[], &["ScaledObjects \"queue\" and \"other\" both point at VLLMCluster \"a\": KEDA lets neither work, or they undo each other's counts; delete all but one"])]
#[case::beside_an_hpa(spec(Some(4), None, None), &[scaler(3, 6)], &[("h", 3, 6)], &["ScaledObject \"queue\" and HorizontalPodAutoscaler \"h\" both point at VLLMCluster \"a\": they undo each other's counts; delete all but one"])]
#[case::three(spec(Some(4), None, None), &[scaler(3, 6), Scaler { name: "other".into(), ..scaler(3, 6) }], &[("h", 3, 6)], &["ScaledObjects \"queue\" and \"other\" and HorizontalPodAutoscaler \"h\" all point at"])]
#[case::taken_over(spec(Some(4), None, None), &[Scaler { takes_over: Some("h".into()), ..scaler(3, 6) }], &[("h", 3, 6)], &[])]
#[case::a_wider_hpa(spec(Some(4), None, Some(5)), &[], &[("h", 1, 8)], &["the count stays within 1 to 5, whatever HorizontalPodAutoscaler \"h\" (1 to 8) asks for; raise spec.maxReplicas to 8, or lower maxReplicas to 5"])]
#[case::an_hpa_elsewhere(spec(Some(4), None, Some(5)), &[], &[("h", 6, 8)], &["no count suits both: HorizontalPodAutoscaler \"h\" wants 6 to 8, VLLMCluster \"a\" allows 1 to 5; raise spec.maxReplicas to 6 or more, or lower minReplicas to 5 or less"])]
#[case::a_wider_hpa_taken_over(spec(Some(4), None, Some(6)), &[Scaler { takes_over: Some("h".into()), ..scaler(3, 6) }], &[("h", 1, 8)], &[])]
#[case::an_hpa_alone(spec(Some(4), None, None), &[], &[("h", 3, 6)], &[])]
fn conflicts_of(
    #[case] spec: Spec,
    #[case] scalers: &[Scaler],
    #[case] hpas: &[(&str, i32, i32)],
    #[case] says: &[&str],
) {
    let hpas: Vec<_> =
        hpas.iter().map(|&(name, min, max)| ForeignHpa { name: name.into(), min, max }).collect();
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
    assert!(outcome.warnings[0].to_string().contains("stays within 3 to 5"), "{outcome:?}");
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

/// Helm applies a ScaledObject before its cluster, and a restore too: an initial count is no fight with the holder, which
/// moves it by itself.
#[rstest]
#[case::of_the_holder(3, None, None, &[])]
#[case::within_the_holder(5, Some(4), None, &[])]
#[case::below_the_holder(2, None, None, &[Rule::CountStillOutsideHolder])]
#[case::above_the_holder(9, None, None, &[Rule::CountStillOutsideHolder])]
#[case::by_an_update(3, None, Some(spec(Some(4), None, None)), &[Rule::HolderDecidesAgain])]
fn a_first_count_is_not_refused(
    #[case] count: i32,
    #[case] min: Option<i32>,
    #[case] old: Option<Spec>,
    #[case] warns: &[Rule],
) {
    let queue = scaler(3, 6);
    let outcome = check(&write(old, spec(Some(count), min, None), Some(&queue)));
    let told = outcome.warnings.iter().map(|warning| warning.rule);
    let told: Vec<_> = told.filter(|rule| *rule != Rule::BoundsCutScaler).collect();
    assert!(outcome.allowed() && told == warns, "{outcome:?}");
}

#[rstest]
#[case::created(None)]
#[case::by_new_bounds(Some(spec(Some(4), None, None)))]
fn bounds_without_a_common_count_are_said_once(#[case] old: Option<Spec>) {
    let outcome = check(&write(old, spec(Some(2), None, Some(2)), Some(&scaler(3, 6))));
    assert_eq!((outcome.refusals.len(), outcome.warnings.len()), (1, 0), "{outcome:?}");
}
