//! Writes of whole VLLMClusters.
//!
//! Architecture invariant: reads at most the cluster's ScaledObject, and only before a refusal that rests on it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use webhook::review::{Operation, Request};

use crate::api::names::KEEP_LIVE_REPLICAS;
use crate::policy::cluster::{Spec, Write, check, default};
use crate::policy::{Clause, Outcome};
use crate::world::part::SpecPart;

use super::{Admission, Phase, Unjudged, add, part};

impl Admission {
    pub(super) async fn cluster(&self, phase: Phase, request: &Request<'_>) -> Result<Outcome, Unjudged> {
        let old = match request.operation {
            Operation::Create => None,
            Operation::Update => Some(part::<ClusterPart<'_>>(request.old_object, "oldObject")?),
            Operation::Delete | Operation::Connect if Clause::ClusterDeletion.in_force() => {
                return Ok(Outcome::default());
            }
            Operation::Delete | Operation::Connect => None,
        };
        // What does not parse here has a field of a wrong type: the schema refuses it, and names the field.
        let Ok(new) = part::<ClusterPart<'_>>(request.object, "object") else {
            return Ok(Outcome::default());
        };
        if new.metadata.deletion_timestamp.is_some() && Clause::DeletedCluster.in_force() {
            return Ok(Outcome::default());
        }
        let (namespace, name) = (&*request.namespace, &*request.name);
        let keep_live = new
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(KEEP_LIVE_REPLICAS))
            .is_some_and(|value| value == "true");
        let spec = new.spec.as_ref().map(Spec::from).unwrap_or_default();
        let old = old.map(|old| old.spec.as_ref().map(Spec::from).unwrap_or_default());
        let known = self.world.target(namespace, name);
        let mut outcome = self
            .with_fresh_scaler(namespace, name, known.scaler(), |scaler| {
                let write = Write { name, new: spec, old, keep_live, scaler };
                match phase {
                    Phase::Validating => check(&write),
                    Phase::Mutating => default_then_check(write),
                }
            })
            .await?;
        outcome.edits.extend(outcome.replicas.map(|replicas| match new.spec {
            Some(_) => add(&["spec", "replicas"], json!(replicas)),
            None => add(&["spec"], json!({ "replicas": replicas })),
        }));
        Ok(outcome)
    }
}

/// Fills in the count and judges the result, so that the sentence of a refusal comes before the schema's.
fn default_then_check(mut write: Write<'_>) -> Outcome {
    let Outcome { replicas, warnings, .. } = default(&write);
    write.new.replicas = replicas.or(write.new.replicas);
    // The validating webhook repeats the check's warnings; here they would be said twice.
    Outcome { warnings, replicas, ..check(&write) }
}

/// A `VLLMCluster` in a review, as far as the policy reads it.
#[derive(Deserialize)]
struct ClusterPart<'a> {
    #[serde(borrow)]
    metadata: ClusterMetadataPart<'a>,
    spec: Option<SpecPart>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterMetadataPart<'a> {
    #[serde(borrow)]
    annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}
