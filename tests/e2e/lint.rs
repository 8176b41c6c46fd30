//! `vllm-operator lint --live`: manifests judged in the world of a real cluster, as the API server judges them.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::parts::operator_binary;
use testbed::plane::Plane;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::suite::{apply, cluster, forget, kubectl, namespace, scaled_object, until};

const NS: &str = "lint";

/// Rules of what is found in a manifest, in their order, and the exit code.
struct Found {
    code: Option<i32>,
    rules: Vec<String>,
    messages: Vec<String>,
}

/// What lies in the cluster counts, but for what the manifests replace.
pub async fn live(plane: &Plane) -> anyhow::Result<()> {
    let program = tokio::task::spawn_blocking(operator_binary).await??;
    let lint = async |arguments: &[&str], manifest: &str| run(&program, plane, arguments, manifest).await;
    namespace(plane, NS).await?;
    let limits = "apiVersion: v1\nkind: LimitRange\nmetadata: {name: requests}\nspec: {limits: [{type: Container, defaultRequest: {cpu: 10m}}]}\n";
    let first = scaled_object(NS, "first", "a", 1, 4);
    apply(plane, NS, &format!("{limits}---\n{}---\n{first}", cluster("a", "maxReplicas: 6"))).await?;
    // KEDA's own HPA drives the cluster too, and is no rival.
    until(plane, NS, "hpa/keda-hpa-first", &[]).await?;

    let second = scaled_object(NS, "second", "a", 7, 9);
    let found = lint(&["--live"], &second).await?;
    let expected = ["scaled-object/second-scaled-object", "scaled-object/no-common-range"];
    ensure!(found.code == Some(1) && found.rules == expected, "{:?}: {:?}", found.code, found.rules);
    let refused =
        kubectl(plane, NS, "create --dry-run=server -f -").stdin(&*second).output().await?.refused()?;
    for message in &found.messages {
        ensure!(refused.contains(message), "the API server does not say {message:?}: {refused}");
    }
    // Without the cluster nothing is known of its target.
    let found = lint(&[], &second).await?;
    ensure!(found.code == Some(0) && found.rules == ["scaled-object/target-missing"], "{:?}", found.rules);

    // A manifest of an object that is there takes its place: it is no rival of itself, and its bounds are the new ones.
    let found = lint(&["--live"], &first).await?;
    ensure!(found.code == Some(0) && found.rules.is_empty(), "{:?}: {:?}", found.code, found.messages);
    let wider = cluster("a", "maxReplicas: 9\nreplicas: 2");
    let found = lint(&["--live"], &format!("{wider}---\n{}", scaled_object(NS, "first", "a", 7, 9))).await?;
    ensure!(
        found.code == Some(0) && found.rules == ["scale/still-outside-holder"],
        "{:?}: {:?}",
        found.rules,
        found.messages
    );

    // A LimitRange of the namespace gives the request that a cpu trigger needs; none gives one of memory.
    for (resource, code) in [("cpu", 0), ("memory", 1)] {
        let trigger = format!(
            "  triggers: [{{type: {resource}, metricType: Utilization, metadata: {{value: '70'}}}}]\n"
        );
        let head = first.split("  triggers:").next().unwrap_or_default();
        let found = lint(&["--live"], &format!("{head}{trigger}")).await?;
        ensure!(found.code == Some(code), "{resource}: {:?}: {:?}", found.code, found.messages);
    }
    forget(plane, NS).await
}

async fn run(program: &Path, plane: &Plane, arguments: &[&str], manifest: &str) -> anyhow::Result<Found> {
    let mut child = Command::new(program)
        .args(["lint", "--output=json", "--namespace", NS, "-"])
        .args(arguments)
        .env("KUBECONFIG", plane.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe to the program")?;
    stdin.write_all(manifest.as_bytes()).await?;
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().await?;
    let findings: Vec<Value> =
        serde_json::from_slice(&stdout).with_context(|| String::from_utf8_lossy(&stderr).into_owned())?;
    let texts = |field: &str| {
        findings.iter().filter_map(|finding| finding[field].as_str().map(str::to_owned)).collect()
    };
    Ok(Found { code: status.code(), rules: texts("rule"), messages: texts("message") })
}
