//! What lets servers drain, taken away part by part: each of them is needed, and the load that shows it is the same for
//! the one cluster whose pods are whole.
//!
//! The pods are changed on their way into the API server, by a label; the operator has no hand in it, and does not mend it.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use crate::suite::{PATIENCE, apply, cluster, forget, kubectl, namespace, until};

use super::drain::{PACE, busy, end_of_load, load, told};
use super::engines::Engines;
use super::gone;

const NS: &str = "shortened";
/// Ten seconds: more than the pause before SIGTERM, and than the shortened grace period.
const LONG: usize = 100;
const LONG_AT_ONCE: usize = 6;
/// A tenth of a second, so that some are always on their way to the server that goes.
const BRISK_AT_ONCE: usize = 16;

/// Cluster, and what is done to its pods: the operations of a JSON patch, in CEL.
const PARTS: &[(&str, &str)] = &[
    ("pre-stop", r#"[JSONPatch{op: "remove", path: "/spec/containers/0/lifecycle"}]"#),
    ("grace", r#"[JSONPatch{op: "replace", path: "/spec/terminationGracePeriodSeconds", value: 6}]"#),
    (
        "shutdown-timeout",
        r#"[JSONPatch{op: "replace", path: "/spec/containers/0/args", value:
            object.spec.containers[0].args.map(a, a.startsWith("--shutdown-timeout") ? "--shutdown-timeout=0" : a)}]"#,
    ),
];

/// One of two servers goes, in four clusters at once.
pub async fn each_part_is_needed(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    for (name, patch) in PARTS {
        kubectl(plane, NS, "apply -f -").stdin(policy(name, patch)).ok().await?;
    }
    for (name, _) in PARTS {
        works(plane, name).await?;
    }
    let names = || ["whole"].into_iter().chain(PARTS.iter().map(|(name, _)| *name));
    let clusters: Vec<_> = names()
        .map(|name| {
            let label = format!("podTemplate: {{metadata: {{labels: {{shortened: {name}}}}}}}");
            cluster(name, &format!("replicas: 2\n{PACE}\n{label}"))
        })
        .collect();
    apply(plane, NS, &clusters.join("---\n")).await?;
    for name in names() {
        until(plane, NS, &format!("vllmcluster/{name}"), &[("/status/readyReplicas", json!(2))]).await?;
    }
    for name in names() {
        apply(plane, NS, &load(&format!("long-of-{name}"), name, LONG_AT_ONCE, LONG)).await?;
        apply(plane, NS, &load(&format!("brisk-of-{name}"), name, BRISK_AT_ONCE, 1)).await?;
        busy(plane, NS, &format!("{name}-1"), 3).await?;
        kubectl(plane, NS, &format!("scale vllmcluster/{name} --replicas=1")).ok().await?;
    }
    for name in names() {
        gone(plane, NS, &format!("pod/{name}-1 --ignore-not-found")).await?;
    }
    // A race by its nature: the Service forgets the server as fast as the server hears of its end, or nearly so.
    eventually("a request reaches a server that is stopping", Deadline::after(PATIENCE), || async {
        let lost = told(plane, NS, "brisk-of-pre-stop").map_err(|error| format!("{error:#}"))?.0;
        if !lost.is_empty() {
            return Ok(());
        }
        let again = async {
            for count in [2, 1] {
                kubectl(plane, NS, &format!("scale vllmcluster/pre-stop --replicas={count}")).ok().await?;
                let ready = [("/status/readyReplicas", json!(count)), ("/status/replicas", json!(count))];
                until(plane, NS, "vllmcluster/pre-stop", &ready).await?;
            }
            anyhow::Ok(())
        };
        Err(again.await.map_or_else(|error| format!("{error:#}"), |()| "none was lost".to_owned()))
    })
    .await?;

    let mut seen = Vec::new();
    for name in names() {
        let long = end_of_load(plane, NS, &format!("long-of-{name}")).await?;
        let brisk = end_of_load(plane, NS, &format!("brisk-of-{name}")).await?;
        seen.push((name, long, brisk));
    }
    kubectl(plane, NS, "delete vllmcluster --all").ok().await?;
    gone(plane, NS, "pods").await?;
    for (name, long, brisk) in seen {
        let engines = Engines::of(plane, NS, name)?;
        let told =
            format!("{name}: {engines:?}; long requests: {:?}; brisk: {:?}", long.failed, brisk.failed);
        eprintln!("{told}");
        match name {
            "whole" => {
                ensure!(
                    engines.cut_nothing_off() && long.failed.is_empty() && brisk.failed.is_empty(),
                    "{told}"
                );
            }
            // Whoever comes after SIGTERM is turned away, though nothing accepted is lost.
            "pre-stop" => ensure!(engines.cut_nothing_off() && !brisk.failed.is_empty(), "{told}"),
            // The process is killed before it can say what it cuts off.
            "grace" => ensure!(engines.ended < engines.served && !long.failed.is_empty(), "{told}"),
            _ => ensure!(engines.aborted > 0 && !long.failed.is_empty(), "{told}"),
        }
    }
    for (name, _) in PARTS {
        let policies = "mutatingadmissionpolicybinding,mutatingadmissionpolicy";
        kubectl(plane, NS, &format!("delete {policies} shortened-{name}")).ok().await?;
    }
    forget(plane, NS).await
}

/// A policy of the API server that changes the pods with this value of the label `shortened`.
fn policy(name: &str, patch: &str) -> String {
    format!(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: shortened-{name}}}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {NS}}}}}
    objectSelector: {{matchLabels: {{shortened: {name}}}}}
    resourceRules: [{{apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}}]
  mutations:
    - patchType: JSONPatch
      jsonPatch:
        expression: |
          {patch}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: shortened-{name}}}
spec: {{policyName: shortened-{name}}}
"#,
        patch = patch.lines().map(str::trim).collect::<Vec<_>>().join(" ")
    )
}

/// Waits until the API server heeds the policy of this name.
async fn works(plane: &Plane, name: &str) -> anyhow::Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "probe", "labels": {"shortened": name}},
        "spec": {
            "terminationGracePeriodSeconds": 75,
            "containers": [{
                "name": "vllm", "image": "i", "args": ["--shutdown-timeout=60"],
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            }],
        },
    });
    eventually(&format!("pods are shortened by {name}"), Deadline::after(PATIENCE), || async {
        let tried =
            kubectl(plane, NS, "create --dry-run=server -o json -f -").stdin(pod.to_string()).ok().await;
        let text = tried.map_err(|error| format!("{error:#}"))?;
        let made: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let spec = &made["spec"];
        let container = &spec["containers"][0];
        let shortened = spec["terminationGracePeriodSeconds"] == 6
            || container["lifecycle"].is_null()
            || container["args"][0] == "--shutdown-timeout=0";
        if shortened { Ok(()) } else { Err(spec.to_string()) }
    })
    .await
}
