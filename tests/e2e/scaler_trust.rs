//! What KEDA needs to call the scaler: filled in where the manifest is applied, kept through each application of it, and
//! mended and renewed whatever becomes of it and of the authority.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use certs::{Bundle, stored_pair};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use testbed::addons::SCALER_MANIFEST;
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Output, Plane};

use super::suite::{PATIENCE, get, kubectl, scaled_object};

const OPERATOR: &str = "vllm-operator-system";
const SECRET: &str = "secret/vllm-operator-scaler";

/// Applied by either of kubectl's ways, wiped, deleted, and with the authority lost.
pub async fn kept(plane: &Plane) -> anyhow::Result<()> {
    kubectl(plane, "keda", &format!("delete {SECRET}")).ok().await?;
    refused(plane).await?;
    for way in ["apply", "apply --server-side"] {
        apply(plane, way).await?;
        let filled = filled(plane, PATIENCE).await?;
        for again in [way, "apply --server-side", "apply"] {
            apply(plane, again).await?;
            let now = get(plane, "keda", SECRET).await?;
            ensure!(now["data"] == filled["data"], "`{again}` after `{way}` has changed the data");
        }
        kubectl(plane, "keda", &format!("delete {SECRET}")).ok().await?;
    }
    apply(plane, "apply").await?;
    filled(plane, PATIENCE).await?;
    let wipe = format!(r#"patch {SECRET} --type=json -p [{{"op":"remove","path":"/data"}}]"#);
    kubectl(plane, "keda", &wipe).ok().await?;
    filled(plane, Duration::from_secs(10)).await?;

    let before = get(plane, "keda", SECRET).await?;
    kubectl(plane, OPERATOR, "delete secret/vllm-operator-ca").ok().await?;
    eventually("KEDA trusts the new CA too", Deadline::after(Duration::from_secs(30)), || async {
        let after = judged(plane).await?;
        let trusts = |secret: &Value| Bundle::parse(&value(secret, "ca.crt")).unwrap_or_default();
        let (old, new) = (trusts(&before), trusts(&after));
        if new.len() > old.len() && new.covers(&old) { Ok(()) } else { Err(format!("{} CAs", new.len())) }
    })
    .await
}

/// Triggers that the scaler is to answer are refused, with the way out.
async fn refused(plane: &Plane) -> anyhow::Result<()> {
    let trigger =
        json!({"type": "http", "metadata": {"url": "http://a:8000/v1/models", "targetValue": "100"}});
    let mut object: Value = serde_saphyr::from_str(&scaled_object("default", "x", "a", 1, 3))?;
    object["spec"]["triggers"] = json!([trigger]);
    eventually("such triggers are refused", Deadline::after(PATIENCE), || async {
        let create = kubectl(plane, "default", "create --dry-run=server -f -").stdin(object.to_string());
        let told = create.output().await.and_then(Output::refused).map_err(|error| format!("{error:#}"))?;
        let sentence = "to which KEDA has no certificate yet";
        if told.contains(sentence) && told.contains("apply deploy/keda.yaml") { Ok(()) } else { Err(told) }
    })
    .await
}

async fn apply(plane: &Plane, way: &str) -> anyhow::Result<()> {
    kubectl(plane, "keda", &format!("{way} -f {SCALER_MANIFEST}")).ok().await.map(drop)
}

async fn filled(plane: &Plane, within: Duration) -> anyhow::Result<Value> {
    eventually("KEDA can call the scaler", Deadline::after(within), || judged(plane)).await
}

/// KEDA's Secret, if it trusts what the webhook configurations do and its pair is let in by that.
async fn judged(plane: &Plane) -> Result<Value, String> {
    let read =
        async |namespace, what| get(plane, namespace, what).await.map_err(|error| format!("{error:#}"));
    let secret = read("keda", SECRET).await?;
    let authority = read(OPERATOR, "secret/vllm-operator-ca").await?;
    if secret["data"]["ca.crt"] != authority["data"]["ca-bundle.crt"] {
        return Err(format!("other CAs, or none: {:?}", secret["data"]["ca.crt"]));
    }
    let bundle = Bundle::parse(&value(&secret, "ca.crt")).map_err(|error| error.to_string())?;
    let (certificate, key) = (value(&secret, "tls.crt"), value(&secret, "tls.key"));
    stored_pair(&certificate, &key, &bundle, "keda", Timestamp::now()).map_err(|error| error.to_string())?;
    Ok(secret)
}

fn value(secret: &Value, key: &str) -> Vec<u8> {
    let value = serde_json::from_value::<ByteString>(secret["data"][key].clone()).context("no such key");
    value.map(|ByteString(value)| value).unwrap_or_default()
}
