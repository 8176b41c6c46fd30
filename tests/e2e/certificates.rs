//! The bundle and the authority behind it: lost and found again, and replaced under way.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::join_all;
use k8s_openapi::ByteString;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};
use vllm_operator::api::cluster::VLLMCluster;

use super::suite::{
    PATIENCE, PROPAGATION_DELAY, apply, cluster, forget, get, kubectl, namespace, scaled_object,
    start_operator, stop_operator,
};

const OPERATOR: &str = "vllm-operator-system";
const CONFIGURATIONS: [&str; 2] =
    ["mutatingwebhookconfiguration/vllm-operator", "validatingwebhookconfiguration/vllm-operator"];

/// Cleared by `kubectl replace`, the bundle is back within 10 s.
pub async fn cleared_bundle(plane: &Plane) -> anyhow::Result<()> {
    for configuration in CONFIGURATIONS {
        let mut cleared = get(plane, OPERATOR, configuration).await?;
        for webhook in webhooks(&mut cleared)? {
            let bundle = webhook["clientConfig"].as_object_mut().and_then(|config| config.remove("caBundle"));
            ensure!(bundle.is_some(), "{configuration} had no bundle");
        }
        kubectl(plane, OPERATOR, "replace -f -").stdin(cleared.to_string()).ok().await?;
        bundles(plane, configuration, Duration::from_secs(10)).await?;
    }
    judged(plane).await.map_err(|error| anyhow::anyhow!(error))
}

/// The CA's Secret deleted: calls succeed again within 30 s, by a new CA.
pub async fn lost_authority(plane: &Plane) -> anyhow::Result<()> {
    let secret = "secret/vllm-operator-ca";
    let before = get(plane, OPERATOR, secret).await?["data"]["ca.crt"].clone();
    kubectl(plane, OPERATOR, &format!("delete {secret}")).ok().await?;
    eventually("a new CA, and calls succeed", Deadline::after(Duration::from_secs(30)), || async {
        let now = get(plane, OPERATOR, secret).await.map_err(|error| format!("{error:#}"))?;
        if now["data"]["ca.crt"] == before {
            return Err("the old CA".to_owned());
        }
        for configuration in CONFIGURATIONS {
            let mut configuration =
                get(plane, OPERATOR, configuration).await.map_err(|error| format!("{error:#}"))?;
            for webhook in webhooks(&mut configuration).map_err(|error| format!("{error:#}"))? {
                if webhook["clientConfig"]["caBundle"] != now["data"]["ca-bundle.crt"] {
                    return Err(format!("an older bundle in {}", webhook["name"]));
                }
            }
        }
        judged(plane).await
    })
    .await
}

/// Settings with which a CA signs for ten seconds.
const SHORT: &str =
    "CA_LIFE=20s CA_ROTATION_LEAD=10s LEAF_LIFE=4s PROPAGATION_DELAY=500ms CLOCK_TOLERANCE=0s";
/// Writes at once: more than the 25 connections that an API server keeps, so that each burst makes new ones.
const BURST: usize = 32;
/// CAs that sign one after the other.
const ROTATIONS: usize = 3;

/// The CA is rotated over and over while counts are written that nobody but admission refuses: their webhook fails
/// open, so that a call which fails lets one pass.
pub async fn rotation(plane: &Plane) -> anyhow::Result<()> {
    let ns = "rotation";
    namespace(plane, ns).await?;
    apply(plane, ns, &cluster("a", "replicas: 2\nmaxReplicas: 10")).await?;
    apply(plane, ns, &scaled_object(ns, "queue", "a", 1, 4)).await?;
    while_rotating(plane, under_writes(plane, ns)).await?;
    forget(plane, ns).await
}

/// Does it while one CA after the other signs.
async fn while_rotating(plane: &Plane, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    with_settings(plane, SHORT).await?;
    let ended = work.await;
    let as_installed = format!(
        "CA_LIFE- CA_ROTATION_LEAD- LEAF_LIFE- PROPAGATION_DELAY={PROPAGATION_DELAY} CLOCK_TOLERANCE-"
    );
    with_settings(plane, &as_installed).await?;
    ended
}

/// Has the CA rotated twice, from a new one on and to a new one.
pub async fn rotated(plane: &Plane) -> anyhow::Result<()> {
    let signers = Mutex::new(BTreeSet::new());
    let rotations = eventually("two rotations of the CA", Deadline::after(PATIENCE * 2), || async {
        let secret =
            get(plane, OPERATOR, "secret/vllm-operator-ca").await.map_err(|error| format!("{error:#}"))?;
        let mut signers = signers.lock().map_err(|error| error.to_string())?;
        signers.insert(secret["data"]["ca.crt"].to_string());
        if signers.len() > 2 { Ok(()) } else { Err(format!("{} CAs", signers.len())) }
    });
    while_rotating(plane, rotations).await
}

/// Starts the operator anew with other settings and without a CA.
async fn with_settings(plane: &Plane, settings: &str) -> anyhow::Result<()> {
    stop_operator(plane).await?;
    kubectl(plane, OPERATOR, "delete secret/vllm-operator-ca").ok().await?;
    kubectl(plane, OPERATOR, &format!("set env deployment/vllm-operator {settings}")).ok().await?;
    start_operator(plane).await
}

async fn under_writes(plane: &Plane, ns: &str) -> anyhow::Result<()> {
    let client = plane.client().await?;
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), OPERATOR);
    let clusters: Api<VLLMCluster> = Api::namespaced(client, ns);
    let (mut signers, mut refused) = (Vec::<ByteString>::new(), 0);
    let (started, patience) = (Instant::now(), PATIENCE * 2);
    while signers.len() <= ROTATIONS {
        ensure!(
            started.elapsed() < patience,
            "after {patience:?}: {} rotations",
            signers.len().saturating_sub(1)
        );
        let too_many = Patch::Merge(json!({"spec": {"replicas": 5}}));
        let params = PatchParams::default();
        for answer in join_all((0..BURST).map(|_| clusters.patch_scale("a", &params, &too_many))).await {
            match answer {
                Err(kube::Error::Api(status)) if status.message.contains("5 is above the maximum 4") => {
                    refused += 1;
                }
                Err(error) => anyhow::bail!("after {} rotations: {error}", signers.len().saturating_sub(1)),
                Ok(scale) => anyhow::bail!(
                    "after {} rotations a write passed: {scale:?}",
                    signers.len().saturating_sub(1)
                ),
            }
        }
        let signer = secrets.get("vllm-operator-ca").await?.data.and_then(|mut data| data.remove("ca.crt"));
        if let Some(signer) = signer.filter(|signer| signers.last() != Some(signer)) {
            signers.push(signer);
        }
    }
    println!("{ROTATIONS} rotations in {:?}, {refused} writes, each refused by admission", started.elapsed());
    Ok(())
}

fn webhooks(configuration: &mut Value) -> anyhow::Result<&mut Vec<Value>> {
    let webhooks = configuration["webhooks"].as_array_mut().filter(|webhooks| !webhooks.is_empty());
    webhooks.ok_or_else(|| anyhow::anyhow!("the configuration has no webhooks"))
}

async fn bundles(plane: &Plane, configuration: &str, within: Duration) -> anyhow::Result<()> {
    eventually(&format!("bundles in {configuration}"), Deadline::after(within), || async {
        let mut found = get(plane, OPERATOR, configuration).await.map_err(|error| format!("{error:#}"))?;
        let webhooks = webhooks(&mut found).map_err(|error| format!("{error:#}"))?;
        let missing =
            webhooks.iter().filter(|webhook| !webhook["clientConfig"]["caBundle"].is_string()).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} without")) }
    })
    .await
}

/// A write that needs the webhook goes through: it fails closed.
async fn judged(plane: &Plane) -> Result<(), String> {
    let created = kubectl(plane, "default", "create --dry-run=server -o=jsonpath={.spec.replicas} -f -")
        .stdin(cluster("judged", ""))
        .ok()
        .await
        .map_err(|error| format!("{error:#}"))?;
    if created == "1" { Ok(()) } else { Err(format!("{created:?} in place of the webhook's 1")) }
}
