//! Claims, with time as an argument.

use super::*;

fn scaler(name: &str) -> Scaler {
    Scaler { name: name.into(), min: None, max: None, paused: false, takes_over: None }
}

fn hpa(name: &str) -> ForeignHpa {
    ForeignHpa { name: name.into(), min: 1, max: 5 }
}

fn key(cluster: &str) -> Key {
    Key::new("n", cluster)
}

const NOBODY: Claimed = Claimed { scaler: None, hpa: None };

/// The names of the rivals.
fn names(claimed: &Claimed) -> (Option<&str>, Option<&str>) {
    (claimed.scaler().map(|scaler| &*scaler.name), claimed.hpa().map(|hpa| &*hpa.name))
}

#[test]
fn the_second_is_judged_beside_the_first_until_it_is_too_old() {
    let (mut claims, begun) = (Claims::default(), Instant::now());
    assert!(claims.claim(&key("a"), scaler("left"), begun, &NOBODY));
    for (age, settled) in [
        (Duration::ZERO, Some(false)),
        (STORING * 99 / 100, Some(false)),
        (STORING, Some(true)),
        (KEPT * 99 / 100, Some(true)),
        (KEPT, None),
    ] {
        let now = begun + age;
        let rivals = claims.rivals(&key("a"), &scaler("right"), now);
        assert_eq!(names(&rivals).0, settled.map(|_| "left"), "after {age:?}");
        assert_eq!(rivals.settled(now), settled != Some(false), "after {age:?}");
    }
    assert!(claims.of.is_empty() && claims.order.is_empty());
}

#[test]
fn whoever_was_judged_beside_others_claims_nothing() {
    let (mut claims, now) = (Claims::default(), Instant::now());
    let before = claims.rivals(&key("a"), &scaler("right"), now);
    assert!(before.is_empty());
    assert!(claims.claim(&key("a"), scaler("left"), now, &NOBODY));
    assert!(!claims.claim(&key("a"), scaler("right"), now, &before));
    let rivals = claims.rivals(&key("a"), &scaler("right"), now);
    assert!(claims.claim(&key("a"), scaler("right"), now, &rivals), "by a live read, say");
    assert_eq!(names(&claims.rivals(&key("a"), &scaler("left"), now)).0, Some("right"));
}

#[test]
fn the_same_driver_another_cluster_and_another_namespace_are_no_rivals() {
    let (mut claims, now) = (Claims::default(), Instant::now());
    assert!(claims.claim(&key("a"), scaler("left"), now, &NOBODY));
    assert!(claims.rivals(&key("a"), &scaler("left"), now).is_empty());
    assert!(claims.claim(&key("a"), scaler("left"), now, &NOBODY));
    assert!(claims.rivals(&key("b"), &scaler("right"), now).is_empty());
    assert!(claims.rivals(&Key::new("other", "a"), &scaler("right"), now).is_empty());
}

#[test]
fn an_hpa_and_a_scaled_object_are_rivals_and_two_hpas_are_none() {
    let (mut claims, now) = (Claims::default(), Instant::now());
    assert!(claims.claim(&key("a"), hpa("one"), now, &NOBODY));
    assert!(claims.rivals(&key("a"), &hpa("two"), now).is_empty());
    let rivals = claims.rivals(&key("a"), &scaler("queue"), now);
    assert_eq!(names(&rivals), (None, Some("one")));
    assert!(claims.claim(&key("a"), scaler("queue"), now, &rivals));
    assert_eq!(names(&claims.rivals(&key("a"), &hpa("one"), now)), (Some("queue"), None));
}

#[test]
fn what_a_watch_has_told_of_is_for_a_live_read_to_tell() {
    let (mut claims, now) = (Claims::default(), Instant::now());
    assert!(claims.claim(&key("a"), scaler("left"), now, &NOBODY));
    claims.told::<Scaler>(&key("a"), "other");
    claims.told::<Scaler>(&key("b"), "left");
    claims.told::<ForeignHpa>(&key("a"), "left");
    assert!(!claims.rivals(&key("a"), &scaler("right"), now).settled(now));
    claims.told::<Scaler>(&key("a"), "left");
    assert!(claims.rivals(&key("a"), &scaler("right"), now).settled(now));
}

#[test]
fn a_claim_that_is_made_anew_lives_on() {
    let (mut claims, begun) = (Claims::default(), Instant::now());
    assert!(claims.claim(&key("a"), scaler("left"), begun, &NOBODY));
    let later = begun + KEPT / 2;
    assert!(claims.claim(&key("a"), scaler("left"), later, &NOBODY));
    let rivals = |claims: &mut Claims, now| claims.rivals(&key("a"), &scaler("right"), now);
    assert_eq!(names(&rivals(&mut claims, begun + KEPT)).0, Some("left"));
    assert!(rivals(&mut claims, later + KEPT).is_empty());
    assert!(claims.of.is_empty() && claims.order.is_empty());
}

#[test]
fn of_very_many_the_oldest_are_forgotten() {
    let (mut claims, now) = (Claims::default(), Instant::now());
    for number in 0..3 * MOST {
        assert!(claims.claim(&key(&format!("c{number}")), scaler("left"), now, &NOBODY));
        assert!(claims.order.len() <= MOST && claims.of.len() <= MOST);
    }
    assert!(claims.rivals(&key("c0"), &scaler("right"), now).is_empty());
    let last = key(&format!("c{}", 3 * MOST - 1));
    assert_eq!(names(&claims.rivals(&last, &scaler("right"), now)).0, Some("left"));
    // One driver that claims again and again takes no more room.
    for _ in 0..2 * MOST {
        assert!(claims.claim(&last, scaler("left"), now, &NOBODY));
    }
    assert!(claims.order.len() <= MOST);
    claims.rivals(&last, &scaler("right"), now + KEPT);
    assert!(claims.of.is_empty() && claims.order.is_empty());
}
