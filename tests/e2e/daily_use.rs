//! The commands of daily use, each with its effect.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;

use super::suite::{apply, cluster, forget, get, kubectl, namespace, replicas, scaled_object, until};

const NS: &str = "daily-use";

/// `kubectl scale` reaches the StatefulSet, its pods and the status.
pub async fn scale_by_hand(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("my-cluster", "replicas: 2\nmaxReplicas: 5\nargs: [--max-num-seqs=4]")).await?;
    ensure!(replicas(plane, NS, "my-cluster").await? == "2");
    kubectl(plane, NS, "scale vllmcluster my-cluster --replicas=3").ok().await?;
    let wanted = [
        ("/spec/replicas", json!(3)),
        ("/status/replicas", json!(3)),
        ("/status/readyReplicas", json!(3)),
        ("/status/selector", json!("app=vllm-cluster,cluster=my-cluster,component=vllm-server")),
        ("/status/statefulSetName", json!("my-cluster")),
    ];
    let cluster = until(plane, NS, "vllmcluster/my-cluster", &wanted).await?;
    ensure!(cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"], "{cluster:#}");
    let set = get(plane, NS, "statefulset/my-cluster").await?;
    ensure!(set["spec"]["replicas"] == 3, "{set:#}");
    let pods = get(plane, NS, "pods -l app=vllm-cluster,cluster=my-cluster,component=vllm-server").await?;
    ensure!(pods["items"].as_array().is_some_and(|pods| pods.len() == 3), "{pods:#}");
    let scale = kubectl(
        plane,
        NS,
        "get --raw /apis/training.distributed-inference.io/v1alpha1/namespaces/daily-use/vllmclusters/my-cluster/scale",
    );
    let scale: serde_json::Value = serde_json::from_str(&scale.ok().await?)?;
    ensure!(
        scale["status"]["replicas"] == 3 && scale["status"]["selector"] == cluster["status"]["selector"],
        "{scale}"
    );
    let table = kubectl(plane, NS, "get vllm my-cluster").ok().await?;
    let columns: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(columns == ["NAME", "READY", "SERVING", "WANTED", "MODEL", "REASON", "AGE"], "{table}");
    let explained = kubectl(plane, NS, "explain vllmcluster.spec.replicas").ok().await?;
    ensure!(explained.contains("How many vLLM servers to run"), "{explained}");
    Ok(())
}

/// A ScaledObject becomes ready, and its HPA points at the cluster.
pub async fn scaled_object_and_hpa(plane: &Plane) -> anyhow::Result<()> {
    apply(plane, NS, &scaled_object(NS, "my-cluster-scaler", "my-cluster", 1, 4)).await?;
    kubectl(plane, NS, "wait --for=condition=Ready scaledobject/my-cluster-scaler --timeout=60s")
        .ok()
        .await?;
    let yaml = kubectl(plane, NS, "get scaledobject my-cluster-scaler -o yaml").ok().await?;
    ensure!(yaml.contains("hpaName: keda-hpa-my-cluster-scaler"), "{yaml}");
    let hpa = kubectl(plane, NS, "get hpa").ok().await?;
    ensure!(hpa.contains("keda-hpa-my-cluster-scaler") && hpa.contains("VLLMCluster/my-cluster"), "{hpa}");
    forget(plane, NS).await
}
