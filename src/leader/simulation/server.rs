//! The server of the simulation, as each replica reaches it, and processes that stand still.
//!
//! Architecture invariant: nothing here knows the rules of an election; it keeps what is written and loses messages.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use kube::api::DynamicObject;
use tokio::sync::broadcast;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::leader::record::holder;
use crate::leader::{Fence, LeaseStore, StoreError};

use super::{REPLICAS, USUAL};

/// What becomes of the messages of one replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Link {
    Good,
    /// Each way takes up to so long.
    Slow(Duration),
    /// Of both requests and answers, half are lost.
    Lossy,
    /// Nothing passes.
    Cut,
}

/// The server, and what is true of the replicas.
pub(super) struct Day {
    pub(super) state: Mutex<State>,
    pub(super) vacant: broadcast::Sender<()>,
}

pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) lease: Option<DynamicObject>,
    pub(super) version: u64,
    pub(super) deleted: bool,
    pub(super) links: [Link; REPLICAS],
    pub(super) paused_until: [Instant; REPLICAS],
    /// Fences of living processes.
    pub(super) fences: BTreeMap<usize, Fence>,
    pub(super) acts: u64,
    pub(super) faults_end: Instant,
    pub(super) wrong: Vec<String>,
}

impl Day {
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no test panics in here"))
    }
}

impl State {
    pub(super) fn leaders(&self) -> Vec<usize> {
        self.fences.iter().filter(|(_, fence)| fence.is_open()).map(|(replica, _)| *replica).collect()
    }

    /// How long a message takes, unless it is lost. Nothing is held up beyond the end of the faults.
    fn passes(&mut self, replica: usize) -> Option<Duration> {
        let most = match self.links[replica] {
            Link::Cut => return None,
            Link::Lossy if self.rng.bool() => return None,
            Link::Good | Link::Lossy => USUAL,
            Link::Slow(most) => {
                most.min(self.faults_end.saturating_duration_since(Instant::now())).max(USUAL)
            }
        };
        Some(most.mul_f64(self.rng.f64()))
    }

    pub(super) fn store(&mut self, mut lease: DynamicObject) -> DynamicObject {
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        lease.metadata.uid.get_or_insert_with(|| format!("u{}", self.version));
        self.lease = Some(lease.clone());
        lease
    }
}

/// The server, as one replica reaches it.
pub(super) struct Reached {
    pub(super) day: Arc<Day>,
    pub(super) replica: usize,
}

impl Reached {
    /// A request on its way goes on where its sender has given up.
    async fn ask<T: Send + 'static>(
        &self,
        serve: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (day, replica) = (Arc::clone(&self.day), self.replica);
        tokio::spawn(async move {
            let Some(there) = day.with(|state| state.passes(replica)) else { return lost(answer).await };
            sleep(there).await;
            let answered = day.with(serve);
            let Some(back) = day.with(|state| state.passes(replica)) else { return lost(answer).await };
            sleep(back).await;
            let _ = answer.send(answered);
        });
        answered.await.unwrap_or_else(|_| Err(StoreError::Failed("lost".into())))
    }
}

/// Whoever waits for an answer waits until he gives up.
async fn lost<T>(mut answer: tokio::sync::oneshot::Sender<T>) {
    answer.closed().await;
}

impl LeaseStore for Reached {
    async fn read(&self) -> Result<Option<DynamicObject>, StoreError> {
        self.ask(|state| Ok(state.lease.clone())).await
    }

    async fn create(&self, lease: DynamicObject) -> Result<DynamicObject, StoreError> {
        self.ask(
            |state| if state.lease.is_some() { Err(StoreError::Conflict) } else { Ok(state.store(lease)) },
        )
        .await
    }

    async fn replace(&self, lease: DynamicObject) -> Result<DynamicObject, StoreError> {
        let vacant = self.day.vacant.clone();
        self.ask(move |state| {
            let version = |lease: &DynamicObject| lease.metadata.resource_version.clone();
            if state.lease.as_ref().and_then(version) != version(&lease) {
                return Err(StoreError::Conflict);
            }
            if holder(&lease).is_none() {
                let _ = vacant.send(());
            }
            Ok(state.store(lease))
        })
        .await
    }

    fn vacancies(&self) -> BoxStream<'static, ()> {
        let (day, replica) = (Arc::clone(&self.day), self.replica);
        let vacant = futures::stream::unfold(self.day.vacant.subscribe(), |mut vacant| async {
            vacant.recv().await.ok().map(|()| ((), vacant))
        });
        vacant
            .filter_map(move |()| {
                let passes = day.with(|state| state.passes(replica));
                async move {
                    sleep(passes?).await;
                    Some(())
                }
            })
            .boxed()
    }
}

/// A future of a process that may be paused.
pub(super) struct Pausable<F> {
    future: Pin<Box<F>>,
    day: Arc<Day>,
    replica: usize,
    resumed: Pin<Box<Sleep>>,
}

impl<F: Future> Pausable<F> {
    pub(super) fn new(future: F, day: &Arc<Day>, replica: usize) -> Self {
        let resumed = Box::pin(sleep_until(Instant::now()));
        Self { future: Box::pin(future), day: Arc::clone(day), replica, resumed }
    }
}

impl<F: Future> Future for Pausable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let replica = self.replica;
        let until = self.day.with(|state| state.paused_until[replica]);
        if Instant::now() < until {
            self.resumed.as_mut().reset(until);
            if self.resumed.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.future.as_mut().poll(cx)
    }
}
