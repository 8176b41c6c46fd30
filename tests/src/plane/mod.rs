//! A whole control plane, from its owner's side: start it, talk to it, stop it.
//!
//! Reading order: [`owner`] (start, stop), [`detached`] (planes that were let go), [`spec`] (what the inside is told, and
//! where files lie), [`enter`] (leaving the machine's namespaces, PID 1), [`inside`] (what is started, in which order),
//! [`components`] (with which flags), [`bootstrap`] (first objects, readiness), [`relay`] (how it is reached from outside),
//! [`kubectl`], [`audit`], [`processes`], [`wait`].
//!
//! **Architecture invariant**: a plane never outlives its owner, unless that lets it go. The owner holds one end of a socket, PID 1 of the plane
//! the other; the kernel closes the owner's end however the owner ends, and ends the plane's processes when PID 1 ends.

pub mod audit;
pub mod bootstrap;
pub mod child;
pub mod components;
pub mod detached;
pub mod enter;
pub mod events;
pub mod inside;
pub mod kubectl;
pub mod owner;
pub mod processes;
pub mod relay;
pub mod spec;
pub mod wait;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};

pub use audit::Write;
pub use kubectl::{Kubectl, Output};
pub use owner::{Plane, PlaneOptions};
pub use processes::Process;
pub use spec::{Spec, State};

/// A client for the API server that `kubeconfig` names. It does not retry by itself: who waits, says so.
pub async fn client_from(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    install_crypto();
    let config =
        Kubeconfig::read_from(kubeconfig).with_context(|| format!("reading {}", kubeconfig.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}

/// Makes ring the process's TLS provider; a second call changes nothing.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// How often a request is made that is told to try again.
const TRIES: usize = 10;

/// Makes a request, and makes it again where the operator says to: one of its own look-ups took too long on a machine that
/// is busy, or more are asked for than it makes. client-go does the latter by itself, after as many seconds as it is told.
pub async fn trying_again<T, F>(mut request: impl FnMut() -> F) -> kube::Result<T>
where
    F: Future<Output = kube::Result<T>>,
{
    for _ in 1..TRIES {
        match request().await {
            Err(kube::Error::Api(status))
                if status.code == 500 && status.message.ends_with("; try again") => {}
            Err(kube::Error::Api(status)) if status.code == 429 => {
                let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
            }
            answer => return answer,
        }
    }
    request().await
}
