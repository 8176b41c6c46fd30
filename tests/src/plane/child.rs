//! The components' processes: each with a log of its own, and with an end that is noticed.
//!
//! **Architecture invariant**: nothing here restarts anything. A component that dies unasked ends its plane.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;
use tokio::sync::mpsc;

/// How a component that died is told.
const LAST_LINES: usize = 20;

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
    ends: mpsc::UnboundedSender<String>,
}

impl Children {
    /// Components log into `logs`; the receiver gets a sentence for each that ends.
    pub fn new(logs: PathBuf) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (ends, heard) = mpsc::unbounded_channel();
        (Self { logs, ends }, heard)
    }

    /// Starts a component. It ends with the PID namespace.
    pub fn start(&self, component: &Component) -> anyhow::Result<()> {
        let log = self.logs.join(format!("{}.log", component.name));
        let file = std::fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut child = Command::new(&component.program)
            .args(&component.args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {}", component.program.display()))?;
        let (name, ends) = (component.name, self.ends.clone());
        tokio::spawn(async move {
            let how = match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            let _ = ends.send(format!("{name} ended ({how}); the end of {}:\n{}", log.display(), tail(&log)));
        });
        Ok(())
    }
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
    async fn an_end_is_told_with_the_last_lines() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (children, mut ends) = Children::new(folder.path().to_owned());
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
