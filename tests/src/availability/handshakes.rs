//! New connections to every replica, verified as an API server verifies them: `testbed handshakes`, run as a pod.
//!
//! The API server keeps its connections, and so seldom meets a new certificate. Here, each round makes one handshake with each
//! replica and each bundle that an API server may hold at that moment: the one that the webhook configurations carry, and the
//! one that they carried so long ago.
//!
//! **Architecture invariant**: bounded in time; what a handshake is verified by was read before it began.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::operator::NAMESPACE;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where an operator serves admission, in its pod.
const PORT: u16 = 9443;

/// What handshakes to make.
#[derive(Clone, Debug, Args)]
pub struct Handshakes {
    /// For how long an API server may hold an older bundle, in milliseconds.
    #[arg(long)]
    held: u64,
    /// Seconds until it ends by itself.
    #[arg(long, default_value_t = 7200)]
    duration: u64,
}

/// The pod that makes them, with the rights it needs.
pub fn manifest(held: Duration) -> String {
    format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: handshakes}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: default, namespace: default}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: handshakes, namespace: default}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
    - {{name: handshakes, image: testbed/handshakes, args: [--held, "{}"]}}
"#,
        held.as_millis()
    )
}

/// What the last line of its log says: handshakes that were made, and that failed.
pub fn counts(log: &str) -> Option<(usize, usize)> {
    let line = log.lines().rev().find(|line| line.starts_with("handshakes: "))?;
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Makes them until its duration is over.
pub fn main(handshakes: &Handshakes) -> anyhow::Result<()> {
    crate::plane::install_crypto();
    tokio::runtime::Runtime::new()?.block_on(run(handshakes))
}

async fn run(handshakes: &Handshakes) -> anyhow::Result<()> {
    let client = Client::try_default().await?;
    let end = Instant::now() + Duration::from_secs(handshakes.duration);
    let held = Duration::from_millis(handshakes.held);
    // What the configurations carried, and when it was read, the newest last. The first is as old as may be.
    let mut bundles: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let (mut made, mut failed) = (0_usize, 0_usize);
    while Instant::now() < end {
        let read = Instant::now();
        match bundle(&client).await {
            Ok(bundle) if bundles.back().is_none_or(|(_, last)| *last != bundle) => {
                bundles.push_back((read, bundle));
            }
            Ok(_) => {}
            Err(error) => println!("cannot read the bundle: {error:#}"),
        }
        // The second was read longer ago than one may be held: nobody holds the first any more.
        while bundles.get(1).is_some_and(|(since, _)| since.elapsed() > held) {
            bundles.pop_front();
        }
        let replicas = replicas(&client).await.unwrap_or_default();
        for (_, bundle) in &bundles {
            for replica in &replicas {
                made += 1;
                if let Err(error) = shake_hands(*replica, bundle).await {
                    failed += 1;
                    println!("failed with {replica}: {error:#}");
                }
            }
        }
        println!("handshakes: {made} made, {failed} failed, {} bundles held", bundles.len());
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn bundle(client: &Client) -> anyhow::Result<Vec<u8>> {
    let configuration =
        Api::<ValidatingWebhookConfiguration>::all(client.clone()).get("vllm-operator").await?;
    let webhook = configuration.webhooks.into_iter().flatten().next().context("no webhooks")?;
    Ok(webhook.client_config.ca_bundle.context("no bundle")?.0)
}

/// Where the Service leads.
async fn replicas(client: &Client) -> anyhow::Result<Vec<SocketAddr>> {
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().labels("kubernetes.io/service-name=vllm-operator");
    let endpoints = slices.list(&params).await?.items.into_iter().flat_map(|slice| slice.endpoints);
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
    });
    let addresses = ready.flat_map(|endpoint| endpoint.addresses);
    addresses.map(|address| Ok(SocketAddr::new(address.parse()?, PORT))).collect()
}

async fn shake_hands(replica: SocketAddr, bundle: &[u8]) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(format!("vllm-operator.{NAMESPACE}.svc"))?;
    let connect = async {
        let stream = TcpStream::connect(replica).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    timeout(PATIENCE, connect).await.context("no handshake in time")??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn the_last_line_counts() {
        let log = "handshakes: 3 made, 0 failed, 1 bundles held\nfailed with 1.2.3.4:9443: 7 2\nhandshakes: 6 made, 1 failed, 2 bundles held\nhand";
        assert_eq!(counts(log), Some((6, 1)));
        assert_eq!(counts(""), None);
    }
}
