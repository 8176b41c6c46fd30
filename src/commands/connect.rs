//! The API server, as a person's command reaches it.
//!
//! Architecture invariant: a client and a namespace; what is asked of them is known to the commands.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};

/// How long an answer may be awaited; a person waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client by the kubeconfig or the service account at hand, and the namespace that these mean by default.
pub(super) async fn connect() -> anyhow::Result<(Client, String)> {
    // Whoever installed another before has a provider that does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config =
        Config::infer().await.context("no kubeconfig and no service account to reach the API server with")?;
    config.read_timeout = Some(READ_TIMEOUT);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config)?, namespace))
}
