//! A pod's network as the node sees it: the holder process, a veth pair and a host route.
//!
//! **Architecture invariant**: nothing outlives the holder. With its namespace the kernel removes both ends of the link and
//! the route over it, so there is no clean-up that could be forgotten.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};

use super::hold::{POD_LINK, index};

/// Local work of a few milliseconds; this long only on a machine that is starved.
const DEADLINE: Duration = Duration::from_secs(30);

/// A pod's network namespace; it ends when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    // Closing it is what ends the holder.
    _input: ChildStdin,
    pid: u32,
}

impl Namespace {
    /// Makes a namespace with `address` in it, reachable from `node`.
    pub async fn create(testbed: &Path, address: Ipv4Addr, node: Ipv4Addr) -> anyhow::Result<Self> {
        tokio::time::timeout(DEADLINE, Self::create_now(testbed, address, node))
            .await
            .context("the network of the pod was not up in time")?
    }

    async fn create_now(testbed: &Path, address: Ipv4Addr, node: Ipv4Addr) -> anyhow::Result<Self> {
        let mut holder = tokio::process::Command::new(testbed)
            .args(["sandbox", "hold", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", testbed.display()))?;
        let (Some(mut input), Some(output), Some(pid)) =
            (holder.stdin.take(), holder.stdout.take(), holder.id())
        else {
            bail!("the sandbox ended at once");
        };
        let mut answers = BufReader::new(output).lines();
        let mut expect = async |word: &str| match answers.next_line().await? {
            Some(line) if line == word => Ok(()),
            other => bail!("the sandbox said {other:?} in place of {word:?}"),
        };
        expect("namespace").await?;
        connect(address, node, pid).await?;
        input.write_all(b"link\n").await?;
        expect("up").await?;
        Ok(Self { holder, _input: input, pid })
    }

    /// The file by which a process enters.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid).into()
    }

    /// Ends the holder and waits for it, so that nothing of it is left.
    pub async fn end(mut self) {
        if let Err(error) = self.holder.kill().await {
            tracing::warn!(%error, pid = self.pid, "a sandbox could not be ended");
        }
    }
}

async fn connect(address: Ipv4Addr, node: Ipv4Addr, pid: u32) -> anyhow::Result<()> {
    let (connection, links, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let result = connect_with(&links, address, node, pid).await;
    connection.abort();
    result
}

async fn connect_with(links: &Handle, address: Ipv4Addr, node: Ipv4Addr, pid: u32) -> anyhow::Result<()> {
    let [_, _, high, low] = address.octets();
    let name = format!("pod{high}-{low}");
    let peer = LinkUnspec::new_with_name(POD_LINK).setns_by_pid(pid).build();
    let pair =
        LinkVeth::new(&name, POD_LINK).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).up().build();
    links.link().add(pair).execute().await.with_context(|| format!("creating link {name}"))?;
    let own = index(links, &name).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .pref_source(node)
        .output_interface(own)
        .scope(RouteScope::Link)
        .build();
    links.route().add(route).execute().await.with_context(|| format!("route to {address}"))
}
