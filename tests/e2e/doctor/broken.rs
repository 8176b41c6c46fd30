//! The ways in which an installation is broken.

use serde_json::{Value, json};

use super::{OPERATOR, WORK};
use crate::suite::cluster;

/// One way to break it.
pub struct Broken {
    pub name: &'static str,
    /// Namespace, object and what becomes of it, one after the other.
    pub changes: &'static [(&'static str, &'static str, Change)],
    /// What is found then, among what else follows.
    pub finds: &'static [&'static str],
}

/// What becomes of an object.
pub enum Change {
    Delete,
    /// A JSON patch.
    Patch(fn() -> Value),
    Create(fn() -> String),
}

use Change::{Create, Delete, Patch};

const DEFINITION: &str = "crd vllmclusters.training.distributed-inference.io";
const MUTATING: &str = "mutatingwebhookconfiguration vllm-operator";
const VALIDATING: &str = "validatingwebhookconfiguration vllm-operator";
const DEPLOYMENT: &str = "deployment vllm-operator";

/// All of them.
pub const BROKEN: &[Broken] = &[
    Broken {
        name: "a definition of another version",
        changes: &[("", DEFINITION, Patch(|| remove("/spec/versions/0/additionalPrinterColumns/0")))],
        finds: &["definition-outdated"],
    },
    Broken {
        name: "a definition that is switched off",
        changes: &[("", DEFINITION, Patch(|| replace("/spec/versions/0/served", json!(false))))],
        finds: &["definition-not-served"],
    },
    Broken {
        name: "a configuration that was deleted",
        changes: &[("", MUTATING, Delete)],
        finds: &["webhook-missing", "admission-bypassed"],
    },
    Broken {
        name: "a webhook that was taken out",
        changes: &[("", VALIDATING, Patch(|| remove("/webhooks/1")))],
        finds: &["webhook-missing"],
    },
    Broken {
        name: "a webhook that fails open",
        changes: &[("", VALIDATING, Patch(|| replace("/webhooks/0/failurePolicy", json!("Ignore"))))],
        finds: &["webhook-changed"],
    },
    Broken {
        name: "webhooks for some namespaces only",
        changes: &[(
            "",
            MUTATING,
            Patch(|| replace("/webhooks/0/namespaceSelector", json!({"matchLabels": {"vllm": "yes"}}))),
        )],
        finds: &["webhook-changed", "admission-bypassed"],
    },
    Broken {
        name: "a bundle that nobody may put back",
        changes: &[
            ("", "clusterrole vllm-operator", Patch(without_webhooks)),
            ("", MUTATING, Patch(|| remove("/webhooks/0/clientConfig/caBundle"))),
        ],
        finds: &["right-missing", "bundle-untrusted", "admission-unanswered"],
    },
    Broken {
        name: "a Service that leads nowhere",
        changes: &[(
            OPERATOR,
            "service vllm-operator",
            Patch(|| replace("/spec/selector", json!({"app.kubernetes.io/name": "another"}))),
        )],
        finds: &["service-leads-nowhere", "admission-unanswered"],
    },
    Broken {
        name: "no Service for KEDA",
        changes: &[(OPERATOR, "service vllm-operator-scaler", Delete)],
        finds: &["service-leads-nowhere"],
    },
    Broken {
        name: "a binding that was deleted, and a lost authority",
        changes: &[
            (OPERATOR, "rolebinding vllm-operator", Delete),
            (OPERATOR, "secret vllm-operator-ca", Patch(|| remove("/data"))),
        ],
        finds: &["right-missing", "leader-missing", "authority-unusable"],
    },
    Broken {
        name: "no replicas",
        changes: &[(OPERATOR, DEPLOYMENT, Patch(|| replace("/spec/replicas", json!(0))))],
        finds: &["operator-stopped", "admission-unanswered"],
    },
    Broken {
        name: "one replica",
        changes: &[(OPERATOR, DEPLOYMENT, Patch(|| replace("/spec/replicas", json!(1))))],
        finds: &["operator-alone"],
    },
    Broken {
        name: "an image that is not there",
        changes: &[(
            OPERATOR,
            DEPLOYMENT,
            Patch(|| replace(IMAGE, json!("registry.example/vllm-operator:0.0.1"))),
        )],
        finds: &["operator-unavailable", "version-differs"],
    },
    Broken {
        name: "a setting that is none",
        changes: &[(OPERATOR, DEPLOYMENT, Patch(|| environment("LEAF_LIFE", "soon")))],
        finds: &["operator-unavailable", "settings-unusable"],
    },
    Broken {
        name: "the Deployment is gone",
        changes: &[(OPERATOR, DEPLOYMENT, Delete)],
        finds: &["operator-missing"],
    },
    Broken {
        name: "a ScaledObject that came by a warning",
        changes: &[
            ("", "namespace doctor", Patch(warned_only)),
            (
                WORK,
                "vllmcluster b",
                Create(|| {
                    cluster("b", "replicas: 2\nminReplicas: 2\nmaxReplicas: 4\naccelerator: {count: 0}")
                }),
            ),
            (WORK, "scaledobject b", Create(|| scaled_object("b", 0, 9, &json!([cron()])).to_string())),
        ],
        finds: &["object-refused", "scaling-conflict"],
    },
    Broken {
        name: "a trigger that KEDA cannot start",
        changes: &[
            (
                WORK,
                "vllmcluster b",
                Create(|| cluster("b", "replicas: 1\nmaxReplicas: 4\naccelerator: {count: 0}")),
            ),
            (
                WORK,
                "scaledobject b",
                Create(|| scaled_object("b", 1, 4, &json!([unreachable()])).to_string()),
            ),
        ],
        finds: &["scaledobject-not-ready"],
    },
    Broken {
        name: "a name that is taken, and an image that is not there",
        changes: &[
            (
                WORK,
                "service c",
                Create(|| {
                    "{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {ports: [{port: 80}]}}".into()
                }),
            ),
            (WORK, "vllmcluster c", Create(|| cluster("c", "replicas: 1\naccelerator: {count: 0}"))),
            (
                WORK,
                "vllmcluster d",
                Create(|| {
                    cluster("d", "replicas: 1\naccelerator: {count: 0}\nimage: vllm/vllm-openai:missing")
                }),
            ),
        ],
        finds: &["cluster-stalled", "cluster-not-ready"],
    },
    Broken {
        name: "no way from KEDA to the scaler",
        changes: &[("", "clustertriggerauthentication vllm-operator-scaler", Delete)],
        finds: &["scaler-untrusted"],
    },
    Broken {
        name: "nobody serves external metrics",
        changes: &[("", "apiservice v1beta1.external.metrics.k8s.io", Delete)],
        finds: &["external-metrics-missing", "hpa-inactive"],
    },
    Broken {
        name: "nobody serves the usage of pods",
        changes: &[("", "apiservice v1beta1.metrics.k8s.io", Delete)],
        finds: &["resource-metrics-missing"],
    },
    Broken {
        name: "KEDA does not run",
        changes: &[("keda", "deployment keda-operator", Patch(|| replace("/spec/replicas", json!(0))))],
        finds: &["keda-unavailable"],
    },
];

const IMAGE: &str = "/spec/template/spec/containers/0/image";

fn remove(path: &str) -> Value {
    json!([{"op": "remove", "path": path}])
}

fn replace(path: &str, value: impl Into<Value>) -> Value {
    let value = value.into();
    json!([{"op": "add", "path": path, "value": value}])
}

fn environment(name: &str, value: &str) -> Value {
    json!([{"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": {"name": name, "value": value}}])
}

/// The role's last rule is that of the webhook configurations.
fn without_webhooks() -> Value {
    json!([
        {"op": "test", "path": "/rules/11/apiGroups", "value": ["admissionregistration.k8s.io"]},
        {"op": "remove", "path": "/rules/11"},
    ])
}

fn warned_only() -> Value {
    json!([{"op": "add", "path": "/metadata/labels/training.distributed-inference.io~1admission", "value": "warn"}])
}

pub fn scaled_object(name: &str, min: u32, max: u32, triggers: &Value) -> Value {
    json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": name,
            },
            "minReplicaCount": min, "maxReplicaCount": max, "triggers": triggers,
        },
    })
}

fn cron() -> Value {
    json!({"type": "cron", "metadata": {
        "timezone": "UTC", "start": "0 0 1 1 *", "end": "1 0 1 1 *", "desiredReplicas": "2",
    }})
}

/// A trigger that admission knows nothing of, and that KEDA cannot connect.
fn unreachable() -> Value {
    json!({"type": "redis", "metadata": {"address": "nowhere:6379", "listName": "l", "listLength": "5"}})
}
