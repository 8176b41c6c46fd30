//! Status: from what was applied, what to report.
//!
//! Architecture invariant: a plain function; time is an argument and shows only where a condition turned, so that
//! an unchanged cluster has an unchanged status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use crate::api::names::{
    CONDITION_READY, CONDITION_RECONCILING, CONDITION_SCALING_CONFLICT, CONDITION_STALLED, selector,
};
use crate::api::workload::UpdateType;
use crate::api::{AutoscalingStatus, VLLMClusterStatus, reasons};
use crate::objects::ValidatedCluster;
use crate::objects::arguments::port;

use super::apply::{Applied, Outcome};
use super::difference::states_all;
use super::pods::Cause;
use super::{Kind, shortened};

/// Longest message of a condition, in characters. Kubernetes' convention allows 32,768; nobody reads as much, and
/// a status too large for etcd would be no status.
const MAX_MESSAGE: usize = 4096;

/// What is said of a rollout that nobody but a person carries on.
const BY_HAND: &str = "; with the update strategy OnDelete, pods change when they are deleted";

/// What drives the count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drivers {
    /// What does not fit between them and the cluster, in admission's own sentences.
    pub conflicts: Vec<String>,
    /// The one in charge.
    pub autoscaling: Option<AutoscalingStatus>,
}

/// A condition before it is known when it turned.
struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// What is read of a live StatefulSet.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    replicas: i32,
    ready: i32,
    updated: i32,
    /// The StatefulSet controller has seen the spec that we applied.
    taken: bool,
    /// No older revision is left.
    rolled: bool,
}

impl Counts {
    fn of(set: &Value) -> Self {
        let status = &set["status"];
        let count =
            |field: &str| status[field].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or_default();
        let generation = set["metadata"]["generation"].as_i64().unwrap_or_default();
        Self {
            replicas: count("replicas"),
            ready: count("readyReplicas"),
            updated: count("updatedReplicas"),
            taken: status["observedGeneration"].as_i64().is_some_and(|observed| observed >= generation),
            rolled: status["currentRevision"] == status["updateRevision"],
        }
    }

    /// Ready pods that surely run the newest revision. The StatefulSet does not say which of its pods are ready, so
    /// while two revisions are about, every older pod is taken for a ready one.
    fn ready_and_updated(&self) -> i32 {
        let older = if self.rolled { 0 } else { (self.replicas - self.updated).max(0) };
        (self.ready - older).max(0)
    }
}

/// Our StatefulSet, as far as it is known.
#[derive(Clone, Copy, Debug)]
struct Known {
    counts: Counts,
    /// Its pods were of the current spec before this reconciliation already: what it changes is the count at most.
    same_pods: bool,
    /// It states the current spec; otherwise writing that has failed.
    written: bool,
}

impl Known {
    fn of(cluster: &ValidatedCluster, applied: &Applied) -> Option<Self> {
        let before = applied.set_before.as_ref();
        match &applied.outcomes[Kind::StatefulSet.index()] {
            Outcome::Done(live) => Some(Self {
                counts: Counts::of(live),
                same_pods: before.is_none_or(|before| before["spec"]["template"] == live["spec"]["template"]),
                written: true,
            }),
            Outcome::Failed(_) => before.map(|before| Self {
                counts: Counts::of(before),
                same_pods: states_all(&template(cluster), &before["spec"]["template"]),
                written: false,
            }),
            // What is not ours, or goes, says nothing of the current spec.
            Outcome::Absent | Outcome::Waiting | Outcome::Foreign(_) => None,
        }
    }
}

/// The pod template that the cluster's spec asks for.
fn template(cluster: &ValidatedCluster) -> Value {
    // The API's own types have string keys only.
    serde_json::to_value(&cluster.template).expect("a pod template has a JSON form")
}

/// The status of a cluster after its objects were applied.
pub fn status(
    cluster: &ValidatedCluster,
    before: &VLLMClusterStatus,
    applied: &Applied,
    drivers: &Drivers,
    now: Timestamp,
) -> VLLMClusterStatus {
    let set = Known::of(cluster, applied);
    let verdicts = [
        ready(cluster, set, before, applied),
        reconciling(cluster, set, applied),
        stalled(applied),
        scaling_conflict(&drivers.conflicts),
    ];
    // Counts stay as last seen while the StatefulSet cannot be seen: an HPA divides by them.
    let counts = set.map_or([before.replicas, before.ready_replicas, before.updated_replicas], |set| {
        [set.counts.replicas, set.counts.ready, set.counts.updated]
    });
    let [replicas, ready_replicas, updated_replicas] = counts;
    VLLMClusterStatus {
        replicas,
        ready_replicas,
        updated_replicas,
        endpoint: Some(format!("{}.{}.svc:{}", cluster.name, cluster.namespace, port(&cluster.spec))),
        autoscaling: drivers.autoscaling.clone(),
        selector: selector(&cluster.name),
        stateful_set_name: set.map(|_| cluster.name.clone()).or_else(|| before.stateful_set_name.clone()),
        observed_generation: Some(cluster.generation),
        conditions: conditions(&before.conditions, &verdicts, cluster.generation, now),
    }
}

/// The status of a cluster from which no objects can be built.
pub fn unbuildable(
    name: &str,
    generation: i64,
    before: &VLLMClusterStatus,
    why: &str,
    now: Timestamp,
) -> VLLMClusterStatus {
    let verdict =
        |kind, holds| Verdict { kind, holds, reason: reasons::INVALID_SPEC, message: why.to_owned() };
    let verdicts = [
        verdict(CONDITION_READY, false),
        verdict(CONDITION_RECONCILING, false),
        verdict(CONDITION_STALLED, true),
        scaling_conflict(&[]),
    ];
    VLLMClusterStatus {
        selector: selector(name),
        observed_generation: Some(generation),
        conditions: conditions(&before.conditions, &verdicts, generation, now),
        ..before.clone()
    }
}

/// A patch of what differs; `None` if nothing does. A cluster that has no status yet gets all of it, zeros too.
pub fn patch(before: Option<&VLLMClusterStatus>, after: &VLLMClusterStatus) -> Option<Value> {
    if before == Some(after) {
        return None;
    }
    // Both have string keys only.
    let before = serde_json::to_value(before).expect("a status has a JSON form");
    let mut after = serde_json::to_value(after).expect("a status has a JSON form");
    if let Some(fields) = after.as_object_mut() {
        // A merge patch removes what it states as null.
        for gone in before.as_object().into_iter().flatten().map(|(name, _)| name) {
            fields.entry(gone.clone()).or_insert(Value::Null);
        }
        fields.retain(|name, value| before.get(name) != Some(value));
    }
    Some(json!({ "status": after }))
}

fn ready(
    cluster: &ValidatedCluster,
    set: Option<Known>,
    before: &VLLMClusterStatus,
    applied: &Applied,
) -> Verdict {
    let needed = cluster.spec.min_replicas.unwrap_or(1).max(1);
    let was_ready = before
        .conditions
        .iter()
        .any(|condition| condition.type_ == CONDITION_READY && condition.status == "True");
    let verdict = |holds, reason, message| Verdict { kind: CONDITION_READY, holds, reason, message };
    let Some(Known { counts, same_pods, written }) = set else {
        // An API server that is away for a moment says nothing of servers that it does not carry.
        let unseen = matches!(&applied.outcomes[Kind::StatefulSet.index()], Outcome::Failed(error) if !error.is_final());
        let holds = unseen && was_ready && before.observed_generation == Some(cluster.generation);
        let reason = if holds { reasons::ENOUGH_REPLICAS } else { reasons::NOT_ENOUGH_REPLICAS };
        return verdict(
            holds,
            reason,
            format!("the StatefulSet is not there or cannot be seen; {needed} ready replicas are needed"),
        );
    };
    // The moment between a growth and the StatefulSet controller's look at it must not un-ready what serves; new
    // pods are another matter.
    let taken = written && counts.taken || was_ready && same_pods;
    let seen = format!("{} of {} replicas are ready; {needed} are needed", counts.ready, cluster.replicas);
    if counts.ready < needed {
        match &applied.cause {
            Some(Cause { reason, message }) => verdict(false, reason.as_str(), format!("{seen}; {message}")),
            None => verdict(false, reasons::NOT_ENOUGH_REPLICAS, seen),
        }
    } else if !taken {
        verdict(
            false,
            reasons::SPEC_NOT_TAKEN,
            format!("{seen}, and the current spec has not reached the pods"),
        )
    } else if counts.ready_and_updated() < needed {
        let updated = counts.ready_and_updated();
        let by_hand = if changes_by_hand(cluster) { BY_HAND } else { "" };
        verdict(
            false,
            reasons::ROLLING_OUT,
            format!("{seen}, and {updated} surely run the current spec{by_hand}"),
        )
    } else {
        verdict(true, reasons::ENOUGH_REPLICAS, seen)
    }
}

/// Whether pods are left as they are until somebody deletes them.
fn changes_by_hand(cluster: &ValidatedCluster) -> bool {
    let strategy = cluster.spec.update_strategy.as_ref();
    strategy.is_some_and(|strategy| strategy.type_ == Some(UpdateType::OnDelete))
}

fn reconciling(cluster: &ValidatedCluster, set: Option<Known>, applied: &Applied) -> Verdict {
    let failures: Vec<_> = applied.outcomes.iter().filter_map(Outcome::failure).collect();
    let (refused, failures): (Vec<_>, Vec<_>) = failures.into_iter().partition(|error| error.is_final());
    let failures: Vec<_> = failures.into_iter().map(ToString::to_string).collect();
    let waiting = applied.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Waiting));
    let stalled =
        !refused.is_empty() || applied.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Foreign(_)));
    let wanted = cluster.replicas;
    let because = |seen: String| match &applied.cause {
        Some(cause) => format!("{seen}; {}", cause.message),
        None => seen,
    };
    let (holds, reason, message) = match set.filter(|set| set.written).map(|set| set.counts) {
        _ if !failures.is_empty() => (true, reasons::RETRYING, failures.join("; ")),
        _ if waiting => {
            (true, reasons::WAITING, "an older object of the same name is still being deleted".into())
        }
        None => (false, reasons::STALLED, "see the condition Stalled".into()),
        Some(set) if !set.taken => {
            (true, reasons::PROGRESSING, "the StatefulSet controller has not seen the spec yet".into())
        }
        Some(set) if set.replicas != wanted => {
            (true, reasons::SCALING, because(format!("{} pods exist, {wanted} are wanted", set.replicas)))
        }
        Some(set) if !set.rolled || set.updated != wanted => (
            true,
            reasons::ROLLING_OUT,
            because(format!("{} of {wanted} pods run the current spec", set.updated)),
        ),
        Some(set) if set.ready != wanted => {
            (true, reasons::STARTING, because(format!("{} of {wanted} pods are ready", set.ready)))
        }
        Some(_) if stalled => (false, reasons::STALLED, "see the condition Stalled".into()),
        Some(_) => (false, reasons::UP_TO_DATE, format!("{wanted} pods run the current spec and are ready")),
    };
    Verdict { kind: CONDITION_RECONCILING, holds, reason, message }
}

fn stalled(applied: &Applied) -> Verdict {
    let problems: Vec<_> = applied
        .outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Foreign(sentence) => Some((reasons::NAME_TAKEN, sentence.clone())),
            Outcome::Failed(error) if error.is_final() => Some((reasons::REFUSED, error.to_string())),
            Outcome::Done(_) | Outcome::Absent | Outcome::Waiting | Outcome::Failed(_) => None,
        })
        .collect();
    let messages: Vec<_> = problems.iter().map(|(_, message)| message.as_str()).collect();
    match problems.first() {
        Some((reason, _)) => {
            Verdict { kind: CONDITION_STALLED, holds: true, reason, message: messages.join("; ") }
        }
        None => Verdict {
            kind: CONDITION_STALLED,
            holds: false,
            reason: reasons::NOTHING_IN_THE_WAY,
            message: "nothing needs a person".into(),
        },
    }
}

/// What slipped past admission, in its own sentences.
fn scaling_conflict(conflicts: &[String]) -> Verdict {
    let holds = !conflicts.is_empty();
    Verdict {
        kind: CONDITION_SCALING_CONFLICT,
        holds,
        reason: if holds { reasons::DOES_NOT_FIT } else { reasons::CONSISTENT },
        message: if holds {
            conflicts.join("; ")
        } else {
            "the bounds and what drives the count fit together".into()
        },
    }
}

/// Ours in a fixed order, behind those that others have put there.
fn conditions(
    before: &[Condition],
    verdicts: &[Verdict; 4],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let others =
        before.iter().filter(|condition| verdicts.iter().all(|verdict| verdict.kind != condition.type_));
    let ours = verdicts.iter().map(|Verdict { kind, holds, reason, message }| {
        let status = if *holds { "True" } else { "False" };
        let same = before.iter().find(|condition| condition.type_ == *kind && condition.status == status);
        Condition {
            type_: (*kind).to_owned(),
            status: status.to_owned(),
            reason: (*reason).to_owned(),
            message: shortened(message.clone(), MAX_MESSAGE),
            observed_generation: Some(generation),
            last_transition_time: same.map_or(Time(now), |condition| condition.last_transition_time.clone()),
        }
    });
    others.cloned().chain(ours).collect()
}

#[cfg(test)]
mod tests;
