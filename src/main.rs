//! The operator's program: parse arguments, run the command.

use std::env::args_os;
use std::path::Path;
use std::process::ExitCode;

use clap::FromArgMatches as _;
use vllm_operator::args::{Args, Command, command};
use vllm_operator::commands;

fn main() -> anyhow::Result<ExitCode> {
    let program = args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_stem().unwrap_or_default().to_string_lossy();
    if program == commands::completions::KUBECTLS {
        commands::completions::print_for_kubectl(args_os().skip(1))?;
        return Ok(ExitCode::SUCCESS);
    }
    let matches = command(&program).get_matches();
    match Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command {
        Command::Run(args) => tokio::runtime::Runtime::new()?.block_on(commands::run::run(*args))?,
        Command::Crd => commands::crd::print()?,
        Command::Manifest => commands::manifest::print()?,
        Command::Rules => commands::rules::print()?,
        Command::Fields => commands::fields::print()?,
        Command::Lint(args) => return Ok(for_a_person()?.block_on(commands::lint::run(args))),
        Command::ExplainScaling(args) => {
            return Ok(for_a_person()?.block_on(commands::explain_scaling::run(args)));
        }
        Command::Status(args) => return Ok(for_a_person()?.block_on(commands::status::run(args))),
        Command::Doctor(args) => return Ok(for_a_person()?.block_on(commands::doctor::run(args))),
        Command::Completions(args) => commands::completions::print(&args),
    }
    Ok(ExitCode::SUCCESS)
}

/// The runtime of a command that answers once.
fn for_a_person() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
