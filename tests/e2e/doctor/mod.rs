//! `vllm-operator doctor` on an installation that is broken in one way after the other, and kubectl's plugin.
//!
//! **Architecture invariant**: what is broken is put back before the next, and then the doctor says nothing.

mod broken;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::addons;
use testbed::parts::{Part, operator_binary};
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Plane, PlaneOptions};
use tokio::process::Command;

use self::broken::{BROKEN, Broken, Change};
use super::suite::{PATIENCE, TESTBED, apply, cluster, install_by_helm, kubectl, namespace, until};

/// Where the operator runs.
const OPERATOR: &str = "vllm-operator-system";
/// Where clusters are made.
const WORK: &str = "doctor";
/// Waits of the operator that would be waited for here.
const VALUES: &str = "--set scaler.keda.create=true,certificates.propagationDelay=500ms,shutdown.graceSeconds=0,\
                      lease.durationSeconds=4,lease.renewDeadlineSeconds=3,lease.retryPeriodSeconds=1";

/// Each way to break it is found, and each time it is whole nothing is said.
pub async fn finds_what_is_broken() -> anyhow::Result<()> {
    let doctor = Doctor::new().await?;
    let plane = &doctor.plane;
    doctor.install().await?;
    doctor.is_content("at first").await?;
    doctor.says_so().await?;
    is_a_plugin(plane, &doctor.program).await?;
    let mut wrong = Vec::new();
    for broken in BROKEN {
        let started = Instant::now();
        let kept = doctor.break_it(broken).await?;
        let found = doctor.finds(broken).await;
        doctor.mend(broken, kept).await?;
        doctor.is_content(&format!("after {}", broken.name)).await?;
        eprintln!(
            "doctor: {:5.1} s  {}: {}",
            started.elapsed().as_secs_f64(),
            broken.name,
            broken.finds.join(", ")
        );
        wrong.extend(found.err().map(|error| format!("{error:#}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    doctor.plane.stop().await
}

struct Doctor {
    plane: Plane,
    program: PathBuf,
}

impl Doctor {
    async fn new() -> anyhow::Result<Self> {
        let program = tokio::task::spawn_blocking(operator_binary).await??;
        let mut options = PlaneOptions::new("doctor", TESTBED);
        options.operator_exe = Some(program.clone());
        Ok(Self { plane: Plane::start(options).await?, program })
    }

    /// All that belongs to it, and a cluster that is scaled by the operator's scaler and by cpu.
    async fn install(&self) -> anyhow::Result<()> {
        let plane = &self.plane;
        addons::install_keda_and_prometheus(plane).await?;
        addons::install_metrics_server(plane).await?;
        install_by_helm(plane, VALUES).await?;
        addons::wait_for_operator(plane).await?;
        addons::wait_for_keda_and_prometheus(plane).await?;
        addons::wait_for_metrics_server(plane).await?;
        addons::introduce_scaler(plane).await?;
        namespace(plane, WORK).await?;
        let spec = "replicas: 1\nmaxReplicas: 4\naccelerator: {count: 0}\nresources: {requests: {cpu: 500m}}";
        apply(plane, WORK, &cluster("a", spec)).await?;
        let triggers = json!([
            {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "50"}},
            {"type": "external", "metadata": {
                "scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:443", "signal": "queue", "targetValue": "5",
            }},
        ]);
        apply(plane, WORK, &broken::scaled_object("a", 1, 4, &triggers).to_string()).await?;
        until(plane, WORK, "vllmcluster/a", &[("/status/readyReplicas", json!(1))]).await.map(drop)
    }

    /// The diagnosis, and the exit code.
    async fn diagnosis(&self) -> anyhow::Result<(Value, i32)> {
        let output = self.command().args(["--output", "json"]).output().await?;
        let code = output.status.code().context("a code")?;
        let diagnosis = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{code}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok((diagnosis, code))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("doctor").env("KUBECONFIG", self.plane.kubeconfig()).kill_on_drop(true);
        command
    }

    /// Nothing is found, everything was looked at, and the exit code says so.
    async fn is_content(&self, when: &str) -> anyhow::Result<()> {
        eventually(&format!("nothing is found {when}"), Deadline::after(PATIENCE), || async {
            let (diagnosis, code) = self.diagnosis().await.map_err(|error| format!("{error:#}"))?;
            let wanted = json!({"namespace": OPERATOR, "findings": [], "unseen": []});
            if diagnosis == wanted && code == 0 { Ok(()) } else { Err(format!("{code}: {diagnosis:#}")) }
        })
        .await
    }

    /// In one line.
    async fn says_so(&self) -> anyhow::Result<()> {
        let output = self.command().output().await?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(text == "vllm-operator in namespace vllm-operator-system: nothing is wrong\n", "{text}");
        Ok(())
    }

    /// Everything that is to be found is, with a way out, and the exit code tells whether something is broken.
    async fn finds(&self, broken: &Broken) -> anyhow::Result<()> {
        eventually(&format!("{} is found", broken.name), Deadline::after(PATIENCE), || async {
            let (diagnosis, code) = self.diagnosis().await.map_err(|error| format!("{error:#}"))?;
            let findings = diagnosis["findings"].as_array().cloned().unwrap_or_default();
            let has = |check: &&str| {
                findings.iter().any(|finding| {
                    finding["check"] == **check
                        && finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty())
                })
            };
            let is_broken = findings.iter().any(|finding| finding["severity"] == "broken");
            if broken.finds.iter().all(has) && (code == 1) == is_broken {
                Ok(())
            } else {
                Err(format!("{code}: {diagnosis:#}"))
            }
        })
        .await
    }

    /// Makes each change; gives what was there before.
    async fn break_it(&self, broken: &Broken) -> anyhow::Result<Vec<Option<Value>>> {
        let mut kept = Vec::new();
        for (namespace, object, change) in broken.changes {
            let before = match change {
                Change::Create(_) => None,
                Change::Delete | Change::Patch(_) => Some(self.object(namespace, object).await?),
            };
            match change {
                Change::Create(manifest) => drop(apply(&self.plane, namespace, &manifest()).await?),
                Change::Delete => {
                    drop(self.kubectl(namespace, &format!("delete {object} --wait=false")).await?);
                }
                Change::Patch(patch) => {
                    let line = format!("patch {object} --type=json --patch-file=/dev/stdin");
                    kubectl(&self.plane, namespace, &line).stdin(patch().to_string()).ok().await?;
                }
            }
            kept.push(before);
        }
        Ok(kept)
    }

    /// Puts back what was there before, the last first.
    async fn mend(&self, broken: &Broken, kept: Vec<Option<Value>>) -> anyhow::Result<()> {
        for ((namespace, object, change), before) in broken.changes.iter().zip(kept).rev() {
            match (change, before) {
                (Change::Delete, Some(before)) => {
                    kubectl(&self.plane, namespace, "create -f -").stdin(before.to_string()).ok().await?;
                }
                (_, Some(before)) => {
                    kubectl(&self.plane, namespace, "replace -f -").stdin(before.to_string()).ok().await?;
                }
                (_, None) => drop(self.kubectl(namespace, &format!("delete {object}")).await?),
            }
        }
        Ok(())
    }

    /// An object without what makes it this one.
    async fn object(&self, namespace: &str, object: &str) -> anyhow::Result<Value> {
        let text = self.kubectl(namespace, &format!("get {object} -o json")).await?;
        let mut object: Value = serde_json::from_str(&text)?;
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "labels" | "annotations"));
        }
        Ok(object)
    }

    async fn kubectl(&self, namespace: &str, line: &str) -> anyhow::Result<String> {
        kubectl(&self.plane, namespace, line).ok().await
    }
}

/// Under kubectl's name for it, the program is its plugin, and completes words.
async fn is_a_plugin(plane: &Plane, program: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for name in ["kubectl-vllm", "kubectl_complete-vllm"] {
        symlink(program, folder.path().join(name))?;
    }
    let kubectl = async |line: &str| -> anyhow::Result<String> {
        let output = Command::new(plane.spec().binaries.path(Part::Kubectl))
            .args(line.split(' '))
            .env("KUBECONFIG", plane.kubeconfig())
            .env("PATH", folder.path())
            .output()
            .await?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let status = kubectl("vllm status -A").await?;
    let row: Vec<_> = status.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    ensure!(row == [WORK, "a", "1", "1", "1-4", "scaledobject/a", "at", "its", "minimum"], "{status}");
    let doctor = kubectl("vllm doctor").await?;
    ensure!(doctor.ends_with("nothing is wrong\n"), "{doctor}");
    let explained = kubectl(&format!("vllm explain-scaling {WORK}/a")).await?;
    ensure!(explained.contains("ScaledObject"), "{explained}");
    let words = kubectl("__complete vllm st").await?;
    ensure!(words.contains("status\tShow all VLLMClusters"), "{words}");
    Ok(())
}
