//! Where models are kept: claims that are made, kept and deleted, and what the servers find in them.
//!
//! The plane has no volume provisioner, so the volumes are folders that the test makes beforehand; its node mounts no
//! other kind. What a StorageClass would add — a volume made for a claim, and deleted with it — is not seen here.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::json;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use crate::suite::{PATIENCE, apply, cluster, forget, get, kubectl, namespace, until};

use super::{change, gone, settled};

const NS: &str = "cache";
/// Class of the volumes, which provisions nothing.
const CLASS: &str = "folders";
const VOLUMES: usize = 5;

/// A container that adds a line to a file beside the models before the server starts.
const DIARY: &str = "podTemplate: {spec: {initContainers: [{name: diary, image: vllm/vllm-openai, \
    command: [sh, -c, 'echo $HOSTNAME >> /diary/starts'], \
    volumeMounts: [{name: model-cache, mountPath: /diary}]}]}}";

/// Claims of each replica, by what retention says, and one that all share.
pub async fn claims(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    for number in 0..VOLUMES {
        fs::create_dir_all(folder(plane, number))?;
        kubectl(plane, NS, "apply -f -").stdin(volume(plane, number)).ok().await?;
    }
    let claim = |retention: &str| {
        format!(
            "replicas: 2\nmodelCache: {{claim: {{size: 1Gi, storageClassName: {CLASS}}}{retention}}}\n{DIARY}"
        )
    };
    apply(plane, NS, &cluster("kept", &claim(""))).await?;
    let delete = ", retention: {whenScaled: Delete, whenDeleted: Delete}";
    apply(plane, NS, &cluster("dropped", &claim(delete))).await?;
    kubectl(plane, NS, "create -f -").stdin(shared_claim()).ok().await?;
    let shared = format!("replicas: 2\nmodelCache: {{existingClaim: models}}\n{DIARY}");
    apply(plane, NS, &cluster("shared", &shared)).await?;
    for name in ["kept", "dropped", "shared"] {
        settled(plane, NS, name).await?;
    }
    let all = ["dropped-0", "dropped-1", "kept-0", "kept-1"].map(|pod| format!("model-cache-{pod}"));
    claims_are(plane, &[&all[0], &all[1], &all[2], &all[3], "models"]).await?;
    // One folder for both servers, mounted for writing where HF_HOME is.
    let mut starts = starts(plane, "models").await?;
    starts.sort();
    ensure!(starts == ["shared-0", "shared-1"], "{starts:?}");
    models_are_kept_there(plane).await?;

    for name in ["kept", "dropped"] {
        kubectl(plane, NS, &format!("scale vllmcluster/{name} --replicas=1")).ok().await?;
        settled(plane, NS, name).await?;
    }
    claims_are(plane, &[&all[0], &all[2], &all[3], "models"]).await?;
    // What was kept is found again, by the same replica.
    kubectl(plane, NS, "scale vllmcluster/kept --replicas=2").ok().await?;
    settled(plane, NS, "kept").await?;
    let starts = self::starts(plane, &all[3]).await?;
    ensure!(starts == ["kept-1", "kept-1"], "{starts:?}");
    immutable(plane).await?;

    kubectl(plane, NS, "delete vllmcluster --all").ok().await?;
    gone(plane, NS, "pods").await?;
    claims_are(plane, &[&all[2], &all[3], "models"]).await?;
    forget(plane, NS).await?;
    kubectl(plane, NS, "delete persistentvolume -l e2e=cache --timeout=60s").ok().await.map(drop)
}

/// Another claim is refused, with the way out; another retention reaches the live StatefulSet.
async fn immutable(plane: &Plane) -> anyhow::Result<()> {
    let larger = json!({"spec": {"modelCache": {"claim": {"size": "2Gi"}}}}).to_string();
    let patch = ["-n", NS, "patch", "vllmcluster/kept", "--type=merge", "-p", &larger];
    let refused = plane.kubectl(&patch).output().await?.refused()?;
    ensure!(refused.contains("spec.modelCache") && refused.contains("another name"), "{refused}");
    let set = get(plane, NS, "statefulset/kept").await?["metadata"]["uid"].clone();
    let policy = "/spec/persistentVolumeClaimRetentionPolicy/whenScaled";
    for (retention, wanted) in [(json!({"whenScaled": "Delete"}), "Delete"), (json!(null), "Retain")] {
        change(plane, NS, "kept", &json!({"modelCache": {"retention": retention}})).await?;
        let same = [("/metadata/uid", set.clone()), (policy, json!(wanted))];
        until(plane, NS, "statefulset/kept", &same).await?;
    }
    Ok(())
}

/// The server's own container has the volume, and is told to keep its models there.
async fn models_are_kept_there(plane: &Plane) -> anyhow::Result<()> {
    let pod = get(plane, NS, "pod/shared-0").await?;
    let container = &pod["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().context("mounts")?;
    let cache = mounts.iter().find(|mount| mount["name"] == "model-cache").context("the cache is mounted")?;
    let home =
        container["env"].as_array().into_iter().flatten().find(|variable| variable["name"] == "HF_HOME");
    ensure!(home.is_some_and(|home| home["value"] == cache["mountPath"]), "{container}");
    ensure!(
        pod["spec"]["volumes"].to_string().contains(r#"{"claimName":"models"}"#),
        "{}",
        pod["spec"]["volumes"]
    );
    Ok(())
}

/// The claims of the namespace come to be these.
async fn claims_are(plane: &Plane, names: &[&str]) -> anyhow::Result<()> {
    eventually(&format!("claims {names:?}"), Deadline::after(PATIENCE), || async {
        let claims = get(plane, NS, "persistentvolumeclaims").await.map_err(|error| format!("{error:#}"))?;
        let items = claims["items"].as_array().into_iter().flatten();
        let mut found: Vec<_> = items.filter_map(|claim| claim["metadata"]["name"].as_str()).collect();
        found.sort_unstable();
        if found == names { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
}

/// The pods that have started with a claim's volume, as they wrote it down there.
async fn starts(plane: &Plane, claim: &str) -> anyhow::Result<Vec<String>> {
    let claim = get(plane, NS, &format!("persistentvolumeclaim/{claim}")).await?;
    let volume = claim["spec"]["volumeName"].as_str().context("a bound claim")?;
    let number =
        volume.strip_prefix("e2e-cache-").and_then(|number| number.parse().ok()).context("a number")?;
    let path = folder(plane, number).join("starts");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn folder(plane: &Plane, number: usize) -> PathBuf {
    plane.state_dir().join("volumes").join(number.to_string())
}

fn volume(plane: &Plane, number: usize) -> String {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": format!("e2e-cache-{number}"), "labels": {"e2e": "cache"}},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "hostPath": {"path": folder(plane, number)},
        },
    })
    .to_string()
}

fn shared_claim() -> String {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": CLASS,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    })
    .to_string()
}
