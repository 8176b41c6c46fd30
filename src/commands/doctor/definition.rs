//! The API server and the definition of `VLLMCluster`.

use serde_json::Value;

use crate::api::crd::definition;
use crate::api::names::VERSION;

use super::finding::{Check, Finding};
use super::seen::{Look, Seen, holds};

/// The oldest API server that takes the definition: the CEL functions of its rules.
const OLDEST: (u32, u32) = (1, 33);
const ABOUT: &str = "crd/vllmclusters.training.distributed-inference.io";
const APPLY: &str =
    "apply deploy/install.yaml (kubectl apply --server-side), or upgrade the release of the chart chart-crds";

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((major, minor)) = seen.parts.server.filter(|server| *server < OLDEST) {
        findings.push(Finding::new(
            Check::ServerTooOld,
            "the API server",
            format!("It is Kubernetes {major}.{minor}."),
            "use Kubernetes 1.33 or later",
        ));
    }
    let found = match &seen.parts.definition {
        Look::Found(found) => found,
        Look::Absent => {
            findings.push(Finding::new(
                Check::DefinitionMissing,
                ABOUT,
                "The API server knows no VLLMCluster.",
                APPLY,
            ));
            return findings;
        }
        Look::Unseen => return findings,
    };
    let wanted = definition();
    match version(found) {
        Some(served) if served["served"] == true && holds(found, "Established", "True") => {
            if let Some(path) = difference(&wanted, found) {
                findings.push(Finding::new(
                    Check::DefinitionOutdated,
                    ABOUT,
                    format!("It is not that of vllm-operator {}: {path} differs.", env!("CARGO_PKG_VERSION")),
                    APPLY,
                ));
            }
        }
        _ => findings.push(Finding::new(
            Check::DefinitionNotServed,
            ABOUT,
            format!("The API server does not serve version {VERSION} of it: {}.", why_not(found)),
            APPLY,
        )),
    }
    findings
}

fn version(definition: &Value) -> Option<&Value> {
    definition["spec"]["versions"].as_array()?.iter().find(|version| version["name"] == VERSION)
}

/// What the API server says of a definition that it does not serve.
fn why_not(found: &Value) -> String {
    let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
    let told: Vec<_> = conditions
        .filter(|condition| {
            let is_good = if condition["type"] == "NonStructuralSchema" { "False" } else { "True" };
            condition["status"] != is_good
        })
        .filter_map(|condition| condition["message"].as_str())
        .collect();
    if told.is_empty() { "it is switched off (served: false)".to_owned() } else { told.join("; ") }
}

/// Where the served version lacks something of the wanted one, or has something else there.
fn difference(wanted: &Value, found: &Value) -> Option<String> {
    let (wanted, found) = (version(wanted)?, version(found)?);
    ["schema", "subresources", "additionalPrinterColumns"]
        .into_iter()
        .find_map(|part| differs(&wanted[part], &found[part], part))
}

fn differs(wanted: &Value, found: &Value, path: &str) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let over = found.keys().find(|key| !wanted.contains_key(*key) && !is_filled_in(key));
            let over = over.map(|key| format!("{path}.{key}"));
            over.or_else(|| {
                wanted.iter().find_map(|(key, value)| {
                    differs(value, found.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"))
                })
            })
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let pairs = wanted.iter().zip(found).enumerate();
            pairs
                .into_iter()
                .find_map(|(at, (wanted, found))| differs(wanted, found, &format!("{path}[{at}]")))
        }
        (Value::Number(wanted), Value::Number(found)) if wanted.as_f64() == found.as_f64() => None,
        _ if wanted == found => None,
        _ => Some(path.to_owned()),
    }
}

/// What the API server states by itself.
fn is_filled_in(key: &str) -> bool {
    matches!(key, "x-kubernetes-list-type" | "priority")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(change: impl FnOnce(&mut Value)) -> Vec<Finding> {
        let mut definition = definition();
        definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        change(&mut definition);
        let mut seen = Seen::default();
        seen.parts.definition = Look::Found(definition);
        check(&seen)
    }

    #[test]
    fn one_that_is_as_it_should_be_is_passed_over() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn each_fault_is_found() {
        let schema = |definition: &mut Value| {
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
                ["replicas"]["maximum"] = json!(7);
        };
        let findings = found(schema);
        assert_eq!(findings[0].check, Check::DefinitionOutdated);
        assert!(
            findings[0].message.ends_with("properties.spec.properties.replicas.maximum differs."),
            "{findings:?}"
        );
        let findings = found(|definition| {
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
                ["old"] = json!({"type": "string"});
        });
        assert!(findings[0].message.ends_with("properties.old differs."), "{findings:?}");
        let findings = found(|definition| {
            definition["status"]["conditions"] =
                json!([{"type": "NamesAccepted", "status": "False", "message": "\"vllm\" is taken"}]);
        });
        assert_eq!(findings[0].check, Check::DefinitionNotServed);
        assert!(findings[0].message.contains("\"vllm\" is taken"), "{findings:?}");
        let findings = found(|definition| definition["spec"]["versions"][0]["served"] = json!(false));
        assert!(findings[0].message.contains("switched off"), "{findings:?}");
    }

    #[test]
    fn an_old_api_server_is_told_with_one_that_would_do() {
        let mut seen = Seen::default();
        seen.parts.server = Some((1, 32));
        assert_eq!(check(&seen)[0].check, Check::ServerTooOld);
        seen.parts.server = Some((1, 33));
        assert_eq!(check(&seen), []);
    }
}
