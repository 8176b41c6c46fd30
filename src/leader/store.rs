//! The calls to the API server: read the Lease, write it on a condition, hear that nobody holds it.
//!
//! Architecture invariant: no decision, no retry and no timeout; whoever calls knows how long there is time.

use std::future::Future;

use futures::StreamExt as _;
use futures::future::ready;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Event, watcher};

use crate::pace::{self, Steady};

use super::record::holder;

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The Lease is another one by now, or is gone, or is there already: nothing was written.
    #[error("the Lease was written by another at the same moment")]
    Conflict,
    /// Nothing is known of what became of it.
    #[error("{0}")]
    Failed(String),
}

/// Where the Lease is.
pub trait LeaseStore: Send + Sync {
    /// Reads it; `None` if there is none.
    fn read(&self) -> impl Future<Output = Result<Option<DynamicObject>, StoreError>> + Send;
    /// Creates it, if there is none.
    fn create(&self, lease: DynamicObject) -> impl Future<Output = Result<DynamicObject, StoreError>> + Send;
    /// Replaces the version that `lease` was made from, and no other.
    fn replace(&self, lease: DynamicObject)
    -> impl Future<Output = Result<DynamicObject, StoreError>> + Send;
    /// An item whenever nobody holds it any more. Best effort: without it, others find out when they look next.
    fn vacancies(&self) -> BoxStream<'static, ()>;
}

/// A Lease on the API server.
#[derive(Clone, Debug)]
pub struct LeaseApi {
    calls: Api<DynamicObject>,
    watch: Api<DynamicObject>,
    name: String,
}

impl LeaseApi {
    /// `calls` must not repeat a call by itself: it would come when its time is over.
    pub fn new(calls: Client, watch: Client, namespace: &str, name: &str) -> Self {
        let resource = ApiResource::erase::<Lease>(&());
        Self {
            calls: Api::namespaced_with(calls, namespace, &resource),
            watch: Api::namespaced_with(watch, namespace, &resource),
            name: name.to_owned(),
        }
    }
}

impl LeaseStore for LeaseApi {
    async fn read(&self) -> Result<Option<DynamicObject>, StoreError> {
        self.calls.get_opt(&self.name).await.map_err(|error| failed("read", &error))
    }

    async fn create(&self, lease: DynamicObject) -> Result<DynamicObject, StoreError> {
        self.calls.create(&PostParams::default(), &lease).await.map_err(|error| failed("create", &error))
    }

    async fn replace(&self, lease: DynamicObject) -> Result<DynamicObject, StoreError> {
        // The resourceVersion in it is the precondition.
        let replaced = self.calls.replace(&self.name, &PostParams::default(), &lease).await;
        replaced.map_err(|error| failed("write", &error))
    }

    fn vacancies(&self) -> BoxStream<'static, ()> {
        let config = pace::watching().fields(&format!("metadata.name={}", self.name));
        watcher(self.watch.clone(), config)
            .backoff(Steady)
            .filter_map(|event| {
                let vacant = match event {
                    Ok(Event::Apply(lease)) => holder(&lease).is_none(),
                    // What is there at its start, the next look finds; and a Lease that is deleted may be held.
                    Ok(_) => false,
                    // It goes on by itself, and meanwhile there is the look every few seconds.
                    Err(error) => {
                        tracing::debug!(%error, "watching the Lease");
                        false
                    }
                };
                ready(vacant.then_some(()))
            })
            .boxed()
    }
}

fn failed(action: &str, error: &kube::Error) -> StoreError {
    match error {
        kube::Error::Api(status) if action != "read" && status.code == 409 => StoreError::Conflict,
        // Deleted since it was read, unless it is the namespace that is missing; to look again is right for both.
        kube::Error::Api(status) if action == "write" && status.code == 404 => StoreError::Conflict,
        kube::Error::Api(status) => {
            StoreError::Failed(format!("cannot {action} the Lease: {}", status.message))
        }
        other => StoreError::Failed(format!("cannot {action} the Lease: {other}")),
    }
}
