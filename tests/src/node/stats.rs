//! `/metrics/resource` over HTTPS, as a kubelet has it: what each container uses, for metrics-server.
//!
//! As with a kubelet's own default, nobody has signed the certificate. Callers are not asked who they are: nothing but the
//! plane's own processes reaches the port.
//!
//! **Architecture invariant**: usage is of processes that run, read when it is asked for; nothing is made up.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::usage::{self, Snapshot, Usage};
use crate::pki::Authority;

/// A kubelet's port.
pub const PORT: u16 = 10250;
/// Callers are on the same machine.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The containers that run.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Listing>>);

#[derive(Debug, Default)]
struct Listing {
    next: u64,
    containers: BTreeMap<u64, Container>,
}

/// A container that runs.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub name: String,
    /// Its first process.
    pub process: i32,
    /// Since when.
    pub started: Timestamp,
    /// The CPU time that was told last: a process that ends takes none of it back.
    pub told: Duration,
}

/// A place in the registry. Dropping it removes the container.
#[derive(Debug)]
pub struct Listed {
    registry: Registry,
    key: u64,
}

impl Registry {
    /// Lists a container that has been started.
    #[must_use]
    pub fn add(&self, container: Container) -> Listed {
        let mut listing = self.lock();
        let key = listing.next;
        listing.next += 1;
        listing.containers.insert(key, container);
        Listed { registry: self.clone(), key }
    }

    /// What each of them uses, the one that ended meanwhile apart.
    fn look(&self, snapshot: &Snapshot) -> Vec<(Container, Usage)> {
        let mut listing = self.lock();
        let containers = listing.containers.values_mut().filter_map(|container| {
            let mut usage = snapshot.of(container.process)?;
            usage.cpu = usage.cpu.max(container.told);
            container.told = usage.cpu;
            Some((container.clone(), usage))
        });
        containers.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Listing> {
        // Whole between any two of its calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.registry.lock().containers.remove(&self.key);
    }
}

/// Serves on `address` for ever.
pub async fn serve(address: SocketAddr, registry: Registry) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(address)?));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, registry) = (acceptor.clone(), registry.clone());
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, acceptor, registry).await {
                        tracing::debug!(%error, "a connection to the node");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: connections that close will free some.
                tracing::warn!(%error, "accepting a connection to the node");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn tls(address: SocketAddr) -> anyhow::Result<ServerConfig> {
    let pair = Authority::generate()?.server("node", &[&address.ip().to_string()])?;
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn answer(stream: TcpStream, acceptor: TlsAcceptor, registry: Registry) -> anyhow::Result<()> {
    let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await.context("no handshake in time")??;
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let registry = registry.clone();
        async move {
            let (code, text) = match request.uri().path() {
                "/metrics/resource" => match tokio::task::spawn_blocking(move || read(&registry)).await {
                    Ok(Ok(page)) => (StatusCode::OK, page),
                    Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
                    Err(panic) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{panic}\n")),
                },
                "/healthz" => (StatusCode::OK, "ok".to_owned()),
                path => (StatusCode::NOT_FOUND, format!("this node has no {path}\n")),
            };
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = code;
            let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

fn read(registry: &Registry) -> anyhow::Result<String> {
    let machine = usage::of_machine()?;
    let containers = registry.look(&Snapshot::read()?);
    Ok(page(machine, &containers, Timestamp::now()))
}

/// The page, in the form of a kubelet's.
fn page(machine: Usage, containers: &[(Container, Usage)], now: Timestamp) -> String {
    let at = now.as_millisecond();
    let mut page = String::new();
    let mut family = |name: &str, kind: &str, help: &str, series: Vec<(String, String)>| {
        // A String takes everything.
        let _ = writeln!(page, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in series {
            let _ = writeln!(page, "{name}{labels} {value} {at}");
        }
    };
    let each = |value: &dyn Fn(&(Container, Usage)) -> String| {
        let series = containers.iter().map(|one| (labels(&one.0), value(one)));
        series.collect::<Vec<_>>()
    };
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        each(&|(_, usage)| seconds(usage.cpu)),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        each(&|(_, usage)| usage.memory.to_string()),
    );
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        each(&|(container, _)| {
            let since = container.started.as_millisecond();
            format!("{}.{:03}", since / 1000, since % 1000)
        }),
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        vec![(String::new(), seconds(machine.cpu))],
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        vec![(String::new(), machine.memory.to_string())],
    );
    let _ = write!(
        page,
        "# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n\
         # TYPE resource_scrape_error gauge\nresource_scrape_error 0\n"
    );
    page
}

fn labels(Container { namespace, pod, name, .. }: &Container) -> String {
    format!("{{container={name:?},namespace={namespace:?},pod={pod:?}}}")
}

/// Zero would count as unknown: a process that runs has used some, less than the clock shows.
fn seconds(cpu: Duration) -> String {
    format!("{:.3}", cpu.max(Duration::from_millis(1)).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(process: u32) -> Container {
        Container {
            namespace: "ns".into(),
            pod: "a-0".into(),
            name: "vllm".into(),
            process: i32::try_from(process).expect("an id"),
            started: "2026-01-02T03:04:05.678Z".parse().expect("a time"),
            told: Duration::ZERO,
        }
    }

    #[test]
    fn the_page_has_what_metrics_server_reads() {
        let usage = Usage { cpu: Duration::ZERO, memory: 4096 };
        let machine = Usage { cpu: Duration::from_millis(2500), memory: 9000 };
        let page = page(machine, &[(container(1), usage)], "2026-01-02T03:05:00Z".parse().expect("a time"));
        let series: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        let labels = r#"{container="vllm",namespace="ns",pod="a-0"}"#;
        assert_eq!(
            series,
            [
                format!("container_cpu_usage_seconds_total{labels} 0.001 1767323100000"),
                format!("container_memory_working_set_bytes{labels} 4096 1767323100000"),
                format!("container_start_time_seconds{labels} 1767323045.678 1767323100000"),
                "node_cpu_usage_seconds_total 2.500 1767323100000".into(),
                "node_memory_working_set_bytes 9000 1767323100000".into(),
                "resource_scrape_error 0".into(),
            ]
        );
    }

    #[test]
    fn what_has_ended_is_not_shown_and_time_never_goes_back() {
        let registry = Registry::default();
        let own = registry.add(Container { told: Duration::from_hours(9), ..container(std::process::id()) });
        // No process has this id.
        let ended = registry.add(container(i32::MAX.unsigned_abs()));
        let seen = registry.look(&Snapshot::read().expect("/proc"));
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0].1.cpu, Duration::from_hours(9));
        drop((own, ended));
        assert!(registry.look(&Snapshot::read().expect("/proc")).is_empty());
    }
}
