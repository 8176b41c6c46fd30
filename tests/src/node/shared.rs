//! What all containers of a pod share: a directory on the node, a network, volumes.
//!
//! **Architecture invariant**: each of them is made once, and what is missing is tried again; nothing of them is left when
//! [`Shared::end`] returns.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::ResourceExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::env::Addresses;
use super::objects::{Fetcher, Needs};
use super::volumes::{self, Content};
use super::{Context, NodeConfig, files};
use crate::sandbox::link::Namespace;

/// How soon a changed `Secret` or `ConfigMap` shows in a volume; a kubelet takes up to a minute.
const VOLUME_PERIOD: Duration = Duration::from_secs(3);

/// The volumes of a pod by name, with the place of each on the node.
pub type Volumes = BTreeMap<String, (Volume, PathBuf)>;

/// What the containers of a pod share.
#[derive(Debug)]
pub struct Shared {
    /// The pod's files on the node.
    pub directory: PathBuf,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Its network; none for a pod in the node's own.
    pub network: Option<Namespace>,
    /// Its volumes.
    pub volumes: Option<Volumes>,
    news: Option<watch::Sender<Pod>>,
    upkeep: JoinSet<()>,
}

impl Shared {
    /// Nothing yet, but for a place.
    pub fn new(directory: PathBuf) -> Self {
        let upkeep = JoinSet::new();
        Self { directory, address: None, network: None, volumes: None, news: None, upkeep }
    }

    /// Makes what is missing.
    pub async fn prepare(&mut self, context: &Context, pod: &Pod) -> anyhow::Result<()> {
        tokio::fs::create_dir_all(&self.directory).await?;
        if self.address.is_none() {
            self.connect(context, pod).await.context("FailedCreatePodSandBox")?;
            self.write_files(&context.config, pod)?;
        }
        if self.volumes.is_none() {
            let mut fetcher = Fetcher::new(context.client.clone());
            let root = self.directory.join("volumes");
            let addresses = self.addresses(&context.config);
            let volumes = fill(pod, &mut fetcher, &root, &addresses).await.context("FailedMount")?;
            self.volumes = Some(volumes);
            if !Needs::of_volumes(pod).is_empty() {
                let (news, pods) = watch::channel(pod.clone());
                self.news = Some(news);
                self.upkeep.spawn(renew(pods, fetcher, root, addresses));
            }
        }
        Ok(())
    }

    /// Takes note that the pod has changed.
    pub fn follow(&self, pod: &Pod) {
        if let Some(news) = &self.news {
            news.send_replace(pod.clone());
        }
    }

    /// What a container can ask about itself.
    pub fn addresses(&self, config: &NodeConfig) -> Addresses {
        Addresses {
            pod: self.address.map(|address| address.to_string()).unwrap_or_default(),
            host: config.address.to_string(),
        }
    }

    /// Removes everything. No container may be left.
    pub async fn end(&mut self, context: &Context) {
        // Waited for, lest it writes to a directory that has just been removed.
        self.upkeep.shutdown().await;
        if let Some(network) = self.network.take() {
            network.end().await;
            if let Some(address) = self.address {
                context.lock_addresses().give_back(address);
            }
        }
        if let Err(error) = tokio::fs::remove_dir_all(&self.directory).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.directory.display(), %error, "removing a pod's files");
        }
    }

    async fn connect(&mut self, context: &Context, pod: &Pod) -> anyhow::Result<()> {
        let config = &context.config;
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            self.address = Some(config.address);
            return Ok(());
        }
        let address = context.lock_addresses().take()?;
        match Namespace::create(&config.testbed_exe, address, config.address).await {
            Ok(network) => {
                self.network = Some(network);
                self.address = Some(address);
                Ok(())
            }
            Err(error) => {
                context.lock_addresses().give_back(address);
                Err(error)
            }
        }
    }

    fn write_files(&self, config: &NodeConfig, pod: &Pod) -> anyhow::Result<()> {
        let directory = self.directory.join("etc");
        std::fs::create_dir_all(&directory)?;
        let write = |name: &str, text: String| std::fs::write(directory.join(name), text);
        write("hosts", files::hosts(pod, &self.addresses(config).pod, &config.cluster_domain))?;
        write("hostname", files::hostname(pod) + "\n")?;
        if let Some(text) = files::resolv_conf(pod, &config.dns.to_string(), &config.cluster_domain) {
            write("resolv.conf", text)?;
        }
        Ok(())
    }
}

/// Keeps the volumes up to date.
async fn renew(mut pods: watch::Receiver<Pod>, mut fetcher: Fetcher, root: PathBuf, addresses: Addresses) {
    let mut ticks = tokio::time::interval(VOLUME_PERIOD);
    loop {
        ticks.tick().await;
        let pod = pods.borrow_and_update().clone();
        if let Err(error) = fill(&pod, &mut fetcher, &root, &addresses).await {
            // What is there stays, as with a kubelet.
            tracing::debug!(pod = pod.name_any(), %error, "renewing volumes");
        }
    }
}

/// Fills the volumes of `pod` below `root`.
async fn fill(
    pod: &Pod,
    fetcher: &mut Fetcher,
    root: &Path,
    addresses: &Addresses,
) -> anyhow::Result<Volumes> {
    let objects = fetcher.gather(pod, &Needs::of_volumes(pod)).await?;
    let mut filled = Volumes::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let at = root.join(&volume.name);
        let path = match volumes::content(pod, volume, &objects, addresses)? {
            Content::Empty => {
                std::fs::create_dir_all(&at)?;
                at
            }
            Content::Files(files) => {
                volumes::write(&at, &files)?;
                at
            }
            Content::Host(path) => path,
        };
        filled.insert(volume.name.clone(), (volume.clone(), path));
    }
    Ok(filled)
}
