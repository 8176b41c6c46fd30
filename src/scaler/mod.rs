//! The external scaler: KEDA asks, and the servers of the cluster are read.
//!
//! - [`trigger`]: what a trigger asks for.
//! - [`service`]: KEDA's protocol: who asks, and which cluster they drive.
//! - [`collect`]: what the servers of a cluster say, shared by all who ask for it.
//! - [`probe`]: one GET of one server.
//! - [`page`]: what a `/metrics` page says of a server's load.
//! - [`mod@answer`]: from what the servers say to the value that the HPA is given.
//!
//! Architecture invariant: what is answered is decided by plain functions; no URL, host or namespace of a user's choosing is
//! ever contacted.

use std::sync::Arc;

use axum::Router;
use tonic::service::Routes;

use crate::telemetry::ScalerMetrics;
use crate::world::World;
use crate::world::live::Live;

pub mod answer;
pub mod collect;
pub mod page;
pub mod probe;
pub mod service;
pub mod trigger;

/// KEDA's own definition of the protocol, generated.
#[allow(missing_docs, clippy::pedantic)]
pub mod protocol {
    tonic::include_proto!("externalscaler");
}

/// Longest request, in bytes: a reference with the metadata of one trigger.
const LONGEST: usize = 64 << 10;

/// The service, as a listener of HTTP/2 serves it.
pub fn routes(world: Arc<World>, live: Live, metrics: &ScalerMetrics) -> Router {
    let service = service::Service::new(world, live, metrics);
    let server = protocol::external_scaler_server::ExternalScalerServer::new(service);
    Routes::new(server.max_decoding_message_size(LONGEST)).prepare().into_axum_router()
}

#[cfg(test)]
mod tests;
