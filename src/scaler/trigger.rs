//! What a trigger of a ScaledObject asks the scaler for: the metadata of a KEDA `external` trigger, read.
//!
//! Admission refuses what cannot be read, and the scaler answers from the very same reading.
//!
//! Architecture invariant: plain functions of a map of strings. Nothing here knows of KEDA's protocol or of a pod.

use std::collections::BTreeMap;

/// Which signal is asked for: `response-time`, `queue`, `running`, `kv-cache` or `combined`.
pub const SIGNAL: &str = "signal";
/// What one replica is to bear of it; of a response time, what the time is to be.
pub const TARGET: &str = "targetValue";
/// Above which value the ScaledObject counts as active.
pub const ACTIVATION: &str = "activationTargetValue";
/// The path whose response time is measured.
pub const PATH: &str = "path";
/// The value of [`SIGNAL`] that takes whichever signal asks for more.
pub const COMBINED: &str = "combined";
/// Measured where no path is stated: vLLM's list of models, which costs nothing and needs a server that answers.
pub const DEFAULT_PATH: &str = "/v1/models";

/// The keys that KEDA itself reads of an `external` trigger.
pub const OF_KEDA: [&str; 3] = ["scalerAddress", "enableTLS", "unsafeSsl"];
/// The keys that the scaler reads.
pub const OF_SCALER: [&str; 8] =
    [SIGNAL, TARGET, ACTIVATION, PATH, "queueTarget", "runningTarget", "kvCacheTarget", "responseTimeTarget"];

/// KEDA rounds targets to thousandths, and an HPA cannot aim at 0.
const LEAST: f64 = 0.001;
/// Far beyond every queue, and far from the end of a Kubernetes quantity.
const MOST: f64 = 1e9;
/// The highest target of a response time, in milliseconds: a server must be waited for longer than that, and whoever asks
/// waits meanwhile.
const SLOWEST: f64 = 5000.0;
/// Longest path, in bytes.
const LONGEST_PATH: usize = 256;

/// Something that is read from the servers of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// How long a GET takes, in milliseconds.
    ResponseTime,
    /// Requests that wait for a place in a batch.
    Queue,
    /// Requests that are being worked on.
    Running,
    /// How much of the KV cache is in use, in percent.
    KvCache,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ResponseTime, Self::Queue, Self::Running, Self::KvCache];

    /// Its name in a trigger's metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResponseTime => "response-time",
            Self::Queue => "queue",
            Self::Running => "running",
            Self::KvCache => "kv-cache",
        }
    }

    /// The key of its target in a combination.
    pub const fn target_key(self) -> &'static str {
        match self {
            Self::ResponseTime => "responseTimeTarget",
            Self::Queue => "queueTarget",
            Self::Running => "runningTarget",
            Self::KvCache => "kvCacheTarget",
        }
    }

    /// What a target of it counts, after "a number of".
    pub const fn unit(self) -> &'static str {
        match self {
            Self::ResponseTime => "milliseconds",
            Self::Queue => "waiting requests that one replica is to bear",
            Self::Running => "running requests that one replica is to bear",
            Self::KvCache => "percent of the KV cache, at most 100",
        }
    }

    const fn most(self) -> f64 {
        match self {
            Self::KvCache => 100.0,
            Self::ResponseTime => SLOWEST,
            Self::Queue | Self::Running => MOST,
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// One signal against its target, or several.
    pub measure: Measure,
    /// What is measured for a response time.
    pub path: String,
    /// Above which value the ScaledObject counts as active.
    pub activation: f64,
}

/// One signal against its target, or several.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// One signal.
    One(Signal, f64),
    /// Several: the one counts that asks for the most replicas.
    Combined(Vec<(Signal, f64)>),
}

impl Measure {
    /// Its name in a trigger's metadata.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::One(signal, _) => signal.name(),
            Self::Combined(_) => COMBINED,
        }
    }

    /// The signals that are asked for, each with its target.
    pub fn targets(&self) -> Vec<(Signal, f64)> {
        match self {
            Self::One(signal, target) => vec![(*signal, *target)],
            Self::Combined(targets) => targets.clone(),
        }
    }
}

impl Trigger {
    /// Reads the metadata of a trigger. Values are trimmed, and one that is empty is absent, as KEDA has it. Keys that nobody
    /// reads are no fault here.
    pub fn read<'a>(
        metadata: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, Vec<Fault>> {
        let read = metadata.into_iter().map(|(key, value)| (key.as_str(), value.trim()));
        let stated = read.filter(|(_, value)| !value.is_empty()).collect();
        let mut read = Read { stated, faults: Vec::new() };
        let measure = read.measure();
        let activation = read.activation();
        let path = read.path();
        // What is missing has left a fault.
        match measure {
            Some(measure) if read.faults.is_empty() => Ok(Self { measure, path, activation }),
            _ => Err(read.faults),
        }
    }

    /// The `metricType` that the trigger must have, so that the HPA makes of the value what it means: a response time is one
    /// of the whole cluster, and all else a sum over its replicas.
    pub fn metric_type(&self) -> &'static str {
        match self.measure {
            Measure::One(Signal::ResponseTime, _) => "Value",
            Measure::One(..) | Measure::Combined(_) => "AverageValue",
        }
    }

    /// What the HPA aims at. Of a combination, 100 percent of what one replica is to bear.
    pub fn target(&self) -> f64 {
        match self.measure {
            Measure::One(_, target) => target,
            Measure::Combined(_) => 100.0,
        }
    }

    /// The name of its metric; KEDA puts the trigger's index before it.
    pub fn metric_name(&self) -> &'static str {
        match self.measure {
            Measure::One(Signal::ResponseTime, _) => "vllm-response-time",
            Measure::One(Signal::Queue, _) => "vllm-queue",
            Measure::One(Signal::Running, _) => "vllm-running",
            Measure::One(Signal::KvCache, _) => "vllm-kv-cache",
            Measure::Combined(_) => "vllm-combined",
        }
    }
}

/// What is wrong with one key of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which key.
    pub key: &'static str,
    /// Whether it is missing.
    pub missing: bool,
    /// What is wrong, what is allowed, what to do; follows the key.
    pub message: String,
}

impl Fault {
    fn missing(key: &'static str, message: String) -> Self {
        Self { key, missing: true, message }
    }
    fn unreadable(key: &'static str, message: String) -> Self {
        Self { key, missing: false, message }
    }
}

/// A reading under way.
struct Read<'a> {
    stated: BTreeMap<&'a str, &'a str>,
    faults: Vec<Fault>,
}

impl<'a> Read<'a> {
    fn value(&self, key: &str) -> Option<&'a str> {
        self.stated.get(key).copied()
    }

    fn measure(&mut self) -> Option<Measure> {
        let Some(name) = self.value(SIGNAL) else {
            self.faults.push(Fault::missing(SIGNAL, format!("is missing; state {}", names())));
            return None;
        };
        if name == COMBINED {
            return self.combined();
        }
        let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.name() == name) else {
            let message = format!("{name:?} is no signal of the scaler; use {}", names());
            self.faults.push(Fault::unreadable(SIGNAL, message));
            return None;
        };
        for other in Signal::ALL.map(Signal::target_key) {
            if self.value(other).is_some() {
                let message = format!("is read with signal: {COMBINED} alone; state {TARGET} instead");
                self.faults.push(Fault::unreadable(other, message));
            }
        }
        if self.value(TARGET).is_none() {
            let message = format!("is missing; state a number of {}", signal.unit());
            self.faults.push(Fault::missing(TARGET, message));
        }
        self.target(signal, TARGET).map(|target| Measure::One(signal, target))
    }

    fn combined(&mut self) -> Option<Measure> {
        if self.value(TARGET).is_some() {
            let message = format!("has no meaning with signal: {COMBINED}; state {} instead", target_keys());
            self.faults.push(Fault::unreadable(TARGET, message));
        }
        let stated = Signal::ALL.map(|signal| Some((signal, self.target(signal, signal.target_key())?)));
        if Signal::ALL.iter().all(|signal| self.value(signal.target_key()).is_none()) {
            let message = format!("combines nothing; state one or more of {}", target_keys());
            self.faults.push(Fault::missing(SIGNAL, message));
        }
        let targets: Vec<_> = stated.into_iter().flatten().collect();
        (!targets.is_empty()).then_some(Measure::Combined(targets))
    }

    /// A target, if it is stated; a fault, if it cannot be read.
    fn target(&mut self, signal: Signal, key: &'static str) -> Option<f64> {
        let text = self.value(key)?;
        let most = signal.most();
        // As KEDA hands it on.
        let number = number(text).map(|number| (number * 1000.0).round() / 1000.0);
        let number = number.filter(|number| (LEAST..=most).contains(number));
        if number.is_none() {
            let message = format!(
                "{text:?} is no number from {LEAST} to {most}; use a number of {}, such as {}",
                signal.unit(),
                if signal == Signal::ResponseTime { "100" } else { "5" }
            );
            self.faults.push(Fault::unreadable(key, message));
        }
        number
    }

    fn activation(&mut self) -> f64 {
        let Some(text) = self.value(ACTIVATION) else { return 0.0 };
        let number = number(text).filter(|number| (0.0..=MOST).contains(number));
        if number.is_none() {
            let message =
                format!("{text:?} is no number from 0 to {MOST}; use one such as 5, or leave it out for 0");
            self.faults.push(Fault::unreadable(ACTIVATION, message));
        }
        number.unwrap_or_default()
    }

    fn path(&mut self) -> String {
        let Some(path) = self.value(PATH) else { return DEFAULT_PATH.to_owned() };
        if let Some(wrong) = wrong_path(path) {
            let message = format!("{path:?} {wrong}; use a path of the servers such as {DEFAULT_PATH}");
            self.faults.push(Fault::unreadable(PATH, message));
        }
        path.to_owned()
    }
}

/// What is wrong with a path, if anything. It goes into the request line as it is.
pub fn wrong_path(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        Some("does not begin with /")
    } else if path.starts_with("//") {
        Some("begins with //, which names a host")
    } else if path.len() > LONGEST_PATH {
        Some("has more than 256 bytes")
    } else if path.contains('#') {
        Some("has a fragment, which no server ever sees")
    } else if path.bytes().any(|byte| !byte.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&byte)) {
        Some("has characters that must be escaped as %XX")
    } else {
        None
    }
}

/// A number as in JSON, which is how KEDA writes and reads them.
fn number(text: &str) -> Option<f64> {
    serde_json::from_str::<f64>(text).ok().filter(|number| number.is_finite())
}

fn names() -> String {
    let names = Signal::ALL.map(Signal::name);
    format!("{} or {COMBINED}", names.join(", "))
}

fn target_keys() -> String {
    Signal::ALL.map(Signal::target_key).join(", ")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Trigger, String> {
        let pairs = pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        Trigger::read(&pairs.collect::<BTreeMap<_, _>>()).map_err(|faults| {
            let faults = faults.iter().map(|Fault { key, missing, message }| {
                format!("{key}{} {message}", if *missing { "?" } else { "" })
            });
            faults.collect::<Vec<_>>().join(" | ")
        })
    }

    #[rstest]
    #[case(&[("signal", "queue"), ("targetValue", "5")], Measure::One(Signal::Queue, 5.0), "AverageValue", "vllm-queue")]
    #[case(&[("signal", " running "), ("targetValue", "0.5 ")], Measure::One(Signal::Running, 0.5), "AverageValue", "vllm-running")]
    #[case(&[("signal", "kv-cache"), ("targetValue", "80")], Measure::One(Signal::KvCache, 80.0), "AverageValue", "vllm-kv-cache")]
    #[case(&[("signal", "response-time"), ("targetValue", "100")], Measure::One(Signal::ResponseTime, 100.0), "Value", "vllm-response-time")]
    #[case(
        &[("signal", "combined"), ("queueTarget", "5"), ("kvCacheTarget", "80"), ("runningTarget", "")],
        Measure::Combined(vec![(Signal::Queue, 5.0), (Signal::KvCache, 80.0)]), "AverageValue", "vllm-combined"
    )]
    fn what_is_asked_for(
        #[case] metadata: &[(&str, &str)],
        #[case] measure: Measure,
        #[case] metric_type: &str,
        #[case] metric_name: &str,
    ) {
        let trigger = read(metadata).unwrap();
        assert_eq!((trigger.path.as_str(), trigger.activation), (DEFAULT_PATH, 0.0));
        assert_eq!((trigger.metric_type(), trigger.metric_name()), (metric_type, metric_name));
        let target = match &measure {
            Measure::One(_, target) => *target,
            Measure::Combined(_) => 100.0,
        };
        assert!((trigger.target() - target).abs() < f64::EPSILON);
        assert_eq!(trigger.measure, measure);
    }

    #[rstest]
    #[case::nothing(&[], "signal? is missing; state response-time, queue, running, kv-cache or combined")]
    #[case::unknown(&[("signal", "que")], "signal \"que\" is no signal of the scaler; use response-time, queue")]
    #[case::no_target(&[("signal", "queue")], "targetValue? is missing; state a number of waiting requests")]
    #[case::no_number(&[("signal", "queue"), ("targetValue", "five")], "targetValue \"five\" is no number from 0.001 to 1000000000")]
    #[case::zero(&[("signal", "queue"), ("targetValue", "0")], "\"0\" is no number from 0.001")]
    #[case::too_much(&[("signal", "kv-cache"), ("targetValue", "101")], "\"101\" is no number from 0.001 to 100;")]
    #[case::too_slow(&[("signal", "response-time"), ("targetValue", "6000")], "\"6000\" is no number from 0.001 to 5000;")]
    #[case::nothing_left(&[("signal", "queue"), ("targetValue", "0.0004")], "\"0.0004\" is no number from 0.001")]
    #[case::infinite(&[("signal", "queue"), ("targetValue", "1e999")], "is no number")]
    #[case::nothing_combined(&[("signal", "combined")], "signal? combines nothing; state one or more of responseTimeTarget, queueTarget")]
    #[case::one_unreadable(&[("signal", "combined"), ("queueTarget", "x")], "queueTarget \"x\" is no number")]
    #[case::target_of_all(&[("signal", "combined"), ("queueTarget", "1"), ("targetValue", "1")], "targetValue has no meaning with signal: combined")]
    #[case::target_of_another(&[("signal", "queue"), ("targetValue", "1"), ("runningTarget", "1")], "runningTarget is read with signal: combined alone")]
    #[case::activation(&[("signal", "queue"), ("targetValue", "1"), ("activationTargetValue", "-1")], "activationTargetValue \"-1\" is no number from 0")]
    #[case::path(&[("signal", "response-time"), ("targetValue", "1"), ("path", "v1")], "path \"v1\" does not begin with /; use a path")]
    fn what_cannot_be_read(#[case] metadata: &[(&str, &str)], #[case] says: &str) {
        let faults = read(metadata).unwrap_err();
        assert!(faults.contains(says), "{faults}");
        assert!(!faults.contains(" | "), "one fault, one sentence: {faults}");
    }

    #[test]
    fn paths_stay_on_the_server() {
        for right in ["/", "/health", "/v1/models?x=1&y=%20", "/a/../b"] {
            assert_eq!(wrong_path(right), None, "{right}");
        }
        let long = format!("/{}", "a".repeat(256));
        for wrong in
            ["", "health", "//evil/x", "http://evil/", "/a b", "/a\r\nHost: x", "/ü", "/a#b", "/{a}", &long]
        {
            assert!(wrong_path(wrong).is_some(), "{wrong}");
        }
    }
}
