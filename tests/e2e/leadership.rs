//! Three replicas: all of them answer, one of them leads, and what happens when that one goes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::http::Method;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use kube::{Api, Client};
use rustix::process::Signal;
use serde_json::{Value, json};
use testbed::addons::scale_operator;
use testbed::availability::operator::process;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::owned::{OPERATOR, send};
use super::suite::{PATIENCE, apply, cluster, forget, kubectl, namespace, start_operator, until};

const SYSTEM: &str = "vllm-operator-system";
const REPLICAS: usize = 3;
/// The lease and a retry with its jitter, by the operator's defaults, and a moment for the calls.
const TAKE_OVER: Duration = Duration::from_millis(15_000 + 2_400 + 1_000);
const HAND_OVER: Duration = Duration::from_secs(2);
/// Hand-overs that are timed.
const HAND_OVERS: usize = 3;

/// The Lease, as the tests look at it.
struct Leadership {
    client: Client,
    leases: Api<Lease>,
}

impl Leadership {
    async fn of_three(plane: &Plane) -> anyhow::Result<Self> {
        scale_operator(plane, REPLICAS).await?;
        let client = plane.client().await?;
        let leadership = Self { leases: Api::namespaced(client.clone(), SYSTEM), client };
        eventually("somebody leads", Deadline::after(PATIENCE), || leadership.other_than("")).await?;
        Ok(leadership)
    }

    /// Who holds the Lease.
    async fn holder(&self) -> anyhow::Result<String> {
        let spec = self.leases.get("vllm-operator").await?.spec.context("a Lease without spec")?;
        Ok(spec.holder_identity.unwrap_or_default())
    }

    async fn other_than(&self, former: &str) -> Result<String, String> {
        match self.holder().await {
            Ok(holder) if !holder.is_empty() && holder != former => Ok(holder),
            Ok(holder) => Err(format!("held by {holder:?}")),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Waits until another holds the Lease; how long that took, from `since`.
    async fn followed(&self, former: &str, since: Instant, within: Duration) -> anyhow::Result<Duration> {
        let what = format!("another leads in place of {former}");
        eventually(&what, Deadline::after(PATIENCE), || self.other_than(former)).await?;
        let took = since.elapsed();
        eprintln!("{what} after {took:.1?}");
        ensure!(took <= within, "{what} after {took:?}, and not within {within:?}");
        Ok(took)
    }

    /// Whether a replica says that it leads.
    async fn says_it_leads(&self, pod: &str) -> anyhow::Result<bool> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}:8080/proxy/metrics");
        let request = axum::http::Request::get(path).body(Vec::new())?;
        let page = self.client.request_text(request).await?;
        let gauge = page.lines().find_map(|line| line.strip_prefix("vllm_operator_leader "));
        Ok(gauge.with_context(|| format!("no gauge in {page}"))? == "1")
    }
}

/// The pod of a holder of the Lease.
fn pod_of(holder: &str) -> &str {
    holder.split('_').next().unwrap_or_default()
}

async fn pods(plane: &Plane) -> anyhow::Result<Vec<String>> {
    let line = "get pods -l app.kubernetes.io/name=vllm-operator -o jsonpath={.items[*].metadata.name}";
    let pods = kubectl(plane, SYSTEM, line).ok().await?;
    Ok(pods.split(' ').map(str::to_owned).collect())
}

/// Somebody reconciles: a new cluster gets what it needs.
async fn reconciled(plane: &Plane, ns: &str, name: &str) -> anyhow::Result<()> {
    apply(plane, ns, &cluster(name, "")).await?;
    until(plane, ns, &format!("vllmcluster/{name}"), &[("/status/readyReplicas", json!(1))]).await.map(drop)
}

/// Every replica judges what it is asked; one says that it leads, it is the one that the Lease names, and it leads on
/// where the Lease is deleted.
pub async fn all_answer(plane: &Plane) -> anyhow::Result<()> {
    let leadership = Leadership::of_three(plane).await?;
    let pods = pods(plane).await?;
    ensure!(pods.len() == REPLICAS, "{pods:?}");
    let mut leaders = Vec::new();
    for pod in &pods {
        let path = format!(
            "/api/v1/namespaces/{SYSTEM}/pods/https:{pod}:9443/proxy/validate/vllmclusters?timeout=5s"
        );
        let answer = send(&leadership.client, Method::POST, &path, &review()).await?;
        let response = &answer["response"];
        let message = response["status"]["message"].as_str().unwrap_or_default();
        ensure!(response["uid"] == "u" && response["allowed"] == false, "{pod}: {answer}");
        ensure!(message.contains("spec.maxReplicas"), "{pod}: {message}");
        if leadership.says_it_leads(pod).await? {
            leaders.push(pod.as_str());
        }
    }
    let holder = leadership.holder().await?;
    ensure!(leaders == [pod_of(&holder)], "{leaders:?}");
    // Deleted, it is made anew by the one that leads.
    leadership.leases.delete("vllm-operator", &DeleteParams::default()).await?;
    let next = eventually("a Lease", Deadline::after(PATIENCE), || leadership.other_than("")).await?;
    ensure!(next == holder, "{next} in place of {holder}");
    Ok(())
}

/// A cluster above its own maximum.
fn review() -> Value {
    let object: Value = serde_json::from_str(
        r#"{"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
        "metadata": {"name": "a", "namespace": "default"}, "spec": {"replicas": 9, "maxReplicas": 5}}"#,
    )
    .expect("a literal");
    let group = "training.distributed-inference.io";
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "name": "a", "namespace": "default", "object": object, "oldObject": null,
        "kind": {"group": group, "version": "v1alpha1", "kind": "VLLMCluster"},
        "resource": {"group": group, "version": "v1alpha1", "resource": "vllmclusters"},
        "requestKind": {"group": group, "version": "v1alpha1", "kind": "VLLMCluster"},
        "requestResource": {"group": group, "version": "v1alpha1", "resource": "vllmclusters"},
        "userInfo": {"username": "admin", "groups": ["system:masters"]}, "dryRun": true, "options": null,
    }})
}

/// A leader that is killed is followed when its lease ends.
pub async fn killed(plane: &Plane) -> anyhow::Result<()> {
    const NS: &str = "leader-killed";
    let leadership = Leadership::of_three(plane).await?;
    namespace(plane, NS).await?;
    let former = leadership.holder().await?;
    let killed = process(plane, pod_of(&former))?;
    let since = Instant::now();
    killed.signal(Signal::KILL)?;
    leadership.followed(&former, since, TAKE_OVER).await?;
    // Its container is started again meanwhile.
    scale_operator(plane, REPLICAS).await?;
    reconciled(plane, NS, "a").await?;
    forget(plane, NS).await
}

/// A leader that is told to go hands over.
pub async fn handed_over(plane: &Plane) -> anyhow::Result<()> {
    const NS: &str = "leader-hands-over";
    let leadership = Leadership::of_three(plane).await?;
    namespace(plane, NS).await?;
    for round in 0..HAND_OVERS {
        let former = leadership.holder().await?;
        let line = format!("delete pod {} --wait=false", pod_of(&former));
        kubectl(plane, SYSTEM, &line).ok().await?;
        leadership.followed(&former, Instant::now(), HAND_OVER).await?;
        // The one that goes still serves.
        reconciled(plane, NS, &format!("round-{round}")).await?;
        scale_operator(plane, REPLICAS).await?;
    }
    forget(plane, NS).await
}

/// A leader that was paused in the middle of its work and comes back after another has taken over writes nothing.
pub async fn paused(plane: &Plane) -> anyhow::Result<()> {
    const NS: &str = "leader-paused";
    let leadership = Leadership::of_three(plane).await?;
    namespace(plane, NS).await?;
    let former = leadership.holder().await?;
    let pod = pod_of(&former).to_owned();
    let paused = process(plane, &pod)?;
    let by_pod = |writes: Vec<testbed::plane::Write>| {
        writes.into_iter().filter(|write| write.pod == pod && write.code < 300).collect::<Vec<_>>()
    };
    let written = by_pod(plane.lease_writes_by(OPERATOR)?);
    ensure!(!written.is_empty(), "the log tells which pod has written");
    let many: Vec<_> = (0..12).map(|index| cluster(&format!("c-{index}"), "")).collect();
    apply(plane, NS, &many.join("---\n")).await?;
    let since = Instant::now();
    paused.signal(Signal::STOP)?;
    let followed = async {
        leadership.followed(&former, since, TAKE_OVER).await?;
        reconciled(plane, NS, "by-the-next").await
    };
    let followed = followed.await;
    let before = [by_pod(plane.writes_by(OPERATOR)?), by_pod(plane.lease_writes_by(OPERATOR)?)];
    paused.signal(Signal::CONT)?;
    followed?;
    eventually("the former leader knows", Deadline::after(PATIENCE), || async {
        match leadership.says_it_leads(&pod).await {
            Ok(false) => Ok(()),
            Ok(true) => Err("it says that it leads".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await?;
    let log = plane.logs_dir().join(format!("pods/{SYSTEM}_{pod}_operator.log"));
    let log = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    ensure!(log.contains("not leading any more"), "{log}");
    // It serves again, and stands by while the other goes on.
    scale_operator(plane, REPLICAS).await?;
    reconciled(plane, NS, "afterwards").await?;
    let after = [by_pod(plane.writes_by(OPERATOR)?), by_pod(plane.lease_writes_by(OPERATOR)?)];
    ensure!(after == before, "written by {pod} after its time: {after:#?}\nbefore: {before:#?}");
    ensure!(!before[0].is_empty(), "it has reconciled before");
    forget(plane, NS).await?;
    start_operator(plane).await
}
