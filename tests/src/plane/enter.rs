//! The two small processes around a plane: the one that leaves the machine's namespaces, and PID 1 of the new ones.
//!
//! The first (`plane-enter`) stays outside as the owner's child, so that the owner can wait for the end. The second
//! (`plane-init`) reaps orphans, and ends, and with it everything, when the owner's end of the socket closes: after a
//! panic, Ctrl-C or SIGKILL of the owner as well as after an orderly stop.
//!
//! **Architecture invariant**: no async runtime and no Kubernetes; a bug in what runs inside cannot keep a plane alive.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use rustix::process::{WaitOptions, wait};

use super::events::{Event, Owner};
use crate::namespaces;

/// Leaves the machine's namespaces, starts PID 1 of the new ones and waits for its end.
///
/// Standard input is the socket to the owner, standard output a TCP listener of the machine's network namespace; both
/// pass through to the inside.
pub fn enter(spec: &Path) -> ExitCode {
    let owner = Owner::at_stdin();
    match run_init(spec, &owner) {
        Ok(code) => code,
        Err(error) => {
            owner.tell(&Event::Failed { why: format!("{error:#}") });
            ExitCode::FAILURE
        }
    }
}

fn run_init(spec: &Path, owner: &Owner) -> anyhow::Result<ExitCode> {
    // Ctrl-C at the owner's terminal must reach the owner only: we go when it goes.
    rustix::process::setsid().context("leaving the owner's session")?;
    namespaces::enter()?;
    let mut init = Command::new("/proc/self/exe")
        .arg("plane-init")
        .arg(spec)
        .spawn()
        .context("starting the first process of the plane's PID namespace")?;
    owner.tell(&Event::Entered { pid: i32::try_from(init.id()).context("process id")? });
    let status = init.wait().context("waiting for the plane")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// PID 1: mounts `/proc`, starts the inside, reaps, and ends with the owner or with the inside.
pub fn init(spec: &Path) -> ExitCode {
    match run_inside(spec) {
        Ok(code) => code,
        Err(error) => {
            Owner::at_stdin().tell(&Event::Failed { why: format!("{error:#}") });
            ExitCode::FAILURE
        }
    }
}

fn run_inside(path: &Path) -> anyhow::Result<ExitCode> {
    namespaces::mount_own_proc()?;
    // By its link and not by its path: a rebuild may have replaced the file meanwhile.
    let inside = Command::new("/proc/self/exe")
        .arg("plane-main")
        .arg(path)
        .stdin(Stdio::inherit())
        .spawn()
        .context("starting the inside of the plane")?;
    let inside = i32::try_from(inside.id()).context("process id")?;
    std::thread::spawn(exit_with_owner);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == inside => {
                let code = status.exit_status().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                return Ok(ExitCode::from(code));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the plane's processes"),
        }
    }
}

/// Ends this process, and so the whole PID namespace, once the owner's end of the socket is closed. An owner that writes
/// to it instead lets the plane go.
fn exit_with_owner() {
    let mut socket = std::io::stdin();
    loop {
        match socket.read(&mut [0]) {
            Ok(0) => std::process::exit(0),
            Ok(_) => return,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => std::process::exit(1),
        }
    }
}
