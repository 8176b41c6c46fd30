//! The chart through its life: an older version, upgrades under load, removal, and back again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::availability::load::Load;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};
use testbed::render::{CHART, CRD_CHART};

use super::{NS, plane, rolled_out};
use crate::suite::{PATIENCE, get, helm, kubectl, namespace, until};

/// Writes a second, all of which only the operator judges.
const RATE: u32 = 20;
/// What KEDA is given.
const VALUES: &str = "--set scaler.keda.create=true";

/// From an older version to this one and to other values under load, removal with and without the definition, and back.
pub async fn upgraded_and_removed() -> anyhow::Result<()> {
    let plane = plane("chart-lifecycle").await?;
    namespace(&plane, "keda").await?;
    let older = tempfile::tempdir()?;
    let (old_chart, old_crds) = (older.path().join("chart"), older.path().join("chart-crds"));
    copy_with_version(Path::new(CHART), &old_chart, "0.0.9")?;
    copy_with_version(Path::new(CRD_CHART), &old_crds, "0.0.9")?;
    let install = format!("install vllm-operator-crds {} --create-namespace", old_crds.display());
    helm(&plane, NS, &install).await?.ok()?;
    let install = format!("install vllm-operator {} {VALUES} --wait --timeout 90s", old_chart.display());
    helm(&plane, NS, &install).await?.ok()?;
    rolled_out(&plane).await?;
    keda_can_call(&plane).await?;
    let authority = authority(&plane).await?;

    let load = Load::start(&plane.client().await?, RATE).await?;
    load.take();
    helm(&plane, NS, &format!("upgrade vllm-operator-crds {CRD_CHART}")).await?.ok()?;
    for values in ["replicaCount=3,log.format=text", "replicaCount=2"] {
        helm(&plane, NS, &format!("upgrade vllm-operator {CHART} {VALUES} --set {values}")).await?.ok()?;
        rolled_out(&plane).await?;
    }
    // As Helm 3 goes about it.
    let as_helm_3 =
        format!("upgrade vllm-operator {CHART} {VALUES} --server-side=false --set log.format=text");
    helm(&plane, NS, &as_helm_3).await?.ok()?;
    rolled_out(&plane).await?;
    helm(&plane, NS, "rollback vllm-operator 1").await?.ok()?;
    rolled_out(&plane).await?;
    let tally = load.stop().await?;
    eprintln!("chart: upgrades under load: {tally}");
    ensure!(tally.lost == 0 && tally.admitted > 0 && tally.refused > 0, "{tally}");
    ensure!(self::authority(&plane).await? == authority, "an upgrade has replaced the CA");

    let before = workload(&plane).await?;
    ensure!(!before.is_empty(), "nothing to lose");
    let own = ours(&plane).await?;
    for object in [
        format!("Secret {NS} vllm-operator-ca"),
        format!("Lease {NS} vllm-operator"),
        "Secret keda vllm-operator-scaler".to_owned(),
        "MutatingWebhookConfiguration <none> vllm-operator".to_owned(),
    ] {
        ensure!(own.contains(&object), "{object} is not among {own:?}");
    }
    helm(&plane, NS, "uninstall vllm-operator --wait --timeout 90s").await?.ok()?;
    nothing_is_left(&plane).await?;
    unchanged(&before, &workload(&plane).await?)?;
    helm(&plane, NS, "uninstall vllm-operator-crds --wait --timeout 90s").await?.ok()?;
    kubectl(&plane, NS, "get crd vllmclusters.training.distributed-inference.io").ok().await?;
    unchanged(&before, &workload(&plane).await?)?;

    helm(&plane, NS, &format!("install vllm-operator-crds {CRD_CHART}")).await?.ok()?;
    helm(&plane, NS, &format!("install vllm-operator {CHART} {VALUES}")).await?.ok()?;
    rolled_out(&plane).await?;
    kubectl(&plane, "availability", "scale vllmcluster c-0 --replicas=2").ok().await?;
    // Its servers are not ready: their node has gone with the load.
    until(&plane, "availability", "vllmcluster/c-0", &[("/status/replicas", json!(2))]).await?;
    plane.stop().await
}

/// A copy of a chart that calls itself another version.
fn copy_with_version(from: &Path, to: &Path, version: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_with_version(&entry.path(), &target, version)?;
        } else if entry.file_name() == "Chart.yaml" {
            let text = std::fs::read_to_string(entry.path())?;
            let own = |line: &str| line.starts_with("version:");
            let lines = text
                .lines()
                .map(|line| if own(line) { format!("version: {version}") } else { line.to_owned() });
            std::fs::write(target, lines.collect::<Vec<_>>().join("\n"))?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Waits until the operator has filled in what it keeps for KEDA.
async fn keda_can_call(plane: &Plane) -> anyhow::Result<()> {
    eventually("KEDA has its certificate", Deadline::after(PATIENCE), || async {
        let secret =
            get(plane, "keda", "secret vllm-operator-scaler").await.map_err(|error| error.to_string())?;
        if secret["data"]["tls.crt"].is_string() { Ok(()) } else { Err(secret["metadata"].to_string()) }
    })
    .await
}

/// The CA that signs.
async fn authority(plane: &Plane) -> anyhow::Result<Value> {
    let mut secret = get(plane, NS, "secret vllm-operator-ca").await?;
    ensure!(secret["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm", "{}", secret["metadata"]);
    let authority = secret["data"]["ca.crt"].take();
    ensure!(authority.is_string(), "there is no CA");
    Ok(authority)
}

/// Each cluster, StatefulSet and server: what it is, which one, and what is asked of it.
async fn workload(plane: &Plane) -> anyhow::Result<BTreeMap<String, String>> {
    let objects = get(plane, "availability", "vllmclusters,statefulsets,services,pods,scaledobjects").await?;
    let described = objects["items"].as_array().context("a list")?.iter().map(|object| {
        let metadata = &object["metadata"];
        let name = format!("{} {}", object["kind"], metadata["name"]);
        (name, format!("{} generation {} {}", metadata["uid"], metadata["generation"], object["spec"]))
    });
    Ok(described.collect())
}

fn unchanged(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> anyhow::Result<()> {
    ensure!(before.keys().eq(after.keys()), "{:?} became {:?}", before.keys(), after.keys());
    for (name, object) in before {
        ensure!(after[name] == *object, "{name}: {object} became {}", after[name]);
    }
    Ok(())
}

/// Waits until no object of any kind is left that is ours.
async fn nothing_is_left(plane: &Plane) -> anyhow::Result<()> {
    eventually("nothing of the operator is left", Deadline::after(PATIENCE), || async {
        let left = ours(plane).await.map_err(|error| format!("{error:#}"))?;
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    })
    .await
}

/// Each object that bears our name or label, as kind, namespace and name; but for the namespace, the definition's own release, and
/// what tells of the past.
async fn ours(plane: &Plane) -> anyhow::Result<Vec<String>> {
    let kinds = kubectl(plane, NS, "api-resources --verbs=list -o name").ok().await?;
    let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name,\
                   LABEL:.metadata.labels.app\\.kubernetes\\.io/name";
    let line = format!("get {} --all-namespaces --no-headers -o {columns}", kinds.join(","));
    let all = kubectl(plane, NS, &line).ok().await?;
    let ours = all.lines().filter_map(|line| {
        let [kind, namespace, name, label] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let named =
            name.starts_with("vllm-operator") || name.starts_with("sh.helm.release.v1.vllm-operator.");
        let ours = (named || label.starts_with("vllm-operator")) && kind != "Namespace";
        ours.then(|| format!("{kind} {namespace} {name}"))
    });
    Ok(ours.collect())
}
