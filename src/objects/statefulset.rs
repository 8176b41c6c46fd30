//! The StatefulSet that runs a cluster's servers.

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction, PodSpec, PodTemplateSpec, Probe, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::names::{CONTAINER, PORT, PORT_NAME, headless_service};

use super::ValidatedCluster;

/// The image where the spec names none: the release that the operator's flags and probes were tried with.
pub const DEFAULT_IMAGE: &str = "vllm/vllm-openai:v0.32.0";

/// Period of the startup probe, in seconds: a small model is up soon after it can be.
const STARTUP_PERIOD: i32 = 2;
/// How long loading a model may take before the container is restarted, in seconds.
const STARTUP_BUDGET: i32 = 30 * 60;
/// Time that requests in flight get after SIGTERM, in seconds. Kubernetes' own default.
const GRACE: i64 = 30;

/// The StatefulSet of a cluster.
pub fn statefulset(cluster: &ValidatedCluster) -> StatefulSet {
    StatefulSet {
        metadata: cluster.owned(cluster.name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(cluster.replicas),
            service_name: Some(headless_service(&cluster.name)),
            // In order would wait for each model to load before the next, and never leave a broken image by itself.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                // Stated, so that a partition set by hand does not hold back updates unseen.
                rolling_update: Some(RollingUpdateStatefulSetStrategy {
                    partition: Some(0),
                    ..RollingUpdateStatefulSetStrategy::default()
                }),
            }),
            selector: LabelSelector { match_labels: Some(cluster.selector()), match_expressions: None },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(cluster.labels()), ..ObjectMeta::default() }),
                spec: Some(pod(cluster)),
            },
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn pod(cluster: &ValidatedCluster) -> PodSpec {
    PodSpec {
        containers: vec![container(cluster)],
        // A Service named `vllm` would set VLLM_PORT, and the engine would refuse to start.
        enable_service_links: Some(false),
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(GRACE),
        // Tensor parallelism exchanges through shared memory; the runtime's own 64 MiB are too little.
        volumes: Some(vec![Volume {
            name: "shm".into(),
            empty_dir: Some(EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: None }),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

fn container(cluster: &ValidatedCluster) -> Container {
    let spec = &cluster.spec;
    let mut args: Vec<String> = spec.model.iter().cloned().collect();
    args.push(format!("--port={PORT}"));
    args.extend(spec.args.iter().cloned());
    Container {
        name: CONTAINER.into(),
        image: Some(spec.image.clone().unwrap_or_else(|| DEFAULT_IMAGE.into())),
        command: Some(vec!["vllm".into(), "serve".into()]),
        args: Some(args),
        env: (!spec.env.is_empty()).then(|| spec.env.clone()),
        resources: spec.resources.clone(),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.into()),
            container_port: PORT,
            ..ContainerPort::default()
        }]),
        startup_probe: Some(health(STARTUP_PERIOD, STARTUP_BUDGET / STARTUP_PERIOD)),
        readiness_probe: Some(health(5, 3)),
        // Only after startup has succeeded; a minute of silence is no long prefill any more.
        liveness_probe: Some(health(10, 6)),
        volume_mounts: Some(vec![VolumeMount {
            name: "shm".into(),
            mount_path: "/dev/shm".into(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

/// GET `/health`, every `period` seconds; `failures` in a row count.
fn health(period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/health".into()),
            port: IntOrString::String(PORT_NAME.into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::validated;
    use super::*;

    #[test]
    fn what_users_state_reaches_the_container() {
        let mut cluster = validated(3);
        cluster.spec.args = vec!["--max-num-seqs=4".into()];
        cluster.spec.image = Some("vllm/vllm-openai:v0.31.0".into());
        cluster.spec.env = serde_json::from_value(json!([{"name": "HF_HUB_OFFLINE", "value": "1"}])).unwrap();
        cluster.spec.resources = serde_json::from_value(json!({"limits": {"nvidia.com/gpu": "1"}})).unwrap();
        let set = serde_json::to_value(statefulset(&cluster)).unwrap();
        assert_eq!(set["spec"]["replicas"], 3);
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["vllm", "serve"]));
        assert_eq!(container["args"], json!(["Qwen/Qwen3-0.6B", "--port=8000", "--max-num-seqs=4"]));
        assert_eq!(container["image"], "vllm/vllm-openai:v0.31.0");
        assert_eq!(container["env"][0]["name"], "HF_HUB_OFFLINE");
        assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], "1");
    }

    #[test]
    fn nothing_stated_means_vllms_own_model_and_no_resources() {
        let mut cluster = validated(1);
        cluster.spec.model = None;
        let set = serde_json::to_value(statefulset(&cluster)).unwrap();
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["args"], json!(["--port=8000"]));
        assert_eq!(container["image"], DEFAULT_IMAGE);
        assert!(container["resources"].is_null() && container["env"].is_null());
    }

    #[test]
    fn the_selector_is_what_scale_publishes() {
        let set = statefulset(&validated(1));
        let spec = set.spec.unwrap();
        let labels = spec.selector.match_labels.unwrap();
        let written: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(written.join(","), crate::api::names::selector("my-cluster"));
        let pod_labels = spec.template.metadata.unwrap().labels.unwrap();
        assert!(labels.iter().all(|(key, value)| pod_labels.get(key) == Some(value)));
        assert_eq!(spec.service_name.as_deref(), Some("my-cluster-pods"));
    }
}
