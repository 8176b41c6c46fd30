//! The objects that every plane starts with, and the probes that say it is ready.
//!
//! **Architecture invariant**: probes return what they saw as text, and never wait themselves.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Service, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::net::UdpSocket;

use super::components::DNS_ADDRESS;
use super::wait::{Deadline, eventually};

/// Name of the one node.
pub const NODE_NAME: &str = "node-0";

/// Whether a health path answers 200.
pub async fn healthy(client: &Client, path: &str) -> Result<(), String> {
    let request = axum::http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
    let answer = client.request_text(request);
    match tokio::time::timeout(Duration::from_secs(2), answer).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 2 s".to_owned()),
    }
}

/// Creates the DNS Service; the node registers itself.
pub async fn objects(client: &Client, deadline: Deadline) -> anyhow::Result<()> {
    let dns: Service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        // No selector: CoreDNS is bound to the address itself.
        "spec": {"clusterIP": DNS_ADDRESS, "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]},
    }))
    .context("the Service kube-dns")?;
    let services = Api::<Service>::namespaced(client.clone(), "kube-system");
    eventually("the Service kube-dns is created", deadline, || created(&services, &dns)).await
}

async fn created<K>(api: &Api<K>, object: &K) -> Result<(), String>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether pods can be created: the API server refuses them without this account.
pub async fn default_account(client: &Client) -> Result<(), String> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    match accounts.get_opt("default").await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err("it does not exist".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the scheduler may put pods on the node.
pub async fn node_ready(client: &Client) -> Result<(), String> {
    let node = match Api::<Node>::all(client.clone()).get_opt(NODE_NAME).await {
        Ok(Some(node)) => node,
        Ok(None) => return Err("it does not exist".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    if ready && taints.is_empty() { Ok(()) } else { Err(format!("ready: {ready}, taints: {taints:?}")) }
}

/// Whether the cluster's DNS knows the Service `kubernetes`.
pub async fn dns_answers() -> Result<(), String> {
    ask(SocketAddr::from((DNS_ADDRESS, 53))).await.map_err(|e| e.to_string())
}

/// One question for the address of the Service `kubernetes`; an answer counts only if it has one.
async fn ask(server: SocketAddr) -> std::io::Result<()> {
    const HEADER: [u8; 12] = [0x54, 0x42, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let mut question = HEADER.to_vec();
    for label in ["kubernetes", "default", "svc", "cluster", "local", ""] {
        question.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 1, 0, 1]);
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut answer = [0; 512];
    let length = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut answer)).await??;
    match &answer[..length] {
        [0x54, 0x42, _, flags, _, _, high, low, ..] => match (flags & 0xf, (*high, *low)) {
            (0, (0, 0)) => Err(std::io::Error::other("no address")),
            (0, _) => Ok(()),
            (code, _) => Err(std::io::Error::other(format!("DNS code {code}"))),
        },
        _ => Err(std::io::Error::other("no DNS answer")),
    }
}
