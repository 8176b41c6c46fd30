//! The plain port: health, readiness and metrics.
//!
//! Architecture invariant: tells what others know, and decides nothing.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use webhook::server::{Limits, Stop, Transport, serve};

use crate::telemetry::Metrics;
use crate::world::watch::Synced;

/// Most connections to the plain port: every probe of a kubelet and every Prometheus has room, and a crowd takes few
/// of the process's file descriptors.
pub const PLAIN_CONNECTIONS: usize = 64;

/// Health, readiness and metrics. Readiness is asked for to the end, so that nobody stops this one.
pub async fn serve_plain(listener: TcpListener, health: Health) {
    let limits = Limits { connections: PLAIN_CONNECTIONS, ..Limits::default() };
    serve(listener, Transport::Plain, plain_routes(health), limits, Stop::default()).await;
}

pub fn plain_routes(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|State(health): State<Health>| async move { health.metrics.page() }))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    match health.missing().as_slice() {
        [] => (StatusCode::OK, "ok\n".into()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("\n"))),
    }
}

/// What health and readiness are told from.
#[derive(Clone)]
pub struct Health {
    /// What is listed.
    pub synced: watch::Receiver<Synced>,
    /// Whether the webhook configurations trust what is served.
    pub bundle: watch::Receiver<bool>,
    /// Cancelled once it stops.
    pub stopping: CancellationToken,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
}

impl Health {
    /// What is still missing before calls may come.
    fn missing(&self) -> Vec<&'static str> {
        let Synced { clusters, scalers, hpas, namespaces, sets, pods } = *self.synced.borrow();
        [
            (!clusters, "VLLMClusters are not listed yet"),
            (!scalers, "ScaledObjects are not listed yet"),
            (!hpas, "HorizontalPodAutoscalers are not listed yet"),
            (!namespaces, "namespaces with an admission label are not listed yet"),
            (!sets, "StatefulSets of VLLMClusters are not listed yet"),
            (!pods, "pods of VLLMClusters are not listed yet"),
            // The bundle comes after the leaf that it vouches for.
            (!*self.bundle.borrow(), "the webhook configurations do not trust the served certificate yet"),
            (self.stopping.is_cancelled(), "the operator is stopping"),
        ]
        .into_iter()
        .filter_map(|(missing, what)| missing.then_some(what))
        .collect()
    }
}
