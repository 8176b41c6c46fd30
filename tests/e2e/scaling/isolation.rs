//! Whom the scaler asks: the servers of the cluster that the asking ScaledObject drives, and nobody else.

use anyhow::{Context as _, ensure};
use testbed::engine::control::{Control, LANDING};
use testbed::plane::Plane;
use testbed::pods::ENGINE_PORT;

use super::{CLUSTER, Driven, MOST, queue, start, waiting};
use crate::suite::{apply, forget, get, kubectl};

/// As the scaler calls itself.
const SCALER: &str = "vllm-operator";
/// A pod that bears all of the cluster's labels, and belongs to nobody.
const FORGED: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: forged
  labels: {app: vllm-cluster, cluster: a, component: vllm-server}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: vllm
      image: vllm/vllm-openai
      args: [--port=8000]
      ports: [{name: http, containerPort: 8000}]
      readinessProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 1}
";

/// Another namespace's cluster of the same name, a pod with forged labels, and a redirect to it.
pub async fn asks_nobody_else(plane: &Plane) -> anyhow::Result<()> {
    let triggers = [queue()];
    let (quiet, loud) = tokio::try_join!(
        start(plane, "scaling-quiet", "", &triggers),
        start(plane, "scaling-loud", "", &triggers),
    )?;
    apply(plane, quiet.namespace, FORGED).await?;
    kubectl(plane, quiet.namespace, "wait --for=condition=Ready pod/forged --timeout=60s").ok().await?;
    quiet.engines.set("forged", &waiting(100)).await?;
    let counts = quiet.follow().await?;

    loud.engines.set(&loud.pod(0), &waiting(100)).await?;
    loud.all_are(MOST).await?;
    is_asked_again(&quiet).await?;
    quiet.decided_on("0").await?;

    let address = get(plane, quiet.namespace, "pod/forged").await?["status"]["podIP"].clone();
    let address = address.as_str().context("no address")?;
    for location in [format!("http://{address}:{ENGINE_PORT}{LANDING}"), LANDING.to_owned()] {
        let redirect = Control { redirect: Some(location), ..Control::default() };
        quiet.engines.set(&quiet.pod(0), &redirect).await?;
        // What keeps the one that there is.
        quiet.decided_on("10").await?;
        is_asked_again(&quiet).await?;
        ensure!(quiet.engines.seen(&quiet.pod(0)).await?.redirects_answered > 0, "no redirect was answered");
        quiet.engines.heal(&quiet.pod(0)).await?;
        quiet.decided_on("0").await?;
    }

    // Prometheus reads the forged one as well, and follows.
    let forged = quiet.engines.seen("forged").await?;
    ensure!(forged.by(SCALER) == 0, "a pod of nobody's was asked: {forged:?}");
    let own = quiet.engines.seen(&quiet.pod(0)).await?;
    let followed = own.requests.iter().any(|asked| asked.path == LANDING && asked.agent.starts_with(SCALER));
    ensure!(!followed, "a redirect was followed: {own:?}");
    ensure!(counts.seen()? == [1], "counts of {CLUSTER} on the way: {:?}", counts.seen()?);
    tokio::try_join!(forget(plane, quiet.namespace), forget(plane, loud.namespace)).map(drop)
}

/// Waits until the scaler has asked the cluster's server twice more.
async fn is_asked_again(driven: &Driven<'_>) -> anyhow::Result<()> {
    let asked = async || anyhow::Ok(driven.engines.seen(&driven.pod(0)).await?.by(SCALER));
    let before = asked().await?;
    driven
        .look("the scaler has asked twice more", async || {
            let now = asked().await?;
            ensure!(now >= before + 2, "{before} questions, and {now}");
            Ok(())
        })
        .await
}
