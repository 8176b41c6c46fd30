//! Planes to work in by hand: `testbed up`, `shell` and `down`.
//!
//! **Architecture invariant**: such a plane belongs to itself. What these commands know of it stands in its state directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::addons;
use crate::parts::{Binaries, operator_binary};
use crate::plane::detached::{running, stop_detached};
use crate::plane::owner::target_dir;
use crate::plane::{Plane, PlaneOptions, Spec, State};

/// Which plane.
#[derive(Clone, Debug, Args)]
pub struct Name {
    /// Name of the plane.
    #[arg(long, default_value = "default", value_parser = plane_name)]
    name: String,
}

/// What can be installed on a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum With {
    /// KEDA, and Prometheus for it to ask.
    Keda,
    /// metrics-server, for `kubectl top` and for triggers on cpu and memory.
    MetricsServer,
    /// This operator.
    Operator,
}

/// Options of `up`.
#[derive(Clone, Debug, Args)]
pub struct Up {
    #[command(flatten)]
    name: Name,
    /// What to install on it, from the manifests that users install.
    #[arg(long, value_delimiter = ',')]
    with: Vec<With>,
    /// Command of a real engine in place of the simulated one, as in `vllm serve … --host {ip}`.
    #[arg(long)]
    engine: Option<String>,
    /// Stays, and ends the plane when it ends itself.
    #[arg(long)]
    foreground: bool,
}

/// Where the plane of this name lies; `shell` and `down` look for it there.
pub fn state(name: &str) -> State {
    // Canonical, as the plane itself knows it.
    let path = target_dir().join("testbed").join(name);
    State::new(path.canonicalize().unwrap_or(path))
}

impl Name {
    fn state(&self) -> State {
        state(&self.name)
    }

    fn running(&self) -> Option<i32> {
        running(&self.state())
    }
}

/// It becomes the name of a directory.
fn plane_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("lower-case letters, digits and `-` only".to_owned())
    }
}

/// Starts a plane that belongs to itself.
pub fn up(options: Up) -> anyhow::Result<()> {
    let Up { name, with, engine, foreground } = options;
    let state = name.state();
    if let Some(pid) = name.running() {
        anyhow::bail!("plane {:?} is up already (process {pid}); `testbed down` stops it", name.name);
    }
    let testbed = std::env::current_exe().context("the path of this program")?;
    let mut options = PlaneOptions::new(&name.name, testbed);
    options.state_dir = Some(state.path().to_owned());
    options.operator_exe = Some(operator_binary()?);
    options.engine = engine;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut plane = runtime.block_on(async {
        let plane = Plane::start(options).await?;
        install(&plane, &with).await?;
        anyhow::Ok(plane)
    })?;
    for (what, after) in plane.steps() {
        eprintln!("{:5.1} s  {what}", after.as_secs_f64());
    }
    for (variable, value) in environment(plane.spec()) {
        println!("export {variable}={}", quoted(&value.to_string_lossy()));
    }
    if !foreground {
        return plane.let_go();
    }
    runtime.block_on(async {
        until_interrupted_or_failed(&plane).await?;
        plane.stop().await
    })
}

/// Everything is applied before anything is waited for.
async fn install(plane: &Plane, with: &[With]) -> anyhow::Result<()> {
    let (keda, operator) = (with.contains(&With::Keda), with.contains(&With::Operator));
    let metrics_server = with.contains(&With::MetricsServer);
    if metrics_server {
        addons::install_metrics_server(plane).await?;
    }
    if keda {
        addons::install_keda_and_prometheus(plane).await?;
    }
    if operator {
        addons::install_operator(plane).await?;
        addons::wait_for_operator(plane).await?;
    }
    if keda {
        addons::wait_for_keda_and_prometheus(plane).await?;
    }
    if metrics_server {
        addons::wait_for_metrics_server(plane).await?;
    }
    Ok(())
}

async fn until_interrupted_or_failed(plane: &Plane) -> anyhow::Result<()> {
    tokio::select! {
        result = tokio::signal::ctrl_c() => Ok(result?),
        why = plane.failed() => anyhow::bail!("{why}"),
    }
}

/// Stops it.
pub fn down(name: &Name) -> anyhow::Result<()> {
    anyhow::ensure!(
        name.state().spec().exists(),
        "no plane {:?} was started; there is nothing to end",
        name.name
    );
    stop_detached(&name.state())
}

/// Runs the user's shell with all that is needed to talk to the plane.
pub fn shell(name: &Name) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    anyhow::ensure!(name.running().is_some(), "no plane {:?} is up; `testbed up` starts one", name.name);
    let spec = read_spec(&name.state())?;
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    Err(Command::new(&shell).envs(environment(&spec)).exec())
        .with_context(|| format!("starting {}", Path::new(&shell).display()))
}

fn read_spec(state: &State) -> anyhow::Result<Spec> {
    let path = state.spec();
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is of another version", path.display()))
}

/// What a shell needs: kubectl's settings, and the parts' programs on its `PATH`.
pub fn environment(spec: &Spec) -> [(&'static str, OsString); 3] {
    let own = std::env::var_os("PATH").unwrap_or_default();
    [
        ("KUBECONFIG", spec.state.kubeconfig().into()),
        ("KUBECACHEDIR", spec.state.kubectl_cache().into()),
        ("PATH", path_with(&spec.binaries, &own)),
    ]
}

fn path_with(binaries: &Binaries, own: &std::ffi::OsStr) -> OsString {
    let mut folders: Vec<PathBuf> = binaries.folders().map(Path::to_owned).collect();
    folders.dedup();
    folders.extend(std::env::split_paths(own));
    // A folder with a colon in its name cannot stand in a PATH; the user's own PATH still works then.
    std::env::join_paths(folders).unwrap_or_else(|_| own.to_owned())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for (name, good) in [("default", true), ("a-1", true), ("../x", false), ("", false), ("A", false)] {
            assert_eq!(plane_name(name).is_ok(), good, "{name:?}");
        }
    }

    #[test]
    fn quoting_survives_a_shell() {
        let text = "it's $HOME";
        let output = Command::new("/bin/sh").args(["-c", &format!("printf %s {}", quoted(text))]).output();
        assert_eq!(String::from_utf8_lossy(&output.expect("sh").stdout), text);
    }
}
