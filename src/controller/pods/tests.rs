//! Causes of pods as the API server shows them.

use k8s_openapi::api::core::v1::Event;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn pod(name: &str, status: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
}

fn container(status: &Value) -> Value {
    let mut container =
        json!({"name": "vllm", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
    container.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    json!({"containerStatuses": [container]})
}

fn ended(end: &Value) -> Value {
    container(
        &json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": end}}),
    )
}

/// A server that started with the year, in a pod that is unready since `turned`.
fn unready_since(turned: &str) -> Value {
    let mut status =
        container(&json!({"started": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}));
    status["conditions"] = json!([{"type": "Ready", "status": "False", "lastTransitionTime": turned}]);
    status
}

#[rstest]
#[case::unschedulable(
    json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]}),
    Reason::Unschedulable, "pod a-0: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
)]
#[case::image(
    container(&json!({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"i\""}}})),
    Reason::ImagePull, "pod a-0: image i: Back-off pulling image \"i\""
)]
#[case::config(
    container(&json!({"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"hf\" not found"}}})),
    Reason::ContainerConfig, "pod a-0: container vllm: secret \"hf\" not found"
)]
#[case::crash(
    ended(&json!({"exitCode": 1, "reason": "Error", "message": "Traceback\nValueError: no such model"})),
    Reason::CrashLoop, "pod a-0: container vllm ended with exit code 1, 3 restarts so far: Traceback ValueError: no such model"
)]
#[case::out_of_memory(
    ended(&json!({"exitCode": 137, "reason": "OOMKilled"})),
    Reason::OutOfMemory, "pod a-0: container vllm used more memory than its limit, 3 restarts so far"
)]
#[case::too_slow(
    ended(&json!({"exitCode": 137, "reason": "Error", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:41Z"})),
    Reason::StartupTimeout, "pod a-0: container vllm did not answer GET /health within 100 s of its start, 3 restarts so far; raise spec.startupSeconds if the model needs longer"
)]
#[case::too_slow_and_interrupted(
    ended(&json!({"exitCode": 130, "reason": "Error", "message": "KeyboardInterrupt: terminated", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:46Z"})),
    Reason::StartupTimeout, "pod a-0: container vllm did not answer GET /health within 100 s of its start, 3 restarts so far; raise spec.startupSeconds if the model needs longer: KeyboardInterrupt: terminated"
)]
#[case::stopped_before_its_budget_was_used(
    ended(&json!({"exitCode": 137, "reason": "Error", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:39Z"})),
    Reason::CrashLoop, "pod a-0: container vllm ended with exit code 137, 3 restarts so far"
)]
#[case::ended_after_it_had_served(
    ended(&json!({"exitCode": 137, "reason": "Error", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:02:41Z"})),
    Reason::CrashLoop, "pod a-0: container vllm ended with exit code 137, 3 restarts so far"
)]
#[case::loading(
    container(&json!({"started": false, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})),
    Reason::Loading, "pod a-0: loading since 2026-01-01T00:00:00Z, and given until 2026-01-01T00:01:40Z"
)]
#[case::loading_again_after_a_crash(
    container(&json!({"started": false, "restartCount": 1, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": {"terminated": {"exitCode": 2}}})),
    Reason::CrashLoop, "pod a-0: container vllm ended with exit code 2, 1 restarts so far"
)]
#[case::started(
    unready_since("2025-12-31T23:59:58Z"),
    Reason::Starting,
    "pod a-0: container vllm has started, and is not ready yet"
)]
#[case::silent(
    unready_since("2026-01-01T00:00:01Z"),
    Reason::NotHealthy,
    "pod a-0: container vllm does not answer GET /health"
)]
#[case::creating(
    container(&json!({"state": {"waiting": {"reason": "ContainerCreating"}}})),
    Reason::Starting, "pod a-0: it is being set up"
)]
#[case::evicted(
    json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
    Reason::PodFailed, "pod a-0: it has ended: Evicted: The node was low on resource: memory."
)]
fn the_cause_of(#[case] status: Value, #[case] reason: Reason, #[case] message: &str) {
    let found = cause(&[pod("a-0", &status)], 100);
    assert_eq!(found, Some(Cause { reason, message: message.into() }));
}

#[test]
fn ready_pods_have_no_cause() {
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    assert_eq!(cause(&[pod("a-0", &ready)], 100), None);
    assert_eq!(cause(&[], 100), None);
}

#[test]
fn what_needs_a_person_comes_first_and_the_rest_is_counted() {
    let loading =
        container(&json!({"started": false, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}));
    let crash = ended(&json!({"exitCode": 1}));
    let pods = [pod("a-0", &loading), pod("a-10", &crash), pod("a-2", &crash), pod("a-3", &crash)];
    let found = cause(&pods, 100).unwrap();
    assert!(found.message.starts_with("pod a-2 (and 2 more pods): container vllm ended"), "{found:?}");
}

#[test]
fn a_going_pod_is_no_fault() {
    let mut going = pod("a-0", &json!({}));
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(cause(&[going], 100).unwrap().reason, Reason::Terminating);
}

#[test]
fn a_quota_is_told_from_other_refusals() {
    for (said, reason) in [
        (
            "create Pod a-1 in StatefulSet a failed error: pods \"a-1\" is forbidden: exceeded quota: q",
            Reason::QuotaExceeded,
        ),
        ("create Pod a-1 failed", Reason::PodsRefused),
    ] {
        assert_eq!(refused(said), Cause { reason, message: said.to_owned() });
    }
}

#[test]
fn a_refusal_that_is_older_than_a_pod_is_over() {
    let event = json!({"metadata": {}, "involvedObject": {}, "lastTimestamp": "2026-01-01T00:00:30Z"});
    let event: Event = serde_json::from_value(event).unwrap();
    let in_force = |second| is_in_force(&Refusal::from(&event), &[created(10), created(second)]);
    assert!(in_force(29) && in_force(30) && !in_force(31));
}

fn created(second: u32) -> Pod {
    let at = format!("2026-01-01T00:00:{second:02}Z");
    serde_json::from_value(json!({"metadata": {"name": "a-0", "creationTimestamp": at}})).unwrap()
}

#[rstest]
#[case("token hf_abcdefghijklmnop is wrong", "token [redacted] is wrong")]
#[case("HF_TOKEN=hf_abcdefghijklmnop", "[redacted]")]
#[case("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]")]
#[case("https://user:hf_abcdefghijklmnop@host", "[redacted]")]
#[case("password:hunter2", "password:[redacted]")]
#[case("with DB_PASSWORD=hunter2 set", "with DB_PASSWORD=[redacted] set")]
#[case("glpat-abcdefghijklmnop", "[redacted]")]
#[case("unexpected token: a", "unexpected token: a")]
#[case("hf_hub is fine", "hf_hub is fine")]
fn tokens_are_left_out(#[case] text: &str, #[case] shown: &str) {
    assert_eq!(without_tokens(text), shown);
}

#[test]
fn the_end_of_a_long_message_is_kept() {
    let shown = last_lines(&format!("{}the cause", "x".repeat(5000)));
    assert!(shown.ends_with("the cause") && shown.chars().count() == MAX_TEXT, "{}", shown.len());
}
