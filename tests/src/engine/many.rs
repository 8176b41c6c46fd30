//! Many idle engines in one process: one at each address that it is told, for pods that have no processes of their own.
//!
//! **Architecture invariant**: they share nothing but the process: each is told how to be, and counts, by itself.

use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use futures::future::try_join_all;
use tokio::net::TcpListener;

use super::api::Engine;
use super::args::EngineArgs;
use super::server::serve_until;
use crate::pods::ENGINE_PORT;

/// Options of `engines`.
#[derive(Clone, Debug, Args)]
pub struct Many {
    /// Where they listen, one each.
    #[arg(required = true)]
    addresses: Vec<Ipv4Addr>,
}

/// Serves until the process is ended.
pub fn main(many: &Many) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        try_join_all(many.addresses.iter().map(|address| serve(*address))).await?;
        Ok(())
    })
}

async fn serve(address: Ipv4Addr) -> anyhow::Result<()> {
    let args = EngineArgs::parse(&["serve".to_owned()]).map_err(anyhow::Error::msg)?;
    let listener = TcpListener::bind((address, ENGINE_PORT)).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}:{ENGINE_PORT}"))?;
    // Nothing is generated here: the pace is nobody's.
    serve_until(listener, Arc::new(Engine::new(args, 1.0)), pending()).await?;
    Ok(())
}
