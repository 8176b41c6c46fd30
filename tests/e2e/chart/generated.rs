//! What is generated from the charts, compared with what lies in the tree.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::parts::{Binaries, Part};
use testbed::render::{self, CHART, DEPLOY};

/// Values with which all is made that can be.
const EVERYTHING: &str = "networkPolicy.create=true,monitoring.podMonitor.create=true,monitoring.serverMonitor.create=true,\
               monitoring.prometheusRule.create=true,monitoring.labels.release=p,\
               monitoring.dashboards.create=true,monitoring.dashboards.annotations.grafana_folder=vLLM,certificates.mode=certManager,\
               certificates.certManager.issuerRef.name=ca,certificates.certManager.issuerRef.kind=ClusterIssuer,\
               certificates.certManager.caInjector=true,scaler.keda.create=true";

/// Every generated file holds what is generated now.
pub async fn is_current() -> anyhow::Result<()> {
    let generated = tokio::task::spawn_blocking(|| render::all(&Binaries::ensure()?)).await??;
    let stale: Vec<_> = generated.iter().filter(|file| file.is_stale()).map(|file| file.path).collect();
    ensure!(stale.is_empty(), "stale: {stale:?}; run `cargo testbed render`");
    Ok(())
}

/// The kustomize base has the objects of `install.yaml` and no others.
pub async fn kustomize_is_the_same() -> anyhow::Result<()> {
    let kubectl = tokio::task::spawn_blocking(Binaries::ensure).await??.path(Part::Kubectl);
    let output = Command::new(kubectl).args(["kustomize", DEPLOY]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let built = objects(&String::from_utf8(output.stdout)?)?;
    let installed = objects(&fs::read_to_string(format!("{DEPLOY}/install.yaml"))?)?;
    ensure!(built.keys().eq(installed.keys()), "{:?}, {:?}", built.keys(), installed.keys());
    for (name, object) in &installed {
        ensure!(built[name] == *object, "{name}: {} is built, {object} installed", built[name]);
    }
    Ok(())
}

/// Values that nobody has and values that cannot be are refused with their path; what is stated arrives.
pub async fn values_are_checked() -> anyhow::Result<()> {
    let helm = tokio::task::spawn_blocking(Binaries::ensure).await??.path(Part::Helm);
    let template = |set: &str| {
        let args = ["template", "vllm-operator", CHART, "--set", set];
        Command::new(&helm).args(args).output().context("starting helm")
    };
    for (set, path, said) in [
        ("replicaCounts=3", "''", "'replicaCounts' not allowed"),
        ("replicaCount=0", "'/replicaCount'", "minimum: got 0, want 1"),
        ("replicaCount=two", "'/replicaCount'", "got string, want integer"),
        ("admission.mode=no", "'/admission/mode'", "must be one of 'deny', 'warn'"),
        ("admission.modes=warn", "'/admission'", "'modes' not allowed"),
        ("certificates.leafLife=7", "'/certificates/leafLife'", "got number, want null or string"),
        ("certificates.leafLife=7w", "'/certificates/leafLife'", "does not match pattern"),
        ("lease.durationSeconds=301", "'/lease/durationSeconds'", "maximum: got 301, want 300"),
        ("admission.clientCertificates.names={a}", "'/admission/clientCertificates/names'", "maxItems"),
        (
            "certificates.mode=secret,certificates.trustSecretName=a",
            "'/certificates/trustSecretName'",
            "must be one of",
        ),
        ("scaler.keda.create=perhaps", "'/scaler/keda/create'", "got string, want boolean"),
        ("image.digest=latest", "'/image/digest'", "does not match pattern"),
        (
            "certificates.mode=certManager,scaler.keda.create=true",
            "certificates.certManager.issuerRef.kind:",
            "needs a ClusterIssuer",
        ),
        (
            "certificates.mode=secret,certificates.certManager.caInjector=true",
            "'/certificates/certManager/caInjector'",
            "value must be false",
        ),
        ("lease.durationSeconds=10", "lease.durationSeconds: 10 s", "longer than lease.renewDeadlineSeconds"),
        (
            "lease.retryPeriodSeconds=9",
            "lease.renewDeadlineSeconds: 10 s",
            "1.2 times lease.retryPeriodSeconds",
        ),
        ("shutdown.graceSeconds=15", "shutdown.terminationGracePeriodSeconds: 30 s", "together, 30 s"),
    ] {
        let output = template(set)?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{set} was taken");
        ensure!(text.contains(path) && text.contains(said), "{set}: {text}");
    }
    for (set, env, value) in [
        ("admission.mode=warn", "ADMISSION_MODE", "warn"),
        ("admission.rewriteTriggers=false", "REWRITE_TRIGGERS", "false"),
        ("shutdown.graceSeconds=0", "GRACE_SECONDS", "0"),
        ("scaler.mode=off", "SCALER", "off"),
        ("scaler.keda.namespace=elsewhere", "KEDA_NAMESPACE", "elsewhere"),
        (
            "scaler.keda.namespace=elsewhere",
            "AUTOSCALERS",
            "system:serviceaccount:elsewhere:keda-operator,system:serviceaccount:kube-system:horizontal-pod-autoscaler,system:kube-controller-manager",
        ),
        ("certificates.mode=secret", "TLS_CERT_FILE", "/etc/vllm-operator/tls/tls.crt"),
        ("certificates.trustSecretName=other", "TLS_CA_FILE", "/etc/vllm-operator/tls/ca.crt"),
        (
            "admission.clientCertificates.configMap=clients",
            "CLIENT_CA_FILE",
            "/etc/vllm-operator/webhook-clients/ca.crt",
        ),
    ] {
        let rendered = rendered(set, template(set)?)?;
        let container =
            &rendered["Deployment default vllm-operator"]["spec"]["template"]["spec"]["containers"][0];
        let found = container["env"].as_array().into_iter().flatten().find(|found| found["name"] == env);
        ensure!(found.is_some_and(|found| found["value"] == value), "{set}: {}", container["env"]);
    }
    // Helm deletes what a change of the mode leaves out, with what its user has filled in.
    let by_hand = "certificates.mode=secret,scaler.keda.create=true";
    let of_keda = rendered(by_hand, template(by_hand)?)?;
    ensure!(of_keda.contains_key("Secret keda vllm-operator-scaler"), "{:?}", of_keda.keys());
    let rendered = rendered(EVERYTHING, template(EVERYTHING)?)?;
    everything_is_rendered(&rendered)
}

/// The objects that Helm has rendered with `set`.
fn rendered(set: &str, output: Output) -> anyhow::Result<BTreeMap<String, Value>> {
    ensure!(output.status.success(), "{set}: {}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8(output.stdout)?)
}

/// With all that can be made, each object is made, and is YAML.
fn everything_is_rendered(rendered: &BTreeMap<String, Value>) -> anyhow::Result<()> {
    for name in [
        "NetworkPolicy default vllm-operator",
        "PodMonitor default vllm-operator",
        "PodMonitor default vllm-cluster",
        "PrometheusRule default vllm-operator",
        "ConfigMap default vllm-operator-dashboards",
        "Certificate default vllm-operator",
        "Certificate keda vllm-operator-scaler",
        "ClusterTriggerAuthentication  vllm-operator-scaler",
    ] {
        ensure!(rendered.contains_key(name), "{name} is not among {:?}", rendered.keys());
    }
    ensure!(!rendered.contains_key("Secret keda vllm-operator-scaler"), "cert-manager makes it");
    let groups = rendered["PrometheusRule default vllm-operator"]["spec"]["groups"].as_array();
    ensure!(groups.is_some_and(|groups| groups.len() == 2), "{groups:?}");
    let without_helm = objects(&fs::read_to_string(format!("{DEPLOY}/prometheus/podmonitor.yaml"))?)?;
    for name in ["vllm-operator", "vllm-cluster"] {
        let of_chart = &rendered[&format!("PodMonitor default {name}")]["spec"];
        let mut other = without_helm[&format!("PodMonitor  {name}")]["spec"].clone();
        // The chart's is in the operator's own namespace.
        if name == "vllm-operator" {
            other.as_object_mut().context("a spec")?.remove("namespaceSelector");
        }
        ensure!(
            *of_chart == other,
            "the PodMonitor {name} is {of_chart} in the chart, and {other} without it"
        );
    }
    let dashboards = &rendered["ConfigMap default vllm-operator-dashboards"];
    let metadata = &dashboards["metadata"];
    ensure!(
        metadata["labels"]["grafana_dashboard"] == "1" && metadata["annotations"]["grafana_folder"] == "vLLM",
        "a sidecar would not find it: {metadata}"
    );
    let dashboard = fs::read_to_string(format!("{DEPLOY}/grafana/vllm-operator.json"))?;
    ensure!(
        dashboards["data"] == serde_json::json!({"vllm-operator.json": dashboard}),
        "{}",
        dashboards["data"]
    );
    Ok(())
}

/// Objects by kind, namespace and name.
fn objects(text: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text).context("YAML")?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named = objects.into_iter().filter(|object| !object.is_null()).map(|object| {
        let metadata = &object["metadata"];
        let name = [&object["kind"], &metadata["namespace"], &metadata["name"]].map(word).join(" ");
        (name, object)
    });
    Ok(named.collect())
}
