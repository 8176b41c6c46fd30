//! The components' processes: each with a log of its own, and with an end that is noticed.
//!
//! **Architecture invariant**: a component that dies unasked ends its plane, unless the plane was made for components that
//! are killed: then it is started again, as a kubelet would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// How a component that died is told.
const LAST_LINES: usize = 20;
/// Between a component's end and its next start.
const PAUSE: Duration = Duration::from_millis(500);

/// One component, as a command line.
#[derive(Clone, Debug)]
pub struct Component {
    /// Also the log's name.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// Starts components, and hears of their ends.
pub struct Children {
    logs: PathBuf,
    restarts: bool,
    ends: mpsc::UnboundedSender<String>,
}

impl Children {
    /// Components log into `logs`; the receiver gets a sentence for each that ends and is not started again, which
    /// `restarts` asks for.
    pub fn new(logs: PathBuf, restarts: bool) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (ends, heard) = mpsc::unbounded_channel();
        (Self { logs, restarts, ends }, heard)
    }

    /// Starts a component. It ends with the PID namespace.
    pub fn start(&self, component: &Component) -> anyhow::Result<()> {
        let log = self.logs.join(format!("{}.log", component.name));
        let _ = std::fs::remove_file(&log);
        let mut child = spawn(component, &log)?;
        let (component, restarts, ends) = (component.clone(), self.restarts, self.ends.clone());
        tokio::spawn(async move {
            let why = loop {
                let how = match child.wait().await {
                    Ok(status) => status.to_string(),
                    Err(error) => break error.to_string(),
                };
                if !restarts {
                    break how;
                }
                eprintln!("plane: {} ended ({how}); starting it again", component.name);
                tokio::time::sleep(PAUSE).await;
                child = match spawn(&component, &log) {
                    Ok(child) => child,
                    Err(error) => break format!("{how}, and not started again: {error:#}"),
                };
            };
            let name = component.name;
            let _ = ends.send(format!("{name} ended ({why}); the end of {}:\n{}", log.display(), tail(&log)));
        });
        Ok(())
    }
}

fn spawn(component: &Component, log: &Path) -> anyhow::Result<Child> {
    let file = std::fs::File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("opening {}", log.display()))?;
    Command::new(&component.program)
        .args(&component.args)
        // All are Go's. There is more memory than they need, and fewer processors: up to a third of an API server's time is its
        // garbage collection otherwise.
        .env("GOGC", "800")
        .env("GOMEMLIMIT", "1500MiB")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("starting {}", component.program.display()))
}

/// The last lines of a log, or why there are none.
pub fn tail(log: &Path) -> String {
    match std::fs::read(log) {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes), LAST_LINES),
        Err(error) => format!("  (cannot be read: {error})"),
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines[from..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "  b\n  c");
        assert_eq!(last_lines("a", 2), "  a");
        assert_eq!(last_lines("", 2), "");
    }

    #[tokio::test]
    async fn one_that_is_killed_may_be_started_again() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (children, _ends) = Children::new(folder.path().to_owned(), true);
        let args = vec!["-c".into(), "echo started; exec sleep 0.1".into()];
        children.start(&Component { name: "short-lived", program: "/bin/sh".into(), args }).expect("started");
        let log = folder.path().join("short-lived.log");
        let deadline = crate::plane::wait::Deadline::after(Duration::from_secs(20));
        crate::plane::wait::eventually("two starts in one log", deadline, || async {
            let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
            if text.lines().count() >= 2 { Ok(()) } else { Err(text) }
        })
        .await
        .expect("started again");
    }

    #[tokio::test]
    async fn an_end_is_told_with_the_last_lines() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (children, mut ends) = Children::new(folder.path().to_owned(), false);
        children
            .start(&Component {
                name: "short-lived",
                program: "/bin/sh".into(),
                args: vec!["-c".into(), "echo 'no such flag' >&2; exit 3".into()],
            })
            .expect("started");
        let heard = tokio::time::timeout(std::time::Duration::from_secs(20), ends.recv()).await;
        let sentence = heard.expect("an end within 20 s").expect("a sentence");
        assert!(sentence.starts_with("short-lived ended (exit status: 3)"), "{sentence}");
        assert!(sentence.ends_with("  no such flag"), "{sentence}");
    }
}
