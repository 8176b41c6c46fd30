//! Writes to a `VLLMCluster`: the count that a manifest leaves out, and what it may state.
//!
//! Architecture invariant: `default` only fills in, `check` only judges. The mutating webhook runs both, so that
//! its sentence comes before the schema's; the validating one runs `check` on what will be stored.

use crate::api::names::{KIND, MAX_NAME, MAX_REPLICAS, headless_service};

use super::bounds::{ForeignHpa, LOWER, REPLICAS, UPPER};
use super::name::SUFFIX;
use super::scale::{Count, by_person};
use super::{Bounds, Clause, Finding, Name, Outcome, Rule, Scaler};

/// The part of a spec that the policy reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// `spec.replicas`.
    pub replicas: Option<i32>,
    /// `spec.minReplicas` and `spec.maxReplicas`.
    pub bounds: Bounds,
}

/// One write of a `VLLMCluster`.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The cluster's name.
    pub name: Name<'a>,
    /// The spec that the write states.
    pub new: Spec,
    /// The spec before the write; `None` on creation.
    pub old: Option<Spec>,
    /// Whether the annotation `keep-live-replicas` leaves the live count alone on update.
    pub keep_live: bool,
    /// The attached ScaledObject, if there is one.
    pub scaler: Option<&'a Scaler>,
    /// Those of [`rivals_for_services`] that exist.
    pub neighbours: &'a [String],
}

/// The clusters beside which a new one of this name would share a Service, if they exist.
pub fn rivals_for_services(name: &str) -> impl Iterator<Item = String> {
    let longer = headless_service(name);
    let shorter = name.rsplit_once('-').map(|(shorter, _)| shorter);
    let shorter = shorter.filter(|shorter| headless_service(shorter) == name).map(str::to_owned);
    shorter.into_iter().chain([longer])
}

impl Write<'_> {
    fn bounds_changed(&self) -> bool {
        self.old.is_none_or(|old| old.bounds != self.new.bounds)
    }
}

/// The count to store where the write leaves it out, must not touch it, or leaves it outside of new bounds.
/// [`Outcome::replicas`] is `None` where the write already states it.
pub fn default(write: &Write<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let count = match write.old.and_then(|old| old.replicas) {
        None => write.new.replicas.or_else(|| first_count(write)),
        Some(live) => kept_count(write, live, &mut outcome),
    };
    outcome.replicas = count.filter(|_| write.new.replicas != count);
    outcome
}

/// The count of a new cluster that states none.
fn first_count(write: &Write<'_>) -> Option<i32> {
    let bounds = write.new.bounds;
    let raises = |scaler: &&Scaler| {
        scaler.holds() && scaler.within(bounds).is_some() && Clause::FirstCountOfHolder.in_force()
    };
    let first = write.scaler.filter(raises).map_or(1, Scaler::lower);
    let first = if Clause::FirstCountInBounds.in_force() { bounds.nearest(first) } else { first };
    Clause::FirstCount.in_force().then_some(first)
}

/// The count of a cluster that runs `live` replicas.
fn kept_count(write: &Write<'_>, live: i32, outcome: &mut Outcome) -> Option<i32> {
    let bounds = write.new.bounds;
    let stated = write.new.replicas.filter(|_| !(write.keep_live && Clause::KeepLive.in_force()));
    let moves = match stated {
        Some(count) if count != live => return stated,
        Some(_) => Clause::UntouchedToNearest.in_force(),
        None if Clause::LiveCount.in_force() => Clause::AbsentToNearest.in_force(),
        None => return None,
    };
    let nearest = bounds.nearest(live);
    let by_this_write = write.bounds_changed() || !Clause::OldBoundsMoveNothing.in_force();
    if !(moves && by_this_write && nearest != live && bounds.consistent()) {
        return Some(live);
    }
    outcome.warn(Finding::new(
        Rule::CountMovedByBounds,
        REPLICAS,
        format!(
            "the live count {live} is outside the new bounds {} to {} of {KIND} {}; stored {nearest}",
            bounds.lower(),
            bounds.upper(),
            write.name
        ),
    ));
    Some(nearest)
}

/// Judges what will be stored.
pub fn check(write: &Write<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if write.old.is_none() || !Clause::OlderName.in_force() {
        outcome.refuse_all(name_finding(write.name));
        outcome.refuse_all(write.neighbours.iter().map(|neighbour| service_finding(write.name, neighbour)));
    }
    if write.bounds_changed() || !Clause::OlderBounds.in_force() {
        judge_bounds(write, &mut outcome);
        judge_scaler(write, &mut outcome);
    }
    // A count is judged against bounds only where they make sense together.
    let judges_count = write.new.bounds.consistent() && Clause::StatedCount.in_force();
    if let Some(new) = write.new.replicas.filter(|_| judges_count) {
        let old = write.old.and_then(|old| old.replicas);
        if old == Some(new) && write.bounds_changed() {
            outcome.refuse_all(write.new.bounds.violation(write.name, new));
        } else {
            let count = Count { name: write.name, old, new, bounds: write.new.bounds, scaler: write.scaler };
            let mut judged = by_person(count);
            if write.bounds_changed() {
                // Said of the bounds.
                judged.warnings.retain(|warning| warning.rule != Rule::HolderOutsideBounds);
            }
            outcome.refusals.extend(judged.refusals);
            outcome.warnings.extend(judged.warnings);
        }
    }
    outcome
}

/// What is wrong between a cluster and what drives it, whoever let it pass: refusals and warnings alike, for a
/// condition. Empty: nothing.
pub fn conflicts(name: &str, spec: Spec, scalers: &[Scaler], hpas: &[ForeignHpa]) -> Vec<Finding> {
    // An HPA that is about to be taken over is no second driver.
    let taken_over =
        |hpa: &&ForeignHpa| scalers.iter().any(|scaler| scaler.takes_over.as_ref() == Some(&hpa.name));
    let hpas: Vec<_> = hpas.iter().filter(|hpa| !taken_over(hpa)).collect();
    let mut outcome = Outcome::default();
    let name = Name::Given(name);
    if let Some(replicas) = spec.replicas {
        outcome.refuse_all(spec.bounds.violation(name, replicas));
    }
    let wishes = scalers.iter().map(Scaler::wish).chain(hpas.iter().map(|hpa| hpa.wish()));
    for wish in wishes.filter(|_| spec.bounds.consistent()) {
        outcome.warn_of(spec.bounds.conflict(name, wish));
    }
    outcome.warn_of(several(name, scalers, &hpas));
    [outcome.refusals, outcome.warnings].concat()
}

/// More than one driver.
fn several(name: Name<'_>, scalers: &[Scaler], hpas: &[&ForeignHpa]) -> Option<Finding> {
    let scalers: Vec<_> = scalers.iter().map(|scaler| format!("{:?}", scaler.name)).collect();
    let hpas: Vec<_> = hpas.iter().map(|hpa| format!("{:?}", hpa.name)).collect();
    let drivers = scalers.len() + hpas.len();
    if drivers < 2 {
        return None;
    }
    let kind = |kind: &str, names: &[String]| {
        let plural = if names.len() > 1 { "s" } else { "" };
        (!names.is_empty()).then(|| format!("{kind}{plural} {}", names.join(" and ")))
    };
    let all: Vec<_> = [kind("ScaledObject", &scalers), kind("HorizontalPodAutoscaler", &hpas)]
        .into_iter()
        .flatten()
        .collect();
    let outcome = match (&scalers[..], &hpas[..]) {
        ([_, _, ..], []) => "KEDA lets neither work, or they undo each other's counts",
        _ => "they undo each other's counts",
    };
    Some(Finding::bare(
        Rule::SeveralDrivers,
        REPLICAS,
        format!(
            "{} {} point at {KIND} {name}: {outcome}; delete all but one",
            all.join(" and "),
            if drivers == 2 { "both" } else { "all" }
        ),
    ))
}

/// The name becomes a Service's (DNS-1035 label) and part of a pod label (at most 52 characters).
fn name_finding(name: Name<'_>) -> Option<Finding> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let (field, text) = match name {
        Name::Given(name) => ("metadata.name", name),
        Name::Generated(prefix) => ("metadata.generateName", prefix),
    };
    if text.is_empty() {
        // Neither a name nor the beginning of one: the API server asks for it.
        return None;
    }
    let ends_well = matches!(name, Name::Generated(_)) || !text.ends_with('-');
    let (rule, message) = if name.len() > MAX_NAME {
        let why = "because the StatefulSet controller puts the name into a pod label and Kubernetes would create no pod";
        let message = match name {
            Name::Given(name) => {
                format!("{name:?} has {} characters; use at most {MAX_NAME}, {why}", name.len())
            }
            Name::Generated(prefix) => format!(
                "{prefix:?} begins a name of {} characters; use at most {}, {why}",
                name.len(),
                MAX_NAME - SUFFIX
            ),
        };
        (Rule::NameTooLong, message)
    } else if !text.chars().all(legal) || !text.starts_with(|c: char| c.is_ascii_lowercase()) || !ends_well {
        let what = if matches!(name, Name::Generated(_)) { "begins no" } else { "is no" };
        (
            Rule::NameNoLabel,
            format!(
                "{text:?} {what} DNS-1035 label; use a-z, 0-9 and '-', starting with a letter and ending with a letter or digit, because Services bear the name"
            ),
        )
    } else {
        return None;
    };
    Some(Finding::new(rule, field, message))
}

/// Beside a cluster whose Service has the name that one of this cluster's is to have.
fn service_finding(name: Name<'_>, neighbour: &str) -> Finding {
    let theirs = headless_service(neighbour);
    let message = match name {
        Name::Given(name) if *name == theirs => format!(
            "{name:?} is the headless Service of {KIND} {neighbour:?} in this namespace; use another name"
        ),
        Name::Given(_) | Name::Generated(_) => format!(
            "the headless Service of {KIND} {name} would be {neighbour:?}, which is the Service of {KIND} {neighbour:?} in this namespace; use another name"
        ),
    };
    Finding::new(Rule::NameOfService, "metadata.name", message)
}

/// New bounds by themselves.
fn judge_bounds(write: &Write<'_>, outcome: &mut Outcome) {
    let Bounds { min, max } = write.new.bounds;
    let old = write.old.map(|old| old.bounds).filter(|_| Clause::OlderBound.in_force());
    let mut sound = true;
    for (rule, field, bound, before) in [
        (Rule::MinimumOutOfRange, LOWER, min, old.map(|old| old.min)),
        (Rule::MaximumOutOfRange, UPPER, max, old.map(|old| old.max)),
    ] {
        let what = if field == LOWER { "minimum" } else { "maximum" };
        if let Some(number) = bound.filter(|bound| !(1..=MAX_REPLICAS).contains(bound)) {
            sound = false;
            let finding =
                Finding::new(rule, field, format!("{number} is no {what}; use 1 to {MAX_REPLICAS}"));
            outcome.refuse_unless(before == Some(bound), finding);
        }
    }
    if let (Some(min), Some(max), true) = (min, max, sound)
        && min > max
    {
        outcome.refuse(Finding::new(
            Rule::MinimumAboveMaximum,
            LOWER,
            format!("{min} is above spec.maxReplicas {max}; use {max} or less, or raise spec.maxReplicas"),
        ));
    }
}

/// New bounds against the attached ScaledObject: nothing in common refuses, a partial overlap warns.
fn judge_scaler(write: &Write<'_>, outcome: &mut Outcome) {
    let bounds = write.new.bounds;
    let Some(scaler) = write.scaler.filter(|_| bounds.consistent()) else { return };
    let (lower, upper) = (scaler.lower(), scaler.upper());
    let older =
        write.old.is_some_and(|old| scaler.within(old.bounds).is_none()) && Clause::OlderGap.in_force();
    match scaler.within(bounds) {
        None => outcome.refuse_unless(older, Finding::new(
            Rule::BoundsOutsideScaler,
            if bounds.upper() < lower { UPPER } else { LOWER },
            format!(
                "bounds {} to {} and ScaledObject {:?} ({lower} to {upper}) have no count in common; overlap {lower} to {upper}, or to move both, first apply bounds that cover both ({} to {}), then the ScaledObject, then these",
                bounds.lower(),
                bounds.upper(),
                scaler.name,
                bounds.lower().min(lower),
                bounds.upper().max(upper)
            ),
        )),
        Some(_) => outcome.warn_of(bounds.cuts(scaler.wish())),
    }
}

#[cfg(test)]
mod tests;
