//! An admission review in, an answer out.
//!
//! Read [`Admission::review`] first: it finds the rule by resource and subresource, gathers what the rule needs,
//! asks the policy and turns its outcome into a response.
//!
//! Architecture invariant: no rule stands here, and no HTTP. Live reads happen only where what is known may be
//! old, and before a refusal that rests on a ScaledObject.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use json_patch::{AddOperation, PatchOperation};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tracing::info;
use webhook::handler::Admit;
use webhook::review::{Cause, Denial, Operation, Request, Response};

use crate::api::names::{GROUP, KEEP_LIVE_REPLICAS, KIND, PLURAL};
use crate::policy::cluster::{Spec, Write, check, default};
use crate::policy::scale::{Count, decide};
use crate::policy::{Outcome, Scaler, Writer};
use crate::telemetry::{Answers, Metrics};
use crate::world::live::{Live, LiveError};
use crate::world::part::SpecPart;
use crate::world::{Cluster, Target, World};

/// Which of the two webhooks of a resource is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// May change the object; runs before the schema.
    Mutating,
    /// Sees what will be stored.
    Validating,
}

/// Answers admission reviews.
pub struct Admission {
    /// What is known.
    pub world: Arc<World>,
    /// For what may be known too late.
    pub live: Live,
    /// User names that scale on behalf of an autoscaler.
    pub autoscalers: HashSet<String>,
    /// What was answered.
    pub metrics: Arc<Metrics>,
}

/// One of the two webhooks, as a route serves it.
pub struct Endpoint {
    /// Who answers.
    pub admission: Arc<Admission>,
    /// Which of the two it is.
    pub phase: Phase,
}

impl Admit for Endpoint {
    async fn admit(&self, request: &Request<'_>) -> Response {
        self.admission.review(self.phase, request).await
    }
}

/// A review that no rule can judge.
#[derive(Debug, thiserror::Error)]
enum Unjudged {
    #[error("{0}; try again")]
    Live(#[from] LiveError),
    #[error(
        "this webhook judges {PLURAL}.{GROUP} and their scale, not {0}; correct the rules of the webhook configuration"
    )]
    Resource(String),
    #[error("the review has no {0}, or one that is no object of the API; is this the API server?")]
    Object(&'static str),
}

/// What the policy said, and how to patch the object accordingly.
struct Judged {
    outcome: Outcome,
    patch: Option<PatchOperation>,
}

impl From<Outcome> for Judged {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, patch: None }
    }
}

impl Admission {
    /// Answers one review. Never refuses what it cannot read for its own lack: such a review fails with 500.
    pub async fn review(&self, phase: Phase, request: &Request<'_>) -> Response {
        let resource = &request.resource;
        let (answers, judged) = match (&*resource.group, &*resource.resource, &*request.sub_resource) {
            (GROUP, PLURAL, "scale") => (&self.metrics.scale, self.scale(phase, request).await),
            (GROUP, PLURAL, "") => (&self.metrics.cluster, self.cluster(phase, request).await),
            (group, plural, sub) => (
                &self.metrics.cluster,
                Err(Unjudged::Resource(format!(
                    "{plural}{}{sub} of {group:?}",
                    if sub.is_empty() { "" } else { "/" }
                ))),
            ),
        };
        respond(request, answers, judged)
    }

    async fn scale(&self, phase: Phase, request: &Request<'_>) -> Result<Judged, Unjudged> {
        let (namespace, name) = (&*request.namespace, &*request.name);
        let new: ScalePart<'_> = part(request.object, "object")?;
        let old: ScalePart<'_> = part(request.old_object, "oldObject")?;
        let known = self.world.target(namespace, name);
        let Some(cluster) = self.parent(namespace, name, &old.metadata.resource_version, &known).await?
        else {
            // The write itself will find nothing to scale.
            return Ok(Outcome::default().into());
        };
        if cluster.deleting {
            return Ok(Outcome::default().into());
        }
        let writer = if self.autoscalers.contains(&*request.user.username) {
            Writer::Autoscaler
        } else {
            Writer::Person
        };
        if (phase, writer) == (Phase::Validating, Writer::Autoscaler) {
            // Its count was moved to a bound before the schema; there is nothing left to move.
            return Ok(Outcome::default().into());
        }
        let mut outcome = self
            .with_fresh_scaler(namespace, name, known.scaler(), |scaler| {
                let (old, new) = (Some(old.spec.replicas), new.spec.replicas);
                decide(Count { name, old, new, bounds: cluster.bounds, scaler }, writer)
            })
            .await?;
        if (phase, writer) == (Phase::Mutating, Writer::Person) && outcome.allowed() {
            // The validating webhook says the same; here it would be said twice.
            outcome.warnings.clear();
        }
        if let (Some(from), Some(to)) = (outcome.clamped_from, outcome.replicas) {
            self.metrics.clamped.inc();
            info!(
                namespace,
                name,
                from,
                to,
                user = &*request.user.username,
                "an autoscaler's count was moved to the nearest bound"
            );
        }
        let patch = outcome.replicas.map(|replicas| add(&["spec", "replicas"], json!(replicas)));
        Ok(Judged { outcome, patch })
    }

    /// The cluster of a scale write, as it was just before: what is known if it is of the review's
    /// resourceVersion, or else what a live read finds.
    async fn parent(
        &self,
        namespace: &str,
        name: &str,
        resource_version: &str,
        known: &Target,
    ) -> Result<Option<Cluster>, Unjudged> {
        if let Some(cluster) =
            known.cluster.as_ref().filter(|known| known.resource_version == resource_version)
        {
            return Ok(Some(cluster.clone()));
        }
        self.metrics.live_reads.inc();
        Ok(self.live.cluster(namespace, name).await?)
    }

    async fn cluster(&self, phase: Phase, request: &Request<'_>) -> Result<Judged, Unjudged> {
        let old = match request.operation {
            Operation::Create => None,
            Operation::Update => Some(part::<ClusterPart<'_>>(request.old_object, "oldObject")?),
            Operation::Delete | Operation::Connect => return Ok(Outcome::default().into()),
        };
        // What does not parse here has a field of a wrong type: the schema refuses it, and names the field.
        let Ok(new) = part::<ClusterPart<'_>>(request.object, "object") else {
            return Ok(Outcome::default().into());
        };
        if new.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::default().into());
        }
        let (namespace, name) = (&*request.namespace, &*request.name);
        let keep_live = new
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(KEEP_LIVE_REPLICAS))
            .is_some_and(|value| value == "true");
        let spec: Spec = new.spec.unwrap_or_default().into();
        let old = old.map(|old| Spec::from(old.spec.unwrap_or_default()));
        let known = self.world.target(namespace, name);
        let outcome = self
            .with_fresh_scaler(namespace, name, known.scaler(), |scaler| {
                let write = Write { name, new: spec, old, keep_live, scaler };
                match phase {
                    Phase::Validating => check(&write),
                    Phase::Mutating => default_then_check(write),
                }
            })
            .await?;
        let patch = outcome.replicas.map(|replicas| match new.spec {
            Some(_) => add(&["spec", "replicas"], json!(replicas)),
            None => add(&["spec"], json!({ "replicas": replicas })),
        });
        Ok(Judged { outcome, patch })
    }

    /// Asks the policy with the ScaledObject that is known; if the answer is a refusal that rests on it, reads
    /// it live and asks again.
    async fn with_fresh_scaler(
        &self,
        namespace: &str,
        cluster: &str,
        known: Option<&Scaler>,
        ask: impl Fn(Option<&Scaler>) -> Outcome,
    ) -> Result<Outcome, LiveError> {
        let outcome = ask(known);
        let Some(scaler) = known.filter(|_| outcome.rests_on_scaler()) else { return Ok(outcome) };
        self.metrics.live_reads.inc();
        let fresh = self.live.scaler(namespace, &scaler.name).await?;
        let fresh = fresh.filter(|fresh| fresh.cluster == cluster).map(|fresh| fresh.scaler);
        Ok(if fresh.as_ref() == Some(scaler) { outcome } else { ask(fresh.as_ref()) })
    }
}

/// Fills in the count and judges the result, so that the sentence of a refusal comes before the schema's.
fn default_then_check(mut write: Write<'_>) -> Outcome {
    let Outcome { replicas, warnings, .. } = default(&write);
    write.new.replicas = replicas.or(write.new.replicas);
    // The validating webhook repeats the check's warnings; here they would be said twice.
    Outcome { warnings, replicas, ..check(&write) }
}

fn respond(request: &Request<'_>, answers: &Answers, judged: Result<Judged, Unjudged>) -> Response {
    let Judged { outcome, patch } = match judged {
        Ok(judged) => judged,
        Err(error) => {
            answers.failed.inc();
            return Response::error(error.to_string());
        }
    };
    if !outcome.allowed() {
        answers.denied.inc();
        let name = &*request.name;
        info!(
            namespace = &*request.namespace,
            name,
            user = &*request.user.username,
            findings = outcome.message(),
            "refused"
        );
        return Response::deny(Denial {
            name: name.to_owned(),
            group: GROUP.to_owned(),
            kind: KIND.to_owned(),
            message: format!("{KIND} {name:?}: {}", outcome.message()),
            causes: outcome
                .refusals
                .iter()
                .map(|finding| Cause::new(finding.field.as_ref(), finding.message.clone()))
                .collect(),
        })
        .warnings(outcome.warnings);
    }
    answers.allowed.inc();
    let mut response = Response::allow().warnings(outcome.warnings);
    if let (Some(from), Some(to)) = (outcome.clamped_from, outcome.replicas) {
        response = response.audit_annotation("scale-clamped", format!("from {from} to {to}"));
    }
    match patch {
        Some(operation) => response.patch(&[operation]),
        None => response,
    }
}

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: json_patch::jsonptr::PointerBuf::from_tokens(path.iter().copied()),
        value,
    })
}

fn part<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>, field: &'static str) -> Result<T, Unjudged> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).ok_or(Unjudged::Object(field))
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

/// An `autoscaling/v1` `Scale` in a review. Its resourceVersion is the cluster's.
#[derive(Deserialize)]
struct ScalePart<'a> {
    #[serde(borrow)]
    metadata: ScaleMetadataPart<'a>,
    #[serde(default)]
    spec: ScaleSpecPart,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaleMetadataPart<'a> {
    #[serde(default, borrow)]
    resource_version: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
struct ScaleSpecPart {
    /// The API server leaves a zero out.
    #[serde(default)]
    replicas: i32,
}

#[cfg(test)]
mod tests;
