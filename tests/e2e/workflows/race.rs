//! Two ScaledObjects for one cluster, at the same moment.

use anyhow::{Context as _, bail, ensure};
use futures::future::try_join_all;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use serde_json::json;
use testbed::addons;
use testbed::plane::Plane;

use crate::suite::{apply, cluster, forget, kubectl, namespace, start_operator, until};

const NS: &str = "race";
const ROUNDS: usize = 8;

/// One works and the other is refused with its name; where both slip through after all, the cluster tells.
pub async fn two_at_once(plane: &Plane) -> anyhow::Result<()> {
    // Each replica remembers what itself let through.
    addons::scale_operator(plane, 1).await?;
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
    let (mut both, mut winners) = (Vec::new(), Vec::new());
    for name in &names {
        let [left, right] = ["left", "right"].map(|side| scaled_object(name, side));
        let (left, right) = (left?, right?);
        let post = PostParams::default();
        let (left, right) = tokio::join!(apis[0].create(&post, &left), apis[1].create(&post, &right));
        let (winner, error) = match (left, right) {
            (Ok(_), Ok(_)) => {
                both.push(name);
                continue;
            }
            (Ok(_), Err(error)) => (format!("{name}-left"), error),
            (Err(error), Ok(_)) => (format!("{name}-right"), error),
            (Err(left), Err(right)) => bail!("nobody is let through: {left}; {right}"),
        };
        // By admission or by KEDA's webhook, whichever answers first.
        ensure!(error.to_string().contains(&winner), "{error}");
        winners.push(winner);
    }
    eprintln!("{} of {ROUNDS} pairs went through together", both.len());
    // The operator may be held up between the two for longer than it remembers the first.
    ensure!(both.len() <= 1, "{both:?} went through together");
    try_join_all(winners.iter().map(|winner| ready(plane, winner))).await?;
    try_join_all(both.into_iter().map(|name| told_and_mended(plane, name))).await?;
    forget(plane, NS).await?;
    start_operator(plane).await
}

/// KEDA works on it.
async fn ready(plane: &Plane, name: &str) -> anyhow::Result<()> {
    let wait = format!("wait --for=condition=Ready scaledobject/{name} --timeout=60s");
    kubectl(plane, NS, &wait).ok().await.map(drop)
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
    ready(plane, &format!("{name}-left")).await
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
