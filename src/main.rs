//! The operator's program: parse arguments, run the command.

use clap::Parser as _;
use vllm_operator::args::{Args, Command};
use vllm_operator::commands;

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Run(args) => tokio::runtime::Runtime::new()?.block_on(commands::run::run(*args)),
        Command::Crd => commands::crd::print(),
        Command::Manifest => commands::manifest::print(),
    }
}
