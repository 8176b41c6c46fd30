//! The process that holds a pod's network namespace, as a pause container does.
//!
//! It answers `namespace` once it has left the node's, waits for a line that says the link is there, brings the link up, and
//! answers `up`.
//!
//! **Architecture invariant**: no thread exists before the namespace is left.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::Ipv4Addr;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::GATEWAY;

/// Name of the pod's end of its link.
pub const POD_LINK: &str = "eth0";

/// Holds a namespace until standard input ends.
pub fn hold(address: Ipv4Addr) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("leaving the node's network namespace")?;
    say("namespace")?;
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(());
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(bring_up(address))
        .with_context(|| format!("configuring the pod's address {address}"))?;
    say("up")?;
    input.read_to_end(&mut Vec::new())?;
    Ok(())
}

async fn bring_up(address: Ipv4Addr) -> anyhow::Result<()> {
    let (connection, links, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let loopback = index(&links, "lo").await?;
    links.link().set(LinkUnspec::new_with_index(loopback).up().build()).execute().await?;
    let own = index(&links, POD_LINK).await?;
    links.address().add(own, address.into(), 32).execute().await?;
    links.link().set(LinkUnspec::new_with_index(own).up().build()).execute().await?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(own)
        .scope(RouteScope::Link)
        .build();
    links.route().add(gateway).execute().await.context("route to the gateway")?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(GATEWAY).output_interface(own).build();
    links.route().add(default).execute().await.context("default route")
}

/// The index of the link `name`.
pub(super) async fn index(links: &Handle, name: &str) -> anyhow::Result<u32> {
    let found = links.link().get().match_name(name.to_owned()).execute().try_next().await;
    let link = found.with_context(|| format!("link {name}"))?;
    Ok(link.with_context(|| format!("no link {name}"))?.header.index)
}

fn say(word: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{word}")?;
    output.flush()
}
