//! Reads that several reviews share.
//!
//! A read that has started answers nobody who comes later: see [`live`](super). So whoever comes while a read is
//! under way joins the next one, which has not started yet. It starts when the one before has ended, or has taken
//! long enough to be thought lost. Any number of reviews at once thus cost two reads, and each of them waits for no
//! more than two.
//!
//! Architecture invariant: knows neither what is read nor how; no answer is kept beyond those who waited for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use hashbrown::HashMap;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::telemetry::LiveReads;
use crate::world::Key;

use super::LiveError;

/// How long a read holds up the next one. The API server answers in a few milliseconds; one that takes this long
/// may be on a connection that is dead, and whoever waits has less than a second.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

type Read<T> = BoxFuture<'static, Result<T, LiveError>>;

/// The reads of one kind that are under way, by what they read.
#[derive(Clone)]
pub(super) struct Flights<T> {
    last: Arc<Mutex<HashMap<Key, Flight<T>>>>,
    reads: LiveReads,
}

/// The read of an object that was asked for last.
struct Flight<T> {
    /// Can be joined until it starts.
    joinable: Option<WeakShared<Read<T>>>,
    /// Cancelled when it has ended, or nobody waits for it any more.
    ended: Arc<CancellationToken>,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// None under way yet.
    pub fn new(reads: &LiveReads) -> Self {
        Self { last: Arc::default(), reads: reads.clone() }
    }

    /// A read that starts after this call: one that others wait for too, or else `read`. Dropping it ends the read
    /// only if nobody else waits for it.
    pub fn join(
        &self,
        key: Key,
        read: impl Future<Output = Result<T, LiveError>> + Send + 'static,
    ) -> Shared<Read<T>> {
        let mut last = lock(&self.last);
        let before = last.get(&key);
        if let Some(joinable) = before.and_then(|flight| flight.joinable.as_ref()?.upgrade()) {
            self.reads.shared.inc();
            return joinable;
        }
        let before = before.map(|flight| Arc::clone(&flight.ended));
        let ended = Arc::new(CancellationToken::new());
        let end = End { last: Arc::clone(&self.last), key: key.clone(), ended: Arc::clone(&ended) };
        let flight = async move {
            if let Some(before) = before {
                // Either way the next one may start.
                let _ = timeout(PATIENCE, before.cancelled()).await;
            }
            end.starts();
            read.await
        };
        let flight = flight.boxed().shared();
        last.insert(key, Flight { joinable: flight.downgrade(), ended });
        flight
    }

    /// Whether no read is under way or waited for.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        lock(&self.last).is_empty()
    }
}

/// Tells of the start of a read, and of its end, however it ends.
struct End<T> {
    last: Arc<Mutex<HashMap<Key, Flight<T>>>>,
    key: Key,
    ended: Arc<CancellationToken>,
}

impl<T> End<T> {
    fn starts(&self) {
        if let Some(flight) = lock(&self.last).get_mut(&self.key).filter(|flight| self.is_of(flight)) {
            flight.joinable = None;
        }
    }

    /// Another one may have taken its place.
    fn is_of(&self, flight: &Flight<T>) -> bool {
        Arc::ptr_eq(&flight.ended, &self.ended)
    }
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let mut last = lock(&self.last);
        if last.get(&self.key).is_some_and(|flight| self.is_of(flight)) {
            last.remove(&self.key);
        }
        drop(last);
        self.ended.cancel();
    }
}

fn lock<T>(last: &Mutex<HashMap<Key, Flight<T>>>) -> MutexGuard<'_, HashMap<Key, Flight<T>>> {
    // Each change is one call on the map, so a panic elsewhere leaves it whole.
    last.lock().unwrap_or_else(PoisonError::into_inner)
}
