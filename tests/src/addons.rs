//! What a plane is given to be a cluster with KEDA, Prometheus, metrics-server and the operator, each by its own
//! manifests.
//!
//! **Architecture invariant**: applied as a user would, by kubectl; nothing is patched that a user would not.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use vllm_operator::leader::LONGEST;

use crate::plane::Plane;
use crate::plane::wait::{Deadline, eventually};

/// Where the operator is installed.
pub const OPERATOR: &str = "vllm-operator-system";
/// As long as any wait here.
const PATIENCE: Duration = Duration::from_secs(90);
const PROMETHEUS: &str = include_str!("../manifests/prometheus.yaml");
/// What users are told to give to their Prometheus, by the names of the files.
const PROMETHEUS_FILES: [(&str, &str); 3] = [
    ("alerts.yaml", include_str!("../../deploy/prometheus/alerts.yaml")),
    ("rules.yaml", include_str!("../../deploy/prometheus/rules.yaml")),
    ("scrape.yaml", include_str!("../../deploy/prometheus/scrape.yaml")),
];
const METRICS_SERVER: &str = include_str!("../manifests/metrics-server.yaml");

/// What lets KEDA call the scaler, as users have it.
pub const SCALER_MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/keda.yaml");

/// The release whose manifests and programs are used; the manifests themselves name `latest`.
const KEDA_RELEASE: &str = "2.21.0";

/// What is shown of each log when a wait was in vain: its last dozen of lines, or so.
const LOG_TAIL: u64 = 2000;

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
        + PROMETHEUS
        + "---\n"
        + &prometheus_files();
    plane.kubectl(&["apply", "--server-side", "-f", "-"]).stdin(manifest).ok().await?;
    Ok(())
}

/// How often this Prometheus reads servers, and how often it evaluates rules, as its configuration says it.
pub fn prometheus_intervals() -> anyhow::Result<[&'static str; 2]> {
    let value = |key: &str| {
        let value = PROMETHEUS.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
        value.with_context(|| format!("no {key} in Prometheus' configuration"))
    };
    Ok([value("scrape_interval")?, value("evaluation_interval")?])
}

/// The ConfigMap with which Prometheus has what users are told to give to theirs.
fn prometheus_files() -> String {
    let data: serde_json::Map<_, _> =
        PROMETHEUS_FILES.iter().map(|(name, text)| ((*name).to_owned(), Value::from(*text))).collect();
    serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "prometheus-vllm", "namespace": "keda"},
        "data": data,
    })
    .to_string()
}

/// Applies metrics-server, without waiting for it.
pub async fn install_metrics_server(plane: &Plane) -> anyhow::Result<()> {
    plane.kubectl(&["apply", "--server-side", "-f", "-"]).stdin(METRICS_SERVER).ok().await?;
    Ok(())
}

/// Waits until metrics-server serves: by its own account it is ready once it has usage to show.
pub async fn wait_for_metrics_server(plane: &Plane) -> anyhow::Result<()> {
    wait(plane, "kube-system", &["deployment/metrics-server", "--for=condition=Available"]).await?;
    wait(plane, "kube-system", &["apiservice/v1beta1.metrics.k8s.io", "--for=condition=Available"]).await
}

/// Applies KEDA's types without KEDA: ScaledObjects can be written, and nobody acts on them.
pub async fn install_keda_types(plane: &Plane) -> anyhow::Result<()> {
    let mut manifest = String::new();
    append(&mut manifest, &plane.spec().binaries.keda_manifests().join("crd/bases"))?;
    plane.kubectl(&["apply", "--server-side", "-f", "-"]).stdin(manifest).ok().await?;
    Ok(())
}

/// Waits until KEDA and Prometheus serve. KEDA's webhook is ignored as long as it cannot be reached: what is written
/// before that would go by it.
pub async fn wait_for_keda_and_prometheus(plane: &Plane) -> anyhow::Result<()> {
    wait(plane, "keda", &["deployment", "--all", "--for=condition=Available"]).await?;
    for what in [
        ["apiservice/v1beta1.external.metrics.k8s.io", "--for=condition=Available"],
        // KEDA injects all of its bundles in one write.
        [
            "validatingwebhookconfiguration/keda-admission",
            "--for=jsonpath={.webhooks[0].clientConfig.caBundle}",
        ],
    ] {
        wait(plane, "keda", &what).await?;
    }
    let slices = "--selector=kubernetes.io/service-name=keda-admission-webhooks";
    wait(plane, "keda", &["endpointslice", slices, "--for=jsonpath={.endpoints[*].conditions.ready}=true"])
        .await
}

/// Applies the manifest that users install, without waiting for the operator.
pub async fn install_operator(plane: &Plane) -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/install.yaml");
    plane.kubectl(&["apply", "--server-side", "-f", manifest]).ok().await?;
    Ok(())
}

/// Waits until the operator is ready: as many replicas as its Deployment wants, no others, and the Service leads to all.
pub async fn wait_for_operator(plane: &Plane) -> anyhow::Result<()> {
    wait(plane, OPERATOR, &["deployment/vllm-operator", "--for=condition=Available"]).await?;
    eventually("all of the operator's replicas can be called", Deadline::after(PATIENCE), || async {
        replicas_and_endpoints(plane).await.map_err(|error| format!("{error:#}")).and_then(|seen| {
            let [wanted, pods, endpoints, ready] = seen;
            // Until the Service leads to them, their webhooks cannot be called, and what they are asked about is refused.
            let all = wanted == pods && wanted == endpoints && wanted == ready;
            if all {
                Ok(())
            } else {
                Err(format!("{wanted} wanted, {pods} pods, {endpoints} endpoints, {ready} ready"))
            }
        })
    })
    .await
}

/// Replicas wanted, pods that exist, endpoints of the Service, and those of them that are ready.
async fn replicas_and_endpoints(plane: &Plane) -> anyhow::Result<[usize; 4]> {
    let get = |args: &'static str| async move {
        let mut line = vec!["get", "-n", OPERATOR, "-o", "json"];
        line.extend(args.split(' '));
        anyhow::Ok(serde_json::from_str::<Value>(&plane.kubectl(&line).ok().await?)?)
    };
    let deployment = get("deployment vllm-operator").await?;
    let pods = get("pods -l app.kubernetes.io/name=vllm-operator").await?;
    let slices = get("endpointslices -l kubernetes.io/service-name=vllm-operator").await?;
    let endpoints = slices["items"].as_array().into_iter().flatten();
    let endpoints: Vec<_> = endpoints.filter_map(|slice| slice["endpoints"].as_array()).flatten().collect();
    let ready = endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
    let wanted = deployment["spec"]["replicas"].as_u64().context("no count of replicas")?;
    Ok([wanted.try_into()?, pods["items"].as_array().map_or(0, Vec::len), endpoints.len(), ready])
}

/// A trigger that the operator's scaler answers, with these values of its metadata.
pub fn scaler_trigger(stated: &[(&str, &str)]) -> Value {
    let mut trigger = json!({
        "type": "external",
        "metadata": {"scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:443"},
    });
    for (key, value) in stated {
        trigger["metadata"][key] = json!(value);
    }
    trigger
}

/// Lets KEDA call the operator's scaler, and waits until every replica takes triggers for it: each looks by itself.
pub async fn introduce_scaler(plane: &Plane) -> anyhow::Result<()> {
    plane.kubectl(&["apply", "-f", SCALER_MANIFEST]).ok().await?;
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "operation": "CREATE", "namespace": "default", "name": "x",
            "kind": {"group": "keda.sh", "version": "v1alpha1", "kind": "ScaledObject"},
            "resource": {"group": "keda.sh", "version": "v1alpha1", "resource": "scaledobjects"},
            "userInfo": {"username": "admin"},
            "object": {
                "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
                "metadata": {"name": "x", "namespace": "default"},
                "spec": {
                    "scaleTargetRef": {
                        "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "x",
                    },
                    "triggers": [scaler_trigger(&[("signal", "queue"), ("targetValue", "1")])],
                },
            },
        },
    });
    let client = plane.client().await?;
    eventually("every replica takes triggers for the scaler", Deadline::after(PATIENCE), || async {
        let look = async {
            let names = ["get", "pods", "-n", OPERATOR, "-l", "app.kubernetes.io/name=vllm-operator", "-o"];
            let names = plane.kubectl(&[&names[..], &["jsonpath={.items[*].metadata.name}"]].concat());
            for pod in names.ok().await?.split_whitespace() {
                let path =
                    format!("/api/v1/namespaces/{OPERATOR}/pods/https:{pod}:9443/proxy/mutate/scaledobjects");
                let request = Request::post(path).header(CONTENT_TYPE, "application/json");
                let answer: Value = client.request(request.body(serde_json::to_vec(&review)?)?).await?;
                anyhow::ensure!(answer["response"]["allowed"] == true, "{pod}: {answer}");
            }
            Ok(())
        };
        look.await.map_err(|error: anyhow::Error| format!("{error:#}"))
    })
    .await
}

/// Wants so many replicas of the operator, and waits until they are ready.
pub async fn scale_operator(plane: &Plane, replicas: usize) -> anyhow::Result<()> {
    let replicas = format!("--replicas={replicas}");
    plane.kubectl(&["scale", "-n", OPERATOR, "deployment/vllm-operator", &replicas]).ok().await?;
    wait_for_operator(plane).await
}

/// Somebody who is not there, and holds the operator's Lease until this is dropped.
pub struct Nobody {
    _renewal: AbortOnDropHandle<()>,
}

/// Restarts the operator as one replica that does not lead: it answers, and reconciles nothing.
pub async fn let_nobody_lead(plane: &Plane, client: &Client) -> anyhow::Result<Nobody> {
    scale_operator(plane, 0).await?;
    let nobody = nobody_leads(client).await?;
    scale_operator(plane, 1).await?;
    Ok(nobody)
}

/// Gives the operator's Lease to nobody.
pub async fn nobody_leads(client: &Client) -> anyhow::Result<Nobody> {
    renew_for_nobody(client).await?;
    let client = client.clone();
    let renewal = async move {
        loop {
            tokio::time::sleep(LONGEST / 10).await;
            if let Err(error) = renew_for_nobody(&client).await {
                eprintln!("the Lease of nobody was not renewed: {error:#}");
            }
        }
    };
    Ok(Nobody { _renewal: AbortOnDropHandle::new(tokio::spawn(renewal)) })
}

async fn renew_for_nobody(client: &Client) -> anyhow::Result<()> {
    let now = MicroTime(Timestamp::now());
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "vllm-operator"},
        "spec": {
            "holderIdentity": "nobody", "leaseDurationSeconds": LONGEST.as_secs(), "leaseTransitions": 0,
            "acquireTime": now, "renewTime": now,
        },
    });
    let leases = Api::<Lease>::namespaced(client.clone(), OPERATOR);
    leases.patch("vllm-operator", &PatchParams::apply("testbed").force(), &Patch::Apply(lease)).await?;
    Ok(())
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

/// `kubectl wait`, and if it was in vain, what the namespace looks like.
async fn wait(plane: &Plane, namespace: &str, what: &[&str]) -> anyhow::Result<()> {
    let args = [&["wait", "-n", namespace, "--timeout=90s"], what].concat();
    let waited = plane.kubectl(&args).output().await?;
    if waited.status.success() {
        return Ok(());
    }
    let mut seen = vec![format!("`{}`: {}{}", waited.command, waited.stdout, waited.stderr)];
    for look in [
        &["get", "pods,endpointslices", "-n", namespace, "-o", "wide"][..],
        &["get", "apiservices"],
        &["describe", "deployments", "-n", namespace],
        &["get", "events", "-n", namespace, "--sort-by=.metadata.creationTimestamp"],
    ] {
        // What cannot be seen takes nothing from the rest.
        seen.push(match plane.kubectl(look).output().await {
            Ok(output) => format!("$ {}\n{}{}", output.command, output.stdout, output.stderr),
            Err(error) => format!("{error:#}\n"),
        });
    }
    seen.extend(log_tails(&plane.logs_dir().join("pods"), namespace));
    seen.push(format!("logs: {}", plane.logs_dir().display()));
    anyhow::bail!(seen.join("\n"))
}

/// The ends of the logs of a namespace's pods, each after its name. What cannot be read is named, with the reason.
fn log_tails(folder: &Path, namespace: &str) -> Vec<String> {
    let prefix = format!("{namespace}_");
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    files.retain(|file| file.file_name().to_string_lossy().starts_with(&prefix));
    files.sort_by_key(fs::DirEntry::file_name);
    let tail = |path: &Path| -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    files
        .iter()
        .map(|file| {
            let end = tail(&file.path()).unwrap_or_else(|error| error.to_string());
            format!("== {}\n{}\n", file.file_name().to_string_lossy(), end.trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use vllm_operator::api::names::{APP, COMPONENT, LABEL_APP, LABEL_CLUSTER, LABEL_COMPONENT, PORT_NAME};

    use super::*;

    #[test]
    fn tails_are_of_the_namespaces_own_logs_and_short() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("keda_b-1_c.log", "second".to_owned()),
            ("keda_a-1_c.log", format!("{}first\n", "x".repeat(9000))),
            ("kedaother_a-1_c.log", "another's".to_owned()),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let tails = log_tails(folder.path(), "keda");
        assert_eq!(tails.len(), 2, "{tails:?}");
        let (long, short) = (&tails[0], &tails[1]);
        assert!(long.starts_with("== keda_a-1_c.log\nxxx") && long.ends_with("xfirst\n"), "{long}");
        assert!(long.len() < 2100, "{} bytes", long.len());
        assert_eq!(short, "== keda_b-1_c.log\nsecond\n");
        assert_eq!(log_tails(&folder.path().join("none"), "keda"), [""; 0]);
    }

    #[test]
    fn each_way_to_load_the_rule_has_the_same_and_finds_the_same_pods() {
        let [_, rules, scrape] =
            PROMETHEUS_FILES.map(|(_, text)| serde_saphyr::from_str::<Value>(text).unwrap());
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(include_str!("../../deploy/prometheus/podmonitor.yaml")).unwrap();
        let [operator, servers, rule] = objects.as_slice() else { panic!("{objects:?}") };
        assert_eq!(rule["spec"]["groups"], rules["groups"]);

        let selected = |labels: &Value| {
            let labels = labels.as_object().expect("labels");
            let stated: Vec<_> = labels
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_str().expect("a word")))
                .collect();
            stated.join(",")
        };
        let own = serde_json::json!({"app.kubernetes.io/name": "vllm-operator"});
        let of_servers = serde_json::json!({LABEL_APP: APP, LABEL_COMPONENT: COMPONENT});
        for (at, monitor, labels, port) in [(0, operator, own, "plain"), (1, servers, of_servers, PORT_NAME)]
        {
            let scrape = &scrape["scrape_configs"][at];
            let discovery = &scrape["kubernetes_sd_configs"][0];
            assert_eq!(discovery["selectors"][0]["label"], *selected(&labels));
            assert_eq!(monitor["spec"]["selector"]["matchLabels"], labels);
            let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
            assert_eq!([&scrape["relabel_configs"][0]["regex"], &endpoint["port"]], [port; 2]);
            assert_eq!(scrape["honor_labels"], endpoint["honorLabels"]);
            // The job of the one is the value of the label that gives its name to the other's.
            let label = monitor["spec"]["jobLabel"].as_str().expect("a label");
            assert_eq!(scrape["job_name"], labels[label]);
        }
        assert_eq!(
            scrape["scrape_configs"][0]["kubernetes_sd_configs"][0]["namespaces"]["names"],
            operator["spec"]["namespaceSelector"]["matchNames"]
        );
        assert_eq!(servers["spec"]["podTargetLabels"], serde_json::json!([LABEL_CLUSTER]));
    }
}
