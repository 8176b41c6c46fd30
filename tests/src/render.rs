//! What is generated from the Helm chart: the manifests for those who install without Helm, and the copies that the charts hold
//! of what lies outside of them, where Helm cannot read; and, beside it, the page of all messages.
//!
//! **Architecture invariant**: the chart is the source of manifests. Nothing is added to what it renders but the Namespace, which
//! Helm makes by itself, and the words at a file's head.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use vllm_operator::api::crd;
use vllm_operator::commands::manifest;

use crate::messages;
use crate::parts::{Binaries, Part};

/// The operator's chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart");
/// The chart of the CustomResourceDefinition.
pub const CRD_CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart-crds");
/// The folder of all that is applied.
pub const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// The folder of all.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const NAMESPACE: &str = "vllm-operator-system";

const OPERATOR_HEAD: &str = "\
# The operator: its namespace, identity, Deployment, Services and admission webhooks. `install.yaml` is this file behind the
# CustomResourceDefinition. Generated from the chart in `chart/` by `cargo testbed render`; a test compares them.
apiVersion: v1
kind: Namespace
metadata:
  name: vllm-operator-system
  labels:
    app.kubernetes.io/name: vllm-operator
    pod-security.kubernetes.io/enforce: restricted
---
";

const KEDA_HEAD: &str = "\
# What KEDA needs to call the operator's external scaler: apply it once both KEDA and the operator are installed, and again
# whenever KEDA was reinstalled. With Helm: scaler.keda.create.
#
#   kubectl apply -f deploy/keda.yaml
#
# KEDA runs in the namespace keda here. Where it runs in another one, change it in this file, and give the operator the flag
# --keda-namespace (KEDA_NAMESPACE). With cert-manager in place of the operator's own CA: docs/certificates.md.
#
# A trigger refers to it by
#
#   authenticationRef: {kind: ClusterTriggerAuthentication, name: vllm-operator-scaler}
#
# Generated from the chart in `chart/` by `cargo testbed render`; a test compares them.
---
";

/// A generated file.
#[derive(Debug)]
pub struct Generated {
    /// Where it lies in the tree.
    pub path: &'static str,
    /// What it must hold.
    pub text: String,
}

impl Generated {
    /// Where it lies.
    pub fn file(&self) -> PathBuf {
        Path::new(ROOT).join(self.path)
    }

    /// Whether the file holds something else.
    pub fn is_stale(&self) -> bool {
        fs::read_to_string(self.file()).ok().as_ref() != Some(&self.text)
    }
}

/// `cargo testbed render`: writes what is stale, and names it.
pub fn main() -> anyhow::Result<()> {
    let binaries = Binaries::ensure()?;
    for generated in all(&binaries)?.iter().filter(|generated| generated.is_stale()) {
        let file = generated.file();
        fs::write(&file, &generated.text).with_context(|| format!("writing {}", file.display()))?;
        println!("{}", generated.path);
    }
    Ok(())
}

/// Every generated file, as it is to be.
pub fn all(binaries: &Binaries) -> anyhow::Result<Vec<Generated>> {
    let helm = binaries.path(Part::Helm);
    let operator = OPERATOR_HEAD.to_owned() + &template(&helm, &["--no-hooks"])?;
    let keda = ["--set=scaler.keda.create=true", "--show-only=templates/keda.yaml"];
    let copy = |from: &str| {
        let path = Path::new(DEPLOY).join(from);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    Ok(vec![
        Generated { path: "deploy/install.yaml", text: manifest::after_definition(&operator) },
        Generated { path: "deploy/operator.yaml", text: operator },
        Generated { path: "deploy/keda.yaml", text: KEDA_HEAD.to_owned() + &template(&helm, &keda)? },
        Generated { path: "deploy/chart-crds/templates/crd.yaml", text: kept_definition()? },
        Generated { path: "deploy/chart/files/alerts.yaml", text: copy("prometheus/alerts.yaml")? },
        Generated { path: "deploy/chart/files/rules.yaml", text: copy("prometheus/rules.yaml")? },
        Generated {
            path: "deploy/chart/files/vllm-operator.json",
            text: copy("grafana/vllm-operator.json")?,
        },
        Generated { path: "docs/messages.md", text: messages::page()? },
    ])
}

/// What `helm template` makes of the chart, without the lines that name its files.
fn template(helm: &Path, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(helm)
        .args(["template", "vllm-operator", CHART, "--namespace", NAMESPACE])
        .args(args)
        .output()
        .with_context(|| format!("starting {}", helm.display()))?;
    ensure!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("what helm rendered")?;
    let lines = text.lines().filter(|line| !line.starts_with("# Source: "));
    let text = lines.fold(String::new(), |text, line| text + line + "\n").replace("\n\n---\n", "\n---\n");
    Ok(text.strip_prefix("---\n").unwrap_or(&text).to_owned())
}

/// The definition as a template that Helm upgrades and does not remove.
fn kept_definition() -> anyhow::Result<String> {
    let definition = crd::yaml();
    ensure!(!definition.contains("{{"), "Helm would take a part of the definition for a template");
    let (head, body) = definition.split_once("\nmetadata:\n").context("a definition has metadata")?;
    Ok(format!(
        "{head}\nmetadata:\n  annotations:\n    # With it would go every VLLMCluster.\n    helm.sh/resource-policy: keep\n{body}"
    ))
}
