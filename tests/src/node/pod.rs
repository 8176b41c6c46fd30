//! One pod: does what [`decide`](super::decide) says and reports what [`status`](super::status) says.
//!
//! **Architecture invariant**: no rule about pods is made up here. Whatever takes long (a process, a probe, the end of a
//! container) runs in a task of its own and comes back as an [`Event`].

use std::net::Ipv4Addr;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Status;
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use super::check::Target;
use super::container::{self, Run};
use super::decide::{self, Observed, RestartPolicy, State};
use super::probe::{self, Kind, Verdict};
use super::recipe::{self, Problem, RETRY};
use super::shared::Shared;
use super::{Context, stats, status};
use crate::sandbox::run::Spec;

/// The pod has changed. When no more can come, it is gone.
#[derive(Debug)]
pub struct Message(pub Box<Pod>);

/// What happened to a container.
#[derive(Debug)]
struct Event {
    slot: Slot,
    /// Of which run; news of an earlier one is stale.
    run: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Ended(ExitStatus),
    Probed(Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Init(usize),
    Main(usize),
}

struct Worker {
    context: Arc<Context>,
    pod: Pod,
    uid: String,
    started: Timestamp,
    shared: Shared,
    inits: Vec<Observed>,
    mains: Vec<Observed>,
    runs: Vec<(Slot, Run)>,
    events: UnboundedSender<Event>,
    before: Vec<PodCondition>,
    written: Option<Value>,
    /// It is gone from the API server.
    gone: bool,
}

/// Runs `pod` until it is gone.
pub async fn run(context: Arc<Context>, pod: Pod, inbox: UnboundedReceiver<Message>) {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let (events, happened) = mpsc::unbounded_channel();
    let mut worker = Worker::new(context, pod, events);
    worker.live(inbox, happened).await;
    worker.shared.end(&worker.context).await;
    tracing::info!(pod = name, "gone");
}

impl Worker {
    fn new(context: Arc<Context>, pod: Pod, events: UnboundedSender<Event>) -> Self {
        let now = Timestamp::now();
        let uid = pod.uid().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let observe = |containers: &[Container]| -> Vec<_> {
            containers.iter().map(|container| Observed::new(&container.name, now)).collect()
        };
        let inits = observe(spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default());
        let mains = observe(spec.map(|spec| spec.containers.as_slice()).unwrap_or_default());
        Self {
            shared: Shared::new(context.config.state_dir.join(&uid)),
            context,
            uid,
            started: Timestamp::from_second(now.as_second()).unwrap_or(now),
            inits,
            mains,
            runs: Vec::new(),
            events,
            before: Vec::new(),
            written: None,
            gone: false,
            pod,
        }
    }

    async fn live(&mut self, mut inbox: UnboundedReceiver<Message>, mut happened: UnboundedReceiver<Event>) {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.clone());
        let finished = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        loop {
            let now = Timestamp::now();
            let deleted = self.gone || self.pod.metadata.deletion_timestamp.is_some();
            let mut wake = None;
            if deleted {
                self.end_all();
                if self.runs.is_empty() {
                    if self.gone || self.let_go(finished).await {
                        return;
                    }
                    wake = Some(now + RETRY);
                }
            } else if !finished {
                wake = self.advance(now).await;
            }
            if !(finished || deleted && self.runs.is_empty())
                && let Err(error) = self.report(false).await
            {
                tracing::warn!(pod = self.pod.name_any(), %error, "writing the status");
                wake = Some(now + RETRY);
            }
            // A time that has passed makes a negative duration, and means now.
            let pause =
                wake.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
            // Receiving from a channel and sleeping lose nothing when another arm wins.
            tokio::select! {
                message = inbox.recv(), if !self.gone => match message {
                    Some(Message(pod)) => self.pod = *pod,
                    None => self.gone = true,
                },
                Some(event) = happened.recv() => self.take_in(event),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
            self.shared.follow(&self.pod);
        }
    }

    /// Brings the pod a step further; says when to look again.
    async fn advance(&mut self, now: Timestamp) -> Option<Timestamp> {
        if let Some(problem) = recipe::unsupported(&self.pod) {
            self.hold_back("Unsupported", &problem, now);
            return None;
        }
        if let Err(error) = self.shared.prepare(&self.context, &self.pod).await {
            self.hold_back("ContainerCreating", &format!("{error:#}"), now);
            return Some(now + RETRY);
        }
        let plan = decide::plan(self.policy(), &self.inits, &self.mains, now);
        let starts = plan.inits.iter().map(|index| Slot::Init(*index));
        let starts: Vec<_> = starts.chain(plan.mains.iter().map(|index| Slot::Main(*index))).collect();
        let mut wake = plan.wake;
        for slot in starts {
            if let Err(problem) = self.start(slot).await {
                let retry = now + problem.retry;
                tracing::debug!(
                    pod = self.pod.name_any(),
                    ?slot,
                    problem.reason,
                    problem.message,
                    "not started"
                );
                let observed = self.observed(slot);
                if let State::Terminated(end) = &observed.state {
                    observed.last = Some(end.clone());
                }
                let message = Some(problem.message);
                observed.state = State::Waiting { reason: problem.reason.into(), message, retry };
                wake = Some(wake.map_or(retry, |wake| wake.min(retry)));
            }
        }
        wake
    }

    /// Starts a container.
    async fn start(&mut self, slot: Slot) -> Result<(), Problem> {
        let container = self.container(slot).clone();
        let again = matches!(
            &self.observed_ref(slot).state,
            State::Waiting { reason, .. } if reason.contains("Image")
        );
        let spec = recipe::spec(&self.context, &self.pod, &self.shared, &container, again).await?;
        self.launch(slot, container, spec).map_err(Problem::create)
    }

    fn launch(&mut self, slot: Slot, container: Container, spec: Spec) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let config = &self.context.config;
        let observed = self.observed_ref(slot);
        let again = observed.last.is_some() || matches!(observed.state, State::Terminated(_));
        let number = observed.restarts + i32::from(again);
        let id = format!("testbed://{}-{}-{number}", self.uid, container.name);
        let file = self.shared.directory.join(format!("{}.json", container.name));
        let log = config.logs_dir.join(format!(
            "{}_{}_{}.log",
            self.pod.namespace().unwrap_or_default(),
            self.pod.name_any(),
            container.name
        ));
        let (events, run) = (self.events.clone(), id.clone());
        let process = container::start(&config.testbed_exe, &spec, &file, &log, move |status| {
            // Nobody listens once the pod is gone.
            let _ = events.send(Event { slot, run, what: What::Ended(status) });
        })?;
        tracing::info!(pod = self.pod.name_any(), container = container.name, argv = ?spec.argv, "started");
        let target = Target {
            address: self.shared.address.unwrap_or(Ipv4Addr::LOCALHOST).into(),
            container: Arc::new(container),
            spec: Arc::new(spec),
            scratch: self.shared.directory.join("exec"),
            testbed: config.testbed_exe.clone(),
        };
        let mut tasks = JoinSet::new();
        if let Slot::Main(_) = slot {
            let (events, run, target) = (self.events.clone(), id.clone(), target.clone());
            tasks.spawn(async move {
                let report = |verdict| {
                    drop(events.send(Event { slot, run: run.clone(), what: What::Probed(verdict) }));
                };
                probe::run(&target.container, &target, report).await;
            });
        }
        let listed = self.context.running.add(stats::Container {
            namespace: self.pod.namespace().unwrap_or_default(),
            pod: self.pod.name_any(),
            name: target.container.name.clone(),
            process: process.id(),
            started: now,
            told: Duration::ZERO,
        });
        self.runs.push((slot, Run::new(process, target, tasks, listed)));
        let observed = self.observed(slot);
        if let State::Terminated(end) = &observed.state {
            observed.last = Some(end.clone());
        }
        if again {
            observed.backoff = observed.backoff.raise(now);
        }
        observed.restarts = number;
        observed.started = false;
        observed.ready = false;
        observed.state = State::Running { started: now, id };
        Ok(())
    }

    /// Takes in what happened to a container.
    fn take_in(&mut self, event: Event) {
        let Event { slot, run: of, what } = event;
        let State::Running { started, id } = self.observed_ref(slot).state.clone() else { return };
        let Some(index) = self.runs.iter().position(|(running, _)| *running == slot) else { return };
        if id != of {
            return;
        }
        match what {
            What::Ended(status) => {
                let (_, run) = self.runs.swap_remove(index);
                let end = run.process.end(&run.target.container, id, started, status);
                tracing::info!(pod = self.pod.name_any(), container = run.target.container.name, %status, "ended");
                let observed = self.observed(slot);
                observed.state = State::Terminated(end);
                observed.started = false;
                observed.ready = false;
            }
            What::Probed(Verdict { kind, success, message }) => {
                let name = &self.runs[index].1.target.container.name;
                let has_readiness = self.runs[index].1.target.container.readiness_probe.is_some();
                if !success {
                    tracing::info!(pod = self.pod.name_any(), container = name, ?kind, message, "unhealthy");
                }
                let observed = self.observed(slot);
                match (kind, success) {
                    (Kind::Startup, true) => {
                        observed.started = true;
                        observed.ready |= !has_readiness;
                    }
                    (Kind::Readiness, success) => observed.ready = success,
                    (Kind::Liveness, true) => {}
                    (Kind::Startup | Kind::Liveness, false) => {
                        let probe = match kind {
                            Kind::Startup => self.runs[index].1.target.container.startup_probe.as_ref(),
                            _ => self.runs[index].1.target.container.liveness_probe.as_ref(),
                        };
                        let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
                        let of_pod =
                            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
                        self.runs[index].1.stop(own.or(of_pod).unwrap_or(30));
                    }
                }
            }
        }
    }

    /// Ends whatever runs.
    fn end_all(&mut self) {
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        for (_, run) in &mut self.runs {
            if self.gone {
                run.process.kill();
            } else {
                run.stop(grace);
            }
        }
    }

    /// Says how it ended, and lets the API server forget the pod; whether that worked.
    async fn let_go(&mut self, finished: bool) -> bool {
        if !finished && let Err(error) = self.report(true).await {
            tracing::warn!(pod = self.pod.name_any(), %error, "writing the last status");
            return false;
        }
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api().delete(&self.pod.name_any(), &now).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                tracing::warn!(pod = self.pod.name_any(), %error, "deleting the pod");
                false
            }
        }
    }

    /// Writes the status, if it differs from what was written last.
    async fn report(&mut self, ended: bool) -> Result<(), kube::Error> {
        let address = self.shared.address.map(|address| address.to_string());
        let view = status::View {
            host_ip: &self.context.config.address.to_string(),
            pod_ip: address.as_deref(),
            started: self.started,
            inits: &self.inits,
            mains: &self.mains,
            ended,
            before: &self.before,
        };
        let status = status::status(&self.pod, &view, Timestamp::now());
        let patch = status::patch(&self.uid, &status);
        if self.written.as_ref() == Some(&patch) {
            return Ok(());
        }
        let name = self.pod.name_any();
        match self.api().patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => {}
            // Gone, or another one of the same name: there is nobody to tell.
            Err(kube::Error::Api(error)) if error.code == 404 || of_another_pod(&error) => {}
            Err(error) => return Err(error),
        }
        self.before = status.conditions.unwrap_or_default();
        self.written = Some(patch);
        Ok(())
    }

    /// All containers wait for the same thing.
    fn hold_back(&mut self, reason: &str, message: &str, now: Timestamp) {
        for observed in self.inits.iter_mut().chain(&mut self.mains) {
            if let State::Waiting { .. } = observed.state {
                let (reason, message) = (reason.to_owned(), Some(message.to_owned()));
                observed.state = State::Waiting { reason, message, retry: now };
            }
        }
    }

    fn policy(&self) -> RestartPolicy {
        RestartPolicy::parse(self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()))
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), &self.pod.namespace().unwrap_or_default())
    }

    fn container(&self, slot: Slot) -> &Container {
        let spec = self.pod.spec.as_ref().expect("it has containers, so it has a spec");
        match slot {
            Slot::Init(index) => &spec.init_containers.as_ref().expect("it has this one")[index],
            Slot::Main(index) => &spec.containers[index],
        }
    }

    fn observed_ref(&self, slot: Slot) -> &Observed {
        match slot {
            Slot::Init(index) => &self.inits[index],
            Slot::Main(index) => &self.mains[index],
        }
    }

    fn observed(&mut self, slot: Slot) -> &mut Observed {
        match slot {
            Slot::Init(index) => &mut self.inits[index],
            Slot::Main(index) => &mut self.mains[index],
        }
    }
}

/// Whether a write was refused because the pod of that name has another uid.
fn of_another_pod(error: &Status) -> bool {
    let causes = error.details.iter().flat_map(|details| &details.causes);
    error.code == 409 || causes.into_iter().any(|cause| cause.field == "metadata.uid")
}
