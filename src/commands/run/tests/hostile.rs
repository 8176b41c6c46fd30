//! Hostile and odd reviews, over the real server: TLS on loopback, one connection for all of them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use webhook::server::{Limits, Protocol, Stop, Transport, serve, tls_config};

use super::*;
use crate::admit::fixture::{Fixture, recorded, review};
use crate::policy::Bounds;

/// Far longer than any one answer takes: reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(20);

/// The operator's webhooks on loopback.
struct Surface {
    address: SocketAddr,
    client: TlsConnector,
    stop: Stop,
}

impl Surface {
    async fn start(routes: Router) -> Self {
        let day = Duration::from_hours(24);
        let authority = certs::Authority::generate("test", Timestamp::now(), day).unwrap();
        let leaf = authority.issue(&["localhost".to_owned()], Timestamp::now(), day).unwrap();
        let resolver = certs::Resolver::new();
        resolver.swap(&leaf);
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::default();
        let tls = Transport::Tls(tls_config(Arc::new(resolver), Protocol::Http1, None));
        tokio::spawn(serve(listener, tls, routes, Limits::default(), stop.clone()));
        Self { address, client: TlsConnector::from(Arc::new(client)), stop }
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let stream = self.client.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

impl Drop for Surface {
    fn drop(&mut self) {
        self.stop.stop.cancel();
    }
}

async fn send(
    connection: &mut SendRequest<Full<Bytes>>,
    path: &str,
    body: String,
) -> axum::http::Response<hyper::body::Incoming> {
    let mut request = post(path, Full::from(body));
    request.headers_mut().insert(header::HOST, "vllm-operator.vllm-operator-system.svc".parse().unwrap());
    let answered = async {
        connection.ready().await?;
        connection.send_request(request).await
    };
    let answered = tokio::time::timeout(DEADLINE, answered).await;
    answered
        .unwrap_or_else(|_elapsed| panic!("{path}: no answer"))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn driving(cluster: &str) -> Value {
    json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": cluster})
}

/// The webhooks with two clusters, up to eight. The ScaledObject `queue`, up to six, drives `a`; nobody drives `b`.
fn known() -> Fixture {
    let bounds = Bounds { min: Some(2), max: Some(8) };
    let clusters = "/apis/training.distributed-inference.io/v1alpha1/namespaces/t/vllmclusters";
    let spec = json!({"minReplicas": 2, "maxReplicas": 8, "resources": {"limits": {"cpu": "1"}}});
    let cluster =
        json!({"metadata": {"name": "a", "namespace": "t", "resourceVersion": "349"}, "spec": spec});
    let queue = json!({
        "metadata": {"name": "queue", "namespace": "t"},
        "spec": {"scaleTargetRef": driving("a"), "minReplicaCount": 1, "maxReplicaCount": 6},
    });
    let fixture = Fixture::new([
        (format!("{clusters}/a"), cluster.clone()),
        (format!("{clusters}/b"), cluster),
        ("/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects/queue".to_owned(), queue.clone()),
        (
            "/apis/keda.sh/v1alpha1/namespaces/t/scaledobjects".to_owned(),
            json!({"metadata": {}, "items": [queue]}),
        ),
    ]);
    // What is tried here would soon be too much to read.
    fixture.without_rate().knows("a", "349", bounds).knows("b", "1", bounds).scaler("a", 1, 6)
}

/// What is sent in ordinary life, each of which is then spoilt; and the code that it is answered with.
fn ordinary() -> Vec<(&'static str, Value, u64)> {
    let of = |line, spec: &[(&str, Value)]| {
        let mut review = review(line);
        review["request"]["namespace"] = json!("t");
        for object in ["object", "oldObject"] {
            let object = &mut review["request"][object];
            if object.is_null() {
                continue;
            }
            // Long and never read.
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
            for (field, value) in spec {
                object["spec"][field] = value.clone();
            }
        }
        review
    };
    let mut by_keda = of(recorded::KEDA_3_TO_9, &[]);
    by_keda["request"]["name"] = json!("a");
    let drives_a = [("scaleTargetRef", driving("a"))];
    let drives_b = [("scaleTargetRef", driving("b"))];
    let bounds = [("minReplicas", json!(2)), ("maxReplicas", json!(9)), ("replicas", json!(4))];
    vec![
        (MUTATE_CLUSTER, of(recorded::CREATE_WITHOUT_COUNT, &[]), 0),
        (VALIDATE_CLUSTER, of(recorded::UPDATE, &bounds), 0),
        (MUTATE_SCALE, of(recorded::SCALE_3_TO_7, &[]), 422),
        (VALIDATE_SCALE, of(recorded::SCALE_3_TO_7, &[]), 422),
        (MUTATE_SCALE, by_keda, 0),
        (MUTATE_SCALED_OBJECT, of(recorded::CREATE_SCALED_OBJECT, &drives_b), 0),
        (VALIDATE_SCALED_OBJECT, of(recorded::UPDATE_SCALED_OBJECT, &drives_b), 0),
        (VALIDATE_HPA, of(recorded::CREATE_HPA, &drives_a), 422),
        (VALIDATE_HPA, of(recorded::CREATE_HPA_V1, &drives_a), 422),
    ]
}

/// The JSON pointers of everything in a value.
fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(list) => list.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (key, value) in children {
        let pointer = format!("{at}/{key}");
        pointers(value, &pointer, into);
        into.push(pointer);
    }
}

/// What stands where something else is expected.
fn odd_values() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |inside, _| json!([inside]));
    vec![
        Value::Null,
        json!("\u{0}\n\u{2028}\u{1f980}"),
        json!(-1),
        json!(i64::from(i32::MAX) + 1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(3.0),
        json!(-1.5e300),
        json!([]),
        // As many as the fields of some struct.
        json!([2]),
        json!([1, 2, 3, null]),
        json!({}),
        deep,
    ]
}

#[tokio::test]
async fn whatever_stands_in_whatever_place_there_is_an_answer() {
    let surface = Surface::start(routes(known())).await;
    let mut connection = surface.connect().await;
    let (mut answered, mut refused) = (0, 0);
    for (path, review, code) in ordinary() {
        let response = send(&mut connection, path, review.to_string()).await;
        assert_eq!(Answer::of(path, &review, response).await.code(), code, "unspoilt: {path}");
        let mut places = Vec::new();
        pointers(&review["request"], "/request", &mut places);
        // Without its uid there is no answer; of the others, what is within them is never read.
        let spared = |place: &String| {
            place == "/request/uid"
                || ["/request/options/", "/request/requestKind/", "/request/requestResource/"]
                    .iter()
                    .any(|never_read| place.starts_with(never_read))
        };
        for place in places.iter().filter(|place| !spared(place)) {
            for value in odd_values() {
                let mut odd = review.clone();
                *odd.pointer_mut(place).unwrap() = value;
                let response = send(&mut connection, path, odd.to_string()).await;
                let answer = Answer::of(path, &odd, response).await;
                assert!(!answer.message().contains("its log says where"), "a panic: {path}: {odd}");
                answered += 1;
                refused += u32::from(!answer.allowed());
            }
        }
    }
    assert!(answered > 5_000 && refused > 500 && refused < answered, "{answered} {refused}");
}

#[tokio::test]
async fn every_recorded_review_is_answered_on_every_path() {
    let surface = Surface::start(routes(known())).await;
    let mut connection = surface.connect().await;
    for line in 0..recorded::ALL {
        let review = review(line);
        for path in [
            MUTATE_CLUSTER,
            VALIDATE_CLUSTER,
            MUTATE_SCALE,
            VALIDATE_SCALE,
            MUTATE_SCALED_OBJECT,
            VALIDATE_SCALED_OBJECT,
            VALIDATE_HPA,
        ] {
            let response = send(&mut connection, path, review.to_string()).await;
            let answer = Answer::of(path, &review, response).await;
            assert!(answer.allowed() || answer.code() == 422, "{path}: {answer:?} to line {line}");
        }
    }
}

#[tokio::test]
async fn deletions_and_connections_pass_with_any_objects() {
    let surface = Surface::start(routes(known())).await;
    let mut connection = surface.connect().await;
    for (path, review, _) in ordinary() {
        for operation in ["DELETE", "CONNECT"] {
            for (object, old) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut odd = review.clone();
                let request = &mut odd["request"];
                request["operation"] = json!(operation);
                for (field, keep) in [("object", object), ("oldObject", old)] {
                    if !keep {
                        request.as_object_mut().unwrap().remove(field);
                    }
                }
                let response = send(&mut connection, path, odd.to_string()).await;
                let answer = Answer::of(path, &odd, response).await;
                assert!(answer.allowed() && answer.response["patch"].is_null(), "{answer:?} to {odd}");
            }
        }
    }
}

#[tokio::test]
async fn what_no_rule_is_for_is_refused_by_its_name() {
    let surface = Surface::start(routes(known())).await;
    let mut connection = surface.connect().await;
    let ours = "training.distributed-inference.io";
    for (group, resource, subresource) in [
        (ours, "vllmclusters", "status"),
        (ours, "vllmclusters", "Scale"),
        (ours, "vllmcluster", ""),
        ("", "vllmclusters", ""),
        ("keda.sh", "scaledjobs", ""),
        ("keda.sh", "scaledobjects", "status"),
        ("autoscaling", "horizontalpodautoscalers", "status"),
        ("", "pods", "binding"),
        ("", "", ""),
    ] {
        for (path, review, _) in ordinary() {
            let mut odd = review;
            let request = &mut odd["request"];
            request["resource"] = json!({"group": group, "version": "v1", "resource": resource});
            request["subResource"] = json!(subresource);
            let response = send(&mut connection, path, odd.to_string()).await;
            let answer = Answer::of(path, &odd, response).await;
            assert_eq!((answer.allowed(), answer.code()), (false, 500), "{answer:?}");
            let mut name = resource.to_owned();
            if !subresource.is_empty() {
                write!(name, "/{subresource}").unwrap();
            }
            assert!(answer.message().contains(&format!("not {name} of {group:?}")), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn every_served_version_is_judged_alike() {
    let surface = Surface::start(routes(known())).await;
    let mut connection = surface.connect().await;
    for (path, review, _) in ordinary() {
        let mut answers = Vec::new();
        for version in ["v1alpha1", "v1beta1", "v1", "v2", "v2beta2"] {
            let mut other = review.clone();
            other["request"]["resource"]["version"] = json!(version);
            if other["request"]["subResource"].is_null() {
                other["request"]["kind"]["version"] = json!(version);
            }
            let response = send(&mut connection, path, other.to_string()).await;
            answers.push(Answer::of(path, &other, response).await.response);
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{path}: {answers:#?}");
    }
}

#[tokio::test]
async fn what_no_value_can_say_is_answered_too() {
    let surface = Surface::start(routes(known())).await;
    let mut connection = surface.connect().await;
    for (path, review, _) in ordinary() {
        let text = review.to_string();
        let spec = text.find(r#""spec":{"#).expect("a spec") + r#""spec":{"#.len();
        let within = |what: &str| format!("{}{what},{}", &text[..spec], &text[spec..]);
        for odd in [
            within(r#""replicas":3,"replicas":4"#),
            within(r#""minReplicas":1,"minReplicas":2"#),
            within(r#""scaleTargetRef":1,"scaleTargetRef":2"#),
            within(&format!(r#""replicas":{}"#, "9".repeat(400))),
            within(r#""replicas":1e400"#),
            within(r#""replicas":-0"#),
            within(r#""\ud800":1"#),
            within(&format!(r#""triggers":{}{}"#, "[".repeat(100_000), "]".repeat(100_000))),
            within(&format!(r#""podTemplate":{}1{}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000))),
        ] {
            let response = send(&mut connection, path, odd.clone()).await;
            assert_eq!(response.status(), 200, "{path}: {}", &odd[..odd.len().min(2000)]);
            // The object is none that a patch could be tried on.
            let answer = response.into_body().collect().await.unwrap().to_bytes();
            let call = Call {
                uid: review["request"]["uid"].as_str().unwrap(),
                mutating: path.starts_with("/mutate"),
                object: None,
            };
            match webhook::verify::verify(call, &answer) {
                Ok(_) | Err(webhook::verify::Violation::PatchOfNothing) => {}
                Err(violation) => panic!("{path}: {violation}: {}", String::from_utf8_lossy(&answer)),
            }
            assert!(!String::from_utf8_lossy(&answer).contains("its log says where"), "a panic: {odd}");
        }
    }
}
