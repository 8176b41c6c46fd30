//! A backup that is put back.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::{settled, wanting};
use crate::suite::{PATIENCE, apply, cluster, forget, kubectl, namespace, until};

const NS: &str = "restore";
/// In the order in which they come back.
const KINDS: [&str; 5] = ["hpa", "scaledobjects", "services", "statefulsets", "vllmclusters"];

/// By kind, in alphabetical order, without owner references: in the end, all is as it was, and one driver works.
pub async fn alphabetical(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", "replicas: 2\nmaxReplicas: 10")).await?;
    apply(plane, NS, &wanting("queue", (3, 8), 6, "")).await?;
    settled(plane, NS, "keda-hpa-queue", 6).await?;
    let mut backup = Vec::new();
    for kind in KINDS {
        let list = kubectl(plane, NS, &format!("get {kind} -o json")).ok().await?;
        let list: Value = serde_json::from_str(&list)?;
        backup.extend(list["items"].as_array().context("a list")?.iter().map(as_kept));
    }
    ensure!(backup.len() == 6, "one of each, and two Services: {backup:#?}");
    forget(plane, NS).await?;

    namespace(plane, NS).await?;
    let mut refused = Vec::new();
    for object in &backup {
        // A restore goes on with the next object, and tells of the others in the end.
        let created = kubectl(plane, NS, "create -f -").stdin(object.to_string()).output().await?;
        if !created.status.success() {
            refused.push(created.stderr);
        }
    }
    // KEDA makes its HPA by itself; all else must come back.
    refused
        .retain(|refusal| !refusal.starts_with("The HorizontalPodAutoscaler \"keda-hpa-queue\" is invalid"));
    ensure!(refused.is_empty(), "refused on the way back:\n{}", refused.join("\n"));
    let ready = kubectl(plane, NS, "wait --for=condition=Ready scaledobject/queue --timeout=60s");
    ready.ok().await?;
    settled(plane, NS, "keda-hpa-queue", 6).await?;
    let owned = [("/metadata/ownerReferences/0/kind", json!("ScaledObject"))];
    until(plane, NS, "hpa/keda-hpa-queue", &owned).await?;
    for what in ["statefulset/a", "service/a", "service/a-pods"] {
        let owned = [("/metadata/ownerReferences/0/kind", json!("VLLMCluster"))];
        until(plane, NS, what, &owned).await?;
    }
    // So it goes as if it had never been away.
    kubectl(plane, NS, "delete scaledobject,vllmcluster --all").ok().await?;
    eventually("nothing is left", Deadline::after(PATIENCE), || async {
        let left = kubectl(plane, NS, &format!("get {},pods -o name", KINDS.join(","))).ok().await;
        let left = left.map_err(|error| format!("{error:#}"))?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await?;
    forget(plane, NS).await
}

/// What backup tools keep of an object: its identity, its labels and annotations, and its spec.
fn as_kept(object: &Value) -> Value {
    let mut kept = object.clone();
    let metadata = &object["metadata"];
    kept["metadata"] = json!({"name": metadata["name"]});
    for map in ["labels", "annotations"] {
        if metadata[map].is_object() {
            kept["metadata"][map] = metadata[map].clone();
        }
    }
    if let Value::Object(fields) = &mut kept {
        fields.remove("status");
    }
    // Addresses belong to the cluster; that there shall be none is the Service's own.
    if let Some(spec) =
        kept["spec"].as_object_mut().filter(|spec| spec.get("clusterIP") != Some(&json!("None")))
    {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    kept
}
