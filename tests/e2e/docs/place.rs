//! Where a document's commands are typed: a folder, a shell, and a kubeconfig of their own.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use testbed::by_hand::environment;
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Output, Plane};

use super::blocks::{Command, ROOT};
use super::shown::shows;
use crate::suite::PATIENCE;

/// The folder that is told to be the checkout, and what was said in the shell so far.
pub struct Place<'a> {
    /// The plane that kubectl speaks to.
    pub plane: &'a Plane,
    folder: tempfile::TempDir,
    programs: PathBuf,
    said: String,
}

impl<'a> Place<'a> {
    /// With the checkout's `deploy`, and the files that the document takes for granted.
    pub fn new(plane: &'a Plane, operator: &Path, files: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        symlink(Path::new(ROOT).join("deploy").canonicalize()?, folder.path().join("deploy"))?;
        std::fs::copy(plane.kubeconfig(), folder.path().join("kubeconfig"))?;
        let programs = operator.parent().context("the operator's folder")?.to_owned();
        let new = Self { plane, folder, programs, said: String::new() };
        for (name, text) in files {
            new.write(name, text)?;
        }
        Ok(new)
    }

    /// A file in the folder.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let file = self.folder.path().join(name);
        std::fs::create_dir_all(file.parent().context("a folder")?)?;
        std::fs::write(&file, text).with_context(|| file.display().to_string())
    }

    /// Types a command, and holds it to what is shown; without that it must succeed.
    pub async fn types(&mut self, command: &Command) -> anyhow::Result<()> {
        let Command { line, shown } = command;
        if shown.is_empty() {
            let told = self.run(line).await?;
            // A search that finds nothing is an answer.
            let found_nothing =
                line.contains("| grep ") && told.status.code() == Some(1) && told.stderr.is_empty();
            if !found_nothing {
                told.ok()?;
            }
        } else if reads(line) {
            eventually(line, Deadline::after(PATIENCE), || async {
                let told = self.run(line).await.map_err(|error| format!("{error:#}"))?;
                shows(shown, &told_by(&told)).map_err(|error| format!("{error:#}"))
            })
            .await?;
        } else {
            shows(shown, &told_by(&self.run(line).await?))?;
        }
        // What a shell keeps in mind.
        let assigns =
            line.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase()));
        if assigns {
            self.said.push_str(line);
            self.said.push('\n');
        }
        Ok(())
    }

    /// Runs a line in the shell.
    pub async fn run(&self, line: &str) -> anyhow::Result<Output> {
        let [_, cache, (_, path)] = environment(self.plane.spec());
        let mut folders = vec![self.programs.clone()];
        folders.extend(std::env::split_paths(&path));
        let home = self.folder.path();
        let output = tokio::process::Command::new("sh")
            .args(["-euc", &format!("{}{line}", self.said)])
            .current_dir(home)
            .env("HOME", home)
            .env("KUBECONFIG", home.join("kubeconfig"))
            .env(cache.0, cache.1)
            .env("PATH", std::env::join_paths(folders)?)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE * 3, output)
            .await
            .with_context(|| format!("`{line}` did not end within {:?}", PATIENCE * 3))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Ok(Output { command: line.to_owned(), stdout, stderr, status: output.status })
    }

    /// Gives a manifest to a command of kubectl.
    pub async fn give(&self, command: &str, manifest: &str) -> anyhow::Result<()> {
        self.write("given.yaml", manifest)?;
        let told = self.run(&format!("{command} -f given.yaml")).await?;
        ensure!(told.status.success(), "{command}: {}\n{manifest}", told.stderr);
        Ok(())
    }
}

/// Whether a command changes nothing: what it is to show may take a moment then.
fn reads(line: &str) -> bool {
    let mut words = line.split_whitespace();
    match words.next() {
        Some("vllm-operator") => true,
        Some("kubectl") => words.any(|word| ["get", "describe", "logs"].contains(&word)),
        _ => false,
    }
}

/// As a terminal shows it: what is wrong comes first.
fn told_by(output: &Output) -> String {
    format!("{}{}", output.stderr, output.stdout)
}
