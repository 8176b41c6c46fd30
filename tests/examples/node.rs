//! Scratch.
use std::path::{Path, PathBuf};
use testbed::{images::Images, node, proxy};
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("info,testbed=debug").init();
    rustls::crypto::ring::default_provider().install_default().unwrap();
    tokio::runtime::Runtime::new()?.block_on(async {
        let exe = PathBuf::from("/tmp/nodetest/testbed");
        let images = Images::known(&|n| Path::new("/tmp/bin").join(n), None, &exe, None);
        let client = kube::Client::try_default().await?;
        let config = node::NodeConfig {
            name: "node-0".into(),
            address: "10.245.0.1".parse()?,
            pod_cidr: "10.244.0.0/16".into(),
            state_dir: "/tmp/nodetest/state".into(),
            logs_dir: "/tmp/nodetest/logs".into(),
            dns: "10.96.0.10".parse()?,
            cluster_domain: "cluster.local".into(),
            service_host: "10.96.0.1".parse()?,
            service_port: 443,
            testbed_exe: exe,
            images,
        };
        tokio::select! { r = node::run(client.clone(), config) => r, r = proxy::run(client) => r }
    })
}
