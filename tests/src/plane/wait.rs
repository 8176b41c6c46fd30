//! Waiting for a condition, with a deadline, and with what was seen last in the error.
//!
//! **Architecture invariant**: the one loop that polls; nothing else in the testbed sleeps for a fixed time instead.

use std::time::Duration;

use tokio::time::Instant;

/// Short against everything that is waited for, and long against what one probe costs.
const PERIOD: Duration = Duration::from_millis(50);

/// A point in time after which waiting is a failure.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    span: Duration,
}

impl Deadline {
    /// `span` from now.
    pub fn after(span: Duration) -> Self {
        Self { at: Instant::now() + span, span }
    }
}

/// Probes until the answer is `Ok`; the error carries what the last probe saw.
pub async fn eventually<F, T, V>(what: &str, deadline: Deadline, mut probe: F) -> anyhow::Result<V>
where
    F: FnMut() -> T,
    T: Future<Output = Result<V, String>>,
{
    let mut seen = "nothing yet: the first probe has not returned".to_owned();
    loop {
        match tokio::time::timeout_at(deadline.at, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => seen = why,
            Err(_) => {}
        }
        if Instant::now() + PERIOD >= deadline.at {
            anyhow::bail!("not so within {:?}: {what}; seen last: {seen}", deadline.span);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_says_what_was_waited_for_and_what_was_seen() {
        let deadline = Deadline::after(Duration::from_millis(120));
        let error =
            eventually("the sky is green", deadline, || async { Err::<(), _>("blue".to_owned()) }).await;
        let text = error.expect_err("never green").to_string();
        assert_eq!(text, "not so within 120ms: the sky is green; seen last: blue");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_does_not_outlast_the_deadline() {
        let deadline = Deadline::after(Duration::from_millis(120));
        let probe = std::future::pending::<Result<(), String>>;
        let error = eventually("an answer", deadline, probe).await.expect_err("hangs");
        assert!(error.to_string().contains("first probe has not returned"), "{error}");
    }
}
