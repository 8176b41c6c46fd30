//! What comes and goes with a change of the spec, and with what stands there already.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use crate::suite::{PATIENCE, apply, cluster, forget, get, kubectl, namespace, until};

use super::{ask, change, condition, gone, settled};

const NS: &str = "changes";

/// All of them at once, each on a cluster of its own.
pub async fn whole(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    tokio::try_join!(
        budget_and_port(plane),
        broken_images(plane),
        restored_from_a_backup(plane),
        belongs_to_somebody_else(plane)
    )?;
    forget(plane, NS).await
}

async fn budget_and_port(plane: &Plane) -> anyhow::Result<()> {
    apply(plane, NS, &cluster("a", "replicas: 2\ndisruptionBudget: {minAvailable: 2}")).await?;
    settled(plane, NS, "a").await?;
    budget_comes_and_goes(plane).await?;
    port_moves(plane).await
}

/// Evictions are refused while the budget asks for it; one of somebody else's outlives the field.
async fn budget_comes_and_goes(plane: &Plane) -> anyhow::Result<()> {
    until(
        plane,
        NS,
        "pdb/a",
        &[("/status/currentHealthy", json!(2)), ("/status/disruptionsAllowed", json!(0))],
    )
    .await?;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a-0"}});
    let path = format!("create --raw /api/v1/namespaces/{NS}/pods/a-0/eviction -f -");
    let refused = kubectl(plane, NS, &path).stdin(eviction.to_string()).output().await?.refused()?;
    ensure!(refused.contains("disruption budget"), "{refused}");
    change(plane, NS, "a", &json!({"disruptionBudget": {"minAvailable": null, "maxUnavailable": "50%"}}))
        .await?;
    let changed = [
        ("/spec/maxUnavailable", json!("50%")),
        ("/spec/minAvailable", Value::Null),
        ("/status/disruptionsAllowed", json!(1)),
    ];
    until(plane, NS, "pdb/a", &changed).await?;
    change(plane, NS, "a", &json!({"disruptionBudget": null})).await?;
    gone(plane, NS, "pdb").await
}

/// Pods, both Services and the endpoint follow, and clients are answered there.
async fn port_moves(plane: &Plane) -> anyhow::Result<()> {
    ask(plane, NS, "services/a:8000", "/v1/models").await?;
    change(plane, NS, "a", &json!({"port": 9000})).await?;
    let endpoint = format!("a.{NS}.svc:9000");
    until(plane, NS, "vllmcluster/a", &[("/status/endpoint", json!(endpoint))]).await?;
    for service in ["service/a", "service/a-pods"] {
        until(plane, NS, service, &[("/spec/ports/0/port", json!(9000)), ("/spec/ports/1", Value::Null)])
            .await?;
    }
    settled(plane, NS, "a").await?;
    ask(plane, NS, "services/a:9000", "/v1/models").await?;
    for pod in ["pods/a-0:9000", "pods/a-1:9000"] {
        ask(plane, NS, pod, "/v1/models").await?;
    }
    Ok(())
}

/// A broken image stops at the first pod, and a good one goes past it without a hand.
async fn broken_images(plane: &Plane) -> anyhow::Result<()> {
    apply(plane, NS, &cluster("rolled", "replicas: 2")).await?;
    // The same where no pod serves, so that nothing rolls.
    apply(plane, NS, &cluster("new", "replicas: 2\nimage: vllm/vllm-openai:missing")).await?;
    settled(plane, NS, "rolled").await?;
    let first = get(plane, NS, "pod/rolled-0").await?["metadata"]["uid"].clone();
    change(plane, NS, "rolled", &json!({"image": "vllm/vllm-openai:missing"})).await?;
    let waiting = "/status/containerStatuses/0/state/waiting/reason";
    until(plane, NS, "pod/rolled-1", &[(waiting, json!("ImagePullBackOff"))]).await?;
    let message = condition(plane, NS, "rolled", ("Reconciling", "True", "RollingOut")).await?;
    ensure!(message.contains("pod rolled-1: image vllm/vllm-openai:missing"), "{message}");
    ensure!(
        get(plane, NS, "pod/rolled-0").await?["metadata"]["uid"] == first,
        "the pod that serves went too"
    );
    change(plane, NS, "rolled", &json!({"image": "vllm/vllm-openai:v0.32.0", "model": "tiny"})).await?;
    condition(plane, NS, "new", ("Ready", "False", "ImagePull")).await?;
    change(plane, NS, "new", &json!({"image": null})).await?;
    for name in ["rolled", "new"] {
        settled(plane, NS, name).await?;
        condition(plane, NS, name, ("Ready", "True", "EnoughReplicas")).await?;
    }
    let models = ask(plane, NS, "services/rolled:8000", "/v1/models").await?;
    ensure!(models["data"][0]["id"] == "tiny", "{models}");
    Ok(())
}

/// Objects of our own that a backup brought back are taken over with their pods.
async fn restored_from_a_backup(plane: &Plane) -> anyhow::Result<()> {
    const OBJECTS: [&str; 3] = ["statefulset/kept", "service/kept", "service/kept-pods"];
    apply(plane, NS, &cluster("kept", "replicas: 1")).await?;
    settled(plane, NS, "kept").await?;
    let mut backup = Vec::new();
    for what in OBJECTS {
        backup.push(restored(get(plane, NS, what).await?)?);
    }
    kubectl(plane, NS, "delete vllmcluster kept").ok().await?;
    gone(plane, NS, "pods,services,statefulsets -l cluster=kept").await?;
    apply(plane, NS, &json!({"apiVersion": "v1", "kind": "List", "items": backup}).to_string()).await?;
    until(plane, NS, "statefulset/kept", &[("/status/readyReplicas", json!(1))]).await?;
    let pod = get(plane, NS, "pod/kept-0").await?["metadata"]["uid"].clone();
    apply(plane, NS, &cluster("kept", "replicas: 1")).await?;
    settled(plane, NS, "kept").await?;
    let owner = get(plane, NS, "vllmcluster/kept").await?["metadata"]["uid"].clone();
    for what in OBJECTS {
        until(plane, NS, what, &[("/metadata/ownerReferences/0/uid", owner.clone())]).await?;
    }
    ensure!(get(plane, NS, "pod/kept-0").await?["metadata"]["uid"] == pod, "the pod was made anew");
    Ok(())
}

/// Somebody else's Service is left alone, and the way out that the condition names is one.
async fn belongs_to_somebody_else(plane: &Plane) -> anyhow::Result<()> {
    kubectl(plane, NS, "create service clusterip theirs --tcp=80").ok().await?;
    let before = get(plane, NS, "service/theirs").await?;
    apply(plane, NS, &cluster("theirs", "")).await?;
    let message = condition(plane, NS, "theirs", ("Stalled", "True", "NameTaken")).await?;
    ensure!(message.starts_with("Service \"theirs\" was not made by this operator"), "{message}");
    ensure!(get(plane, NS, "service/theirs").await? == before, "it was written to");
    kubectl(plane, NS, "delete service theirs").ok().await?;
    eventually("the way out is one", Deadline::after(PATIENCE), || async {
        let service = get(plane, NS, "service/theirs").await.map_err(|error| format!("{error:#}"))?;
        let owner = &service["metadata"]["ownerReferences"][0]["kind"];
        if owner == "VLLMCluster" { Ok(()) } else { Err(service["metadata"].to_string()) }
    })
    .await?;
    condition(plane, NS, "theirs", ("Stalled", "False", "NothingInTheWay")).await.map(drop)
}

/// An object as a backup brings it back: without what the API server gives, and without owners, whose uids are gone.
fn restored(mut object: Value) -> anyhow::Result<Value> {
    let metadata = object["metadata"].as_object_mut().context("metadata")?;
    metadata.retain(|field, _| ["name", "namespace", "labels", "annotations"].contains(&field.as_str()));
    let fields = object.as_object_mut().context("an object")?;
    fields.remove("status");
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut)
        && spec.get("clusterIP").is_some_and(|address| address != "None")
    {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    Ok(object)
}
