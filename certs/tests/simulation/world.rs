//! Replicas, a Secret, two configurations and the clocks, in simulated milliseconds.

use std::time::Duration;

use certs::rotation::{Moment, Policy, State, Step, next_step};
use certs::{AuthorityError, Bundle, CLOCK_SKEW, CaCertificate, Issued, Known, MendReason, ReplaceReason};
use jiff::Timestamp;

use crate::random::Random;

/// Where simulated time begins, in seconds since 1970.
const EPOCH: i64 = 2_000_000_000;
const MONTH: i64 = 30 * 24 * 3_600_000;
const REPLICAS: usize = 3;

/// What goes wrong besides crashes, stalls, conflicts and lost replies, which always do.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Somebody clears bundles, or puts back old ones.
    pub wiped: bool,
    /// Somebody deletes the Secret, or parts of it.
    pub damaged: bool,
    /// One replica's clock is thirty days ahead.
    pub month_ahead: bool,
}

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Without the wait for the propagation of what is published.
    PromotesAtOnce,
    /// Without the wait for the end of the old CA's leaves.
    RetiresAtOnce,
    /// The Secret is read before the configurations.
    ReadsTheSecretFirst,
    /// A configuration is patched whatever its version is.
    PatchesUnconditionally,
    /// Times are those of the replica's own clock.
    TrustsItsOwnClock,
    /// A leaf follows the CA that signs at once.
    ServesTheNewestCa,
}

/// What a configuration carried, from when on.
struct Carried {
    from: i64,
    bundle: Bundle,
    foreign: bool,
}

struct Configuration {
    version: u64,
    history: Vec<Carried>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Idle,
    Before,
    First,
    Second,
    Third,
    Decide,
    Leaf,
    Patch(usize),
    Down,
}

struct Replica {
    at: At,
    wake: i64,
    started: i64,
    own_offset: i64,
    leading: bool,
    before: Timestamp,
    configurations: [(u64, Bundle); 2],
    secret: (u64, Option<State>),
    state: Option<State>,
    known: Known,
    leaf: Option<Issued>,
    ready: bool,
    due: Option<i64>,
    /// When a watch tells it of a change that came after its turn began.
    told: Option<i64>,
}

pub struct World {
    pub promoted: usize,
    pub told: Vec<String>,
    random: Random,
    now: i64,
    faults: Faults,
    flaw: Option<Flaw>,
    policy: Policy,
    ca_lifetime: Duration,
    api_offsets: [i64; 2],
    secret: (u64, Option<State>),
    configurations: [Configuration; 2],
    replicas: Vec<Replica>,
    versions: u64,
    next_fault: i64,
    quiet: bool,
}

impl World {
    pub fn new(seed: u64, faults: Faults, flaw: Option<Flaw>) -> Self {
        let mut random = Random::new(seed);
        let second = |least, most, random: &mut Random| {
            Duration::from_secs(random.between(least, most).unsigned_abs())
        };
        let most = if random.one_in(2) { 3 } else { 60 };
        let propagation = second(1, most, &mut random);
        let clock_tolerance = if random.one_in(2) { Duration::ZERO } else { second(1, 900, &mut random) };
        let leaf_lifetime = 6 * (propagation + clock_tolerance) + second(20, 600, &mut random);
        let lead = 2 * leaf_lifetime + 4 * (propagation + clock_tolerance);
        let skew = millis(clock_tolerance) / 2;
        let api_offsets = [random.between(-skew, skew), random.between(-skew, skew)];
        let several_lead = random.one_in(2);
        let replicas = (0..REPLICAS)
            .map(|index| Replica {
                at: At::Idle,
                wake: random.between(0, 5_000),
                own_offset: if faults.month_ahead && index == 0 {
                    MONTH
                } else {
                    random.between(-600_000, 600_000) / 2
                },
                leading: several_lead || index == 0,
                ..Replica::gone()
            })
            .collect();
        let configuration = || Configuration {
            version: 1,
            history: vec![Carried { from: -1, bundle: Bundle::default(), foreign: true }],
        };
        Self {
            promoted: 0,
            told: vec![],
            now: 0,
            faults,
            flaw,
            policy: Policy { lead, leaf_lifetime, propagation, clock_tolerance },
            ca_lifetime: lead + 2 * leaf_lifetime,
            api_offsets,
            secret: (1, None),
            configurations: [configuration(), configuration()],
            replicas,
            versions: 1,
            next_fault: 1,
            quiet: false,
            random,
        }
    }

    /// Some rotations with faults, and then without.
    pub fn run(&mut self) -> Result<(), String> {
        let end = 6 * millis(self.policy.leaf_lifetime);
        self.next_fault = self.random.between(1, millis(self.policy.leaf_lifetime) * 4);
        while self.now < end {
            self.event()?;
        }
        self.quiet = true;
        while !self.is_at_rest() {
            self.event()?;
            if self.now > end + millis(self.policy.lead) + millis(self.ca_lifetime) {
                return Err(format!("it does not come to rest: {:?}", self.secret.1));
            }
        }
        Ok(())
    }

    /// One CA is trusted, and every replica serves a leaf of it.
    fn is_at_rest(&self) -> bool {
        let Some(State { signer: Ok(signer), next: None, bundle: Ok(bundle), .. }) = &self.secret.1 else {
            return false;
        };
        *bundle == Bundle::of(signer)
            && self.configurations.iter().all(|configuration| configuration.bundle() == bundle)
            && self
                .replicas
                .iter()
                .all(|replica| replica.ready && replica.leaf.as_ref().is_some_and(|leaf| leaf.ca == *signer))
    }

    fn event(&mut self) -> Result<(), String> {
        let (index, wake) = self
            .replicas
            .iter()
            .map(|replica| replica.wake)
            .enumerate()
            .min_by_key(|(_, wake)| *wake)
            .ok_or("no replicas")?;
        let fault = (self.faults.wiped || self.faults.damaged) && !self.quiet && self.next_fault <= wake;
        self.now = if fault { self.next_fault } else { wake };
        // Time itself has ended leaves, and nothing else has happened yet.
        self.check()?;
        if fault {
            self.fault();
        } else {
            self.step(index);
        }
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        let skew = millis(self.policy.clock_tolerance) / 2;
        let (earliest, latest) = (at(self.now - skew), at(self.now + skew));
        for (index, replica) in self.replicas.iter().enumerate().filter(|(_, replica)| replica.ready) {
            let Some(leaf) = &replica.leaf else { continue };
            if leaf.not_after <= latest
                || leaf.at.checked_sub(CLOCK_SKEW).is_ok_and(|begins| begins > earliest)
            {
                return Err(format!("{} replica {index}: a leaf out of its time: {leaf:?}", self.now));
            }
            if !leaf.ca.is_valid(earliest) || !leaf.ca.is_valid(latest) {
                return Err(format!("{} replica {index}: a CA out of its time: {:?}", self.now, leaf.ca));
            }
            for configuration in &self.configurations {
                for bundle in configuration.views(self.now - millis(self.policy.propagation)) {
                    if !bundle.contains(&leaf.ca) {
                        return Err(format!(
                            "{} replica {index}: {leaf:?} is not verified by {bundle:?}",
                            self.now
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, index: usize) {
        let pause = self.pause();
        let replica = &mut self.replicas[index];
        if replica.at == At::Down {
            replica.started = self.now;
            replica.at = At::Idle;
        } else if !self.quiet && self.random.one_in(400) {
            // A crash: all that is remembered is gone, and nothing is served.
            *replica = Replica {
                at: At::Down,
                leaf: None,
                ready: false,
                known: Known::default(),
                ..std::mem::replace(replica, Replica::gone())
            };
            replica.wake = self.now + pause;
            return;
        }
        let next = self.micro(index);
        let idle = millis(self.policy.leaf_lifetime) / 2;
        let replica = &mut self.replicas[index];
        replica.at = next;
        let due = replica.due.map(|due| due.max(self.now + 1));
        replica.wake = if next == At::Idle {
            let due = due.unwrap_or(i64::MAX).saturating_add(self.random.between(0, 1_000));
            let quiet = self.now + self.random.between(100, idle);
            quiet.min(due).min(replica.told.unwrap_or(i64::MAX)).max(self.now + 1)
        } else {
            self.now + pause
        };
        if !self.quiet && self.random.one_in(500) {
            // Another one leads, or one more.
            let leading = usize::try_from(self.random.between(0, 2)).unwrap_or_default();
            self.replicas[leading].leading ^= true;
        }
        if !self.replicas.iter().any(|replica| replica.leading) || self.quiet {
            self.replicas[REPLICAS - 1].leading = true;
        }
    }

    /// Mostly short; now and then the process stands still.
    fn pause(&mut self) -> i64 {
        if !self.quiet && self.random.one_in(60) {
            self.random.between(1, millis(self.policy.leaf_lifetime) / 40)
        } else {
            self.random.between(1, 200)
        }
    }

    /// What any of the API servers says the time is, in whole seconds.
    fn date(&mut self, index: usize) -> Timestamp {
        let offset = if self.flaw == Some(Flaw::TrustsItsOwnClock) {
            self.replicas[index].own_offset
        } else {
            self.api_offsets[usize::from(self.random.one_in(2))]
        };
        at((self.now + offset).div_euclid(1_000) * 1_000)
    }

    /// One thing that a turn does, in the order in which the operator does it.
    fn micro(&mut self, index: usize) -> At {
        let secret_first = self.flaw == Some(Flaw::ReadsTheSecretFirst);
        match self.replicas[index].at {
            At::Down | At::Idle => {
                let replica = &mut self.replicas[index];
                replica.due = None;
                replica.told = replica.told.filter(|told| *told > self.now);
                At::Before
            }
            At::Before => {
                self.replicas[index].before = self.date(index);
                At::First
            }
            At::First => self.read(index, if secret_first { 2 } else { 0 }, At::Second),
            At::Second => self.read(index, usize::from(!secret_first), At::Third),
            At::Third => self.read(index, if secret_first { 1 } else { 2 }, At::Decide),
            At::Decide => self.decide(index),
            At::Leaf => self.leaf(index),
            At::Patch(which) => self.patch(index, which),
        }
    }

    fn read(&mut self, index: usize, what: usize, next: At) -> At {
        let replica = &mut self.replicas[index];
        match self.configurations.get(what) {
            Some(configuration) => {
                replica.configurations[what] = (configuration.version, configuration.bundle().clone());
            }
            None => replica.secret = self.secret.clone(),
        }
        next
    }

    fn moment(&mut self, index: usize) -> Moment {
        let after = self.date(index);
        let replica = &self.replicas[index];
        let own = if self.flaw == Some(Flaw::TrustsItsOwnClock) {
            after
        } else {
            at(self.now + replica.own_offset)
        };
        Moment { before: replica.before, after, own }
    }

    fn decide(&mut self, index: usize) -> At {
        let moment = self.moment(index);
        let mut policy = self.policy;
        match self.flaw {
            Some(Flaw::PromotesAtOnce) => policy.propagation = Duration::ZERO,
            Some(Flaw::RetiresAtOnce) => policy.leaf_lifetime = Duration::ZERO,
            _ => {}
        }
        let replica = &self.replicas[index];
        let state = replica.secret.1.clone().unwrap_or_else(no_secret);
        let carried =
            replica.configurations.iter().fold(Bundle::default(), |all, (_, bundle)| all.union(bundle));
        let in_place = state
            .bundle
            .as_ref()
            .is_ok_and(|bundle| replica.configurations.iter().all(|(_, carried)| carried == bundle));
        let step = next_step(&state, in_place, &moment, &policy);
        if let Step::Wait(until) = step {
            self.replicas[index].due = until.map(|until| self.now + distance(moment.before, until));
        }
        if matches!(step, Step::Wait(_)) || !(replica_may(&self.replicas[index], &step)) {
            self.replicas[index].state = Some(state);
            return At::Leaf;
        }
        let fresh = step.makes_ca().then(|| self.ca(moment.before));
        let after = state.after(&step, fresh.as_ref(), &carried, &moment);
        // Lost on the way there, refused because of the version, or done; and the answer may be lost on its way back.
        if (!self.quiet && self.random.one_in(20)) || self.replicas[index].secret.0 != self.secret.0 {
            self.replicas[index].due = Some(self.now + 1_000);
            return At::Idle;
        }
        self.tell(&format!("replica {index}: {step:?}"));
        self.promoted += usize::from(step == Step::Promote);
        self.versions += 1;
        self.secret = (self.versions, Some(after.clone()));
        self.changed();
        if !self.quiet && self.random.one_in(20) {
            self.replicas[index].due = Some(self.now + 1_000);
            return At::Idle;
        }
        self.replicas[index].state = Some(after);
        At::Leaf
    }

    fn leaf(&mut self, index: usize) -> At {
        let moment = self.moment(index);
        let elapsed = Duration::from_millis((self.now - self.replicas[index].started).unsigned_abs());
        let replica = &mut self.replicas[index];
        let Some(state) = &replica.state else { return At::Idle };
        let Ok(signer) = &state.signer else { return At::Idle };
        let [(_, first), (_, second)] = replica.configurations.clone();
        let both = first.intersection(&second);
        replica.known.note(&both, elapsed, state.is_settled(&moment, &self.policy));
        let known_in = |ca: &CaCertificate| replica.known.known_in(ca, elapsed, self.policy.propagation);
        let signer_known_in =
            if self.flaw == Some(Flaw::ServesTheNewestCa) { Some(Duration::ZERO) } else { known_in(signer) };
        let due_in = |leaf: &Issued| leaf.due_in(signer, signer_known_in, moment.before, 0.5);
        if replica.leaf.as_ref().is_none_or(|leaf| due_in(leaf).is_zero()) {
            let not_after = (moment.before + self.policy.leaf_lifetime).min(signer.not_after);
            replica.leaf = Some(Issued { ca: signer.clone(), at: moment.before, not_after });
        }
        if let Some(leaf) = &replica.leaf {
            let known_in = known_in(&leaf.ca);
            let again = [Some(due_in(leaf)), known_in.filter(|_| !replica.ready)].into_iter().flatten();
            let again = again.map(|again| self.now + millis(again).max(1_000));
            replica.ready |= known_in == Some(Duration::ZERO);
            replica.due = replica.due.into_iter().chain(again).min();
        }
        At::Patch(0)
    }

    fn patch(&mut self, index: usize, which: usize) -> At {
        let next = if which == 0 { At::Patch(1) } else { At::Idle };
        let replica = &self.replicas[index];
        let Some(Ok(bundle)) = replica.state.as_ref().map(|state| state.bundle.clone()) else {
            return At::Idle;
        };
        let (version, carried) = &replica.configurations[which];
        let stale =
            *version != self.configurations[which].version && self.flaw != Some(Flaw::PatchesUnconditionally);
        if *carried == bundle || stale || (!self.quiet && self.random.one_in(20)) {
            return next;
        }
        self.tell(&format!("replica {index}: patches {which} to {} CAs", bundle.len()));
        self.carry(which, bundle, false);
        next
    }

    fn carry(&mut self, which: usize, bundle: Bundle, foreign: bool) {
        self.versions += 1;
        let configuration = &mut self.configurations[which];
        configuration.version = self.versions;
        configuration.history.push(Carried { from: self.now, bundle, foreign });
        self.changed();
    }

    fn fault(&mut self) {
        let span = millis(self.policy.leaf_lifetime) * 4;
        self.next_fault = self.now + self.random.between(1, span);
        if self.faults.wiped {
            let which = usize::from(self.random.one_in(2));
            let history = &self.configurations[which].history;
            let length = i64::try_from(history.len()).unwrap_or(1);
            let older = usize::try_from(self.random.between(0, length - 1)).unwrap_or_default();
            let bundle =
                if self.random.one_in(2) { Bundle::default() } else { history[older].bundle.clone() };
            self.tell(&format!("somebody sets {which} to {} CAs", bundle.len()));
            self.carry(which, bundle, true);
        }
        if self.faults.damaged {
            let what = self.random.between(0, 3);
            self.tell(&format!("somebody damages the Secret: {what}"));
            let unusable = AuthorityError::KeyDoesNotFit;
            self.versions += 1;
            self.secret.0 = self.versions;
            match (&mut self.secret.1, what) {
                (secret, 0) => *secret = None,
                (Some(state), 1) => {
                    *state =
                        State { signer: Err(ReplaceReason::Unusable(unusable)), since: None, ..state.clone() }
                }
                (Some(state), 2) => {
                    *state = State { bundle: Err(MendReason::Missing), since: None, ..state.clone() }
                }
                (Some(state), _) if state.next.is_some() => {
                    *state = State { next: Some(Err(unusable.into())), since: None, ..state.clone() };
                }
                _ => {}
            }
            self.changed();
        }
    }

    /// Watches tell each replica after a delay; now and then one has died without a word.
    fn changed(&mut self) {
        let most = millis(self.policy.propagation);
        for replica in self.replicas.iter_mut().filter(|replica| replica.at != At::Down) {
            if self.random.one_in(50) {
                continue;
            }
            let told = self.now + self.random.between(1, most);
            replica.told = Some(replica.told.map_or(told, |before| before.min(told)));
            if replica.at == At::Idle {
                replica.wake = replica.wake.min(told);
            }
        }
    }

    fn ca(&mut self, now: Timestamp) -> CaCertificate {
        self.versions += 1;
        CaCertificate {
            not_before: now - CLOCK_SKEW,
            not_after: now + self.ca_lifetime,
            der: self.versions.to_be_bytes().to_vec(),
        }
    }

    fn tell(&mut self, what: &str) {
        self.told.push(format!("{} {what}", self.now));
    }
}

impl Configuration {
    fn bundle(&self) -> &Bundle {
        &self.history[self.history.len() - 1].bundle
    }

    /// What an API server may hold that has everything from before `since`.
    fn views(&self, since: i64) -> impl Iterator<Item = &Bundle> {
        let current = self.history.iter().rposition(|carried| carried.from <= since).unwrap_or_default();
        self.history[current..].iter().filter(|carried| !carried.foreign).map(|carried| &carried.bundle)
    }
}

impl Replica {
    /// In whose place another comes at once.
    fn gone() -> Self {
        Self {
            at: At::Down,
            wake: 0,
            started: 0,
            own_offset: 0,
            leading: false,
            before: Timestamp::UNIX_EPOCH,
            configurations: Default::default(),
            secret: (0, None),
            state: None,
            known: Known::default(),
            leaf: None,
            ready: false,
            due: None,
            told: None,
        }
    }
}

fn replica_may(replica: &Replica, step: &Step) -> bool {
    replica.leading || step.is_for_everyone()
}

fn no_secret() -> State {
    State { signer: Err(ReplaceReason::NoSecret), next: None, bundle: Err(MendReason::Missing), since: None }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(EPOCH * 1_000 + milliseconds).unwrap_or(Timestamp::MAX)
}

/// As the operator waits: by the difference of two times of the same clock.
fn distance(from: Timestamp, to: Timestamp) -> i64 {
    (to.as_millisecond() - from.as_millisecond()).max(1_000)
}
