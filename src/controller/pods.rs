//! Why pods do not serve: the cause that a person would find after five commands.
//!
//! Architecture invariant: a plain function of the pods as they are. It tells when things happened, never how long
//! ago: a status that counted seconds would be written each second.

use std::ops::RangeInclusive;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt as _;

use crate::api::names::CONTAINER;
use crate::api::reasons;

use super::refusals::Refusal;
use super::shortened;

/// A pod's grace period, in seconds, where it states none.
const GRACE: i64 = 30;
/// How long after a budget is used up the kubelet may see so, in seconds: a few probes that are not answered in time.
const SEEN_LATE: i64 = 30;
/// Longest text that is taken over from a pod, in characters.
const MAX_TEXT: usize = 512;

/// What keeps one pod from serving. The order is that of urgency: what needs a person comes before what time mends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A ResourceQuota leaves no room for the pod.
    QuotaExceeded,
    /// The API server refuses to create the pod for another reason.
    PodsRefused,
    /// The container cannot be made: a Secret, a ConfigMap or a key is missing.
    ContainerConfig,
    /// The image cannot be pulled.
    ImagePull,
    /// The server used more memory than its limit.
    OutOfMemory,
    /// The server did not load within its budget.
    StartupTimeout,
    /// The server ends again and again.
    CrashLoop,
    /// The pod has ended for good: evicted, or lost with its node.
    PodFailed,
    /// No node has room for the pod.
    Unschedulable,
    /// The server was ready and does not answer `/health` any more.
    NotHealthy,
    /// The server loads its model.
    Loading,
    /// The pod is being set up.
    Starting,
    /// The pod is on its way out.
    Terminating,
    /// The pods could not be looked at.
    Unknown,
}

impl Reason {
    /// The reason as conditions and events show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuotaExceeded => reasons::QUOTA_EXCEEDED,
            Self::PodsRefused => reasons::PODS_REFUSED,
            Self::ContainerConfig => reasons::CONTAINER_CONFIG,
            Self::ImagePull => reasons::IMAGE_PULL,
            Self::OutOfMemory => reasons::OUT_OF_MEMORY,
            Self::StartupTimeout => reasons::STARTUP_TIMEOUT,
            Self::CrashLoop => reasons::CRASH_LOOP,
            Self::PodFailed => reasons::POD_FAILED,
            Self::Unschedulable => reasons::UNSCHEDULABLE,
            Self::NotHealthy => reasons::NOT_HEALTHY,
            Self::Loading => reasons::LOADING,
            Self::Starting => reasons::STARTING,
            Self::Terminating => reasons::TERMINATING,
            Self::Unknown => reasons::NOT_ENOUGH_REPLICAS,
        }
    }
}

/// The most urgent cause among a cluster's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// What it is.
    pub reason: Reason,
    /// Which pod, and what is said of it.
    pub message: String,
}

/// Why the StatefulSet controller could not create a pod, as it says itself.
pub fn refused(said: &str) -> Cause {
    let reason = if said.contains("exceeded quota") { Reason::QuotaExceeded } else { Reason::PodsRefused };
    Cause { reason, message: told(said) }
}

/// Whether a refusal is younger than every pod. One that is older is over.
pub fn is_in_force(refusal: &Refusal, pods: &[Pod]) -> bool {
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    pods.iter().filter_map(created).max() <= refusal.at
}

/// The most urgent cause among pods that are not ready; of equal ones, that of the lowest ordinal. `None`: all are.
/// `startup_seconds` is the budget for loading.
pub fn cause(pods: &[Pod], startup_seconds: i32) -> Option<Cause> {
    let mut found: Vec<_> = pods
        .iter()
        .filter_map(|pod| {
            of_pod(pod, startup_seconds).map(|(reason, text)| (reason, ordinal(pod), pod, text))
        })
        .collect();
    found.sort_by_key(|(reason, ordinal, ..)| (*reason, *ordinal));
    let alike = found.iter().filter(|(reason, ..)| *reason == found[0].0).count();
    let (reason, _, pod, text) = found.into_iter().next()?;
    let others = match alike - 1 {
        0 => String::new(),
        1 => " (and 1 more pod)".into(),
        more => format!(" (and {more} more pods)"),
    };
    Some(Cause { reason, message: format!("pod {}{others}: {text}", pod.name_any()) })
}

/// How long a server may load.
struct Budget {
    /// From its start, in seconds.
    seconds: i32,
    /// When one that loads longer has ended, in seconds after its start. Whatever ends later had served.
    used_up: RangeInclusive<i64>,
}

impl Budget {
    fn of(pod: &Pod, seconds: i32) -> Self {
        let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(GRACE);
        let earliest = i64::from(seconds);
        Self { seconds, used_up: earliest..=earliest.saturating_add(grace).saturating_add(SEEN_LATE) }
    }
}

/// Whether its readiness probe passes.
pub fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn ordinal(pod: &Pod) -> u32 {
    pod.name_any().rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(u32::MAX)
}

fn of_pod(pod: &Pod, startup_seconds: i32) -> Option<(Reason, String)> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some((Reason::Terminating, "it is being stopped".into()));
    }
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        let why = [&status.reason, &status.message].into_iter().flatten().map(String::as_str);
        let why: Vec<_> = why.collect();
        return Some((Reason::PodFailed, told(&format!("it has ended: {}", why.join(": ")))));
    }
    let condition = |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    if let Some(scheduled) = condition("PodScheduled").filter(|scheduled| scheduled.status == "False") {
        let message = scheduled.message.as_deref().unwrap_or("no node takes it");
        return Some((Reason::Unschedulable, told(message)));
    }
    if is_ready(pod) {
        return None;
    }
    let turned = condition("Ready").and_then(|ready| Some(ready.last_transition_time.as_ref()?.0));
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let budget = Budget::of(pod, startup_seconds);
    containers
        .filter_map(|container| of_container(container, turned, &budget))
        .min_by_key(|(reason, _)| *reason)
        .or(Some((Reason::Starting, "it is being set up".into())))
}

/// `turned` is when the pod came to be ready or unready.
fn of_container(
    container: &ContainerStatus,
    turned: Option<Timestamp>,
    budget: &Budget,
) -> Option<(Reason, String)> {
    let name = &container.name;
    let state = container.state.as_ref()?;
    let before = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().unwrap_or(reason);
        return match reason {
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                Some((Reason::ImagePull, told(&format!("image {}: {message}", container.image))))
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                Some((Reason::ContainerConfig, told(&format!("container {name}: {message}"))))
            }
            "ContainerCreating" | "PodInitializing" if before.is_none() => None,
            _ => before.map(|end| of_end(container, end, budget)),
        };
    }
    if let Some(end) = state.terminated.as_ref().filter(|end| end.exit_code != 0) {
        return Some(of_end(container, end, budget));
    }
    running(container, state, (before, turned), budget)
}

/// A container that runs and is not ready.
fn running(
    container: &ContainerStatus,
    state: &ContainerState,
    (before, turned): (Option<&ContainerStateTerminated>, Option<Timestamp>),
    budget: &Budget,
) -> Option<(Reason, String)> {
    let name = &container.name;
    let since = state.running.as_ref()?.started_at.as_ref()?.0;
    if container.ready {
        return None;
    }
    match before {
        // It has ended before, and nothing says yet that this time is another.
        Some(end) if container.started != Some(true) => Some(of_end(container, end, budget)),
        // A pod that has been unready since before the container started waits for its first answer.
        _ if container.started == Some(true) && turned.is_none_or(|turned| turned <= since) => {
            Some((Reason::Starting, format!("container {name} has started, and is not ready yet")))
        }
        _ if container.started == Some(true) && name == CONTAINER => {
            Some((Reason::NotHealthy, format!("container {name} does not answer GET /health")))
        }
        _ if container.started == Some(true) => {
            Some((Reason::NotHealthy, format!("container {name} is not ready any more")))
        }
        _ if name == CONTAINER => {
            let until = since.checked_add(SignedDuration::from_secs(budget.seconds.into())).unwrap_or(since);
            Some((
                Reason::Loading,
                format!("loading since {}, and given until {}", to_second(since), to_second(until)),
            ))
        }
        _ => Some((Reason::Starting, format!("container {name} is starting"))),
    }
}

/// A container that has ended.
fn of_end(container: &ContainerStatus, end: &ContainerStateTerminated, budget: &Budget) -> (Reason, String) {
    let name = &container.name;
    let restarts = container.restart_count;
    let ran = end
        .started_at
        .as_ref()
        .zip(end.finished_at.as_ref())
        .map(|(start, end)| end.0.duration_since(start.0));
    // The kubelet stops what its startup probe has given up. vLLM makes an interrupt of SIGTERM while it loads, and
    // ends with 130; a shell around it with 143, and what does not listen with 137.
    let stopped = matches!(end.exit_code, 130 | 137 | 143) || end.signal.is_some();
    let too_slow = name == CONTAINER
        && stopped
        && container.started != Some(true)
        && ran.is_some_and(|ran| budget.used_up.contains(&ran.as_secs()));
    let said = end.message.as_deref().map(last_lines).unwrap_or_default();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    if end.reason.as_deref() == Some("OOMKilled") {
        (
            Reason::OutOfMemory,
            format!("container {name} used more memory than its limit, {restarts} restarts so far"),
        )
    } else if too_slow {
        (
            Reason::StartupTimeout,
            format!(
                "container {name} did not answer GET /health within {} s of its start, {restarts} restarts so far; raise spec.startupSeconds if the model needs longer{said}",
                budget.seconds
            ),
        )
    } else {
        let code = end.exit_code;
        (
            Reason::CrashLoop,
            format!("container {name} ended with exit code {code}, {restarts} restarts so far{said}"),
        )
    }
}

/// The end of a termination message: errors stand last.
fn last_lines(message: &str) -> String {
    let message = message.trim();
    let from = message.char_indices().rev().nth(MAX_TEXT - 1).map_or(0, |(at, _)| at);
    without_tokens(&message[from..])
}

/// A text of a pod, cut short and cleared of tokens.
fn told(text: &str) -> String {
    without_tokens(&shortened(text.to_owned(), MAX_TEXT))
}

/// Words that look like credentials are left out: a status is read by more people than a Secret.
fn without_tokens(text: &str) -> String {
    const SECRET: &[&str] = &["hf_", "sk-", "ghp_", "glpat-", "xoxb-", "eyJ", "AKIA", "AIza"];
    const NAMES: &[&str] = &["password", "passwd", "token", "secret", "apikey", "api_key", "api-key"];
    let clean = |word: &str| {
        let secret = word
            .split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-'))
            .any(|part| part.len() > 12 && SECRET.iter().any(|prefix| part.starts_with(prefix)));
        // As in `password=x`; what comes behind a space may be the next word of a sentence.
        let named = word.split_once(['=', ':']).filter(|(name, value)| {
            let name = name.to_ascii_lowercase();
            !value.is_empty() && NAMES.iter().any(|secret| name.ends_with(secret))
        });
        match (secret, named) {
            (true, _) => "[redacted]".to_owned(),
            (false, Some((name, value))) => {
                let sign = &word[name.len()..word.len() - value.len()];
                format!("{name}{sign}[redacted]")
            }
            (false, None) => word.to_owned(),
        }
    };
    let mut bearer = false;
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let (word, space) = word.split_at(word.trim_end().len());
        let shown = if std::mem::take(&mut bearer) { "[redacted]".to_owned() } else { clean(word) };
        bearer = word.trim_matches(|c: char| !c.is_ascii_alphabetic()).eq_ignore_ascii_case("bearer");
        // In a condition there is one line.
        shown + if space.is_empty() { "" } else { " " }
    });
    words.collect()
}

fn to_second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests;
