//! The inside of a plane: starts everything in the order that the parts allow, tells the owner, and ends when a part ends.
//!
//! **Architecture invariant**: runs in the namespaces of its own only. It does not watch its owner; PID 1 does.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use super::bootstrap;
use super::child::Children;
use super::components::{self, APISERVER_PORT, ETCD_PORT};
use super::events::{Event, Owner};
use super::spec::Spec;
use super::wait::{Deadline, eventually};
use super::{client_from, relay};
use crate::images::Images;
use crate::node::{self, NodeConfig};
use crate::{namespaces, proxy};

/// Longer than a cold start on a busy machine takes, and short enough to show a start that hangs.
const START_DEADLINE: Duration = Duration::from_mins(2);

/// Runs the inside until a part of it ends, or until PID 1 does.
pub fn main(spec: &Path) -> ExitCode {
    let owner = Arc::new(Owner::at_stdin());
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("info,kube_client::client::builder=off")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            owner.tell(&Event::Failed { why: format!("async runtime: {error}") });
            return ExitCode::FAILURE;
        }
    };
    let Err(why) = runtime.block_on(run(spec, &owner));
    eprintln!("plane: {why:#}");
    owner.tell(&Event::Failed { why: format!("{why:#}") });
    ExitCode::FAILURE
}

async fn run(path: &Path, owner: &Arc<Owner>) -> anyhow::Result<std::convert::Infallible> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let spec: Spec = serde_json::from_slice(&text).context("the plane's specification")?;
    let (children, ends) = Children::new(spec.state.logs(), spec.restarts);
    let (tasks, mut failures) = mpsc::unbounded_channel();
    let inside = Inside { spec, owner: owner.clone(), children, begin: Instant::now(), tasks };
    let mut ends = ends;
    let start = async {
        inside.start().await?;
        owner.tell(&Event::Ready);
        std::future::pending::<anyhow::Result<std::convert::Infallible>>().await
    };
    // Whatever ends first ends the plane; nothing is carried on, so no arm needs to survive cancellation.
    tokio::select! {
        why = ends.recv() => Err(anyhow::anyhow!("{}", why.unwrap_or_default())),
        why = failures.recv() => Err(why.unwrap_or_else(|| anyhow::anyhow!("the plane's tasks ended"))),
        result = start => result,
    }
}

struct Inside {
    spec: Spec,
    owner: Arc<Owner>,
    children: Children,
    begin: Instant,
    tasks: mpsc::UnboundedSender<anyhow::Error>,
}

impl Inside {
    async fn start(&self) -> anyhow::Result<()> {
        let spec = &self.spec;
        let deadline = Deadline::after(START_DEADLINE);
        namespaces::configure_network().await?;
        self.children.start(&components::etcd(spec))?;
        eventually("etcd accepts connections", deadline, || port(ETCD_PORT)).await?;
        self.step("etcd");

        self.children.start(&components::apiserver(spec))?;
        relay_from_outside()?;
        let admin = client_from(&spec.state.inner_kubeconfig("node")).await?;
        eventually("kube-apiserver answers", deadline, || bootstrap::healthy(&admin, "/livez/ping")).await?;
        self.step("kube-apiserver answers");

        eventually("kube-apiserver is ready", deadline, || bootstrap::healthy(&admin, "/readyz")).await?;
        self.step("kube-apiserver is ready");
        // Not before: until the API server has written its own RBAC rules, these are refused and end.
        self.children.start(&components::controller_manager(spec))?;
        self.children.start(&components::scheduler(spec))?;
        self.children.start(&components::coredns(spec))?;
        self.task("node", node::run(admin.clone(), self.node_config()));
        self.task("Service proxy", proxy::run(admin.clone()));

        bootstrap::objects(&admin, deadline).await?;
        let (account, node, dns) = tokio::join!(
            self.reached("default ServiceAccount", deadline, || bootstrap::default_account(&admin)),
            self.reached("node ready", deadline, || bootstrap::node_ready(&admin)),
            self.reached("DNS answers", deadline, bootstrap::dns_answers),
        );
        account.and(node).and(dns)
    }

    async fn reached<F, T>(&self, what: &str, deadline: Deadline, probe: F) -> anyhow::Result<()>
    where
        F: FnMut() -> T,
        T: Future<Output = Result<(), String>>,
    {
        eventually(what, deadline, probe).await?;
        self.step(what);
        Ok(())
    }

    /// Runs a part of the plane that is a task; its end is the plane's end.
    fn task(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let tasks = self.tasks.clone();
        tokio::spawn(async move {
            let why = match tokio::spawn(task).await {
                Ok(Ok(())) => anyhow::anyhow!("it returned"),
                Ok(Err(error)) => error,
                Err(panic) => anyhow::anyhow!("{panic}"),
            };
            let _ = tasks.send(why.context(format!("the plane's {name} ended")));
        });
    }

    fn node_config(&self) -> NodeConfig {
        let spec = &self.spec;
        let binary = |name: &str| spec.binaries.by_name(name);
        NodeConfig {
            name: bootstrap::NODE_NAME.to_owned(),
            address: namespaces::NODE_ADDRESS,
            pod_cidr: components::pod_range(),
            state_dir: spec.state.pods(),
            logs_dir: spec.state.logs().join("pods"),
            dns: components::DNS_ADDRESS,
            cluster_domain: "cluster.local".to_owned(),
            service_host: components::KUBERNETES_ADDRESS,
            service_port: 443,
            testbed_exe: spec.testbed_exe.clone(),
            images: Images::known(
                &binary,
                spec.operator_exe.as_deref(),
                &spec.testbed_exe,
                spec.engine.as_deref(),
            )
            .with_peer(spec.peer_exe.as_deref()),
        }
    }

    fn step(&self, what: &str) {
        let after_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        eprintln!("plane: {what} after {after_ms} ms");
        self.owner.tell(&Event::Step { what: what.to_owned(), after_ms });
    }
}

async fn port(port: u16) -> Result<(), String> {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|e| e.to_string())
}

/// Standard output is the listener that the owner made outside.
fn relay_from_outside() -> anyhow::Result<()> {
    let listener = std::net::TcpListener::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener).context("the listener that the owner made")?;
    tokio::spawn(relay::relay(listener, ([127, 0, 0, 1], APISERVER_PORT).into()));
    Ok(())
}
