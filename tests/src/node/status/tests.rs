//! Statuses of pods in every state that the node can bring about.

use super::*;
use crate::node::decide::Backoff;
use serde_json::json;

fn now() -> Timestamp {
    Timestamp::from_millisecond(1_000_000_400).unwrap()
}

/// `w` waits, `r` runs, `R` runs and is ready, a number is an exit code, `b` and a number one after which it backs off.
fn observed(state: &str) -> Observed {
    let mut observed = Observed::new(&format!("c-{state}"), now());
    let ended = |code: &str| {
        State::Terminated(Terminated {
            exit_code: code.parse().unwrap(),
            signal: None,
            reason: "Error".into(),
            message: None,
            started: now(),
            finished: now(),
            id: "testbed://1".into(),
        })
    };
    observed.state = match state {
        "w" => return observed,
        "r" | "R" => State::Running { started: now(), id: "testbed://1".into() },
        code => ended(code.trim_start_matches('b')),
    };
    observed.started = matches!(state, "r" | "R");
    observed.ready = state == "R";
    if state.starts_with('b') {
        observed.backoff = Backoff::default().raise(now());
    }
    observed
}

fn of(policy: &str, inits: &str, mains: &str, ended: bool) -> PodStatus {
    let all = |states: &str| states.split_whitespace().map(observed).collect::<Vec<_>>();
    let containers = |all: &[Observed]| -> Vec<_> {
        all.iter().map(|one| json!({"name": one.name, "image": "i"})).collect()
    };
    let (inits, mains) = (all(inits), all(mains));
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {
            "restartPolicy": policy, "initContainers": containers(&inits), "containers": containers(&mains),
        },
    }))
    .unwrap();
    let view = View {
        host_ip: "10.0.0.2",
        pod_ip: Some("10.0.0.1"),
        started: now(),
        inits: &inits,
        mains: &mains,
        ended,
        before: &[],
    };
    status(&pod, &view, now())
}

fn true_conditions(status: &PodStatus) -> String {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let held: Vec<_> =
        conditions.iter().filter(|one| one.status == "True").map(|one| one.type_.as_str()).collect();
    held.join(" ")
}

#[test]
fn phases_and_conditions() {
    let up = "PodReadyToStartContainers";
    let unready = "PodReadyToStartContainers Initialized";
    let ready = "PodReadyToStartContainers Initialized ContainersReady Ready";
    for (policy, inits, mains, ended, phase, conditions) in [
        ("Always", "", "w", false, "Pending", unready),
        ("Always", "", "r w", false, "Pending", unready),
        ("Always", "", "r", false, "Running", unready),
        ("Always", "", "R r", false, "Running", unready),
        ("Always", "", "R R", false, "Running", ready),
        ("Always", "", "b1", false, "Running", unready),
        ("Always", "", "1", true, "Failed", "Initialized"),
        ("Always", "", "0", true, "Succeeded", "Initialized"),
        ("Always", "", "w", true, "Failed", "Initialized"),
        ("Always", "r w", "w", false, "Pending", up),
        ("Always", "0 0", "R", false, "Running", ready),
        ("Always", "b1", "w", false, "Pending", up),
        ("Never", "1", "w", false, "Failed", up),
        ("Never", "", "0 R", false, "Running", unready),
        ("Never", "", "0 0", false, "Succeeded", unready),
        ("Never", "", "0 1", false, "Failed", unready),
        ("OnFailure", "", "0 b1", false, "Running", unready),
        ("OnFailure", "", "0 0", false, "Succeeded", unready),
    ] {
        let status = of(policy, inits, mains, ended);
        let case = format!("{policy} [{inits}] [{mains}] {ended}");
        assert_eq!(status.phase.as_deref(), Some(phase), "{case}");
        assert_eq!(true_conditions(&status), conditions, "{case}");
    }
}

#[test]
fn containers() {
    let shown = |status: &ContainerStatus| {
        let state = status.state.clone().unwrap_or_default();
        let words = [
            state.waiting.and_then(|waiting| waiting.reason),
            state.running.map(|_| "running".to_owned()),
            state.terminated.map(|end| format!("exit {}", end.exit_code)),
            status.ready.then(|| "ready".to_owned()),
            status.last_state.as_ref().and_then(|last| last.terminated.as_ref()).map(|_| "before".to_owned()),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    for (policy, init, main, ended, expected) in [
        ("Always", "w", "w", false, ["ContainerCreating", "PodInitializing"]),
        ("Always", "0", "w", false, ["exit 0 ready", "ContainerCreating"]),
        ("Always", "b1", "w", false, ["CrashLoopBackOff before", "PodInitializing"]),
        ("Always", "0", "R", false, ["exit 0 ready", "running ready"]),
        ("Always", "0", "1", false, ["exit 0 ready", "exit 1"]),
        ("Always", "0", "b0", false, ["exit 0 ready", "CrashLoopBackOff before"]),
        ("Never", "0", "b1", false, ["exit 0 ready", "exit 1"]),
        ("Always", "0", "b1", true, ["exit 0", "exit 1"]),
    ] {
        let status = of(policy, init, main, ended);
        let all =
            [status.init_container_statuses, status.container_statuses].map(|one| shown(&one.unwrap()[0]));
        assert_eq!(all, expected, "{policy} [{init}] [{main}] {ended}");
    }
    let message = of("Always", "", "b1", false).container_statuses.unwrap()[0].state.clone().unwrap();
    let expected = "back-off 10s restarting failed container=c-b1 pod=p_n(u)";
    assert_eq!(message.waiting.unwrap().message.as_deref(), Some(expected));
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let mains = [observed("R")];
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c-R"}], "readinessGates": [{"conditionType": "gate"}]},
        "status": {"conditions": [{"type": "gate", "status": "False"}]},
    }))
    .unwrap();
    let view = |before| View {
        host_ip: "",
        pod_ip: Some("10.0.0.1"),
        started: now(),
        inits: &[],
        mains: &mains,
        ended: false,
        before,
    };
    let first = status(&pod, &view(&[]), now()).conditions.unwrap();
    let later = now() + jiff::SignedDuration::from_secs(60);
    assert_eq!(status(&pod, &view(&first), later).conditions.unwrap(), first, "nothing changed");
    let ready = &first[3];
    assert_eq!((ready.type_.as_str(), ready.status.as_str()), ("Ready", "False"), "the gate is closed");

    let mut open = pod.clone();
    open.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into();
    let second = status(&open, &view(&first), later).conditions.unwrap();
    assert_eq!(second[..3], first[..3]);
    assert_eq!((second[3].status.as_str(), second[3].reason.as_deref()), ("True", None));
    assert_eq!(second[3].last_transition_time, Some(Time(whole_seconds(later))));

    let patch = patch("u", &status(&open, &view(&first), later));
    let ready = &patch["status"]["conditions"][3];
    assert!(ready.as_object().unwrap().contains_key("reason"), "a reason that was there is removed: {ready}");
}
