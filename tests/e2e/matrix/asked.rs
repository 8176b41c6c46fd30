//! Whether the operator was asked about an HPA: the audit log tells only of mutating webhooks, and of failures.
//!
//! **Architecture invariant**: read off the operator's own count.

use std::cell::Cell;

use anyhow::{Context as _, ensure};
use axum::http::Method;
use kube::Client;

use super::api::Call;

/// How often the operator was asked about HPAs, by its own count. Nobody else writes HPAs meanwhile.
pub struct Asked {
    pod: String,
    last: Cell<u64>,
}

impl Asked {
    /// Counts from here on.
    pub async fn new(client: &Client, pod: String) -> anyhow::Result<Self> {
        let asked = Self { pod, last: Cell::default() };
        asked.again(client).await?;
        Ok(asked)
    }

    /// Whether it was asked since this was last called.
    pub async fn again(&self, client: &Client) -> anyhow::Result<bool> {
        let count = self.count(client).await?;
        Ok(self.last.replace(count) < count)
    }

    async fn count(&self, client: &Client) -> anyhow::Result<u64> {
        let path = format!("/api/v1/namespaces/vllm-operator-system/pods/{}:8080/proxy/metrics", self.pod);
        let answer = Call::new(Method::GET, path).send(client).await?;
        let page = answer.body.as_str().with_context(|| format!("metrics: {}", answer.body))?;
        let counts = page
            .lines()
            .filter(|line| line.starts_with("vllm_operator_admission_answers_total{"))
            .filter(|line| line.contains("resource=\"horizontalpodautoscaler\""))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        let counts: Vec<_> = counts.collect();
        ensure!(!counts.is_empty(), "no count of HPAs among the metrics:\n{page}");
        Ok(counts.iter().sum())
    }
}
