//! Random schedules of rotators, servers and API servers in simulated time.
//!
//! What is checked at every event: each leaf that a ready replica serves is verified by every bundle that an API server
//! may hold at that moment, whatever its clock says within the tolerance. Only a bundle that somebody else wrote is
//! excused. In the end, when the faults are over, one CA is trusted, and every replica serves a leaf of it.
//!
//! CAs are stand-ins without keys: what is decided is the code of the crate, what signs is not.

mod random;
mod world;

use world::{Faults, Flaw, World};

/// Runs schedules until one fails; how many CAs came to sign in all of them together, and the failure.
fn run(schedules: std::ops::Range<u64>, faults: Faults, flaw: Option<Flaw>) -> (usize, Option<String>) {
    let mut rotations = 0;
    for seed in schedules {
        let mut world = World::new(seed, faults, flaw);
        if let Err(error) = world.run() {
            return (rotations, Some(format!("schedule {seed}: {error}\n{}", world.told.join("\n"))));
        }
        rotations += world.promoted;
    }
    (rotations, None)
}

fn hold(schedules: std::ops::Range<u64>, faults: Faults) {
    let (least, started) = (schedules.end - schedules.start, std::time::Instant::now());
    let (rotations, failure) = run(schedules, faults, None);
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    let took = started.elapsed();
    println!(
        "row: rotators that race (simulated): {least} schedules, {rotations} rotations, trust never lost; {took:.1?}"
    );
    assert!(rotations as u64 >= least, "{rotations} rotations: the schedules are too short to show anything");
}

#[test]
fn trust_is_never_lost_by_rotators_that_crash_stall_and_race() {
    hold(0..6_000, Faults { wiped: false, damaged: false, month_ahead: false });
}

#[test]
fn nor_where_bundles_are_wiped() {
    hold(6_000..8_000, Faults { wiped: true, damaged: false, month_ahead: false });
}

#[test]
fn nor_where_the_secret_is_deleted_and_damaged() {
    hold(8_000..10_000, Faults { wiped: false, damaged: true, month_ahead: false });
}

#[test]
fn nor_by_a_rotator_whose_clock_is_a_month_ahead() {
    hold(10_000..12_000, Faults { wiped: false, damaged: false, month_ahead: true });
}

/// The simulation sees what it is there to see: each of these is one rule less.
#[test]
fn every_rule_is_needed() {
    let quiet = Faults { wiped: false, damaged: false, month_ahead: false };
    for (flaw, faults) in [
        (Flaw::PromotesAtOnce, quiet),
        (Flaw::RetiresAtOnce, quiet),
        (Flaw::ReadsTheSecretFirst, quiet),
        (Flaw::PatchesUnconditionally, Faults { wiped: true, ..quiet }),
        (Flaw::TrustsItsOwnClock, Faults { month_ahead: true, ..quiet }),
        (Flaw::ServesTheNewestCa, Faults { damaged: true, ..quiet }),
    ] {
        let (_, failure) = run(0..10_000, faults, Some(flaw));
        assert!(failure.is_some(), "{flaw:?} goes unnoticed");
        println!("{flaw:?}: {}", failure.unwrap_or_default().lines().next().unwrap_or_default());
    }
}
