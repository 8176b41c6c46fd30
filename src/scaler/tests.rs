//! The table of faults in `docs/scaler.md`, row by row: servers that misbehave on real sockets, and what the HPA makes of the
//! answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::Response;
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::answer::{answer, hpa};
use super::collect::{Collector, Fleet};
use super::protocol::ScaledObjectRef;
use super::service::Service;
use super::trigger::Trigger;
use crate::telemetry::ScalerMetrics;
use crate::world::live::Live;
use crate::world::part::ScaledObjectPart;
use crate::world::servers::Server;
use crate::world::{Key, World};

/// How a server is.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    /// It bears that many waiting requests, and takes so long for `/v1/models`.
    Well,
    /// Nobody listens there.
    Silent,
    /// It takes connections and never answers.
    Hanging,
    /// It answers with what is no page and no success.
    Garbled,
    /// It sends whoever asks elsewhere.
    Elsewhere,
    /// Its pod is not ready.
    Unready,
}

use Standing::{Elsewhere, Garbled, Hanging, Silent, Unready, Well};

/// What each server bears.
#[derive(Clone, Copy)]
struct Bears {
    waiting: u32,
    response: Duration,
}

/// Far below both targets, and well above both.
const IDLE: Bears = Bears { waiting: 0, response: Duration::from_millis(1) };
const LOADED: Bears = Bears { waiting: 10, response: Duration::from_millis(1600) };

/// Loopback addresses, one for each server of each fleet.
static NEXT: AtomicU8 = AtomicU8::new(1);
const PORT: u16 = 18_461;

/// Starts a fleet, and counts who comes to where a redirect leads.
async fn fleet(servers: &[Standing], bears: Bears, elsewhere: Arc<AtomicUsize>) -> Fleet {
    let net = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut known = Vec::new();
    for (ordinal, &kind) in (0_u8..).zip(servers) {
        let address = IpAddr::V4(Ipv4Addr::new(127, 77, net, ordinal + 1));
        let listener = TcpListener::bind(SocketAddr::new(address, PORT)).await.expect("a loopback address");
        known.push(Server::stub(&format!("a-{ordinal}"), address, kind != Unready));
        let page = format!("vllm:num_requests_waiting{{engine=\"0\"}} {}\n", bears.waiting);
        let router = match kind {
            Well | Unready => Router::new().route("/metrics", get(async || page)).route(
                "/v1/models",
                get(async move || {
                    sleep(bears.response).await;
                    "{}"
                }),
            ),
            Garbled => Router::new().fallback(async || (StatusCode::INTERNAL_SERVER_ERROR, "<html>")),
            Elsewhere => {
                let seen = Arc::clone(&elsewhere);
                Router::new()
                    .route("/elsewhere", get(async move || seen.fetch_add(1, Ordering::Relaxed).to_string()))
                    .fallback(async || Redirect::temporary("/elsewhere"))
            }
            Hanging => Router::new().fallback(async || {
                sleep(Duration::from_mins(1)).await;
                "late"
            }),
            Silent => continue,
        };
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    let replicas = u32::try_from(servers.len()).unwrap();
    Fleet { replicas, port: PORT, servers: known }
}

/// The triggers of the table's columns.
fn triggers() -> [Trigger; 3] {
    [
        json!({"signal": "queue", "targetValue": "5"}),
        json!({"signal": "response-time", "targetValue": "1000"}),
        json!({"signal": "combined", "queueTarget": "5", "responseTimeTarget": "1000"}),
    ]
    .map(|metadata| {
        let metadata: std::collections::BTreeMap<String, String> = serde_json::from_value(metadata).unwrap();
        Trigger::read(&metadata).unwrap()
    })
}

async fn counts(servers: &[Standing], bears: Bears, elsewhere: &Arc<AtomicUsize>) -> [u32; 3] {
    let fleet = fleet(servers, bears, Arc::clone(elsewhere)).await;
    let collector = Collector::new(ScalerMetrics::default());
    let key = Key::new("n", "a");
    let mut counts = [0; 3];
    for (count, trigger) in counts.iter_mut().zip(triggers()) {
        let given = answer(&trigger, &collector.readings(&key, &fleet, &trigger).await);
        *count = hpa(&trigger, given.value, fleet.replicas);
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_table_of_faults_is_what_is_answered() {
    let rows: [(&str, [Standing; 4]); 8] = [
        ("none", [Well; 4]),
        ("one takes no connection", [Well, Well, Well, Silent]),
        ("one never answers", [Well, Well, Well, Hanging]),
        ("one answers garbage, or with an error", [Well, Well, Well, Garbled]),
        ("one redirects", [Well, Well, Well, Elsewhere]),
        ("two never answer", [Well, Well, Hanging, Hanging]),
        ("all take no connection", [Silent; 4]),
        ("none is ready", [Unready; 4]),
    ];
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let measured = rows.map(|(fault, servers)| {
        let elsewhere = Arc::clone(&elsewhere);
        tokio::spawn(async move {
            let idle = counts(&servers, IDLE, &elsewhere).await;
            let loaded = counts(&servers, LOADED, &elsewhere).await;
            let cells: Vec<_> = idle.into_iter().chain(loaded).map(|count| count.to_string()).collect();
            format!("| {fault} | {} |\n", cells.join(" | "))
        })
    });
    let mut table = String::new();
    for row in measured {
        table += &row.await.unwrap();
    }
    assert_eq!(elsewhere.load(Ordering::Relaxed), 0, "no redirect is followed");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scaler.md");
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.contains(&table), "{path} has another table of faults than:\n{table}");
}

#[tokio::test]
async fn what_is_asked_for_at_once_is_read_once() {
    let seen = Arc::new(AtomicUsize::new(0));
    let address = Ipv4Addr::new(127, 77, 200, 1);
    let listener = TcpListener::bind((address, PORT)).await.unwrap();
    let router = Router::new().route("/metrics", {
        let seen = Arc::clone(&seen);
        get(async move || {
            seen.fetch_add(1, Ordering::Relaxed);
            "vllm:num_requests_waiting 3\n"
        })
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let fleet = Fleet { replicas: 1, port: PORT, servers: vec![Server::stub("a-0", address.into(), true)] };
    let collector = Collector::new(ScalerMetrics::default());
    let [queue, ..] = triggers();
    let key = Key::new("n", "a");
    let all = (0..50).map(|_| collector.readings(&key, &fleet, &queue));
    for readings in futures::future::join_all(all).await {
        assert!((answer(&queue, &readings).value - 3.0).abs() < f64::EPSILON);
    }
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

/// A service that knows one ScaledObject, and reads of the API server that nothing exists.
fn service(world: World) -> Service {
    let nothing = tower::service_fn(|_| async {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "gone"});
        let body = kube::client::Body::from(body.to_string().into_bytes());
        Ok::<_, std::convert::Infallible>(Response::builder().status(404).body(body).unwrap())
    });
    Service::new(
        Arc::new(world),
        Live::without_rate(kube::Client::new(nothing, "n")),
        &ScalerMetrics::default(),
    )
}

fn reference(namespace: &str, name: &str, metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let metadata = metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    ScaledObjectRef { name: name.into(), namespace: namespace.into(), scaler_metadata: metadata }
}

#[tokio::test]
async fn a_cluster_that_is_gone_is_no_error_and_another_namespaces_is_not_read() {
    use super::protocol::GetMetricsRequest;
    use super::protocol::external_scaler_server::ExternalScaler as _;

    let world = World::default();
    let target = json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"});
    let object = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"scaleTargetRef": target}});
    let part: ScaledObjectPart = serde_json::from_value(object).unwrap();
    world.put(&Key::new("n", "q"), part.attachment());
    let service = service(world);
    let queue = [("signal", "queue"), ("targetValue", "5")];
    let ask = async |reference: ScaledObjectRef| {
        let request =
            GetMetricsRequest { scaled_object_ref: Some(reference), metric_name: "vllm-queue".into() };
        let response = service.get_metrics(tonic::Request::new(request)).await?;
        Ok::<_, tonic::Status>(response.into_inner().metric_values[0].metric_value_float)
    };
    // One replica's worth: to an HPA it is the count that there is.
    assert_eq!(ask(reference("n", "q", &queue)).await.unwrap().to_string(), "5");
    let refused = ask(reference("m", "q", &queue)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
    let unreadable =
        ask(reference("n", "q", &[("signal", "queue"), ("targetValue", "x")])).await.unwrap_err();
    assert_eq!(unreadable.code(), tonic::Code::InvalidArgument);
    assert!(unreadable.message().starts_with("metadata.targetValue \"x\" is no number"), "{unreadable}");
    let spec =
        service.get_metric_spec(tonic::Request::new(reference("n", "q", &queue))).await.unwrap().into_inner();
    let [spec] = &spec.metric_specs[..] else { panic!("{spec:?}") };
    assert_eq!((spec.metric_name.as_str(), spec.target_size_float.to_string()), ("vllm-queue", "5".into()));
}
