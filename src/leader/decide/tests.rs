use rstest::rstest;
use serde_json::json;

use super::*;

const S: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings::new(15 * S, 10 * S, 2 * S).expect("client-go's")
}

/// A Lease in its `version`-th form.
fn held_by(who: &str, version: u32) -> DynamicObject {
    serde_json::from_value(json!({
        "metadata": {"name": "l", "uid": "u", "resourceVersion": version.to_string()},
        "spec": {"holderIdentity": who, "leaseDurationSeconds": 15, "renewTime": format!("of form {version}")},
    }))
    .expect("an object")
}

fn election(now: Instant) -> Election {
    Election::new("me".into(), settings(), now)
}

fn leading(now: Instant) -> Election {
    let mut election = election(now);
    election.read(None, now, 0.0);
    election.written(held_by("me", 1), now, now);
    election
}

#[tokio::test(start_paused = true)]
async fn a_candidate_reads_first() {
    let now = Instant::now();
    assert_eq!(election(now).next(now), Step::Read);
}

#[rstest]
#[case::none(None, Step::Create)]
#[case::released(Some(held_by("", 1)), Step::TakeOver)]
#[case::ours(Some(held_by("me", 1)), Step::Renew)]
#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_else_holds_is_written_at_once(
    #[case] found: Option<DynamicObject>,
    #[case] step: Step,
) {
    let now = Instant::now();
    let mut election = election(now);
    election.read(found, now, 0.5);
    assert_eq!(election.next(now), step);
}

#[tokio::test(start_paused = true)]
async fn anothers_lease_is_taken_its_duration_after_it_was_seen_to_change() {
    let start = Instant::now();
    let at = |seconds: u32| start + seconds * S;
    let mut election = election(start);
    // What time it states is of no matter: it is the change that was seen.
    election.read(Some(held_by("other", 1)), at(0), 1.0);
    assert_eq!(
        election.next(at(0)),
        Step::Wait(start + 2 * S + S * 2 / 5),
        "a retry period with all of its jitter"
    );
    assert_eq!(election.next(at(3)), Step::Read);
    election.read(Some(held_by("other", 2)), at(3), 0.0);
    // A label that somebody sets is no sign of the holder's life.
    let mut labelled = held_by("other", 2);
    labelled.metadata.resource_version = Some("3".into());
    for seconds in [6, 9, 12, 15] {
        election.read(Some(labelled.clone()), at(seconds), 0.0);
        assert_eq!(election.next(at(seconds)), Step::Wait(at(seconds + 2)));
    }
    election.read(Some(labelled.clone()), at(17), 0.0);
    assert_eq!(election.next(at(17)), Step::Wait(at(18)), "no longer than it is held");
    assert_eq!(election.next(at(18)), Step::Read);
    election.read(Some(labelled.clone()), at(18), 0.0);
    assert_eq!(election.next(at(18)), Step::TakeOver);
    let taken = election.lease("l", Timestamp::UNIX_EPOCH);
    assert_eq!(taken.metadata.resource_version.as_deref(), Some("3"));
    assert_eq!(
        (holder(&taken).as_deref(), taken.data["spec"]["leaseTransitions"].as_i64()),
        (Some("me"), Some(1))
    );
    // It was quicker after all.
    election.failed(Failure::Conflict, at(18), 0.0);
    assert_eq!(election.next(at(18)), Step::Read);
    election.read(Some(held_by("other", 4)), at(18), 0.0);
    assert_eq!(election.next(at(18)), Step::Wait(at(20)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_renews_and_stops_before_anybody_can_follow() {
    let start = Instant::now();
    let at = |seconds: u32| start + seconds * S;
    let mut election = leading(start);
    assert_eq!(election.next(at(0)), Step::Wait(at(2)));
    assert_eq!(election.next(at(2)), Step::Renew);
    assert_eq!(election.call_deadline(at(2)), at(7), "there is time for a second try");
    // The answer took a while: what counts is when it was asked for.
    election.written(held_by("me", 2), at(2), at(6));
    assert_eq!(election.leading_until(), Some(at(12)));
    assert_eq!(election.next(at(6)), Step::Renew);
    election.failed(Failure::Unclear, at(9), 1.0);
    assert_eq!(election.next(at(9)), Step::Wait(at(11)), "without jitter");
    assert_eq!(election.next(at(11)), Step::Read, "what was written is not known");
    assert_eq!(election.call_deadline(at(11)), at(12), "no longer than it leads");
    election.failed(Failure::Unclear, at(11), 1.0);
    assert_eq!(election.next(at(11)), Step::Wait(at(12)));
    assert_eq!(election.next(at(12)), Step::Resign(Loss::Expired));
    election.resigned();
    // It may lead again where nobody has followed.
    assert_eq!(election.next(at(13)), Step::Read);
    election.read(Some(held_by("me", 3)), at(13), 0.0);
    assert_eq!(election.next(at(13)), Step::Renew);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_its_time_makes_no_leader() {
    let start = Instant::now();
    let mut election = election(start);
    election.read(None, start, 0.0);
    election.written(held_by("me", 1), start, start + 11 * S);
    assert_eq!(election.next(start + 11 * S), Step::Resign(Loss::Expired));
}

#[rstest]
#[case::taken(Some(held_by("other", 2)), Step::Resign(Loss::Taken))]
#[case::cleared(Some(held_by("", 2)), Step::Resign(Loss::Taken))]
#[case::deleted(None, Step::Create)]
#[case::a_renewal_whose_answer_was_lost(Some(held_by("me", 2)), Step::Renew)]
#[tokio::test(start_paused = true)]
async fn after_a_conflict_a_leader_reads_at_once(#[case] found: Option<DynamicObject>, #[case] step: Step) {
    let start = Instant::now();
    let mut election = leading(start);
    let now = start + 2 * S;
    election.failed(Failure::Conflict, now, 0.0);
    assert_eq!(election.next(now), Step::Read);
    election.read(found, now, 0.0);
    assert_eq!(election.next(now), step);
}

#[tokio::test(start_paused = true)]
async fn a_second_conflict_in_a_row_waits() {
    let start = Instant::now();
    let mut election = leading(start);
    let now = start + 2 * S;
    election.failed(Failure::Conflict, now, 0.0);
    election.read(Some(held_by("me", 2)), now, 0.0);
    election.failed(Failure::Conflict, now, 0.0);
    assert_eq!(election.next(now), Step::Wait(now + 2 * S));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_vanished_is_left_to_its_holder_for_its_duration() {
    let start = Instant::now();
    let at = |seconds: u32| start + seconds * S;
    let mut election = election(start);
    election.read(Some(held_by("other", 1)), at(0), 0.0);
    election.read(None, at(10), 0.0);
    assert_eq!(election.next(at(10)), Step::Wait(at(12)));
    election.read(None, at(24), 0.0);
    assert_eq!(election.next(at(24)), Step::Wait(at(25)));
    election.read(None, at(25), 0.0);
    assert_eq!(election.next(at(25)), Step::Create);
    // Made anew by another, it is another Lease, whatever it says.
    let mut anew = held_by("other", 1);
    anew.metadata.uid = Some("v".into());
    election.read(Some(anew), at(25), 0.0);
    assert_eq!(election.next(at(25)), Step::Wait(at(27)));
}

#[tokio::test(start_paused = true)]
async fn word_of_a_vacancy_cuts_a_wait_short() {
    let now = Instant::now();
    let mut election = election(now);
    election.read(Some(held_by("other", 1)), now, 0.0);
    election.vacated(now);
    assert_eq!(election.next(now), Step::Read);
    election.read(Some(held_by("", 2)), now, 0.0);
    assert_eq!(election.next(now), Step::TakeOver);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_is_not_given_up() {
    let now = Instant::now();
    let mut election = leading(now);
    let released = election.release(Timestamp::UNIX_EPOCH).expect("it is ours");
    assert_eq!((holder(&released), released.metadata.resource_version.as_deref()), (None, Some("1")));
    election.failed(Failure::Unclear, now, 0.0);
    assert_eq!(election.release(Timestamp::UNIX_EPOCH), None);
    election.read(Some(held_by("other", 2)), now, 0.0);
    assert_eq!(election.release(Timestamp::UNIX_EPOCH), None);
}
