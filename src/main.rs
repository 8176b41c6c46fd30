//! The operator's program: parse arguments, run the command.

use std::process::ExitCode;

use clap::Parser as _;
use vllm_operator::args::{Args, Command};
use vllm_operator::commands;

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Run(args) => tokio::runtime::Runtime::new()?.block_on(commands::run::run(*args))?,
        Command::Crd => commands::crd::print()?,
        Command::Manifest => commands::manifest::print()?,
        Command::Rules => commands::rules::print()?,
        Command::Fields => commands::fields::print()?,
        Command::Lint(args) => return Ok(for_a_person()?.block_on(commands::lint::run(args))),
        Command::ExplainScaling(args) => {
            return Ok(for_a_person()?.block_on(commands::explain_scaling::run(args)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The runtime of a command that answers once.
fn for_a_person() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
