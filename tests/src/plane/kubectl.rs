//! kubectl, run against one plane.
//!
//! **Architecture invariant**: the built kubectl, never one of the machine's; the user's own kubeconfig is never read.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// No call of the tests waits longer; `kubectl wait` and `rollout` state less.
const LONGEST_CALL: Duration = Duration::from_mins(5);

/// What kubectl printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, as one would type it.
    pub command: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit status.
    pub status: ExitStatus,
}

impl Output {
    /// Standard output, trimmed, or an error that shows everything.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.status.success() {
            return Ok(self.stdout.trim_end().to_owned());
        }
        anyhow::bail!("`{}`: {}\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }

    /// Standard error of a command that was refused, or an error that shows everything if it was not.
    pub fn refused(self) -> anyhow::Result<String> {
        if !self.status.success() {
            return Ok(self.stderr.trim_end().to_owned());
        }
        anyhow::bail!(
            "`{}` was meant to be refused, but went through:\n{}{}",
            self.command,
            self.stdout,
            self.stderr
        )
    }
}

/// One call of kubectl, to be run.
#[derive(Debug)]
pub struct Kubectl {
    pub(super) program: PathBuf,
    pub(super) kubeconfig: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) stdin: Option<String>,
    pub(super) env: Option<(&'static str, String)>,
}

impl Kubectl {
    /// Gives `text` on standard input, as for `apply -f -`.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// Sets one variable of its environment, such as `KUBE_EDITOR`.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env = Some((name, value.into()));
        self
    }

    /// Runs it to its end.
    pub async fn output(self) -> anyhow::Result<Output> {
        let command = format!("kubectl {}", self.args.join(" "));
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache)
            .envs(self.env)
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let input = child.stdin.take().zip(self.stdin);
        let feed = async move {
            if let Some((mut pipe, text)) = input {
                // kubectl may end without reading it all; its exit status tells.
                let _ = pipe.write_all(text.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(LONGEST_CALL, both)
            .await
            .with_context(|| format!("`{command}` did not end within {LONGEST_CALL:?}"))??;
        Ok(Output {
            command,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status,
        })
    }

    /// Runs it, and wants it to succeed.
    pub async fn ok(self) -> anyhow::Result<String> {
        self.output().await?.ok()
    }
}
