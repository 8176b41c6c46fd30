//! The ground of all stages: namespaces without pods, and KEDA's operator standing still.
//!
//! **Architecture invariant**: what the operator has been told is waited for, never slept for.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use axum::http::Method;
use kube::Client;
use serde_json::{Value, json};
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use super::super::suite::{PATIENCE, get as get_by_kubectl, kubectl};
use super::api::{Answer, Call, collection};
use super::axes::{Kind, Place, Writer};
use super::judge::Ours;
use super::objects::{cluster, hpa, scaled_object};
use super::scaled_objects::waiting;
use super::stage::apply;
use super::write::{MANAGER, MERGE};

const LABEL: &str = "training.distributed-inference.io/admission";

/// See the module.
pub struct Ground {
    pub ours: Ours,
}

impl Ground {
    /// Namespaces in which no pod is made: hundreds of clusters would be hundreds of engines. KEDA's operator stands
    /// still, since what it writes to ScaledObjects and scales is not what is asked here; its webhook serves on.
    pub async fn prepare(plane: &Plane, client: &Client) -> anyhow::Result<Self> {
        kubectl(plane, "keda", "scale deployment keda-operator --replicas=0").ok().await?;
        let mut manifest = String::new();
        for place in Place::ALL {
            let name = place.namespace();
            let labels = match place {
                Place::Warned | Place::Old => json!({LABEL: "warn"}),
                Place::Plain | Place::Limits => json!({}),
            };
            let mut objects = vec![
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
                json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-pods", "namespace": name}, "spec": {"hard": {"pods": "0"}}}),
            ];
            if place == Place::Limits {
                let mut limits = limit_range();
                limits["metadata"]["namespace"] = json!(name);
                objects.push(limits);
            }
            for object in objects {
                manifest = manifest + &object.to_string() + "\n---\n";
            }
        }
        plane.kubectl(&["apply", "-f", "-"]).stdin(manifest).ok().await?;
        kubectl(plane, "keda", "wait --for=delete pod -l app=keda-operator --timeout=60s").ok().await?;
        for place in [Place::Warned, Place::Old] {
            // Nothing but our policy refuses it.
            judged(client, place, Answer::ok).await?;
        }
        let names = |kind: &'static str| async move {
            let configuration = get_by_kubectl(plane, "default", &format!("{kind} vllm-operator")).await?;
            let webhooks = configuration["webhooks"].as_array().context("no webhooks")?;
            let names = webhooks.iter().filter_map(|webhook| webhook["name"].as_str().map(str::to_owned));
            anyhow::Ok(names.collect::<BTreeSet<_>>())
        };
        let ours = Ours {
            mutating: names("mutatingwebhookconfiguration").await?,
            validating: names("validatingwebhookconfiguration").await?,
        };
        let both: Vec<_> = ours.mutating.intersection(&ours.validating).collect();
        ensure!(both.is_empty(), "a refusal by {both:?} does not tell which of the two webhooks it is of");
        Ok(Self { ours })
    }

    /// Once all stages are made: older violations are no longer let through, and both webhooks know of every object.
    /// Watches tell in order, so who knows the last object of a kind knows all.
    pub async fn ready(&self, plane: &Plane, client: &Client) -> anyhow::Result<()> {
        kubectl(plane, "default", &format!("label namespace {} {LABEL}-", Place::Old.namespace()))
            .ok()
            .await?;
        judged(client, Place::Old, |answer| !answer.ok()).await?;
        let spec = json!({"minReplicaCount": 1, "maxReplicaCount": 2, "triggers": [waiting()]});
        for object in [
            cluster("last", json!({"replicas": 1})),
            cluster("last-of-hpa", json!({"replicas": 1})),
            scaled_object("last", "last", spec.clone()),
            hpa("last", "last-of-hpa", json!({"maxReplicas": 2})),
        ] {
            let namespace = Place::Plain.namespace();
            let path = super::api::collection_of(&object, namespace);
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let made = apply(client, &format!("{path}/{name}"), &object, Writer::Admin).await?;
            ensure!(made.ok(), "{path}/{name}: {}", made.message());
        }
        let scale = || {
            let path =
                format!("{}/last/scale?dryRun=All", collection(Kind::Cluster, Place::Plain.namespace()));
            Call::new(Method::PATCH, path).typed(MERGE).body(json!({"spec": {"replicas": 3}}))
        };
        refuses(client, "ScaledObject \"last\"", scale).await?;
        let rival = || create(Place::Plain, &scaled_object("rival", "last-of-hpa", spec.clone()));
        refuses(client, "HorizontalPodAutoscaler \"last\"", rival).await?;
        // KEDA's webhook watches by itself: a formula over another's HPA name is its own to refuse.
        let mut named = spec.clone();
        named["advanced"] = json!({"horizontalPodAutoscalerConfig": {"name": "keda-hpa-last"}});
        let named = || create(Place::Plain, &scaled_object("named", "nobody", named.clone()));
        refuses(client, "is already managed by the ScaledObject 'last'", named).await
    }

    /// The operator's pod.
    pub async fn operator_pod(&self, plane: &Plane) -> anyhow::Result<String> {
        let line = "get pods -l app.kubernetes.io/name=vllm-operator -o jsonpath={.items[*].metadata.name}";
        let pods = kubectl(plane, "vllm-operator-system", line).ok().await?;
        ensure!(!pods.is_empty() && !pods.contains(' '), "one pod of the operator: {pods:?}");
        Ok(pods)
    }

    /// Removes everything, and lets KEDA's operator work again.
    pub async fn clear(&self, plane: &Plane, client: &Client) -> anyhow::Result<()> {
        for place in Place::ALL {
            for kind in [Kind::ScaledObject, Kind::HpaV2, Kind::Cluster] {
                let path = collection(kind, place.namespace());
                release(client, &path).await?;
                let gone = Call::new(Method::DELETE, path).send(client).await?;
                ensure!(gone.ok(), "{}", gone.message());
            }
        }
        let names: Vec<_> = Place::ALL.iter().map(|place| place.namespace()).collect();
        kubectl(plane, "default", &format!("delete namespace {} --timeout=120s", names.join(" ")))
            .ok()
            .await?;
        kubectl(plane, "keda", "scale deployment keda-operator --replicas=1").ok().await?;
        kubectl(plane, "keda", "rollout status deployment keda-operator --timeout=60s").ok().await.map(drop)
    }
}

/// What gives each container of [`Place::Limits`] a request.
pub fn limit_range() -> Value {
    json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "defaults"}, "spec": {"limits": [{"type": "Container", "defaultRequest": {"cpu": "100m"}}]}})
}

/// Takes the finalizers of what was held while being deleted.
async fn release(client: &Client, path: &str) -> anyhow::Result<()> {
    let list = super::stage::get(client, path).await?.unwrap_or_default();
    for object in list["items"].as_array().into_iter().flatten() {
        if object["metadata"]["finalizers"].is_null() {
            continue;
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let call = Call::new(Method::PATCH, format!("{path}/{name}")).typed(MERGE);
        let answer = call.body(json!({"metadata": {"finalizers": null}})).send(client).await?;
        ensure!(answer.ok() || answer.code == 404, "{}", answer.message());
    }
    Ok(())
}

fn create(place: Place, object: &Value) -> Call {
    let path = super::api::collection_of(object, place.namespace());
    Call::new(Method::POST, format!("{path}?fieldManager={MANAGER}&dryRun=All")).body(object.clone())
}

/// Waits until the namespace's mode is known: by a ScaledObject that only our policy refuses.
async fn judged(client: &Client, place: Place, so: impl Fn(&Answer) -> bool) -> anyhow::Result<()> {
    let spec = json!({"minReplicaCount": 0, "maxReplicaCount": 2, "triggers": [waiting()]});
    let object = scaled_object("probe", "nobody", spec);
    eventually(&format!("the mode of {place:?} is known"), Deadline::after(PATIENCE), || async {
        let answer = create(place, &object).send(client).await.map_err(|error| format!("{error:#}"))?;
        if so(&answer) { Ok(()) } else { Err(format!("{} {}", answer.code, answer.message())) }
    })
    .await
}

/// Waits until a dry run is refused with this text.
async fn refuses(client: &Client, says: &str, call: impl Fn() -> Call) -> anyhow::Result<()> {
    eventually(&format!("a refusal that says {says}"), Deadline::after(PATIENCE), || async {
        let answer = call().send(client).await.map_err(|error| format!("{error:#}"))?;
        let refused = !answer.ok() && answer.message().contains(says);
        if refused { Ok(()) } else { Err(format!("{} {}", answer.code, answer.message())) }
    })
    .await
}
