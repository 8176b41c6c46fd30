//! Another actor changes, takes away or deletes all that the operator has applied, one thing at a time.
//!
//! The places are those that the API server says the operator manages, so none can be forgotten. [`REFUSED`] says what
//! the API server lets nobody change, [`LEFT`] what is of others and stays; all else comes back.

mod places;

use anyhow::{Context as _, ensure};
use axum::http::Request;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::Client;
use serde_json::{Value, json};
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Plane, trying_again};

use self::places::{Place, another, find, owned};
use super::owned::{
    Kind, cluster_path, comparable, create, differences, get, namespace_without_pods, objects, observed,
};
use super::suite::{PATIENCE, forget};

const NS: &str = "interference";
const MANAGER: &str = "vllm-operator";
/// Clusters among which the places are divided.
const CLUSTERS: usize = 4;

const BOTH: &[Deed] = &[Deed::Change, Deed::Remove];
const CHANGE: &[Deed] = &[Deed::Change];
const REMOVE: &[Deed] = &[Deed::Remove];

/// Places of an object with what the API server lets nobody do to them.
struct Refused {
    kind: Kind,
    deeds: &'static [Deed],
    places: &'static [&'static str],
}

const REFUSED: &[Refused] = &[
    // Fixed with its creation.
    Refused {
        kind: Kind::StatefulSet,
        deeds: BOTH,
        places: &[
            "/spec/selector",
            "/spec/serviceName",
            "/spec/podManagementPolicy",
            "/spec/volumeClaimTemplates",
            // What the selector asks for.
            "/spec/template/metadata/labels/app",
            "/spec/template/metadata/labels/cluster",
            "/spec/template/metadata/labels/component",
        ],
    },
    Refused { kind: Kind::HeadlessService, deeds: CHANGE, places: &["/spec/clusterIP"] },
    // What must be there.
    Refused {
        kind: Kind::StatefulSet,
        deeds: REMOVE,
        places: &[
            "/spec/template/spec/containers[side]/image",
            "/spec/template/spec/containers[side]/name",
            "/spec/template/spec/containers[vllm]/env[A]/name",
            "/spec/template/spec/containers[vllm]/env[HF_HOME]/name",
            "/spec/template/spec/containers[vllm]/env[HF_TOKEN]/name",
            "/spec/template/spec/containers[vllm]/env[HF_TOKEN]/valueFrom/secretKeyRef",
            "/spec/template/spec/containers[vllm]/image",
            "/spec/template/spec/containers[vllm]/livenessProbe/httpGet/port",
            "/spec/template/spec/containers[vllm]/name",
            "/spec/template/spec/containers[vllm]/ports[8000,TCP]/containerPort",
            "/spec/template/spec/containers[vllm]/readinessProbe/httpGet/port",
            "/spec/template/spec/containers[vllm]/securityContext/seccompProfile/type",
            "/spec/template/spec/containers[vllm]/startupProbe/httpGet/port",
            "/spec/template/spec/containers[vllm]/volumeMounts[/dev/shm]/mountPath",
            "/spec/template/spec/containers[vllm]/volumeMounts[/model-cache]/mountPath",
            "/spec/template/spec/initContainers[fetch]/image",
            "/spec/template/spec/initContainers[fetch]/name",
            // It is mounted.
            "/spec/template/spec/volumes[shm]",
        ],
    },
    Refused {
        kind: Kind::ClientService,
        deeds: REMOVE,
        places: &["/spec/ports[8000,TCP]", "/spec/ports[8000,TCP]/port"],
    },
    Refused { kind: Kind::HeadlessService, deeds: REMOVE, places: &["/spec/ports[8000,TCP]/port"] },
    // What something else refers to.
    Refused {
        kind: Kind::StatefulSet,
        deeds: BOTH,
        places: &[
            "/spec/template/spec/containers[vllm]/volumeMounts[/dev/shm]/name",
            "/spec/template/spec/containers[vllm]/volumeMounts[/model-cache]/name",
            "/spec/template/spec/volumes[shm]/name",
        ],
    },
    // With another type, there is no rolling update to be configured.
    Refused { kind: Kind::StatefulSet, deeds: CHANGE, places: &["/spec/updateStrategy/type"] },
];

/// What others may add to an object, and where it then is. It stays, also when the operator applies the object anew.
const LEFT: &[(Kind, &str, &str)] = &[
    (Kind::StatefulSet, r#"{"metadata": {"labels": {"team": "a"}}}"#, "/metadata/labels/team"),
    (Kind::StatefulSet, r#"{"metadata": {"annotations": {"note": "a"}}}"#, "/metadata/annotations/note"),
    (Kind::StatefulSet, r#"{"spec": {"minReadySeconds": 1}}"#, "/spec/minReadySeconds"),
    (Kind::StatefulSet, r#"{"spec": {"revisionHistoryLimit": 3}}"#, "/spec/revisionHistoryLimit"),
    // `kubectl rollout restart`.
    (
        Kind::StatefulSet,
        r#"{"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}"#,
        "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt",
    ),
    // What a mesh or an agent of another operator adds.
    (
        Kind::StatefulSet,
        r#"{"spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "agent:1"}]}}}}"#,
        "/spec/template/spec/containers[agent]",
    ),
    (
        Kind::StatefulSet,
        r#"{"spec": {"template": {"spec": {"containers": [{"name": "vllm", "env": [{"name": "OF_ANOTHER", "value": "x"}]}]}}}}"#,
        "/spec/template/spec/containers[vllm]/env[OF_ANOTHER]",
    ),
    (
        Kind::StatefulSet,
        r#"{"spec": {"template": {"spec": {"containers": [{"name": "vllm", "imagePullPolicy": "Always"}]}}}}"#,
        "/spec/template/spec/containers[vllm]/imagePullPolicy",
    ),
    (
        Kind::StatefulSet,
        r#"{"spec": {"template": {"spec": {"dnsPolicy": "Default"}}}}"#,
        "/spec/template/spec/dnsPolicy",
    ),
    (Kind::ClientService, r#"{"metadata": {"annotations": {"lb": "internal"}}}"#, "/metadata/annotations/lb"),
    (Kind::ClientService, r#"{"spec": {"type": "LoadBalancer"}}"#, "/spec/type"),
    (Kind::ClientService, r#"{"spec": {"sessionAffinity": "ClientIP"}}"#, "/spec/sessionAffinity"),
    (Kind::ClientService, r#"{"spec": {"ports": [{"name": "other", "port": 81}]}}"#, "/spec/ports[other]"),
    (Kind::HeadlessService, r#"{"metadata": {"labels": {"team": "a"}}}"#, "/metadata/labels/team"),
    (Kind::Budget, r#"{"metadata": {"labels": {"team": "a"}}}"#, "/metadata/labels/team"),
];

/// A spec that makes the operator state as much as it can.
fn spec() -> Value {
    json!({
        "replicas": 1, "model": "tiny", "args": ["--enforce-eager"],
        "env": [{"name": "A", "value": "1"}],
        "envFrom": [{"configMapRef": {"name": "one", "optional": true}}],
        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1"}},
        "huggingFaceToken": {"secretName": "hf"},
        "modelCache": {"claim": {"size": "1Gi"}},
        "sharedMemorySize": "1Gi",
        "updateStrategy": {"maxUnavailable": 2},
        "disruptionBudget": {"maxUnavailable": 1},
        "podTemplate": {
            "metadata": {"labels": {"team": "a"}, "annotations": {"note": "x"}},
            "spec": {
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "serviceAccountName": "models",
                "imagePullSecrets": [{"name": "one"}],
                "containers": [{"name": "side", "image": "side:1"}],
                "initContainers": [{"name": "fetch", "image": "fetch:1"}],
            },
        },
    })
}

/// What is done to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Change,
    Remove,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
enum End {
    /// The API server does not let anybody.
    Refused,
    /// It is as it was.
    Restored,
}

/// Each place in turn.
pub async fn every_field(plane: &Plane) -> anyhow::Result<()> {
    namespace_without_pods(plane, NS).await?;
    let client = plane.client().await?;
    let names: Vec<_> = (0..CLUSTERS).map(|index| format!("c-{index}")).collect();
    for name in &names {
        create(&client, NS, name, &spec()).await?;
        observed(&client, NS, name).await?;
    }
    none_is_stale(&client, &names[0]).await?;
    let (client, parts) = (&client, CLUSTERS);
    let failures: Vec<Vec<String>> = futures::stream::iter(names.iter().enumerate())
        .map(|(part, name)| async move {
            let mut failures = Vec::new();
            for kind in Kind::ALL {
                failures.extend(interfere(client, kind, name, part, parts).await?);
            }
            anyhow::Ok(failures)
        })
        .buffered(CLUSTERS)
        .try_collect()
        .await?;
    let failures = failures.concat();
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// Whether each row of [`REFUSED`] speaks of something that the operator applies.
async fn none_is_stale(client: &Client, name: &str) -> anyhow::Result<()> {
    for Refused { kind, places, .. } in REFUSED {
        let object = get(client, &kind.path(NS, name)).await?.with_context(|| format!("no {kind:?}"))?;
        let owned: Vec<_> = owned(&object, MANAGER)?.iter().map(ToString::to_string).collect();
        let stale: Vec<_> =
            places.iter().filter(|place| !owned.iter().any(|owned| owned == *place)).collect();
        ensure!(stale.is_empty(), "of {kind:?} the operator does not apply {stale:?}, but {owned:#?}");
    }
    Ok(())
}

/// Takes its part of the places of one object; what did not end as the table says.
async fn interfere(
    client: &Client,
    kind: Kind,
    name: &str,
    part: usize,
    parts: usize,
) -> anyhow::Result<Vec<String>> {
    let path = kind.path(NS, name);
    let object = get(client, &path).await?.with_context(|| format!("{path} does not exist"))?;
    let places = owned(&object, MANAGER)?;
    ensure!(places.len() > 10, "{path}: {places:?}");
    let mut failures = Vec::new();
    for place in places.iter().skip(part).step_by(parts) {
        for deed in [Deed::Change, Deed::Remove] {
            if deed == Deed::Change && place.entry {
                continue;
            }
            let wanted = if is_refused(kind, deed, place) { End::Refused } else { End::Restored };
            let ended = end(client, &path, &places, place, deed).await;
            match ended {
                Ok(ended) if ended == wanted => {}
                Ok(ended) => failures.push(format!("{kind:?} {deed:?} {place}: {ended:?}")),
                Err(error) => failures.push(format!("{kind:?} {deed:?} {place}: {error:#}")),
            }
        }
    }
    Ok(failures)
}

fn is_refused(kind: Kind, deed: Deed, place: &Place) -> bool {
    let place = place.to_string();
    let refuses = |refused: &Refused| {
        refused.kind == kind && refused.deeds.contains(&deed) && refused.places.contains(&place.as_str())
    };
    REFUSED.iter().any(refuses)
}

/// Does it, and waits for the end of it. Whatever of another's stays behind goes with the object.
async fn end(client: &Client, at: &str, places: &[Place], place: &Place, deed: Deed) -> anyhow::Result<End> {
    let before = get(client, at).await?.context("it does not exist")?;
    let pointer = place.pointer(&before).context("it is not there any more")?;
    let value = before.pointer(&pointer).cloned().unwrap_or_default();
    let patch = match deed {
        Deed::Change => json!([{"op": "replace", "path": pointer, "value": another(&value)}]),
        Deed::Remove => json!([{"op": "remove", "path": pointer}]),
    };
    let after = match interfering(client, at, "application/json-patch+json", &patch).await {
        Ok(after) => after,
        Err(kube::Error::Api(status)) if status.code == 422 => return Ok(End::Refused),
        Err(error) => return Err(error).context("the API server"),
    };
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "another object");
    if place.value(&after) == Some(&value) {
        // The API server itself puts back what is left out.
        return Ok(End::Restored);
    }
    let restored = eventually("it is restored", Deadline::after(PATIENCE / 3), || async {
        let now = get(client, at).await.map_err(|error| format!("{error:#}"))?.ok_or("gone")?;
        let missing: Vec<_> = places
            .iter()
            .filter(|place| !place.entry && place.value(&now) != place.value(&before))
            .map(|place| format!("{place} is {:?}", place.value(&now)))
            .collect();
        if missing.is_empty() { Ok(now) } else { Err(missing.join(", ")) }
    })
    .await;
    let clean = restored.as_ref().is_ok_and(|now| comparable(now) == comparable(&before));
    if !clean {
        deleted(client, at, &before).await.context("made anew")?;
    }
    restored.map(|_| End::Restored)
}

/// Deletes an object, and waits until it is back as it was.
async fn deleted(client: &Client, at: &str, before: &Value) -> anyhow::Result<()> {
    client.request::<Value>(Request::delete(at).body(Vec::new())?).await?;
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    eventually("it is made anew, as it was", Deadline::after(PATIENCE), || async {
        let now = get(client, at).await.map_err(|error| format!("{error:#}"))?.ok_or("gone")?;
        let mut differing = Vec::new();
        differences(&comparable(&now), &comparable(before), "", &mut differing);
        let back = uid(&now) != uid(before) && differing.is_empty();
        if back { Ok(()) } else { Err(format!("{differing:?}")) }
    })
    .await
}

async fn interfering(client: &Client, at: &str, form: &str, patch: &Value) -> kube::Result<Value> {
    let request = Request::patch(format!("{at}?fieldManager=somebody-else"))
        .header("content-type", form)
        .body(patch.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

/// Each object is deleted, and comes back.
pub async fn every_object(plane: &Plane) -> anyhow::Result<()> {
    let client = plane.client().await?;
    let objects = objects(&client, NS, "c-0").await?;
    ensure!(objects.len() == Kind::ALL.len(), "{objects:#?}");
    for (kind, object) in &objects {
        deleted(&client, &kind.path(NS, "c-0"), object).await.with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

/// What others have added stays when the operator applies an object anew.
pub async fn what_is_of_others(plane: &Plane) -> anyhow::Result<()> {
    let client = plane.client().await?;
    for (kind, patch, pointer) in LEFT {
        let patch: Value = serde_json::from_str(patch)?;
        let form = "application/strategic-merge-patch+json";
        let after = interfering(&client, &kind.path(NS, "c-0"), form, &patch).await?;
        ensure!(find(&after, pointer).is_some(), "{kind:?}: {patch} adds no {pointer}");
    }
    let before = objects(&client, NS, "c-0").await?;
    // Each object has something of it.
    let at = cluster_path(NS, "c-0");
    let change = json!({"spec": {"port": 9000, "disruptionBudget": {"maxUnavailable": 2}}});
    trying_again(|| interfering(&client, &at, "application/merge-patch+json", &change)).await?;
    observed(&client, NS, "c-0").await?;
    let after = objects(&client, NS, "c-0").await?;
    for ((kind, before), (_, after)) in before.iter().zip(&after) {
        ensure!(comparable(before) != comparable(after), "{kind:?} was not applied anew");
    }
    for (kind, _, pointer) in LEFT {
        let of = |objects: &[(Kind, Value)]| {
            objects.iter().find(|(of, _)| of == kind).and_then(|(_, object)| find(object, pointer).cloned())
        };
        ensure!(of(&before).is_some() && of(&before) == of(&after), "{kind:?} {pointer}: {:?}", of(&after));
    }
    forget(plane, NS).await
}
