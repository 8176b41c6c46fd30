//! The connections that are open, and which of them must go when there are too many, or too much is held for them.
//!
//! A peer *owes* while it is its turn in the middle of something: to send the rest of a request, or to read an answer. The API
//! server is through with that in milliseconds. So whoever has owed for longest is not the API server, and goes first;
//! those who do it in numbers displace each other. No limit is by the peer's address: all calls of the API server may come
//! from one (konnectivity, NAT), and be it one that others share.
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
    /// As many may owe without being displaced by newcomers, while others are idle: it may be the API server, sending.
    spared: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// Counts the waits; a higher one began later.
    waits: u64,
    /// Those that never sent a request. They are ended at once.
    silent: BTreeMap<u64, Arc<Ends>>,
    /// Those in the middle of a request or an answer. They are ended at once.
    owing: BTreeMap<u64, Owing>,
    /// Those between two requests. They are asked to leave, so that a request that is just coming in is answered.
    idle: BTreeMap<u64, Arc<Ends>>,
}

/// How a connection is told to go.
#[derive(Debug)]
pub(super) struct Ends {
    /// Cancelled when it is to finish what is in flight, and close.
    pub leave: CancellationToken,
    /// Cancelled when it is to end at once.
    pub end: CancellationToken,
}

#[derive(Debug)]
struct Owing {
    ends: Arc<Ends>,
    /// Whether a part of a body is held that counts towards what may be held for all.
    holds: bool,
}

impl State {
    /// Takes out whoever is to make room for a newcomer.
    fn displace(&mut self, spared: usize) -> Option<CancellationToken> {
        if let Some((_, silent)) = self.silent.pop_first() {
            return Some(silent.end.clone());
        }
        if self.owing.len() <= spared
            && let Some((_, idle)) = self.idle.pop_first()
        {
            return Some(idle.leave.clone());
        }
        let owing = self.owing.pop_first().map(|(_, owing)| owing.ends.end.clone());
        owing.or_else(|| self.idle.pop_first().map(|(_, idle)| idle.leave.clone()))
    }

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
    /// In the middle of a request or of an answer, and the peer has to do the next thing; the number of its wait.
    Owing(u64),
    /// Waiting for a further request; the number of its wait.
    Idle(u64),
    /// A request is being decided.
    Busy,
}

/// One open connection; dropping it makes room for another.
#[derive(Debug)]
pub(super) struct OpenConnection {
    all: Arc<OpenConnections>,
    doing: Mutex<Doing>,
    /// How it is told to go.
    pub ends: Arc<Ends>,
}

impl OpenConnections {
    /// None yet, and `most` at once.
    pub fn new(most: usize) -> Self {
        Self { most, spared: (most / 16).max(1), state: Mutex::default() }
    }

    /// Makes room for one more connection; `None` if all others are busy. It is to leave with `stop`, and to end
    /// with `abort`.
    pub fn admit(
        all: &Arc<Self>,
        stop: &CancellationToken,
        abort: &CancellationToken,
    ) -> Option<OpenConnection> {
        let ends = Arc::new(Ends { leave: stop.child_token(), end: abort.child_token() });
        let mut state = all.state();
        let displaced = if state.open < all.most { None } else { Some(state.displace(all.spared)?) };
        state.open += 1;
        let wait = state.begin_wait();
        state.silent.insert(wait, Arc::clone(&ends));
        drop(state);
        if let Some(displaced) = displaced {
            displaced.cancel();
        }
        Some(OpenConnection { all: Arc::clone(all), doing: Mutex::new(Doing::Silent(wait)), ends })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves both maps whole, so what a panicking holder left is usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnection {
    /// The first byte of a request has come. A peer that never sent a whole header stays silent.
    pub fn begins_request(&self) {
        let idle = matches!(*self.doing(), Doing::Idle(_));
        if idle {
            self.owes();
        }
    }

    /// A whole header has come; its body has not.
    pub fn asked(&self) {
        self.owes();
    }

    /// The whole request has come.
    pub fn sent(&self) {
        self.become_with(|_, _| Doing::Busy);
    }

    /// The request is answered, and the answer on its way.
    pub fn answered(&self) {
        self.become_with(|state, connection| {
            let wait = state.begin_wait();
            state.idle.insert(wait, Arc::clone(&connection.ends));
            Doing::Idle(wait)
        });
    }

    /// The peer does not take its answer.
    pub fn stuck(&self) {
        self.owes();
    }

    fn owes(&self) {
        self.become_with(|state, connection| {
            let wait = state.begin_wait();
            state.owing.insert(wait, Owing { ends: Arc::clone(&connection.ends), holds: false });
            Doing::Owing(wait)
        });
    }

    /// A part of the body is held that counts.
    pub fn holds(&self) {
        if let Doing::Owing(wait) = *self.doing()
            && let Some(owing) = self.all.state().owing.get_mut(&wait)
        {
            owing.holds = true;
        }
    }

    /// Ends the one that has owed for longest of those that hold a part of a body that counts. It may be this one, unless no
    /// other is left: then what is held is being decided, and will be there again.
    pub fn displace_holder(&self) {
        let this = *self.doing();
        let mut state = self.all.state();
        let mut holders = state.owing.iter().filter(|(_, owing)| owing.holds).map(|(wait, _)| *wait);
        let longest =
            holders.next().filter(|longest| Doing::Owing(*longest) != this || holders.next().is_some());
        let displaced = longest.and_then(|wait| state.owing.remove(&wait));
        drop(state);
        if let Some(displaced) = displaced {
            displaced.ends.end.cancel();
        }
    }

    /// Ends the wait, and begins what is next.
    fn become_with(&self, next: impl FnOnce(&mut State, &Self) -> Doing) {
        let mut doing = self.doing();
        let mut state = self.all.state();
        match *doing {
            Doing::Silent(wait) => _ = state.silent.remove(&wait),
            Doing::Owing(wait) => _ = state.owing.remove(&wait),
            Doing::Idle(wait) => _ = state.idle.remove(&wait),
            Doing::Busy => {}
        }
        *doing = next(&mut state, self);
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.sent();
        self.all.state().open -= 1;
    }
}
