//! A simulated vLLM server: `testbed engine serve [MODEL] [flags]` is to an operator and its users what `vllm serve` is.
//!
//! It takes vLLM's arguments, queues requests beyond its concurrency and reports true counts under vLLM's own metric
//! names. Generation takes time and yields filler words. Two environment variables set the pace:
//! `SIM_TOKENS_PER_SECOND` (for each sequence; default 100) and `SIM_LOAD_SECONDS` (before it listens; default 0.2).
//!
//! Reading order: [`args`], [`scheduler`], [`api`], [`capture`], [`metrics`].
//!
//! **Architecture invariant**: no count is set from outside; load is made by requests alone.

pub mod api;
pub mod args;
pub mod capture;
pub mod metrics;
pub mod scheduler;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use api::Engine;
use args::EngineArgs;

/// How often a draining engine looks whether its last request has ended.
const DRAIN_PERIOD: Duration = Duration::from_millis(50);

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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vllm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: EngineArgs) -> anyhow::Result<()> {
    if let Some(port) = std::env::var("VLLM_PORT").ok().filter(|port| port.contains("://")) {
        anyhow::bail!(
            "VLLM_PORT '{port}' appears to be a URI. This may be caused by a Kubernetes service discovery issue"
        );
    }
    let mut term = signal(SignalKind::terminate())?;
    let load = seconds("SIM_LOAD_SECONDS", 0.2)?;
    let tokens_per_second = seconds("SIM_TOKENS_PER_SECOND", 100.0)?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(load)) => {}
        _ = term.recv() => return Ok(()),
    }
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    println!("INFO: Started server process for {} on {address}", args.model);
    let patience = args.shutdown_timeout;
    let engine = Arc::new(Engine::new(args, tokens_per_second));
    let server = axum::serve(listener, api::router(Arc::clone(&engine))).into_future();
    // Nothing is lost when the server is dropped: the process ends.
    tokio::select! {
        ended = server => ended.context("the server ended")?,
        () = async {
            term.recv().await;
            engine.drain();
            let until = tokio::time::Instant::now() + patience;
            while engine.scheduler.in_flight() > 0 && tokio::time::Instant::now() < until {
                tokio::time::sleep(DRAIN_PERIOD).await;
            }
        } => println!("INFO: Shutting down, {} requests aborted", engine.scheduler.in_flight()),
    }
    Ok(())
}

fn seconds(variable: &str, default: f64) -> anyhow::Result<f64> {
    let Ok(text) = std::env::var(variable) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)
        .with_context(|| format!("{variable}={text:?} is no positive number"))
}
