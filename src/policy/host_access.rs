//! What reaches from a pod into its node: the controls of Kubernetes' Pod Security Standard "baseline", and capabilities that are
//! added at all.
//!
//! Architecture invariant: judges the JSON of a pod template by itself; whether the installation allows it is known to the
//! caller.

use serde_json::{Map, Value};

use crate::api::names::KIND;

use super::workload::{TEMPLATE, list};
use super::{Finding, Rule};

/// Kinds of volumes that are a path of the node, or a program or download there.
const VOLUMES: [&str; 3] = ["hostPath", "flexVolume", "gitRepo"];
/// Types of `SELinux` that containers may run as.
const SELINUX: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// Kernel parameters that concern the pod alone.
const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];
/// What the older form of an `AppArmor` profile begins with.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What a pod template has of it.
pub fn findings(template: &Map<String, Value>) -> Vec<Finding> {
    let part = |name| template.get(name).unwrap_or(&Value::Null);
    let mut fields = Vec::new();
    let annotations = part("metadata")["annotations"].as_object().into_iter().flatten();
    fields.extend(
        annotations
            .filter(|(name, value)| unconfined(name, value))
            .map(|(name, _)| format!("{TEMPLATE}.metadata.annotations[{name}]")),
    );
    let pod = part("spec");
    let path = format!("{TEMPLATE}.spec");
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod[field] == true {
            fields.push(format!("{path}.{field}"));
        }
    }
    for (at, volume) in list(&pod["volumes"]).enumerate() {
        for kind in VOLUMES.iter().filter(|kind| !volume[*kind].is_null()) {
            fields.push(format!("{path}.volumes[{at}].{kind}"));
        }
    }
    security(&pod["securityContext"], &format!("{path}.securityContext"), &mut fields);
    for kind in ["initContainers", "containers"] {
        for (at, container) in list(&pod[kind]).enumerate() {
            of_container(container, &format!("{path}.{kind}[{at}]"), &mut fields);
        }
    }
    fields.into_iter().map(refuse).collect()
}

fn refuse(field: String) -> Finding {
    Finding::new(
        Rule::HostAccess,
        field,
        format!(
            "a {KIND} gives no access to the node it runs on; leave it out, or ask whoever runs the operator for --allow-host-access"
        ),
    )
}

/// Whether an annotation takes a container's `AppArmor` profile away.
fn unconfined(name: &str, value: &Value) -> bool {
    let profile = value.as_str().unwrap_or_default();
    name.starts_with(APP_ARMOR) && profile != "runtime/default" && !profile.starts_with("localhost/")
}

fn of_container(container: &Value, path: &str, fields: &mut Vec<String>) {
    let context = &container["securityContext"];
    let of_context = format!("{path}.securityContext");
    for field in ["privileged", "allowPrivilegeEscalation"] {
        if context[field] == true {
            fields.push(format!("{of_context}.{field}"));
        }
    }
    if list(&context["capabilities"]["add"]).next().is_some() {
        fields.push(format!("{of_context}.capabilities.add"));
    }
    if context["procMount"].as_str().is_some_and(|mount| mount != "Default") {
        fields.push(format!("{of_context}.procMount"));
    }
    security(context, &of_context, fields);
    for (at, port) in list(&container["ports"]).enumerate() {
        if port["hostPort"].as_i64().is_some_and(|port| port > 0) {
            fields.push(format!("{path}.ports[{at}].hostPort"));
        }
    }
    // The kubelet, in the node's network, would ask another host than the pod.
    for handler in
        ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"]
    {
        for kind in ["httpGet", "tcpSocket"] {
            let pointer = format!("/{}/{kind}/host", handler.replace('.', "/"));
            if container.pointer(&pointer).and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
                fields.push(format!("{path}.{handler}.{kind}.host"));
            }
        }
    }
}

/// What pod and container have in common.
fn security(context: &Value, path: &str, fields: &mut Vec<String>) {
    for profile in ["seccompProfile", "appArmorProfile"] {
        if context[profile]["type"] == "Unconfined" {
            fields.push(format!("{path}.{profile}.type"));
        }
    }
    let selinux = &context["seLinuxOptions"];
    if selinux["type"].as_str().is_some_and(|kind| !SELINUX.contains(&kind)) {
        fields.push(format!("{path}.seLinuxOptions.type"));
    }
    for field in ["user", "role"] {
        if selinux[field].as_str().is_some_and(|text| !text.is_empty()) {
            fields.push(format!("{path}.seLinuxOptions.{field}"));
        }
    }
    if context["windowsOptions"]["hostProcess"] == true {
        fields.push(format!("{path}.windowsOptions.hostProcess"));
    }
    for (at, sysctl) in list(&context["sysctls"]).enumerate() {
        if !sysctl["name"].as_str().is_some_and(|name| SYSCTLS.contains(&name)) {
            fields.push(format!("{path}.sysctls[{at}]"));
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn fields(template: &Value) -> Vec<String> {
        let found = findings(template.as_object().unwrap()).into_iter();
        found.map(|finding| finding.field.trim_start_matches("spec.podTemplate.").to_owned()).collect()
    }

    fn vllm(container: &Value) -> Value {
        let mut whole = json!({"name": "vllm"});
        json_patch::merge(&mut whole, container);
        json!({"spec": {"containers": [whole]}})
    }

    #[rstest]
    #[case(json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork")]
    #[case(json!({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}}), "spec.volumes[0].hostPath")]
    #[case(json!({"spec": {"volumes": [{"name": "x", "gitRepo": {"repository": "r"}}]}}), "spec.volumes[0].gitRepo")]
    #[case(json!({"spec": {"initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}}), "spec.initContainers[0].securityContext.privileged")]
    #[case(vllm(&json!({"securityContext": {"allowPrivilegeEscalation": true}})), "spec.containers[0].securityContext.allowPrivilegeEscalation")]
    #[case(vllm(&json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}})), "spec.containers[0].securityContext.capabilities.add")]
    #[case(vllm(&json!({"securityContext": {"procMount": "Unmasked"}})), "spec.containers[0].securityContext.procMount")]
    #[case(vllm(&json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})), "spec.containers[0].securityContext.seccompProfile.type")]
    #[case(json!({"spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}}), "spec.securityContext.appArmorProfile.type")]
    #[case(json!({"spec": {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}}), "spec.securityContext.seLinuxOptions.type")]
    #[case(json!({"spec": {"securityContext": {"seLinuxOptions": {"user": "root"}}}}), "spec.securityContext.seLinuxOptions.user")]
    #[case(json!({"spec": {"securityContext": {"windowsOptions": {"hostProcess": true}}}}), "spec.securityContext.windowsOptions.hostProcess")]
    #[case(json!({"spec": {"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}}), "spec.securityContext.sysctls[0]")]
    #[case(vllm(&json!({"ports": [{"containerPort": 9, "hostPort": 9}]})), "spec.containers[0].ports[0].hostPort")]
    #[case(vllm(&json!({"lifecycle": {"postStart": {"httpGet": {"host": "10.0.0.1", "port": 1}}}})), "spec.containers[0].lifecycle.postStart.httpGet.host")]
    #[case(json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/vllm": "unconfined"}}}), "metadata.annotations[container.apparmor.security.beta.kubernetes.io/vllm]")]
    fn refused(#[case] template: Value, #[case] field: &str) {
        assert_eq!(fields(&template), [field]);
    }

    #[rstest]
    #[case(json!({}))]
    #[case(json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/vllm": "runtime/default"}}}))]
    #[case(json!({"spec": {
        "hostNetwork": false,
        "securityContext": {
            "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"type": "container_t", "level": "s0"},
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}],
        },
        "volumes": [{"name": "x", "emptyDir": {}}],
        "containers": [{
            "name": "vllm",
            "securityContext": {"procMount": "Default", "privileged": false, "capabilities": {"drop": ["ALL"]}},
            "ports": [{"containerPort": 9, "hostPort": 0}],
            "livenessProbe": {"httpGet": {"port": 1, "host": ""}},
        }],
    }}))]
    fn passes(#[case] template: Value) {
        assert_eq!(fields(&template), [""; 0]);
    }
}
