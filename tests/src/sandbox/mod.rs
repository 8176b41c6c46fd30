//! The inside of a pod: a network namespace that lives as long as its holder, and containers that run in it under a root of
//! their own.
//!
//! Reading order: [`hold`] (the pod's network, inside), [`link`] (the same, seen from the node), [`root`] (a container's
//! files), [`run`] (a container's process).
//!
//! **Architecture invariant**: nothing here knows of Kubernetes objects, and nothing needs a program of the machine:
//! namespaces, links, routes and mounts are made by system calls.

pub mod hold;
pub mod link;
pub mod root;
pub mod run;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

/// The address that every pod takes for its gateway. The node answers for it on every link, since it is local there.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What a process of a pod is told to be.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Holds the network namespace of a pod until standard input ends.
    Hold {
        /// The pod's address.
        address: Ipv4Addr,
    },
    /// Becomes a container's process.
    Run {
        /// A file with a [`run::Spec`].
        spec: PathBuf,
    },
}

/// Runs `command`; the calling process must have one thread, since a namespace is left by a thread and not by a process.
pub fn main(command: &Command) -> ExitCode {
    let result = match command {
        Command::Hold { address } => hold::hold(*address),
        // What comes back from `run` is only ever the reason why the program did not start.
        Command::Run { spec } => Err(run::run(spec)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sandbox: {error:#}");
            ExitCode::from(run::NOT_STARTED)
        }
    }
}
