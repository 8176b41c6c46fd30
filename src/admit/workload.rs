//! What a VLLMCluster asks of its pods: judged by the policy, by what its writer may do, and by the API server.
//!
//! Architecture invariant: asks the API server only about what this write changes, and only in the validating phase,
//! which sees what will be stored.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Deserialize;
use serde_json::value::RawValue;
use webhook::review::Request;

use crate::api::VLLMClusterSpec;
use crate::objects::{labels, pod};
use crate::policy::workload::{borrowed, check, not_taken, not_theirs_to_lend};
use crate::policy::{Clause, Outcome};
use crate::world::live::LiveError;

use super::{Admission, Phase};

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    spec: VLLMClusterSpec,
}

/// The whole spec; `None` if it cannot be read, which the schema refuses with a better sentence.
fn spec(raw: Option<&RawValue>) -> Option<VLLMClusterSpec> {
    serde_json::from_str::<Part>(raw?.get()).ok().map(|part| part.spec)
}

impl Admission {
    /// Adds to the outcome of a write what is wrong with the workload that it asks for.
    pub(super) async fn workload(
        &self,
        phase: Phase,
        request: &Request<'_>,
        name: &str,
        outcome: &mut Outcome,
    ) -> Result<(), LiveError> {
        let Some(new) = spec(request.object) else { return Ok(()) };
        let old = spec(request.old_object);
        let judged = check(&new, old.as_ref(), self.host_access);
        let sound = judged.allowed();
        outcome.refusals.extend(judged.refusals);
        match phase {
            // The validating webhook says the warnings.
            Phase::Mutating => return Ok(()),
            Phase::Validating => outcome.warnings.extend(judged.warnings),
        }
        if let Some(field) = borrowed(&new, old.as_ref()).filter(|_| Clause::WriterIsAsked.in_force()) {
            let user = &request.user;
            if !self.live.may_create_statefulsets(&request.namespace, user).await? {
                outcome.add_refusal(not_theirs_to_lend(field, &user.username, &request.namespace));
            }
        }
        let template = template(name, &new);
        let changed = old.is_none_or(|old| self::template(name, &old) != template);
        let stated = new.pod_template.is_some()
            || new.resources.is_some()
            || !new.env.is_empty()
            || !new.env_from.is_empty();
        // What the policy refuses already would only be said twice.
        if let Some(template) = template.filter(|_| sound && stated && changed) {
            let faults = self.live.faults_of_template(&request.namespace, template).await?;
            for (field, message) in faults {
                outcome.add_refusal(not_taken(new.pod_template.is_some(), &field, &message));
            }
        }
        Ok(())
    }
}

fn template(name: &str, spec: &VLLMClusterSpec) -> Option<PodTemplateSpec> {
    pod::template(labels(name), spec).ok()
}
