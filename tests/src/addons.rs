//! What a plane is given to be a cluster with KEDA, Prometheus and the operator, each by its own manifests.
//!
//! **Architecture invariant**: applied as a user would, by kubectl; nothing is patched that a user would not.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::plane::Plane;

const PROMETHEUS: &str = include_str!("../manifests/prometheus.yaml");

/// The release whose manifests and programs are used; the manifests themselves name `latest`.
const KEDA_RELEASE: &str = "2.21.0";

/// Applies KEDA and Prometheus, without waiting for them.
pub async fn install_keda_and_prometheus(plane: &Plane) -> anyhow::Result<()> {
    let mut manifest = String::new();
    let folder = plane.spec().binaries.keda_manifests();
    for part in ["general", "crd/bases", "service_account", "rbac", "manager", "metrics-server", "webhooks"] {
        append(&mut manifest, &folder.join(part))?;
    }
    let manifest = manifest
        .replace(":latest\n", &format!(":{KEDA_RELEASE}\n"))
        // Probes start when the process does: here it needs no image to be pulled.
        .replace("initialDelaySeconds: 20", "initialDelaySeconds: 1")
        + PROMETHEUS;
    plane.kubectl(&["apply", "--server-side", "-f", "-"]).stdin(manifest).ok().await?;
    Ok(())
}

/// Waits until KEDA and Prometheus serve.
pub async fn wait_for_keda_and_prometheus(plane: &Plane) -> anyhow::Result<()> {
    wait(plane, "keda", &["deployment", "--all", "--for=condition=Available"]).await?;
    wait(plane, "keda", &["apiservice/v1beta1.external.metrics.k8s.io", "--for=condition=Available"]).await
}

/// Applies the manifest that users install, without waiting for the operator.
pub async fn install_operator(plane: &Plane) -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/install.yaml");
    plane.kubectl(&["apply", "--server-side", "-f", manifest]).ok().await?;
    Ok(())
}

/// Waits until the operator is ready.
pub async fn wait_for_operator(plane: &Plane) -> anyhow::Result<()> {
    wait(plane, "vllm-operator-system", &["deployment/vllm-operator", "--for=condition=Available"]).await
}

/// The YAML files of a folder, but for kustomize's own.
fn append(manifest: &mut String, folder: &Path) -> anyhow::Result<()> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("KEDA's manifests in {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.retain(|file| file.file_stem().is_none_or(|stem| stem != "kustomization"));
    files.sort();
    for file in files {
        manifest.push_str(&fs::read_to_string(file)?);
        manifest.push_str("\n---\n");
    }
    Ok(())
}

/// `kubectl wait`, and a look at the pods if it was in vain.
async fn wait(plane: &Plane, namespace: &str, what: &[&str]) -> anyhow::Result<()> {
    let args = [&["wait", "-n", namespace, "--timeout=90s"], what].concat();
    let waited = plane.kubectl(&args).output().await?;
    if waited.status.success() {
        return Ok(());
    }
    let pods = plane.kubectl(&["get", "pods,apiservices", "-A", "-o", "wide"]).output().await?.stdout;
    anyhow::bail!("{}{}\n{pods}\nlogs: {}", waited.stdout, waited.stderr, plane.logs_dir().display())
}
