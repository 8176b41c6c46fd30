//! Each rule of the operator's roles is needed, and together they are enough.
//!
//! **Architecture invariant**: the rules are read from the roles that were installed, so that a new one is tried as well.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};
use testbed::render::{CHART, CRD_CHART};

use super::{NS, options, start as start_plane};
use crate::suite::{PATIENCE, apply, cluster, get, helm, kubectl, namespace, scaled_object};

/// Where clusters are made.
const WORK: &str = "rights";
/// Who the operator is.
const OPERATOR: &str = "system:serviceaccount:vllm-operator-system:vllm-operator";
/// All that the operator is given.
const ROLES: [(&str, &str); 4] = [
    ("clusterrole/vllm-operator", NS),
    ("clusterrole/vllm-operator-servers", NS),
    ("role/vllm-operator", NS),
    ("role/vllm-operator-scaler", "keda"),
];

/// With one rule removed at a time, the operator or a writer is told of what it may not do; with all of them, nobody is.
pub async fn each_is_needed_and_all_are_enough() -> anyhow::Result<()> {
    let mut options = options("chart-rights").await?;
    options.owner_references_checked = true;
    let plane = start_plane(options).await?;
    namespace(&plane, "keda").await?;
    namespace(&plane, WORK).await?;
    kubectl(&plane, WORK, "create serviceaccount servers").ok().await?;
    // What a cpu trigger needs of pods that request nothing themselves.
    let defaults = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "defaults"},
        "spec": {"limits": [{"type": "Container", "defaultRequest": {"cpu": "10m"}}]}});
    apply(&plane, WORK, &defaults.to_string()).await?;
    helm(&plane, NS, &format!("install vllm-operator-crds {CRD_CHART} --create-namespace")).await?.ok()?;
    // A new CA is served as soon as it is trusted, and nobody is waited for.
    let values = "--set replicaCount=1,scaler.keda.create=true,log.format=text,certificates.propagationDelay=500ms,\
                  shutdown.graceSeconds=0";
    helm(&plane, NS, &format!("install vllm-operator {CHART} {values} --wait --timeout 90s")).await?.ok()?;

    let mut unneeded = Vec::new();
    for (role, role_namespace) in ROLES {
        let rules = get(&plane, role_namespace, role).await?["rules"].take();
        for (at, rule) in rules.as_array().context("rules")?.iter().enumerate() {
            let mut fewer = rules.clone();
            fewer.as_array_mut().context("rules")?.remove(at);
            stop(&plane).await?;
            give(&plane, role_namespace, role, &fewer).await?;
            start(&plane).await?;
            let name = format!("{}-{at}", role.replace('/', "-"));
            if let Err(error) = is_missed(&plane, &name, rule).await {
                let told = format!("{role} rule {at} {rule}: {error:#}");
                eprintln!("{told}");
                unneeded.push(told);
            }
            give(&plane, role_namespace, role, &rules).await?;
        }
    }
    ensure!(unneeded.is_empty(), "{}", unneeded.join("\n"));

    stop(&plane).await?;
    let before = plane.writes_by(OPERATOR)?.len();
    start(&plane).await?;
    testbed::addons::wait_for_operator(&plane).await?;
    let answers = exercise(&plane, "all").await;
    crate::suite::until(&plane, WORK, "vllmcluster/all", &[("/status/readyReplicas", json!(1))]).await?;
    let told = answers + &log(&plane)? + &forbidden(&plane, before)?;
    ensure!(!told.contains("cannot"), "{told}");
    plane.stop().await
}

/// Waits until somebody is told that what only this rule allows is forbidden.
async fn is_missed(plane: &Plane, name: &str, rule: &Value) -> anyhow::Result<()> {
    let words = |field: &str| -> Vec<String> {
        let words = rule[field].as_array().into_iter().flatten();
        words.filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    let (verbs, resources) = (words("verbs"), words("resources"));
    let mut denials = Vec::new();
    for resource in &resources {
        denials.extend(verbs.iter().map(|verb| format!("cannot {verb} resource \"{resource}\"")));
    }
    // How owner references are refused.
    if resources.iter().any(|resource| resource.ends_with("/finalizers")) {
        denials.push("cannot set blockOwnerDeletion".into());
    }
    let before = plane.writes_by(OPERATOR)?.len();
    let what = format!("without {rule}, one of {denials:?} is told");
    eventually(&what, Deadline::after(PATIENCE / 2), || async {
        let told = exercise(plane, name).await
            + &log(plane).map_err(|error| format!("{error:#}"))?
            + &forbidden(plane, before).map_err(|error| format!("{error:#}"))?;
        if denials.iter().any(|denial| told.contains(denial)) { Ok(()) } else { Err(told) }
    })
    .await
}

/// Has the operator do everything that it does, as far as it can; gives what writers were told.
async fn exercise(plane: &Plane, name: &str) -> String {
    let spec = "replicas: 1\naccelerator: {count: 0}\n\
                disruptionBudget: {maxUnavailable: 1}\npodTemplate: {spec: {serviceAccountName: servers}}";
    let trigger = json!({"spec": {"triggers": [
        {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "50"}}]}})
    .to_string();
    let unbudgeted = json!({"spec": {"disruptionBudget": null}}).to_string();
    let patch = |kind: &str, patch: &str| {
        kubectl(plane, WORK, &format!("patch {kind} {name} --type=merge --patch-file=/dev/stdin"))
            .stdin(patch.to_owned())
    };
    let answers = [
        apply(plane, WORK, &cluster(name, spec)).await,
        apply(plane, WORK, &scaled_object(WORK, name, name, 1, 3)).await,
        patch("scaledobject", &trigger).ok().await,
        patch("vllmcluster", &unbudgeted).ok().await,
    ];
    let told = answers.into_iter().filter_map(Result::err).map(|error| format!("{error:#}\n"));
    told.collect::<Vec<_>>().concat()
}

/// What the API server tells of the operator's writes since so many of them: of an event that cannot be written, the operator
/// says nothing itself.
fn forbidden(plane: &Plane, before: usize) -> anyhow::Result<String> {
    let writes = plane.writes_by(OPERATOR)?.into_iter().skip(before).filter(|write| write.code == 403);
    let told = writes.map(|write| format!("cannot {} resource \"{}\"\n", write.verb, write.resource));
    Ok(told.collect::<Vec<_>>().concat())
}

/// What the pods of the operator have written since they were started.
fn log(plane: &Plane) -> anyhow::Result<String> {
    logs(plane)?.into_iter().map(|file| Ok(fs::read_to_string(file)?)).collect()
}

/// The files that the operator's pods write to.
fn logs(plane: &Plane) -> anyhow::Result<Vec<PathBuf>> {
    let files = fs::read_dir(plane.logs_dir().join("pods"))?;
    let mut files: Vec<_> = files.map(|file| Ok(file?.path())).collect::<anyhow::Result<_>>()?;
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NS)));
    Ok(files)
}

/// Ends the operator, and forgets what it made and what it wrote.
async fn stop(plane: &Plane) -> anyhow::Result<()> {
    crate::suite::stop_operator(plane).await?;
    kubectl(plane, NS, "delete secret/vllm-operator-ca lease/vllm-operator --ignore-not-found").ok().await?;
    kubectl(plane, "keda", "patch secret vllm-operator-scaler --type=merge -p {\"data\":null}").ok().await?;
    for file in logs(plane)? {
        fs::write(file, "")?;
    }
    Ok(())
}

async fn start(plane: &Plane) -> anyhow::Result<()> {
    kubectl(plane, NS, "scale deployment vllm-operator --replicas=1").ok().await.map(drop)
}

/// Replaces the rules of a role.
async fn give(plane: &Plane, namespace: &str, role: &str, rules: &Value) -> anyhow::Result<()> {
    let patch = json!([{"op": "replace", "path": "/rules", "value": rules}]).to_string();
    let line = format!("patch {role} --type=json --patch-file=/dev/stdin");
    kubectl(plane, namespace, &line).stdin(patch).ok().await.map(drop)
}
