//! The status of a pod, from what its containers do.
//!
//! **Architecture invariant**: pure. The condition `PodScheduled`, the quality of service and conditions of others are not
//! ours: they are absent from what is returned, and stay as they are when it is applied.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Observed, RestartPolicy, State, Terminated};

/// What is known of a pod beside its object.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The node's address.
    pub host_ip: &'a str,
    /// The pod's, once it has one.
    pub pod_ip: Option<&'a str>,
    /// When the node took it on.
    pub started: Timestamp,
    /// Its init containers.
    pub inits: &'a [Observed],
    /// Its containers.
    pub mains: &'a [Observed],
    /// Whether it is deleted and nothing of it runs.
    pub ended: bool,
    /// The conditions that were written last.
    pub before: &'a [PodCondition],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Init,
    Main { initialized: bool },
}

/// The status that `pod` should have.
pub fn status(pod: &Pod, view: &View<'_>, now: Timestamp) -> PodStatus {
    let spec = pod.spec.as_ref();
    let policy = RestartPolicy::parse(spec.and_then(|spec| spec.restart_policy.as_deref()));
    let inits = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let mains = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let initialized =
        view.inits.iter().all(|init| init.done(policy.of_init()).is_some_and(|end| end.exit_code == 0));
    let statuses = |containers: &[Container], observed: &[Observed], policy, role| {
        containers
            .iter()
            .zip(observed)
            .map(|(container, observed)| container_status(pod, container, observed, policy, role, view.ended))
            .collect::<Vec<_>>()
    };
    let phase = phase(policy, view, initialized);
    let init_statuses = statuses(inits, view.inits, policy.of_init(), Role::Init);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(pod, view, initialized, phase, now)),
        host_ip: Some(view.host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: view.host_ip.to_owned() }]),
        pod_ip: view.pod_ip.map(String::from),
        pod_ips: view.pod_ip.map(|ip| vec![PodIP { ip: ip.to_owned() }]),
        start_time: Some(Time(view.started)),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        container_statuses: Some(statuses(mains, view.mains, policy, Role::Main { initialized })),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn phase(policy: RestartPolicy, view: &View<'_>, initialized: bool) -> &'static str {
    let ends = view.mains.iter().map(|main| match &main.state {
        State::Terminated(end) if view.ended => Some(end),
        _ => main.done(policy),
    });
    let ends: Vec<_> = ends.collect();
    let init_failed =
        view.inits.iter().any(|init| init.done(policy.of_init()).is_some_and(|end| end.exit_code != 0));
    if init_failed {
        return "Failed";
    }
    if view.ended || ends.iter().all(Option::is_some) {
        let failed = ends.iter().any(|end| end.is_none_or(|end| end.exit_code != 0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    let untried = |main: &Observed| matches!(main.state, State::Waiting { .. }) && main.last.is_none();
    if !initialized || view.mains.iter().any(untried) { "Pending" } else { "Running" }
}

fn conditions(
    pod: &Pod,
    view: &View<'_>,
    initialized: bool,
    phase: &str,
    now: Timestamp,
) -> Vec<PodCondition> {
    let finished = matches!(phase, "Succeeded" | "Failed");
    let unready: Vec<&str> = view
        .mains
        .iter()
        .filter(|main| !(main.ready && matches!(main.state, State::Running { .. })))
        .map(|main| main.name.as_str())
        .collect();
    let containers_ready = unready.is_empty() && !finished;
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let known = || pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let closed: Vec<&str> = gates
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| !known().any(|known| known.type_ == *gate && known.status == "True"))
        .collect();
    let not_ready = || {
        let (reason, message) = if phase == "Succeeded" {
            ("PodCompleted", String::new())
        } else if phase == "Failed" {
            ("PodFailed", String::new())
        } else {
            ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
        };
        (reason, message)
    };
    let ready = if containers_ready && !closed.is_empty() {
        Err(("ReadinessGatesNotReady", format!("readiness gates not true: [{}]", closed.join(" "))))
    } else if containers_ready {
        Ok(())
    } else {
        Err(not_ready())
    };
    let waiting_inits = || ("ContainersNotInitialized", "init containers have not succeeded".to_owned());
    let wanted = [
        (
            "PodReadyToStartContainers",
            if view.pod_ip.is_some() && !view.ended { Ok(()) } else { Err(("", String::new())) },
        ),
        ("Initialized", if initialized { Ok(()) } else { Err(waiting_inits()) }),
        ("ContainersReady", if containers_ready { Ok(()) } else { Err(not_ready()) }),
        ("Ready", ready),
    ];
    wanted
        .into_iter()
        .map(|(type_, result)| {
            let status = if result.is_ok() { "True" } else { "False" };
            let before = view.before.iter().find(|before| before.type_ == type_ && before.status == status);
            let (reason, message) = result.err().unwrap_or_default();
            PodCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: (!reason.is_empty()).then(|| reason.to_owned()),
                message: (!message.is_empty()).then_some(message),
                last_transition_time: before
                    .and_then(|before| before.last_transition_time.clone())
                    .or(Some(Time(whole_seconds(now)))),
                observed_generation: pod.metadata.generation,
                ..PodCondition::default()
            }
        })
        .collect()
}

/// Times in the API have whole seconds; more would be a difference that is never written.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn container_status(
    pod: &Pod,
    container: &Container,
    observed: &Observed,
    policy: RestartPolicy,
    role: Role,
    ended: bool,
) -> ContainerStatus {
    let image = container.image.clone().unwrap_or_default();
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image_id: String::new(),
        restart_count: observed.restarts,
        ready: false,
        started: Some(false),
        last_state: observed.last.as_ref().map(terminated),
        ..ContainerStatus::default()
    };
    match &observed.state {
        State::Running { started, id } => {
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(whole_seconds(*started))) }),
                ..ContainerState::default()
            });
            status.container_id = Some(id.clone());
            status.started = Some(observed.started);
            status.ready = observed.ready;
        }
        State::Waiting { reason, message, .. } => {
            status.state = Some(if role == (Role::Main { initialized: false }) {
                waiting("PodInitializing", None)
            } else {
                waiting(reason, message.as_deref())
            });
        }
        State::Terminated(end)
            if policy.restarts(end.exit_code) && !ended && observed.backoff.delay.is_some() =>
        {
            let delay = observed.backoff.delay.unwrap_or_default().as_secs();
            let message = format!(
                "back-off {delay}s restarting failed container={} pod={}_{}({})",
                container.name,
                pod.metadata.name.as_deref().unwrap_or_default(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.uid.as_deref().unwrap_or_default(),
            );
            status.state = Some(waiting("CrashLoopBackOff", Some(&message)));
            status.last_state = Some(terminated(end));
            status.container_id = Some(end.id.clone());
        }
        State::Terminated(end) => {
            status.state = Some(terminated(end));
            status.container_id = Some(end.id.clone());
            // An init container that has done its work counts as ready.
            status.ready = role == Role::Init && end.exit_code == 0 && !ended;
        }
    }
    if status.container_id.is_some() {
        status.image_id.clone_from(&image);
    }
    status.image = image;
    status
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: message.map(String::from),
        }),
        ..ContainerState::default()
    }
}

fn terminated(end: &Terminated) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: Some(end.reason.clone()),
            message: end.message.clone(),
            started_at: Some(Time(whole_seconds(end.started))),
            finished_at: Some(Time(whole_seconds(end.finished))),
            container_id: Some(end.id.clone()),
        }),
        ..ContainerState::default()
    }
}

/// What changes the status of the pod with this `uid` to `status`.
pub fn patch(uid: &str, status: &PodStatus) -> serde_json::Value {
    let mut patch = serde_json::json!({"metadata": {"uid": uid}, "status": status});
    // Conditions are merged by type: a reason that is not named would stay.
    for condition in patch["status"]["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition[field].is_null() {
                condition[field] = serde_json::Value::Null;
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests;
