//! The Prometheus of a plane, asked as Grafana asks.
//!
//! It is reached by way of the API server, which is in the plane's network.
//!
//! **Architecture invariant**: what it says is given as it says it; nothing is judged here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use axum::http::Request;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::plane::Plane;

/// Its API, through its Service.
const API: &str = "/api/v1/namespaces/keda/services/prometheus:9090/proxy/api/v1";

/// Where it is asked.
#[derive(Clone)]
pub struct Prometheus {
    client: Client,
}

/// One series at one moment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Sample {
    /// Its labels.
    #[serde(rename = "metric")]
    pub labels: BTreeMap<String, String>,
    /// When, and the value as text.
    value: (f64, String),
}

impl Sample {
    /// The value; of what is no number, NaN.
    pub fn value(&self) -> f64 {
        self.value.1.parse().unwrap_or(f64::NAN)
    }
}

impl Prometheus {
    /// The one that [`crate::addons::install_keda_and_prometheus`] has installed.
    pub async fn of(plane: &Plane) -> anyhow::Result<Self> {
        Ok(Self { client: plane.client().await? })
    }

    /// What an expression comes to now.
    pub async fn query(&self, expression: &str) -> anyhow::Result<Vec<Sample>> {
        let data = self.get(&format!("query?query={}", encoded(expression))).await?;
        ensure!(data["resultType"] == "vector", "{expression}: {data}");
        serde_json::from_value(data["result"].clone()).with_context(|| format!("{expression}: {data}"))
    }

    /// The rules that it has loaded, of all groups, in their order.
    pub async fn rules(&self) -> anyhow::Result<Vec<Value>> {
        let data = self.get("rules").await?;
        let groups = data["groups"].as_array().with_context(|| format!("no groups in {data}"))?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }

    async fn get(&self, what: &str) -> anyhow::Result<Value> {
        let request = Request::get(format!("{API}/{what}")).body(Vec::new())?;
        let mut answer: Value = self.client.request(request).await.context("asking Prometheus")?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].take())
    }
}

/// A value in the query of a URL: each byte may be written so.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(3 * text.len()), |mut encoded, byte| {
        // Writing to a String cannot fail.
        let _ = write!(encoded, "%{byte:02X}");
        encoded
    })
}
