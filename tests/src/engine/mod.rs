//! A simulated vLLM server: `testbed engine serve [MODEL] [flags]` is to an operator and its users what `vllm serve` is.
//!
//! It takes vLLM's arguments, queues requests beyond its concurrency and reports true counts under vLLM's own metric
//! names. Generation takes time and yields filler words. Two environment variables set the pace:
//! `SIM_TOKENS_PER_SECOND` (for each sequence; default 100) and `SIM_LOAD_SECONDS` (before it listens; default 0.2).
//!
//! Reading order: [`args`], [`scheduler`], [`api`], [`server`], [`capture`], [`metrics`], [`control`], [`burden`], [`many`].
//!
//! **Architecture invariant**: load is made by requests alone, and no count is set from outside, but through [`control`].

pub mod api;
pub mod args;
pub mod burden;
pub mod capture;
pub mod control;
pub mod many;
pub mod metrics;
pub mod scheduler;
pub mod server;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use api::Engine;
use args::EngineArgs;

/// Nothing takes longer to load, and no deployment waits longer for it.
const LONGEST_LOAD: f64 = 24.0 * 60.0 * 60.0;

/// How Python ends on an interrupt, which is what vLLM makes of SIGTERM while it loads.
const INTERRUPTED: u8 = 130;

/// Runs `vllm <arguments>`. Argument errors end with 2, as argparse's do.
pub fn main(arguments: &[String]) -> ExitCode {
    let args = match EngineArgs::parse(arguments) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let served =
        tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(serve(args)));
    match served {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vllm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: EngineArgs) -> anyhow::Result<ExitCode> {
    if let Some(port) = std::env::var("VLLM_PORT").ok().filter(|port| port.contains("://")) {
        anyhow::bail!(
            "VLLM_PORT '{port}' appears to be a URI. This may be caused by a Kubernetes service discovery issue"
        );
    }
    let mut term = signal(SignalKind::terminate())?;
    let load = from_environment("SIM_LOAD_SECONDS", 0.2, 0.0..=LONGEST_LOAD)?;
    let tokens_per_second = from_environment("SIM_TOKENS_PER_SECOND", 100.0, 0.001..=1e6)?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(load)) => {}
        _ = term.recv() => {
            eprintln!("KeyboardInterrupt: terminated");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    println!("INFO: Started server process for {} on {address}", args.model);
    let engine = Arc::new(Engine::new(args, tokens_per_second));
    let stop = async {
        term.recv().await;
    };
    let aborted =
        server::serve_until(listener, Arc::clone(&engine), stop).await.context("the server ended")?;
    let finished = engine.scheduler.totals().finished;
    println!("INFO: Shutting down, {finished} requests finished, {aborted} requests aborted");
    Ok(ExitCode::SUCCESS)
}

fn from_environment(variable: &str, default: f64, allowed: RangeInclusive<f64>) -> anyhow::Result<f64> {
    std::env::var(variable).map_or(Ok(default), |text| within(variable, &text, &allowed))
}

fn within(variable: &str, text: &str, allowed: &RangeInclusive<f64>) -> anyhow::Result<f64> {
    text.parse().ok().filter(|number| allowed.contains(number)).with_context(|| {
        format!("{variable}={text:?} is no number from {} to {}", allowed.start(), allowed.end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_out_of_range_is_an_error() {
        let allowed = 0.0..=LONGEST_LOAD;
        for text in ["1e300", "inf", "NaN", "-1", "", "soon"] {
            let error = within("SIM_LOAD_SECONDS", text, &allowed).unwrap_err().to_string();
            assert_eq!(error, format!("SIM_LOAD_SECONDS={text:?} is no number from 0 to 86400"));
        }
        assert_eq!(within("SIM_LOAD_SECONDS", "86400", &allowed).unwrap().to_bits(), LONGEST_LOAD.to_bits());
    }
}
