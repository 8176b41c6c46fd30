//! What admission fills into ScaledObjects that drive a cluster, and what it refuses of them and of HPAs.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;

use super::suite::{apply, cluster, forget, get, kubectl, namespace, start_operator, stop_operator, until};

const NS: &str = "scaled-objects";

const TRIGGER: &str = r#"{type: prometheus, metadata: {serverAddress: "http://prometheus:9090", query: "sum(vllm:num_requests_waiting)", threshold: "4"}}"#;

/// A ScaledObject with these further lines of its spec, in YAML's flow form.
fn scaled_object(name: &str, cluster: &str, spec: &str) -> String {
    format!(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {{name: {name}}}\nspec:\n  scaleTargetRef: {{apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: {cluster}}}\n  {spec}\n"
    )
}

/// What is left out comes from the cluster, and older forms of triggers are brought up to date.
pub async fn filled_in(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    // Together, the ScaledObject first, as Helm does it.
    let older = "triggers: [{type: cpu, metadata: {type: Utilization, value: \"70\"}}]";
    let pods = "replicas: 2\nminReplicas: 2\nmaxReplicas: 6\nresources: {requests: {cpu: 100m}}";
    let both = format!("{}---\n{}", cluster("a", pods), scaled_object("a", "a", older));
    let told = kubectl(plane, NS, "apply -f -").stdin(both).output().await?;
    ensure!(told.status.success() && told.stderr.contains("metricType"), "{}", told.stderr);
    let stored = get(plane, NS, "scaledobject/a").await?;
    ensure!(stored["spec"]["minReplicaCount"] == 2 && stored["spec"]["maxReplicaCount"] == 6, "{stored:#}");
    let trigger = &stored["spec"]["triggers"][0];
    ensure!(
        trigger["metricType"] == "Utilization" && trigger["metadata"] == json!({"value": "70"}),
        "{trigger:#}"
    );
    kubectl(plane, NS, "delete scaledobject a").ok().await?;
    // KEDA's own webhook refuses another ScaledObject while the HPA of this one is there.
    kubectl(plane, NS, "wait --for=delete hpa/keda-hpa-a --timeout=60s").ok().await.map(drop)
}

/// Each in admission's own words: KEDA's webhook says nothing of a custom resource.
pub async fn refused(plane: &Plane) -> anyhow::Result<()> {
    for (spec, says) in [
        (format!("minReplicaCount: 0\n  triggers: [{TRIGGER}]"), "spec.minReplicaCount"),
        (format!("idleReplicaCount: 0\n  triggers: [{TRIGGER}]"), "spec.idleReplicaCount"),
        (format!("minReplicaCount: 7\n  maxReplicaCount: 9\n  triggers: [{TRIGGER}]"), "no count in common"),
        ("triggers: [{type: promtheus, metadata: {}}]".into(), "prometheus"),
        ("triggers: [{type: memory, metricType: Utilization, metadata: {value: \"80\"}}]".into(), "memory"),
        (
            "triggers: [{type: http, metadata: {targetValue: \"100\", url: \"http://www.example.com/v1/models\"}}]"
                .into(),
            "use the name of a Service",
        ),
    ] {
        let text = kubectl(plane, NS, "create -f -")
            .stdin(scaled_object("bad", "a", &spec))
            .output()
            .await?
            .refused()?;
        ensure!(
            text.contains(says) && text.contains("The ScaledObject \"bad\" is invalid"),
            "{spec}: {text}"
        );
    }
    Ok(())
}

/// A second ScaledObject, and an HPA beside one, are refused; each names the first.
pub async fn one_at_a_time(plane: &Plane) -> anyhow::Result<()> {
    apply(plane, NS, &scaled_object("first", "a", &format!("triggers: [{TRIGGER}]"))).await?;
    let second = scaled_object("second", "a", &format!("triggers: [{TRIGGER}]"));
    let text = kubectl(plane, NS, "create -f -").stdin(second).output().await?.refused()?;
    ensure!(text.contains("\"first\"") && text.contains("The ScaledObject \"second\" is invalid"), "{text}");
    let hpa = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: by-hand}\nspec:\n  scaleTargetRef: {apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: a}\n  maxReplicas: 5\n  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]\n";
    let text = kubectl(plane, NS, "create -f -").stdin(hpa).output().await?.refused()?;
    ensure!(
        text.contains("\"first\"") && text.contains("The HorizontalPodAutoscaler \"by-hand\" is invalid"),
        "{text}"
    );
    Ok(())
}

/// A range that only overlaps is warned about, shows on the cluster in the same words, and goes with its cause.
pub async fn conflict_is_shown(plane: &Plane) -> anyhow::Result<()> {
    for (max, holds) in [(9, "True"), (6, "False")] {
        let patch =
            format!(r#"patch scaledobject first --type=merge -p={{"spec":{{"maxReplicaCount":{max}}}}}"#);
        let told = kubectl(plane, NS, &patch).output().await?;
        ensure!(
            told.status.success() && told.stderr.contains("Warning") == (holds == "True"),
            "{}",
            told.stderr
        );
        let wanted = [
            ("/status/conditions/3/type", json!("ScalingConflict")),
            ("/status/conditions/3/status", json!(holds)),
        ];
        let cluster = until(plane, NS, "vllmcluster/a", &wanted).await?;
        let message = cluster["status"]["conditions"][3]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("the count stays within 2 to 6") == (holds == "True"), "{message}");
    }
    Ok(())
}

/// While the operator is down, what drives a cluster waits for it, and nobody else's ScaledObjects do.
pub async fn operator_down(plane: &Plane) -> anyhow::Result<()> {
    stop_operator(plane).await?;
    let ours = scaled_object("ours", "a", &format!("triggers: [{TRIGGER}]"));
    let text = kubectl(plane, NS, "create -f -").stdin(ours).output().await?.refused()?;
    ensure!(text.contains("failed calling webhook"), "{text}");
    let others = format!(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {{name: others}}\nspec:\n  scaleTargetRef: {{name: a-deployment}}\n  triggers: [{TRIGGER}]\n"
    );
    apply(plane, NS, &others).await?;
    kubectl(plane, NS, "label scaledobject first checked=yes").ok().await?;
    start_operator(plane).await?;
    forget(plane, NS).await
}
