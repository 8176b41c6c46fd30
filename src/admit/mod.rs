//! An admission review in, an answer out.
//!
//! Read [`Admission::review`] first: it finds the rule by resource and subresource, gathers what the rule needs,
//! asks the policy and turns its outcome into a response.
//!
//! Architecture invariant: no rule stands here, and no HTTP. Live reads happen only where what is known may be
//! old, and before a refusal that rests on an object that is not written.

mod claim;
mod cluster;
mod external;
mod hpa;
mod repeats;
mod scale;
mod scaled_object;
mod workload;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use json_patch::{AddOperation, PatchOperation};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tracing::info;
use webhook::handler::Admit;
use webhook::response::{Cause, Denial, Response};
use webhook::review::{Operation, Request};

use crate::api::names::{GROUP, KEDA_GROUP, KIND, PLURAL};
use crate::api::object::{self, Object};
use crate::policy::{Basis, Clause, Finding, Mode, Name, Outcome, Scaler};
use crate::telemetry::{Answers, Metrics};
use crate::world::World;
use crate::world::live::{Live, LiveError};

pub use external::OwnScaler;
pub use repeats::Repeats;

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
    /// Whether pods may reach into the node they run on.
    pub host_access: bool,
    /// What becomes of a refusal, where the namespace says nothing else.
    pub mode: Mode,
    /// The operator's own scaler.
    pub scaler: OwnScaler,
    /// What was answered.
    pub metrics: Arc<Metrics>,
    /// What was refused lately.
    pub repeats: Repeats,
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

/// How many bytes of a refusal are logged. An object has room for findings of many megabytes.
const LOGGED: usize = 4096;

/// How long a client waits that is refused because too much is read: the rate allows a good deal more by then.
const RETRY_AFTER_SECONDS: u16 = 1;

/// How long each live read may take: less than half of the webhook's `timeoutSeconds`, so that two in a row, of which no
/// review needs more, leave time to answer.
fn budget(request: &Request<'_>) -> Duration {
    match (&*request.resource.group, &*request.sub_resource) {
        (GROUP, "scale") | ("autoscaling", _) => Duration::from_millis(900),
        _ => Duration::from_secs(2),
    }
}

/// A review that no rule can judge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unjudged {
    /// What the rule needs could not be read.
    #[error("{0}; try again")]
    Live(#[from] LiveError),
    /// No rule is for this resource.
    #[error(
        "this webhook judges {PLURAL}.{GROUP}, their scale, and what drives it, not {0}; correct the rules of the webhook configuration"
    )]
    Resource(String),
    /// A part that the rule needs is missing.
    #[error("the review has no {0}, or one that is no object of the API; is this the API server?")]
    Object(&'static str),
}

impl Unjudged {
    /// Its kinds, as a metric tells them.
    pub const REASONS: [&'static str; 4] =
        ["too-many-live-reads", "live-read", "unknown-resource", "unreadable-review"];

    /// Which of [`Self::REASONS`] it is.
    fn reason(&self) -> &'static str {
        let [limited, live, resource, object] = Self::REASONS;
        match self {
            Self::Live(LiveError::Rate(_)) => limited,
            Self::Live(_) => live,
            Self::Resource(_) => resource,
            Self::Object(_) => object,
        }
    }
}

impl Admission {
    /// Answers one review. Never refuses what it cannot read for its own lack: such a review fails with 500.
    pub async fn review(&self, phase: Phase, request: &Request<'_>) -> Response {
        let begun = Instant::now();
        let resource = &request.resource;
        let answers = match (&*resource.group, &*resource.resource, &*request.sub_resource) {
            (GROUP, PLURAL, "scale") => &self.metrics.admission.scale,
            (KEDA_GROUP, "scaledobjects", "") => &self.metrics.admission.scaled_object,
            ("autoscaling", "horizontalpodautoscalers", "") => &self.metrics.admission.hpa,
            _ => &self.metrics.admission.cluster,
        };
        let of_namespace = self.world.mode(&request.namespace).filter(|_| Clause::ModeOfNamespace.in_force());
        let mode = of_namespace.unwrap_or(self.mode);
        let judged = self.judge(phase, request).await;
        let response = respond(phase, request, answers, &self.repeats, mode, judged);
        answers.took(phase).observe(begun.elapsed().as_secs_f64());
        response
    }

    /// What the policy says of one write, before the mode and the form of an answer.
    pub async fn judge(&self, phase: Phase, request: &Request<'_>) -> Result<Outcome, Unjudged> {
        let resource = &request.resource;
        match (&*resource.group, &*resource.resource, &*request.sub_resource) {
            (GROUP, PLURAL, "scale") => match request.operation {
                Operation::Create | Operation::Update => self.scale(phase, request).await,
                // Neither states a count.
                Operation::Delete | Operation::Connect => Ok(Outcome::default()),
            },
            (GROUP, PLURAL, "") => self.cluster(phase, request).await,
            (KEDA_GROUP, "scaledobjects", "") => self.scaled_object(phase, request).await,
            ("autoscaling", "horizontalpodautoscalers", "") => self.hpa(request).await,
            (group, plural, sub) => Err(Unjudged::Resource(format!(
                "{plural}{}{sub} of {group:?}",
                if sub.is_empty() { "" } else { "/" }
            ))),
        }
    }

    /// Asks the policy with the ScaledObject that is known; if the answer is a refusal that rests on it, reads
    /// it live and asks again.
    async fn with_fresh_scaler(
        &self,
        request: &Request<'_>,
        cluster: &str,
        known: Option<&Scaler>,
        ask: impl Fn(Option<&Scaler>) -> Outcome,
    ) -> Result<Outcome, LiveError> {
        let outcome = ask(known);
        let rests = outcome.rests_on().any(|basis| basis == Basis::Scaler);
        let reads = rests && Clause::FreshScaler.in_force();
        let Some(scaler) = known.filter(|_| reads) else { return Ok(outcome) };
        let fresh = self.live.scaler(&request.namespace, &scaler.name, budget(request)).await?;
        let fresh = fresh.and_then(|fresh| fresh.driver_of(cluster));
        Ok(if fresh.as_ref() == Some(scaler) { outcome } else { ask(fresh.as_ref()) })
    }
}

fn respond(
    phase: Phase,
    request: &Request<'_>,
    answers: &Answers,
    repeats: &Repeats,
    mode: Mode,
    judged: Result<Outcome, Unjudged>,
) -> Response {
    let mut outcome = match judged {
        Ok(outcome) => outcome,
        Err(error) => {
            answers.failed(phase, error.reason()).inc();
            return match error {
                Unjudged::Live(LiveError::Rate(_)) => Response::busy(error.to_string(), RETRY_AFTER_SECONDS),
                Unjudged::Live(_) | Unjudged::Resource(_) | Unjudged::Object(_) => {
                    Response::error(error.to_string())
                }
            };
        }
    };
    if mode == Mode::Warn && Clause::ModeWarn.in_force() {
        let refusals = std::mem::take(&mut outcome.refusals);
        if phase == Phase::Validating {
            // The mutating webhook has found the same; said by both, it would be said twice.
            outcome.warnings.splice(..0, refusals);
        }
    }
    if !outcome.allowed() && Clause::NothingStored.in_force() {
        outcome.warnings.retain(|warning| !warning.rule.tells_of_a_change());
    }
    let warnings = std::mem::take(&mut outcome.warnings).into_iter().map(Finding::into_sentence);
    if !outcome.allowed() {
        // There is one, or it were allowed.
        let rule = outcome.refusals.first().map_or("", |finding| finding.rule.as_str());
        answers.denied(phase, rule).inc();
        // Of a name that the API server generates, the request tells nothing; the object does.
        let metadata = match &*request.name {
            "" => part::<Named<'_>>(request.object, "object").unwrap_or_default().metadata,
            name => NamedMetadata { name: name.into(), ..NamedMetadata::default() },
        };
        let name = &*metadata.name;
        let called = Name::new(name, &metadata.generate_name);
        // Of a subresource, the object that it belongs to.
        let (group, kind) = match &*request.sub_resource {
            "" => (&*request.kind.group, &*request.kind.kind),
            _ => (GROUP, KIND),
        };
        let findings = outcome.message();
        let (namespace, user) = (&*request.namespace, &*request.user.username);
        let findings_told = &findings[..findings.floor_char_boundary(LOGGED)];
        if let Some(repeated) = repeats.tell([namespace, name, user, findings_told], Instant::now()) {
            info!(namespace, name, kind, user, repeated, findings = findings_told, "refused");
        }
        return Response::deny(Denial {
            // `kubectl` prints it before the causes: what a name begins with is better than none.
            name: if name.is_empty() { metadata.generate_name.to_string() } else { name.to_owned() },
            group: group.to_owned(),
            kind: kind.to_owned(),
            message: format!("{kind} {called}: {findings}"),
            causes: outcome
                .refusals
                .iter()
                .map(|finding| Cause::new(finding.field.as_ref(), finding.message.clone()))
                .collect(),
        })
        .warnings(warnings);
    }
    answers.allowed(phase).inc();
    let mut response = Response::allow().warnings(warnings);
    if let (Some(from), Some(to)) = (outcome.clamped_from, outcome.replicas) {
        response = response.audit_annotation("scale-clamped", format!("from {from} to {to}"));
    }
    response.patch(&outcome.edits)
}

/// The name of any object, or what it will begin with.
#[derive(Default, Deserialize)]
struct Named<'a> {
    #[serde(default, borrow, deserialize_with = "object::required")]
    metadata: NamedMetadata<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedMetadata<'a> {
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow)]
    generate_name: Cow<'a, str>,
}

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: json_patch::jsonptr::PointerBuf::from_tokens(path.iter().copied()),
        value,
    })
}

fn part<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>, field: &'static str) -> Result<T, Unjudged> {
    let read = raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
    read.map(|Object(part)| part).ok_or(Unjudged::Object(field))
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
pub(crate) mod harness;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod rows;
#[cfg(test)]
pub(crate) mod schema;
#[cfg(test)]
mod tests;
