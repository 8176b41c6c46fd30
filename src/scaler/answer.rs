//! From what the servers of a cluster say to the value that the HPA is given.
//!
//! The HPA makes of a value with `AverageValue` as many replicas as it is times the target, and of one with `Value` the present
//! count times its ratio to the target. So the answer that asks for the present count is known, and it is the least that is
//! given while a server is missing: **missing data never scales down**. What the others say may still scale up. No fault of a
//! server is an error: an error would freeze all triggers of the ScaledObject.
//!
//! Architecture invariant: plain functions, time included.

use std::fmt;
use std::time::Duration;

use super::page::Load;
use super::trigger::{Measure, Signal, Trigger};

/// Why a server's word is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not ready, or does not exist yet.
    NotReady,
    /// It takes no connection, or ends it.
    Unreachable(String),
    /// It did not answer in time.
    Slow(Duration),
    /// It answered with this status.
    Status(u16),
    /// It answered, and not with what was asked for.
    Garbage(&'static str),
}

impl Fault {
    /// Its kind, as a metric tells it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotReady => "not-ready",
            Self::Unreachable(_) => "unreachable",
            Self::Slow(_) => "slow",
            Self::Status(_) => "status",
            Self::Garbage(_) => "garbage",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Unreachable(why) => write!(f, "cannot be reached ({why})"),
            Self::Slow(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Status(code) => write!(f, "answers with status {code}"),
            Self::Garbage(what) => write!(f, "answers with {what}"),
        }
    }
}

/// What one server said, or why it did not.
pub type Word<T> = Result<T, Fault>;

/// What was read of each server of a cluster that was asked.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// How many replicas the cluster wants.
    pub replicas: u32,
    /// How many of them were not asked, since they are not ready or do not exist.
    pub absent: u32,
    /// The pages of the others, where a signal needs them.
    pub loads: Vec<Word<Load>>,
    /// What the others took to answer, round by round, where a signal needs it; the newest round is the last.
    pub rounds: Vec<Vec<Word<Duration>>>,
}

/// The value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// In the unit of the target.
    pub value: f64,
    /// Whether it is above the activation.
    pub active: bool,
    /// Whether a server's word is missing, so that it is not below what keeps the present count.
    pub held: bool,
}

/// What a trigger is answered.
pub fn answer(trigger: &Trigger, readings: &Readings) -> Answer {
    let (value, held) = match &trigger.measure {
        Measure::One(Signal::ResponseTime, target) => {
            let (time, whole) = response_time(readings);
            if whole { (time, false) } else { (time.max(*target), true) }
        }
        Measure::One(signal, target) => {
            let (sum, whole) = sum(*signal, readings);
            if whole { (sum, false) } else { (sum.max(f64::from(readings.replicas) * target), true) }
        }
        Measure::Combined(targets) => {
            let replicas = f64::from(readings.replicas);
            let (mut most, mut held) = (0.0_f64, false);
            for (signal, target) in targets {
                let (wanted, whole) = match signal {
                    Signal::ResponseTime => {
                        let (time, whole) = response_time(readings);
                        (replicas * time / target, whole)
                    }
                    Signal::Queue | Signal::Running | Signal::KvCache => {
                        let (sum, whole) = sum(*signal, readings);
                        (sum / target, whole)
                    }
                };
                held |= !whole;
                most = most.max(wanted);
            }
            (100.0 * if held { most.max(replicas) } else { most }, held)
        }
    };
    let value = thousandths(value);
    Answer { value, active: value > trigger.activation, held }
}

/// The sum of a signal over the servers that tell it, and whether all do.
fn sum(signal: Signal, Readings { absent, loads, .. }: &Readings) -> (f64, bool) {
    let of = |load: &Load| match signal {
        Signal::Queue => load.waiting,
        Signal::Running => load.running,
        Signal::KvCache => load.kv_cache,
        Signal::ResponseTime => None,
    };
    let told = || loads.iter().map(|load| load.as_ref().ok().and_then(of));
    (told().flatten().sum(), *absent == 0 && told().all(|value| value.is_some()))
}

/// The median of the times in milliseconds, and whether all servers answered in the last round. One that did not within its
/// limit took at least as long; one that did not answer at all has no time.
fn response_time(Readings { absent, rounds, .. }: &Readings) -> (f64, bool) {
    let milliseconds = |time: &Word<Duration>| match time {
        Ok(time) | Err(Fault::Slow(time)) => Some(time.as_secs_f64() * 1000.0),
        Err(Fault::NotReady | Fault::Unreachable(_) | Fault::Status(_) | Fault::Garbage(_)) => None,
    };
    let told = |last: &Vec<Word<Duration>>| !last.is_empty() && last.iter().all(Result::is_ok);
    let whole = *absent == 0 && rounds.last().is_some_and(told);
    (median(rounds.iter().flatten().filter_map(milliseconds).collect()), whole)
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => 0.0,
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(values[middle - 1], *upper),
    }
}

/// KEDA hands on thousandths and cuts off the rest; what keeps the present count must not fall below it by that.
fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// What the HPA makes of an external metric: `replicas.go` in Kubernetes, `GetExternalMetricReplicas` and
/// `GetExternalPerPodMetricReplicas`, with all replicas ready.
#[cfg(test)]
pub(super) fn hpa(trigger: &Trigger, value: f64, replicas: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "as KEDA does it")]
    let milli = |value: f64| (value * 1000.0) as i64;
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let (value, target) = (milli(value) as f64, milli(trigger.target()) as f64);
    let replicas = f64::from(replicas);
    let per_pod = trigger.metric_type() == "AverageValue";
    let ratio = if per_pod { value / (target * replicas) } else { value / target };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let up = |count: f64| count.ceil() as u32;
    if (ratio - 1.0).abs() <= 0.1 {
        up(replicas)
    } else if per_pod {
        up(value / target)
    } else {
        up(replicas * ratio)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn trigger(measure: Measure) -> Trigger {
        Trigger { measure, path: "/v1/models".into(), activation: 0.0 }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as it is read")]
    fn load(waiting: f64, running: f64, kv_cache: f64) -> Word<Load> {
        Ok(Load { waiting: Some(waiting), running: Some(running), kv_cache: Some(kv_cache) })
    }

    fn loads(replicas: u32, absent: u32, loads: Vec<Word<Load>>) -> Readings {
        Readings { replicas, absent, loads, ..Readings::default() }
    }

    fn times(replicas: u32, absent: u32, last: Vec<Word<Duration>>) -> Readings {
        Readings { replicas, absent, rounds: vec![last], ..Readings::default() }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn given(trigger: &Trigger, readings: &Readings) -> (f64, bool) {
        let Answer { value, held, active: _ } = answer(trigger, readings);
        (value, held)
    }

    #[rstest]
    // All tell: sums, whatever the count.
    #[case::queue(Measure::One(Signal::Queue, 5.0), loads(2, 0, vec![load(7.0, 0.0, 0.0), load(4.0, 0.0, 0.0)]), (11.0, false), 3)]
    #[case::idle(Measure::One(Signal::Queue, 5.0), loads(4, 0, vec![load(0.0, 0.0, 0.0); 4]), (0.0, false), 0)]
    #[case::running(Measure::One(Signal::Running, 8.0), loads(1, 0, vec![load(0.0, 20.0, 0.0)]), (20.0, false), 3)]
    #[case::kv_cache(Measure::One(Signal::KvCache, 80.0), loads(2, 0, vec![load(0.0, 0.0, 100.0), load(0.0, 0.0, 90.0)]), (190.0, false), 3)]
    // One is missing: never below the present count, and above it by what the others bear.
    #[case::one_silent(Measure::One(Signal::Queue, 5.0), loads(4, 0, vec![load(0.0, 0.0, 0.0), Err(Fault::Slow(ms(2000)))]), (20.0, true), 4)]
    #[case::others_loaded(Measure::One(Signal::Queue, 5.0), loads(2, 0, vec![load(21.0, 0.0, 0.0), Err(Fault::Garbage("x"))]), (21.0, true), 5)]
    #[case::one_absent(Measure::One(Signal::Queue, 5.0), loads(3, 1, vec![load(0.0, 0.0, 0.0); 2]), (15.0, true), 3)]
    #[case::all_silent(Measure::One(Signal::KvCache, 80.0), loads(3, 0, vec![Err(Fault::Slow(ms(2000))); 3]), (240.0, true), 3)]
    #[case::none_there(Measure::One(Signal::Running, 8.0), loads(3, 3, vec![]), (24.0, true), 3)]
    #[case::signal_lacking(Measure::One(Signal::KvCache, 80.0), loads(1, 0, vec![Ok(Load { waiting: Some(1.0), ..Load::default() })]), (80.0, true), 1)]
    // A combination takes whichever asks for more.
    #[case::combined(
        Measure::Combined(vec![(Signal::Queue, 5.0), (Signal::KvCache, 80.0)]),
        loads(2, 0, vec![load(10.0, 0.0, 90.0), load(0.0, 0.0, 90.0)]), (225.0, false), 3
    )]
    #[case::combined_held(
        Measure::Combined(vec![(Signal::Queue, 5.0), (Signal::KvCache, 80.0)]),
        loads(4, 0, vec![load(10.0, 0.0, 0.0), Err(Fault::Status(500))]), (400.0, true), 4
    )]
    fn loads_are_summed(
        #[case] measure: Measure,
        #[case] readings: Readings,
        #[case] says: (f64, bool),
        #[case] count: u32,
    ) {
        let trigger = trigger(measure);
        assert_eq!(given(&trigger, &readings), says);
        assert_eq!(hpa(&trigger, says.0, readings.replicas), count);
    }

    #[rstest]
    #[case::fast(times(2, 0, vec![Ok(ms(10)), Ok(ms(30))]), (20.0, false), 1)]
    #[case::slow(times(2, 0, vec![Ok(ms(190)), Ok(ms(210))]), (200.0, false), 4)]
    #[case::one_of_three_slow(times(3, 0, vec![Ok(ms(10)), Ok(ms(20)), Ok(ms(2900))]), (20.0, false), 1)]
    #[case::one_hangs(times(3, 0, vec![Ok(ms(10)), Ok(ms(20)), Err(Fault::Slow(ms(3000)))]), (100.0, true), 3)]
    #[case::all_hang(times(2, 0, vec![Err(Fault::Slow(ms(3000))); 2]), (3000.0, true), 60)]
    #[case::all_unreachable(times(2, 0, vec![Err(Fault::Unreachable("refused".into())); 2]), (100.0, true), 2)]
    #[case::one_redirects(times(2, 0, vec![Ok(ms(10)), Err(Fault::Status(302))]), (100.0, true), 2)]
    #[case::none_there(times(4, 4, vec![]), (100.0, true), 4)]
    fn response_times_are_a_median(
        #[case] readings: Readings,
        #[case] says: (f64, bool),
        #[case] count: u32,
    ) {
        let trigger = trigger(Measure::One(Signal::ResponseTime, 100.0));
        assert_eq!(given(&trigger, &readings), says);
        assert_eq!(hpa(&trigger, says.0, readings.replicas), count);
    }

    #[test]
    fn rounds_smooth_what_a_moment_shows() {
        let trigger = trigger(Measure::One(Signal::ResponseTime, 100.0));
        let rounds = [10, 11, 12, 13, 900].map(|time| vec![Ok(ms(time))]).into();
        let readings = Readings { replicas: 1, rounds, ..Readings::default() };
        assert_eq!(given(&trigger, &readings), (12.0, false));
    }

    #[test]
    fn a_combination_scales_a_response_time_by_the_count() {
        let trigger = trigger(Measure::Combined(vec![(Signal::ResponseTime, 100.0)]));
        let (value, held) = given(&trigger, &times(2, 0, vec![Ok(ms(300)), Ok(ms(300))]));
        assert_eq!((value, held, hpa(&trigger, value, 2)), (600.0, false, 6));
    }

    #[test]
    fn activity_is_a_value_above_the_activation() {
        let mut trigger = trigger(Measure::One(Signal::Queue, 5.0));
        let busy = loads(1, 0, vec![load(3.0, 0.0, 0.0)]);
        assert!(answer(&trigger, &busy).active);
        trigger.activation = 3.0;
        assert!(!answer(&trigger, &busy).active);
    }

    fn any_load() -> impl proptest::strategy::Strategy<Value = Option<f64>> {
        proptest::option::of(0.0..1000.0_f64)
    }

    proptest::proptest! {
        /// Whatever some of the servers say, a count with a word missing does not fall.
        #[test]
        fn missing_data_never_scales_down(
            told in proptest::collection::vec(any_load(), 0..12),
            absent in 0_u32..4,
            target in 0.001..500.0_f64,
            signal in 0_usize..4,
        ) {
            let replicas = u32::try_from(told.len()).unwrap() + absent;
            proptest::prop_assume!(replicas > 0 && (absent > 0 || told.iter().any(Option::is_none)));
            let target = (target * 1000.0).round() / 1000.0;
            let signal = Signal::ALL[signal];
            let readings = Readings {
                replicas,
                absent,
                loads: told.iter().map(|told| told.map(|value| Load { waiting: Some(value), running: Some(value), kv_cache: Some(value) }).ok_or(Fault::Slow(ms(2000)))).collect(),
                rounds: vec![told.iter().map(|told| told.map(Duration::from_secs_f64).ok_or(Fault::Status(500))).collect()],
            };
            for measure in [Measure::One(signal, target), Measure::Combined(vec![(signal, target), (Signal::Queue, 2.0 * target)])] {
                let trigger = trigger(measure);
                let Answer { value, held, .. } = answer(&trigger, &readings);
                proptest::prop_assert!(held);
                proptest::prop_assert!(hpa(&trigger, value, replicas) >= replicas, "{trigger:?} {value}");
            }
        }
    }
}
