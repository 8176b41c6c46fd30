//! The operator as a process of its own, and how its admission port is reached.
//!
//! **Architecture invariant**: the program that users run, with its own defaults; nothing in it knows of being measured.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::api_server::ApiServer;
use crate::plane::processes::field;
use crate::plane::wait::{Deadline, eventually};

/// The name that the API server calls the operator by.
pub const SERVER_NAME: &str = "vllm-operator.vllm-operator-system.svc";

/// Where the admission port is, and whom to trust there.
#[derive(Clone)]
pub struct Target {
    /// The port.
    pub address: SocketAddr,
    connector: TlsConnector,
}

impl Target {
    /// The port at `address`, for whoever trusts these roots, as the API server makes its connections: HTTP/1.1, and each
    /// handshake a whole one.
    pub fn trusting(address: SocketAddr, roots: RootCertStore) -> anyhow::Result<Self> {
        let mut client =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self { address, connector: TlsConnector::from(Arc::new(client)) })
    }

    /// A connection after its handshake.
    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        self.handshake(stream).await
    }

    /// The handshake on a connection.
    pub async fn handshake(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(SERVER_NAME).map_err(std::io::Error::other)?;
        self.connector.connect(name, stream).await
    }
}

/// The operator, running. Dropping it ends the process.
pub struct Operator {
    process: Child,
    /// How it is reached.
    pub target: Target,
}

impl Operator {
    /// Starts the program against an API server, its files in `folder`, and waits until it has a certificate.
    pub async fn start(
        program: &Path,
        folder: &Path,
        api: &ApiServer,
        api_address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let kubeconfig = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": format!("http://{api_address}")}}],
            "users": [{"name": "x", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = folder.join("operator.log");
        let process = Command::new(program)
            .args(["run", "--plain-listen=127.0.0.1:0", &format!("--listen={address}")])
            .env("KUBECONFIG", &kubeconfig)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&log)?)
            .stderr(std::fs::File::create(folder.join("operator.stderr"))?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let deadline = Deadline::after(Duration::from_secs(30));
        eventually("the operator stores its CA", deadline, || async {
            match api.authority() {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(format!("it has not; its log: {}", log.display())),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&api.authority()?.unwrap_or_default()) {
            roots.add(certificate?)?;
        }
        let target = Target::trusting(address, roots)?;
        eventually("the operator serves", deadline, || async {
            target.connect().await.map(drop).map_err(|error| error.to_string())
        })
        .await?;
        Ok(Self { process, target })
    }

    fn file(&self, name: &str) -> anyhow::Result<String> {
        let pid = self.process.id().context("the operator has ended")?;
        Ok(format!("/proc/{pid}/{name}"))
    }

    /// The peak of its resident memory begins anew.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        std::fs::write(self.file("clear_refs")?, "5").context("clearing VmHWM")
    }

    /// Its resident memory at most since then, in KiB.
    pub fn peak(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(self.file("status")?).context("the operator has ended")?;
        let number = field(&status, "VmHWM:").and_then(|number| number.parse().ok());
        number.with_context(|| format!("no VmHWM in {status}"))
    }
}
