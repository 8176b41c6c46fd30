//! The chart as it is installed the first time.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::plane::Plane;
use testbed::render::{CHART, CRD_CHART};

use super::{NS, difference, plane, rendered, rolled_out};
use crate::suite::{apply, cluster, get, helm, kubectl, namespace, until};

/// Two commands, `helm test`, and pods that are what was rendered; then the same with settings.
pub async fn answers_and_is_what_was_rendered() -> anyhow::Result<()> {
    let plane = plane("chart-install").await?;
    helm(&plane, NS, &format!("install vllm-operator-crds {CRD_CHART} --create-namespace")).await?.ok()?;
    kubectl(&plane, NS, &format!("label namespace {NS} pod-security.kubernetes.io/enforce=restricted"))
        .ok()
        .await?;
    let installed =
        helm(&plane, NS, &format!("install vllm-operator {CHART} --wait --timeout 90s")).await?.ok()?;
    ensure!(installed.contains(&format!("helm test --namespace {NS} vllm-operator")), "{installed}");
    rolled_out(&plane).await?;
    are_as_rendered(&plane, &[("ADMISSION_MODE", None), ("LOG_FORMAT", None)]).await?;
    let tested = helm(&plane, NS, "test vllm-operator --timeout 60s").await?.ok()?;
    ensure!(tested.contains("Succeeded"), "{tested}");
    let left =
        kubectl(&plane, NS, "get pods,serviceaccounts,roles,rolebindings,configmaps -o name").ok().await?;
    ensure!(!left.contains("vllm-operator-test"), "{left}");

    // Whoever asks for less gets less, and the servers get what they are to have.
    let values = "--set admission.mode=warn,log.format=text,lease.durationSeconds=12,replicaCount=1,watchNamespaces={default}";
    helm(&plane, NS, &format!("upgrade vllm-operator {CHART} {values}")).await?.ok()?;
    rolled_out(&plane).await?;
    let settings = [
        ("ADMISSION_MODE", Some("warn")),
        ("LOG_FORMAT", Some("text")),
        ("LEASE_DURATION_SECONDS", Some("12")),
        ("WATCH_NAMESPACES", Some("default")),
    ];
    are_as_rendered(&plane, &settings).await?;
    apply(&plane, "default", &cluster("a", "replicas: 1\nmaxReplicas: 3")).await?;
    let warned = kubectl(&plane, "default", "scale vllmcluster a --replicas=2").output().await?;
    ensure!(warned.status.success(), "{}", warned.stderr);
    is_nobodys_elsewhere(&plane).await?;
    helm(&plane, NS, "test vllm-operator --timeout 60s").await?.ok()?;

    // A test that fails says so: admission is not there.
    crate::suite::stop_operator(&plane).await?;
    let tested = helm(&plane, NS, "test vllm-operator --timeout 60s").await?;
    ensure!(!tested.status.success(), "{}", tested.stdout);
    plane.stop().await
}

/// The Deployment and each of its pods are what Helm rendered, and each process has these variables in its environment.
async fn are_as_rendered(plane: &Plane, settings: &[(&str, Option<&str>)]) -> anyhow::Result<()> {
    let rendered = rendered(plane).await?;
    let deployment = rendered.iter().find(|object| object["kind"] == "Deployment").context("a Deployment")?;
    let found = get(plane, NS, "deployment vllm-operator").await?;
    let mut differences: Vec<String> =
        difference(&deployment["spec"], &found["spec"], "spec").into_iter().collect();
    let pods = get(plane, NS, "pods -l app.kubernetes.io/name=vllm-operator").await?;
    let pods = pods["items"].as_array().context("pods")?;
    let count = deployment["spec"]["replicas"].as_u64().context("a count")?;
    ensure!(pods.len() as u64 == count, "{} pods, {count} wanted", pods.len());
    for pod in pods {
        differences.extend(difference(&deployment["spec"]["template"]["spec"], &pod["spec"], "pod.spec"));
    }
    ensure!(differences.is_empty(), "{differences:?}");
    let processes = plane.processes("vllm-operator")?;
    ensure!(processes.len() as u64 == count, "{} processes, {count} wanted", processes.len());
    for process in processes {
        for (name, wanted) in settings {
            let found = process.variable(name);
            ensure!(found.as_deref() == *wanted, "{name} is {found:?}, and {wanted:?} was stated");
        }
        let arguments = process.read("cmdline")?;
        ensure!(arguments.ends_with("\0run\0"), "{arguments:?}");
    }
    rights_are_as_rendered(plane, &rendered).await
}

/// Roles are what Helm rendered.
async fn rights_are_as_rendered(plane: &Plane, rendered: &[Value]) -> anyhow::Result<()> {
    for object in rendered.iter().filter(|object| object["rules"].is_array()) {
        let (kind, name) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]["name"]);
        let name = name.as_str().context("a name")?;
        let found = get(plane, NS, &format!("{kind} {name}")).await?;
        ensure!(found["rules"] == object["rules"], "{kind} {name}: {}", found["rules"]);
    }
    Ok(())
}

/// Where namespaces are named, others are not judged, not reconciled, and not written to.
async fn is_nobodys_elsewhere(plane: &Plane) -> anyhow::Result<()> {
    const ELSEWHERE: &str = "elsewhere";
    namespace(plane, ELSEWHERE).await?;
    let unfilled =
        kubectl(plane, ELSEWHERE, "apply -f -").stdin(cluster("a", "maxReplicas: 3")).output().await?;
    ensure!(unfilled.stderr.contains("state spec.replicas"), "{}", unfilled.stderr);
    apply(plane, ELSEWHERE, &cluster("a", "replicas: 1")).await?;
    // The one that was made before it has been reconciled, so this one would have been.
    apply(plane, "default", &cluster("b", "replicas: 1")).await?;
    until(plane, "default", "vllmcluster/b", &[("/status/observedGeneration", json!(1))]).await?;
    let elsewhere = get(plane, ELSEWHERE, "vllmcluster/a").await?;
    ensure!(elsewhere["status"].is_null(), "{}", elsewhere["status"]);
    for (namespace, verb, resource, allowed) in [
        ("default", "create", "statefulsets.apps", "yes"),
        (ELSEWHERE, "create", "statefulsets.apps", "no"),
        (ELSEWHERE, "patch", "vllmclusters/status", "no"),
        (ELSEWHERE, "list", "vllmclusters", "yes"),
    ] {
        let line = format!("auth can-i {verb} {resource} --as=system:serviceaccount:{NS}:vllm-operator");
        let told = kubectl(plane, namespace, &line).output().await?.stdout;
        ensure!(told.trim() == allowed, "{verb} {resource} in {namespace}: {told}");
    }
    Ok(())
}
