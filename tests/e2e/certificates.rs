//! The bundle and the authority behind it, lost and found again.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::suite::{cluster, get, kubectl};

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
