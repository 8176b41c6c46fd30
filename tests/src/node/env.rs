//! The environment and the words of a container.
//!
//! **Architecture invariant**: pure; what the environment refers to comes as [`Objects`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};
use kube::ResourceExt as _;

use super::objects::Objects;

/// Environment by name.
pub type Env = BTreeMap<String, String>;

/// What a pod may ask about itself and does not know from its own object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The pod's.
    pub pod: String,
    /// The node's.
    pub host: String,
}

/// Why a container cannot be configured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvError {
    /// A `Secret` or `ConfigMap` that is not there.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `secret` or `configmap`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It has no such key.
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey {
        /// `secret` or `configmap`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field path that this node does not know.
    #[error("this node has no value for {0}")]
    Field(String),
}

/// The environment of `container`, over the `base` that its image and the node give.
pub fn environment(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    addresses: &Addresses,
    base: Env,
) -> Result<Env, EnvError> {
    let mut env = base;
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut all = Env::new();
        if let Some(from) = &source.config_map_ref {
            match objects.config_maps.get(&from.name) {
                Some(map) => all.extend(map.data.clone().unwrap_or_default()),
                None if from.optional == Some(true) => {}
                None => return Err(EnvError::NotFound { kind: "configmap", name: from.name.clone() }),
            }
        }
        if let Some(from) = &source.secret_ref {
            match objects.secrets.get(&from.name) {
                Some(secret) => {
                    all.extend(
                        secret.data.iter().flatten().map(|(key, value)| (key.clone(), text(&value.0))),
                    );
                }
                None if from.optional == Some(true) => {}
                None => return Err(EnvError::NotFound { kind: "secret", name: from.name.clone() }),
            }
        }
        env.extend(all.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)));
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &env)),
            Some(source) => reference(pod, source, objects, addresses)?,
        };
        if let Some(value) = value {
            env.insert(variable.name.clone(), value);
        }
    }
    Ok(env)
}

/// The value behind a reference; none for an optional one that leads nowhere.
fn reference(
    pod: &Pod,
    source: &EnvVarSource,
    objects: &Objects,
    addresses: &Addresses,
) -> Result<Option<String>, EnvError> {
    if let Some(from) = &source.field_ref {
        return field(pod, &from.field_path, addresses).map(Some);
    }
    let (kind, name, key, optional, data) = if let Some(from) = &source.secret_key_ref {
        let data = objects.secrets.get(&from.name).map(|secret| {
            secret.data.iter().flatten().map(|(key, value)| (key.clone(), text(&value.0))).collect::<Env>()
        });
        ("secret", &from.name, &from.key, from.optional, data)
    } else if let Some(from) = &source.config_map_key_ref {
        let data = objects.config_maps.get(&from.name).map(|map| map.data.clone().unwrap_or_default());
        ("configmap", &from.name, &from.key, from.optional, data)
    } else {
        return Err(EnvError::Field("resourceFieldRef and fileKeyRef".into()));
    };
    let optional = optional == Some(true);
    match data.as_ref().map(|data| data.get(key)) {
        Some(Some(value)) => Ok(Some(value.clone())),
        _ if optional => Ok(None),
        None => Err(EnvError::NotFound { kind, name: name.clone() }),
        Some(None) => Err(EnvError::NoKey { kind, name: name.clone(), key: key.clone() }),
    }
}

/// The value of a field of the pod, as `fieldRef` names it.
pub fn field(pod: &Pod, path: &str, addresses: &Addresses) -> Result<String, EnvError> {
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => pod.labels(),
            "metadata.annotations" => pod.annotations(),
            _ => return Err(EnvError::Field(path.to_owned())),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    let lines = |map: &BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
    };
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.podIP" | "status.podIPs" => addresses.pod.clone(),
        "status.hostIP" | "status.hostIPs" => addresses.host.clone(),
        _ => return Err(EnvError::Field(path.to_owned())),
    })
}

/// Replaces `$(NAME)` by its value; `$$` is a dollar sign, and an unknown name stays as it is.
pub fn expand(text: &str, env: &Env) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let name = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        rest = match (after.strip_prefix('$'), name) {
            (Some(after), _) => {
                expanded.push('$');
                after
            }
            (None, Some((name, after))) => {
                match env.get(name) {
                    Some(value) => expanded.push_str(value),
                    None => expanded.extend(["$(", name, ")"]),
                }
                after
            }
            (None, None) => {
                expanded.push('$');
                after
            }
        };
    }
    expanded + rest
}

/// The variables by which the Services of a namespace are announced to its pods.
pub fn service_links<'a>(services: impl IntoIterator<Item = &'a Service>) -> Env {
    let mut env = Env::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(address) = spec.cluster_ip.as_deref().filter(|address| !matches!(*address, "" | "None"))
        else {
            continue;
        };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let name = variable(&service.name_any());
        env.insert(format!("{name}_SERVICE_HOST"), address.to_owned());
        env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        let url = |protocol: &str, port: i32| format!("{}://{address}:{port}", protocol.to_lowercase());
        env.insert(format!("{name}_PORT"), url(first.protocol.as_deref().unwrap_or("TCP"), first.port));
        for port in ports {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                env.insert(format!("{name}_SERVICE_PORT_{}", variable(port_name)), port.port.to_string());
            }
            let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
            env.insert(prefix.clone(), url(protocol, port.port));
            env.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            env.insert(format!("{prefix}_PORT"), port.port.to_string());
            env.insert(format!("{prefix}_ADDR"), address.to_owned());
        }
    }
    env
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
            "spec": {"containers": [], "nodeName": "n", "serviceAccountName": "sa"},
        }))
        .unwrap()
    }

    fn addresses() -> Addresses {
        Addresses { pod: "10.0.0.1".into(), host: "10.0.0.2".into() }
    }

    fn resolve(container: &serde_json::Value) -> Result<String, EnvError> {
        let mut full = json!({"name": "c"});
        full.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let secret = json!({"data": {"key": "c2VjcmV0"}});
        let map = json!({"data": {"key": "plain"}});
        let objects = Objects {
            secrets: [("s".to_owned(), serde_json::from_value(secret).unwrap())].into(),
            config_maps: [("m".to_owned(), serde_json::from_value(map).unwrap())].into(),
            ..Objects::default()
        };
        let base = [("BASE".to_owned(), "base".to_owned())].into();
        let env = environment(&pod(), &serde_json::from_value(full).unwrap(), &objects, &addresses(), base)?;
        let shown =
            env.iter().filter(|(name, _)| *name != "BASE").map(|(name, value)| format!("{name}={value}"));
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn variables_come_from_where_they_say() {
        let from = |source: serde_json::Value| json!({"env": [{"name": "V", "valueFrom": source}]});
        let field = |path: &str| from(json!({"fieldRef": {"fieldPath": path}}));
        for (container, expected) in [
            (
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(BASE)$(C)"}]}),
                "A=1 B=1base$(C)",
            ),
            (json!({"env": [{"name": "A"}]}), "A="),
            (json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]}), "A=12"),
            (json!({"envFrom": [{"secretRef": {"name": "s"}, "prefix": "P_"}]}), "P_key=secret"),
            (
                json!({"envFrom": [{"configMapRef": {"name": "m"}}], "env": [{"name": "key", "value": "own"}]}),
                "key=own",
            ),
            (json!({"envFrom": [{"configMapRef": {"name": "none", "optional": true}}]}), ""),
            (from(json!({"secretKeyRef": {"name": "s", "key": "key"}})), "V=secret"),
            (from(json!({"configMapKeyRef": {"name": "m", "key": "key"}})), "V=plain"),
            (from(json!({"configMapKeyRef": {"name": "m", "key": "none", "optional": true}})), ""),
            (field("metadata.name"), "V=web-0"),
            (field("metadata.namespace"), "V=shop"),
            (field("metadata.uid"), "V=u"),
            (field("metadata.labels['app']"), "V=web"),
            (field("metadata.annotations['none']"), "V="),
            (field("spec.nodeName"), "V=n"),
            (field("spec.serviceAccountName"), "V=sa"),
            (field("status.podIP"), "V=10.0.0.1"),
            (field("status.hostIP"), "V=10.0.0.2"),
        ] {
            assert_eq!(resolve(&container).as_deref(), Ok(expected), "{container}");
        }
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_named() {
        let from = |source: serde_json::Value| json!({"env": [{"name": "V", "valueFrom": source}]});
        for (container, expected) in [
            (from(json!({"secretKeyRef": {"name": "none", "key": "k"}})), "secret \"none\" not found"),
            (from(json!({"secretKeyRef": {"name": "s", "key": "k"}})), "couldn't find key k in secret s"),
            (json!({"envFrom": [{"configMapRef": {"name": "none"}}]}), "configmap \"none\" not found"),
            (from(json!({"fieldRef": {"fieldPath": "spec.nope"}})), "this node has no value for spec.nope"),
        ] {
            assert_eq!(resolve(&container).unwrap_err().to_string(), expected, "{container}");
        }
    }

    #[test]
    fn names_in_parentheses_are_expanded() {
        let env = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())].into();
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn services_are_announced() {
        let services: Vec<Service> = serde_json::from_value(json!([
            {"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.96.0.7", "ports": [
                {"name": "sql-main", "port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"},
            ]}},
            {"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}},
            {"metadata": {"name": "external"}, "spec": {"type": "ExternalName", "externalName": "x"}},
        ]))
        .unwrap();
        let env = service_links(&services);
        let shown: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "MY_DB_PORT=tcp://10.96.0.7:5432",
            "MY_DB_PORT_53_UDP=udp://10.96.0.7:53",
            "MY_DB_PORT_53_UDP_ADDR=10.96.0.7",
            "MY_DB_PORT_53_UDP_PORT=53",
            "MY_DB_PORT_53_UDP_PROTO=udp",
            "MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432",
            "MY_DB_PORT_5432_TCP_ADDR=10.96.0.7",
            "MY_DB_PORT_5432_TCP_PORT=5432",
            "MY_DB_PORT_5432_TCP_PROTO=tcp",
            "MY_DB_SERVICE_HOST=10.96.0.7",
            "MY_DB_SERVICE_PORT=5432",
            "MY_DB_SERVICE_PORT_DNS=53",
            "MY_DB_SERVICE_PORT_SQL_MAIN=5432",
        ];
        assert_eq!(shown, expected);
    }
}
