//! What the operator must be allowed, from the roles that are installed with it.
//!
//! Architecture invariant: the roles stand in the manifests and nowhere else.

use serde_json::{Value, json};

use crate::commands::manifest::OPERATOR;

use super::finding::{Check, Finding};
use super::seen::{Right, Seen};

/// What KEDA's namespace holds for the scaler.
const FOR_KEDA: &str = include_str!("../../../deploy/keda.yaml");
/// The roles that the operator's account is bound to.
const CLUSTER_ROLES: [&str; 2] = ["vllm-operator", "vllm-operator-servers"];
const ROLES: [&str; 2] = ["vllm-operator", "vllm-operator-scaler"];

/// One question to the API server.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// `spec.resourceAttributes` of a `SubjectAccessReview`.
    pub(super) attributes: Value,
    /// What is told where the answer is no.
    pub(super) right: Right,
}

/// Each verb of each resource of each rule. `keda` is KEDA's namespace, where the operator has something to do there; where namespaces
/// are watched, it writes in these.
pub(super) fn wanted(namespace: &str, watched: &[String], keda: Option<&str>) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for role in roles(OPERATOR) {
        if role["kind"] == "Role" {
            wanted.extend(of_role(&role, Some(namespace)));
        } else if role["metadata"]["name"] == CLUSTER_ROLES[1] && !watched.is_empty() {
            wanted.extend(watched.iter().flat_map(|namespace| of_role(&role, Some(namespace))));
        } else {
            wanted.extend(of_role(&role, None));
        }
    }
    if let Some(keda) = keda {
        for role in roles(FOR_KEDA) {
            wanted.extend(of_role(&role, Some(keda)));
        }
    }
    wanted
}

/// The roles of a manifest that are the operator's own.
fn roles(manifest: &str) -> Vec<Value> {
    // A test reads both manifests.
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap_or_default();
    let is_ours = |object: &Value| match object["kind"].as_str() {
        Some("ClusterRole") => CLUSTER_ROLES.iter().any(|role| object["metadata"]["name"] == *role),
        Some("Role") => ROLES.iter().any(|role| object["metadata"]["name"] == *role),
        _ => false,
    };
    objects.into_iter().filter(is_ours).collect()
}

fn of_role(role: &Value, namespace: Option<&str>) -> Vec<Wanted> {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        rule[field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|word| Some(word.as_str()?.to_owned()))
            .collect()
    };
    let name = role["metadata"]["name"].as_str().unwrap_or_default();
    let kind = role["kind"].as_str().unwrap_or_default().to_lowercase();
    let place = namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
    let role_name = format!("{kind}/{name}{place}");
    let mut wanted = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let names = words(rule, "resourceNames");
        let names: Vec<_> = if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                let (plural, sub) = resource.split_once('/').unwrap_or((&resource, ""));
                for (verb, object) in
                    words(rule, "verbs").iter().flat_map(|verb| names.iter().map(move |name| (verb, name)))
                {
                    let attributes = json!({
                        "group": group, "resource": plural, "subresource": sub, "verb": verb,
                        "name": object.as_deref().unwrap_or_default(),
                        "namespace": namespace.unwrap_or_default(),
                    });
                    let of_group =
                        if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
                    let of_sub = if sub.is_empty() { of_group } else { format!("{of_group}/{sub}") };
                    let resource =
                        object.as_ref().map_or(of_sub.clone(), |object| format!("{of_sub} {object}"));
                    let right = Right { role: role_name.clone(), verb: verb.clone(), resource };
                    wanted.push(Wanted { attributes, right });
                }
            }
        }
    }
    wanted
}

/// Rights that are missing, those of one role and resource together.
pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let mut rights = seen.rights.iter().peekable();
    let mut findings = Vec::new();
    while let Some(Right { role, verb, resource }) = rights.next() {
        let mut verbs = vec![verb.as_str()];
        while let Some(next) = rights.next_if(|next| next.role == *role && next.resource == *resource) {
            verbs.push(&next.verb);
        }
        findings.push(Finding::new(
            Check::RightMissing,
            role,
            format!("The operator may not {} {resource}.", verbs.join(", ")),
            "apply deploy/install.yaml (and deploy/keda.yaml, where KEDA calls the scaler) or upgrade the release again, which puts \
             roles and bindings back",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_of_every_rule_is_asked_for() {
        let wanted = super::wanted("ns", &[], Some("keda"));
        assert!(wanted.len() > 50, "{}", wanted.len());
        let of = |role: &str, verb: &str, resource: &str| {
            let right = Right { role: role.into(), verb: verb.into(), resource: resource.into() };
            wanted.iter().find(|wanted| wanted.right == right).map(|wanted| wanted.attributes.clone())
        };
        let status = of(
            "clusterrole/vllm-operator-servers",
            "patch",
            "vllmclusters.training.distributed-inference.io/status",
        );
        assert_eq!(
            status,
            Some(json!({
                "group": "training.distributed-inference.io", "resource": "vllmclusters", "subresource": "status",
                "verb": "patch", "name": "", "namespace": "",
            }))
        );
        let secret = of("role/vllm-operator in namespace ns", "update", "secrets vllm-operator-ca")
            .expect("asked for");
        assert_eq!((&secret["namespace"], &secret["name"]), (&json!("ns"), &json!("vllm-operator-ca")));
        assert!(
            of("role/vllm-operator-scaler in namespace keda", "patch", "secrets vllm-operator-scaler")
                .is_some()
        );
        assert!(super::wanted("ns", &[], None).iter().all(|wanted| !wanted.right.role.contains("scaler")));
    }

    #[test]
    fn where_namespaces_are_watched_it_writes_there() {
        let places = |watched: &[String]| -> std::collections::BTreeSet<String> {
            let wanted = wanted("ns", watched, None);
            let writes = wanted.iter().filter(|wanted| wanted.right.role.contains("-servers"));
            writes
                .map(|wanted| wanted.attributes["namespace"].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        assert_eq!(places(&[]), [String::new()].into());
        assert_eq!(places(&["a".into(), "b".into()]), ["a".to_owned(), "b".to_owned()].into());
    }

    #[test]
    fn rights_of_one_resource_are_told_together() {
        let right = |verb: &str, resource: &str| Right {
            role: "clusterrole/x".into(),
            verb: verb.into(),
            resource: resource.into(),
        };
        let rights = vec![right("get", "pods"), right("list", "pods"), right("list", "events")];
        let findings = check(&Seen { rights, ..Seen::default() });
        let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(messages, ["The operator may not get, list pods.", "The operator may not list events."]);
    }
}
