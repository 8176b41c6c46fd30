//! Writes of HorizontalPodAutoscalers.

use serde_json::json;
use vllm_operator::policy::Rule;

use super::world::hpa;
use super::{NS, Transcript};

/// `kubectl create`.
pub async fn all(transcript: &mut Transcript<'_>) -> anyhow::Result<()> {
    for (rule, cluster, (min, max)) in [
        (Rule::HpaBesideScaler, "held", (2, 10)),
        (Rule::HpaOutsideBounds, "free", (11, 12)),
        (Rule::HpaWider, "free", (1, 12)),
    ] {
        let gist = json!({"scaleTargetRef": cluster, "minReplicas": min, "maxReplicas": max}).to_string();
        let input = Some((gist.as_str(), hpa("new", cluster, (min, max)).to_string()));
        transcript.run(&[rule], (NS, "create --dry-run=server -f -"), input).await?;
    }
    let mut without_owner = hpa("keda-hpa-of-backup", "plain", (1, 5));
    without_owner["metadata"]["labels"] = json!({"scaledobject.keda.sh/name": "of-backup"});
    let gist = without_owner["metadata"].to_string();
    let input = Some((gist.as_str(), without_owner.to_string()));
    transcript.run(&[Rule::HpaWithoutOwnerCreated], (NS, "create --dry-run=server -f -"), input).await
}
