//! What a VLLMCluster asks of its pods: arguments, accelerators, cache, environment and pod template.
//!
//! Architecture invariant: judges the spec alone, by what `objects` would make of it. What only the API server can
//! tell of a pod template, and what the writer may do, is asked elsewhere.

use k8s_openapi::api::core::v1::EnvVar;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use crate::api::VLLMClusterSpec;
use crate::api::names::{
    CONTAINER, KIND, LABEL_APP, LABEL_CLUSTER, LABEL_COMPONENT, LABEL_MANAGED_BY, PORT_NAME,
};
use crate::api::workload::UpdateType;
use crate::objects::arguments::{drains, image, owned, port};
use crate::objects::pod::{ACCELERATOR, CACHE, SHM, parallel, stated_accelerators};

use super::{Clause, Finding, Outcome, Rule, host_access};

/// Where a pod template is stated.
pub(super) const TEMPLATE: &str = "spec.podTemplate";

/// Judges the workload part of a write. What the spec before it had wrong already is warned about. `host_access`: the
/// installation lets pods reach into their node.
pub fn check(new: &VLLMClusterSpec, old: Option<&VLLMClusterSpec>, host_access: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let found = findings(new, host_access);
    // Most writes have nothing wrong that could be older.
    let older = old.filter(|_| !found.is_empty()).map(|old| findings(old, host_access)).unwrap_or_default();
    for finding in found {
        let unchanged = old.is_some_and(|old| older.contains(&finding) && untouched(&finding, new, old));
        let excused = unchanged && Clause::OlderWorkload.in_force();
        outcome.refuse_unless(excused, finding);
    }
    outcome
}

/// Whether a write has left alone what a rule judges. A finding names a place: another fault there is not the older one.
fn untouched(finding: &Finding, new: &VLLMClusterSpec, old: &VLLMClusterSpec) -> bool {
    let place = |list: &str| finding.field.strip_prefix(list)?.strip_suffix(']')?.parse::<usize>().ok();
    match finding.rule {
        Rule::ArgumentOfField => place("spec.args[").is_some_and(|at| new.args.get(at) == old.args.get(at)),
        Rule::HostAccess => same_pods(new, old),
        Rule::TemplateLabel | Rule::TemplateProtected => new.pod_template == old.pod_template,
        Rule::VariableOfField => new.env == old.env && new.pod_template == old.pod_template,
        _ => true,
    }
}

fn findings(spec: &VLLMClusterSpec, host_access: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    arguments(spec, &mut found);
    accelerators(spec, &mut found);
    environment(spec, &mut found);
    alternatives(spec, &mut found);
    if let Some(template) = &spec.pod_template {
        let part = |name| template.0.get(name).unwrap_or(&Value::Null);
        labels(&part("metadata")["labels"], &mut found);
        pod(part("spec"), spec, &mut found);
        if !host_access {
            found.extend(host_access::findings(&template.0));
        }
    }
    found
}

fn arguments(spec: &VLLMClusterSpec, found: &mut Vec<Finding>) {
    for (at, argument) in spec.args.iter().enumerate() {
        if let Some(owned) = owned(argument) {
            found.push(Finding::new(
                Rule::ArgumentOfField,
                format!("spec.args[{at}]"),
                format!("{} is not to be stated among the arguments; {}", owned.flag, owned.instead),
            ));
        }
    }
    if spec.drain_seconds.is_some_and(|seconds| seconds > 0) && !drains(spec) {
        found.push(Finding::new(
            Rule::DrainNeedsNewerImage,
            "spec.drainSeconds",
            format!(
                "the image {:?} has no --shutdown-timeout, which vLLM has from 0.18 on, and cuts off its requests when it is stopped; use a newer image, or leave drainSeconds out",
                image(spec)
            ),
        ));
    }
}

fn accelerators(spec: &VLLMClusterSpec, found: &mut Vec<Finding>) {
    let parallel = parallel(spec);
    let needs = format!(
        "tensorParallelSize times pipelineParallelSize is {parallel}, and vLLM wants an accelerator of its own pod for each"
    );
    let whole = |quantity: &Quantity| quantity.0.parse::<i64>().ok();
    if let Some(accelerator) = &spec.accelerator {
        // None at all is for images that run on the CPU.
        if let Some(count) = accelerator.count.map(i64::from).filter(|count| (1..parallel).contains(count)) {
            found.push(Finding::new(
                Rule::AcceleratorsTooFew,
                "spec.accelerator.count",
                format!("{count} are too few: {needs}; use {parallel} or more, or leave count out"),
            ));
        }
        let name = accelerator.resource.as_deref().unwrap_or(ACCELERATOR);
        if stated_accelerators(spec).any(|(stated, _)| stated == name) {
            found.push(Finding::new(
                Rule::AcceleratorTwice,
                format!("spec.resources.limits[{name}]"),
                format!("{name} is stated by spec.accelerator as well; state it there alone"),
            ));
        }
    } else if let Some(most) = stated_accelerators(spec).filter_map(|(_, count)| whole(count)).max()
        && most < parallel
    {
        found.push(Finding::new(
            Rule::AcceleratorsTooFew,
            "spec.resources.limits",
            format!("{most} accelerators are too few: {needs}; use {parallel} or more"),
        ));
    }
}

/// The environment variables that the operator sets for a field, and the field.
fn set_by_fields(spec: &VLLMClusterSpec) -> impl Iterator<Item = (&'static str, &'static str)> {
    let token = spec.hugging_face_token.as_ref().map(|_| ("HF_TOKEN", "spec.huggingFaceToken"));
    let cache = spec.model_cache.as_ref().map(|_| ("HF_HOME", "spec.modelCache"));
    token.into_iter().chain(cache)
}

fn environment(spec: &VLLMClusterSpec, found: &mut Vec<Finding>) {
    let names = spec.env.iter().map(|variable| variable.name.as_str());
    twice_set("spec.env", names, spec, found);
}

fn twice_set<'a>(
    path: &str,
    names: impl Iterator<Item = &'a str>,
    spec: &VLLMClusterSpec,
    found: &mut Vec<Finding>,
) {
    for (at, name) in names.enumerate() {
        if let Some((_, field)) = set_by_fields(spec).find(|(set, _)| *set == name) {
            found.push(Finding::new(
                Rule::VariableOfField,
                format!("{path}[{at}]"),
                format!("{name} is set by {field}; leave one of the two out"),
            ));
        }
    }
}

/// Fields of which one excludes or needs the other. The schema says so too.
fn alternatives(spec: &VLLMClusterSpec, found: &mut Vec<Finding>) {
    if spec.served_model_name.is_some() && spec.model.is_none() {
        found.push(Finding::new(
            Rule::ServedNameOfNothing,
            "spec.servedModelName",
            "it is another name of spec.model, without which vLLM does not take it; state spec.model too"
                .into(),
        ));
    }
    if let Some(cache) = &spec.model_cache {
        if cache.claim.is_some() == cache.existing_claim.is_some() {
            found.push(Finding::new(
                Rule::CacheOfOneKind,
                "spec.modelCache",
                "state either claim, for a PersistentVolumeClaim of each replica, or existingClaim, for one that all share".into(),
            ));
        }
        if cache.claim.is_none() && cache.retention.is_some() {
            found.push(Finding::new(
                Rule::RetentionWithoutClaim,
                "spec.modelCache.retention",
                "it is of the claims that are made from claim; an existing claim is always kept; leave retention out".into(),
            ));
        }
    }
    if let Some(strategy) = &spec.update_strategy
        && strategy.type_ == Some(UpdateType::OnDelete)
        && strategy.max_unavailable.is_some()
    {
        found.push(Finding::new(
            Rule::UnavailableOnDelete,
            "spec.updateStrategy.maxUnavailable",
            "it is of type RollingUpdate; with OnDelete, pods change when they are deleted; leave one of the two out".into(),
        ));
    }
    if let Some(budget) = &spec.disruption_budget
        && budget.min_available.is_some() == budget.max_unavailable.is_some()
    {
        found.push(Finding::new(
            Rule::BudgetOfOneKind,
            "spec.disruptionBudget",
            "state either minAvailable or maxUnavailable".into(),
        ));
    }
}

fn labels(labels: &Value, found: &mut Vec<Finding>) {
    const OWN: &[&str] = &[
        LABEL_APP,
        LABEL_CLUSTER,
        LABEL_COMPONENT,
        LABEL_MANAGED_BY,
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/component",
    ];
    for name in labels.as_object().into_iter().flat_map(serde_json::Map::keys) {
        if OWN.contains(&name.as_str()) {
            found.push(Finding::new(
                Rule::TemplateLabel,
                format!("{TEMPLATE}.metadata.labels[{name}]"),
                format!("the operator sets the label {name}, by which Services and /scale find the pods; use another name"),
            ));
        }
    }
}

/// What the operator guarantees of a pod, and a template may not change: where, and what to do instead.
const PROTECTED_OF_POD: &[(&str, &str)] = &[
    ("terminationGracePeriodSeconds", "state spec.drainSeconds, from which it follows"),
    ("serviceAccount", "state serviceAccountName, its newer name"),
    ("restartPolicy", "leave it out: a StatefulSet restarts what ends"),
    ("activeDeadlineSeconds", "leave it out: a StatefulSet's pods have no end"),
    ("hostname", "leave it out: a StatefulSet gives each pod its name"),
    ("subdomain", "leave it out: a StatefulSet gives each pod its name"),
];

/// The same of the container that serves.
const PROTECTED_OF_CONTAINER: &[(&str, &str)] = &[
    ("/command", "leave it out: the operator runs `vllm serve`; state spec.args for its arguments"),
    ("/args", "state spec.args"),
    ("/image", "state spec.image"),
    ("/resources", "state spec.resources"),
    ("/lifecycle/preStop", "state spec.drainSeconds: the pause before it belongs to the operator"),
    ("/startupProbe/periodSeconds", "state spec.startupSeconds, from which it follows"),
    ("/startupProbe/failureThreshold", "state spec.startupSeconds, from which it follows"),
];

/// What probes, and how; the operator's all ask for `/health`.
const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];
const PROBE_HANDLERS: [&str; 4] = ["httpGet", "exec", "tcpSocket", "grpc"];

/// What a container that serves states and may not.
fn serving(container: &Value, path: &str, found: &mut Vec<Finding>) {
    for (pointer, instead) in PROTECTED_OF_CONTAINER {
        if container.pointer(pointer).is_some_and(|value| !value.is_null()) {
            found.push(protected(format!("{path}{}", pointer.replace('/', ".")), instead));
        }
    }
    for probe in PROBES {
        for handler in PROBE_HANDLERS.into_iter().filter(|handler| !container[probe][*handler].is_null()) {
            found.push(protected(
                format!("{path}.{probe}.{handler}"),
                "leave it out: the probes ask for /health; their times may be stated",
            ));
        }
    }
}

fn pod(pod: &Value, spec: &VLLMClusterSpec, found: &mut Vec<Finding>) {
    let path = format!("{TEMPLATE}.spec");
    for (field, instead) in PROTECTED_OF_POD.iter().filter(|(field, _)| !pod[field].is_null()) {
        found.push(protected(format!("{path}.{field}"), instead));
    }
    for (at, volume) in list(&pod["volumes"]).enumerate() {
        let instead = match volume["name"].as_str() {
            Some(SHM) => "state spec.sharedMemorySize, or use another name",
            Some(CACHE) => "state spec.modelCache, or use another name",
            _ => continue,
        };
        found.push(protected(format!("{path}.volumes[{at}]"), instead));
    }
    for (at, container) in list(&pod["containers"]).enumerate() {
        let path = format!("{path}.containers[{at}]");
        let serves = container["name"] == CONTAINER;
        if serves {
            serving(container, &path, found);
            let names = list(&container["env"]).map(|variable| variable["name"].as_str().unwrap_or_default());
            twice_set(&format!("{path}.env"), names, spec, found);
        }
        ports(container, &path, spec, found);
    }
    for (at, container) in list(&pod["initContainers"]).enumerate() {
        ports(container, &format!("{path}.initContainers[{at}]"), spec, found);
        if container["name"] == CONTAINER {
            found.push(protected(
                format!("{path}.initContainers[{at}].name"),
                "use another name: this is the container that serves",
            ));
        }
    }
}

/// Ports of a container that take the servers' own.
fn ports(container: &Value, path: &str, spec: &VLLMClusterSpec, found: &mut Vec<Finding>) {
    for (at, taken) in list(&container["ports"]).enumerate() {
        if taken["containerPort"] == port(spec) || taken["name"] == PORT_NAME {
            found.push(protected(
                format!("{path}.ports[{at}]"),
                "state spec.port for the servers' port, or use another number and name",
            ));
        }
    }
}

fn protected(field: String, instead: &str) -> Finding {
    Finding::new(
        Rule::TemplateProtected,
        field,
        format!("a pod template of a {KIND} does not state this; {instead}"),
    )
}

/// The entries of a list; none of what is no list.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The first part of a spec that lends to pods what only some may use: a Secret, a ConfigMap, a claim, a service account.
/// Whoever writes it, or changes what is done with it, must be one who may create such pods. `None`: nothing is lent, or the
/// write leaves the pods as they are.
pub fn lent(new: &VLLMClusterSpec, old: Option<&VLLMClusterSpec>) -> Option<String> {
    if old.is_some_and(|old| same_pods(new, old)) {
        return None;
    }
    let refers = |variable: &EnvVar| {
        let from = variable.value_from.as_ref();
        from.is_some_and(|from| from.secret_key_ref.is_some() || from.config_map_key_ref.is_some())
    };
    let template = |part: &str| new.pod_template.as_ref().and_then(|template| template.0.get(part));
    let annotated = template("metadata").is_some_and(|metadata| !metadata["annotations"].is_null());
    let cache = new.model_cache.as_ref();
    if new.hugging_face_token.is_some() {
        Some("spec.huggingFaceToken".into())
    } else if let Some(at) = new.env.iter().position(refers) {
        Some(format!("spec.env[{at}]"))
    } else if !new.env_from.is_empty() {
        Some("spec.envFrom".into())
    } else if cache.is_some_and(|cache| cache.existing_claim.is_some()) {
        Some("spec.modelCache.existingClaim".into())
    } else if cache.is_some_and(|cache| cache.claim.is_some()) {
        // A claim of the name that this one would have is taken over, and goes with it where it is not to be kept.
        Some("spec.modelCache.claim".into())
    } else if template("spec").is_some() {
        Some(format!("{TEMPLATE}.spec"))
    } else if annotated {
        // By annotations, others put containers and secrets into pods.
        Some(format!("{TEMPLATE}.metadata.annotations"))
    } else {
        None
    }
}

/// Whether two specs ask for the same pods and claims; counts, and how pods are replaced or evicted, are no part of that.
fn same_pods(new: &VLLMClusterSpec, old: &VLLMClusterSpec) -> bool {
    let VLLMClusterSpec {
        replicas: _,
        min_replicas: _,
        max_replicas: _,
        update_strategy: _,
        disruption_budget: _,
        model,
        image,
        served_model_name,
        port,
        tensor_parallel_size,
        pipeline_parallel_size,
        accelerator,
        args,
        env,
        env_from,
        resources,
        hugging_face_token,
        model_cache,
        shared_memory_size,
        startup_seconds,
        drain_seconds,
        pod_template,
    } = new;
    (model, image, served_model_name, port) == (&old.model, &old.image, &old.served_model_name, &old.port)
        && (tensor_parallel_size, pipeline_parallel_size, accelerator)
            == (&old.tensor_parallel_size, &old.pipeline_parallel_size, &old.accelerator)
        && (args, env, env_from, resources) == (&old.args, &old.env, &old.env_from, &old.resources)
        && (hugging_face_token, model_cache, shared_memory_size)
            == (&old.hugging_face_token, &old.model_cache, &old.shared_memory_size)
        && (startup_seconds, drain_seconds, pod_template)
            == (&old.startup_seconds, &old.drain_seconds, &old.pod_template)
}

/// The refusal of what the API server does not take: where it stands in the spec, as what it was sent there, and its words.
pub fn not_taken(origin: String, field: &str, message: &str) -> Finding {
    Finding::new(Rule::TemplateInvalid, origin, format!("the API server does not take {field}: {message}"))
}

/// The refusal of a spec that is no `VLLMCluster`'s, though the schema has let it pass.
pub fn unreadable(why: &str) -> Finding {
    Finding::new(
        Rule::SpecUnreadable,
        "spec",
        format!("it cannot be read: {why}; correct the value that this speaks of"),
    )
}

/// The refusal of a writer who may not create such pods.
pub fn not_theirs_to_lend(field: String, user: &str, namespace: &str) -> Finding {
    Finding::new(
        Rule::WriterMayNot,
        field,
        format!(
            "it gives pods what {user:?} may not give them: that takes the permission to create StatefulSets in namespace {namespace:?}; have somebody write it who may, or leave it out"
        ),
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn spec(spec: Value) -> VLLMClusterSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn says(of: Value) -> Vec<String> {
        check(&spec(of), None, false).refusals.iter().map(ToString::to_string).collect()
    }

    #[rstest]
    #[case::port(json!({"args": ["--seed=1", "--port", "9"]}), "spec.args[1]: --port is not to be stated among the arguments; state spec.port")]
    #[case::short(json!({"args": ["-tp=2"]}), "spec.args[0]: --tensor-parallel-size is not")]
    #[case::drain(json!({"drainSeconds": 5, "image": "vllm/vllm-openai:v0.17.0"}), "spec.drainSeconds: the image \"vllm/vllm-openai:v0.17.0\" has no --shutdown-timeout")]
    #[case::too_few(json!({"tensorParallelSize": 4, "accelerator": {"count": 2}}), "spec.accelerator.count: 2 are too few: tensorParallelSize times pipelineParallelSize is 4")]
    #[case::too_few_in_resources(json!({"tensorParallelSize": 4, "resources": {"limits": {"nvidia.com/gpu": "2"}}}), "spec.resources.limits: 2 accelerators are too few")]
    #[case::twice(json!({"accelerator": {}, "resources": {"limits": {"nvidia.com/gpu": "1"}}}), "spec.resources.limits[nvidia.com/gpu]: nvidia.com/gpu is stated by spec.accelerator")]
    #[case::token(json!({"huggingFaceToken": {"secretName": "s"}, "env": [{"name": "A"}, {"name": "HF_TOKEN"}]}), "spec.env[1]: HF_TOKEN is set by spec.huggingFaceToken")]
    #[case::cache(json!({"modelCache": {"existingClaim": "c"}, "env": [{"name": "HF_HOME"}]}), "spec.env[0]: HF_HOME is set by spec.modelCache")]
    #[case::cache_of_two(json!({"modelCache": {"existingClaim": "c", "claim": {"size": "1Gi"}}}), "spec.modelCache: state either claim")]
    #[case::cache_of_none(json!({"modelCache": {}}), "spec.modelCache: state either claim")]
    #[case::retention(json!({"modelCache": {"existingClaim": "c", "retention": {}}}), "spec.modelCache.retention: it is of the claims")]
    #[case::on_delete(json!({"updateStrategy": {"type": "OnDelete", "maxUnavailable": 1}}), "spec.updateStrategy.maxUnavailable: it is of type RollingUpdate")]
    #[case::budget(json!({"disruptionBudget": {}}), "spec.disruptionBudget: state either")]
    #[case::label(json!({"podTemplate": {"metadata": {"labels": {"cluster": "x"}}}}), "spec.podTemplate.metadata.labels[cluster]: the operator sets")]
    #[case::grace(json!({"podTemplate": {"spec": {"terminationGracePeriodSeconds": 1}}}), "spec.podTemplate.spec.terminationGracePeriodSeconds: a pod template of a VLLMCluster does not state this; state spec.drainSeconds")]
    #[case::command(json!({"podTemplate": {"spec": {"containers": [{"name": "side"}, {"name": "vllm", "command": ["x"]}]}}}), "spec.podTemplate.spec.containers[1].command: ")]
    #[case::probe(json!({"podTemplate": {"spec": {"containers": [{"name": "vllm", "livenessProbe": {"exec": {}}}]}}}), "spec.podTemplate.spec.containers[0].livenessProbe.exec: ")]
    #[case::template_env(json!({"modelCache": {"existingClaim": "c"}, "podTemplate": {"spec": {"containers": [{"name": "vllm", "env": [{"name": "HF_HOME"}]}]}}}), "spec.podTemplate.spec.containers[0].env[0]: HF_HOME is set by")]
    #[case::taken_port(json!({"podTemplate": {"spec": {"containers": [{"name": "side", "ports": [{"containerPort": 8000}]}]}}}), "spec.podTemplate.spec.containers[0].ports[0]: ")]
    #[case::taken_port_name(json!({"podTemplate": {"spec": {"containers": [{"name": "vllm", "ports": [{"containerPort": 1, "name": "http"}]}]}}}), "spec.podTemplate.spec.containers[0].ports[0]: ")]
    #[case::shared_memory(json!({"podTemplate": {"spec": {"volumes": [{"name": "shm"}]}}}), "spec.podTemplate.spec.volumes[0]: ")]
    #[case::cache_volume(json!({"podTemplate": {"spec": {"volumes": [{"name": "model-cache"}]}}}), "state spec.modelCache")]
    #[case::init(json!({"podTemplate": {"spec": {"initContainers": [{"name": "vllm"}]}}}), "spec.podTemplate.spec.initContainers[0].name: ")]
    #[case::name_of_nothing(json!({"servedModelName": "a"}), "spec.servedModelName: it is another name of spec.model")]
    #[case::host_network(json!({"podTemplate": {"spec": {"hostNetwork": true}}}), "spec.podTemplate.spec.hostNetwork: a VLLMCluster gives no access to the node")]
    #[case::older_account(json!({"podTemplate": {"spec": {"serviceAccount": "a"}}}), "spec.podTemplate.spec.serviceAccount: a pod template of a VLLMCluster does not state this; state serviceAccountName")]
    #[case::startup(json!({"podTemplate": {"spec": {"containers": [{"name": "vllm", "startupProbe": {"failureThreshold": 4}}]}}}), "startupProbe.failureThreshold: ")]
    #[case::taken_port_of_a_sidecar(json!({"podTemplate": {"spec": {"initContainers": [{"name": "side", "ports": [{"containerPort": 8000}]}]}}}), "spec.podTemplate.spec.initContainers[0].ports[0]: ")]
    #[case::dashes(json!({"args": ["--"]}), "spec.args[0]: ")]
    #[case::prefix(json!({"args": ["--tensor-par=2"]}), "spec.args[0]: --tensor-parallel-size is not")]
    fn refused(#[case] of: Value, #[case] message: &str) {
        let said = says(of);
        assert!(said.len() == 1 && said[0].contains(message), "{said:?}");
    }

    #[rstest]
    #[case::nothing(json!({}))]
    #[case::arguments(json!({"args": ["--max-num-seqs=4", "8000"]}))]
    #[case::cpu(json!({"tensorParallelSize": 2, "accelerator": {"count": 0}}))]
    #[case::another_device(json!({"resources": {"limits": {"rdma/hca": "1"}}}))]
    #[case::enough(json!({"tensorParallelSize": 2, "resources": {"limits": {"nvidia.com/gpu": "2", "rdma/hca": "1"}}}))]
    #[case::an_old_image_that_is_not_asked_to_drain(json!({"image": "vllm/vllm-openai:v0.10.0", "drainSeconds": 0}))]
    #[case::template(json!({"podTemplate": {
        "metadata": {"labels": {"team": "a"}, "annotations": {"cluster": "x"}},
        "spec": {
            "nodeSelector": {"a": "b"},
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "vllm", "livenessProbe": {"periodSeconds": 30}, "env": [{"name": "HF_HOME"}], "ports": [{"containerPort": 9}]}],
        },
    }}))]
    fn passes(#[case] of: Value) {
        assert_eq!(says(of), Vec::<String>::new());
    }

    #[test]
    fn an_installation_may_allow_the_host() {
        let host = spec(json!({"podTemplate": {"spec": {"hostNetwork": true}}}));
        assert!(check(&host, None, true).allowed());
    }

    #[test]
    fn what_was_wrong_before_is_warned_about() {
        let wrong = spec(json!({"args": ["--port=1"]}));
        let outcome = check(&wrong, Some(&wrong), false);
        assert!(outcome.allowed() && outcome.warnings.len() == 1, "{outcome:?}");
        let worse = spec(json!({"args": ["--port=1", "--host=x"]}));
        let outcome = check(&worse, Some(&wrong), false);
        assert_eq!((outcome.refusals.len(), outcome.warnings.len()), (1, 1));
    }

    #[test]
    fn another_fault_at_the_same_place_is_not_the_older_one() {
        let host = |path: &str, image: &str| {
            spec(json!({"podTemplate": {"spec": {
                "volumes": [{"name": "x", "hostPath": {"path": path}}],
                "containers": [{"name": "side", "image": image}],
            }}}))
        };
        let allowed = |new: &VLLMClusterSpec, old: &VLLMClusterSpec| check(new, Some(old), false).allowed();
        let old = host("/var/log", "x");
        assert!(allowed(&old, &old));
        assert!(!allowed(&host("/", "x"), &old) && !allowed(&host("/var/log", "evil"), &old));
        let more = VLLMClusterSpec { replicas: Some(3), ..old.clone() };
        assert!(allowed(&more, &old));
        assert!(!allowed(&spec(json!({"args": ["--host=b"]})), &spec(json!({"args": ["--host=a"]}))));
        let grace =
            |seconds: i32| spec(json!({"podTemplate": {"spec": {"terminationGracePeriodSeconds": seconds}}}));
        assert!(allowed(&grace(1), &grace(1)) && !allowed(&grace(2), &grace(1)));
        let twice = |value: &str| {
            spec(
                json!({"huggingFaceToken": {"secretName": "s"}, "env": [{"name": "HF_TOKEN", "value": value}]}),
            )
        };
        assert!(allowed(&twice("a"), &twice("a")) && !allowed(&twice("b"), &twice("a")));
    }

    #[rstest]
    #[case(json!({}), None)]
    #[case(json!({"env": [{"name": "A", "value": "1"}], "podTemplate": {"metadata": {"labels": {"a": "b"}}}}), None)]
    #[case(json!({"huggingFaceToken": {"secretName": "s"}}), Some("spec.huggingFaceToken"))]
    #[case(json!({"env": [{"name": "A"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}), Some("spec.env[1]"))]
    #[case(json!({"envFrom": [{"secretRef": {"name": "s"}}]}), Some("spec.envFrom"))]
    #[case(json!({"modelCache": {"existingClaim": "c"}}), Some("spec.modelCache.existingClaim"))]
    #[case(json!({"modelCache": {"claim": {"size": "1Gi"}}}), Some("spec.modelCache.claim"))]
    #[case(json!({"podTemplate": {"spec": {"serviceAccountName": "admin"}}}), Some("spec.podTemplate.spec"))]
    #[case(json!({"podTemplate": {"metadata": {"annotations": {"inject": "secrets"}}}}), Some("spec.podTemplate.metadata.annotations"))]
    fn what_is_lent_to_pods(#[case] of: Value, #[case] field: Option<&str>) {
        let new = spec(of);
        assert_eq!(lent(&new, None).as_deref(), field);
        // Lent before by whoever wrote it then, for the same pods.
        assert_eq!(lent(&new, Some(&new)), None);
        assert_eq!(
            lent(&new, Some(&VLLMClusterSpec { port: Some(9), ..VLLMClusterSpec::default() })).as_deref(),
            field
        );
        // More of them are no others.
        let more = VLLMClusterSpec { replicas: Some(7), max_replicas: Some(9), ..new.clone() };
        assert_eq!(lent(&more, Some(&new)), None);
        // Whoever changes what is done with it, lends it.
        for changed in [
            VLLMClusterSpec { args: vec!["--x=$(A)".into()], ..new.clone() },
            VLLMClusterSpec { image: Some("evil".into()), ..new.clone() },
            VLLMClusterSpec { model: Some("evil".into()), ..new.clone() },
        ] {
            assert_eq!(lent(&changed, Some(&new)).as_deref(), field);
        }
    }
}
