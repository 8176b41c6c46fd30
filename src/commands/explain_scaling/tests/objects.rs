//! Objects as API servers, KEDA and the HPA controller write them.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::VLLMCluster;
use crate::commands::explain_scaling::chain::Explanation;
use crate::commands::explain_scaling::explain::explain;
use crate::commands::explain_scaling::seen::{ScaledObject, Seen};

pub(super) const NOW: &str = "2026-03-01T12:00:00Z";
pub(super) const LONG_AGO: &str = "2026-03-01T08:00:00Z";

pub(super) fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// The objects of a namespace, each as JSON.
#[derive(Clone)]
// The fields are called as the objects are.
#[allow(clippy::struct_field_names)]
pub(super) struct Objects {
    pub(super) cluster: Value,
    pub(super) scaled_objects: Option<Vec<Value>>,
    pub(super) hpas: Vec<Value>,
    pub(super) pods: Vec<Value>,
    pub(super) events: Vec<Value>,
    pub(super) unseen: Vec<String>,
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

impl Objects {
    pub(super) fn seen(&self) -> Seen {
        let count = self.cluster["spec"]["replicas"].clone();
        let status = &self.cluster["status"];
        Seen {
            at: now(),
            cluster: read::<VLLMCluster>(&self.cluster),
            scaled_objects: self
                .scaled_objects
                .as_ref()
                .map(|all| all.iter().map(|object| ScaledObject::read(object).unwrap()).collect()),
            hpas: self.hpas.iter().map(read::<HorizontalPodAutoscaler>).collect(),
            scale: Some(read(&json!({
                "spec": {"replicas": count},
                "status": {"replicas": status["replicas"], "selector": status["selector"]},
            }))),
            set: Some(read(&json!({
                "metadata": {"name": "chat"},
                "spec": {"replicas": count, "selector": {}, "template": {}},
                "status": {
                    "replicas": status["replicas"], "readyReplicas": status["readyReplicas"],
                    "updatedReplicas": status["replicas"],
                },
            }))),
            pods: Some(self.pods.iter().map(read::<Pod>).collect()),
            events: self.events.iter().map(read::<Event>).collect(),
            unseen: self.unseen.clone(),
        }
    }

    pub(super) fn explained(&self) -> Explanation {
        explain(&self.seen())
    }

    pub(super) fn scaled_object(&mut self) -> &mut Value {
        &mut self.scaled_objects.as_mut().unwrap()[0]
    }

    /// Sets a field of the HPA, by its JSON pointer.
    pub(super) fn hpa(&mut self, pointer: &str, value: Value) {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        self.hpas[0].pointer_mut(parent).unwrap()[field] = value;
    }

    pub(super) fn condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.hpas[0]["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != kind);
        conditions.push(json!({"type": kind, "status": status, "reason": reason, "message": message}));
    }
}

pub(super) fn pod(ordinal: i32, ready: bool) -> Value {
    let conditions = json!([
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": if ready { "True" } else { "False" }},
    ]);
    let state = json!({"running": {"startedAt": "2026-03-01T11:59:00Z"}});
    json!({
        "metadata": {"name": format!("chat-{ordinal}")},
        "spec": {"nodeName": "n", "containers": []},
        "status": {
            "phase": "Running", "conditions": conditions,
            "containerStatuses": [{
                "name": "vllm", "ready": ready, "started": ready, "restartCount": 0, "image": "", "imageID": "",
                "state": state,
            }],
        },
    })
}

/// So many replicas, all ready, and a queue of which so much falls on each, against 4.
pub(super) fn driven(count: i32, queue: &str) -> Objects {
    let target = json!({"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "chat"});
    let metric =
        json!({"name": "s0-prometheus", "selector": {"matchLabels": {"scaledobject.keda.sh/name": "queue"}}});
    Objects {
        cluster: json!({
            "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
            "metadata": {"name": "chat", "namespace": "team-a"},
            "spec": {"replicas": count, "maxReplicas": 8},
            "status": {
                "replicas": count, "readyReplicas": count, "updatedReplicas": count,
                "selector": "app=vllm-cluster,cluster=chat,component=vllm-server",
                "conditions": [],
            },
        }),
        scaled_objects: Some(vec![json!({
            "metadata": {"name": "queue", "namespace": "team-a", "annotations": {}},
            "spec": {
                "scaleTargetRef": target, "minReplicaCount": 1, "maxReplicaCount": 6,
                "triggers": [{"type": "prometheus", "metadata": {"threshold": "4"}}],
            },
            "status": {
                "hpaName": "keda-hpa-queue",
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "ScaledObjectReady",
                     "message": "ScaledObject is defined correctly and is ready for scaling"},
                    {"type": "Active", "status": "True", "reason": "ScalerActive", "message": ""},
                    {"type": "Fallback", "status": "False", "reason": "NoFallbackFound", "message": ""},
                ],
            },
        })]),
        hpas: vec![json!({
            "metadata": {
                "name": "keda-hpa-queue", "namespace": "team-a",
                "ownerReferences": [{
                    "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "queue", "uid": "u", "controller": true,
                }],
            },
            "spec": {
                "scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 6,
                "metrics": [{"type": "External", "external": {
                    "metric": metric, "target": {"type": "AverageValue", "averageValue": "4"},
                }}],
            },
            "status": {
                "currentReplicas": count, "desiredReplicas": count, "lastScaleTime": LONG_AGO,
                "currentMetrics": [{"type": "External", "external": {"metric": metric, "current": {"averageValue": queue}}}],
                "conditions": [
                    {"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale", "message": "recommended size matches current size"},
                    {"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound", "message": "the HPA was able to successfully calculate a replica count"},
                    {"type": "ScalingLimited", "status": "False", "reason": "DesiredWithinRange", "message": "the desired count is within the acceptable range"},
                ],
            },
        })],
        pods: (0..count).map(|ordinal| pod(ordinal, true)).collect(),
        events: Vec::new(),
        unseen: Vec::new(),
    }
}

pub(super) fn event(kind: &str, name: &str, type_: &str, reason: &str, message: &str) -> Value {
    json!({
        "metadata": {"name": "e", "namespace": "team-a"}, "involvedObject": {"kind": kind, "name": name},
        "type": type_, "reason": reason, "message": message, "lastTimestamp": "2026-03-01T11:59:30Z",
    })
}

pub(super) fn limited(objects: &mut Objects, reason: &str, message: &str) {
    objects.condition("ScalingLimited", "True", reason, message);
}

pub(super) fn stabilized(objects: &mut Objects, direction: &str) {
    objects.condition(
        "AbleToScale",
        "True",
        &format!("Scale{direction}Stabilized"),
        "recent recommendations were higher than current one, applying the highest recent recommendation",
    );
}

pub(super) fn with_cpu(objects: &mut Objects, current: Option<i32>) {
    let triggers = &mut objects.scaled_object()["spec"]["triggers"];
    let cpu = json!({"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}});
    triggers.as_array_mut().unwrap().push(cpu);
    let target = json!({"type": "Utilization", "averageUtilization": 70});
    let metrics = objects.hpas[0]["spec"]["metrics"].as_array_mut().unwrap();
    metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    let status = match current {
        Some(percent) => json!({"type": "Resource", "resource": {
            "name": "cpu", "current": {"averageUtilization": percent, "averageValue": "70m"},
        }}),
        // What the controller leaves of a metric that failed.
        None => json!({"type": ""}),
    };
    objects.hpas[0]["status"]["currentMetrics"].as_array_mut().unwrap().push(status);
}
