//! How manifests in documents are judged, by the words behind `yaml`:
//!
//! - none: an API server takes it, as a dry run;
//! - `file=NAME`: it lies in the folder under this name, and a command of the document applies it;
//! - `VLLMCluster.spec`, `ScaledObject.spec`: a part of a spec, which an API server takes with the rest of the least one;
//! - `values`: Helm renders the chart with it;
//! - `cert-manager`: the chart renders such objects;
//! - `kube-apiserver`: the plane's own API server is configured so.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::blocks::Block;
use super::place::Place;

/// Values with which the chart renders what `docs/certificates.md` has: each of the two issuers that it speaks of.
const ISSUERS: [&str; 2] = [
    "certificates.mode=certManager",
    "certificates.mode=certManager,certificates.certManager.issuerRef.name=vllm-operator,\
     certificates.certManager.issuerRef.kind=ClusterIssuer,scaler.keda.create=true",
];

/// The error says what is wrong with it.
pub async fn judge(place: &Place<'_>, block: &Block) -> anyhow::Result<()> {
    let (_, how) = block.language();
    let dry_run = "kubectl apply --dry-run=server";
    match how {
        "" => place.give(dry_run, &block.text).await,
        "VLLMCluster.spec" => {
            let manifest = json!({
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
                "metadata": {"name": "fragment"}, "spec": yaml(&block.text)?,
            });
            place.give(dry_run, &manifest.to_string()).await
        }
        "ScaledObject.spec" => {
            let mut spec = yaml(&block.text)?;
            let target = json!({
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "fragment",
            });
            spec["scaleTargetRef"] = target;
            if spec["triggers"].is_null() {
                spec["triggers"] =
                    json!([testbed::addons::scaler_trigger(&[("signal", "queue"), ("targetValue", "5")])]);
            }
            let manifest = json!({
                "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
                "metadata": {"name": "fragment"}, "spec": spec,
            });
            place.give(dry_run, &manifest.to_string()).await
        }
        "values" => {
            place.write("values.yaml", &block.text)?;
            place.run("helm template vllm-operator deploy/chart --values values.yaml").await?.ok().map(drop)
        }
        "cert-manager" => rendered(place, &block.text).await,
        "kube-apiserver" => configured(place, &block.text),
        _ => match how.strip_prefix("file=") {
            Some(name) => place.write(name, &block.text),
            None => anyhow::bail!("nothing says how a manifest `{how}` is judged"),
        },
    }
}

/// The chart renders an object of this name with all that the document states.
async fn rendered(place: &Place<'_>, text: &str) -> anyhow::Result<()> {
    let mut rendered = Vec::new();
    for values in ISSUERS {
        let line = format!("helm template vllm-operator deploy/chart -n vllm-operator-system --set {values}");
        rendered.extend(documents(&place.run(&line).await?.ok()?)?);
    }
    for object in documents(text)? {
        ensure!(
            rendered.iter().any(|rendered| holds(rendered, &object)),
            "the chart renders no such {object:#}"
        );
    }
    Ok(())
}

/// One of the files that the plane's API server was started with holds all that the document states; paths are each one's own.
fn configured(place: &Place<'_>, text: &str) -> anyhow::Result<()> {
    let state = &place.plane.spec().state;
    let files = ["admission.json", "webhook-client"].map(|name| {
        let text = std::fs::read_to_string(state.config(name))?;
        anyhow::Ok(without_paths(yaml(&text)?))
    });
    let files = files.into_iter().collect::<Result<Vec<_>, _>>()?;
    let stated = without_paths(yaml(text)?);
    ensure!(files.iter().any(|file| holds(file, &stated)), "neither of {files:#?}\nholds\n{stated:#}");
    Ok(())
}

fn without_paths(mut value: Value) -> Value {
    match &mut value {
        Value::String(text) if text.starts_with('/') => *text = "/".into(),
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_paths(item.take())),
        Value::Object(fields) => fields.values_mut().for_each(|field| *field = without_paths(field.take())),
        _ => {}
    }
    value
}

/// Whether `whole` has all of `part`.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|whole| holds(whole, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|part| whole.iter().any(|whole| holds(whole, part)))
        }
        _ => whole == part,
    }
}

fn yaml(text: &str) -> anyhow::Result<Value> {
    serde_saphyr::from_str(text).context("one document of YAML")
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).context("YAML")?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}
