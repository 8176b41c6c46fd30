//! One run of one container: its process, from start to end.
//!
//! **Architecture invariant**: nothing here decides whether a container should run.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::check::{Action, Target};
use super::decide::Terminated;
use super::stats::Listed;
use crate::sandbox::run::{NOT_STARTED, Spec};

/// A kubelet gives a process this long after SIGTERM, even where a hook has used up the grace period.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// What a kubelet takes from a log as the message of a failure.
const MESSAGE_BYTES: u64 = 2048;
const MESSAGE_LINES: usize = 80;

/// A container's process.
#[derive(Clone, Debug)]
pub struct Process {
    pid: Pid,
    /// Set once it has ended.
    pub ended: CancellationToken,
    log: PathBuf,
    log_from: u64,
}

/// A container that runs.
#[derive(Debug)]
pub struct Run {
    /// Its process.
    pub process: Process,
    /// What is probed.
    pub target: Target,
    /// The grace period that it was given, once it has to end.
    grace: Option<i64>,
    /// Its probes, and its end; they are over when this is dropped.
    tasks: JoinSet<()>,
    /// Its usage is told as long as it runs.
    _listed: Listed,
}

/// Writes `spec` to `file` and starts it with its output in `log`. `report` is called once, with how it ended.
pub fn start(
    testbed: &Path,
    spec: &Spec,
    file: &Path,
    log: &Path,
    report: impl FnOnce(ExitStatus) + Send + 'static,
) -> anyhow::Result<Process> {
    fs::create_dir_all(&spec.root)?;
    fs::write(file, serde_json::to_vec(spec)?)?;
    let output = OpenOptions::new().create(true).append(true).open(log)?;
    let log_from = output.metadata()?.len();
    let mut child = tokio::process::Command::new(testbed)
        .args(["sandbox", "run"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", testbed.display()))?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let pid = id.context("the process has no id")?;
    let ended = CancellationToken::new();
    let process = Process { pid, ended: ended.clone(), log: log.to_owned(), log_from };
    tokio::spawn(async move {
        let status = child.wait().await;
        // With the first process of a container, all others of it end.
        let _ = kill_process_group(pid, Signal::KILL);
        ended.cancel();
        report(status.unwrap_or_else(|error| {
            tracing::error!(%error, "waiting for a container");
            ExitStatus::from_raw(i32::from(NOT_STARTED) << 8)
        }));
    });
    Ok(process)
}

impl Process {
    /// Ends it: the hook, SIGTERM, and after the grace period SIGKILL to all of its processes.
    pub async fn stop(self, target: Target, hook: Option<Action>, grace: Duration) {
        let deadline = tokio::time::Instant::now() + grace;
        let ending = async {
            if let Some(hook) = hook {
                match tokio::time::timeout_at(deadline, target.perform(&hook, grace)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(container = target.container.name, error, "preStop"),
                    Err(_) => tracing::warn!(
                        container = target.container.name,
                        "preStop took all of the grace period"
                    ),
                }
            }
            let _ = kill_process(self.pid, Signal::TERM);
            tokio::time::sleep_until(deadline.max(tokio::time::Instant::now() + MIN_GRACE)).await;
            self.kill();
        };
        // The signals go to a process that has not been waited for: `ended` is set before its id is free again.
        tokio::select! {
            biased;
            () = self.ended.cancelled() => {}
            () = ending => {}
        }
    }

    /// Its id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Ends it at once.
    pub fn kill(&self) {
        if !self.ended.is_cancelled() {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// What to say of a run that ended.
    pub fn end(
        &self,
        container: &Container,
        id: String,
        started: Timestamp,
        status: ExitStatus,
    ) -> Terminated {
        let signal = status.signal();
        let exit_code = status.code().unwrap_or_else(|| 128 + signal.unwrap_or_default());
        let not_started = status.code() == Some(i32::from(NOT_STARTED));
        let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let message = (not_started || (from_log && exit_code != 0)).then(|| self.tail().ok()).flatten();
        let reason = match exit_code {
            0 => "Completed",
            _ if not_started => "StartError",
            _ => "Error",
        };
        Terminated {
            exit_code,
            signal,
            reason: reason.to_owned(),
            message,
            started,
            finished: Timestamp::now(),
            id,
        }
    }

    fn tail(&self) -> std::io::Result<String> {
        let mut file = File::open(&self.log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(self.log_from.max(length.saturating_sub(MESSAGE_BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        Ok(lines[lines.len().saturating_sub(MESSAGE_LINES)..].join("\n"))
    }
}

impl Run {
    /// One that has not been told to end.
    pub fn new(process: Process, target: Target, tasks: JoinSet<()>, listed: Listed) -> Self {
        Self { process, target, grace: None, tasks, _listed: listed }
    }

    /// Ends it within `grace` seconds, or sooner if it was told so before.
    pub fn stop(&mut self, grace: i64) {
        if self.grace.is_some_and(|given| given <= grace) {
            return;
        }
        self.grace = Some(grace);
        let hook = self.target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        self.tasks.spawn(self.process.clone().stop(self.target.clone(), hook.map(Action::of_hook), grace));
    }
}
