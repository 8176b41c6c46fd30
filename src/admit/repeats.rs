//! Refusals that come again and again: an autoscaler or a GitOps controller tries every few seconds what was refused before, and
//! one line a minute says as much as all of them.
//!
//! Architecture invariant: bounded, whatever is refused; time is an argument.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

/// For as long, the same refusal is not told again.
const PAUSE: Duration = Duration::from_mins(1);
/// So many different ones are told apart. Beyond, all are forgotten, and told anew.
const MOST: usize = 1024;

/// The refusals that were told lately.
#[derive(Debug, Default)]
pub struct Repeats {
    hasher: RandomState,
    told: Mutex<HashMap<u64, Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

impl Repeats {
    /// Whether one is to be told now; if so, how often it came since it was told last.
    pub fn tell(&self, what: [&str; 4], now: Instant) -> Option<u64> {
        let key = self.hasher.hash_one(what);
        // Each entry is whole between any two statements.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Told { at, since }) = told.get_mut(&key) {
            if now.saturating_duration_since(*at) < PAUSE {
                *since += 1;
                return None;
            }
            *at = now;
            return Some(std::mem::take(since));
        }
        if told.len() >= MOST {
            told.clear();
        }
        told.insert(key, Told { at: now, since: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_a_minute_with_how_often_it_came() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let tell = |who, seconds| repeats.tell([who, "ns", "a", "9 is above 3"], after(seconds));
        assert_eq!(tell("jane", 0), Some(0));
        assert_eq!((tell("jane", 1), tell("jane", 59)), (None, None));
        assert_eq!(tell("joe", 59), Some(0), "another is told");
        assert_eq!(tell("jane", 60), Some(2));
        assert_eq!(tell("jane", 61), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        for number in 0..10 * MOST {
            assert_eq!(repeats.tell(["u", "ns", &number.to_string(), "x"], now), Some(0));
        }
        assert!(repeats.told.lock().unwrap().len() <= MOST);
    }
}
