//! What KEDA is told, step by step, and whether it can call: as it is shipped, through each change, and through what others
//! do to it.

use certs::{Issued, Leaf, stored_pair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;

use super::*;

const KEDA: &str = "/api/v1/namespaces/keda/secrets/vllm-operator-scaler";
const AUTHENTICATION: &str = "/apis/keda.sh/v1alpha1/clustertriggerauthentications/vllm-operator-scaler";
const KEYS: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Applies `deploy/keda.yaml`.
fn install(server: &Server) {
    let manifest = include_str!("../../../deploy/keda.yaml");
    for object in serde_saphyr::from_multiple::<Value>(manifest).unwrap() {
        match object["kind"].as_str() {
            Some("Secret") => server.put(KEDA, object),
            Some("ClusterTriggerAuthentication") => server.put(AUTHENTICATION, object),
            _ => {}
        }
    }
}

fn value(server: &Server, key: &str) -> Vec<u8> {
    let text = server.get(KEDA)["data"].get(key).cloned();
    text.map(|text| serde_json::from_value::<ByteString>(text).unwrap().0).unwrap_or_default()
}

fn change(server: &Server, key: &str, text: &[u8]) {
    let mut secret = server.get(KEDA);
    secret["data"][key] = json!(ByteString(text.to_vec()));
    server.put(KEDA, secret);
}

/// A server with KEDA and a CA in place, and one replica that serves.
async fn published() -> (Server, Replica) {
    let server = Server::new();
    install(&server);
    let mut replica = Replica::new(&server, true);
    replica.turn().await;
    assert_eq!(server.writes().last(), Some(&format!("PATCH {KEDA}")));
    settled(&mut replica).await;
    (server, replica)
}

/// A turn that finds all in order and writes nothing.
async fn settled(replica: &mut Replica) {
    let turn = replica.turn().await;
    assert_eq!((turn.published, turn.keda.as_slice()), (Some(true), [].as_slice()));
}

/// As KEDA would now: it verifies what `replica` serves, and is let in by it.
fn calls(server: &Server, replica: &Replica) {
    let now = *server.now.lock().unwrap();
    let leaf = replica.keeper.served().unwrap();
    leaf.verify(&Bundle::parse(&value(server, "ca.crt")).unwrap(), "scaler.n.svc", now).unwrap();
    let shown = CertificateDer::from_pem_slice(&value(server, "tls.crt")).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().unsigned_abs()));
    replica.certificates.scaler_clients.verify_client_cert(&shown, &[], at).unwrap();
}

/// Which CA has issued what KEDA shows.
fn issued(server: &Server) -> Issued {
    let now = *server.now.lock().unwrap();
    let bundle = Bundle::parse(&value(server, "ca.crt")).unwrap();
    stored_pair(&value(server, "tls.crt"), &value(server, "tls.key"), &bundle, "keda", now).unwrap()
}

async fn pass(server: &Server, time: Duration) {
    server.later(time);
    tokio::time::advance(time).await;
}

#[tokio::test]
async fn keda_is_told_once_and_can_call_and_nothing_else_of_its_secret_is_touched() {
    let server = Server::new();
    install(&server);
    let mut secret = server.get(KEDA);
    assert_eq!(secret.get("data"), None, "to apply the manifest again leaves the data alone");
    let mut replica = Replica::new(&server, true);
    assert_eq!(replica.turn().await.published, Some(false), "it was not there when it was looked at");
    settled(&mut replica).await;
    calls(&server, &replica);
    let mut filled = server.get(KEDA);
    assert_eq!(filled["data"].as_object().unwrap().keys().collect::<Vec<_>>(), KEYS);
    assert_eq!(value(&server, "ca.crt"), server.stored(CA_BUNDLE).unwrap());
    for object in [&mut secret, &mut filled] {
        object["data"] = Value::Null;
        object["metadata"]["resourceVersion"] = Value::Null;
    }
    assert_eq!(secret, filled);

    change(&server, "other", b"kept");
    change(&server, "tls.key", b"");
    server.writes();
    replica.turn().await;
    assert_eq!(server.writes(), [format!("PATCH {KEDA}")]);
    assert_eq!(value(&server, "other"), b"kept");
    settled(&mut replica).await;
    settled(&mut replica).await;
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn whoever_does_not_lead_writes_nothing_and_knows_as_well() {
    let server = Server::new();
    install(&server);
    let mut other = Replica::new(&server, false);
    let turn = other.turn().await;
    assert!(turn.keda[0].contains("does not verify what is served as scaler.n.svc"), "{turn:?}");
    assert_eq!(turn.published, Some(false));
    assert!(!server.writes().contains(&format!("PATCH {KEDA}")));
    let mut leader = Replica::new(&server, true);
    leader.turn().await;
    settled(&mut other).await;
    calls(&server, &other);
    calls(&server, &leader);
    assert_eq!(server.writes(), [format!("PATCH {KEDA}")]);
}

#[tokio::test]
async fn the_certificate_that_keda_shows_is_renewed_in_the_last_third_of_its_life() {
    let (server, mut replica) = published().await;
    let before = issued(&server);
    server.later(Duration::from_mins(399));
    settled(&mut replica).await;
    assert_eq!(server.writes(), Vec::<String>::new());
    server.later(Duration::from_mins(2));
    let (ca, turn) = (value(&server, "ca.crt"), replica.turn().await);
    assert_eq!(turn.published, Some(true));
    assert_eq!(server.writes(), [format!("PATCH {KEDA}")]);
    settled(&mut replica).await;
    let after = issued(&server);
    assert!(after.ca == before.ca && after.not_after > before.not_after);
    assert_eq!(value(&server, "ca.crt"), ca);
    calls(&server, &replica);
}

/// At every step both replicas, and so old and new certificates, can be called by what KEDA has.
#[tokio::test(start_paused = true)]
async fn keda_follows_a_rotation_and_can_call_at_every_step_of_it() {
    let (server, mut leader) = published().await;
    let mut other = Replica::new(&server, false);
    // Just before the lead, everything is renewed: nothing is due by its age for the next hours.
    pass(&server, Duration::from_hours(899)).await;
    leader.turn().await;
    settled(&mut leader).await;
    settled(&mut other).await;
    server.writes();
    let first = issued(&server).ca;
    let mut step = async |time: Duration, cas: usize, written: &[&str]| {
        pass(&server, time).await;
        let turn = leader.turn().await;
        assert_eq!((turn.published, turn.failures.len()), (Some(true), 0), "{turn:?}");
        // The other one has not looked yet: it goes by what it knew.
        calls(&server, &leader);
        calls(&server, &other);
        settled(&mut other).await;
        calls(&server, &other);
        assert_eq!(Bundle::parse(&value(&server, "ca.crt")).unwrap().len(), cas);
        assert_eq!(server.writes(), written);
        issued(&server).ca
    };
    let (secret, keda) = (format!("PUT {SECRET}"), format!("PATCH {KEDA}"));
    let [secret, keda] = [secret.as_str(), keda.as_str()];
    let [mutating, validating] = [format!("PATCH {MUTATING}"), format!("PATCH {VALIDATING}")];
    step(Duration::from_secs(1), 1, &[]).await;
    let introduced = [secret, &mutating, &validating, keda];
    assert_eq!(step(Duration::from_secs(3602), 2, &introduced).await, first, "introduced");
    assert_eq!(step(Duration::from_secs(1), 2, &[secret]).await, first, "witnessed");
    let second = step(Duration::from_secs(122), 2, &[secret, keda]).await;
    assert_ne!(second, first, "promoted: what KEDA shows is of the new CA at once");
    step(Duration::from_secs(1), 2, &[secret]).await;
    step(Duration::from_hours(6), 2, &[]).await;
    step(Duration::from_hours(1), 2, &[keda]).await;
    let retired = [secret, &mutating, &validating, keda];
    let last = step(Duration::from_hours(3) + Duration::from_secs(62), 1, &retired).await;
    assert_eq!(last, second);
    step(Duration::from_secs(1), 1, &[]).await;
}

/// A CA in place of one that was lost: KEDA trusts it at once, and shows and is shown what is of it once all know it.
#[tokio::test(start_paused = true)]
async fn keda_follows_a_ca_that_was_lost() {
    let (server, mut replica) = published().await;
    let (first, leaf) = (issued(&server).ca, replica.leaf());
    server.objects.lock().unwrap().remove(SECRET);
    replica.turn().await;
    assert_eq!(server.writes().last(), Some(&format!("PATCH {KEDA}")));
    assert_eq!(Bundle::parse(&value(&server, "ca.crt")).unwrap().len(), 2);
    settled(&mut replica).await;
    calls(&server, &replica);
    assert_eq!((issued(&server).ca, replica.leaf()), (first.clone(), leaf.clone()));
    pass(&server, Duration::from_secs(61)).await;
    assert_eq!(replica.turn().await.published, Some(true));
    calls(&server, &replica);
    assert!(issued(&server).ca != first && replica.leaf() != leaf);
}

/// What KEDA cannot verify is not served as long as there is time; and longer nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_leaf_of_a_ca_that_keda_cannot_be_told_of_waits_and_not_for_ever() {
    let (server, mut replica) = published().await;
    let leaf = replica.leaf();
    server.refuse(&format!("PATCH {KEDA}"), Some(403));
    server.objects.lock().unwrap().remove(SECRET);
    for minutes in [0, 1, 1, 300] {
        pass(&server, Duration::from_mins(minutes)).await;
        let turn = replica.turn().await;
        assert!(
            turn.keda[0].contains("cannot patch Secret vllm-operator-scaler in namespace keda"),
            "{turn:?}"
        );
        assert_eq!((turn.published, turn.failures.len()), (Some(true), 0), "what it has still fits");
        calls(&server, &replica);
        assert_eq!(replica.leaf(), leaf, "after {minutes} minutes more");
    }
    assert!(replica.turn().await.ready, "no webhook waits for it");
    pass(&server, Duration::from_mins(100)).await;
    let turn = replica.turn().await;
    assert_ne!(replica.leaf(), leaf, "no later than any leaf is renewed");
    assert_eq!(turn.published, Some(false));
    server.refuse(&format!("PATCH {KEDA}"), None);
    replica.turn().await;
    settled(&mut replica).await;
    calls(&server, &replica);
}

enum Damage {
    Wiped,
    Empty,
    Truncated(&'static str),
    Gone(&'static str),
    Foreign,
    ServersOwn,
    OtherName,
    AnothersKey,
}

#[rstest]
#[case::wiped(Damage::Wiped)]
#[case::empty(Damage::Empty)]
#[case::ca_truncated(Damage::Truncated("ca.crt"))]
#[case::certificate_truncated(Damage::Truncated("tls.crt"))]
#[case::key_truncated(Damage::Truncated("tls.key"))]
#[case::ca_gone(Damage::Gone("ca.crt"))]
#[case::key_gone(Damage::Gone("tls.key"))]
#[case::foreign_pair_and_ca(Damage::Foreign)]
#[case::a_servers_certificate(Damage::ServersOwn)]
#[case::another_name(Damage::OtherName)]
#[case::anothers_key(Damage::AnothersKey)]
#[tokio::test]
async fn a_damaged_secret_is_mended_by_one_write(#[case] damage: Damage) {
    let (server, mut replica) = published().await;
    let now = *server.now.lock().unwrap();
    let day = Duration::from_hours(24);
    let ca = Authority::from_pem(&server.stored(CA_CERTIFICATE).unwrap(), &server.stored(CA_KEY).unwrap());
    let pair = |pair: certs::ClientPair| {
        change(&server, "tls.crt", pair.certificate_pem().as_bytes());
        change(&server, "tls.key", pair.key_pem().as_bytes());
    };
    let mut secret = server.get(KEDA);
    match damage {
        Damage::Wiped => {
            secret.as_object_mut().unwrap().remove("data");
            server.put(KEDA, secret);
        }
        Damage::Empty => {
            secret["data"] = json!({});
            server.put(KEDA, secret);
        }
        Damage::Truncated(key) => {
            let text = value(&server, key);
            change(&server, key, &text[..100]);
        }
        Damage::Gone(key) => {
            secret["data"].as_object_mut().unwrap().remove(key);
            server.put(KEDA, secret);
        }
        Damage::Foreign => {
            let foreign = Authority::generate("x", now, day).unwrap();
            pair(foreign.issue_client("keda", now, day).unwrap());
            change(&server, "ca.crt", foreign.certificate_pem().as_bytes());
        }
        Damage::ServersOwn => {
            let key = rcgen::KeyPair::from_pem(&ca.unwrap().key_pem()).unwrap();
            let certificate = String::from_utf8(server.stored(CA_CERTIFICATE).unwrap()).unwrap();
            let issuer = rcgen::Issuer::from_ca_cert_pem(&certificate, key).unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["scaler.n.svc".into()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, "keda");
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            let key = rcgen::KeyPair::generate().unwrap();
            change(&server, "tls.crt", params.signed_by(&key, &issuer).unwrap().pem().as_bytes());
            change(&server, "tls.key", key.serialize_pem().as_bytes());
        }
        Damage::OtherName => pair(ca.unwrap().issue_client("another", now, day).unwrap()),
        Damage::AnothersKey => {
            let other = ca.unwrap().issue_client("keda", now, day).unwrap();
            change(&server, "tls.key", other.key_pem().as_bytes());
        }
    }
    let turn = replica.turn().await;
    assert_eq!(turn.published, Some(false), "{turn:?}");
    assert!(turn.keda[0].contains("of Secret vllm-operator-scaler in namespace keda"), "{turn:?}");
    assert!(turn.failures.is_empty() && turn.ready);
    assert_eq!(server.writes(), [format!("PATCH {KEDA}")]);
    settled(&mut replica).await;
    calls(&server, &replica);
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_secret_that_is_gone_is_not_made_and_one_that_comes_back_is_filled() {
    let (server, mut replica) = published().await;
    server.objects.lock().unwrap().remove(KEDA);
    let turn = replica.turn().await;
    assert_eq!(
        (turn.published, turn.keda.as_slice()),
        (
            Some(false),
            ["there is no Secret vllm-operator-scaler in namespace keda; apply deploy/keda.yaml".to_owned()]
                .as_slice()
        )
    );
    assert!(turn.ready && turn.failures.is_empty());
    assert_eq!(server.writes(), Vec::<String>::new());
    install(&server);
    replica.turn().await;
    settled(&mut replica).await;
    calls(&server, &replica);
}

#[tokio::test]
async fn a_secret_that_cannot_be_changed_is_told_of() {
    let (server, mut replica) = published().await;
    change(&server, "tls.key", b"");
    let mut secret = server.get(KEDA);
    secret["immutable"] = json!(true);
    server.put(KEDA, secret);
    let turn = replica.turn().await;
    assert!(turn.keda[0].contains("is immutable; delete it and apply deploy/keda.yaml"), "{turn:?}");
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[rstest]
#[case::absent(|_| None, "there is no ClusterTriggerAuthentication")]
#[case::without_spec(|mut object: Value| { object["spec"] = Value::Null; Some(object) }, "does not take caCert from ca.crt")]
#[case::another_secret(
    |mut object: Value| { object["spec"]["secretTargetRef"][1]["name"] = json!("another"); Some(object) },
    "does not take tlsClientCert from tls.crt of Secret vllm-operator-scaler"
)]
#[case::another_key(
    |mut object: Value| { object["spec"]["secretTargetRef"][2]["key"] = json!("tls.crt"); Some(object) },
    "does not take tlsClientKey from tls.key"
)]
#[case::a_later_one_wins(
    |mut object: Value| {
        let later = json!({"parameter": "caCert", "name": "another", "key": "ca.crt"});
        object["spec"]["secretTargetRef"].as_array_mut().unwrap().push(later);
        Some(object)
    },
    "does not take caCert"
)]
#[case::a_file(
    |mut object: Value| { object["spec"]["filePath"] = json!("/x"); Some(object) },
    "leads to a file (filePath)"
)]
#[tokio::test]
async fn what_does_not_lead_to_the_secret_is_not_published(
    #[case] becomes: fn(Value) -> Option<Value>,
    #[case] says: &str,
) {
    let (server, mut replica) = published().await;
    match becomes(server.get(AUTHENTICATION)) {
        Some(object) => server.put(AUTHENTICATION, object),
        None => drop(server.objects.lock().unwrap().remove(AUTHENTICATION)),
    }
    change(&server, "tls.key", b"");
    server.writes();
    let turn = replica.turn().await;
    assert_eq!(turn.published, Some(false));
    assert!(turn.keda[0].contains(says), "{turn:?}");
    assert!(turn.ready && turn.failures.is_empty());
    assert_eq!(server.writes(), [format!("PATCH {KEDA}")], "the Secret is kept all the same");
    install(&server);
    replica.turn().await;
    settled(&mut replica).await;
}

#[rstest]
#[case::nothing_there(None, None)]
// What a cluster answers where neither KEDA's kinds nor the Role in its namespace exist.
#[case::not_installed(Some(404), Some(403))]
#[case::no_manifest(None, Some(403))]
#[tokio::test]
async fn without_keda_nothing_is_said_and_nothing_waits(
    #[case] authentication: Option<u16>,
    #[case] secret: Option<u16>,
) {
    let (server, mut replica) = started().await;
    server.refuse(&format!("GET {AUTHENTICATION}"), authentication);
    server.refuse(&format!("GET {KEDA}"), secret);
    let turn = replica.turn().await;
    assert_eq!((turn.published, turn.keda.as_slice()), (Some(false), [].as_slice()));
    assert!(turn.ready && turn.failures.is_empty());
    assert_eq!(server.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_holds_as_it_was() {
    let (server, mut replica) = published().await;
    for path in [KEDA, AUTHENTICATION] {
        server.refuse(&format!("GET {path}"), Some(403));
        let turn = replica.turn().await;
        assert_eq!(turn.published, None);
        assert!(turn.keda[0].starts_with("cannot read ") && turn.keda.len() == 1, "{turn:?}");
        assert!(turn.ready && turn.failures.is_empty());
        server.refuse(&format!("GET {path}"), None);
    }
    settled(&mut replica).await;
}

#[tokio::test]
async fn where_writing_is_forbidden_webhooks_are_served_all_the_same() {
    let server = Server::new();
    install(&server);
    server.refuse(&format!("PATCH {KEDA}"), Some(403));
    let mut replica = Replica::new(&server, true);
    replica.turn().await;
    let turn = replica.turn().await;
    assert!(turn.ready && turn.failures.is_empty() && turn.conflict.is_none(), "{turn:?}");
    assert_eq!((turn.published, turn.keda.len()), (Some(false), 2), "{turn:?}");
}

#[tokio::test]
async fn a_secret_that_changed_since_it_was_read_is_not_written_over() {
    let (mut server, _) = published().await;
    change(&server, "tls.key", b"");
    server.writes();
    let other = server.clone();
    server.between = Arc::new(move |_, request| {
        if request.starts_with("PATCH") {
            change(&other, "ca.crt", b"newer");
        }
    });
    let mut late = Replica::new(&server, true);
    let turn = late.turn().await;
    assert!(turn.keda[0].contains("cannot patch Secret"), "{turn:?}");
    assert_eq!(value(&server, "ca.crt"), b"newer");
}

#[tokio::test]
async fn without_tls_nothing_of_keda_is_read() {
    for scaler in [ScalerMode::Off, ScalerMode::Plaintext] {
        let (server, _) = published().await;
        let mut replica = Replica::new(&server, true);
        replica.certificates.settings.scaler = scaler;
        server.requests.lock().unwrap().clear();
        let turn = replica.turn().await;
        assert_eq!((turn.published, turn.keda.as_slice()), (None, [].as_slice()));
        let requests = server.requests.lock().unwrap().join(" ");
        assert!(!requests.contains("scaler") && requests.contains(SECRET), "{requests}");
    }
}

#[rstest]
#[case::plaintext(ScalerMode::Plaintext, true)]
#[case::off(ScalerMode::Off, false)]
#[case::tls(ScalerMode::Tls, false)]
#[tokio::test]
async fn before_anything_is_read_plaintext_alone_is_published(#[case] scaler: ScalerMode, #[case] is: bool) {
    let certificates = Server::new().certificates(CertificateSettings { scaler, ..settings() }, true);
    // Whatever it was before.
    certificates.published.send_replace(!is);
    let published = certificates.published.subscribe();
    let mut running = std::pin::pin!(run(certificates));
    assert!(futures::poll!(&mut running).is_pending());
    assert_eq!(*published.borrow(), is);
}

#[tokio::test]
async fn of_a_mounted_issuer_nothing_is_written_and_the_same_is_asked() {
    let server = Server::new();
    install(&server);
    let mounted = Mounted::new();
    let certificates = server.certificates(mounted.settings.clone(), true);
    let mut keeper = FromFiles::default();
    let mut run = async |certificates: &Certificates| {
        let mut turn = Turn::default();
        keeper.turn(certificates, &mut turn).await.unwrap();
        turn
    };
    run(&certificates).await;
    let turn = run(&certificates).await;
    assert!(turn.ready && turn.failures.is_empty());
    assert!(turn.keda[0].contains("ca.crt of Secret vllm-operator-scaler"), "{turn:?}");

    // As cert-manager would fill it.
    mounted.client("keda", |key, text| change(&server, key, text));
    let turn = run(&certificates).await;
    assert_eq!((turn.published, turn.keda.as_slice()), (Some(true), [].as_slice()));
    let shown = CertificateDer::from_pem_slice(&value(&server, "tls.crt")).unwrap();
    certificates.scaler_clients.verify_client_cert(&shown, &[], UnixTime::now()).unwrap();
    mounted.client("another", |key, text| change(&server, key, text));
    assert_eq!(run(&certificates).await.published, Some(false));
    assert!(server.writes().iter().all(|write| !write.contains("secrets")), "it is another's to write");

    let settings = CertificateSettings { ca_file: None, ..mounted.settings.clone() };
    let without = server.certificates(settings, true);
    let turn = run(&without).await;
    assert!(turn.keda[0].contains("name it with --tls-ca-file"), "{turn:?}");
    assert_eq!(turn.published, Some(false));
}

/// What is mounted bears the names that whoever issued it has been told.
#[tokio::test]
async fn a_mounted_certificate_without_the_scalers_name_is_told_of() {
    let server = Server::new();
    install(&server);
    let mounted = Mounted::new();
    mounted.issue(&["s.n.svc"]);
    mounted.client("keda", |key, text| change(&server, key, text));
    let certificates = server.certificates(mounted.settings.clone(), false);
    let mut keeper = FromFiles::default();
    let mut turn = Turn::default();
    keeper.turn(&certificates, &mut turn).await.unwrap();
    assert_eq!(turn.published, Some(false));
    assert!(turn.keda[0].contains("does not verify what is served as scaler.n.svc"), "{turn:?}");
}

#[test]
fn the_served_names_are_those_of_both_services() {
    assert_eq!(
        settings().server_names(),
        [
            "s.n.svc",
            "s.n.svc.cluster.local",
            "s.n",
            "scaler.n.svc",
            "scaler.n.svc.cluster.local",
            "scaler.n",
            "scaler"
        ]
    );
    let ca = Authority::generate("x", Timestamp::now(), Duration::from_hours(1)).unwrap();
    let leaf: Leaf = ca.issue(&settings().server_names(), Timestamp::now(), Duration::from_hours(1)).unwrap();
    for name in [settings().server_name(), settings().scaler_name()] {
        leaf.verify(&Bundle::of(&ca), &name, Timestamp::now()).unwrap();
    }
}
