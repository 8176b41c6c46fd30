//! When a scenario's turn is: two lanes run side by side, and what measures runs behind both, with the machine to itself.
//!
//! Most of a scenario's time is waiting, for pods, windows and leases: two planes fit on two cores. Three do not.
//!
//! **Architecture invariant**: every scenario that runs has a thread, which waits here for its turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What runs one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// On the shared plane.
    Shared,
    /// On planes of their own, beside the shared one.
    Beside,
    /// Alone, behind all others.
    Alone,
}

/// How many of each lane have been, which whoever waits is told.
#[derive(Default)]
struct Been {
    lanes: Mutex<BTreeMap<Lane, usize>>,
    changed: Condvar,
}

/// Gives turns.
#[derive(Default)]
pub struct Lanes {
    been: Arc<Been>,
    given: BTreeMap<Lane, usize>,
}

/// One scenario's place.
pub struct Turn {
    been: Arc<Been>,
    lane: Lane,
    behind: BTreeMap<Lane, usize>,
}

impl Lanes {
    /// The next turn of a lane. Turns of [`Lane::Alone`] are given last.
    pub fn turn(&mut self, lane: Lane) -> Turn {
        let mut behind = if lane == Lane::Alone { self.given.clone() } else { BTreeMap::new() };
        let given = self.given.entry(lane).or_default();
        behind.insert(lane, *given);
        *given += 1;
        Turn { been: Arc::clone(&self.been), lane, behind }
    }
}

impl Turn {
    /// Waits for the turn, takes it, and gives it on, even after a panic.
    pub fn take<T>(self, scenario: impl FnOnce() -> T) -> T {
        let Self { been, lane, behind } = self;
        let count = |lanes: &BTreeMap<Lane, usize>, lane: &Lane| lanes.get(lane).copied().unwrap_or_default();
        let lanes = been.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let early = |lanes: &mut BTreeMap<Lane, usize>| {
            behind.iter().any(|(lane, before)| count(lanes, lane) < *before)
        };
        drop(been.changed.wait_while(lanes, early).unwrap_or_else(PoisonError::into_inner));
        let _given_on = GivenOn { been: &been, lane };
        scenario()
    }
}

struct GivenOn<'a> {
    been: &'a Been,
    lane: Lane,
}

impl Drop for GivenOn<'_> {
    fn drop(&mut self) {
        let mut lanes = self.been.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        *lanes.entry(self.lane).or_default() += 1;
        self.been.changed.notify_all();
    }
}
