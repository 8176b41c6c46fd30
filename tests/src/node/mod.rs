//! A node that runs the containers of its pods as processes.
//!
//! Reading order: [`decide`] (what to do next), [`status`] (what to say of it), [`pod`] (doing it, one task per pod);
//! [`shared`] is what its containers share, [`recipe`] what one of them is made from, [`container`] its process;
//! [`env`], [`volumes`] and [`files`] are what a container is given, [`objects`] is where that comes from; [`probe`] and
//! [`check`] look at it from outside. [`usage`] is what it costs, and [`stats`] tells that to metrics-server.
//!
//! **Architecture invariant**: pods know nothing of each other; what happens in one, or goes wrong in it, does not hold up
//! another. All state is in this process: a pod of a node that has ended is not taken up again.

pub mod address;
pub mod check;
pub mod container;
pub mod decide;
pub mod env;
pub mod files;
pub mod objects;
pub mod pod;
pub mod probe;
pub mod recipe;
pub mod register;
pub mod shared;
pub mod stats;
pub mod status;
pub mod usage;
pub mod volumes;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::images::Images;
use address::AddressPool;
use pod::Message;

/// What a node is told about itself and its cluster.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its address, local in the network namespace that this process is in.
    pub address: Ipv4Addr,
    /// Where pods get their addresses from, as `10.244.0.0/16`.
    pub pod_cidr: String,
    /// For the files of pods; emptied of each when it ends.
    pub state_dir: PathBuf,
    /// For the output of containers: `<namespace>_<pod>_<container>.log`.
    pub logs_dir: PathBuf,
    /// The cluster's DNS server.
    pub dns: Ipv4Addr,
    /// The cluster's domain, as `cluster.local`.
    pub cluster_domain: String,
    /// Address of the Service `kubernetes`.
    pub service_host: Ipv4Addr,
    /// Port of the Service `kubernetes`.
    pub service_port: u16,
    /// This program, which has the subcommand `sandbox`.
    pub testbed_exe: PathBuf,
    /// What it can run.
    pub images: Images,
}

/// What all pods of a node share.
pub struct Context {
    client: Client,
    config: NodeConfig,
    addresses: Mutex<AddressPool>,
    running: stats::Registry,
}

impl Context {
    fn lock_addresses(&self) -> std::sync::MutexGuard<'_, AddressPool> {
        // The pool is whole between any two of its calls, so a panic elsewhere leaves it usable.
        self.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Runs the node until an error that will not pass.
pub async fn run(client: Client, config: NodeConfig) -> anyhow::Result<()> {
    let addresses = Mutex::new(AddressPool::new(&config.pod_cidr)?);
    std::fs::create_dir_all(&config.state_dir)?;
    std::fs::create_dir_all(&config.logs_dir)?;
    let context = Arc::new(Context { client, config, addresses, running: stats::Registry::default() });
    tokio::select! {
        result = register::keep(&context.client, &context.config) => result,
        result = dispatch(&context) => result,
        result = stats::serve((context.config.address, stats::PORT).into(), context.running.clone()) => result,
    }
}

/// Gives every pod of the node a task, and every task the news of its pod.
async fn dispatch(context: &Arc<Context>) -> anyhow::Result<()> {
    let pods = Api::<Pod>::all(context.client.clone());
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", context.config.name));
    let mut events = std::pin::pin!(watcher(pods, ours).default_backoff());
    let mut tasks: HashMap<String, UnboundedSender<Message>> = HashMap::new();
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(pod)) => tell(context, &mut tasks, pod),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.insert(pod.uid().unwrap_or_default());
                tell(context, &mut tasks, pod);
            }
            // A task ends by itself when its sender is dropped, as when its pod is gone.
            Ok(watcher::Event::InitDone) => tasks.retain(|uid, _| listed.contains(uid)),
            Ok(watcher::Event::Delete(pod)) => drop(tasks.remove(&pod.uid().unwrap_or_default())),
            Err(error) => tracing::warn!(%error, "watching pods"),
        }
    }
    anyhow::bail!("the watch of pods ended")
}

fn tell(context: &Arc<Context>, tasks: &mut HashMap<String, UnboundedSender<Message>>, pod: Pod) {
    let uid = pod.uid().unwrap_or_default();
    if let Some(task) = tasks.get(&uid) {
        // A task that has ended has asked for its pod's deletion, which is still to come.
        let _ = task.send(Message(Box::new(pod)));
        return;
    }
    let (sender, inbox) = mpsc::unbounded_channel();
    tokio::spawn(pod::run(context.clone(), pod, inbox));
    tasks.insert(uid, sender);
}
