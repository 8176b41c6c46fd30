//! The API server's own calls: a recorded review at a steady rate, over kept connections as Go's client keeps them.
//!
//! **Architecture invariant**: open loop. A call begins when its time has come, whatever became of those before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::target::{SERVER_NAME, Target};

/// Calls a second.
const RATE: u32 = 200;
/// Each so many calls, one makes a connection of its own.
const FRESH: usize = 50;
/// Connections that are kept for later calls; the API server's own limit.
const KEPT: usize = 25;
/// The `timeoutSeconds` of the webhooks on `/scale`.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Line 1 of the recorded reviews: `kubectl scale` from 3 to 7, within the cluster's bounds.
pub fn recorded() -> anyhow::Result<String> {
    let reviews = include_str!("../../fixtures/admission-reviews.jsonl");
    reviews.lines().nth(1).map(ToOwned::to_owned).context("the recorded reviews have a second line")
}

/// What became of the calls of one phase.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// How long each took, from its time on, sorted.
    pub times: Vec<Duration>,
    /// Those that got no good answer: how many, and why the last one.
    pub failed: usize,
    /// The last failure.
    pub why: Option<String>,
}

impl Calls {
    /// The time within which so many of a thousand were answered.
    pub fn within(&self, permille: usize) -> Duration {
        within(&self.times, permille).unwrap_or(TIMEOUT)
    }
}

/// The time within which so many of a thousand were done, of all times in order.
pub fn within(times: &[Duration], permille: usize) -> Option<Duration> {
    let index = (times.len() * permille).div_ceil(1000).saturating_sub(1);
    times.get(index).copied()
}

/// Whoever calls: connections live from one phase to the next.
#[derive(Clone)]
pub struct Caller {
    target: Target,
    review: Bytes,
    kept: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

impl Caller {
    /// A caller without any connection.
    pub fn new(target: Target) -> anyhow::Result<Self> {
        Ok(Self { target, review: recorded()?.into(), kept: Arc::default() })
    }

    /// Calls until `end`.
    pub async fn call_until(&self, end: CancellationToken) -> Calls {
        let begin = Instant::now();
        let mut calls = JoinSet::new();
        for number in 0.. {
            let due = begin + Duration::from_secs(1) * number / RATE;
            tokio::select! {
                () = sleep_until(due) => {}
                () = end.cancelled() => break,
            }
            let (caller, number) = (self.clone(), number as usize);
            calls.spawn(async move {
                let answered = timeout(TIMEOUT, caller.call(number)).await;
                (due.elapsed(), answered.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))))
            });
        }
        let mut all = Calls::default();
        while let Some(ended) = calls.join_next().await {
            match ended {
                Ok((time, Ok(()))) => all.times.push(time),
                Ok((_, Err(error))) => {
                    all.failed += 1;
                    all.why = Some(format!("{error:#}"));
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        // An unanswered call counts as the slowest.
        all.times.extend(std::iter::repeat_n(TIMEOUT, all.failed));
        all.times.sort();
        all
    }

    async fn call(&self, number: usize) -> anyhow::Result<()> {
        let kept = if number.is_multiple_of(FRESH) { None } else { self.take() };
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await.context("a new connection")?,
        };
        let path = if number.is_multiple_of(2) { "/mutate/scale" } else { "/validate/scale" };
        let request = Request::post(format!("{path}?timeout=2s"))
            .header("host", SERVER_NAME)
            .header("content-type", "application/json")
            .body(Full::from(self.review.clone()))?;
        let response = connection.send_request(request).await.context("a call")?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body)
            .with_context(|| format!("{status}: {}", String::from_utf8_lossy(&body)))?;
        anyhow::ensure!(answer["response"]["allowed"] == true, "{answer}");
        anyhow::ensure!(answer["response"]["uid"] == "6e08421a-de10-4722-b609-825e924257de", "{answer}");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(connection);
        }
        Ok(())
    }

    /// A kept connection that is not known to have been closed.
    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // The next to be used is the one that was used last.
        std::iter::from_fn(|| kept.pop()).find(SendRequest::is_ready)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = self.target.connect().await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_times_the_second_longest_is_the_99th_percentile() {
        let times = (1..=100).map(Duration::from_millis).collect();
        let calls = Calls { times, ..Calls::default() };
        assert_eq!(calls.within(990), Duration::from_millis(99));
        assert_eq!(calls.within(500), Duration::from_millis(50));
        assert_eq!(Calls::default().within(990), TIMEOUT);
    }
}
