//! `vllm-operator explain-scaling` on a cluster that a real ScaledObject and a real HPA drive, through its states.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::load;
use testbed::parts::operator_binary;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};
use tokio::process::Command;

use super::suite::{PATIENCE, apply, cluster, forget, kubectl, namespace, replicas, scaled_object, until};

const NS: &str = "explain";
/// The count must stay while it is asserted why.
const WINDOW: &str = "  advanced: {horizontalPodAutoscalerConfig: {behavior: {scaleDown: {stabilizationWindowSeconds: 300}}}}\n";

/// The program, and what it reaches the plane with.
struct Explain {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Explain {
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.arg("explain-scaling").args(arguments).env("KUBECONFIG", &self.kubeconfig).kill_on_drop(true);
        Ok(command.output().await?)
    }

    /// The explanation as an object.
    async fn json(&self, name: &str) -> anyhow::Result<Value> {
        let Output { status, stdout, stderr } = self.run(&[name, "-o", "json"]).await?;
        ensure!(status.code() == Some(0), "{status}: {}", String::from_utf8_lossy(&stderr));
        serde_json::from_slice(&stdout).context("no JSON")
    }

    /// Waits for a reason, and gives the explanation with it.
    async fn reason(&self, name: &str, reason: &str) -> anyhow::Result<Value> {
        eventually(&format!("{name} has the reason {reason}"), Deadline::after(PATIENCE * 2), || async {
            let seen = self.json(name).await.map_err(|error| format!("{error:#}"))?;
            if seen["reason"] == reason { Ok(seen) } else { Err(format!("{seen:#}")) }
        })
        .await
    }

    /// What it says on standard error when there is no explanation.
    async fn refusal(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } = self.run(arguments).await?;
        let stderr = String::from_utf8(stderr)?;
        ensure!(status.code() == Some(2) && stdout.is_empty(), "{status}: {stderr}");
        Ok(stderr)
    }
}

/// From a cluster that nobody drives, through load and its end, to a pause and a trigger that fails.
pub async fn through_its_states(plane: &Plane) -> anyhow::Result<()> {
    let program = tokio::task::spawn_blocking(operator_binary).await??;
    let explain = Explain { program, kubeconfig: plane.kubeconfig() };
    let name = format!("{NS}/a");
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", "replicas: 1\nmaxReplicas: 5\nargs: [--max-num-seqs=4]")).await?;
    until(plane, NS, "vllmcluster/a", &[("/status/readyReplicas", json!(1))]).await?;

    let seen = explain.reason(&name, "noDriver").await?;
    says(&seen, "why", "a is set to 1 replica because that was written last")?;
    says(&seen, "change", "kubectl -n explain scale vllmcluster a --replicas=N")?;
    without_an_explanation(plane, &explain).await?;

    let driver =
        scaled_object(NS, "queue", "a", 1, 3).replace("  triggers:", &format!("{WINDOW}  triggers:"));
    apply(plane, NS, &driver).await?;
    let seen = explain.reason(&name, "atMinimum").await?;
    says(
        &seen,
        "why",
        "because that is the minimum of HPA keda-hpa-queue: s0-prometheus at 0 per replica, target 4,",
    )?;
    says(&seen, "change", "It grows when s0-prometheus rises above 4.4 per replica")?;
    // By the name of its ScaledObject, and the namespace apart.
    ensure!(explain.json(&format!("{NS}/queue")).await?["cluster"] == "a", "not found by its ScaledObject");
    let Output { stdout, .. } = explain.run(&["--namespace", NS, "a"]).await?;
    let page = String::from_utf8(stdout)?;
    for line in [
        "ScaledObject  queue: Ready",
        "trigger       prometheus s0-prometheus: 0 per replica",
        "pods          1 of 1 ready",
    ] {
        ensure!(page.contains(line), "no {line:?} in\n{page}");
    }

    apply(plane, NS, &load::pod("http://a:8000", 40)).await?;
    let seen = explain.reason(&name, "atMaximum").await?;
    says(&seen, "why", "a is set to 3 replicas because that is the maximum of HPA keda-hpa-queue")?;
    says(&seen, "change", "Raise maxReplicaCount of ScaledObject queue")?;
    let asked = seen["triggers"][0]["asksFor"].as_i64();
    ensure!(asked > Some(3) && seen["scale"]["replicas"] == 3, "{seen:#}");

    kubectl(plane, NS, "delete pod load --wait=false").ok().await?;
    let seen = explain.reason(&name, "stabilizing").await?;
    says(&seen, "why", "the stabilization window of HPA keda-hpa-queue (300 s): now s0-prometheus")?;
    let window = &seen["hpa"]["stabilizing"];
    let moment = |field: &str| window[field].as_str().unwrap_or_default().to_owned();
    ensure!(
        window["windowSeconds"] == 300
            && !moment("notBefore").is_empty()
            && moment("notBefore") < moment("notAfter"),
        "{seen:#}"
    );
    ensure!(replicas(plane, NS, "a").await? == "3", "it went down within the window");

    kubectl(plane, NS, "annotate scaledobject queue autoscaling.keda.sh/paused=true").ok().await?;
    let seen = explain.reason(&name, "paused").await?;
    says(
        &seen,
        "why",
        "a is set to 3 replicas because ScaledObject queue is paused (annotation autoscaling.keda.sh/paused)",
    )?;
    says(&seen, "change", "annotate scaledobject queue autoscaling.keda.sh/paused- lets it scale again")?;

    let broken = driver.replace("http://prometheus:9090", "http://nobody.invalid:9090");
    apply(plane, NS, &broken).await?;
    kubectl(plane, NS, "annotate scaledobject queue autoscaling.keda.sh/paused-").ok().await?;
    let seen = explain.reason(&name, "metricsMissing").await?;
    says(
        &seen,
        "why",
        "because HPA keda-hpa-queue comes to no count: unable to get external metric explain/s0-prometheus:",
    )?;
    // The cause, which KEDA alone knows.
    let seen = eventually("KEDA's warning is in the sentence", Deadline::after(PATIENCE), || async {
        let seen = explain.json(&name).await.map_err(|error| format!("{error:#}"))?;
        says(&seen, "why", "nobody.invalid").map(|()| seen).map_err(|error| format!("{error:#}"))
    })
    .await?;
    ensure!(
        seen["triggers"][0]["missing"].as_str().is_some_and(|why| why.contains("s0-prometheus")),
        "{seen:#}"
    );
    ensure!(seen["scaledObject"]["lastWarning"]["message"].is_string(), "{seen:#}");

    kubectl(plane, NS, "delete scaledobject queue").ok().await?;
    explain.reason(&name, "noDriver").await?;
    forget(plane, NS).await
}

/// Names that are not there, and rights that are not.
async fn without_an_explanation(plane: &Plane, explain: &Explain) -> anyhow::Result<()> {
    let told = explain.refusal(&["explain/b"]).await?;
    ensure!(told.contains("no VLLMCluster \"b\"") && told.contains("as in explain/a"), "{told}");
    let told = explain.refusal(&["nowhere/b"]).await?;
    ensure!(told.contains("the namespace has no VLLMCluster at all"), "{told}");
    let told = explain.refusal(&["explain/a/b"]).await?;
    ensure!(told.contains("give NAMESPACE/NAME"), "{told}");

    let mut nobody: Value = serde_json::from_slice(&std::fs::read(plane.kubeconfig())?)?;
    nobody["users"][0]["user"]["as"] = json!("nobody");
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, nobody.to_string())?;
    let told = Explain { program: explain.program.clone(), kubeconfig }.refusal(&["explain/a"]).await?;
    for right in ["vllmclusters", "scaledobjects.keda.sh", "horizontalpodautoscalers.autoscaling"] {
        ensure!(told.contains(&format!("list {right}")), "{told}");
    }
    Ok(())
}

fn says(explanation: &Value, field: &str, text: &str) -> anyhow::Result<()> {
    let sentence = explanation[field].as_str().unwrap_or_default();
    ensure!(sentence.contains(text), "{field} does not say {text:?}: {sentence}");
    Ok(())
}
