//! Writes of whole VLLMClusters.
//!
//! Architecture invariant: reads at most the cluster's ScaledObject and what has the name of its Services, and only
//! before a refusal that rests on it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::json;
use webhook::review::{Operation, Request};

use crate::api::count::Count;
use crate::api::names::KEEP_LIVE_REPLICAS;
use crate::api::object;
use crate::policy::cluster::{Spec, Write, check, default, rivals_for_services};
use crate::policy::{Bounds, Clause, Name, Outcome};
use crate::world::live::LiveError;

use super::{Admission, Phase, Unjudged, add, budget, part};

impl Admission {
    pub(super) async fn cluster(&self, phase: Phase, request: &Request<'_>) -> Result<Outcome, Unjudged> {
        let old = match request.operation {
            Operation::Delete | Operation::Connect if Clause::ClusterDeletion.in_force() => {
                return Ok(Outcome::default());
            }
            // Of an old object that cannot be read nothing is known: it excuses nothing, and has no count to keep.
            Operation::Update => Some(part::<ClusterPart<'_>>(request.old_object, "oldObject").ok()),
            Operation::Create | Operation::Delete | Operation::Connect => None,
        };
        // What does not parse here is no object, or has no object for a spec: the schema refuses it, and says so.
        let Ok(new) = part::<ClusterPart<'_>>(request.object, "object") else {
            return Ok(Outcome::default());
        };
        // A PUT from a manifest has no deletion timestamp yet when the mutating webhook is asked.
        let deleting = [Some(&new), old.as_ref().and_then(Option::as_ref)]
            .iter()
            .flatten()
            .any(|of| of.metadata.deletion_timestamp.is_some());
        if deleting && Clause::DeletedCluster.in_force() {
            return Ok(Outcome::default());
        }
        let namespace = &*request.namespace;
        // Of a name that the API server generates, the request tells nothing; the object does, once it has it.
        let name = if request.name.is_empty() { &*new.metadata.name } else { &*request.name };
        let called = Name::new(name, &new.metadata.generate_name);
        let keep_live = new
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(KEEP_LIVE_REPLICAS))
            .is_some_and(|value| value == "true");
        let spec = new.spec.as_ref().map(Spec::from).unwrap_or_default();
        let unreadable = new.spec.as_ref().is_some_and(|spec| spec.replicas == Count::Unreadable);
        let neighbours = if old.is_none() { self.neighbours(request, name).await? } else { Vec::new() };
        let unknown = old.as_ref().is_some_and(Option::is_none);
        let old = old.map(|old| old.and_then(|old| old.spec.as_ref().map(Spec::from)).unwrap_or_default());
        let known = self.world.target(namespace, name);
        let mut outcome = self
            .with_fresh_scaler(request, name, known.scaler(), |scaler| {
                let write =
                    Write { name: called, new: spec, old, keep_live, scaler, neighbours: &neighbours };
                match phase {
                    Phase::Mutating if unreadable => {
                        // A count that is no number is the schema's to refuse, and not to be replaced before.
                        Outcome { warnings: Vec::new(), ..check(&write) }
                    }
                    Phase::Mutating => default_then_check(write),
                    Phase::Validating => check(&write),
                }
            })
            .await?;
        if unknown {
            // To fill in a count that may be another than the live one would be worse than the schema's refusal.
            outcome.replicas = None;
        }
        outcome.edits.extend(outcome.replicas.map(|replicas| match new.spec {
            Some(_) => add(&["spec", "replicas"], json!(replicas)),
            None => add(&["spec"], json!({ "replicas": replicas })),
        }));
        // Boxed: it holds whole specs, which the answers to other writes need no room for.
        Box::pin(self.workload(phase, request, name, &mut outcome)).await?;
        Ok(outcome)
    }

    /// The clusters that a new one would share a Service with.
    async fn neighbours(&self, request: &Request<'_>, name: &str) -> Result<Vec<String>, LiveError> {
        if name.is_empty() {
            return Ok(Vec::new());
        }
        let namespace = &*request.namespace;
        let neighbours = rivals_for_services(name).map(|rival| async {
            let known = self.world.target(namespace, &rival).cluster.is_some();
            let there = known
                && (!Clause::FreshNeighbour.in_force()
                    || self.live.cluster(namespace, &rival, budget(request)).await?.is_some());
            Ok(there.then_some(rival))
        });
        // At the same time, so that the webhook waits for one read.
        Ok(try_join_all(neighbours).await?.into_iter().flatten().collect())
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
    #[serde(borrow, deserialize_with = "object::required")]
    metadata: ClusterMetadataPart<'a>,
    #[serde(default, deserialize_with = "object::optional")]
    spec: Option<SpecPart>,
}

/// The counts, whatever stands there: what is no number keeps nothing else from being filled in and judged.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecPart {
    #[serde(default)]
    replicas: Count,
    #[serde(default)]
    min_replicas: Count,
    #[serde(default)]
    max_replicas: Count,
}

impl From<&SpecPart> for Spec {
    fn from(SpecPart { replicas, min_replicas, max_replicas }: &SpecPart) -> Self {
        let bounds = Bounds { min: min_replicas.whole(), max: max_replicas.whole() };
        Self { replicas: replicas.whole(), bounds }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterMetadataPart<'a> {
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow)]
    generate_name: Cow<'a, str>,
    #[serde(borrow)]
    annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}
