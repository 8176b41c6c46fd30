//! A server on loopback and a peer that speaks raw HTTP to it, so that tests see each byte and each close.
//!
//! Architecture invariant: every wait ends by what is waited for, or panics at [`DEADLINE`] with what was seen.
//! No answer to a review gets past the API server's own checks: [`Peer::answer`] makes them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use webhook::handler::{Admit, reviews};
use webhook::response::Response;
use webhook::review::Request;
use webhook::server::{Limits, Protocol, Stop, Transport, serve, tls_config};
use webhook::verify::{Call, verify_http};

/// Far longer than anything here takes: reaching it is a failure.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// A limit that a test waits for.
pub const SHORT: Duration = Duration::from_millis(150);
/// A limit that no test reaches.
pub const LONG: Duration = Duration::from_mins(5);

/// Limits none of which any test reaches; each test shortens its own.
pub fn unreached() -> Limits {
    Limits { handshake: LONG, header: LONG, idle: LONG, drain: LONG, ..Limits::default() }
}

/// Waits for `what`, up to the deadline.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(done) = timeout(DEADLINE, future).await else { panic!("{what}: not within {DEADLINE:?}") };
    done
}

/// Decides by the name of the object: `panic`, `wait` until released, `warn` of what no header holds, or else
/// allow.
pub struct ByName {
    /// Gets a permit for each decision that waits.
    pub waiting: Semaphore,
    /// A permit lets one of them go on.
    pub released: Semaphore,
    /// Gets a permit for each of them that ends, be it before it is released.
    pub over: Semaphore,
}

impl ByName {
    fn new() -> Self {
        Self { waiting: Semaphore::new(0), released: Semaphore::new(0), over: Semaphore::new(0) }
    }
}

struct Over<'a>(&'a Semaphore);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl Admit for ByName {
    async fn admit(&self, request: &Request<'_>) -> Response {
        match &*request.name {
            "panic" => panic!("as the test wants it"),
            "wait" => {
                let _over = Over(&self.over);
                self.waiting.add_permits(1);
                self.released.acquire().await.expect("never closed").forget();
            }
            "warn" => {
                let odd = ["a\r\nSet-Cookie: b", "", "\0", "a  Set-Cookie: b"].map(str::to_owned);
                return Response::allow().warnings(odd.into_iter().chain(vec!["ü".repeat(3000); 2]));
            }
            _ => {}
        }
        Response::allow()
    }
}

/// A server under test, and what a client must know of it.
pub struct Server {
    pub address: SocketAddr,
    pub stop: Stop,
    pub decider: Arc<ByName>,
    pub ended: JoinHandle<()>,
    roots: RootCertStore,
}

impl Server {
    pub async fn start(limits: Limits) -> Self {
        Self::start_for(limits, None).await
    }

    /// A server that asks its clients for a certificate, if it is told how to verify one.
    pub async fn start_for(limits: Limits, clients: Option<Arc<dyn ClientCertVerifier>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let (certificate, key) = self_signed();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let signer = rustls::crypto::ring::sign::any_ecdsa_type(&key.into()).expect("an ECDSA key");
        let resolver = rustls::sign::SingleCertAndKey::from(CertifiedKey::new(vec![certificate], signer));
        let tls = tls_config(Arc::new(resolver), Protocol::Http1, clients);
        let decider = Arc::new(ByName::new());
        let router = Router::new().route("/review", reviews(Arc::clone(&decider)));
        let stop = Stop::default();
        let ended = tokio::spawn(serve(listener, Transport::Tls(tls), router, limits, stop.clone()));
        Self { address, stop, decider, ended, roots }
    }

    /// A connection after its handshake, with the protocols offered.
    pub async fn connect_offering(&self, alpn: &[&str]) -> std::io::Result<Peer<TlsStream<TcpStream>>> {
        self.connect_by(self.client().with_no_client_auth(), alpn).await
    }

    /// A connection of a client that shows a certificate if asked for one.
    pub async fn connect_as(&self, identity: Identity) -> Peer<TlsStream<TcpStream>> {
        let (certificate, key) = identity;
        let config = self.client().with_client_auth_cert(vec![certificate], key.into()).expect("a pair");
        self.connect_by(config, &["http/1.1"]).await.expect("a connection")
    }

    fn client(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports them")
            .with_root_certificates(self.roots.clone())
    }

    async fn connect_by(
        &self,
        mut config: ClientConfig,
        alpn: &[&str],
    ) -> std::io::Result<Peer<TlsStream<TcpStream>>> {
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(self.address).await?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        Ok(Peer::over(within("handshake", handshake).await?))
    }

    pub async fn connect(&self) -> Peer<TlsStream<TcpStream>> {
        self.connect_offering(&["http/1.1"]).await.expect("a connection")
    }

    /// A connection that has not begun its handshake.
    pub async fn connect_tcp(&self) -> Peer<TcpStream> {
        Peer::over(TcpStream::connect(self.address).await.expect("a connection"))
    }

    /// A connection on which a review has been answered already.
    pub async fn connect_and_speak(&self) -> Peer<TlsStream<TcpStream>> {
        let mut peer = self.connect().await;
        assert_eq!(peer.review("first").await.status, 200);
        peer
    }

    /// Has a review of this peer decided, until the decider is released.
    pub async fn wait_with(&self, peer: &mut Peer<TlsStream<TcpStream>>) {
        peer.send(&post(&review_of("wait"))).await;
        within("the decision", self.decider.waiting.acquire()).await.expect("open").forget();
    }

    /// Lets the header limit of another connection pass: a clock that runs on the server's own.
    pub async fn let_header_limit_pass(&self) {
        let mut slow = self.connect().await;
        slow.send(b"POST /rev").await;
        slow.closed().await;
    }
}

/// A certificate and its key.
pub type Identity = (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>);

/// An identity that whoever trusts its certificate as a root believes.
pub fn self_signed() -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    (made.cert.der().clone(), PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()))
}

/// The client's end of a connection.
pub struct Peer<S> {
    pub stream: S,
    sent: Vec<u8>,
    seen: Vec<u8>,
}

/// One HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Peer<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, sent: Vec::new(), seen: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        within("send", async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
        .expect("the server takes what is sent");
    }

    /// Sends a review of an object of this name, and awaits the answer.
    pub async fn review(&mut self, name: &str) -> Answer {
        self.send(&post(&review_of(name))).await;
        self.answer().await
    }

    /// The next answer. One to a review is verified as the API server does it.
    pub async fn answer(&mut self) -> Answer {
        let answer = self.unverified_answer().await;
        if answer.status == 200 {
            let review: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
            let uid = review["response"]["uid"].as_str().expect("a uid");
            let sent = format!("\"uid\":{}", serde_json::json!(uid));
            assert!(contains(&self.sent, sent.as_bytes()), "an answer to nothing that was asked: {answer:?}");
            let call = Call { uid, mutating: true, object: None };
            if let Err(violation) =
                verify_http(call, answer.status, answer.header("content-type"), answer.body.as_bytes())
            {
                panic!("{violation}: {answer:?}");
            }
        }
        answer
    }

    /// The next answer, whatever it is to.
    pub async fn unverified_answer(&mut self) -> Answer {
        let read = async {
            loop {
                if let Some(answer) = take_answer(&mut self.seen) {
                    return Ok(answer);
                }
                if self.stream.read_buf(&mut self.seen).await? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                }
            }
        };
        let read = within("an answer", read).await;
        read.unwrap_or_else(|error| {
            panic!("no answer: {error}; seen: {:?}", String::from_utf8_lossy(&self.seen))
        })
    }

    /// Sends whatever it is in which the server may lose its patience half-way.
    pub async fn try_send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        let _ = within("send", self.stream.write_all(bytes)).await;
        let _ = within("flush", self.stream.flush()).await;
    }

    /// Waits for an interim answer, such as 100, and takes it off.
    pub async fn interim_answer(&mut self) -> String {
        let end = loop {
            if let Some(end) = self.seen.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let read = within("an interim answer", self.stream.read_buf(&mut self.seen)).await;
            assert!(read.is_ok_and(|read| read > 0), "closed: {:?}", String::from_utf8_lossy(&self.seen));
        };
        String::from_utf8_lossy(&self.seen.drain(..end).collect::<Vec<_>>()).into_owned()
    }

    /// Waits until the server closes, and gives what it sent until then.
    pub async fn closed(&mut self) -> String {
        // A reset is a close too; so is an end without close_notify.
        while let Ok(1..) = within("the server's close", self.stream.read_buf(&mut self.seen)).await {}
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Takes a whole answer with `Content-Length` off the front.
fn take_answer(seen: &mut Vec<u8>) -> Option<Answer> {
    let end = seen.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&seen[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut answer = Answer { status, head, body: String::new() };
    let length: usize = answer.header("content-length")?.parse().ok()?;
    let body = seen.get(end + 4..end + 4 + length)?;
    answer.body = String::from_utf8_lossy(body).into_owned();
    seen.drain(..end + 4 + length);
    Some(answer)
}

/// A review of an object of this name; its uid is `uid-<name>`.
pub fn review_of(name: &str) -> String {
    serde_json::json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": format!("uid-{name}"),
            "operation": "CREATE",
            "kind": { "group": "", "version": "v1", "kind": "ConfigMap" },
            "resource": { "group": "", "version": "v1", "resource": "configmaps" },
            "name": name,
            "namespace": "default",
            "userInfo": { "username": "admin" },
            "object": { "data": {} },
        },
    })
    .to_string()
}

/// The HTTP request that the API server makes of a review.
pub fn post(review: &str) -> Vec<u8> {
    let length = review.len();
    format!("POST /review?timeout=10s HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{review}")
        .into_bytes()
}
