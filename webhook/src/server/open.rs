//! The connections that are open, and which of them must go when there are too many.
//!
//! Architecture invariant: no I/O and no clock. Who waits for longest is told by the order in which the waits
//! began.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All open connections of one server.
#[derive(Debug)]
pub(super) struct OpenConnections {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// Counts the waits; a higher one began later.
    waits: u64,
    /// Those that never sent a request. They are ended at once.
    silent: BTreeMap<u64, CancellationToken>,
    /// Those between two requests. They are asked to leave, so that a request that is just coming in is answered.
    idle: BTreeMap<u64, CancellationToken>,
}

impl State {
    fn begin_wait(&mut self) -> u64 {
        self.waits += 1;
        self.waits
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Nothing yet; the number of its wait.
    Silent(u64),
    /// Waiting for a further request; the number of its wait.
    Idle(u64),
    /// A request is under way.
    Busy,
}

/// One open connection; dropping it makes room for another.
#[derive(Debug)]
pub(super) struct OpenConnection {
    all: Arc<OpenConnections>,
    doing: Mutex<Doing>,
    /// Cancelled when it is to finish what is in flight, and close.
    pub leave: CancellationToken,
    /// Cancelled when it is to end at once.
    pub end: CancellationToken,
}

impl OpenConnections {
    /// None yet, and `most` at once.
    pub fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// Makes room for one more connection; `None` if all others are busy. It is to leave with `stop`, and to end
    /// with `abort`.
    pub fn admit(
        all: &Arc<Self>,
        stop: &CancellationToken,
        abort: &CancellationToken,
    ) -> Option<OpenConnection> {
        let (leave, end) = (stop.child_token(), abort.child_token());
        let mut state = all.state();
        let displaced = if state.open < all.most {
            None
        } else {
            let (_, longest) = state.silent.pop_first().or_else(|| state.idle.pop_first())?;
            Some(longest)
        };
        state.open += 1;
        let wait = state.begin_wait();
        state.silent.insert(wait, end.clone());
        drop(state);
        if let Some(displaced) = displaced {
            displaced.cancel();
        }
        Some(OpenConnection { all: Arc::clone(all), doing: Mutex::new(Doing::Silent(wait)), leave, end })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves both maps whole, so what a panicking holder left is usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnection {
    /// The first byte of a request has come. A peer that never sent a whole one stays silent.
    pub fn begins_request(&self) {
        self.change(|doing| if let Doing::Idle(_) = doing { Doing::Busy } else { doing });
    }

    /// A whole header has come.
    pub fn asked(&self) {
        self.change(|_| Doing::Busy);
    }

    /// The request is answered.
    pub fn answered(&self) {
        let mut doing = self.doing();
        let mut state = self.all.state();
        let wait = state.begin_wait();
        state.idle.insert(wait, self.leave.clone());
        *doing = Doing::Idle(wait);
    }

    /// Ends the wait that `next` does not go on with.
    fn change(&self, next: impl FnOnce(Doing) -> Doing) {
        let mut doing = self.doing();
        let before = *doing;
        *doing = next(before);
        if before != *doing {
            self.end_wait(before);
        }
    }

    fn end_wait(&self, doing: Doing) {
        match doing {
            Doing::Silent(wait) => _ = self.all.state().silent.remove(&wait),
            Doing::Idle(wait) => _ = self.all.state().idle.remove(&wait),
            Doing::Busy => {}
        }
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.asked();
        self.all.state().open -= 1;
    }
}
