//! What teams do all day, with the tools that they do it with: nothing stuck, nothing lost, and no refusal that a
//! sensible person would call wrong.
//!
//! One file a workflow. The triggers' query is a constant, so that the autoscaler wants one count and keeps to it.
//!
//! **Architecture invariant**: what refuses on purpose stands in `admission` and `scaled_objects`; a workflow ends with
//! [`nobody_was_refused`].

pub mod deletion;
pub mod edit;
pub mod git;
pub mod handover;
pub mod helm;
pub mod original_count;
pub mod outage;
pub mod race;
pub mod restore;

use std::time::Instant;

use anyhow::{Context as _, ensure};
use futures::future::ready;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use testbed::plane::Plane;

use crate::suite::{Run, until};

/// All that need nothing but a namespace of their own, a few at the same time: most of it is waiting for the autoscaler's period.
pub async fn side_by_side(plane: &Plane) -> anyhow::Result<()> {
    // The longest first.
    let all: [(&str, Run<'_>); 9] = [
        ("git::replicas_in_the_manifest", Box::pin(git::replicas_in_the_manifest(plane))),
        ("helm::server_side", Box::pin(helm::server_side(plane))),
        ("helm::client_side", Box::pin(helm::client_side(plane))),
        ("restore::alphabetical", Box::pin(restore::alphabetical(plane))),
        ("deletion::while_up", Box::pin(deletion::while_up(plane))),
        ("original_count::comes_back", Box::pin(original_count::comes_back(plane))),
        ("edit::image_on_an_older_violation", Box::pin(edit::image_on_an_older_violation(plane))),
        ("helm::count_below_the_scaler", Box::pin(helm::count_below_the_scaler(plane))),
        ("handover::from_hpa_to_keda", Box::pin(handover::from_hpa_to_keda(plane))),
    ];
    let ended = stream::iter(all).map(|(name, run)| async move {
        let begun = Instant::now();
        let ended = run.await;
        eprintln!("workflows::{name}: {:.0} s", begun.elapsed().as_secs_f32());
        ended.err().map(|error| format!("workflows::{name}: {error:#}"))
    });
    // More of them would wait for the processor instead, and admission with them.
    let failed: Vec<_> = ended.buffer_unordered(4).filter_map(ready).collect().await;
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Admission and the schema refuse with 422, and a webhook that could not answer with 500; 404 and 409 are how
/// controllers learn.
const REFUSALS: [u64; 3] = [400, 422, 500];

/// A ScaledObject's manifest whose autoscaler wants `count` replicas, whatever the servers do, with further lines of its
/// spec.
fn wanting(name: &str, (min, max): (u32, u32), count: u32, spec: &str) -> String {
    format!(
        r#"
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{name: {name}}}
spec:
  scaleTargetRef: {{apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: a}}
  minReplicaCount: {min}
  maxReplicaCount: {max}
  triggers: [{{type: prometheus, metadata: {{serverAddress: "http://prometheus:9090", query: vector({count}), threshold: "1"}}}}]
  {spec}
"#
    )
}

/// The autoscaler has its wish, and the pods serve.
async fn settled(plane: &Plane, ns: &str, hpa: &str, count: u32) -> anyhow::Result<()> {
    let wanted = [("/spec/replicas", json!(count)), ("/status/readyReplicas", json!(count))];
    until(plane, ns, "vllmcluster/a", &wanted).await?;
    let wanted = [("/status/desiredReplicas", json!(count)), ("/status/currentReplicas", json!(count))];
    until(plane, ns, &format!("hpa/{hpa}"), &wanted).await.map(drop)
}

/// No controller's write in the namespace was refused: not the HPA controller's, not KEDA's, not the garbage
/// collector's. People's refusals show in what their tools print.
pub async fn nobody_was_refused(plane: &Plane, namespace: &str) -> anyhow::Result<()> {
    let path = plane.audit_log();
    let text =
        tokio::fs::read_to_string(&path).await.with_context(|| format!("reading {}", path.display()))?;
    // A last line without its end is still being written.
    let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let mut refused = Vec::new();
    let mut seen = 0_usize;
    for line in complete.lines().filter(|line| line.contains(namespace)) {
        let line: Value = serde_json::from_str(line).with_context(|| format!("audit line {line}"))?;
        let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let user = text("/user/username");
        if text("/objectRef/namespace") != namespace || !user.starts_with("system:") {
            continue;
        }
        seen += 1;
        // A look-up that took too long on a busy machine: the same write passes when it is tried again.
        if text("/responseStatus/message").ends_with("try again") {
            continue;
        }
        // Kubernetes' own: its controller counts below 0 at times, and anew at once.
        if user.ends_with(":statefulset-controller")
            && text("/responseStatus/message").contains("currentReplicas")
        {
            continue;
        }
        if line
            .pointer("/responseStatus/code")
            .and_then(Value::as_u64)
            .is_some_and(|code| REFUSALS.contains(&code))
        {
            refused.push(format!(
                "{user}: {} {}: {}",
                text("/verb"),
                text("/requestURI"),
                line["responseStatus"]
            ));
        }
    }
    ensure!(seen > 0, "the audit log has nothing of {namespace}");
    ensure!(refused.is_empty(), "refused in {namespace}:\n{}", refused.join("\n"));
    Ok(())
}
