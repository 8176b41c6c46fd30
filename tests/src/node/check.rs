//! Actions on a running container: HTTP requests, TCP connections, commands.
//!
//! **Architecture invariant**: nothing here remembers a result or knows what it is for.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::sandbox::run::Spec;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A GET request; 200 to 399 is a success.
    Http(HTTPGetAction),
    /// A connection.
    Tcp(TCPSocketAction),
    /// A command; exit code 0 is a success.
    Exec(ExecAction),
    /// Nothing, for a while.
    Sleep(SleepAction),
    /// Something that this node cannot do.
    Unsupported(&'static str),
}

/// The container that it is done to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pod's address.
    pub address: IpAddr,
    /// For the names of ports.
    pub container: Arc<Container>,
    /// What the container was made from, for commands in it.
    pub spec: Arc<Spec>,
    /// A file name to which specs of commands are written, with a number after it.
    pub scratch: PathBuf,
    /// This program.
    pub testbed: PathBuf,
}

/// As much of an answer as is read.
const BODY_LIMIT: usize = 10 << 10;

impl Action {
    /// What `probe` asks for.
    pub fn of_probe(probe: &Probe) -> Self {
        match (&probe.http_get, &probe.tcp_socket, &probe.exec) {
            (Some(http), _, _) => Self::Http(http.clone()),
            (_, Some(tcp), _) => Self::Tcp(tcp.clone()),
            (_, _, Some(exec)) => Self::Exec(exec.clone()),
            _ => Self::Unsupported("grpc probes"),
        }
    }

    /// What a lifecycle hook asks for.
    pub fn of_hook(hook: &LifecycleHandler) -> Self {
        match (&hook.http_get, &hook.exec, &hook.sleep) {
            (Some(http), _, _) => Self::Http(http.clone()),
            (_, Some(exec), _) => Self::Exec(exec.clone()),
            (_, _, Some(sleep)) => Self::Sleep(sleep.clone()),
            _ => Self::Unsupported("tcpSocket hooks"),
        }
    }
}

impl Target {
    /// Does it; an error says what went wrong, in the words of a kubelet where it has any.
    pub async fn perform(&self, action: &Action, timeout: Duration) -> Result<(), String> {
        let result = match action {
            Action::Http(http) => tokio::time::timeout(timeout, self.http(http)).await,
            Action::Tcp(tcp) => tokio::time::timeout(timeout, self.tcp(tcp)).await,
            Action::Exec(exec) => tokio::time::timeout(timeout, self.exec(exec)).await,
            Action::Sleep(sleep) => {
                let seconds = u64::try_from(sleep.seconds).unwrap_or_default();
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                return Ok(());
            }
            Action::Unsupported(what) => return Err(format!("this node does not support {what}")),
        };
        result.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }

    fn socket(&self, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr, String> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                let named = ports.clone().find(|port| port.name.as_deref() == Some(name));
                let number = named.map(|port| port.container_port).or_else(|| name.parse().ok());
                number.ok_or_else(|| format!("the container has no port named {name:?}"))?
            }
        };
        let port = u16::try_from(number).map_err(|_| format!("{number} is no port"))?;
        let address = match host {
            None | Some("") => self.address,
            Some("localhost") => return Err("hosts other than the pod itself must be addresses".into()),
            Some(host) => host.parse().map_err(|_| format!("host {host:?} is not an address"))?,
        };
        Ok(SocketAddr::new(address, port))
    }

    async fn tcp(&self, tcp: &TCPSocketAction) -> Result<(), String> {
        let socket = self.socket(tcp.host.as_deref(), &tcp.port)?;
        TcpStream::connect(socket).await.map(drop).map_err(|error| format!("dial tcp {socket}: {error}"))
    }

    async fn http(&self, http: &HTTPGetAction) -> Result<(), String> {
        let socket = self.socket(http.host.as_deref(), &http.port)?;
        let path = http.path.as_deref().unwrap_or("/");
        let tls = http.scheme.as_deref() == Some("HTTPS");
        let shown = format!("Get \"{}://{socket}{path}\"", if tls { "https" } else { "http" });
        let stream = TcpStream::connect(socket).await.map_err(|error| format!("{shown}: dial: {error}"))?;
        let result = if tls {
            let name = ServerName::IpAddress(socket.ip().into());
            match connector().connect(name, stream).await {
                Ok(stream) => ask(stream, socket, path, http).await,
                Err(error) => Err(format!("TLS: {error}")),
            }
        } else {
            ask(stream, socket, path, http).await
        };
        match result {
            Ok(status) if (200..400).contains(&status) => Ok(()),
            Ok(status) => Err(format!("HTTP probe failed with statuscode: {status}")),
            Err(error) => Err(format!("{shown}: {error}")),
        }
    }

    async fn exec(&self, exec: &ExecAction) -> Result<(), String> {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let argv = exec.command.clone().unwrap_or_default();
        let spec = Spec { argv: argv.clone(), ..(*self.spec).clone() };
        let file = self.scratch.with_added_extension(format!("{number}.json"));
        let text = serde_json::to_vec(&spec).map_err(|error| error.to_string())?;
        tokio::fs::write(&file, text).await.map_err(|error| error.to_string())?;
        let mut command = tokio::process::Command::new(&self.testbed);
        command.args(["sandbox", "run"]).arg(&file);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await;
        let _ = tokio::fs::remove_file(&file).await;
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(format!("command {argv:?}: {}: {}", output.status, String::from_utf8_lossy(&said).trim()))
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    socket: SocketAddr,
    path: &str,
    http: &HTTPGetAction,
) -> Result<u16, String> {
    let mut request = Request::get(path)
        .header(HOST, socket.to_string())
        .header(USER_AGENT, "kube-probe/testbed")
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    for header in http.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&header.name).map_err(|error| error.to_string())?;
        let value = HeaderValue::try_from(&header.value).map_err(|error| error.to_string())?;
        request.headers_mut().insert(name, value);
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        // Read, so that the server does not see its answer cut off; what is beyond the limit does not matter.
        let _ = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        Ok(status)
    };
    tokio::pin!(connection, exchange);
    // The connection may end first, since the answer asks for that; the exchange then has all it needs.
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

fn connector() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("ring has cipher suites for every version")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Accepts every certificate, as probes do.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
