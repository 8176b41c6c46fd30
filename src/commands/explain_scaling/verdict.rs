//! The two sentences: why the count is what it is, and what would change it.
//!
//! Architecture invariant: a plain function of the chain. Where a condition and the numbers disagree, the numbers decide: a
//! condition may be older than they are.

use super::chain::{Chain, HpaLink, Limit, Pause, PauseKind, Reason, ScaledObjectLink};
use super::numbers::by_numbers;
use super::render::replicas;
use super::words::{asked, grows, listed, missing, names, range_of, sentence};

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// In a word.
    pub reason: Reason,
    /// In a sentence.
    pub why: String,
    /// What would change it.
    pub change: String,
}

/// Why the count of the chain is what it is.
pub fn verdict(chain: &Chain) -> Verdict {
    if chain.deleting {
        return Verdict {
            reason: Reason::Deleting,
            why: format!("{} is being deleted, and its pods go with it.", chain.cluster),
            change: "Nothing stops a deletion; once it is gone, apply its manifest again.".into(),
        };
    }
    let Told { reason, because, change } = without_hpa(chain)
        .unwrap_or_else(|hpa| by_state(chain, hpa).unwrap_or_else(|| by_numbers(chain, hpa)));
    let (count, ready) = (chain.scale.replicas, chain.scale.ready);
    let fallback = chain.scaled_object.as_ref().filter(|found| found.fallback).map(|found| {
        let to = found.fallback_replicas.map_or_else(String::new, |count| format!(" of {}", replicas(count)));
        format!("; KEDA reports the fallback{to} in place of a trigger that fails")
    });
    let unready = (ready < count).then(|| {
        let cause = chain.waiting_for.as_deref().unwrap_or("the others are not ready yet");
        format!("; {ready} of them {}: {cause}", if ready == 1 { "serves" } else { "serve" })
    });
    let why = format!(
        "{} is set to {} {because}{}{}.",
        chain.cluster,
        replicas(count),
        fallback.unwrap_or_default(),
        unready.unwrap_or_default()
    );
    Verdict { reason, why, change }
}

/// A verdict, but for what surrounds it.
pub struct Told {
    reason: Reason,
    /// Follows "is set to 3 replicas".
    because: String,
    change: String,
}

/// A verdict of these words.
pub fn told(reason: Reason, because: impl Into<String>, change: impl Into<String>) -> Told {
    Told { reason, because: because.into(), change: change.into() }
}

/// Where no HPA decides, or more than one; otherwise the HPA that does.
fn without_hpa(chain: &Chain) -> Result<Told, &HpaLink> {
    let Chain { namespace, cluster, other_scaled_objects, other_hpas, .. } = chain;
    let Some(found) = &chain.scaled_object else {
        let Some(hpa) = &chain.hpa else { return Ok(no_driver(chain)) };
        if other_hpas.is_empty() {
            return Err(hpa);
        }
        return Ok(several(chain, &hpa.name, "hpa", &other_hpas[0]));
    };
    if let Some(other) = other_hpas.first() {
        return Ok(several(chain, &found.name, "hpa", other));
    }
    if let Some(other) = other_scaled_objects.first() {
        return Ok(several(chain, &found.name, "scaledobject", other));
    }
    let name = &found.name;
    if let Some(pause) = found.pause.as_ref().filter(|pause| pause.kind == PauseKind::Whole) {
        return Ok(paused(chain, found, pause));
    }
    if found.deleting {
        let change = format!(
            "Once it is gone, only people change the count of {cluster}; a ScaledObject that does not go waits for KEDA to release its finalizer."
        );
        let because = format!("because ScaledObject {name}, which drove it, is being deleted");
        return Ok(told(Reason::DriverDeleting, because, change));
    }
    if let Some(hpa) = &chain.hpa {
        return Err(hpa);
    }
    Ok(match &found.last_error {
        Some(error) => told(
            Reason::ScaledObjectFailing,
            format!(
                "because KEDA makes no HPA of ScaledObject {name}, so that nothing scales it: {error}{}",
                warned(found)
            ),
            format!(
                "Mend ScaledObject {name} by what KEDA says; the count moves again once it is Ready. Until then, kubectl -n {namespace} scale vllmcluster {cluster} sets it by hand."
            ),
        ),
        None => told(
            Reason::HpaMissing,
            format!("because ScaledObject {name} has no HPA that would change it{}", warned(found)),
            format!(
                "KEDA makes one within seconds of the ScaledObject; if it does not, look at KEDA's log and at kubectl -n {namespace} describe scaledobject {name}."
            ),
        ),
    })
}

/// What a warning adds to the ScaledObject's own condition.
fn warned(found: &ScaledObjectLink) -> String {
    let warning = found.last_warning.as_ref();
    let error = found.last_error.as_deref().unwrap_or_default();
    warning
        .filter(|warning| !error.contains(&warning.message) && !warning.message.is_empty())
        .map_or_else(String::new, |warning| format!(" (its newest warning: {})", warning.message.trim()))
}

/// What KEDA adds to an HPA that lacks values: the HPA sees KEDA's failure, and KEDA the cause.
fn kedas_error(chain: &Chain) -> String {
    let found = chain.scaled_object.as_ref();
    let Some((found, error)) = found.and_then(|found| Some((found, found.last_error.as_deref()?))) else {
        return String::new();
    };
    format!("; KEDA says: {error}{}", warned(found))
}

fn no_driver(chain: &Chain) -> Told {
    let Chain { namespace, cluster, scale, .. } = chain;
    let keda = if chain.keda_installed { "" } else { ", and KEDA is not installed" };
    let bounds = match (scale.min, scale.max) {
        (min, Some(max)) => format!(" from {} to {max}", min.unwrap_or(1)),
        (min, None) => format!(" of {} or more", min.unwrap_or(1)),
    };
    told(
        Reason::NoDriver,
        format!("because that was written last: no ScaledObject and no HPA drives it{keda}"),
        format!(
            "kubectl -n {namespace} scale vllmcluster {cluster} --replicas=N sets another count{bounds}; a ScaledObject that names {cluster} would drive it by its load."
        ),
    )
}

fn several(chain: &Chain, first: &str, kind: &str, other: &str) -> Told {
    let Chain { namespace, scaled_object, other_scaled_objects, other_hpas, .. } = chain;
    let kind_of_first = if scaled_object.is_some() { "ScaledObject" } else { "HPA" };
    let others = other_scaled_objects.iter().map(|name| format!("ScaledObject {name}"));
    let others: Vec<_> = others.chain(other_hpas.iter().map(|name| format!("HPA {name}"))).collect();
    told(
        Reason::SeveralDrivers,
        format!(
            "because that was written last: {kind_of_first} {first} and {} drive it at the same time and undo each other's counts",
            others.join(" and ")
        ),
        format!("Keep one of them: kubectl -n {namespace} delete {kind} {other}."),
    )
}

fn paused(chain: &Chain, found: &ScaledObjectLink, pause: &Pause) -> Told {
    let Chain { namespace, cluster, scale, .. } = chain;
    let ScaledObjectLink { name, last_error, .. } = found;
    let Pause { annotation, .. } = pause;
    let because = match pause.replicas {
        Some(pinned) if pinned == scale.replicas => {
            format!("because the annotation {annotation} of ScaledObject {name} pins it to that")
        }
        Some(pinned) => {
            let error = last_error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
            format!(
                "although the annotation {annotation} of ScaledObject {name} pins it to {pinned}: KEDA writes that once, and its write has not come yet, was refused or moved, or was written over{error}"
            )
        }
        None => format!(
            "because ScaledObject {name} is paused (annotation {annotation}), and KEDA leaves the count alone"
        ),
    };
    told(
        Reason::Paused,
        because,
        format!(
            "kubectl -n {namespace} annotate scaledobject {name} {annotation}- lets it scale again; until then, kubectl -n {namespace} scale vllmcluster {cluster} sets the count."
        ),
    )
}

/// What the HPA says of itself: it cannot look, or has not.
fn by_state(chain: &Chain, hpa: &HpaLink) -> Option<Told> {
    let HpaLink { name, unable, inactive, desired, .. } = hpa;
    if let Some(Limit { reason, message }) = unable {
        let because = match (reason.as_str(), desired) {
            ("FailedUpdateScale", Some(desired)) if *desired != chain.scale.replicas => {
                format!(
                    "because the API server refuses what HPA {name} writes to /scale (it last asked for {desired}): {message}"
                )
            }
            ("FailedUpdateScale", _) => {
                format!("because the API server refuses what HPA {name} writes to /scale: {message}")
            }
            _ => format!("because HPA {name} cannot use /scale: {message}"),
        };
        let change = "Remove what the message names; the HPA tries again every 15 seconds.";
        return Some(told(Reason::ScaleFailing, because, change));
    }
    let (min, max) = (hpa.min, hpa.max);
    let count = chain.scale.replicas;
    let moved = match () {
        () if count > max => {
            Some((max, chain.scale.min.filter(|least| *least > max && count <= *least), "minReplicas"))
        }
        () if count < min => {
            Some((min, chain.scale.max.filter(|most| *most < min && count >= *most), "maxReplicas"))
        }
        () => None,
    };
    if let Some((bound, held, field)) = moved {
        return Some(match held {
            Some(held) => told(
                Reason::ClusterBound,
                format!(
                    "because {field} of the cluster, {held}, leaves HPA {name} no count of its range, {min} to {max}"
                ),
                format!(
                    "Give the cluster and what drives it a range in common: {} or {field} of the cluster.",
                    range_of(chain)
                ),
            ),
            None => told(
                Reason::OutsideRange,
                format!("because somebody wrote that around HPA {name}, whose range is {min} to {max}"),
                format!(
                    "HPA {name} moves it to {bound} when it next looks, every 15 seconds; to keep it, change {}.",
                    range_of(chain)
                ),
            ),
        });
    }
    if desired.is_none() {
        return Some(told(
            Reason::NotLookedYet,
            format!("because HPA {name} has not looked at it yet"),
            "The HPA looks every 15 seconds.",
        ));
    }
    let missing: Vec<_> = missing(chain).collect();
    let asked = asked(chain);
    let held = asked.filter(|(asked, _)| !missing.is_empty() && *asked < count);
    match (held, inactive) {
        (Some((asked, _)), _) => Some(told(
            Reason::MetricsMissing,
            format!(
                "because HPA {name} scales down on whole data only: what it has asks for {asked}, and there is no value of {}{}",
                listed(&missing),
                kedas_error(chain)
            ),
            sentence(&[
                &format!("it can shrink once there is a value of {}", names(&missing)),
                &grows(chain),
            ]),
        )),
        (None, Some(Limit { message, .. })) => Some(told(
            Reason::MetricsMissing,
            format!("because HPA {name} comes to no count: {message}{}", kedas_error(chain)),
            "The count moves again once the HPA has a value; remove what its message names.",
        )),
        (None, None) if asked.is_none() => Some(told(
            Reason::NotLookedYet,
            format!("because HPA {name} has measured nothing since the count changed"),
            "The HPA looks every 15 seconds.",
        )),
        (None, None) => None,
    }
}
