//! A node whose pods are ready at once and have no processes: for counts that a machine could not run.
//!
//! **Architecture invariant**: a client of the API server like any other, so it runs wherever that is reached; no plane
//! knows of it. Only pods that ask for it get there.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::namespaces::HOLLOW_RANGE;

/// Name of the node, its label, and its taint.
pub const NAME: &str = "hollow";
/// As a kubelet's; the node counts as gone after 40 s without one.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Pods that are written about at once.
const CONCURRENCY: usize = 8;

/// What a pod must state to get there.
pub fn pod_spec() -> Value {
    json!({
        "nodeSelector": {"testbed/hollow": "true"},
        "tolerations": [{"key": "testbed/hollow", "operator": "Exists"}],
    })
}

/// A hollow node that is kept as long as this is.
#[derive(Debug)]
pub struct Hollow(JoinHandle<()>);

impl Drop for Hollow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Registers the node, and keeps it and its pods.
pub async fn start(client: Client) -> anyhow::Result<Hollow> {
    register(&client).await.context("registering the hollow node")?;
    Ok(Hollow(tokio::spawn(async move {
        // Both go on for ever.
        tokio::join!(renew(&client), keep_pods(&client));
    })))
}

async fn register(client: &Client) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let apply = PatchParams::apply("testbed-hollow").force();
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NAME, "labels": {"testbed/hollow": "true", "kubernetes.io/hostname": NAME}},
        "spec": {"taints": [{"key": "testbed/hollow", "effect": "NoSchedule"}]},
    });
    nodes.patch(NAME, &apply, &Patch::Apply(node)).await?;
    let room = json!({"cpu": "100k", "memory": "1Pi", "pods": "100k", "nvidia.com/gpu": "100k"});
    let now = Timestamp::now();
    let status = json!({"status": {
        "capacity": room, "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Hollow", "message": "no processes",
            "lastHeartbeatTime": now, "lastTransitionTime": now}],
    }});
    nodes.patch_status(NAME, &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

async fn renew(client: &Client) {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
    let apply = PatchParams::apply("testbed-hollow").force();
    loop {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME},
            "spec": {"holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": MicroTime(Timestamp::now())},
        });
        if let Err(error) = leases.patch(NAME, &apply, &Patch::Apply(lease)).await {
            tracing::warn!(%error, "renewing the hollow node's lease");
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn keep_pods(client: &Client) {
    let next = AtomicU32::new(HOLLOW_RANGE.0.to_bits() + 1);
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={NAME}"));
    watcher(Api::<Pod>::all(client.clone()), ours)
        .default_backoff()
        .applied_objects()
        .for_each_concurrent(CONCURRENCY, |pod| async {
            let kept = match pod {
                Ok(pod) => keep(client, &pod, &next).await.map_err(anyhow::Error::from),
                Err(error) => Err(error.into()),
            };
            // A pod that has gone meanwhile needs nothing more; of any other there is another event.
            if let Err(error) = kept {
                tracing::debug!(error = %error, "a pod of the hollow node");
            }
        })
        .await;
}

async fn keep(client: &Client, pod: &Pod, next: &AtomicU32) -> kube::Result<()> {
    let pods = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() {
        let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
        let at_once =
            DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        pods.delete(&pod.name_any(), &at_once).await.map(drop)
    } else if phase == Some("Running") {
        Ok(())
    } else {
        let address = Ipv4Addr::from_bits(next.fetch_add(1, Ordering::Relaxed));
        let patch = Patch::Strategic(ready(pod, address, Timestamp::now()));
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.map(drop)
    }
}

/// What makes a pod ready.
fn ready(pod: &Pod, address: Ipv4Addr, now: Timestamp) -> Value {
    let containers: Vec<_> = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|container| {
            json!({
                "name": container.name, "image": container.image, "imageID": container.image,
                "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": now}},
            })
        })
        .collect();
    let conditions: Vec<_> = ["Initialized", "ContainersReady", "Ready"]
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": now}))
        .into();
    json!({
        "metadata": {"uid": pod.uid()},
        "status": {
            "phase": "Running", "startTime": now, "podIP": address, "podIPs": [{"ip": address}],
            "conditions": conditions, "containerStatuses": containers,
        },
    })
}
