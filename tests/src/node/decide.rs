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
    #[must_use]
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
        State::Waiting { retry, .. } => *retry,
        State::Terminated(end) if policy.restarts(end.exit_code) => container.backoff.due(end.finished),
        State::Running { .. } | State::Terminated(_) => return Next::Leave,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    /// `r` runs; `w` waits until 5; a number is the exit code of a run that ended at 0.
    fn observed(state: &str) -> Observed {
        let mut observed = Observed::new(state, at(0));
        observed.state = match state {
            "r" => State::Running { started: at(0), id: String::new() },
            "w" => State::Waiting { reason: String::new(), message: None, retry: at(5) },
            "n" => return observed,
            code => State::Terminated(Terminated {
                exit_code: code.parse().unwrap(),
                signal: None,
                reason: String::new(),
                message: None,
                started: at(-1),
                finished: at(0),
                id: String::new(),
            }),
        };
        observed
    }

    #[test]
    fn one_container() {
        use Next::{At, Leave, Start};
        use RestartPolicy::{Always, Never, OnFailure};
        let raised = |times: usize| (0..times).fold(Backoff::default(), |backoff, _| backoff.raise(at(0)));
        for (policy, state, restarts, now, expected) in [
            (Always, "n", 0, 0, Start),
            (Always, "r", 0, 0, Leave),
            (Always, "w", 0, 4, At(at(5))),
            (Always, "w", 0, 5, Start),
            (Always, "1", 0, 0, Start),
            (Always, "0", 0, 0, Start),
            (Always, "1", 1, 0, At(at(10))),
            (Always, "1", 1, 10, Start),
            (Always, "1", 2, 10, At(at(20))),
            (Always, "1", 9, 10, At(at(300))),
            (OnFailure, "1", 1, 0, At(at(10))),
            (OnFailure, "0", 0, 0, Leave),
            (Never, "1", 0, 0, Leave),
            (Never, "n", 0, 0, Start),
        ] {
            let container = Observed { backoff: raised(restarts), ..observed(state) };
            assert_eq!(next(policy, &container, at(now)), expected, "{policy:?} {state} {restarts} {now}");
        }
    }

    #[test]
    fn the_wait_begins_anew_after_a_long_run() {
        let backoff = Backoff::default().raise(at(0)).raise(at(10)).raise(at(30));
        assert_eq!(backoff.delay, Some(SignedDuration::from_secs(40)));
        assert_eq!(backoff.due(at(100)), at(140));
        assert_eq!(backoff.due(at(700)), at(700), "forgotten ten minutes after the last restart");
        assert_eq!(backoff.raise(at(700)).delay, Some(SignedDuration::from_secs(10)));
    }

    #[test]
    fn a_pod() {
        use RestartPolicy::{Always, Never};
        let all = |states: &str| states.split_whitespace().map(observed).collect::<Vec<_>>();
        let starts = |inits: &[usize], mains: &[usize], wake: Option<i64>| Plan {
            inits: inits.to_vec(),
            mains: mains.to_vec(),
            wake: wake.map(at),
        };
        for (policy, inits, mains, expected) in [
            (Always, "", "n n", starts(&[], &[0, 1], None)),
            (Always, "", "r n", starts(&[], &[1], None)),
            (Always, "", "w r w", starts(&[], &[], Some(5))),
            (Always, "n n", "n", starts(&[0], &[], None)),
            (Always, "r n", "n", starts(&[], &[], None)),
            (Always, "0 n", "n", starts(&[1], &[], None)),
            (Always, "0 w", "n", starts(&[], &[], Some(5))),
            (Always, "0 0", "n", starts(&[], &[0], None)),
            (Always, "1 n", "n", starts(&[0], &[], None)),
            (Never, "1 n", "n", starts(&[], &[], None)),
            (Never, "", "0 1", starts(&[], &[], None)),
            (Always, "", "0 1", starts(&[], &[0, 1], None)),
        ] {
            let plan = plan(policy, &all(inits), &all(mains), at(0));
            assert_eq!(plan, expected, "{policy:?} [{inits}] [{mains}]");
        }
    }
}
