//! The workload itself: what a cluster says when it does not serve, how its servers start and stop, where their models
//! are kept, and what comes and goes with a change.
//!
//! One file a topic. Pods are real processes; a pod's status is written by a test only where no process can be there.
//!
//! **Architecture invariant**: causes are provoked, and read back from the `VLLMCluster`: no scenario looks at how the
//! operator comes to what it says.

pub mod cache;
pub mod changes;
pub mod drain;
pub mod engines;
pub mod reasons;
pub mod shortened;
pub mod shown;
pub mod told;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use crate::suite::{PATIENCE, get, kubectl};

/// A condition of a cluster, once it has this status and reason for the spec as it is: its message.
async fn condition(
    plane: &Plane,
    ns: &str,
    cluster: &str,
    (kind, status, reason): (&str, &str, &str),
) -> anyhow::Result<String> {
    let what = format!("{kind} of {cluster} in {ns} is {status}, {reason}");
    eventually(&what, Deadline::after(PATIENCE), || async {
        let object = get(plane, ns, &format!("vllmcluster/{cluster}")).await;
        let object = object.map_err(|error| format!("{error:#}"))?;
        if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
            return Err(format!("of an earlier spec: {}", object["status"]));
        }
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        let found = found.ok_or_else(|| object["status"].to_string())?;
        if found["status"] == status && found["reason"] == reason {
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        } else {
            Err(found.to_string())
        }
    })
    .await
}

/// All pods that are wanted are there, ready and of the current spec.
async fn settled(plane: &Plane, ns: &str, cluster: &str) -> anyhow::Result<()> {
    condition(plane, ns, cluster, ("Reconciling", "False", "UpToDate")).await.map(drop)
}

/// A merge patch of a cluster's spec.
async fn change(plane: &Plane, ns: &str, cluster: &str, spec: &Value) -> anyhow::Result<()> {
    let patch = serde_json::json!({ "spec": spec }).to_string();
    let name = format!("vllmcluster/{cluster}");
    plane.kubectl(&["-n", ns, "patch", &name, "--type=merge", "-p", &patch]).ok().await.map(drop)
}

/// GET through the API server's proxy, as `pods/a-0:8000` and `/load`: what answers inside of the plane.
async fn ask(plane: &Plane, ns: &str, whom: &str, path: &str) -> anyhow::Result<Value> {
    let (kind, name) = whom.split_once('/').context("a kind and a name")?;
    let text = kubectl(plane, ns, &format!("get --raw /api/v1/namespaces/{ns}/{kind}/{name}/proxy{path}"));
    let text = text.ok().await?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// How often containers of a cluster's pods were started again.
async fn restarts(plane: &Plane, ns: &str, cluster: &str) -> anyhow::Result<i64> {
    let pods = get(plane, ns, &format!("pods -l cluster={cluster}")).await?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    ensure!(!pods.is_empty(), "{cluster} has no pods");
    let containers =
        pods.iter().flat_map(|pod| pod["status"]["containerStatuses"].as_array().into_iter().flatten());
    Ok(containers.filter_map(|container| container["restartCount"].as_i64()).sum())
}

/// Waits until nothing of these kinds is left in the namespace.
async fn gone(plane: &Plane, ns: &str, what: &str) -> anyhow::Result<()> {
    eventually(&format!("no {what} in {ns}"), Deadline::after(PATIENCE), || async {
        let left = kubectl(plane, ns, &format!("get {what} -o name")).ok().await;
        let left = left.map_err(|error| format!("{error:#}"))?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await
}
