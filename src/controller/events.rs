//! Events: what `kubectl describe` shows of a cluster's history, one for each transition that matters.
//!
//! Architecture invariant: what to tell is a plain function of two statuses. An event that cannot be written is not
//! tried again, and keeps nothing else from being done.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::time::timeout;
use tracing::debug;

use crate::api::names::{
    CONDITION_READY, CONDITION_RECONCILING, CONDITION_SCALING_CONFLICT, CONDITION_STALLED,
};
use crate::api::{AutoscalingStatus, VLLMClusterStatus, reasons};

use super::observe::CALL_TIMEOUT;
use super::shortened;

/// Longest note, in characters. The API takes 1,024 bytes, and a character of what pods say has up to four.
const MAX_NOTE: usize = 240;

/// Reasons of a `Ready` that is `False` which time mends: of a cluster on its way they are no news.
const UNDER_WAY: [&str; 6] = [
    reasons::LOADING,
    reasons::STARTING,
    reasons::TERMINATING,
    reasons::NOT_ENOUGH_REPLICAS,
    reasons::SPEC_NOT_TAKEN,
    reasons::ROLLING_OUT,
];

/// What to tell of the way from one status to the next.
pub fn notices(before: Option<&VLLMClusterStatus>, after: &VLLMClusterStatus) -> Vec<Event> {
    let condition = |status: &VLLMClusterStatus, kind| {
        status.conditions.iter().find(|condition| condition.type_ == kind).cloned()
    };
    let turn = |kind| (before.and_then(|before| condition(before, kind)), condition(after, kind));
    let autoscaling = before.and_then(|before| before.autoscaling.as_ref());
    [
        ready(turn(CONDITION_READY)),
        rolling_out(turn(CONDITION_RECONCILING)),
        trouble(turn(CONDITION_STALLED)),
        trouble(turn(CONDITION_SCALING_CONFLICT)),
        paused(autoscaling, after.autoscaling.as_ref()),
        failing(autoscaling, after.autoscaling.as_ref()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A condition before and after.
type Turn = (Option<Condition>, Option<Condition>);

/// That it serves, that it does not any more, and what keeps it from serving.
fn ready((before, after): Turn) -> Option<Event> {
    let after = after?;
    let was_ready = before.as_ref().is_some_and(holds);
    if holds(&after) {
        return (!was_ready).then(|| of_condition(EventType::Normal, after));
    }
    let news = if UNDER_WAY.contains(&after.reason.as_str()) {
        was_ready
    } else {
        was_ready || before.is_none_or(|before| before.reason != after.reason)
    };
    news.then(|| of_condition(EventType::Warning, after))
}

/// That pods are being replaced.
fn rolling_out((before, after): Turn) -> Option<Event> {
    let rolling = |condition: &Condition| holds(condition) && condition.reason == reasons::ROLLING_OUT;
    let after = after.filter(rolling)?;
    (!before.as_ref().is_some_and(rolling)).then(|| of_condition(EventType::Normal, after))
}

/// Conditions that are best `False`: what is wrong, and that it is over.
fn trouble((before, after): Turn) -> Option<Event> {
    let after = after?;
    let was = before.filter(holds);
    if holds(&after) {
        let news = was.is_none_or(|was| was.reason != after.reason);
        news.then(|| of_condition(EventType::Warning, after))
    } else {
        was.map(|_| of_condition(EventType::Normal, after))
    }
}

/// That what drives the count leaves it alone, and that it drives again.
fn paused(before: Option<&AutoscalingStatus>, after: Option<&AutoscalingStatus>) -> Option<Event> {
    let AutoscalingStatus { kind, name, paused, min_replicas, max_replicas, last_error: _ } = after?;
    let was = before.filter(|before| before.kind == *kind && before.name == *name)?.paused;
    let (reason, note) = match (was, *paused) {
        (false, true) => {
            (reasons::AUTOSCALING_PAUSED, format!("{kind} {name} is paused: it leaves the count as it is"))
        }
        (true, false) => (
            reasons::AUTOSCALING_RESUMED,
            format!("{kind} {name} drives the count from {min_replicas} to {max_replicas} again"),
        ),
        (true, true) | (false, false) => return None,
    };
    Some(event(EventType::Normal, reason.into(), note))
}

/// That what drives the count says it cannot.
fn failing(before: Option<&AutoscalingStatus>, after: Option<&AutoscalingStatus>) -> Option<Event> {
    let AutoscalingStatus { kind, name, last_error, .. } = after?;
    let error = last_error.as_ref()?;
    let failed = before
        .is_some_and(|before| before.kind == *kind && before.name == *name && before.last_error.is_some());
    let note = format!("{kind} {name}: {error}");
    (!failed).then(|| event(EventType::Warning, reasons::AUTOSCALING_FAILING.into(), note))
}

fn holds(condition: &Condition) -> bool {
    condition.status == "True"
}

fn of_condition(type_: EventType, condition: Condition) -> Event {
    event(type_, condition.reason, condition.message)
}

fn event(type_: EventType, reason: String, note: String) -> Event {
    let note = Some(shortened(note, MAX_NOTE));
    Event { type_, reason, note, action: "Reconcile".into(), secondary: None }
}

/// Writes them; one of the same kind and reason within six minutes is counted up on the one that is there.
pub async fn publish(recorder: &Recorder, cluster: &ObjectReference, events: &[Event]) {
    for event in events {
        let reason = event.reason.as_str();
        match timeout(CALL_TIMEOUT, recorder.publish(event, cluster)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, reason, "event not written"),
            Err(_elapsed) => debug!(reason, "event not written in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use rstest::rstest;

    use super::*;

    /// Ready, Reconciling, Stalled, `ScalingConflict`: whether each holds, and its reason.
    type Conditions = [(bool, &'static str); 4];

    fn status(conditions: Conditions) -> VLLMClusterStatus {
        let kinds = [CONDITION_READY, CONDITION_RECONCILING, CONDITION_STALLED, CONDITION_SCALING_CONFLICT];
        let conditions = kinds.into_iter().zip(conditions).map(|(kind, (holds, reason))| Condition {
            type_: kind.into(),
            status: if holds { "True" } else { "False" }.into(),
            reason: reason.into(),
            message: format!("{kind} {reason}"),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        });
        VLLMClusterStatus { conditions: conditions.collect(), ..VLLMClusterStatus::default() }
    }

    fn told(before: Option<&VLLMClusterStatus>, after: &VLLMClusterStatus) -> Vec<String> {
        let notices = notices(before, after).into_iter();
        notices.map(|event| format!("{:?} {}", event.type_, event.reason)).collect()
    }

    const FINE: Conditions =
        [(true, "EnoughReplicas"), (false, "UpToDate"), (false, "NothingInTheWay"), (false, "Consistent")];
    const LOADING: Conditions = [(false, "Loading"), (true, "Starting"), FINE[2], FINE[3]];
    const CRASHING: Conditions = [(false, "CrashLoop"), (true, "Starting"), FINE[2], FINE[3]];
    const PULLING: Conditions = [(false, "ImagePull"), (true, "Starting"), FINE[2], FINE[3]];
    const ROLLING: Conditions = [FINE[0], (true, "RollingOut"), FINE[2], FINE[3]];
    const STALLED: Conditions = [FINE[0], (false, "Stalled"), (true, "NameTaken"), FINE[3]];
    const REFUSED: Conditions = [FINE[0], (false, "Stalled"), (true, "Refused"), FINE[3]];
    const CONFLICT: Conditions = [FINE[0], FINE[1], FINE[2], (true, "DoesNotFit")];

    #[rstest]
    #[case::new_and_loading(None, LOADING, &[])]
    #[case::new_and_broken(None, CRASHING, &["Warning CrashLoop"])]
    #[case::serves(Some(LOADING), FINE, &["Normal EnoughReplicas"])]
    #[case::adopted_and_serves(None, FINE, &["Normal EnoughReplicas"])]
    #[case::nothing_new(Some(FINE), FINE, &[])]
    #[case::goes_on_loading(Some(LOADING), LOADING, &[])]
    #[case::crashes(Some(LOADING), CRASHING, &["Warning CrashLoop"])]
    #[case::crashes_still(Some(CRASHING), CRASHING, &[])]
    #[case::another_cause(Some(CRASHING), PULLING, &["Warning ImagePull"])]
    #[case::tries_again(Some(CRASHING), LOADING, &[])]
    #[case::stops_serving(Some(FINE), LOADING, &["Warning Loading"])]
    #[case::rolls_out(Some(FINE), ROLLING, &["Normal RollingOut"])]
    #[case::rolls_on(Some(ROLLING), ROLLING, &[])]
    #[case::rolled_out(Some(ROLLING), FINE, &[])]
    #[case::stalls(Some(FINE), STALLED, &["Warning NameTaken"])]
    #[case::stalls_otherwise(Some(STALLED), REFUSED, &["Warning Refused"])]
    #[case::goes_on(Some(STALLED), FINE, &["Normal NothingInTheWay"])]
    #[case::does_not_fit(Some(FINE), CONFLICT, &["Warning DoesNotFit"])]
    #[case::fits(Some(CONFLICT), FINE, &["Normal Consistent"])]
    fn conditions(#[case] before: Option<Conditions>, #[case] after: Conditions, #[case] expected: &[&str]) {
        assert_eq!(told(before.map(status).as_ref(), &status(after)), expected);
    }

    fn driven(paused: bool, last_error: Option<&str>) -> VLLMClusterStatus {
        let autoscaling = AutoscalingStatus {
            kind: "ScaledObject".into(),
            name: "s".into(),
            min_replicas: 1,
            max_replicas: 5,
            paused,
            last_error: last_error.map(str::to_owned),
        };
        VLLMClusterStatus { autoscaling: Some(autoscaling), ..status(FINE) }
    }

    #[rstest]
    #[case::of_one_that_is_new(status(FINE), driven(true, None), &[])]
    #[case::paused(driven(false, None), driven(true, None), &["Normal AutoscalingPaused"])]
    #[case::resumed(driven(true, None), driven(false, None), &["Normal AutoscalingResumed"])]
    #[case::fails(driven(false, None), driven(false, Some("a")), &["Warning AutoscalingFailing"])]
    #[case::fails_from_the_start(status(FINE), driven(false, Some("a")), &["Warning AutoscalingFailing"])]
    #[case::fails_otherwise(driven(false, Some("a")), driven(false, Some("b")), &[])]
    #[case::works_again(driven(false, Some("a")), driven(false, None), &[])]
    fn autoscaling(
        #[case] before: VLLMClusterStatus,
        #[case] after: VLLMClusterStatus,
        #[case] expected: &[&str],
    ) {
        assert_eq!(told(Some(&before), &after), expected);
    }

    #[test]
    fn a_note_is_cut_to_what_the_api_takes() {
        let note = event(EventType::Normal, String::new(), "🦀".repeat(2000)).note.unwrap_or_default();
        assert!(note.len() <= 1024 && note.starts_with("🦀"), "{}", note.len());
    }
}
