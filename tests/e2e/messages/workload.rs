//! Writes of what a cluster asks of its pods.

use serde_json::json;
use vllm_operator::policy::Rule;

use super::{NS, Transcript};
use crate::suite::kubectl;

/// May write clusters, and start no pods of his own.
const WRITER: &str = "dana";

/// `kubectl create`.
pub async fn all(transcript: &mut Transcript<'_>) -> anyhow::Result<()> {
    let vllm = |more: serde_json::Value| {
        let mut container = json!({"name": "vllm"});
        json_patch::merge(&mut container, &more);
        json!({"podTemplate": {"spec": {"containers": [container]}}})
    };
    let claim = json!({"size": "1Gi"});
    for (rule, spec) in [
        (Rule::ArgumentOfField, json!({"args": ["--seed=1", "--tensor-parallel-size", "2", "--port=9000"]})),
        (Rule::DrainNeedsNewerImage, json!({"image": "vllm/vllm-openai:v0.17.0", "drainSeconds": 30})),
        (Rule::AcceleratorsTooFew, json!({"tensorParallelSize": 4, "accelerator": {"count": 2}})),
        (
            Rule::AcceleratorsTooFew,
            json!({"tensorParallelSize": 4, "resources": {"limits": {"nvidia.com/gpu": 2}}}),
        ),
        (
            Rule::AcceleratorTwice,
            json!({"accelerator": {"count": 1}, "resources": {"limits": {"nvidia.com/gpu": 1}}}),
        ),
        (
            Rule::VariableOfField,
            json!({"huggingFaceToken": {"secretName": "hf"}, "env": [{"name": "HF_TOKEN", "value": "x"}]}),
        ),
        (Rule::CacheOfOneKind, json!({"modelCache": {}})),
        (Rule::CacheOfOneKind, json!({"modelCache": {"claim": claim, "existingClaim": "models"}})),
        (
            Rule::RetentionWithoutClaim,
            json!({"modelCache": {"existingClaim": "models", "retention": {"whenDeleted": "Delete"}}}),
        ),
        (Rule::UnavailableOnDelete, json!({"updateStrategy": {"type": "OnDelete", "maxUnavailable": 1}})),
        (Rule::BudgetOfOneKind, json!({"disruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}})),
        (Rule::ServedNameOfNothing, json!({"servedModelName": "chat"})),
        (Rule::SpecUnreadable, json!({"updateStrategy": {"maxUnavailable": 9_999_999_999_i64}})),
        (Rule::TemplateInvalid, json!({"disruptionBudget": {"minAvailable": "150%"}})),
        (Rule::TemplateInvalid, json!({"modelCache": {"claim": {"size": "0"}}})),
        (Rule::TemplateLabel, json!({"podTemplate": {"metadata": {"labels": {"cluster": "other"}}}})),
        (Rule::TemplateProtected, json!({"podTemplate": {"spec": {"terminationGracePeriodSeconds": 5}}})),
        (
            Rule::TemplateProtected,
            vllm(json!({"image": "nginx", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}})),
        ),
        (Rule::HostAccess, json!({"podTemplate": {"spec": {"hostNetwork": true}}})),
        (Rule::HostAccess, vllm(json!({"securityContext": {"privileged": true}}))),
        (Rule::TemplateInvalid, vllm(json!({"imagePullPolicy": "Sometimes"}))),
        (Rule::TemplateInvalid, json!({"resources": {"requests": {"cpu": 2}, "limits": {"cpu": 1}}})),
    ] {
        create(transcript, rule, spec, "create --dry-run=server -f -").await?;
    }
    let binding = format!("create rolebinding {WRITER} --clusterrole=vllm-operator-edit --user={WRITER}");
    kubectl(transcript.plane, NS, &binding).ok().await?;
    let line = format!("create --dry-run=server --as={WRITER} -f -");
    create(transcript, Rule::WriterMayNot, json!({"huggingFaceToken": {"secretName": "hf"}}), &line).await
}

async fn create(
    transcript: &mut Transcript<'_>,
    rule: Rule,
    spec: serde_json::Value,
    line: &str,
) -> anyhow::Result<()> {
    let gist = spec.to_string();
    let manifest = json!({
        "apiVersion": "training.distributed-inference.io/v1alpha1",
        "kind": "VLLMCluster",
        "metadata": {"name": "new"},
        "spec": spec,
    });
    transcript.run(&[rule], (NS, line), Some((&gist, manifest.to_string()))).await
}
