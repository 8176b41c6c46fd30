//! The Helm charts, by real Helm: installed, tested, upgraded under load, removed; and what is generated from them.
//!
//! **Architecture invariant**: the operator is installed by the chart and by nothing else.

pub mod generated;
pub mod install;
pub mod lifecycle;
pub mod rights;

use anyhow::Context as _;
use serde_json::Value;
use testbed::parts::operator_binary;
use testbed::plane::{Plane, PlaneOptions};

use crate::suite::{TESTBED, helm, kubectl};

/// Where the operator runs.
const NS: &str = "vllm-operator-system";

/// A plane with KEDA's types and nothing else.
async fn plane(name: &str) -> anyhow::Result<Plane> {
    start(options(name).await?).await
}

/// What a plane is started with.
async fn options(name: &str) -> anyhow::Result<PlaneOptions> {
    let mut options = PlaneOptions::new(name, TESTBED);
    options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
    Ok(options)
}

async fn start(options: PlaneOptions) -> anyhow::Result<Plane> {
    let plane = Plane::start(options).await?;
    testbed::addons::install_keda_types(&plane).await?;
    Ok(plane)
}

/// Waits until every pod is of the newest revision and serves.
async fn rolled_out(plane: &Plane) -> anyhow::Result<()> {
    kubectl(plane, NS, "rollout status deployment/vllm-operator --timeout=90s").ok().await?;
    testbed::addons::wait_for_operator(plane).await
}

/// The objects of the release, as Helm rendered them.
async fn rendered(plane: &Plane) -> anyhow::Result<Vec<Value>> {
    let text = helm(plane, NS, "get manifest vllm-operator").await?.ok()?;
    serde_saphyr::from_multiple(&text).context("the release's manifest")
}

/// Where `found` lacks something of `wanted`: that in which the API server has filled in more is no difference.
fn difference(wanted: &Value, found: &Value, path: &str) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().find_map(|(key, value)| {
            difference(value, found.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"))
        }),
        (Value::Array(wanted), Value::Array(found)) => wanted.iter().enumerate().find_map(|(at, value)| {
            difference(value, found.get(at).unwrap_or(&Value::Null), &format!("{path}[{at}]"))
        }),
        _ if wanted == found => None,
        _ => Some(format!("{path}: {wanted} is rendered, and {found} is there")),
    }
}
