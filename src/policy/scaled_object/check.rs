//! What is wrong with a `ScaledObject` that scales a `VLLMCluster`.
//!
//! Architecture invariant: each clause is a function of one object and of what is known, and appends violations;
//! only [`check`] knows that there was an object before.

use std::collections::HashMap;

use crate::api::names::{KIND, MAX_REPLICAS, PAUSED, PAUSED_REPLICAS, TRANSFER_HPA};
use crate::policy::bounds::OF_SCALED_OBJECT;
use crate::policy::hpa::kedas_name;
use crate::policy::{Bounds, Clause, Finding, Outcome, Rule, Scaler};

use super::triggers::judge_triggers;
use super::view::{Fallback, Spec};
use super::{Cluster, Known, ScaledObject, Write};

/// Longest label value, and longest name of an HPA that KEDA accepts.
const MAX_LABEL: usize = 63;
/// What KEDA takes for an absent `maxReplicaCount`.
const KEDA_MAX: i32 = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    rule: Rule,
    /// JSON path of the field; of a trigger's field, below the trigger.
    field: String,
    /// Which trigger.
    trigger: Option<usize>,
    /// The sentence.
    message: String,
}

impl Violation {
    /// Of a field of the object.
    pub(super) fn new(rule: Rule, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { rule, field: field.into(), trigger: None, message: message.into() }
    }

    /// Of a field of a trigger, such as `metadata.query`.
    pub(super) fn of_trigger(
        rule: Rule,
        index: usize,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { trigger: Some(index), ..Self::new(rule, field, message) }
    }

    /// What makes it the same as an older object's. A trigger may have moved in the list.
    fn fault(&self) -> (Option<usize>, String, String) {
        let place = if Clause::MovedTrigger.in_force() { self.trigger.map(|_| 0) } else { self.trigger };
        (place, self.field.clone(), self.message.clone())
    }

    fn into_finding(self) -> Finding {
        let Self { rule, field, trigger, message } = self;
        let field = match trigger {
            Some(index) => format!("spec.triggers[{index}].{field}"),
            None => field,
        };
        Finding::new(rule, field, message)
    }
}

/// How many findings of a kind are told: more teach nothing, and an object has room for a hundred thousand triggers.
pub(super) const MOST: usize = 100;

/// Older violations, and how many of each excuse one of the new object.
type Excuses = HashMap<(Option<usize>, String, String), usize>;

/// All that is wrong with an object, and all that its writer should know.
#[derive(Debug)]
pub(super) struct Judged {
    excuses: Excuses,
    most: usize,
    violations: Vec<Violation>,
    excused: Vec<Finding>,
    warnings: Vec<Finding>,
    left_out: bool,
}

impl Judged {
    /// Nothing yet, and no more than `most` of each kind.
    fn new(excuses: Excuses, most: usize) -> Self {
        Self {
            excuses,
            most,
            violations: Vec::new(),
            excused: Vec::new(),
            warnings: Vec::new(),
            left_out: false,
        }
    }

    /// Takes in something that is wrong.
    pub(super) fn wrong(&mut self, violation: Violation) {
        let excuse = self.excuses.get_mut(&violation.fault()).filter(|left| **left > 0);
        // Each older violation excuses one: a second trigger with the same fault is new.
        let forgiven = excuse.map(|left| *left -= usize::from(Clause::OneFaultForOne.in_force())).is_some();
        if forgiven && Clause::OlderFault.in_force() {
            let room = self.excused.len() < self.most;
            self.left_out |= !room;
            self.excused.extend(room.then(|| violation.into_finding()));
        } else if self.has_enough() {
            self.left_out = true;
        } else {
            self.violations.push(violation);
        }
    }

    /// Takes in what the writer should know.
    pub(super) fn warn(&mut self, warning: Finding) {
        if self.warnings.len() < self.most {
            self.warnings.push(warning);
        } else {
            self.left_out = true;
        }
    }

    /// Whether as much is wrong as is told: then there is no need to look further.
    pub(super) fn has_enough(&self) -> bool {
        self.violations.len() >= self.most
    }

    /// Tells that not all was looked at.
    pub(super) fn leave_out(&mut self) {
        self.left_out = true;
    }
}

/// Judges what will be stored.
pub fn check(write: &Write<'_>) -> Outcome {
    let Some(name) = write.concerns() else { return Outcome::default() };
    let mut excuses = Excuses::new();
    if let Some(old) = write.predecessor() {
        let older = judge(name, old, write.known, Judged::new(Excuses::new(), usize::MAX));
        for violation in older.violations {
            *excuses.entry(violation.fault()).or_default() += 1;
        }
    }
    let judged = judge(name, write.new, write.known, Judged::new(excuses, MOST));
    let Judged { violations, excused, warnings, left_out, excuses: _, most: _ } = judged;
    let mut outcome = Outcome::default();
    if left_out {
        outcome.warn(Finding::bare(
            Rule::ScalerFindingsLeftOut,
            "spec.triggers",
            format!("more is wrong than is told: of each kind of finding no more than {MOST} are; correct these first"),
        ));
    }
    for warning in warnings.into_iter().chain(excused) {
        outcome.warn(warning);
    }
    outcome.refuse_all(violations.into_iter().map(Violation::into_finding));
    outcome
}

fn judge(cluster: &str, object: &ScaledObject, known: Known<'_>, mut judged: Judged) -> Judged {
    let spec = &object.spec;
    judge_names(object, &mut judged);
    judge_range(cluster, spec, known.cluster, &mut judged);
    let bounds = known.cluster.map_or_else(Bounds::default, |cluster| cluster.bounds);
    judge_fallback(cluster, spec, bounds, &mut judged);
    judge_pause(cluster, object, bounds, &mut judged);
    judge_modifiers(spec, &mut judged);
    judge_rivals(cluster, object, known, &mut judged);
    judge_triggers(cluster, object, known, &mut judged);
    if known.cluster.is_none() {
        judged.warn(Finding::new(
            Rule::TargetMissing,
            "spec.scaleTargetRef.name",
            format!("there is no {KIND} {cluster:?} in this namespace; KEDA scales nothing until it exists"),
        ));
    }
    judged
}

fn judge_names(object: &ScaledObject, judged: &mut Judged) {
    let name = &object.name;
    if name.len() > MAX_LABEL {
        judged.wrong(Violation::new(
            Rule::ScalerNameTooLong,
            "metadata.name",
            format!(
                "{name:?} has {} characters; use at most {MAX_LABEL}, because KEDA labels the HPA with the name",
                name.len()
            ),
        ));
    } else if let Some(hpa) = &object.spec.hpa_name {
        if hpa.len() > MAX_LABEL {
            judged.wrong(Violation::new(
                Rule::HpaNameTooLong,
                "spec.advanced.horizontalPodAutoscalerConfig.name",
                format!("{hpa:?} has {} characters; use at most {MAX_LABEL}", hpa.len()),
            ));
        }
    } else if kedas_name(name).len() > MAX_LABEL {
        judged.wrong(Violation::new(
            Rule::DefaultHpaNameTooLong,
            "metadata.name",
            format!(
                "{name:?} has {} characters, and the HPA's name keda-hpa-{name} more than {MAX_LABEL}; use at most {}, or set spec.advanced.horizontalPodAutoscalerConfig.name to a shorter name",
                name.len(),
                MAX_LABEL - "keda-hpa-".len()
            ),
        ));
    }
}

fn judge_range(name: &str, spec: &Spec, cluster: Option<Cluster>, judged: &mut Judged) {
    let bounds = cluster.map_or_else(Bounds::default, |cluster| cluster.bounds);
    let lowest = bounds.lower();
    let zero =
        "a VLLMCluster keeps at least 1 replica, and KEDA would try to scale it to 0 again at every poll";
    match spec.min {
        None => judged.wrong(Violation::new(
            Rule::ScalerMinimumAbsent,
            "spec.minReplicaCount",
            format!("is absent, which means 0 to KEDA: {zero}; use {lowest} or more"),
        )),
        Some(min) if min < 1 => judged.wrong(Violation::new(
            Rule::ScalerMinimumBelowOne,
            "spec.minReplicaCount",
            format!("{min} is below the minimum 1: {zero}; use {lowest} or more"),
        )),
        Some(_) => {}
    }
    if let Some(idle) = spec.idle {
        judged.wrong(Violation::new(
            Rule::ScalerIdle,
            "spec.idleReplicaCount",
            format!(
                "{}; remove idleReplicaCount: minReplicaCount is what an idle cluster keeps",
                match idle {
                    0 => format!("a {KIND} keeps at least 1 replica, so it never idles at 0"),
                    _ => format!("KEDA takes nothing but 0, and a {KIND} keeps at least 1 replica"),
                }
            ),
        ));
    }
    let scaler =
        Scaler { name: String::new(), min: spec.min, max: spec.max, paused: false, takes_over: None };
    let (lower, upper) = (scaler.lower(), scaler.upper());
    if lower > upper {
        judged.wrong(match spec.max {
            Some(max) if max < 1 => Violation::new(
                Rule::ScalerMaximumBelowOne,
                "spec.maxReplicaCount",
                format!("{max} is below the minimum 1; use {lower} or more"),
            ),
            Some(max) => Violation::new(
                Rule::ScalerMinimumAboveMaximum,
                "spec.minReplicaCount",
                format!("{lower} is above maxReplicaCount {max}; use {max} or less, or raise maxReplicaCount"),
            ),
            None => Violation::new(
                Rule::ScalerMinimumAboveDefault,
                "spec.minReplicaCount",
                format!(
                    "{lower} is above {KEDA_MAX}, which KEDA takes for an absent maxReplicaCount; state a maxReplicaCount of {lower} or more"
                ),
            ),
        });
    } else if let Some(Cluster { bounds, .. }) = cluster.filter(|cluster| cluster.bounds.consistent()) {
        let (lowest, highest) = (bounds.lower(), bounds.upper());
        match scaler.within(bounds) {
            None => judged.wrong(Violation::new(
                Rule::ScalerOutsideBounds,
                if upper < lowest { "spec.maxReplicaCount" } else { "spec.minReplicaCount" },
                format!(
                    "range {lower} to {upper} and {KIND} {name:?} ({lowest} to {highest}) have no count in common; overlap {lowest} to {highest}, or to move both, first apply a range that covers both ({} to {}), then the {KIND}, then this",
                    lower.min(lowest),
                    upper.max(highest)
                ),
            )),
            Some((low, high)) if (low, high) != (lower, upper) => judged.warn(Finding::new(
                Rule::ScalerWider,
                "spec.minReplicaCount",
                format!(
                    "the count stays within {low} to {high}, whatever this ScaledObject ({lower} to {upper}) asks for: {KIND} {name:?} allows {lowest} to {highest}; {}{}",
                    bounds.to_narrow((lower, upper), OF_SCALED_OBJECT),
                    bounds.to_widen((lower, upper), " there").map(|widen| format!(", or {widen}")).unwrap_or_default()
                ),
            )),
            Some(_) => {}
        }
    }
}

fn judge_fallback(cluster: &str, spec: &Spec, bounds: Bounds, judged: &mut Judged) {
    let Some(Fallback { replicas, behavior }) = &spec.fallback else { return };
    // With these behaviours KEDA never reads the count.
    let counts = !matches!(behavior.as_deref(), Some("currentReplicas" | "scalingModifiers"))
        || !Clause::FallbackUnread.in_force();
    if let Some(finding) =
        replicas.filter(|_| counts).and_then(|count| bounds.violation(cluster.into(), count))
    {
        judged.wrong(Violation::new(Rule::FallbackOutsideBounds, "spec.fallback.replicas", finding.message));
    }
    let has_formula = spec.modifiers.as_ref().is_some_and(|modifiers| modifiers.formula.is_some());
    if behavior.as_deref() == Some("scalingModifiers") && !has_formula {
        judged.wrong(Violation::new(
            Rule::FallbackWithoutFormula,
            "spec.fallback.behavior",
            "scalingModifiers needs spec.advanced.scalingModifiers.formula; state the formula, or use another behavior such as static",
        ));
    }
    let only_resources =
        !spec.triggers.is_empty() && spec.triggers.iter().all(super::view::Trigger::is_resource);
    if spec.modifiers.is_none() && only_resources {
        judged.wrong(Violation::new(
            Rule::FallbackOfResources,
            "spec.fallback",
            "cpu and memory triggers have no fallback in KEDA, and there is no other trigger; add another trigger, or remove the fallback",
        ));
    }
}

fn judge_pause(cluster: &str, object: &ScaledObject, bounds: Bounds, judged: &mut Judged) {
    let Some(text) = object.annotations.get(PAUSED_REPLICAS) else { return };
    let (rule, message) = match text.parse() {
        Ok(count) => match bounds.violation(cluster.into(), count) {
            Some(finding) => (Rule::PausedOutsideBounds, finding.message),
            None => return,
        },
        Err(_) => (
            Rule::PausedUnreadable,
            format!(
                "{text:?} is no whole number; state the count to keep, from {} to {}, or annotate {PAUSED}: \"true\" instead to keep the count as it is",
                bounds.lower(),
                bounds.upper().min(MAX_REPLICAS)
            ),
        ),
    };
    judged.wrong(Violation::new(rule, format!("metadata.annotations[{PAUSED_REPLICAS}]"), message));
}

fn judge_modifiers(spec: &Spec, judged: &mut Judged) {
    let Some(modifiers) = &spec.modifiers else { return };
    let mut wrong = |rule, field: &str, message: String| {
        let field = format!("spec.advanced.scalingModifiers.{field}");
        judged.wrong(Violation::new(rule, field, message));
    };
    if modifiers.formula.is_none() {
        wrong(
            Rule::FormulaMissing,
            "formula",
            "is missing; state how the triggers make one number, such as \"waiting + running\", or remove scalingModifiers".into(),
        );
    }
    match &modifiers.target {
        None if modifiers.formula.is_none() => {}
        None => {
            wrong(
                Rule::FormulaWithoutTarget,
                "target",
                "is missing; state the value of the formula that one replica is to bear".into(),
            );
        }
        Some(target) if target.parse::<f64>().is_ok_and(|target| target > 0.0) => {}
        Some(target) => wrong(
            Rule::FormulaTargetNotPositive,
            "target",
            format!("{target:?} is no number above 0; use one such as 5"),
        ),
    }
}

/// Whoever else decides on the same count.
fn judge_rivals(cluster: &str, object: &ScaledObject, known: Known<'_>, judged: &mut Judged) {
    for Scaler { name: other, .. } in known.scalers {
        judged.wrong(Violation::new(
            Rule::SecondScaler,
            "spec.scaleTargetRef.name",
            format!(
                "{KIND} {cluster:?} is already scaled by ScaledObject {other:?}; move the triggers there, or delete it first: kubectl delete scaledobject {other}"
            ),
        ));
    }
    let transfers = object.annotations.get(TRANSFER_HPA).is_some_and(|value| value == "true")
        && Clause::Transfer.in_force();
    let named = |hpa| object.spec.hpa_name.as_ref() == Some(hpa) || !Clause::TransferByName.in_force();
    for hpa in known.hpas {
        if transfers && named(hpa) {
            continue;
        }
        if *hpa == kedas_name(&object.name) {
            judged.wrong(Violation::new(
                Rule::HpaWithoutOwner,
                "spec.scaleTargetRef.name",
                format!(
                    "HorizontalPodAutoscaler {hpa:?} has the name that KEDA gives its own for this ScaledObject, but no owner, as after a restore; delete it first, and KEDA makes it anew: kubectl delete hpa {hpa}"
                ),
            ));
        } else {
            judged.wrong(Violation::new(
                Rule::ForeignHpa,
                "spec.scaleTargetRef.name",
                format!(
                    "{KIND} {cluster:?} is already scaled by HorizontalPodAutoscaler {hpa:?}; delete it first, or let KEDA take it over: annotate this ScaledObject {TRANSFER_HPA}: \"true\" and set spec.advanced.horizontalPodAutoscalerConfig.name to {hpa:?}"
                ),
            ));
        }
    }
}
