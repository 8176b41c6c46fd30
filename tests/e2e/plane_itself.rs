//! The testbed's own promises: planes stand side by side, start in time, and nothing of them outlives its owner.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Plane, PlaneOptions};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// The program `testbed`, which cargo built beside this test.
const TESTBED: &str = env!("CARGO_BIN_EXE_testbed");

/// What a warm start may take.
const WARM_START: Duration = Duration::from_secs(15);
/// What the kernel may take to end a plane whose owner is gone.
const END: Duration = Duration::from_secs(5);

/// Two planes run side by side on the same addresses, and know nothing of each other; one ends without the other.
pub async fn two_planes_stand_side_by_side() -> anyhow::Result<()> {
    let (left, right) = tokio::join!(
        Plane::start(PlaneOptions::new("left", TESTBED)),
        Plane::start(PlaneOptions::new("right", TESTBED))
    );
    let (left, right) = (left?, right?);
    anyhow::ensure!(left.state_dir() != right.state_dir(), "both in {}", left.state_dir().display());

    // A third one in the same place would wipe the files of the first, and is refused.
    let mut again = PlaneOptions::new("left", TESTBED);
    again.state_dir = Some(left.state_dir().to_owned());
    let refused = Plane::start(again).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    anyhow::ensure!(refused.contains("plane \"left\" is up already"), "{refused:?}");

    left.kubectl(&["create", "configmap", "of-left"]).ok().await?;
    let refused = right.kubectl(&["get", "configmap", "of-left"]).output().await?.refused()?;
    anyhow::ensure!(refused.contains("NotFound"), "the right plane on the left one's object: {refused}");
    for plane in [&left, &right] {
        let path = "-o=jsonpath={.spec.clusterIP}";
        let address = plane.kubectl(&["get", "service", "kubernetes", path]).ok().await?;
        anyhow::ensure!(address == "10.96.0.1", "address of the Service kubernetes: {address:?}");
    }

    let of_left = processes(left.pid())?;
    left.stop().await?;
    let left_over = alive(&of_left);
    anyhow::ensure!(left_over.is_empty(), "left after stop: {left_over:?}");
    let name = right.kubectl(&["get", "node", "-o=name"]).ok().await?;
    anyhow::ensure!(name == "node/node-0", "the right plane after the left one's end: {name:?}");
    right.stop().await
}

/// A component that dies ends its plane, and the reason names it with the end of its log.
pub async fn a_component_that_dies_ends_its_plane() -> anyhow::Result<()> {
    let plane = Plane::start(PlaneOptions::new("dies", TESTBED)).await?;
    let all = processes(plane.pid())?;
    let etcd = all.iter().find(|process| process.program() == "etcd").context("no etcd runs")?;
    etcd.kill()?;
    let why = tokio::time::timeout(END, plane.failed()).await.context("the plane does not notice")?;
    anyhow::ensure!(why.contains("etcd ended (signal: 9") && why.contains("etcd.log"), "{why}");
    all_gone(&all).await?;
    plane.stop().await
}

/// An owner that is killed takes its plane along, pods and their daemons too. It was ready in time before.
pub async fn nothing_outlives_a_killed_owner() -> anyhow::Result<()> {
    let name = format!("killed-{}", std::process::id());
    let mut owner = Command::new(TESTBED)
        .args(["up", "--foreground", "--name", &name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(owner.stdout.take().context("a pipe")?).lines();
    let said = async {
        while let Some(line) = lines.next_line().await? {
            if let Some(path) = line.strip_prefix("export KUBECONFIG='") {
                return Ok(PathBuf::from(path.trim_end_matches('\'')));
            }
        }
        anyhow::bail!("`testbed up` ended before its plane was ready")
    };
    let kubeconfig =
        tokio::time::timeout(Duration::from_mins(3), said).await.context("no plane in 3 minutes")??;
    let state = kubeconfig.parent().context("a state directory")?;
    let init: i32 = std::fs::read_to_string(state.join("pid"))?.trim().parse()?;

    let client = testbed::plane::client_from(&kubeconfig).await?;
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "daemon"},
        "spec": {"containers": [{"name": "daemon", "image": "testbed/load",
            "command": ["/bin/sh", "-c", "setsid sleep 4711 & exec sleep 4712"]}]},
    }))?;
    kube::Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(client)
        .create(&kube::api::PostParams::default(), &pod)
        .await?;
    let started = || async {
        let all = processes(init).map_err(|e| e.to_string())?;
        let sleeps = all.iter().filter(|process| process.command.contains("sleep\u{20}471")).count();
        if sleeps >= 2 { Ok(all) } else { Err(format!("{all:?}")) }
    };
    let all =
        eventually("the pod's two processes run", Deadline::after(Duration::from_secs(30)), started).await?;
    for part in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns"] {
        anyhow::ensure!(all.iter().any(|process| process.program() == part), "{part} is not in {all:?}");
    }

    // SIGKILL: the owner has no chance to do anything.
    owner.start_kill()?;
    owner.wait().await?;
    all_gone(&all).await?;
    std::fs::remove_dir_all(state)?;
    Ok(())
}

/// A plane that was let go stays when its starter has ended, until it is stopped.
pub async fn a_plane_that_was_let_go_stays_until_down() -> anyhow::Result<()> {
    let name = format!("kept-{}", std::process::id());
    let state = testbed::by_hand::state(&name);
    let testbed = |verb: &'static str| {
        let mut command = Command::new(TESTBED);
        command.args([verb, "--name", &name]).stdin(Stdio::null()).kill_on_drop(true);
        command.output()
    };
    let up = testbed("up").await?;
    anyhow::ensure!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let client = testbed::plane::client_from(&state.kubeconfig()).await?;
    client.apiserver_version().await.context("the plane after its starter's end")?;
    let all = processes(std::fs::read_to_string(state.pid())?.trim().parse()?)?;

    let again = testbed("up").await?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    anyhow::ensure!(!again.status.success() && said.contains("is up already"), "a second `up`: {said}");

    let down = testbed("down").await?;
    anyhow::ensure!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    let left = alive(&all);
    anyhow::ensure!(left.is_empty(), "left after down: {left:?}");
    std::fs::remove_dir_all(state.path())?;
    Ok(())
}

/// A warm start, with nothing else going on, is ready in time.
pub async fn a_warm_start_is_ready_in_time() -> anyhow::Result<()> {
    let begin = std::time::Instant::now();
    let plane = Plane::start(PlaneOptions::new("warm", TESTBED)).await?;
    let took = begin.elapsed();
    anyhow::ensure!(took < WARM_START, "ready after {took:?}: {:?}", plane.steps());
    plane.stop().await
}

/// A process, told apart from a later one with the same id by its start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    started: String,
    command: String,
}

impl Process {
    /// None for a process that has ended, or has ended but for its parent's wait.
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, also spaces and parentheses: fields count from behind it.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, started) = (*fields.first()?, (*fields.get(19)?).to_owned());
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        (!matches!(state, "Z" | "X")).then_some(Self { pid, started, command })
    }

    fn program(&self) -> &str {
        let path = self.command.split(' ').next().unwrap_or_default();
        Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    fn kill(&self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_raw(self.pid).context("a process id")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
    }
}

/// Every process in the PID namespace of `init`.
fn processes(init: i32) -> anyhow::Result<Vec<Process>> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let wanted = namespace(init).with_context(|| format!("the plane's first process {init}"))?;
    let pids = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| namespace(pid).is_ok_and(|found| found == wanted));
    Ok(pids.filter_map(Process::read).collect())
}

fn alive(all: &[Process]) -> Vec<Process> {
    all.iter()
        .filter(|process| Process::read(process.pid).is_some_and(|p| p.started == process.started))
        .cloned()
        .collect()
}

async fn all_gone(all: &[Process]) -> anyhow::Result<()> {
    let probe = || async {
        let left = alive(all);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    };
    eventually("every process of the plane is gone", Deadline::after(END), probe).await
}
