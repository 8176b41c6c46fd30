//! The queue of an engine: so many requests run at once, the others wait in the order they came.
//!
//! **Architecture invariant**: each count is held by a guard, so that a client that hangs up, wherever its request
//! is, leaves the queue.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use super::capture::Histogram;

/// What has been served so far.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Tokens of prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Requests that ended at their limit of tokens.
    pub finished: usize,
    /// Requests whose client hung up, in the queue or later.
    pub aborted: usize,
    /// Seconds from arrival to the end.
    pub latency: Histogram,
    /// Seconds from arrival to the first token.
    pub first_token: Histogram,
    /// Seconds in the queue.
    pub queued: Histogram,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            prompt_tokens: 0,
            generated_tokens: 0,
            finished: 0,
            aborted: 0,
            latency: Histogram::of("vllm:e2e_request_latency_seconds"),
            first_token: Histogram::of("vllm:time_to_first_token_seconds"),
            queued: Histogram::of("vllm:request_queue_time_seconds"),
        }
    }
}

/// The queue.
#[derive(Debug)]
pub struct Scheduler {
    slots: Semaphore,
    size: usize,
    token: Duration,
    waiting: AtomicUsize,
    running: AtomicUsize,
    totals: Mutex<Totals>,
}

impl Scheduler {
    /// `size` requests at once, each at `tokens_per_second`.
    pub fn new(size: usize, tokens_per_second: f64) -> Self {
        Self {
            slots: Semaphore::new(size),
            size,
            token: Duration::from_secs_f64(1.0 / tokens_per_second.max(0.001)),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            totals: Mutex::default(),
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Requests that wait or run.
    pub fn in_flight(&self) -> usize {
        self.waiting() + self.running()
    }

    /// The part of all slots in use, 0 to 1: what stands in for the cache of keys and values.
    pub fn usage(&self) -> f64 {
        count(self.running()) / count(self.size)
    }

    /// What has been served so far.
    pub fn totals(&self) -> Totals {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Totals> {
        // Sums alone, whole after any panic.
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot. Dropping the future leaves the queue.
    pub async fn start(&self, prompt_tokens: usize) -> Running<'_> {
        let arrived = Instant::now();
        let mut waiting = Waiting { scheduler: self, left: true, _counted: Counted::new(&self.waiting) };
        // Tokio's semaphore is fair, and it is never closed.
        let slot = self.slots.acquire().await.expect("the semaphore stays open");
        let running = Counted::new(&self.running);
        waiting.left = false;
        drop(waiting);
        let queued = arrived.elapsed();
        self.lock().prompt_tokens += prompt_tokens;
        Running {
            scheduler: self,
            arrived,
            queued,
            due: Instant::now(),
            generated: false,
            finished: false,
            _counted: running,
            _slot: slot,
        }
    }
}

/// Counts are far below 2^52.
#[allow(clippy::cast_precision_loss)]
pub(super) fn count(n: usize) -> f64 {
    n as f64
}

/// A request in the queue.
#[derive(Debug)]
struct Waiting<'a> {
    scheduler: &'a Scheduler,
    /// It has not been given a slot.
    left: bool,
    _counted: Counted<'a>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.left {
            self.scheduler.lock().aborted += 1;
        }
    }
}

/// A request that has a slot.
#[derive(Debug)]
pub struct Running<'a> {
    scheduler: &'a Scheduler,
    arrived: Instant,
    queued: Duration,
    /// When its latest token was to come.
    due: Instant,
    /// It has its first token.
    generated: bool,
    finished: bool,
    _counted: Counted<'a>,
    _slot: SemaphorePermit<'a>,
}

impl Running<'_> {
    /// Generates one token.
    pub async fn token(&mut self) {
        // From token to token, since each sleep for itself ends late and the pace would drop.
        self.due += self.scheduler.token;
        sleep_until(self.due).await;
        let mut totals = self.scheduler.lock();
        totals.generated_tokens += 1;
        if !std::mem::replace(&mut self.generated, true) {
            totals.first_token.observe(self.arrived.elapsed().as_secs_f64());
        }
    }

    /// The request has all its tokens.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut totals = self.scheduler.lock();
        if self.finished {
            totals.finished += 1;
            totals.latency.observe(self.arrived.elapsed().as_secs_f64());
            totals.queued.observe(self.queued.as_secs_f64());
        } else {
            totals.aborted += 1;
        }
    }
}

#[derive(Debug)]
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_tokens_take_the_time_that_the_pace_says() {
        let scheduler = Scheduler::new(1, 100_000.0);
        let began = Instant::now();
        let mut running = scheduler.start(1).await;
        for _ in 0..20_000 {
            running.token().await;
        }
        running.finish();
        let took = began.elapsed();
        // The timer's millisecond for each token would be 20 s; the rest is for a busy machine.
        assert!((Duration::from_millis(200)..Duration::from_secs(10)).contains(&took), "{took:?}");
    }
}
