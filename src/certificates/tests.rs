//! Turns against a scripted API server: what is read in which order, and what is written.

mod keda;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::http::{Request, Response};
use certs::rotation::Policy;
use certs::{
    Authority, Bundle, CA_BUNDLE, CA_CERTIFICATE, CA_KEY, Clients, NEXT_CERTIFICATE, NEXT_KEY, Resolver,
    SINCE,
};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use kube::Client;
use kube::client::Body;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::files::FromFiles;
use super::issued::FromSecret;
use super::run::Turn;
use super::*;
use crate::api::names::SCALER_CLIENT;
use crate::args::ScalerMode;

pub const SECRET: &str = "/api/v1/namespaces/n/secrets/ca";
pub const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/w";
pub const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/w";

pub fn settings() -> CertificateSettings {
    CertificateSettings {
        namespace: "n".into(),
        secret_name: "ca".into(),
        service_name: "s".into(),
        mutating: vec!["w".into()],
        validating: vec!["w".into()],
        source: Source::Issued,
        ca_file: None,
        ca_lifetime: Duration::from_hours(1000),
        policy: Policy {
            lead: Duration::from_hours(100),
            leaf_lifetime: Duration::from_hours(10),
            propagation: Duration::from_mins(1),
            clock_tolerance: Duration::from_mins(1),
        },
        scaler: ScalerMode::Tls,
        scaler_service: "scaler".into(),
        keda_namespace: "keda".into(),
        cluster_domain: "cluster.local".into(),
    }
}

type Between = Arc<dyn Fn(&Server, &str) + Send + Sync>;

/// An API server with a clock of its own, versions, and the requests it got.
#[derive(Clone)]
struct Server {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    requests: Arc<Mutex<Vec<String>>>,
    now: Arc<Mutex<Timestamp>>,
    version: Arc<Mutex<u64>>,
    /// By method and path, the code of the answer.
    refused: Arc<Mutex<BTreeMap<String, u16>>>,
    /// Called with each request before it is answered: another writer, at the worst moment.
    between: Between,
}

impl Server {
    fn new() -> Self {
        let server = Self {
            objects: Arc::default(),
            requests: Arc::default(),
            now: Arc::new(Mutex::new(Timestamp::now())),
            version: Arc::default(),
            refused: Arc::default(),
            between: Arc::new(|_, _| {}),
        };
        for path in [MUTATING, VALIDATING] {
            let webhook = |name| json!({"name": name, "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
            server.put(path, json!({"metadata": {"name": "w"}, "webhooks": [webhook("a"), webhook("b")]}));
        }
        server
    }

    fn put(&self, path: &str, mut object: Value) {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    fn get(&self, path: &str) -> Value {
        self.objects.lock().unwrap().get(path).cloned().unwrap_or_default()
    }

    /// What the Secret has under a key.
    fn stored(&self, key: &str) -> Option<Vec<u8>> {
        let secret = self.get(SECRET);
        Some(serde_json::from_value::<ByteString>(secret["data"].get(key)?.clone()).unwrap().0)
    }

    fn store(&self, key: &str, text: Option<&[u8]>) {
        let mut secret = self.get(SECRET);
        let data = secret["data"].as_object_mut().unwrap();
        match text {
            Some(text) => data.insert(key.into(), json!(ByteString(text.to_vec()))),
            None => data.remove(key),
        };
        self.put(SECRET, secret);
    }

    fn carried(&self, path: &str) -> Vec<Option<Vec<u8>>> {
        let bundle = |webhook: &Value| {
            let text = webhook["clientConfig"].get("caBundle")?.clone();
            Some(serde_json::from_value::<ByteString>(text).unwrap().0)
        };
        self.get(path)["webhooks"].as_array().unwrap().iter().map(bundle).collect()
    }

    fn refuse(&self, request: &str, code: Option<u16>) {
        let mut refused = self.refused.lock().unwrap();
        match code {
            Some(code) => drop(refused.insert(request.to_owned(), code)),
            None => drop(refused.remove(request)),
        }
    }

    fn later(&self, wait: Duration) {
        let mut now = self.now.lock().unwrap();
        *now = now.checked_add(wait).unwrap();
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<bytes::Bytes>> {
        let (path, method) = (request.uri().path().to_owned(), request.method().to_string());
        (self.between)(self, &format!("{method} {path}"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        self.requests.lock().unwrap().push(format!("{method} {path}"));
        let fails = |code: u16| {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "message": "scripted", "reason": if code == 404 { "NotFound" } else { "Scripted" }, "code": code}),
            )
        };
        let found = self.objects.lock().unwrap().get(&path).cloned();
        let refused = self.refused.lock().unwrap().get(&format!("{method} {path}")).copied();
        let (code, answer) = match (method.as_str(), found) {
            // So an API server answers for a kind that it does not know.
            _ if refused == Some(404) => (404, json!("404 page not found")),
            _ if refused.is_some() => fails(refused.unwrap_or_default()),
            ("GET", _) if path == "/version" => (200, json!({})),
            ("GET", Some(found)) => (200, found),
            ("POST", _) if self.get(SECRET) == Value::Null => {
                self.put(SECRET, body);
                (201, self.get(SECRET))
            }
            ("PUT", Some(found))
                if found["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] =>
            {
                self.put(&path, body);
                (200, self.get(&path))
            }
            ("POST", _) | ("PUT", Some(_)) => fails(409),
            ("PATCH", Some(mut found)) => {
                let operations: json_patch::Patch = serde_json::from_value(body).unwrap();
                match json_patch::patch(&mut found, &operations) {
                    Ok(()) => {
                        self.put(&path, found);
                        (200, self.get(&path))
                    }
                    Err(_) => fails(422),
                }
            }
            _ => fails(404),
        };
        let date = self.now.lock().unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        Response::builder().status(code).header("date", date).body(Full::from(answer.to_string())).unwrap()
    }

    fn certificates(&self, settings: CertificateSettings, leading: bool) -> Certificates {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Certificates {
            client: Client::new(service, "default"),
            settings,
            resolver: Arc::new(Resolver::new()),
            in_place: watch::channel(false).0,
            scaler_clients: Arc::new(Clients::none_yet(vec![SCALER_CLIENT.into()])),
            published: watch::channel(false).0,
            leading: watch::channel(leading).1,
            own_time: Box::new({
                let now = Arc::clone(&self.now);
                move || *now.lock().unwrap()
            }),
            metrics: crate::telemetry::CertificateMetrics::default(),
        }
    }

    /// What was written since the last look.
    fn writes(&self) -> Vec<String> {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap());
        requests.into_iter().filter(|request| !request.starts_with("GET")).collect()
    }
}

/// A replica that serves by the Secret.
struct Replica {
    certificates: Certificates,
    keeper: FromSecret,
}

impl Replica {
    fn new(server: &Server, leading: bool) -> Self {
        Self { certificates: server.certificates(settings(), leading), keeper: FromSecret::default() }
    }

    async fn turn(&mut self) -> Turn {
        let mut turn = Turn::default();
        self.keeper.turn(&self.certificates, &mut turn).await.unwrap();
        turn
    }

    fn leaf(&self) -> Vec<u8> {
        self.keeper.served().map(|leaf| leaf.chain()[0].to_vec()).unwrap_or_default()
    }
}

/// A server with a CA in place and one replica that serves.
async fn started() -> (Server, Replica) {
    let server = Server::new();
    let mut replica = Replica::new(&server, true);
    assert!(!replica.turn().await.ready, "nothing was in place when it was looked at");
    let turn = replica.turn().await;
    assert!(turn.ready && turn.failures.is_empty(), "{turn:?}");
    let created =
        ["POST /api/v1/namespaces/n/secrets", &format!("PATCH {MUTATING}"), &format!("PATCH {VALIDATING}")];
    assert_eq!(server.writes(), created);
    (server, replica)
}

#[tokio::test]
async fn what_is_read_is_read_in_the_order_that_rotations_rest_on() {
    let (server, mut replica) = started().await;
    replica.turn().await;
    let reads = ["/version", MUTATING, VALIDATING, SECRET, "/version"].map(|path| format!("GET {path}"));
    let (keda, others): (Vec<_>, Vec<_>) = server
        .requests
        .lock()
        .unwrap()
        .iter()
        .cloned()
        .enumerate()
        .partition(|(_, path)| path.contains("scaler"));
    assert!(keda.len() == 2 && keda.iter().all(|(index, _)| (1..5).contains(index)), "{keda:?} {others:?}");
    let others: Vec<_> = others.into_iter().map(|(_, path)| path).collect();
    assert_eq!(others, reads, "and nothing is written");
}

#[tokio::test]
async fn a_rotation_is_one_write_a_step_and_each_waits_for_the_one_before() {
    let (server, mut replica) = started().await;
    let first = server.stored(CA_CERTIFICATE);
    let secret = format!("PUT {SECRET}");
    let [both, mutating, validating] =
        [secret.clone(), format!("PATCH {MUTATING}"), format!("PATCH {VALIDATING}")];

    server.later(Duration::from_hours(899));
    replica.turn().await;
    assert_eq!(server.writes(), Vec::<String>::new(), "not before the lead");
    server.later(Duration::from_hours(1) + Duration::from_secs(2));
    replica.turn().await;
    assert_eq!(server.writes(), [both, mutating, validating], "Introduce, and publish");
    assert_eq!(server.stored(CA_CERTIFICATE), first);
    assert_eq!(Bundle::parse(&server.stored(CA_BUNDLE).unwrap()).unwrap().len(), 2);
    replica.turn().await;
    assert_eq!(server.writes(), [secret.as_str()], "Witness");
    server.later(Duration::from_mins(2));
    replica.turn().await;
    assert_eq!(server.writes(), Vec::<String>::new(), "not before delay and tolerance");
    server.later(Duration::from_secs(2));
    let (next, next_key) = (server.stored(NEXT_CERTIFICATE), server.stored(NEXT_KEY));
    replica.turn().await;
    assert_eq!(server.writes(), [secret.as_str()], "Promote");
    assert_eq!((server.stored(CA_CERTIFICATE), server.stored(CA_KEY)), (next, next_key));
    assert_eq!((server.stored(NEXT_CERTIFICATE), server.stored(SINCE)), (None, None));
    replica.turn().await;
    assert_eq!(server.writes(), [secret.as_str()], "Witness");
    server.later(Duration::from_hours(10));
    replica.turn().await;
    assert_eq!(server.writes(), Vec::<String>::new(), "a leaf of the old CA may still be served");
    server.later(Duration::from_secs(62));
    replica.turn().await;
    assert_eq!(server.writes().len(), 3, "Retire, and publish");
    assert_eq!(server.stored(CA_BUNDLE), server.stored(CA_CERTIFICATE));
    replica.turn().await;
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn whoever_does_not_lead_rotates_nothing_and_mends_what_is_broken() {
    let (server, _) = started().await;
    let mut other = Replica::new(&server, false);
    server.later(Duration::from_hours(901));
    other.turn().await;
    assert_eq!(server.writes(), Vec::<String>::new());
    server.store(CA_BUNDLE, None);
    other.turn().await;
    assert_eq!(server.writes(), [format!("PUT {SECRET}")]);
    assert_eq!(server.stored(CA_BUNDLE), server.stored(CA_CERTIFICATE));
}

/// Whatever becomes of the Secret, what is served stays verified: the new CA is trusted first.
#[rstest]
#[case::deleted(None, None)]
#[case::truncated(Some(CA_CERTIFICATE), Some(300))]
#[case::key_truncated(Some(CA_KEY), Some(100))]
#[case::key_gone(Some(CA_KEY), None)]
#[case::a_megabyte_long(Some(CA_CERTIFICATE), Some(1 << 20))]
#[tokio::test]
async fn a_damaged_secret_costs_no_handshake(#[case] key: Option<&str>, #[case] length: Option<usize>) {
    let (server, mut replica) = started().await;
    let leaf = replica.leaf();
    match key {
        None => drop(server.objects.lock().unwrap().remove(SECRET)),
        Some(key) => {
            let damaged = length.map(|length| {
                let mut text = server.stored(key).unwrap();
                text.resize(length, b'A');
                text
            });
            server.store(key, damaged.as_deref());
        }
    }
    let before = server.carried(MUTATING)[0].clone().unwrap();
    replica.turn().await;
    assert_eq!(server.writes().len(), 3, "a CA, and its bundle in both");
    let bundle = server.carried(MUTATING)[0].clone().unwrap();
    let (bundle, before) = (Bundle::parse(&bundle).unwrap(), Bundle::parse(&before).unwrap());
    assert!(bundle.covers(&before) && bundle.len() == 2, "what is served now stays verified");
    replica.turn().await;
    assert_eq!(replica.leaf(), leaf, "the new CA may not be known everywhere yet");
}

#[tokio::test]
async fn another_pairs_key_and_an_expired_ca_are_replaced_too() {
    let (server, mut replica) = started().await;
    let foreign = Authority::generate("x", Timestamp::now(), Duration::from_hours(1)).unwrap();
    server.store(CA_KEY, Some(foreign.key_pem().as_bytes()));
    replica.turn().await;
    assert_eq!(server.writes().len(), 3);

    let expired =
        Authority::generate("x", Timestamp::now() - Duration::from_hours(9), Duration::from_hours(1))
            .unwrap();
    server.store(CA_CERTIFICATE, Some(expired.certificate_pem().as_bytes()));
    server.store(CA_KEY, Some(expired.key_pem().as_bytes()));
    server.store(CA_BUNDLE, Some(expired.certificate_pem().as_bytes()));
    let mut fresh = Replica::new(&server, false);
    fresh.turn().await;
    assert_ne!(server.stored(CA_CERTIFICATE), Some(expired.certificate_pem().into_bytes()));
    assert!(!fresh.leaf().is_empty());
}

#[tokio::test]
async fn of_two_that_make_a_ca_at_once_one_wins_and_both_serve_it() {
    let mut server = Server::new();
    let other = server.clone();
    let first = Arc::new(Mutex::new(Some(())));
    server.between = Arc::new(move |_, request| {
        if request.starts_with("POST") && first.lock().unwrap().take().is_some() {
            let ca = Authority::generate("other", Timestamp::now(), Duration::from_hours(1000)).unwrap();
            let data = |text: String| json!(ByteString(text.into_bytes()));
            other.put(
                SECRET,
                json!({"metadata": {"name": "ca"}, "data": {
                    CA_CERTIFICATE: data(ca.certificate_pem()),
                    CA_KEY: data(ca.key_pem()),
                    CA_BUNDLE: data(ca.certificate_pem()),
                }}),
            );
        }
    });
    let mut replica = Replica::new(&server, true);
    let turn = replica.turn().await;
    assert!(turn.conflict.is_some() && turn.failures.is_empty(), "{turn:?}");
    replica.turn().await;
    assert_eq!(server.carried(VALIDATING)[1], server.stored(CA_CERTIFICATE));
    assert_eq!(server.writes().len(), 3, "its own CA was refused");
}

#[tokio::test]
async fn a_leafs_life_counts_from_before_the_secret_was_read() {
    let (mut server, _) = started().await;
    let before = *server.now.lock().unwrap();
    let slow = server.clone();
    server.between = Arc::new(move |_, request| {
        if request.ends_with(SECRET) {
            slow.later(Duration::from_mins(10));
        }
    });
    let mut replica = Replica::new(&server, false);
    replica.turn().await;
    // By the time of the answer another may have promoted the next CA, and counts the lives of leaves from then.
    assert!(
        replica.keeper.served().expect("it serves").not_after() <= before + settings().policy.leaf_lifetime
    );
}

#[tokio::test]
async fn a_bundle_that_changed_since_it_was_read_is_not_written_over() {
    let (mut server, _) = started().await;
    let mut cleared = server.get(MUTATING);
    cleared["webhooks"][0]["clientConfig"] = json!({});
    server.put(MUTATING, cleared);
    let other = server.clone();
    server.between = Arc::new(move |_, request| {
        if request.starts_with("PATCH") {
            let mut newer = other.get(MUTATING);
            newer["webhooks"][0]["clientConfig"] = json!({"caBundle": json!(ByteString(b"newer".to_vec()))});
            other.put(MUTATING, newer);
        }
    });
    let mut late = Replica::new(&server, true);
    let turn = late.turn().await;
    assert!(turn.conflict.is_some(), "{turn:?}");
    assert_eq!(server.carried(MUTATING)[0].as_deref(), Some(&b"newer"[..]));
}

#[tokio::test]
async fn a_clock_that_is_a_month_off_rotates_nothing_and_a_leaf_is_of_the_api_servers_time() {
    let (server, _) = started().await;
    // For the API server the CA is within its lead, and for this node it has just been made.
    server.later(Duration::from_hours(920));
    let mut replica = Replica::new(&server, true);
    replica.certificates.own_time = Box::new(Timestamp::now);
    let turn = replica.turn().await;
    assert_eq!(server.writes(), Vec::<String>::new());
    assert!(turn.failures[0].contains("15 minutes apart"), "{turn:?}");
    let now = *server.now.lock().unwrap();
    let leaf = replica.keeper.served().expect("it serves");
    assert!(leaf.not_before() < now && now < leaf.not_after());
}

/// Files of an issuer that is not ours.
struct Mounted {
    folder: tempfile::TempDir,
    settings: CertificateSettings,
}

impl Mounted {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let source = Source::Files { certificate: path("tls.crt"), key: path("tls.key") };
        let settings = CertificateSettings { source, ca_file: Some(path("ca.crt")), ..settings() };
        let mounted = Self { folder, settings };
        mounted.issue_all();
        mounted
    }

    /// A new issuer, and a leaf of it with every name.
    fn issue_all(&self) {
        let names = self.settings.server_names();
        self.issue(&names.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// A new issuer, and a leaf of it.
    fn issue(&self, names: &[&str]) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        self.write("ca.crt", &ca.pem());
        self.write("ca.key", &key.serialize_pem());
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (certificate, key) = self.signed(&rcgen::CertificateParams::new(names).unwrap());
        self.write("tls.crt", &certificate);
        self.write("tls.key", &key);
    }

    /// Fills a Secret with what a client of the issuer needs.
    fn client(&self, name: &str, fill: impl Fn(&str, &[u8])) {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.signed(&params);
        fill("ca.crt", self.read("ca.crt").as_bytes());
        fill("tls.crt", certificate.as_bytes());
        fill("tls.key", key.as_bytes());
    }

    fn signed(&self, params: &rcgen::CertificateParams) -> (String, String) {
        let issuers = rcgen::KeyPair::from_pem(&self.read("ca.key")).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&self.read("ca.crt"), issuers).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }
}

#[tokio::test]
async fn mounted_files_are_served_trusted_swapped_and_kept_while_they_are_bad() {
    let (server, _) = started().await;
    let issued = server.carried(MUTATING)[0].clone().unwrap();
    let mounted = Mounted::new();
    let certificates = server.certificates(mounted.settings.clone(), false);
    let mut keeper = FromFiles::default();
    let mut run = async || {
        let mut turn = Turn::default();
        keeper.turn(&certificates, &mut turn).await.unwrap();
        (turn, keeper.served().map(|leaf| leaf.chain()[0].to_vec()).unwrap())
    };
    let (turn, first) = run().await;
    assert!(!turn.ready, "it was not trusted when it was looked at");
    let (turn, _) = run().await;
    assert!(turn.ready && turn.failures.is_empty(), "{turn:?}");
    let (issued, both) = (Bundle::parse(&issued).unwrap(), server.carried(VALIDATING)[1].clone().unwrap());
    let both = Bundle::parse(&both).unwrap();
    assert!(both.covers(&issued) && both.len() == 2, "replicas that issue by themselves go on being trusted");
    assert_eq!(server.writes().len(), 2, "the two configurations, once");

    mounted.write("tls.key", "damaged");
    let (turn, kept) = run().await;
    assert!(turn.failures[0].contains("the key cannot be read"), "{turn:?}");
    assert_eq!(kept, first);
    assert_eq!(certificates.metrics.unusable_files.get(), 1);

    mounted.issue_all();
    let (turn, kept) = run().await;
    assert!(turn.failures[0].contains("not verified by every caBundle yet"), "{turn:?}");
    assert_eq!(kept, first, "its issuer is made known first");
    let (turn, swapped) = run().await;
    assert!(turn.ready && swapped != first, "{turn:?}");
}

#[tokio::test]
async fn what_cert_manager_injects_is_left_to_it() {
    let server = Server::new();
    let mounted = Mounted::new();
    let ca = std::fs::read(mounted.folder.path().join("ca.crt")).unwrap();
    for path in [MUTATING, VALIDATING] {
        let mut object = server.get(path);
        object["metadata"]["annotations"] = json!({"cert-manager.io/inject-ca-from": "n/c"});
        server.put(path, object);
    }
    let certificates = server.certificates(mounted.settings.clone(), false);
    let mut keeper = FromFiles::default();
    let mut turn = Turn::default();
    keeper.turn(&certificates, &mut turn).await.unwrap();
    assert!(!turn.ready);
    for path in [MUTATING, VALIDATING] {
        let mut object = server.get(path);
        for webhook in object["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"]["caBundle"] = json!(ByteString(ca.clone()));
        }
        server.put(path, object);
    }
    let mut turn = Turn::default();
    keeper.turn(&certificates, &mut turn).await.unwrap();
    assert!(turn.ready, "{turn:?}");
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[rstest]
#[case::as_shipped("365d", "30d", "7d", None)]
#[case::seconds("24s", "12s", "4s", None)]
#[case::leaf_too_short("365d", "30d", "3s", Some("--leaf-life is 3s"))]
#[case::lead_too_short("24s", "11s", "4s", Some("give at least 12s"))]
#[case::life_too_short("23s", "12s", "4s", Some("give at least twice --ca-rotation-lead, 24s"))]
fn settings_that_contradict_each_other_are_refused_with_a_sentence(
    #[case] life: &str,
    #[case] lead: &str,
    #[case] leaf: &str,
    #[case] says: Option<&str>,
) {
    let span = |text| crate::args::span(text).unwrap();
    let policy = Policy {
        lead: span(lead),
        leaf_lifetime: span(leaf),
        propagation: span("1s"),
        clock_tolerance: Duration::ZERO,
    };
    let settings = CertificateSettings { ca_lifetime: span(life), policy, ..settings() };
    match (settings.check(), says) {
        (Ok(()), None) => {}
        (Err(told), Some(says)) => assert!(told.contains(says), "{told}"),
        (other, _) => panic!("{other:?}"),
    }
}
