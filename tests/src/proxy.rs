//! The Service proxy: holds a listener on every cluster IP and port, and relays to ready endpoints.
//!
//! **Architecture invariant**: which listener leads where ([`routes`]) is pure. Connections that exist are never cut by a
//! change of endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::Store;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Listening addresses and where each leads.
pub type Routes = BTreeMap<SocketAddrV4, Vec<SocketAddrV4>>;

/// An endpoint is local to the machine: what takes this long will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Changes are followed this long after one another at the least, as kube-proxy's `minSyncPeriod` has it: a server that
/// has just been told to end is still sent connections.
const MIN_SYNC_PERIOD: Duration = Duration::from_secs(1);

/// The DNS server binds the address of this Service itself.
const OWN_ADDRESS: (&str, &str) = ("kube-system", "kube-dns");

/// Serves until the watches end.
pub async fn run(client: Client) -> anyhow::Result<()> {
    let (services, service_writer) = reflector::store::<Service>();
    let (slices, slice_writer) = reflector::store::<EndpointSlice>();
    let watch_services = reflector(
        service_writer,
        watcher(Api::all(client.clone()), watcher::Config::default()).default_backoff(),
    );
    let watch_slices =
        reflector(slice_writer, watcher(Api::all(client), watcher::Config::default()).default_backoff());
    let changes = futures::stream::select(
        watch_services.map(|event| event.map(drop)),
        watch_slices.map(|event| event.map(drop)),
    );
    let mut changes = std::pin::pin!(changes);
    let mut listeners = Listeners::default();
    // A port that could not be bound is tried again even if nothing changes.
    let mut retry = tokio::time::interval(Duration::from_secs(1));
    let mut due = Instant::now();
    let mut pending = false;
    loop {
        // No arm holds anything when another wins: a stream keeps its events, an interval its ticks, a sleep nothing.
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(())) => {
                    pending = true;
                    continue;
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "watching Services and EndpointSlices");
                    continue;
                }
                None => anyhow::bail!("the watches of Services and EndpointSlices ended"),
            },
            _ = retry.tick(), if listeners.incomplete => {}
            () = sleep_until(due), if pending => {}
        }
        listeners.follow(&current(&services, &slices)).await;
        pending = false;
        due = Instant::now() + MIN_SYNC_PERIOD;
    }
}

fn current(services: &Store<Service>, slices: &Store<EndpointSlice>) -> Routes {
    let (services, slices) = (services.state(), slices.state());
    routes(services.iter().map(AsRef::as_ref), slices.iter().map(AsRef::as_ref))
}

/// Where connections to each Service lead.
pub fn routes<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Routes {
    let mut by_service: HashMap<(String, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        if let Some(service) = slice.labels().get("kubernetes.io/service-name")
            && slice.address_type == "IPv4"
        {
            by_service.entry((slice.namespace().unwrap_or_default(), service)).or_default().push(slice);
        }
    }
    let mut routes = Routes::new();
    for service in services {
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        let Some(spec) = &service.spec else { continue };
        let address = spec.cluster_ip.as_deref().and_then(|address| address.parse::<Ipv4Addr>().ok());
        let Some(address) = address.filter(|_| (namespace.as_str(), name.as_str()) != OWN_ADDRESS) else {
            continue;
        };
        let slices = by_service.get(&(namespace, name.as_str())).map(Vec::as_slice).unwrap_or_default();
        for port in spec.ports.iter().flatten() {
            if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
                continue;
            }
            let Ok(number) = u16::try_from(port.port) else { continue };
            let endpoints = endpoints(slices, port.name.as_deref().unwrap_or_default());
            routes.insert(SocketAddrV4::new(address, number), endpoints);
        }
    }
    routes
}

/// The ready endpoints of a port; if there are none, those that end but still serve, as kube-proxy has it.
fn endpoints(slices: &[&EndpointSlice], port_name: &str) -> Vec<SocketAddrV4> {
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter(|port| port.name.as_deref().unwrap_or_default() == port_name)
            .find_map(|port| port.port.and_then(|port| u16::try_from(port).ok()));
        let Some(port) = port else { continue };
        for endpoint in &slice.endpoints {
            let sockets = endpoint
                .addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .map(|address| SocketAddrV4::new(address, port));
            let conditions = endpoint.conditions.as_ref();
            let is = |value: Option<bool>, default| value.unwrap_or(default);
            if is(conditions.and_then(|conditions| conditions.ready), true) {
                ready.extend(sockets);
            } else if is(conditions.and_then(|conditions| conditions.serving), false)
                && is(conditions.and_then(|conditions| conditions.terminating), false)
            {
                ending.extend(sockets);
            }
        }
    }
    let mut chosen = if ready.is_empty() { ending } else { ready };
    chosen.sort();
    chosen.dedup();
    chosen
}

#[derive(Debug, Default)]
struct Listeners {
    running: BTreeMap<SocketAddrV4, Listener>,
    incomplete: bool,
}

#[derive(Debug)]
struct Listener {
    endpoints: Arc<Endpoints>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Endpoints {
    all: Mutex<Arc<[SocketAddrV4]>>,
    turn: AtomicUsize,
}

impl Listeners {
    async fn follow(&mut self, routes: &Routes) {
        self.running.retain(|address, listener| {
            let wanted = routes.contains_key(address);
            if !wanted {
                listener.task.abort();
            }
            wanted
        });
        self.incomplete = false;
        for (address, endpoints) in routes {
            if let Some(listener) = self.running.get(address) {
                listener.endpoints.set(endpoints);
                continue;
            }
            match TcpListener::bind(address).await {
                Ok(socket) => {
                    let all = Arc::new(Endpoints::default());
                    all.set(endpoints);
                    let task = tokio::spawn(accept(socket, all.clone())).abort_handle();
                    self.running.insert(*address, Listener { endpoints: all, task });
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "listening for a Service");
                    self.incomplete = true;
                }
            }
        }
    }
}

impl Endpoints {
    fn set(&self, endpoints: &[SocketAddrV4]) {
        *self.all.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = endpoints.into();
    }

    fn next(&self) -> Option<SocketAddrV4> {
        let all = self.all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        all.get(turn.checked_rem(all.len())?).copied()
    }
}

async fn accept(socket: TcpListener, endpoints: Arc<Endpoints>) {
    loop {
        match socket.accept().await {
            Ok((client, _)) => drop(tokio::spawn(relay(client, endpoints.next()))),
            Err(error) => {
                // Out of descriptors, or a connection that ended early: neither is the listener's end.
                tracing::warn!(%error, "accepting a connection to a Service");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Relays one connection; without an endpoint that answers, the client sees a reset, as from a port where nobody listens.
async fn relay(mut client: TcpStream, endpoint: Option<SocketAddrV4>) {
    let connect = async {
        let endpoint = endpoint?;
        tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await.ok()?.ok()
    };
    let Some(mut server) = connect.await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    if copy_bidirectional(&mut client, &mut server).await.is_err() {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn shown(services: Value, slices: Value) -> Vec<String> {
        let services: Vec<Service> = serde_json::from_value(services).unwrap();
        let slices: Vec<EndpointSlice> = serde_json::from_value(slices).unwrap();
        let routes = routes(&services, &slices);
        let line = |(from, to): (&SocketAddrV4, &Vec<SocketAddrV4>)| {
            let to: Vec<_> = to.iter().map(ToString::to_string).collect();
            format!("{from} -> {}", to.join(" "))
        };
        routes.iter().map(line).collect()
    }

    fn service(namespace: &str, name: &str, address: &str, ports: &Value) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": address, "ports": ports}})
    }

    /// Endpoints are given as address and, if they are not ready, what they are.
    fn slice(namespace: &str, service: &str, ports: &Value, endpoints: &[(&str, &str)]) -> Value {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(address, state)| {
                let conditions = match *state {
                    "" => json!({"ready": true, "serving": true, "terminating": false}),
                    "unready" => json!({"ready": false, "serving": false, "terminating": false}),
                    "draining" => json!({"ready": false, "serving": true, "terminating": true}),
                    _ => json!({"ready": false, "serving": false, "terminating": true}),
                };
                json!({"addresses": [address], "conditions": conditions})
            })
            .collect();
        json!({
            "metadata": {"namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        })
    }

    #[test]
    fn ports_lead_to_endpoints_of_their_name() {
        let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}, {"name": "u", "port": 82, "protocol": "UDP"}]);
        let one = json!([{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]);
        let two = json!([{"name": "a", "port": 9090}]);
        let services = json!([
            service("n", "s", "10.96.0.5", &ports),
            service("other", "s", "10.96.0.6", &json!([{"port": 80}])),
            service("n", "headless", "None", &json!([{"port": 80}])),
            service("kube-system", "kube-dns", "10.96.0.10", &json!([{"port": 53}])),
            {"metadata": {"namespace": "n", "name": "x"}, "spec": {"type": "ExternalName", "externalName": "y"}},
        ]);
        let slices = json!([
            slice("n", "s", &one, &[("10.244.0.2", ""), ("10.244.0.1", "")]),
            slice("n", "s", &two, &[("10.244.0.3", "")]),
            slice("n", "t", &one, &[("10.244.0.4", "")]),
        ]);
        let expected = [
            "10.96.0.5:80 -> 10.244.0.1:8080 10.244.0.2:8080 10.244.0.3:9090",
            "10.96.0.5:81 -> 10.244.0.1:8081 10.244.0.2:8081",
            "10.96.0.6:80 -> ",
        ];
        assert_eq!(shown(services, slices), expected);
    }

    #[test]
    fn ready_endpoints_come_first() {
        let ports = json!([{"port": 8080}]);
        for (endpoints, expected) in [
            (
                &[("10.244.0.1", ""), ("10.244.0.2", "unready"), ("10.244.0.3", "draining")][..],
                "10.244.0.1:8080",
            ),
            (&[("10.244.0.2", "unready"), ("10.244.0.3", "draining")][..], "10.244.0.3:8080"),
            (&[("10.244.0.2", "unready"), ("10.244.0.4", "ended")][..], ""),
        ] {
            let services = json!([service("n", "s", "10.96.0.5", &json!([{"port": 80}]))]);
            let routes = shown(services, json!([slice("n", "s", &ports, endpoints)]));
            assert_eq!(routes, [format!("10.96.0.5:80 -> {expected}")]);
        }
    }

    async fn answer(address: SocketAddrV4) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"?").await?;
        stream.shutdown().await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    async fn server(name: &'static str) -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            unreachable!("it was bound so")
        };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = String::new();
                stream.read_to_string(&mut question).await.unwrap();
                stream.write_all(format!("{name}{question}").as_bytes()).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn connections_go_round_and_are_reset_without_endpoints() {
        let (one, two) = (server("one").await, server("two").await);
        let service: SocketAddrV4 = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            format!("127.0.0.1:{}", free.local_addr().unwrap().port()).parse().unwrap()
        };
        let mut listeners = Listeners::default();
        listeners.follow(&[(service, vec![one, two])].into()).await;
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(answer(service).await.unwrap());
        }
        assert_eq!(answers, ["one?", "two?", "one?", "two?"]);

        listeners.follow(&[(service, vec![two])].into()).await;
        assert_eq!(answer(service).await.unwrap(), "two?");

        listeners.follow(&[(service, vec![])].into()).await;
        let error = answer(service).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
}
