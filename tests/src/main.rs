//! The command `testbed`: builds the parts, runs a plane to work in by hand, and is the program behind the plane's own
//! processes.
//!
//! **Architecture invariant**: arguments and dispatch only. No async runtime exists before a hidden command has entered its
//! namespaces.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use testbed::plane::{self, Plane, PlaneOptions};

/// A Kubernetes control plane of your own, in namespaces of its own.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a plane and leaves it running.
    Up {
        /// Its name.
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Leaves the machine's namespaces and starts a plane's first process.
    #[command(hide = true)]
    PlaneEnter {
        /// What the owner wrote.
        spec: PathBuf,
    },
    /// The first process of a plane.
    #[command(hide = true)]
    PlaneInit {
        /// What the owner wrote.
        spec: PathBuf,
    },
    /// The inside of a plane.
    #[command(hide = true)]
    PlaneMain {
        /// What the owner wrote.
        spec: PathBuf,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::PlaneEnter { spec } => plane::enter::enter(&spec),
        Command::PlaneInit { spec } => plane::enter::init(&spec),
        Command::PlaneMain { spec } => plane::inside::main(&spec),
        Command::Up { name } => {
            let rt = tokio::runtime::Runtime::new().unwrap();
            rt.block_on(async {
                let exe = std::env::current_exe().unwrap();
                match Plane::start(PlaneOptions::new(&name, exe)).await {
                    Ok(plane) => {
                        println!("{:?}", plane.steps());
                        println!("export KUBECONFIG={}", plane.kubeconfig().display());
                        tokio::time::sleep(Duration::from_secs(600)).await;
                    }
                    Err(error) => eprintln!("{error:#}"),
                }
            });
            ExitCode::SUCCESS
        }
    }
}
