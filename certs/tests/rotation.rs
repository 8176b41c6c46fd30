//! The next step from every state, and when a leaf is renewed. CAs are stand-ins: nothing is signed here.

use std::time::Duration;

use certs::rotation::{IntroduceReason, Moment, Policy, State, Step, next_step};
use certs::{
    AuthorityError, Bundle, CLOCK_SKEW, CaCertificate, Issued, Known, MendReason, NextReason, ReplaceReason,
};
use jiff::Timestamp;
use rstest::rstest;

const HOUR: Duration = Duration::from_hours(1);
const NOTHING: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);
const MONTH: Duration = Duration::from_hours(30 * 24);
const POLICY: Policy = Policy {
    lead: Duration::from_hours(40),
    leaf_lifetime: Duration::from_hours(10),
    propagation: Duration::from_mins(1),
    clock_tolerance: Duration::from_mins(2),
};

fn start() -> Timestamp {
    "2030-01-01T12:00:00Z".parse().expect("a literal")
}

/// Made `hours` after the start, for 100 hours.
fn ca(hours: u32) -> CaCertificate {
    let made = start() + hours * HOUR;
    CaCertificate {
        not_before: made - CLOCK_SKEW,
        not_after: made + 100 * HOUR,
        der: vec![hours.to_le_bytes()[0]],
    }
}

fn moment(at: Timestamp) -> Moment {
    Moment { before: at, after: at + SECOND, own: at }
}

fn bundle(members: &[u32]) -> Bundle {
    members.iter().fold(Bundle::default(), |bundle, hours| bundle.with(ca(*hours)))
}

/// One CA signs, and one may be next.
fn state(signer: u32, next: Option<u32>, trusted: &[u32], since: Option<Timestamp>) -> State {
    State {
        signer: Ok(ca(signer)),
        next: next.map(|hours| Ok(ca(hours))),
        bundle: Ok(bundle(trusted)),
        since,
    }
}

fn ends_soon(hours: u32) -> Step {
    Step::Introduce(IntroduceReason::EndsSoon { not_after: ca(hours).not_after })
}

fn wait(until: Timestamp) -> Step {
    Step::Wait(Some(until))
}

#[rstest]
#[case::steady(state(0, None, &[0], None), true, start(), wait(start() + 60 * HOUR))]
#[case::not_injected_yet(state(0, None, &[0], None), false, start(), wait(start() + 60 * HOUR))]
#[case::within_the_lead(state(0, None, &[0], None), true, start() + 60 * HOUR, ends_soon(0))]
#[case::published_and_not_in_place(state(0, Some(60), &[0, 60], None), false, start() + 61 * HOUR, Step::Wait(None))]
#[case::in_place(state(0, Some(60), &[0, 60], None), true, start() + 61 * HOUR, Step::Witness)]
#[case::witnessed(
    state(0, Some(60), &[0, 60], Some(start() + 61 * HOUR)), true, start() + 61 * HOUR + 180 * SECOND,
    wait(start() + 61 * HOUR + 181 * SECOND)
)]
#[case::known_everywhere(
    state(0, Some(60), &[0, 60], Some(start() + 61 * HOUR)), true, start() + 61 * HOUR + 181 * SECOND, Step::Promote
)]
#[case::known_and_wiped(
    state(0, Some(60), &[0, 60], Some(start() + 61 * HOUR)), false, start() + 62 * HOUR, Step::Wait(None)
)]
#[case::promoted(state(60, None, &[0, 60], None), true, start() + 62 * HOUR, Step::Witness)]
#[case::promoted_and_wiped(state(60, None, &[0, 60], None), false, start() + 62 * HOUR, Step::Wait(None))]
#[case::old_leaves_live(
    state(60, None, &[0, 60], Some(start() + 62 * HOUR)), true, start() + 72 * HOUR + 120 * SECOND,
    wait(start() + 72 * HOUR + 121 * SECOND)
)]
#[case::old_leaves_ended(
    state(60, None, &[0, 60], Some(start() + 62 * HOUR)), true, start() + 72 * HOUR + 121 * SECOND, Step::Retire
)]
#[case::others_first_unless_it_ends(state(60, None, &[0, 60], None), true, start() + 130 * HOUR, Step::Witness)]
#[case::others_later_where_it_ends(state(60, None, &[0, 60], None), true, start() + 140 * HOUR, ends_soon(60))]
#[case::lacks_the_signer(state(60, None, &[0], None), true, start() + 62 * HOUR, Step::Mend(MendReason::LacksAuthority))]
#[case::lacks_the_next(state(0, Some(60), &[0], None), true, start() + 62 * HOUR, Step::Mend(MendReason::LacksNext))]
#[case::expired(
    state(0, None, &[0], None), true, start() + 101 * HOUR,
    Step::Replace(ReplaceReason::Expired { not_after: start() + 100 * HOUR })
)]
#[case::all_expired_in_the_middle_of_a_rotation(
    state(0, Some(1), &[0, 1], Some(start())), true, start() + 1000 * HOUR,
    Step::Replace(ReplaceReason::Expired { not_after: start() + 100 * HOUR })
)]
#[case::of_the_future(
    state(60, None, &[60], None), true, start(),
    Step::Replace(ReplaceReason::NotYetValid { not_before: start() + 60 * HOUR - CLOCK_SKEW })
)]
#[case::next_of_the_future(
    state(0, Some(90), &[0, 90], Some(start())), true, start() + 62 * HOUR,
    Step::Introduce(IntroduceReason::NextUnusable(NextReason::Validity {
        not_before: ca(90).not_before, not_after: ca(90).not_after,
    }))
)]
#[case::next_ends_soon(
    state(20, Some(1), &[1, 20], Some(start())), true, start() + 62 * HOUR,
    Step::Introduce(IntroduceReason::NextUnusable(NextReason::Validity {
        not_before: ca(1).not_before, not_after: ca(1).not_after,
    }))
)]
fn the_next_step(
    #[case] state: State,
    #[case] in_place: bool,
    #[case] at: Timestamp,
    #[case] expected: Step,
) {
    assert_eq!(next_step(&state, in_place, &moment(at), &POLICY), expected);
    // Whoever's clock is within the tolerance sees the same.
    for own in [at - CLOCK_SKEW, at + CLOCK_SKEW] {
        assert_eq!(next_step(&state, in_place, &Moment { own, ..moment(at) }, &POLICY), expected);
    }
}

#[test]
fn while_the_clocks_differ_by_a_month_nothing_begins_ends_or_is_replaced() {
    let at = start() + 62 * HOUR;
    for (what, state) in [
        ("within the lead", state(0, None, &[0], None)),
        ("known everywhere", state(0, Some(60), &[0, 60], Some(start()))),
        ("old leaves ended", state(60, None, &[0, 60], Some(start()))),
    ] {
        for own in [at + MONTH, at - MONTH] {
            let step = next_step(&state, true, &Moment { own, ..moment(at) }, &POLICY);
            assert_eq!(step, Step::Wait(None), "{what}");
        }
    }
    // One clock says that it has expired, and it may be the wrong one.
    let valid = state(0, None, &[0], None);
    let ahead = Moment { own: at, ..moment(at + MONTH) };
    assert_eq!(
        next_step(&valid, true, &ahead, &POLICY),
        ends_soon(0),
        "made anew with overlap, and never without"
    );
    // Half of the lead is gone, and the CA with it if nobody acts.
    let behind = Moment { own: start() - MONTH, ..moment(start() + 80 * HOUR) };
    assert_eq!(next_step(&valid, true, &behind, &POLICY), ends_soon(0));
}

#[test]
fn what_is_made_anew_keeps_what_leaves_may_still_be_of() {
    let damaged = State {
        signer: Err(ReplaceReason::Unusable(AuthorityError::KeyDoesNotFit)),
        next: Some(Err(NextReason::Half)),
        bundle: Err(MendReason::Missing),
        since: Some(start()),
    };
    let at = moment(start() + 101 * HOUR);
    let replace = next_step(&damaged, false, &at, &POLICY);
    let after = damaged.after(&replace, Some(&ca(101)), &bundle(&[0, 60]), &at);
    assert_eq!(after, state(101, None, &[60, 101], None), "the expired one goes");
    // A forged or foreign bundle cannot make ours too long to be read.
    let many: Vec<u32> = (10..60).collect();
    let after = damaged.after(&replace, Some(&ca(101)), &bundle(&many), &moment(start() + 20 * HOUR));
    assert_eq!(after.bundle.map(|bundle| bundle.len()), Ok(9));
}

#[test]
fn each_step_undoes_the_time_that_was_written_for_the_one_before() {
    let at = moment(start() + 62 * HOUR);
    let none = Bundle::default();
    let introduced = state(0, None, &[0], Some(start())).after(&ends_soon(0), Some(&ca(60)), &none, &at);
    assert_eq!(introduced, state(0, Some(60), &[0, 60], None));
    let witnessed = introduced.after(&Step::Witness, None, &none, &at);
    assert_eq!(witnessed, state(0, Some(60), &[0, 60], Some(at.after)), "the later of the two times");
    let promoted = witnessed.after(&Step::Promote, None, &none, &at);
    assert_eq!(promoted, state(60, None, &[0, 60], None));
    let retired = promoted.after(&Step::Witness, None, &none, &at).after(&Step::Retire, None, &none, &at);
    assert_eq!(retired, state(60, None, &[60], None));
    assert_eq!(retired.after(&Step::Promote, None, &none, &at), retired, "there is none to promote");
}

#[test]
fn a_leaf_is_renewed_in_the_last_third_and_one_of_another_ca_once_the_new_one_is_known() {
    let leaf = Issued { ca: ca(0), at: start(), not_after: start() + 30 * HOUR };
    for (what, signer, known_in, hours, jitter, expected) in [
        ("new", 0, None, 0, 0.0, 20 * HOUR),
        ("at two thirds", 0, None, 20, 0.0, NOTHING),
        ("with jitter", 0, None, 0, 1.0, 17 * HOUR),
        ("expired", 0, None, 40, 0.0, NOTHING),
        ("another CA, not carried", 60, None, 10, 0.0, 20 * HOUR),
        ("another CA, carried", 60, Some(HOUR), 10, 0.0, HOUR),
        ("another CA, known", 60, Some(NOTHING), 0, 0.0, NOTHING),
        ("another CA, and the leaf ends first", 60, Some(HOUR), 30, 0.0, NOTHING),
    ] {
        let due_in = leaf.due_in(&ca(signer), known_in, start() + hours * HOUR, jitter);
        assert!(due_in.abs_diff(expected) <= SECOND, "{what}: {due_in:?}");
    }
    assert_eq!(leaf.due_in(&ca(0), None, start() - HOUR, 0.0), NOTHING, "of a clock that was ahead");
}

#[test]
fn a_ca_is_known_a_delay_after_it_was_seen_everywhere_unless_it_was_there_long_before() {
    let delay = 60 * SECOND;
    let mut known = Known::default();
    known.note(&bundle(&[]), NOTHING, true);
    known.note(&bundle(&[0]), SECOND, true);
    assert_eq!(known.known_in(&ca(0), SECOND, delay), Some(NOTHING), "nothing was trusted before it");
    known.note(&bundle(&[0, 60]), 10 * SECOND, true);
    assert_eq!(known.known_in(&ca(60), 30 * SECOND, delay), Some(40 * SECOND));
    assert_eq!(known.known_in(&ca(60), 70 * SECOND, delay), Some(NOTHING));
    known.note(&bundle(&[60]), 80 * SECOND, true);
    known.note(&bundle(&[0, 60]), 90 * SECOND, true);
    assert_eq!(known.known_in(&ca(0), 90 * SECOND, delay), Some(delay), "it was away");
    assert_eq!(known.known_in(&ca(90), 90 * SECOND, delay), None);
    let mut late = Known::default();
    late.note(&bundle(&[0, 60]), SECOND, false);
    assert_eq!(late.known_in(&ca(60), SECOND, delay), Some(delay), "it may just have replaced a lost one");
}
