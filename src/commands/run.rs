//! `vllm-operator run`: serves admission until SIGTERM, and reconciles while it leads.
//!
//! Architecture invariant: ties modules together and decides when to be ready and when to stop; nothing else.

mod health;
mod scaler;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use certs::rotation::Policy;
use jiff::Timestamp;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use webhook::handler::reviews;
use webhook::server::{Limits, Protocol, Stop, Transport, serve, tls_config};

use crate::admit::{Admission, Endpoint, OwnScaler, Phase, Repeats};
use crate::api::names::SCALER_CLIENT;
use crate::args::RunArgs;
use crate::certificates::clients::ClientFile;
use crate::certificates::{self, CertificateSettings, Certificates, Source};
use crate::leader::{self, Candidate, Fence, LeaseApi, TermError, fenced_client};
use crate::telemetry::{Calls, ControllerMetrics, Metrics, start_logging};
use crate::world::World;
use crate::world::live::Live;
use crate::world::scope::Scope;
use crate::world::watch::Synced;
use crate::{controller, pace, resume, world};

use health::{Health, serve_plain};
use scaler::ScalerPort;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the first SIGTERM or SIGINT has been answered by a drain; the second ends the process at once.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    start_logging(args.log_format);
    let (lease_settings, certificate_settings) = check(&args)?;
    certificates_are_there(&certificate_settings)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("another TLS provider was installed before ring")?;
    let fence = Fence::default();
    let metrics = Arc::new(Metrics::default());
    let Clients { client, leaders: leaders_client, without_retry: client_without_retry } =
        clients(&fence, &metrics.calls).await?;
    let world = Arc::new(World::within(Scope::of(&args.watch_namespaces)));
    let resolver = Arc::new(certs::Resolver::default());
    let (synced, synced_seen) = watch::channel(Synced::default());
    let (bundle_in_place, bundle_seen) = watch::channel(false);
    let (published, published_seen) = watch::channel(false);
    let stopping = CancellationToken::new();

    let listener = listen(args.listen).await?;
    let plain = listen(args.plain_listen).await?;
    let scaler_clients = Arc::new(certs::Clients::none_yet(vec![SCALER_CLIENT.to_owned()]));
    let scaler_port = ScalerPort::bind(&args, &resolver, &scaler_clients).await?;
    let health = Health {
        synced: synced_seen,
        bundle: bundle_seen,
        stopping: stopping.clone(),
        metrics: Arc::clone(&metrics),
    };
    let candidate = candidate(&args, lease_settings, fence, [&client_without_retry, &client], &metrics);
    let live = Live::counting(client_without_retry, metrics.admission.live_reads.clone());
    let admission = Arc::new(Admission {
        world: Arc::clone(&world),
        live: live.clone(),
        host_access: args.allow_host_access,
        autoscalers: args.autoscalers.iter().cloned().collect(),
        mode: args.admission_mode,
        scaler: own_scaler(&args, published_seen),
        metrics: Arc::clone(&metrics),
        repeats: Repeats::default(),
    });
    let clients = ClientFile::open(args.client_ca_file.as_deref(), &args.client_names)?;
    let verifier = clients.as_ref().map(|file| file.clients() as _);
    let tls = tls_config(Arc::clone(&resolver) as _, Protocol::Http1, verifier);
    let limits = Limits { drain: args.drain, connections: connections()?, ..Limits::default() };
    let stop = Stop { lame_duck: stopping.clone(), ..Stop::default() };

    let listed = synced.subscribe();
    let asks = scaler_port.is_some();
    let watches = tokio::spawn(world::watch::run(client.clone(), Arc::clone(&world), synced, asks));
    let (leading, leading_seen) = watch::channel(false);
    let certificates = tokio::spawn(certificates::run(Certificates {
        client: client.clone(),
        settings: certificate_settings,
        resolver,
        in_place: bundle_in_place,
        scaler_clients,
        published,
        leading: leading_seen,
        own_time: Box::new(Timestamp::now),
        metrics: metrics.certificates.clone(),
    }));
    let routes = crate::scaler::routes(Arc::clone(&world), live, &metrics.scaler);
    let scaler = scaler_port.map(|port| port.serve(routes, limits, stop.clone()));
    let mut leadership = tokio::spawn(lead(
        candidate,
        leaders_client,
        world,
        metrics.controller.clone(),
        listed,
        leading,
        stopping.clone(),
    ));
    let client_file = tokio::spawn(async move {
        match clients {
            Some(file) => file.follow().await,
            None => std::future::pending().await,
        }
    });
    let routes = admission_routes(&admission);
    let admission = tokio::spawn(serve(listener, Transport::Tls(tls), routes, limits, stop.clone()));
    let plain = tokio::spawn(serve_plain(plain, health));
    info!(admission = %args.listen, plain = %args.plain_listen, scaler = %args.scaler_listen, "serving");

    // Nothing else ends by itself. If a task does, it panicked: the process ends too and is restarted whole.
    tokio::select! {
        () = terminated()? => {}
        ended = watches => return Err(unexpected("watches", ended)),
        ended = certificates => return Err(unexpected("certificates", ended)),
        ended = &mut leadership => return Err(unexpected("leadership", ended)),
        ended = client_file => return Err(unexpected("the file of client CAs", ended)),
        ended = plain => return Err(unexpected("health and metrics", ended)),
    }
    info!(grace_seconds = args.grace.as_secs(), "stopping: not ready any more, still serving");
    stopping.cancel();
    tokio::select! {
        () = async { tokio::join!(drain(args.grace, &stop, admission, scaler), resign(leadership)); } => info!("stopped"),
        () = terminated()? => warn!("second signal: ending at once"),
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// What admission is to know of the scaler.
fn own_scaler(args: &RunArgs, published: watch::Receiver<bool>) -> OwnScaler {
    OwnScaler {
        mode: args.scaler,
        service: args.scaler_service.clone(),
        namespace: args.namespace.clone(),
        domain: args.cluster_domain.clone(),
        rewrites: args.rewrite_triggers,
        published,
    }
}

/// How this replica stands for leader; the first client is that of the Lease, the second watches it.
fn candidate(
    args: &RunArgs,
    settings: leader::Settings,
    fence: Fence,
    [calls, watches]: [&Client; 2],
    metrics: &Metrics,
) -> Candidate<LeaseApi> {
    Candidate {
        store: LeaseApi::new(calls.clone(), watches.clone(), &args.namespace, &args.lease),
        name: args.lease.clone(),
        // A container that was restarted in its pod is another one than before.
        identity: format!("{}_{:016x}", args.pod_name, fastrand::u64(..)),
        settings,
        fence,
        leading: metrics.leader.clone(),
        clock: Arc::new(Timestamp::now),
    }
}

/// The ways to the API server.
struct Clients {
    /// Tries again by itself.
    client: Client,
    /// Likewise, while this replica leads.
    leaders: Client,
    /// Makes each request once. The API server's own timeout runs while admission reads, and a lease while it is renewed: a
    /// retry would come too late.
    without_retry: Client,
}

async fn clients(fence: &Fence, calls: &Calls) -> anyhow::Result<Clients> {
    let mut config =
        Config::infer().await.context("no kubeconfig and no service account to reach the API server with")?;
    config.read_timeout = Some(pace::READ_TIMEOUT);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let client = resume::client(config.clone(), calls)?;
    let leaders = fenced_client(config.clone(), fence, calls)?;
    config.default_retry = false;
    let without_retry = ClientBuilder::try_from(config)?.with_layer(calls).build();
    Ok(Clients { client, leaders, without_retry })
}

/// Reconciles whenever this replica leads, and tells `leading` of it.
async fn lead(
    candidate: Candidate<LeaseApi>,
    client: Client,
    world: Arc<World>,
    metrics: ControllerMetrics,
    mut listed: watch::Receiver<Synced>,
    leading: watch::Sender<bool>,
    stopping: CancellationToken,
) -> Result<(), TermError> {
    // What drives a cluster is part of its status: without all of it, a restart would write what it did not see. An error
    // is the end of the watches, which ends the process by itself.
    tokio::select! {
        Ok(_) = listed.wait_for(|synced| *synced == Synced::ALL) => {}
        () = stopping.cancelled() => return Ok(()),
    }
    let lead = |ending| {
        let term = Term::begin(&leading);
        // All clusters are looked at when a term begins, so only what changes from here on is to be told.
        let work =
            controller::run(client.clone(), Arc::clone(&world), world.listen(), metrics.clone(), ending);
        async move {
            work.await;
            drop(term);
        }
    };
    leader::run(&candidate, lead, stopping).await
}

/// Tells others of the process for as long as it exists that this replica leads.
struct Term(watch::Sender<bool>);

impl Term {
    fn begin(leading: &watch::Sender<bool>) -> Self {
        leading.send_replace(true);
        Self(leading.clone())
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// How many connections the admission port may have: half of the files that may be open, which are as many as the system
/// lets us have. Without a free one no connection is taken, and so nobody makes room for another.
fn connections() -> anyhow::Result<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("raising the limit of open files")?;
    }
    let files = limit.current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    Ok(Limits::default().connections.min(files / 2))
}

/// Serves on for the grace period, while the Service still leads here, then finishes what is in flight.
async fn drain(grace: Duration, stop: &Stop, admission: JoinHandle<()>, scaler: Option<JoinHandle<()>>) {
    tokio::time::sleep(grace).await;
    stop.stop.cancel();
    for server in std::iter::once(admission).chain(scaler) {
        if let Err(error) = server.await {
            warn!(%error, "a server did not end well");
        }
    }
}

/// Waits until the lease is given up. It is at once, so that another leads while this one still serves.
async fn resign(leadership: JoinHandle<Result<(), TermError>>) {
    match leadership.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "leading did not end well"),
        Err(error) => warn!(%error, "leading did not end well"),
    }
}

/// Resolves with the next SIGTERM or SIGINT.
fn terminated() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

fn unexpected<T: Debug>(what: &str, ended: Result<T, JoinError>) -> anyhow::Error {
    match ended {
        Ok(value) => anyhow::anyhow!("{what} ended without being told to: {value:?}"),
        Err(error) => anyhow::Error::new(error).context(format!("{what} ended")),
    }
}

/// Whether settings go together; files are not looked at.
pub fn check(args: &RunArgs) -> anyhow::Result<(leader::Settings, CertificateSettings)> {
    let lease =
        leader::Settings::new(args.lease_duration, args.lease_renew_deadline, args.lease_retry_period)?;
    let certificates = CertificateSettings {
        namespace: args.namespace.clone(),
        secret_name: args.ca_secret.clone(),
        service_name: args.webhook_service.clone(),
        mutating: vec![args.webhook_configuration.clone()],
        validating: vec![args.webhook_configuration.clone()],
        source: match (&args.tls_cert_file, &args.tls_key_file) {
            (Some(certificate), Some(key)) => {
                Source::Files { certificate: certificate.clone(), key: key.clone() }
            }
            _ => Source::Issued,
        },
        ca_file: args.tls_ca_file.clone(),
        ca_lifetime: args.ca_life,
        scaler: args.scaler,
        scaler_service: args.scaler_service.clone(),
        keda_namespace: args.keda_namespace.clone(),
        cluster_domain: args.cluster_domain.clone(),
        policy: Policy {
            lead: args.ca_rotation_lead,
            leaf_lifetime: args.leaf_life,
            propagation: args.propagation_delay,
            clock_tolerance: args.clock_tolerance,
        },
    };
    certificates.check().map_err(anyhow::Error::msg)?;
    Ok((lease, certificates))
}

/// Whether certificates can be served at once.
fn certificates_are_there(settings: &CertificateSettings) -> anyhow::Result<()> {
    if let Source::Files { certificate, key } = &settings.source {
        certificates::files::leaf(certificate, key).context("there is no certificate to start with")?;
    }
    certificates::files::bundle(settings.ca_file.as_deref()).context("cannot use --tls-ca-file")?;
    Ok(())
}

/// A path for each webhook: the API server keeps a pool of connections for each, so that one does not hold up
/// the other.
fn admission_routes(admission: &Arc<Admission>) -> Router {
    let endpoint = |phase| reviews(Arc::new(Endpoint { admission: Arc::clone(admission), phase }));
    Router::new()
        .route("/mutate/vllmclusters", endpoint(Phase::Mutating))
        .route("/mutate/scale", endpoint(Phase::Mutating))
        .route("/validate/vllmclusters", endpoint(Phase::Validating))
        .route("/mutate/scaledobjects", endpoint(Phase::Mutating))
        .route("/validate/scale", endpoint(Phase::Validating))
        .route("/validate/scaledobjects", endpoint(Phase::Validating))
        .route("/validate/horizontalpodautoscalers", endpoint(Phase::Validating))
}

#[cfg(test)]
mod tests;
