//! The API server, as a person's command reaches it.
//!
//! Architecture invariant: a client and a namespace; what is asked of them is known to the commands.

use std::time::Duration;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::args::Connection;

/// How long an answer may be awaited; a person waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a request is made again that was turned away for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Some times, within the time that a person waits.
    Soon,
    /// It is not.
    Never,
}

/// A client of the cluster that is meant, and the namespace that its kubeconfig or its service account means by default.
pub(super) async fn connect(connection: &Connection, again: Again) -> anyhow::Result<(Client, String)> {
    // Whoever installed another before has a provider that does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = config(connection).await?;
    config.read_timeout = Some(READ_TIMEOUT);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.default_retry = again == Again::Soon;
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config)?, namespace))
}

async fn config(Connection { context, kubeconfig }: &Connection) -> anyhow::Result<Config> {
    if context.is_none() && kubeconfig.is_none() {
        return Config::infer()
            .await
            .context("no kubeconfig and no service account to reach the API server with");
    }
    let read = match kubeconfig {
        Some(path) => {
            Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => Kubeconfig::read().context("no kubeconfig: name one with --kubeconfig")?,
    };
    let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
    let known: Vec<_> = read.contexts.iter().map(|context| context.name.clone()).collect();
    Config::from_custom_kubeconfig(read, &options)
        .await
        .with_context(|| format!("the kubeconfig is of no use; its contexts are: {}", known.join(", ")))
}
