//! A newcomer's path: the tree as it is checked out, in an empty directory, with an empty home, by the words of README.md alone.
//!
//! Rust and Go are installed there, and the parts of the control plane are in their cache: to build these takes twenty minutes. So
//! are the libraries, which cargo would only compile once more; everything of this tree is compiled anew.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use testbed::parts::operator_binary;
use testbed::plane::owner::target_dir;
use tokio::process::Command;

use super::blocks::{self, ROOT};
use super::shown::shows;

const README: &str = "README.md";
/// The build, on a machine that does other things too, and the demo.
const PATIENCE: Duration = Duration::from_mins(20);
/// Packages of this tree, by the names of their libraries.
const OWN: [&str; 4] = ["vllm_operator", "webhook", "certs", "testbed"];

/// The demo runs, and shows what README.md says.
pub async fn path() -> anyhow::Result<()> {
    // What the demo needs of others' crates is compiled then, if it was not before.
    tokio::task::spawn_blocking(operator_binary).await??;
    // Beside what cargo has built, so that both can be of the same file system.
    let target = target_dir().canonicalize()?;
    let folder = tempfile::Builder::new().prefix("newcomer-").tempdir_in(&target)?;
    let (tree, home) = (folder.path().join("vllm-operator"), folder.path().join("home"));
    fs::create_dir_all(&home)?;
    checked_out(&tree)?;
    libraries(&target.join("debug"), &tree.join("target/debug"))?;

    let demo = first_command()?;
    let told = types(&tree, &home, &demo).await?;
    let readme = blocks::of(README)?;
    let shown =
        readme.iter().find(|block| block.language().0 == "text").context("README.md shows the demo")?;
    // Counts and times are each run's own; what is done and what is refused is not.
    let shown: Vec<_> =
        shown.text.lines().filter(|line| is_told_each_time(line)).map(str::to_owned).collect();
    ensure!(shown.len() > 20, "README.md shows {} lines of the demo", shown.len());
    shows(&shown, &told)?;
    let left: Vec<_> = fs::read_dir(&home)?.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty(), "left in the home directory: {left:?}");
    Ok(())
}

/// The first command of README.md.
fn first_command() -> anyhow::Result<String> {
    let blocks = blocks::of(README)?;
    let console =
        blocks.iter().find(|block| block.language().0 == "console").context("README.md has a console")?;
    let command = console.commands()?.into_iter().next().context("a console has a command")?;
    Ok(command.line)
}

/// Headings, commands, refusals and goals of the demo.
fn is_told_each_time(line: &str) -> bool {
    let heading = line.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok());
    let told = [" is invalid: ", "reached: ", " created", " scaled", "condition met"];
    heading || line.starts_with("$ kubectl ") || told.iter().any(|word| line.contains(word))
}

/// The tracked files, as they are now.
fn checked_out(tree: &Path) -> anyhow::Result<()> {
    let files = std::process::Command::new("git").args(["-C", ROOT, "ls-files", "-z"]).output()?;
    ensure!(files.status.success(), "git ls-files: {}", String::from_utf8_lossy(&files.stderr));
    for file in String::from_utf8(files.stdout)?.split_terminator('\0') {
        let (from, to) = (Path::new(ROOT).join(file), tree.join(file));
        fs::create_dir_all(to.parent().context("a folder")?)?;
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

/// What cargo has compiled of others' crates, by links: it neither depends on where the tree lies nor is written again.
fn libraries(from: &Path, to: &Path) -> anyhow::Result<()> {
    for folder in ["deps", "build", ".fingerprint"] {
        for entry in fs::read_dir(from.join(folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().replace('-', "_");
            let library = name.strip_prefix("lib").unwrap_or(&name);
            // Programs have no prefix; of each crate that is ours, cargo shall know nothing.
            let others = folder != "deps" || name.starts_with("lib");
            if others && !OWN.iter().any(|own| library.starts_with(&format!("{own}_"))) {
                linked(&entry.path(), &to.join(folder).join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}

fn linked(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            linked(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("a folder")?)?;
    fs::hard_link(from, to).with_context(|| from.display().to_string())
}

/// Types a command in the tree, and gives what it printed.
async fn types(tree: &Path, home: &Path, line: &str) -> anyhow::Result<String> {
    let output = Command::new("sh")
        .args(["-euc", line])
        .current_dir(tree)
        .env_clear()
        .envs(installed()?)
        .env("HOME", home)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .with_context(|| format!("`{line}` did not end within {PATIENCE:?}"))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "`{line}`: {}\n{stdout}{stderr}", output.status);
    Ok(stdout)
}

/// Where Rust, Go, the crates and the parts lie, which would be looked for in the home directory otherwise.
fn installed() -> anyhow::Result<Vec<(&'static str, OsString)>> {
    let own = std::env::var_os("HOME").map(PathBuf::from).context("HOME")?;
    let mut installed = Vec::new();
    for (name, otherwise) in [
        ("PATH", None),
        ("RUSTUP_HOME", Some(".rustup")),
        ("CARGO_HOME", Some(".cargo")),
        ("GOPATH", Some("go")),
        ("VLLM_TESTBED_CACHE", Some(".cache/vllm-operator-testbed")),
        ("VLLM_TESTBED_BIN", None),
        ("XDG_CACHE_HOME", None),
    ] {
        let value = std::env::var_os(name).or_else(|| Some(own.join(otherwise?).into()));
        installed.extend(value.map(|value| (name, value)));
    }
    Ok(installed)
}
