//! Every reason for which a cluster does not serve, from its real cause to the condition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use kube::ResourceExt as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Plane, Process};

use crate::suite::{PATIENCE, apply, cluster, follow, forget, get, kubectl, namespace, scaled_object, until};

use super::{ask, condition, gone, restarts, shown, told};

const NS: &str = "reasons";
const FULL: &str = "reasons-full";
const STRICT: &str = "reasons-strict";

/// A node without a kubelet: pods that are bound to it have no process, and their status is what the test says.
const NODE: &str = "no-kubelet";

/// A cluster that cannot serve: its name, its spec, the reason, and what its message says.
type Case = (&'static str, &'static str, &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    (
        "no-gpus",
        "accelerator: {count: 1000}",
        "Unschedulable",
        &["pod no-gpus-0: ", "nodes are available", "Insufficient nvidia.com/gpu"],
    ),
    (
        "no-volume",
        "modelCache: {claim: {size: 1Gi, storageClassName: nobodys}}",
        "Unschedulable",
        &["pod no-volume-0: ", "unbound immediate PersistentVolumeClaims"],
    ),
    (
        "no-image",
        "replicas: 2\nimage: vllm/vllm-openai:missing",
        "ImagePull",
        &["pod no-image-0 (and 1 more pod): image vllm/vllm-openai:missing: "],
    ),
    (
        "no-token",
        "huggingFaceToken: {secretName: absent}",
        "ContainerConfig",
        &["pod no-token-0: container vllm: secret \"absent\" not found"],
    ),
    (
        "bad-flag",
        "args: [--no-such-flag]",
        "CrashLoop",
        &[
            "pod bad-flag-0: container vllm ended with exit code 2, ",
            "unrecognized arguments: --no-such-flag",
        ],
    ),
    // The Service `vllm` of this namespace; every other cluster here starts in spite of it.
    (
        "service-links",
        "podTemplate: {spec: {enableServiceLinks: true}}",
        "CrashLoop",
        &["exit code 1, ", "VLLM_PORT 'tcp://", "appears to be a URI"],
    ),
    (
        "too-slow",
        "startupSeconds: 10\nenv: [{name: SIM_LOAD_SECONDS, value: '300'}]",
        "StartupTimeout",
        &[
            "pod too-slow-0: container vllm did not answer GET /health within 10 s",
            "raise spec.startupSeconds",
        ],
    ),
    ("loads", "startupSeconds: 1234\nenv: [{name: SIM_LOAD_SECONDS, value: '300'}]", "Loading", &[]),
];

/// All of them at once, as they are in a cluster where much goes wrong.
pub async fn whole(plane: &Plane) -> anyhow::Result<()> {
    for ns in [NS, FULL, STRICT] {
        namespace(plane, ns).await?;
    }
    let history = history(plane).await?;
    apply(plane, NS, &without_processes()).await?;
    // Requests for this Service would be at `tcp://…` in `VLLM_PORT`.
    kubectl(plane, NS, "create service clusterip vllm --tcp=80").ok().await?;
    let frozen = format!("frozen-{}", std::process::id());
    let mut manifests: Vec<_> = CASES.iter().map(|(name, spec, ..)| cluster(name, spec)).collect();
    manifests.extend([
        cluster("serves", "model: Qwen/Qwen3-0.6B\nmaxReplicas: 5"),
        cluster("frozen", &format!("model: {frozen}")),
        // Half of its budget: neither the startup probe nor any other has anything to say until then.
        cluster("loads-in-time", "startupSeconds: 30\nenv: [{name: SIM_LOAD_SECONDS, value: '15'}]"),
        cluster("out-of-memory", &format!("podTemplate: {{spec: {{nodeName: {NODE}}}}}")),
        cluster("evicted", &format!("podTemplate: {{spec: {{nodeName: {NODE}}}}}")),
    ]);
    apply(plane, NS, &manifests.join("---\n")).await?;
    apply(plane, NS, &scaled_object(NS, "queue", "serves", 1, 3)).await?;
    refused_by_others(plane).await?;
    until(plane, NS, "vllmcluster/frozen", &[("/status/readyReplicas", json!(1))]).await?;
    let frozen = process(plane, &frozen)?;
    frozen.signal(Signal::STOP)?;

    for (name, _, reason, says) in CASES {
        let message = condition(plane, NS, name, ("Ready", "False", reason)).await?;
        for part in *says {
            ensure!(message.contains(part), "{name}: {message:?} does not say {part:?}");
        }
    }
    budget_is_told(plane).await?;
    without_process(plane).await?;
    let message = condition(plane, NS, "frozen", ("Ready", "False", "NotHealthy")).await?;
    ensure!(message.ends_with("pod frozen-0: container vllm does not answer GET /health"), "{message}");

    condition(plane, NS, "loads-in-time", ("Ready", "True", "EnoughReplicas")).await?;
    let again = restarts(plane, NS, "loads-in-time").await?;
    ensure!(again == 0, "a probe has ended a server within its budget: {again} restarts");
    ensure!(restarts(plane, NS, "too-slow").await? > 0, "beyond it, none has");
    shown::table(plane, NS).await?;

    // What the messages ask for helps.
    kubectl(plane, NS, "create secret generic absent --from-literal=token=hf_e2e").ok().await?;
    condition(plane, NS, "no-token", ("Ready", "True", "EnoughReplicas")).await?;
    frozen.signal(Signal::CONT)?;
    condition(plane, NS, "frozen", ("Ready", "True", "EnoughReplicas")).await?;
    ask(plane, NS, "pods/frozen-0:8000", "/v1/models").await?;
    no_false_alarm(&history)?;
    told::of_reasons(plane, NS).await?;
    told::of_pausing(plane, NS, "queue", "serves").await?;
    clean_up(plane).await
}

/// Every reason of the condition `Ready` from now on, by cluster.
type History = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

async fn history(plane: &Plane) -> anyhow::Result<History> {
    follow(plane, NS, |seen: &mut BTreeMap<String, Vec<String>>, cluster| {
        let reasons = seen.entry(cluster.name_any()).or_default();
        let conditions = cluster.status.map(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        reasons.extend(ready.map(|ready| ready.reason).filter(|reason| reasons.last() != Some(reason)));
    })
    .await
}

/// A server that does nothing but start is never said to be broken on its way.
fn no_false_alarm(history: &History) -> anyhow::Result<()> {
    let seen = history.lock().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
    for name in ["serves", "loads-in-time"] {
        let reasons = seen.get(name).with_context(|| format!("nothing was seen of {name}"))?;
        let harmless = ["NotEnoughReplicas", "Starting", "Loading", "EnoughReplicas"];
        ensure!(
            reasons.iter().all(|reason| harmless.contains(&reason.as_str()))
                && reasons.last().is_some_and(|reason| reason == "EnoughReplicas"),
            "{name}: {reasons:?}"
        );
    }
    ensure!(seen.get("frozen").is_some_and(|reasons| reasons.iter().any(|reason| reason == "NotHealthy")));
    Ok(())
}

/// A node that nobody is, and a policy that keeps pods of the cluster `evicted` from being deleted: the StatefulSet
/// controller would replace a failed one before anybody could look at it.
fn without_processes() -> String {
    format!(
        r#"
apiVersion: v1
kind: Node
metadata: {{name: {NODE}}}
spec: {{taints: [{{key: {NODE}, effect: NoSchedule}}]}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: evicted-pods-stay}}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {NS}}}}}
    resourceRules: [{{apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [DELETE]}}]
  validations: [{{expression: "!oldObject.metadata.name.startsWith('evicted-')", message: evicted pods stay}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: evicted-pods-stay}}
spec: {{policyName: evicted-pods-stay, validationActions: [Deny]}}
"#
    )
}

/// Pods that the API server does not take: beyond a quota, and against the namespace's Pod Security.
async fn refused_by_others(plane: &Plane) -> anyhow::Result<()> {
    kubectl(plane, FULL, "create quota two-pods --hard=pods=2").ok().await?;
    kubectl(
        plane,
        STRICT,
        &format!("label namespace {STRICT} pod-security.kubernetes.io/enforce=restricted"),
    )
    .ok()
    .await?;
    apply(plane, FULL, &cluster("a", "replicas: 3\nminReplicas: 3")).await?;
    apply(plane, STRICT, &cluster("a", "")).await?;
    until(plane, FULL, "vllmcluster/a", &[("/status/readyReplicas", json!(2))]).await?;
    let message = condition(plane, FULL, "a", ("Ready", "False", "QuotaExceeded")).await?;
    ensure!(
        message.starts_with("2 of 3 replicas are ready; 3 are needed; ")
            && message.contains("exceeded quota: two-pods"),
        "{message}"
    );
    let message = condition(plane, STRICT, "a", ("Ready", "False", "PodsRefused")).await?;
    ensure!(message.contains("PodSecurity \"restricted:latest\": runAsNonRoot"), "{message}");
    Ok(())
}

/// How long a server has been loading, and until when it may.
async fn budget_is_told(plane: &Plane) -> anyhow::Result<()> {
    let message = condition(plane, NS, "loads", ("Ready", "False", "Loading")).await?;
    let times: Vec<Timestamp> = message.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let [since, until] = times[..] else { anyhow::bail!("two times in {message:?}") };
    ensure!(until.duration_since(since).as_secs() == 1234, "{message}");
    let pod = get(plane, NS, "pod/loads-0").await?;
    let started = &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
    ensure!(started.as_str() == Some(since.to_string().as_str()), "{message}, and {started}");
    Ok(())
}

/// What no process here can come to: the limit of its memory, and the kubelet's pressure.
async fn without_process(plane: &Plane) -> anyhow::Result<()> {
    let killed = json!({
        "name": "vllm", "image": "vllm/vllm-openai", "imageID": "", "ready": false, "started": false,
        "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    });
    let status = json!({"phase": "Running", "containerStatuses": [killed]});
    say(plane, "out-of-memory-0", &status).await?;
    let message = condition(plane, NS, "out-of-memory", ("Ready", "False", "OutOfMemory")).await?;
    ensure!(message.contains("used more memory than its limit, 4 restarts so far"), "{message}");

    eventually("the policy keeps the pod", Deadline::after(PATIENCE), || async {
        let tried = kubectl(plane, NS, "delete pod evicted-0 --dry-run=server").output().await;
        let tried = tried.map_err(|error| format!("{error:#}"))?;
        if tried.stderr.contains("evicted pods stay") { Ok(()) } else { Err(format!("{tried:?}")) }
    })
    .await?;
    let why = "The node was low on resource: ephemeral-storage.";
    say(plane, "evicted-0", &json!({"phase": "Failed", "reason": "Evicted", "message": why})).await?;
    let message = condition(plane, NS, "evicted", ("Ready", "False", "PodFailed")).await?;
    ensure!(message.ends_with(&format!("pod evicted-0: it has ended: Evicted: {why}")), "{message}");
    Ok(())
}

/// Writes a pod's status, as its kubelet would.
async fn say(plane: &Plane, pod: &str, status: &Value) -> anyhow::Result<()> {
    until(plane, NS, &format!("pod/{pod}"), &[("/spec/nodeName", json!(NODE))]).await?;
    let patch = json!({ "status": status }).to_string();
    plane.kubectl(&["-n", NS, "patch", "pod", pod, "--subresource=status", "-p", &patch]).ok().await.map(drop)
}

/// The engine that serves this model.
fn process(plane: &Plane, model: &str) -> anyhow::Result<Process> {
    let serves = |process: &Process| {
        process.read("cmdline").is_ok_and(|line| {
            let words: Vec<_> = line.split('\0').collect();
            words.contains(&"serve") && words.contains(&model)
        })
    };
    let found = plane.processes("testbed")?.into_iter().find(serves);
    found.with_context(|| format!("no process serves {model}"))
}

/// Nobody says of the pods without a kubelet that they have ended.
async fn clean_up(plane: &Plane) -> anyhow::Result<()> {
    let policy = "delete validatingadmissionpolicybinding,validatingadmissionpolicy evicted-pods-stay";
    kubectl(plane, NS, policy).ok().await?;
    kubectl(plane, NS, "delete vllmcluster --all").ok().await?;
    gone(plane, NS, "statefulsets").await?;
    let dead = "delete pods -l cluster --force --grace-period=0 --wait=false --ignore-not-found \
                --field-selector=spec.nodeName=no-kubelet";
    eventually("pods without a kubelet are gone", Deadline::after(PATIENCE), || async {
        let deleted = kubectl(plane, NS, dead).output().await.map_err(|error| format!("{error:#}"))?;
        let left =
            kubectl(plane, NS, "get pods --field-selector=spec.nodeName=no-kubelet -o name").ok().await;
        let left = left.map_err(|error| format!("{error:#}"))?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left}: {}", deleted.stderr)) }
    })
    .await?;
    kubectl(plane, NS, &format!("delete node {NODE}")).ok().await?;
    forget(plane, &[NS, FULL, STRICT].join(" ")).await
}
