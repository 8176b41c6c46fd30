//! The pods of a cluster: one vLLM server each.
//!
//! Architecture invariant: what the fields of the spec stand for, with the spec's own pod template on top. What
//! may not stand in that template is judged by the policy.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    Lifecycle, LifecycleHandler, PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext, SleepAction, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::VLLMClusterSpec;
use crate::api::names::{CONTAINER, PORT_NAME};

use super::arguments::{arguments, drain_seconds, image, port};
use super::overlay::laid_over;

/// Name of the volume, and of the claims, that hold models.
pub const CACHE: &str = "model-cache";
/// The volume behind `/dev/shm`.
pub const SHM: &str = "shm";
/// Where it is mounted.
const CACHE_PATH: &str = "/model-cache";
/// The accelerator where the spec names none.
pub const ACCELERATOR: &str = "nvidia.com/gpu";
/// Period of the startup probe, in seconds: a small model is up soon after it can be.
const STARTUP_PERIOD: i32 = 2;
/// How long loading a model may take, where the spec does not say, in seconds.
const STARTUP: i32 = 30 * 60;
/// Pause between the decision to stop a pod and SIGTERM, in seconds: meanwhile Services stop sending it requests.
pub const PRE_STOP: i64 = 5;
/// What is left of the grace period when a server has drained as long as it may, in seconds.
const MARGIN: i64 = 10;

/// The pod template of a cluster: its labels, and its spec with the user's overlay.
pub fn template(
    labels: BTreeMap<String, String>,
    spec: &VLLMClusterSpec,
) -> Result<PodTemplateSpec, serde_json::Error> {
    let own = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
        spec: Some(pod(spec)),
    };
    match &spec.pod_template {
        None => Ok(own),
        Some(overlay) => serde_json::from_value(laid_over(serde_json::to_value(own)?, &overlay.0)),
    }
}

fn pod(spec: &VLLMClusterSpec) -> PodSpec {
    let shared_memory = Volume {
        name: SHM.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".into()),
            size_limit: spec.shared_memory_size.clone(),
        }),
        ..Volume::default()
    };
    let cache = spec.model_cache.as_ref().and_then(|cache| cache.existing_claim.as_ref());
    let cache = cache.map(|claim| Volume {
        name: CACHE.into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.clone(),
            read_only: None,
        }),
        ..Volume::default()
    });
    PodSpec {
        containers: vec![container(spec)],
        // A Service named `vllm` would set VLLM_PORT, and the engine would refuse to start.
        enable_service_links: Some(false),
        automount_service_account_token: Some(false),
        // Stated, because the API server keeps a copy of it that outlives the field: pods would go on under an account
        // that the spec does not name any more.
        service_account_name: Some("default".into()),
        termination_grace_period_seconds: Some(PRE_STOP + i64::from(drain_seconds(spec)) + MARGIN),
        // Tensor parallelism exchanges through shared memory; the runtime's own 64 MiB are too little.
        volumes: Some([shared_memory].into_iter().chain(cache).collect()),
        ..PodSpec::default()
    }
}

fn container(spec: &VLLMClusterSpec) -> Container {
    let startup = startup_seconds(spec);
    let mut mounts = vec![mount(SHM, "/dev/shm")];
    if spec.model_cache.is_some() {
        mounts.push(mount(CACHE, CACHE_PATH));
    }
    let env = environment(spec);
    Container {
        name: CONTAINER.into(),
        image: Some(image(spec).to_owned()),
        command: Some(vec!["vllm".into(), "serve".into()]),
        args: Some(arguments(spec)),
        env: (!env.is_empty()).then_some(env),
        env_from: (!spec.env_from.is_empty()).then(|| spec.env_from.clone()),
        resources: resources(spec),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.into()),
            container_port: port(spec),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(health(STARTUP_PERIOD, startup.div_euclid(STARTUP_PERIOD).max(1))),
        readiness_probe: Some(health(5, 3)),
        // Only after startup has succeeded; a minute of silence is no long prefill any more.
        liveness_probe: Some(health(10, 6)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        // What the restricted Pod Security Standard asks for, but for the user: vLLM's own image runs as root.
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..SeccompProfile::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        // vLLM says why it ends on its standard error; from there it gets into the status.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Container::default()
    }
}

/// How long loading a model may take, in seconds.
pub fn startup_seconds(spec: &VLLMClusterSpec) -> i32 {
    spec.startup_seconds.unwrap_or(STARTUP)
}

/// What the operator sets, then what the user states, who may refer to it.
fn environment(spec: &VLLMClusterSpec) -> Vec<EnvVar> {
    let cache = spec.model_cache.as_ref().map(|_| EnvVar {
        name: "HF_HOME".into(),
        value: Some(CACHE_PATH.into()),
        ..EnvVar::default()
    });
    let token = spec.hugging_face_token.as_ref().map(|token| EnvVar {
        name: "HF_TOKEN".into(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: token.secret_name.clone(),
                key: token.key.clone().unwrap_or_else(|| "token".into()),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
    cache.into_iter().chain(token).chain(spec.env.iter().cloned()).collect()
}

/// What the spec states, and its accelerators.
fn resources(spec: &VLLMClusterSpec) -> Option<ResourceRequirements> {
    let Some((name, count)) = accelerators(spec) else { return spec.resources.clone() };
    let mut resources = spec.resources.clone().unwrap_or_default();
    resources.limits.get_or_insert_default().insert(name.to_owned(), Quantity(count.to_string()));
    Some(resources)
}

/// Name and number of the accelerators that are added to the stated resources; `None`: none are.
pub fn accelerators(spec: &VLLMClusterSpec) -> Option<(&str, i64)> {
    let accelerator = spec.accelerator.as_ref();
    if accelerator.is_none() && stated_accelerators(spec).next().is_some() {
        return None;
    }
    let count =
        accelerator.and_then(|accelerator| accelerator.count).map_or_else(|| parallel(spec), i64::from);
    let name = accelerator.and_then(|accelerator| accelerator.resource.as_deref()).unwrap_or(ACCELERATOR);
    (count > 0).then_some((name, count))
}

/// Domains under which device plugins offer accelerators.
const ACCELERATORS: [&str; 10] = [
    "amd.com",
    "aws.amazon.com",
    "cambricon.com",
    "google.com",
    "gpu.intel.com",
    "habana.ai",
    "huawei.com",
    "metax-tech.com",
    "mthreads.com",
    "nvidia.com",
];

/// The accelerators among the limits, by their names: those of other devices, such as `rdma/hca`, are none.
pub fn stated_accelerators(spec: &VLLMClusterSpec) -> impl Iterator<Item = (&String, &Quantity)> {
    let limits = spec.resources.iter().flat_map(|resources| resources.limits.iter().flatten());
    limits.filter(|(name, _)| {
        let parts = name.split_once('/');
        parts.is_some_and(|(domain, name)| ACCELERATORS.contains(&domain) || name == "gpu")
    })
}

/// How many accelerators of one pod vLLM divides a model among.
pub fn parallel(spec: &VLLMClusterSpec) -> i64 {
    let size = |size: Option<i32>| i64::from(size.unwrap_or(1));
    size(spec.tensor_parallel_size) * size(spec.pipeline_parallel_size)
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.into(), mount_path: path.into(), ..VolumeMount::default() }
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
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::fixture::{validated, with};
    use super::*;

    fn pod_of(change: impl FnOnce(&mut VLLMClusterSpec)) -> Value {
        serde_json::to_value(with(1, change).template).unwrap()["spec"].take()
    }

    fn container_of(change: impl FnOnce(&mut VLLMClusterSpec)) -> Value {
        pod_of(change)["containers"][0].take()
    }

    #[test]
    fn what_users_state_reaches_the_container() {
        let container = container_of(|spec| {
            spec.args = vec!["--max-num-seqs=4".into()];
            spec.image = Some("vllm/vllm-openai:v0.31.0".into());
            spec.env = serde_json::from_value(json!([{"name": "HF_HUB_OFFLINE", "value": "1"}])).unwrap();
            spec.env_from = serde_json::from_value(json!([{"configMapRef": {"name": "c"}}])).unwrap();
            spec.resources = serde_json::from_value(json!({"requests": {"cpu": "1"}})).unwrap();
            spec.port = Some(9000);
        });
        assert_eq!(container["command"], json!(["vllm", "serve"]));
        assert_eq!(
            container["args"],
            json!(["Qwen/Qwen3-0.6B", "--max-num-seqs=4", "--shutdown-timeout=60", "--port=9000"])
        );
        assert_eq!(container["image"], "vllm/vllm-openai:v0.31.0");
        assert_eq!(container["env"], json!([{"name": "HF_HUB_OFFLINE", "value": "1"}]));
        assert_eq!(container["envFrom"][0]["configMapRef"]["name"], "c");
        assert_eq!(
            container["resources"],
            json!({"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": "1"}})
        );
        assert_eq!(container["ports"], json!([{"name": "http", "containerPort": 9000}]));
    }

    #[rstest]
    #[case::nothing_stated(json!({}), json!({"limits": {"nvidia.com/gpu": "1"}}))]
    #[case::parallel(json!({"tensorParallelSize": 4, "pipelineParallelSize": 2}), json!({"limits": {"nvidia.com/gpu": "8"}}))]
    #[case::another_kind(json!({"accelerator": {"resource": "amd.com/gpu"}, "tensorParallelSize": 2}), json!({"limits": {"amd.com/gpu": "2"}}))]
    #[case::more_than_needed(json!({"accelerator": {"count": 2}}), json!({"limits": {"nvidia.com/gpu": "2"}}))]
    #[case::cpu(json!({"accelerator": {"count": 0}}), Value::Null)]
    #[case::stated_among_resources(json!({"resources": {"limits": {"nvidia.com/mig-1g.5gb": "1"}}}), json!({"limits": {"nvidia.com/mig-1g.5gb": "1"}}))]
    #[case::beside_resources(json!({"resources": {"limits": {"memory": "1Gi"}}}), json!({"limits": {"memory": "1Gi", "nvidia.com/gpu": "1"}}))]
    fn accelerators_of(#[case] spec: Value, #[case] resources: Value) {
        let container = container_of(|of| {
            *of = VLLMClusterSpec { replicas: Some(1), ..serde_json::from_value(spec).unwrap() }
        });
        assert_eq!(container["resources"], resources);
    }

    #[test]
    fn a_stopping_server_has_time_to_drain() {
        let pod = pod_of(|spec| spec.drain_seconds = Some(30));
        assert_eq!(pod["terminationGracePeriodSeconds"], 45);
        assert_eq!(pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
        assert!(pod["containers"][0]["args"].to_string().contains("--shutdown-timeout=30"));
        let old = pod_of(|spec| spec.image = Some("vllm/vllm-openai:v0.10.0".into()));
        assert_eq!(old["terminationGracePeriodSeconds"], 15);
    }

    #[test]
    fn loading_has_its_budget() {
        let budget = |container: Value| {
            let probe = &container["startupProbe"];
            probe["periodSeconds"].as_i64().unwrap() * probe["failureThreshold"].as_i64().unwrap()
        };
        assert_eq!(budget(container_of(|_| {})), 1800);
        assert_eq!(budget(container_of(|spec| spec.startup_seconds = Some(10))), 10);
        assert_eq!(budget(container_of(|spec| spec.startup_seconds = Some(7200))), 7200);
    }

    #[test]
    fn token_and_cache_are_given_to_the_container() {
        let change = |cache: Value| {
            pod_of(move |spec| {
                spec.hugging_face_token = serde_json::from_value(json!({"secretName": "hf"})).unwrap();
                spec.model_cache = serde_json::from_value(cache).unwrap();
                spec.shared_memory_size = Some(Quantity("16Gi".into()));
            })
        };
        let pod = change(json!({"claim": {"size": "1Gi"}}));
        let container = &pod["containers"][0];
        assert_eq!(container["env"][0], json!({"name": "HF_HOME", "value": "/model-cache"}));
        assert_eq!(container["env"][1]["valueFrom"]["secretKeyRef"], json!({"name": "hf", "key": "token"}));
        assert_eq!(container["volumeMounts"][1], json!({"name": "model-cache", "mountPath": "/model-cache"}));
        assert_eq!(
            pod["volumes"],
            json!([{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}])
        );
        let pod = change(json!({"existingClaim": "models"}));
        assert_eq!(
            pod["volumes"][1],
            json!({"name": "model-cache", "persistentVolumeClaim": {"claimName": "models"}})
        );
    }

    #[test]
    fn the_users_template_lies_on_top() {
        let pod = pod_of(|spec| {
            spec.pod_template = serde_json::from_value(json!({"spec": {
                "nodeSelector": {"gpu": "h100"},
                "containers": [{"name": "vllm", "tty": true}, {"name": "side", "image": "s"}],
            }}))
            .unwrap();
        });
        assert_eq!(pod["nodeSelector"], json!({"gpu": "h100"}));
        assert_eq!(pod["containers"][0]["tty"], true);
        assert_eq!(pod["containers"][0]["name"], "vllm");
        assert_eq!(pod["containers"][1]["image"], "s");
        assert_eq!(pod["enableServiceLinks"], false);
    }

    #[test]
    fn nothing_of_the_api_is_mounted() {
        let template = serde_json::to_value(validated(1).template).unwrap();
        assert_eq!(template["spec"]["automountServiceAccountToken"], false);
        let security = &template["spec"]["containers"][0]["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(template["metadata"]["labels"]["app.kubernetes.io/managed-by"], "vllm-operator");
    }
}
