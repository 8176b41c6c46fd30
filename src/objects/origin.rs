//! Where in a `VLLMCluster`'s spec that stands of which the API server speaks by a path of a built object.
//!
//! Architecture invariant: plain functions of a path and of JSON. What cannot be traced back is of the spec as a whole.

use serde_json::Value;

use crate::api::names::CONTAINER;

use super::overlay::merge_key;
use super::pod::{CACHE, SHM};

/// The origin of a field of the StatefulSet. `template`: its pod template; `spec`: the cluster's spec.
pub fn of_stateful_set(field: &str, template: &Value, spec: &Value) -> String {
    if let Some(path) = field.strip_prefix("spec.template.") {
        return of_template(&steps(path), template, spec).unwrap_or_else(|| "spec".into());
    }
    if field.starts_with("spec.volumeClaimTemplates") {
        return match () {
            () if field.contains("storageClassName") => "spec.modelCache.claim.storageClassName".into(),
            () if field.contains("resources") => "spec.modelCache.claim.size".into(),
            () => "spec.modelCache.claim".into(),
        };
    }
    if field.starts_with("spec.updateStrategy") {
        return "spec.updateStrategy.maxUnavailable".into();
    }
    "spec".into()
}

/// The origin of a field of the PodDisruptionBudget.
pub fn of_budget(field: &str) -> String {
    match field.strip_prefix("spec.") {
        Some(name @ ("minAvailable" | "maxUnavailable")) => format!("spec.disruptionBudget.{name}"),
        _ => "spec.disruptionBudget".into(),
    }
}

/// One step into an object or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    Field(&'a str),
    Entry(usize),
    /// A key of a map, in brackets.
    Key(&'a str),
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some((inside, behind)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            steps.push(inside.parse().map_or(Step::Key(inside), Step::Entry));
            rest = behind;
        } else {
            let rest_of_field = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest_of_field.find(['.', '[']).unwrap_or(rest_of_field.len());
            let (field, behind) = rest_of_field.split_at(end);
            if field.is_empty() {
                break;
            }
            steps.push(Step::Field(field));
            rest = behind;
        }
    }
    // Of a template's metadata the API server leaves the word out.
    if matches!(steps.first(), Some(Step::Field("labels" | "annotations"))) {
        steps.insert(0, Step::Field("metadata"));
    }
    steps
}

/// In the user's own template, if it goes so far; else in the field that the operator has built this from.
fn of_template(steps: &[Step<'_>], template: &Value, spec: &Value) -> Option<String> {
    let (mut built, mut stated) = (template, Some(&spec["podTemplate"]));
    let (mut path, mut list) = (String::from("spec.podTemplate"), "");
    let mut entries = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Field(field) => {
                built = &built[field];
                stated = stated.map(|stated| &stated[field]).filter(|stated| !stated.is_null());
                path.push('.');
                path.push_str(field);
                list = field;
            }
            Step::Key(_) => path.push_str(&written(&[*step])),
            Step::Entry(index) => {
                built = &built[index];
                let key = merge_key(list).unwrap_or_default();
                entries.push((list, built[key].as_str().unwrap_or_default(), at));
                let place = stated.and_then(Value::as_array).and_then(|stated| match key {
                    "" => (*index < stated.len()).then_some(*index),
                    key => stated.iter().position(|entry| entry[key] == built[key]),
                });
                stated = stated.zip(place).map(|(stated, place)| &stated[place]);
                path.push_str(&written(&[Step::Entry(place.unwrap_or_default())]));
            }
        }
    }
    if stated.is_some() {
        return Some(path);
    }
    of_field(steps, &entries, spec)
}

/// The field of the spec itself. `entries`: the lists that the path goes through, the key of the entry, and at which step.
fn of_field(steps: &[Step<'_>], entries: &[(&str, &str, usize)], spec: &Value) -> Option<String> {
    match entries {
        [("volumes", SHM, _)] => Some("spec.sharedMemorySize".into()),
        [("volumes", CACHE, _)] => Some("spec.modelCache.existingClaim".into()),
        [("containers", CONTAINER, _), ("env", "HF_TOKEN", _)] if !spec["huggingFaceToken"].is_null() => {
            Some("spec.huggingFaceToken".into())
        }
        [("containers", CONTAINER, _), ("env", name, at)] => {
            let variables = spec["env"].as_array()?;
            let place = variables.iter().position(|variable| variable["name"] == *name)?;
            Some(format!("spec.env[{place}]{}", written(&steps[at + 1..])))
        }
        [("containers", CONTAINER, at), ..] => {
            let behind = &steps[at + 1..];
            match behind.first()? {
                // An accelerator is a limit too.
                Step::Field("resources") if spec["resources"].is_null() => Some("spec.accelerator".into()),
                Step::Field("resources" | "envFrom" | "image") => Some(format!("spec{}", written(behind))),
                _ => None,
            }
        }
        _ => None,
    }
}

fn written(steps: &[Step<'_>]) -> String {
    let step = |step: &Step<'_>| match step {
        Step::Field(field) => format!(".{field}"),
        Step::Entry(index) => format!("[{index}]"),
        Step::Key(key) => format!("[{key}]"),
    };
    steps.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(
        "spec.template.spec.containers[0].imagePullPolicy",
        "spec.podTemplate.spec.containers[1].imagePullPolicy"
    )]
    #[case("spec.template.spec.containers[1].image", "spec.podTemplate.spec.containers[0].image")]
    #[case("spec.template.spec.volumes[2].name", "spec.podTemplate.spec.volumes[0].name")]
    #[case("spec.template.spec.volumes[0].emptyDir.sizeLimit", "spec.sharedMemorySize")]
    #[case("spec.template.spec.volumes[1].persistentVolumeClaim.claimName", "spec.modelCache.existingClaim")]
    #[case("spec.template.spec.tolerations[0].effect", "spec.podTemplate.spec.tolerations[0].effect")]
    #[case("spec.template.spec.nodeSelector[a/b]", "spec.podTemplate.spec.nodeSelector[a/b]")]
    #[case("spec.template.labels", "spec.podTemplate.metadata.labels")]
    #[case("spec.template.spec.containers[0].env[1].valueFrom.secretKeyRef.key", "spec.huggingFaceToken")]
    #[case("spec.template.spec.containers[0].env[2].name", "spec.env[0].name")]
    #[case(
        "spec.template.spec.containers[0].resources.limits[nvidia.com/gpu]",
        "spec.resources.limits[nvidia.com/gpu]"
    )]
    #[case("spec.template.spec.containers[0].envFrom[1].prefix", "spec.envFrom[1].prefix")]
    #[case("spec.template.spec.containers[0].startupProbe.x", "spec")]
    #[case("spec.volumeClaimTemplates[0].spec.resources[storage]", "spec.modelCache.claim.size")]
    #[case("spec.updateStrategy.rollingUpdate.maxUnavailable", "spec.updateStrategy.maxUnavailable")]
    #[case("spec.podManagementPolicy", "spec")]
    #[case("", "spec")]
    fn a_path_leads_back_to_what_the_user_wrote(#[case] field: &str, #[case] origin: &str) {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "containers": [
                {"name": "vllm", "env": [{"name": "HF_HOME"}, {"name": "HF_TOKEN"}, {"name": "A"}]},
                {"name": "side"},
            ],
            "volumes": [{"name": "shm"}, {"name": "model-cache"}, {"name": "data"}],
            "tolerations": [{"effect": "x"}],
            "nodeSelector": {"a/b": "c"},
        }});
        let spec = json!({
            "env": [{"name": "A"}],
            "huggingFaceToken": {"secretName": "s"},
            "resources": {"limits": {}},
            "podTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "containers": [{"name": "side", "image": ""}, {"name": "vllm", "imagePullPolicy": "x"}],
                "volumes": [{"name": "data"}],
                "tolerations": [{"effect": "x"}],
                "nodeSelector": {"a/b": "c"},
            }},
        });
        assert_eq!(of_stateful_set(field, &template, &spec), origin);
    }

    #[test]
    fn of_budgets() {
        assert_eq!(of_budget("spec.minAvailable"), "spec.disruptionBudget.minAvailable");
        assert_eq!(of_budget("spec.selector"), "spec.disruptionBudget");
    }
}
