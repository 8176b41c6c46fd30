//! Two ScaledObjects for one cluster, at the same moment.

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use serde_json::json;
use testbed::plane::Plane;

use crate::suite::{apply, cluster, forget, kubectl, namespace, until};

const NS: &str = "race";
const ROUNDS: usize = 8;

/// At most one is left working, and who lost is told: by a refusal that names the winner, or else on the cluster.
pub async fn two_at_once(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    let names: Vec<_> = (0..ROUNDS).map(|round| format!("c{round}")).collect();
    let all: Vec<_> = names.iter().map(|name| cluster(name, "maxReplicas: 4")).collect();
    apply(plane, NS, &all.join("---\n")).await?;
    let resource = ApiResource {
        group: "keda.sh".into(),
        version: "v1alpha1".into(),
        api_version: "keda.sh/v1alpha1".into(),
        kind: "ScaledObject".into(),
        plural: "scaledobjects".into(),
    };
    // Of two clients, so that neither waits for the other's connection.
    let apis = [plane.client().await?, plane.client().await?]
        .map(|client| Api::<DynamicObject>::namespaced_with(client, NS, &resource));
    let mut both = Vec::new();
    for name in &names {
        let [left, right] = ["left", "right"].map(|side| scaled_object(name, side));
        let (left, right) = (left?, right?);
        let post = PostParams::default();
        let (left, right) = tokio::join!(apis[0].create(&post, &left), apis[1].create(&post, &right));
        match (left, right) {
            (Ok(_), Ok(_)) => both.push(name),
            (Ok(_), Err(error)) => ensure!(error.to_string().contains(&format!("{name}-left")), "{error}"),
            (Err(error), Ok(_)) => ensure!(error.to_string().contains(&format!("{name}-right")), "{error}"),
            (Err(left), Err(right)) => {
                // Each has seen the other's, and neither is stored: whoever tries again wins.
                ensure!(left.to_string().contains(name.as_str()), "{left}; {right}");
            }
        }
    }
    eprintln!("{} of {ROUNDS} pairs went through together", both.len());
    try_join_all(both.into_iter().map(|name| told_and_mended(plane, name))).await?;
    forget(plane, NS).await
}

/// The cluster says what is wrong, no more than one works, and with the other gone it goes on by itself.
async fn told_and_mended(plane: &Plane, name: &str) -> anyhow::Result<()> {
    let condition = |holds: &str| {
        [
            ("/status/conditions/3/type", json!("ScalingConflict")),
            ("/status/conditions/3/status", json!(holds)),
        ]
    };
    let cluster = until(plane, NS, &format!("vllmcluster/{name}"), &condition("True")).await?;
    let message = cluster["status"]["conditions"][3]["message"].as_str().context("a message")?;
    let named = ["left", "right"].iter().all(|side| message.contains(&format!("\"{name}-{side}\"")));
    ensure!(named && message.contains("delete all but one"), "{message}");
    // KEDA's own webhook refuses KEDA's own writes to both of them until one is gone.
    let working = kubectl(plane, NS, "get hpa -o name").ok().await?;
    let working = working.lines().filter(|hpa| hpa.contains(&format!("-{name}-"))).count();
    ensure!(working <= 1, "both work");
    kubectl(plane, NS, &format!("delete scaledobject {name}-right")).ok().await?;
    until(plane, NS, &format!("vllmcluster/{name}"), &condition("False")).await?;
    let ready = format!("wait --for=condition=Ready scaledobject/{name}-left --timeout=60s");
    kubectl(plane, NS, &ready).ok().await.map(drop)
}

fn scaled_object(cluster: &str, side: &str) -> anyhow::Result<DynamicObject> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": format!("{cluster}-{side}")},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "training.distributed-inference.io/v1alpha1",
                "kind": "VLLMCluster",
                "name": cluster,
            },
            "minReplicaCount": 1,
            "maxReplicaCount": 4,
            "triggers": [{
                "type": "prometheus",
                "metadata": {"serverAddress": "http://prometheus:9090", "query": "vector(1)", "threshold": "1"},
            }],
        },
    }))?)
}
