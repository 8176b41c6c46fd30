//! CPU time and memory that an engine uses because it is told to.
//!
//! **Architecture invariant**: real use alone; no count is reported that the kernel would not report.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// In which time a thread's part is used up: short against every period in which usage is measured.
const TURN: Duration = Duration::from_millis(100);
/// What a busy machine did not give is not asked for later than this.
const LATEST: Duration = Duration::from_secs(1);
const CORE: u32 = 1000;

/// What an engine uses beside its work.
#[derive(Debug, Default)]
pub struct Burden {
    /// Threads of an earlier turn of this end.
    turn: Arc<AtomicU64>,
    memory: Mutex<Vec<u8>>,
}

impl Burden {
    /// Uses so many thousandths of a core from now on.
    pub fn burn(&self, millicores: u32) -> std::io::Result<()> {
        let turn = self.turn.fetch_add(1, Ordering::AcqRel) + 1;
        let threads = millicores.div_ceil(CORE);
        for _ in 0..threads {
            let (now, due) = (Arc::clone(&self.turn), TURN * millicores / (CORE * threads));
            std::thread::Builder::new().name("burn".into()).spawn(move || {
                while now.load(Ordering::Acquire) == turn {
                    let began = Instant::now();
                    let before = used();
                    while used().saturating_sub(before) < due && began.elapsed() < LATEST {
                        std::hint::spin_loop();
                    }
                    std::thread::sleep(TURN.saturating_sub(began.elapsed()));
                }
            })?;
        }
        Ok(())
    }

    /// Holds so much memory from now on. Takes as long as it takes to write to all of it.
    pub fn hold(&self, mib: u32) {
        let bytes = usize::try_from(mib).unwrap_or_default() << 20;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() != bytes {
            // The old first: both at once would be a peak that nobody asked for.
            *memory = Vec::new();
            // Not zero: the kernel would give no pages.
            *memory = vec![1; bytes];
        }
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        self.turn.fetch_add(1, Ordering::AcqRel);
    }
}

/// CPU time of this thread.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::usage::Snapshot;

    #[test]
    fn what_is_asked_for_is_used_and_given_back() {
        let id = i32::try_from(std::process::id()).unwrap();
        let usage = || Snapshot::read().unwrap().of(id).unwrap();
        let burden = Burden::default();
        let (before, began) = (usage(), Instant::now());
        burden.hold(96);
        burden.burn(1500).unwrap();
        while usage().cpu < before.cpu + Duration::from_millis(500) {
            assert!(began.elapsed() < Duration::from_mins(1), "{:?} after {:?}", usage(), before);
            std::thread::yield_now();
        }
        let held = usage().memory;
        assert!(held > 96 << 20, "{held}");
        burden.hold(0);
        // Other tests of this process use memory too, for a while.
        while usage().memory + (64 << 20) > held {
            assert!(began.elapsed() < Duration::from_mins(2), "{held} {:?}", usage());
            std::thread::yield_now();
        }
    }
}
