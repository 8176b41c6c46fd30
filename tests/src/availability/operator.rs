//! The operator as it is installed: three replicas behind their Service.
//!
//! **Architecture invariant**: asked and told through the API server, as a user would; but for signals to its processes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::addons;
use crate::plane::Plane;
use crate::plane::processes::Process;
use crate::plane::wait::{Deadline, eventually};

/// Where it runs.
pub const NAMESPACE: &str = "vllm-operator-system";
/// How many replicas.
pub const REPLICAS: usize = 3;
/// Longer than any of its limits: what is not so by then never is.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Installs it with these environment variables besides those of the manifest, and waits until all replicas serve.
pub async fn install(plane: &Plane, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    addons::install_keda_types(plane).await?;
    addons::install_operator(plane).await?;
    addons::scale_operator(plane, 0).await?;
    if settings.iter().any(|(name, _)| name.starts_with("CA_")) {
        // What was made before the settings were there does not follow them.
        plane
            .kubectl(&["-n", NAMESPACE, "delete", "secret/vllm-operator-ca", "--ignore-not-found"])
            .ok()
            .await?;
    }
    let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut args = vec!["-n", NAMESPACE, "set", "env", "deployment/vllm-operator"];
    args.extend(settings.iter().map(String::as_str));
    if !settings.is_empty() {
        plane.kubectl(&args).ok().await?;
    }
    addons::scale_operator(plane, REPLICAS).await?;
    rolled_out(plane).await
}

/// Waits until every replica is of the newest revision, serves, and is where its Service leads.
pub async fn rolled_out(plane: &Plane) -> anyhow::Result<()> {
    let status = ["-n", NAMESPACE, "rollout", "status", "deployment/vllm-operator", "--timeout=180s"];
    plane.kubectl(&status).ok().await?;
    eventually("the Service leads to every replica and to no other", Deadline::after(PATIENCE), || async {
        let slices =
            json(plane, &["get", "endpointslices", "-l", "kubernetes.io/service-name=vllm-operator"]).await?;
        let endpoints: Vec<_> = slices["items"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
            .collect();
        let ready = endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
        if ready == REPLICAS && endpoints.len() == REPLICAS { Ok(()) } else { Err(format!("{endpoints:?}")) }
    })
    .await
}

/// The pod that holds the Lease, and how often it has changed hands.
pub async fn leader(plane: &Plane) -> Result<(String, u64), String> {
    let lease = json(plane, &["get", "lease", "vllm-operator"]).await?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let (pod, _) = holder.rsplit_once('_').ok_or_else(|| format!("nobody leads: {}", lease["spec"]))?;
    Ok((pod.to_owned(), lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default()))
}

/// Its processes by pod.
pub fn processes(plane: &Plane) -> anyhow::Result<BTreeMap<String, Process>> {
    let processes = plane.processes("vllm-operator")?.into_iter();
    processes.map(|process| Ok((process.variable("POD_NAME").context("a pod's name")?, process))).collect()
}

/// The process of one pod.
pub fn process(plane: &Plane, pod: &str) -> anyhow::Result<Process> {
    processes(plane)?.remove(pod).with_context(|| format!("{pod} has no process"))
}

/// What the API server has counted of webhooks that could not be called, ours alone: those that it went on without, and
/// those that it refused a write for.
pub async fn failed_calls(plane: &Plane) -> anyhow::Result<u64> {
    let page = plane.kubectl(&["get", "--raw", "/metrics"]).ok().await?;
    let ours = |line: &&str| {
        line.contains("training.distributed-inference.io")
            && (line.starts_with("apiserver_admission_webhook_fail_open_count{")
                || line.starts_with("apiserver_admission_webhook_rejection_count{")
                    && line.contains("error_type=\"calling_webhook_error\""))
    };
    let count = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
    page.lines()
        .filter(ours)
        .map(|line| count(line).with_context(|| format!("a count in {line}")))
        .sum::<anyhow::Result<u64>>()
}

/// kubectl's answer in the operator's namespace as JSON.
pub async fn json(plane: &Plane, args: &[&str]) -> Result<Value, String> {
    let text = plane.kubectl(&[&["-n", NAMESPACE, "-o", "json"], args].concat()).ok().await;
    let text = text.map_err(|error| format!("{error:#}"))?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}
