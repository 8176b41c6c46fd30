//! The port of the external scaler.
//!
//! Architecture invariant: what is spoken there and who is let in; what is answered is `scaler`'s.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use certs::Resolver;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use webhook::server::{Limits, Protocol, Stop, Transport, serve, tls_config};

use crate::args::{RunArgs, ScalerMode};

/// Most connections. KEDA keeps one for all of its ScaledObjects, and its successor opens another.
const CONNECTIONS: usize = 64;

/// A port that is bound, and not served yet.
pub struct ScalerPort {
    listener: TcpListener,
    transport: Transport,
}

impl ScalerPort {
    /// Binds it; `None` where there is to be none. With TLS, `clients` are let in and nobody else.
    pub async fn bind(
        args: &RunArgs,
        resolver: &Arc<Resolver>,
        clients: &Arc<certs::Clients>,
    ) -> anyhow::Result<Option<Self>> {
        let transport = match args.scaler {
            ScalerMode::Off => return Ok(None),
            ScalerMode::Plaintext => Transport::PlainHttp2,
            ScalerMode::Tls => {
                let clients = Some(Arc::clone(clients) as _);
                Transport::Tls(tls_config(Arc::clone(resolver) as _, Protocol::Http2, clients))
            }
        };
        let listener = TcpListener::bind(args.scaler_listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.scaler_listen))?;
        Ok(Some(Self { listener, transport }))
    }

    /// Serves it until it is told to stop.
    pub fn serve(self, routes: Router, limits: Limits, stop: Stop) -> JoinHandle<()> {
        let limits = Limits { connections: CONNECTIONS, ..limits };
        tokio::spawn(serve(self.listener, self.transport, routes, limits, stop))
    }
}
