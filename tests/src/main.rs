//! The command `testbed`: builds the parts, runs a plane to work in by hand, and is the program behind the plane's own
//! processes.
//!
//! **Architecture invariant**: arguments and dispatch only. No thread and no async runtime exists before a hidden command has
//! entered its namespaces.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use testbed::plane::{enter, inside};
use testbed::{
    assembly, availability, bench_abuse, bench_admission, bench_control, bench_scaler, by_hand, demo, engine,
    load, parts, render, sandbox,
};

/// A Kubernetes control plane of your own, in namespaces of its own.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole path on a real control plane, told and shown step by step.
    Demo(demo::Demo),
    /// Many `VLLMClusters`, their pods without processes: how long, how much memory, how many writes.
    BenchControl(bench_control::BenchControl),
    /// Three replicas of the operator and bad days for them: what is lost, and who leads after how long.
    BenchAvailability(availability::BenchAvailability),
    /// What a review costs: the operator beside the floor and a webhook written with controller-runtime.
    BenchAdmission(bench_admission::BenchAdmission),
    /// Hostile connections to the admission port: what they do to the API server's calls, and to memory.
    BenchAbuse(bench_abuse::BenchAbuse),
    /// KEDA's external scaler: how fast beside Prometheus, and what hundreds of ScaledObjects cost.
    BenchScaler(bench_scaler::BenchScaler),
    /// Builds the control plane's parts into the cache.
    Build,
    /// Makes the operator's image, an OCI archive, without a daemon of the machine.
    Image(assembly::Make),
    /// Renders the Helm chart into the manifests, and makes the other files that are generated.
    Render,
    /// Starts a plane and leaves it running.
    Up(by_hand::Up),
    /// Stops a plane that `up` started.
    Down(by_hand::Name),
    /// A shell with kubectl and the plane's kubeconfig.
    Shell(by_hand::Name),
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
    /// A server that allows everything, to measure beside.
    #[command(hide = true)]
    Floor(bench_admission::floor::Floor),
    /// BuildKit's daemon, in namespaces of its own.
    #[command(hide = true)]
    ImageDaemon(assembly::Serve),
    /// Verified connections to the operator's replicas, from a pod.
    #[command(hide = true)]
    Handshakes(availability::handshakes::Handshakes),
    /// A simulated vLLM server: what follows is what follows `vllm`.
    #[command(hide = true, disable_help_flag = true)]
    Engine {
        /// Arguments of `vllm`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Idle vLLM servers, simulated, at many addresses.
    #[command(hide = true)]
    Engines(engine::many::Many),
    /// Load on an engine, by HTTP requests.
    #[command(hide = true)]
    Load(load::Load),
    /// The processes of a pod.
    #[command(hide = true, subcommand)]
    Sandbox(sandbox::Command),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::PlaneEnter { spec } => return enter::enter(&spec),
        Command::PlaneInit { spec } => return enter::init(&spec),
        Command::PlaneMain { spec } => return inside::main(&spec),
        Command::Sandbox(command) => return sandbox::main(&command),
        Command::Engine { args } => return engine::main(&args),
        Command::Demo(demo) => demo::main(&demo),
        Command::BenchAvailability(bench) => availability::main(&bench),
        Command::BenchAdmission(bench) => bench_admission::main(&bench),
        Command::Floor(floor) => bench_admission::floor::main(&floor),
        Command::BenchAbuse(bench) => bench_abuse::main(&bench),
        Command::BenchControl(bench) => bench_control::main(bench),
        Command::BenchScaler(bench) => bench_scaler::main(bench),
        Command::Engines(many) => engine::many::main(&many),
        Command::Handshakes(handshakes) => availability::handshakes::main(&handshakes),
        Command::Load(load) => load::main(load),
        Command::Build => parts::Binaries::ensure().map(drop).map_err(Into::into),
        Command::Image(make) => assembly::main(&make),
        Command::ImageDaemon(serve) => assembly::serve(&serve),
        Command::Render => render::main(),
        Command::Up(up) => by_hand::up(up),
        Command::Down(name) => by_hand::down(&name),
        Command::Shell(name) => by_hand::shell(&name),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
