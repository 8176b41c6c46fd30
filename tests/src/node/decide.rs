//! What to do next with the containers of a pod.
//!
//! **Architecture invariant**: pure; time is an argument. What is decided here is done in [`pod`](super::pod).

use jiff::{SignedDuration, Timestamp};

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// In any case.
    Always,
    /// Unless its exit code was 0.
    OnFailure,
    /// Not.
    Never,
}

impl RestartPolicy {
    /// As a pod states it.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("OnFailure") => Self::OnFailure,
            Some("Never") => Self::Never,
            _ => Self::Always,
        }
    }

    /// The policy of init containers: done is done.
    pub fn of_init(self) -> Self {
        match self {
            Self::Always | Self::OnFailure => Self::OnFailure,
            Self::Never => Self::Never,
        }
    }

    /// Whether a container that ended with `exit_code` is started again.
    pub fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminated {
    /// 128 and the signal's number where one ended it.
    pub exit_code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// For machines.
    pub reason: String,
    /// For people.
    pub message: Option<String>,
    /// When it was started.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Which run it was.
    pub id: String,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, for a reason.
    Waiting {
        /// For machines.
        reason: String,
        /// For people.
        message: Option<String>,
        /// When to try again.
        retry: Timestamp,
    },
    /// A process of it runs.
    Running {
        /// Since when.
        started: Timestamp,
        /// Which run it is.
        id: String,
    },
    /// Its process ended.
    Terminated(Terminated),
}

/// All that is known of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// How it ended the time before.
    pub last: Option<Terminated>,
    /// How often it was started again.
    pub restarts: i32,
    /// Whether its startup probe has succeeded.
    pub started: bool,
    /// Whether its readiness probe says yes.
    pub ready: bool,
    /// The wait between its restarts.
    pub backoff: Backoff,
}

impl Observed {
    /// A container that has not been tried.
    pub fn new(name: &str, now: Timestamp) -> Self {
        let state = State::Waiting { reason: "ContainerCreating".into(), message: None, retry: now };
        let backoff = Backoff::default();
        Self { name: name.to_owned(), state, last: None, restarts: 0, started: false, ready: false, backoff }
    }

    /// Whether it ended and stays ended.
    pub fn done(&self, policy: RestartPolicy) -> Option<&Terminated> {
        match &self.state {
            State::Terminated(end) if !policy.restarts(end.exit_code) => Some(end),
            _ => None,
        }
    }
}

/// The growing wait between restarts of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// None before the first restart, which follows at once.
    pub delay: Option<SignedDuration>,
    raised: Option<Timestamp>,
}

impl Backoff {
    const FIRST: SignedDuration = SignedDuration::from_secs(10);
    const MAX: SignedDuration = SignedDuration::from_mins(5);
    /// After this long without a restart it begins anew: twice the maximum, as a kubelet has it.
    const FORGET: SignedDuration = SignedDuration::from_mins(10);

    /// The wait after a restart at `now`.
    #[must_use]
    pub fn raise(self, now: Timestamp) -> Self {
        let delay = match self.delay {
            Some(delay) if !self.forgotten(now) => (delay * 2).min(Self::MAX),
            _ => Self::FIRST,
        };
        Self { delay: Some(delay), raised: Some(now) }
    }

    /// When a container that ended at `finished` may be started again.
    pub fn due(self, finished: Timestamp) -> Timestamp {
        match self.delay {
            Some(delay) if !self.forgotten(finished) => finished + delay,
            _ => finished,
        }
    }

    fn forgotten(self, now: Timestamp) -> bool {
        self.raised.is_none_or(|raised| now.duration_since(raised) > Self::FORGET)
    }
}

/// What to do with one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it now.
    Start,
    /// Look again then.
    At(Timestamp),
    /// Nothing, until something happens to it.
    Leave,
}

/// What to do with `container`.
pub fn next(policy: RestartPolicy, container: &Observed, now: Timestamp) -> Next {
    let due = match &container.state {
        State::Running { .. } => return Next::Leave,
        State::Waiting { retry, .. } => *retry,
        State::Terminated(end) if policy.restarts(end.exit_code) => container.backoff.due(end.finished),
        State::Terminated(_) => return Next::Leave,
    };
    if due <= now { Next::Start } else { Next::At(due) }
}

/// What to do with a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Init containers to start now, by index.
    pub inits: Vec<usize>,
    /// Containers to start now, by index.
    pub mains: Vec<usize>,
    /// When to look again, if nothing happens before.
    pub wake: Option<Timestamp>,
}

/// What to do with a pod that is wanted: init containers one after the other, then all others at once.
pub fn plan(policy: RestartPolicy, inits: &[Observed], mains: &[Observed], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for (index, init) in inits.iter().enumerate() {
        match init.done(policy.of_init()) {
            Some(end) if end.exit_code == 0 => {}
            Some(_) => return plan,
            None => {
                match next(policy.of_init(), init, now) {
                    Next::Start => plan.inits.push(index),
                    Next::At(at) => plan.wake = Some(at),
                    Next::Leave => {}
                }
                return plan;
            }
        }
    }
    for (index, main) in mains.iter().enumerate() {
        match next(policy, main, now) {
            Next::Start => plan.mains.push(index),
            Next::At(at) => plan.wake = Some(plan.wake.map_or(at, |wake| wake.min(at))),
            Next::Leave => {}
        }
    }
    plan
}
