//! The Node object and its heartbeat.
//!
//! **Architecture invariant**: nothing of pods.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::{NodeConfig, stats};

/// As a kubelet's; the node counts as gone after 40 s without one.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A kubelet reports an unchanged status every five minutes.
const STATUS_EVERY: u32 = 30;

/// Creates the Node, says that it is ready, and renews its Lease for ever.
pub async fn keep(client: &Client, config: &NodeConfig) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
    let node = create(&nodes, config).await.context("registering the node")?;
    let mut beats = 0;
    let mut has_lease = false;
    loop {
        if beats % STATUS_EVERY == 0 {
            let reported = report(&nodes, config, beats == 0).await;
            if let Err(error) = reported {
                tracing::warn!(%error, "reporting the node's status");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        beats += 1;
        match renew(&leases, &node, has_lease).await {
            Ok(()) => has_lease = true,
            Err(error) => {
                tracing::warn!(%error, "renewing the node's lease");
                has_lease = false;
            }
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn create(nodes: &Api<Node>, config: &NodeConfig) -> Result<Node, kube::Error> {
    if let Some(node) = nodes.get_opt(&config.name).await? {
        return Ok(node);
    }
    let labels = [
        ("kubernetes.io/hostname", config.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let node = Node {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            labels: Some(BTreeMap::from(labels)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(config.pod_cidr.clone()),
            pod_cidrs: Some(vec![config.pod_cidr.clone()]),
            ..NodeSpec::default()
        }),
        status: None,
    };
    nodes.create(&PostParams::default(), &node).await
}

/// This machine's architecture by Go's name: pods are its own processes.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn report(nodes: &Api<Node>, config: &NodeConfig, first: bool) -> Result<(), kube::Error> {
    let now = Timestamp::now();
    let room = json!({"cpu": "64", "memory": "512Gi", "pods": "500", "nvidia.com/gpu": "64"});
    let condition = |name: &str, status: &str, reason: &str| {
        let mut condition = json!({
            "type": name, "status": status, "reason": reason, "message": reason, "lastHeartbeatTime": now,
        });
        if first {
            condition["lastTransitionTime"] = json!(now);
        }
        condition
    };
    let status = json!({"status": {
        "capacity": room,
        "allocatable": room,
        "addresses": [
            {"type": "InternalIP", "address": config.address.to_string()},
            {"type": "Hostname", "address": config.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": stats::PORT}},
        "conditions": [
            condition("Ready", "True", "KubeletReady"),
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        ],
        "nodeInfo": {
            "architecture": architecture(), "operatingSystem": "linux", "osImage": "testbed", "kernelVersion": "",
            "containerRuntimeVersion": "testbed://0", "kubeletVersion": "v1.37.2", "kubeProxyVersion": "",
            "machineID": "", "systemUUID": "", "bootID": "",
        },
    }});
    nodes.patch_status(&config.name, &PatchParams::default(), &Patch::Strategic(status)).await.map(drop)
}

async fn renew(leases: &Api<Lease>, node: &Node, exists: bool) -> Result<(), kube::Error> {
    let name = node.name_any();
    let now = MicroTime(Timestamp::now());
    if exists {
        let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
        return leases.patch(&name, &PatchParams::default(), &patch).await.map(drop);
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: node.uid().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name),
            lease_duration_seconds: Some(40),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    match leases.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(drop),
    }
}
