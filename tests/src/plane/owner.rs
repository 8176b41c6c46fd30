//! The owner's side of a plane.
//!
//! **Architecture invariant**: all that keeps a plane alive is [`Plane`]; dropping it stops the plane.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{mpsc, watch};

use super::audit::{self, Write};
use super::child::tail;
use super::client_from;
use super::components::{self, APISERVER, IDENTITIES, KUBERNETES_ADDRESS};
use super::events::Event;
use super::kubectl::Kubectl;
use super::spec::{Spec, State};
use crate::namespaces::NODE_ADDRESS;
use crate::parts::{Binaries, Part};
use crate::pki::{Pki, write_private};

/// A start that is not ready by then has gone wrong: the inside gives up by itself after two minutes.
const START_DEADLINE: Duration = Duration::from_secs(150);
/// The kernel ends a PID namespace at once; this is for a machine that is very busy.
pub(super) const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How a plane is to be.
#[derive(Clone, Debug)]
pub struct PlaneOptions {
    /// Tells planes apart for people.
    pub name: String,
    /// Where its files lie; by default a directory of its own below `target/testbed`.
    pub state_dir: Option<PathBuf>,
    /// The `testbed` program.
    pub testbed_exe: PathBuf,
    /// The operator's program, for pods of its image, or a folder with that image's files.
    pub operator_exe: Option<PathBuf>,
    /// The webhook that the operator is measured beside, for pods of its image.
    pub peer_exe: Option<PathBuf>,
    /// The common name of the certificate that the API server shows to the operator's webhooks; by default it shows none.
    /// It is of the plane's own CA.
    pub webhook_client: Option<String>,
    /// Whether the API server checks who may set `blockOwnerDeletion`, as that of OKD does.
    pub owner_references_checked: bool,
    /// Command template of a real engine, in place of the simulated one.
    pub engine: Option<String>,
    /// Whether a component that ends is started again, as after a kill; otherwise the plane ends with it.
    pub restarts: bool,
    /// The HPA controller's window before it scales down. In a cluster: 5 minutes.
    pub hpa_downscale_stabilization: Duration,
    /// The HPA controller's period. In a cluster: 15 s.
    pub hpa_sync_period: Duration,
}

impl PlaneOptions {
    /// A plane of this name with everything at its default, HPA periods short enough to test with.
    pub fn new(name: &str, testbed_exe: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            state_dir: None,
            testbed_exe: testbed_exe.into(),
            operator_exe: None,
            peer_exe: None,
            webhook_client: None,
            owner_references_checked: false,
            engine: None,
            restarts: false,
            hpa_downscale_stabilization: Duration::from_secs(10),
            hpa_sync_period: Duration::from_secs(2),
        }
    }
}

/// A control plane that runs. Dropping it stops it, unless it was let go.
#[derive(Debug)]
pub struct Plane {
    spec: Spec,
    enter: Child,
    /// Open as long as the plane is to live.
    socket: UnixStream,
    /// PID 1 of the plane, seen from here.
    pid: i32,
    /// Locked as long as the owner lives.
    _claim: File,
    ready: bool,
    over: bool,
    failure: watch::Receiver<Option<String>>,
    steps: Vec<(String, Duration)>,
}

impl Plane {
    /// Builds what is missing, starts a plane and waits until it is ready.
    pub async fn start(options: PlaneOptions) -> anyhow::Result<Self> {
        let binaries = tokio::task::spawn_blocking(Binaries::ensure).await??;
        Self::start_with(options, binaries).await
    }

    /// Starts a plane from parts that are there.
    pub async fn start_with(options: PlaneOptions, binaries: Binaries) -> anyhow::Result<Self> {
        let PlaneOptions {
            name,
            state_dir,
            testbed_exe,
            operator_exe,
            peer_exe,
            webhook_client,
            owner_references_checked,
            engine,
            restarts,
            hpa_downscale_stabilization,
            hpa_sync_period,
        } = options;
        let state = State::new(absolute(&state_dir.unwrap_or_else(|| default_state_dir(&name)))?);
        let claim = claim(&state, &name)?;
        let spec = Spec {
            name,
            state,
            binaries,
            testbed_exe,
            operator_exe,
            peer_exe,
            webhook_client,
            owner_references_checked,
            engine,
            restarts,
            hpa_downscale_stabilization,
            hpa_sync_period,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for the API server")?;
        write_files(&spec, listener.local_addr()?.port())?;

        let (ours, theirs) = UnixStream::pair()?;
        let log = std::fs::File::create(spec.state.log("plane"))?;
        let enter = Command::new(&spec.testbed_exe)
            .arg("plane-enter")
            .arg(spec.state.spec())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(listener)))
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", spec.testbed_exe.display()))?;
        let (mut events, failure) = listen(ours.try_clone()?);
        // From here on, dropping the plane stops what was started.
        let mut plane = Self {
            spec,
            enter,
            socket: ours,
            pid: 0,
            _claim: claim,
            ready: false,
            over: false,
            failure,
            steps: Vec::new(),
        };
        match tokio::time::timeout(START_DEADLINE, plane.until_ready(&mut events)).await {
            Ok(Ok(())) => Ok(plane),
            Ok(Err(error)) => Err(plane.start_failed(&error)),
            Err(_) => Err(plane.start_failed(&anyhow::anyhow!(
                "not ready within {} s; reached: {:?}",
                START_DEADLINE.as_secs(),
                plane.steps
            ))),
        }
    }

    async fn until_ready(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) -> anyhow::Result<()> {
        while let Some(event) = events.recv().await {
            match event {
                Event::Entered { pid } => self.pid = pid,
                Event::Step { what, after_ms } => self.steps.push((what, Duration::from_millis(after_ms))),
                Event::Ready => {
                    write_private(&self.spec.state.pid(), &self.pid.to_string())?;
                    self.ready = true;
                    return Ok(());
                }
                Event::Failed { why } => anyhow::bail!("{why}"),
            }
        }
        anyhow::bail!("it ended; the end of its log:\n{}", tail(&self.spec.state.log("plane")))
    }

    fn start_failed(&self, error: &anyhow::Error) -> anyhow::Error {
        let logs = self.logs_dir();
        anyhow::anyhow!("plane {:?} did not start: {error:#}\nlogs: {}", self.spec.name, logs.display())
    }

    /// The kubeconfig of an administrator, for use outside of the plane's namespaces.
    pub fn kubeconfig(&self) -> PathBuf {
        self.spec.state.kubeconfig()
    }

    /// A client with an administrator's rights.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        client_from(&self.kubeconfig()).await
    }

    /// kubectl with these arguments, as an administrator.
    pub fn kubectl(&self, args: &[&str]) -> Kubectl {
        kubectl(&self.spec, args)
    }

    /// One log per process of the plane.
    pub fn logs_dir(&self) -> PathBuf {
        self.spec.state.logs()
    }

    /// Where all files of the plane lie.
    pub fn state_dir(&self) -> &Path {
        self.spec.state.path()
    }

    /// Every write to the API server as a JSON line, at level Metadata.
    pub fn audit_log(&self) -> PathBuf {
        self.spec.state.audit_log()
    }

    /// The writes of one user so far, in the order in which they were answered; those of Leases apart.
    pub fn writes_by(&self, user: &str) -> anyhow::Result<Vec<Write>> {
        audit::writes(&self.audit_log(), user)
    }

    /// The writes of Leases by one user so far, likewise.
    pub fn lease_writes_by(&self, user: &str) -> anyhow::Result<Vec<Write>> {
        audit::lease_writes(&self.audit_log(), user)
    }

    /// What the plane was told at its start.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// PID 1 of the plane, as seen from here.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What was reached during the start, and after how long.
    pub fn steps(&self) -> &[(String, Duration)] {
        &self.steps
    }

    /// Why the plane has come to its end, if it has.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Waits until the plane comes to its end by itself, and says why.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => format!("it ended; the end of its log:\n{}", tail(&self.spec.state.log("plane"))),
        }
    }

    /// Lets the plane go: from here on it belongs to itself, until [`stop_detached`](super::detached::stop_detached).
    pub fn let_go(&mut self) -> anyhow::Result<()> {
        self.socket.write_all(b"\n").context("the plane has ended")?;
        self.over = true;
        Ok(())
    }

    /// Stops the plane, waits until every process of it is gone, and removes its files.
    ///
    /// A plane that is dropped instead, as when a test fails, leaves them to be read.
    pub async fn stop(self) -> anyhow::Result<()> {
        tokio::task::spawn_blocking(move || {
            let mut plane = self;
            plane.stop_now()?;
            plane.over = true;
            let path = plane.state_dir();
            std::fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))
        })
        .await?
    }

    fn stop_now(&mut self) -> anyhow::Result<()> {
        // PID 1 hears this, and exits; the kernel ends the others before PID 1 counts as gone.
        let _ = self.socket.shutdown(Shutdown::Both);
        if self.gone_within(STOP_DEADLINE / 2)? {
            return Ok(());
        }
        kill(self.pid);
        anyhow::ensure!(
            self.gone_within(STOP_DEADLINE / 2)?,
            "the plane's process {} does not end",
            self.pid
        );
        Ok(())
    }

    fn gone_within(&mut self, span: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + span;
        loop {
            if self.enter.try_wait()?.is_some() {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Err(error) = self.stop_now() {
            eprintln!("stopping plane {:?}: {error:#}", self.spec.name);
        }
        drop_data(&self.spec.state);
        if self.ready {
            let logs = self.logs_dir();
            eprintln!("plane {:?} was not stopped in order; its logs: {}", self.spec.name, logs.display());
        }
    }
}

/// Reads the inside's events on a thread of its own, so that it does not depend on which runtime the owner is in.
fn listen(socket: UnixStream) -> (mpsc::UnboundedReceiver<Event>, watch::Receiver<Option<String>>) {
    let (told, events) = mpsc::unbounded_channel();
    let (fail, failure) = watch::channel(None);
    std::thread::spawn(move || {
        for line in BufReader::new(socket).lines().map_while(Result::ok) {
            let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
            if let Event::Failed { why } = &event {
                fail.send_replace(Some(why.clone()));
            }
            // The start has long been over when a plane fails later; then nobody receives.
            let _ = told.send(event);
        }
    });
    (events, failure)
}

fn write_files(spec: &Spec, outer_port: u16) -> anyhow::Result<()> {
    let state = &spec.state;
    let _ = std::fs::remove_dir_all(state.path());
    state.create().with_context(|| format!("creating {}", state.path().display()))?;
    let pki = Pki::generate(&[NODE_ADDRESS.to_string(), KUBERNETES_ADDRESS.to_string()])?;
    pki.write(&state.path().join("pki"))?;
    let ca = pki.authority.certificate();
    for (component, user, group) in IDENTITIES {
        let pair = pki.authority.client(user, group)?;
        let inner = components::kubeconfig(APISERVER, ca, &pair);
        write_private(&state.inner_kubeconfig(component), &inner)?;
        if component == "admin" {
            let server = format!("https://127.0.0.1:{outer_port}");
            write_private(&state.kubeconfig(), &components::kubeconfig(&server, ca, &pair))?;
        }
    }
    if let Some(name) = &spec.webhook_client {
        let pair = pki.authority.client(name, None)?;
        write_private(&state.pki("webhook-client.crt"), &pair.certificate)?;
        write_private(&state.pki("webhook-client.key"), &pair.key)?;
        write_private(&state.config("webhook-client"), &components::webhook_kubeconfig(spec))?;
        write_private(&state.config("admission.json"), &components::admission_configuration(spec))?;
    }
    write_private(&state.config("audit-policy.json"), components::AUDIT_POLICY)?;
    write_private(&state.config("Corefile"), &components::corefile(spec))?;
    write_private(&state.spec(), &serde_json::to_string_pretty(spec)?)?;
    Ok(())
}

fn kubectl(spec: &Spec, args: &[&str]) -> Kubectl {
    Kubectl {
        program: spec.binaries.path(Part::Kubectl),
        kubeconfig: spec.state.kubeconfig(),
        cache: spec.state.kubectl_cache(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        stdin: None,
        env: None,
    }
}

/// Hundreds of megabytes that nobody reads; the logs are what is kept.
pub(super) fn drop_data(state: &State) {
    let _ = std::fs::remove_dir_all(state.etcd());
}

fn kill(pid: i32) {
    // Zero is the id of a process that was never started.
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// `target/testbed/<name>-<pid>` of this workspace.
fn default_state_dir(name: &str) -> PathBuf {
    target_dir().join("testbed").join(format!("{name}-{}", std::process::id()))
}

/// Cargo's target directory for this workspace.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

/// The directory for this plane alone: a second one would wipe the files of the first.
fn claim(state: &State, name: &str) -> anyhow::Result<File> {
    // Beside the directory, which a start empties.
    let path = state.path().with_extension("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let taken = flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
    anyhow::ensure!(
        !taken && super::detached::running(state).is_none(),
        "plane {name:?} is up already; `cargo testbed down --name {name}` stops it"
    );
    Ok(file)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    path.canonicalize().with_context(|| format!("{}", path.display()))
}
