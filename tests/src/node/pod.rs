//! One pod: does what [`decide`](super::decide) says and reports what [`status`](super::status) says.
//!
//! **Architecture invariant**: no rule about pods is made up here. Whatever takes long (a process, a probe, the end of a
//! container) runs in a task of its own and comes back as an [`Event`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, Service, Volume};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::Status;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::check::{Action, Target};
use super::container::{self, Process};
use super::decide::{self, Observed, RestartPolicy, State};
use super::env::{self, Addresses, Env};
use super::objects::{Fetcher, Needs};
use super::probe::{self, Kind, Verdict};
use super::volumes::{self, Content};
use super::{Context, files, status};
use crate::sandbox::link::Namespace;
use crate::sandbox::root::Mount;
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

/// A container that runs.
#[derive(Debug)]
struct Run {
    process: Process,
    target: Target,
    /// The grace period that it was given, once it has to end.
    grace: Option<i64>,
    /// Its probes, and its end; they are over when this is dropped.
    tasks: JoinSet<()>,
}

/// After a failure that may pass by itself.
const RETRY: SignedDuration = SignedDuration::from_secs(1);
/// After a failure that only a change of the pod or of what it names can mend.
const RETRY_SLOWLY: SignedDuration = SignedDuration::from_secs(3);
/// How soon a changed `Secret` or `ConfigMap` shows in a volume; a kubelet takes up to a minute.
const VOLUME_PERIOD: Duration = Duration::from_secs(3);

struct Worker {
    context: Arc<Context>,
    pod: Pod,
    uid: String,
    directory: PathBuf,
    started: Timestamp,
    address: Option<Ipv4Addr>,
    network: Option<Namespace>,
    volumes: Option<BTreeMap<String, (Volume, PathBuf)>>,
    refresh: Option<watch::Sender<Pod>>,
    /// Renews the volumes.
    upkeep: JoinSet<()>,
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
    worker.clean_up().await;
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
            directory: context.config.state_dir.join(&uid),
            context,
            uid,
            started: Timestamp::from_second(now.as_second()).unwrap_or(now),
            address: None,
            network: None,
            volumes: None,
            refresh: None,
            upkeep: JoinSet::new(),
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
            if let Some(refresh) = &self.refresh {
                refresh.send_replace(self.pod.clone());
            }
        }
    }

    /// Brings the pod a step further; says when to look again.
    async fn advance(&mut self, now: Timestamp) -> Option<Timestamp> {
        if let Some(problem) = unsupported(&self.pod) {
            self.hold_back("Unsupported", &problem, now);
            return None;
        }
        if let Err(error) = self.prepare().await {
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

    /// Makes what all containers share, as far as it is missing: directory, network, volumes.
    async fn prepare(&mut self) -> anyhow::Result<()> {
        let config = &self.context.config;
        tokio::fs::create_dir_all(&self.directory).await?;
        let spec = self.pod.spec.as_ref();
        if self.address.is_none() {
            if spec.is_some_and(|spec| spec.host_network == Some(true)) {
                self.address = Some(config.address);
            } else {
                let address = self.context.lock_addresses().take()?;
                match Namespace::create(&config.testbed_exe, address, config.address).await {
                    Ok(network) => {
                        self.network = Some(network);
                        self.address = Some(address);
                    }
                    Err(error) => {
                        self.context.lock_addresses().give_back(address);
                        return Err(error.context("FailedCreatePodSandBox"));
                    }
                }
            }
            self.write_files()?;
        }
        if self.volumes.is_none() {
            let mut fetcher = Fetcher::new(self.context.client.clone());
            let root = self.directory.join("volumes");
            let addresses = self.addresses();
            self.volumes =
                Some(fill(&self.pod, &mut fetcher, &root, &addresses).await.context("FailedMount")?);
            let (refresh, mut pods) = watch::channel(self.pod.clone());
            self.refresh = Some(refresh);
            if !Needs::of_volumes(&self.pod).is_empty() {
                self.upkeep.spawn(async move {
                    loop {
                        tokio::time::sleep(VOLUME_PERIOD).await;
                        let pod = pods.borrow_and_update().clone();
                        if let Err(error) = fill(&pod, &mut fetcher, &root, &addresses).await {
                            tracing::debug!(pod = pod.name_any(), %error, "renewing volumes");
                        }
                    }
                });
            }
        }
        Ok(())
    }

    fn write_files(&self) -> anyhow::Result<()> {
        let config = &self.context.config;
        let directory = self.directory.join("etc");
        std::fs::create_dir_all(&directory)?;
        let addresses = self.addresses();
        std::fs::write(
            directory.join("hosts"),
            files::hosts(&self.pod, &addresses.pod, &config.cluster_domain),
        )?;
        std::fs::write(directory.join("hostname"), files::hostname(&self.pod) + "\n")?;
        if let Some(text) = files::resolv_conf(&self.pod, &config.dns.to_string(), &config.cluster_domain) {
            std::fs::write(directory.join("resolv.conf"), text)?;
        }
        Ok(())
    }

    /// Starts a container.
    async fn start(&mut self, slot: Slot) -> Result<(), Problem> {
        let config = &self.context.config;
        let container = self.container(slot).clone();
        let image_name = container.image.as_deref().unwrap_or_default();
        let image = config.images.find(image_name).map_err(|error| {
            let again = matches!(&self.observed_ref(slot).state, State::Waiting { reason, .. } if reason.contains("Image"));
            Problem {
                reason: if again { "ImagePullBackOff" } else { "ErrImagePull" },
                message: error.to_string(),
                retry: RETRY_SLOWLY,
            }
        })?;
        let configure =
            |message: String| Problem { reason: "CreateContainerConfigError", message, retry: RETRY_SLOWLY };
        let addresses = self.addresses();
        let needs = Needs::of_environment(&container);
        let mut fetcher = Fetcher::new(self.context.client.clone());
        let objects = fetcher
            .gather(&self.pod, &needs)
            .await
            .map_err(|error| Problem { retry: RETRY, ..configure(error.to_string()) })?;
        let mut base = self.given(&image.env);
        base.extend(
            self.service_links()
                .await
                .map_err(|error| Problem { retry: RETRY, ..configure(error.to_string()) })?,
        );
        let env = env::environment(&self.pod, &container, &objects, &addresses, base)
            .map_err(|error| configure(error.to_string()))?;
        let expand = |words: &Option<Vec<String>>| -> Vec<String> {
            words.iter().flatten().map(|word| env::expand(word, &env)).collect()
        };
        let argv = image.argv(&expand(&container.command), &expand(&container.args), &addresses.pod);
        let create = |error: anyhow::Error| Problem {
            reason: "CreateContainerError",
            message: format!("{error:#}"),
            retry: RETRY_SLOWLY,
        };
        let volumes = self.volumes.clone().unwrap_or_default();
        let mut mounts = container::mounts(&container, &volumes, &env).map_err(create)?;
        for name in ["hosts", "hostname", "resolv.conf"] {
            let target = PathBuf::from("/etc").join(name);
            let source = self.directory.join("etc").join(name);
            if source.exists() && !mounts.iter().any(|mount| mount.target == target) {
                mounts.push(Mount { target, source: Some(source), read_only: false });
            }
        }
        let working_dir = container.working_dir.clone().or_else(|| image.working_dir.clone());
        let spec = Spec {
            network: self.network.as_ref().map(Namespace::path),
            hostname: files::hostname(&self.pod),
            root: self.directory.join(format!("root-{}", container.name)),
            argv,
            env,
            working_dir: PathBuf::from(
                working_dir.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into()),
            ),
            mounts,
        };
        self.launch(slot, container, spec).map_err(create)
    }

    fn launch(&mut self, slot: Slot, container: Container, spec: Spec) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let config = &self.context.config;
        let observed = self.observed_ref(slot);
        let again = observed.last.is_some() || matches!(observed.state, State::Terminated(_));
        let number = observed.restarts + i32::from(again);
        let id = format!("testbed://{}-{}-{number}", self.uid, container.name);
        let file = self.directory.join(format!("{}.json", container.name));
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
            address: self.address.unwrap_or(Ipv4Addr::LOCALHOST).into(),
            container: Arc::new(container),
            spec: Arc::new(spec),
            scratch: self.directory.join("exec"),
            testbed: config.testbed_exe.clone(),
        };
        let mut tasks = JoinSet::new();
        if let Slot::Main(_) = slot {
            let (events, run, target) = (self.events.clone(), id.clone(), target.clone());
            tasks.spawn(async move {
                let report = |verdict| {
                    drop(events.send(Event { slot, run: run.clone(), what: What::Probed(verdict) }))
                };
                probe::run(&target.container, &target, report).await;
            });
        }
        self.runs.push((slot, Run { process, target, grace: None, tasks }));
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
        let address = self.address.map(|address| address.to_string());
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

    async fn clean_up(&mut self) {
        // Waited for, lest it writes to a directory that has just been removed.
        self.upkeep.shutdown().await;
        if let Some(network) = self.network.take() {
            network.end().await;
            if let Some(address) = self.address {
                self.context.lock_addresses().give_back(address);
            }
        }
        if let Err(error) = tokio::fs::remove_dir_all(&self.directory).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(pod = self.pod.name_any(), %error, "removing the pod's files");
        }
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

    /// The environment that a container has before its own.
    fn given(&self, image: &Env) -> Env {
        let mut env = Env::new();
        for name in ["PATH", "HOME"] {
            env.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
        }
        env.insert("HOSTNAME".into(), files::hostname(&self.pod));
        env.extend(image.clone());
        env
    }

    async fn service_links(&self) -> Result<Env, kube::Error> {
        let config = &self.context.config;
        let kubernetes: Service = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes"},
            "spec": {
                "clusterIP": config.service_host.to_string(),
                "ports": [{"name": "https", "port": config.service_port, "protocol": "TCP"}],
            },
        }))
        .map_err(kube::Error::SerdeError)?;
        let wanted = self.pod.spec.as_ref().is_none_or(|spec| spec.enable_service_links != Some(false));
        let mut env = Env::new();
        if wanted {
            let namespace = self.pod.namespace().unwrap_or_default();
            let services = Api::<Service>::namespaced(self.context.client.clone(), &namespace);
            env = env::service_links(&services.list(&ListParams::default()).await?.items);
        }
        env.extend(env::service_links([&kubernetes]));
        Ok(env)
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            pod: self.address.map(|address| address.to_string()).unwrap_or_default(),
            host: self.context.config.address.to_string(),
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

impl Run {
    /// Ends it within `grace` seconds, or sooner if it was told so before.
    fn stop(&mut self, grace: i64) {
        if self.grace.is_some_and(|given| given <= grace) {
            return;
        }
        self.grace = Some(grace);
        let hook = self.target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        self.tasks.spawn(self.process.clone().stop(self.target.clone(), hook.map(Action::of_hook), grace));
    }
}

/// Why a container was not started.
struct Problem {
    reason: &'static str,
    message: String,
    retry: SignedDuration,
}

/// Whether a write was refused because the pod of that name has another uid.
fn of_another_pod(error: &Status) -> bool {
    let causes = error.details.iter().flat_map(|details| &details.causes);
    error.code == 409 || causes.into_iter().any(|cause| cause.field == "metadata.uid")
}

/// What of `pod` this node cannot do and must not leave out silently.
fn unsupported(pod: &Pod) -> Option<String> {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecar = inits.clone().find(|init| init.restart_policy.is_some());
    sidecar
        .map(|init| format!("this node does not run init containers with a restart policy ({})", init.name))
}

/// Fills the volumes of `pod` below `root`; says where each is.
async fn fill(
    pod: &Pod,
    fetcher: &mut Fetcher,
    root: &std::path::Path,
    addresses: &Addresses,
) -> anyhow::Result<BTreeMap<String, (Volume, PathBuf)>> {
    let objects = fetcher.gather(pod, &Needs::of_volumes(pod)).await?;
    let mut filled = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let at = root.join(&volume.name);
        let path = match volumes::content(pod, volume, &objects, addresses)? {
            Content::Empty => {
                std::fs::create_dir_all(&at)?;
                at
            }
            Content::Files(files) => {
                volumes::write(&at, &files)?;
                at
            }
            Content::Host(path) => path,
        };
        filled.insert(volume.name.clone(), (volume.clone(), path));
    }
    Ok(filled)
}
