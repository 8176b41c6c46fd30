//! The process of a container: enters the pod's network, builds its root, and becomes the program.
//!
//! **Architecture invariant**: it stays one process from start to end, so the id that the node started is the container's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};
use serde::{Deserialize, Serialize};

use super::root::{Mount, Root};

/// Exit code of a container whose program was never reached; the one that container runtimes use.
pub const NOT_STARTED: u8 = 128;

/// Everything that a container's process is made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The network namespace to enter; none stays in the node's.
    pub network: Option<PathBuf>,
    /// What the machine is called in the container.
    pub hostname: String,
    /// An empty directory to build the container's root on.
    pub root: PathBuf,
    /// A folder with the files of the image; none has those of the node.
    pub image: Option<PathBuf>,
    /// The program and its arguments. Where there is a folder, both are the image's own. Otherwise a program with an absolute path is taken from the node, wherever it is there, and
    /// shows up below `/.image`; any other is looked up in the container's `PATH`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Made if it is missing.
    pub working_dir: PathBuf,
    /// What is mounted.
    pub mounts: Vec<Mount>,
}

/// Becomes the container that the file `spec` describes; returns only if that fails.
pub fn run(spec: &Path) -> anyhow::Error {
    match enter(spec) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn enter(spec: &Path) -> anyhow::Result<Infallible> {
    let text = std::fs::read(spec).with_context(|| format!("reading {}", spec.display()))?;
    let Spec { network, hostname, root, image, argv, env, working_dir, mounts } =
        serde_json::from_slice(&text)?;
    if let Some(network) = network {
        let file = File::open(&network).context("the pod's network is gone")?;
        setns(file, CloneFlags::CLONE_NEWNET).context("entering the pod's network")?;
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .context("leaving the node's mounts and name")?;
    rustix::system::sethostname(hostname.as_bytes())
        .with_context(|| format!("taking the name {hostname:?}"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;

    let (program, arguments) = argv.split_first().context("the container has no command")?;
    let mut root = Root::build(&root, image.as_deref())?;
    let program = if image.is_none() && Path::new(program).is_absolute() {
        root.program(Path::new(program))?
    } else {
        PathBuf::from(program)
    };
    root.mount_all(mounts)?;
    root.directory(&working_dir)?;
    root.enter()?;
    std::env::set_current_dir(&working_dir)
        .with_context(|| format!("working directory {}", working_dir.display()))?;
    let error = std::process::Command::new(&program).args(arguments).env_clear().envs(env).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
