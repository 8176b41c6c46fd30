//! Single live reads, for when what the watches told may be old.
//!
//! Architecture invariant: one GET an answer and kind at the most, with a timeout below that of the webhook.

use std::time::Duration;

use kube::{Api, Client};
use tokio::time::timeout;

use super::part::{ClusterPart, ScaledObjectPart};
use super::{Attachment, Cluster};

/// Half of the two seconds that `/scale` webhooks have, so that two reads in a row still leave time to answer.
const TIMEOUT: Duration = Duration::from_millis(900);

/// Why a live read gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// The API server did not answer in time.
    #[error("reading {0} took longer than {ms} ms", ms = TIMEOUT.as_millis())]
    Timeout(String),
    /// The API server refused or could not be reached.
    #[error("reading {0} failed: {1}")]
    Api(String, kube::Error),
}

/// Reads objects live. Its client must not retry: the API server's own timeout runs meanwhile.
#[derive(Clone)]
pub struct Live {
    client: Client,
}

impl Live {
    /// Reads through `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// A cluster; `None` if there is none by that name.
    pub async fn cluster(&self, namespace: &str, name: &str) -> Result<Option<Cluster>, LiveError> {
        let api = Api::<ClusterPart>::namespaced(self.client.clone(), namespace);
        let part = bounded(format!("VLLMCluster {namespace}/{name}"), api.get_opt(name)).await?;
        Ok(part.map(|part| part.facts()))
    }

    /// What a ScaledObject is attached to; `None` if it is gone or attached to no cluster.
    pub async fn scaler(&self, namespace: &str, name: &str) -> Result<Option<Attachment>, LiveError> {
        let api = Api::<ScaledObjectPart>::namespaced(self.client.clone(), namespace);
        let part = bounded(format!("ScaledObject {namespace}/{name}"), api.get_opt(name)).await?;
        Ok(part.and_then(|part| part.attachment()))
    }
}

async fn bounded<T>(what: String, read: impl Future<Output = kube::Result<T>>) -> Result<T, LiveError> {
    match timeout(TIMEOUT, read).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(LiveError::Api(what, error)),
        Err(_elapsed) => Err(LiveError::Timeout(what)),
    }
}
