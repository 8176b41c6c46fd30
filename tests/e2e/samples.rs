//! The samples in `deploy/samples`: each is taken as it stands, without a warning, and its cluster comes to serve.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::suite::{PATIENCE, forget, get, kubectl, namespace};

const NS: &str = "samples";
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples");

/// All of them in one namespace.
pub async fn all(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    // What the sample with a cache and a token takes for granted.
    for number in 0..2 {
        kubectl(plane, NS, "apply -f -").stdin(volume(plane, number)?).ok().await?;
    }
    kubectl(plane, NS, "create secret generic hugging-face --from-literal=token=hf_e2e").ok().await?;
    let mut files: Vec<_> =
        std::fs::read_dir(FOLDER)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    // Clusters before what drives them, as a person would.
    files.sort_by_key(|file| file.file_name().is_some_and(|name| name == "scaledobject.yaml"));
    for file in &files {
        taken(plane, file).await?;
    }
    eventually("every cluster serves", Deadline::after(PATIENCE), || async {
        let clusters = get(plane, NS, "vllmclusters").await.map_err(|error| format!("{error:#}"))?;
        let clusters = clusters["items"].as_array().cloned().unwrap_or_default();
        let wrong: Vec<_> = clusters.iter().filter_map(does_not_serve).collect();
        // One file has a ScaledObject alone.
        let as_many = clusters.len() + 1 == files.len();
        if as_many && wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{} clusters; {wrong:?}", clusters.len()))
        }
    })
    .await?;
    forget(plane, NS).await?;
    kubectl(plane, NS, "delete persistentvolumes -l e2e=samples").ok().await.map(drop)
}

/// A folder for one replica's models, in place of what a StorageClass would make.
fn volume(plane: &Plane, number: usize) -> anyhow::Result<String> {
    let folder = plane.state_dir().join("volumes").join(format!("samples-{number}"));
    std::fs::create_dir_all(&folder)?;
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": format!("e2e-samples-{number}"), "labels": {"e2e": "samples"}},
        "spec": {
            "capacity": {"storage": "200Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": folder},
        },
    });
    Ok(volume.to_string())
}

async fn taken(plane: &Plane, file: &Path) -> anyhow::Result<()> {
    let path = file.to_str().context("a path in UTF-8")?;
    let applied = plane.kubectl(&["-n", NS, "apply", "-f", path]).output().await?;
    ensure!(applied.status.success() && applied.stderr.is_empty(), "{path}: {}", applied.stderr);
    Ok(())
}

/// Why a cluster does not serve.
fn does_not_serve(cluster: &Value) -> Option<String> {
    let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default();
    (ready["status"] != "True").then(|| format!("{}: {}", cluster["metadata"]["name"], ready["message"]))
}
