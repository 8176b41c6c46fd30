//! The two sentences: why the count is what it is, and what would change it.
//!
//! Architecture invariant: a plain function of the chain. Where a condition and the numbers disagree, the numbers decide: a
//! condition may be older than they are.

use super::chain::{
    Chain, HpaLink, Limit, Pause, PauseKind, Reason, ScaledObjectLink, Stabilizing, TargetType, TriggerLink,
};
use super::render::{moment, number, replicas};

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
    let Told { reason, because, change } =
        without_hpa(chain).unwrap_or_else(|hpa| by_state(chain, hpa).unwrap_or_else(|| by_numbers(chain, hpa)));
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
struct Told {
    reason: Reason,
    /// Follows "is set to 3 replicas".
    because: String,
    change: String,
}

fn told(reason: Reason, because: impl Into<String>, change: impl Into<String>) -> Told {
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
            format!("because KEDA makes no HPA of ScaledObject {name}, so that nothing scales it: {error}{}", warned(found)),
            format!("Mend ScaledObject {name} by what KEDA says; the count moves again once it is Ready. Until then, kubectl -n {namespace} scale vllmcluster {cluster} sets it by hand."),
        ),
        None => told(
            Reason::HpaMissing,
            format!("because ScaledObject {name} has no HPA that would change it{}", warned(found)),
            format!("KEDA makes one within seconds of the ScaledObject; if it does not, look at KEDA's log and at kubectl -n {namespace} describe scaledobject {name}."),
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
        None => format!("because ScaledObject {name} is paused (annotation {annotation}), and KEDA leaves the count alone"),
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
                format!("because the API server refuses what HPA {name} writes to /scale (it last asked for {desired}): {message}")
            }
            ("FailedUpdateScale", _) => format!("because the API server refuses what HPA {name} writes to /scale: {message}"),
            _ => format!("because HPA {name} cannot use /scale: {message}"),
        };
        let change = "Remove what the message names; the HPA tries again every 15 seconds.";
        return Some(told(Reason::ScaleFailing, because, change));
    }
    let (min, max) = (hpa.min, hpa.max);
    let count = chain.scale.replicas;
    let moved = match () {
        () if count > max => Some((max, chain.scale.min.filter(|least| *least > max && count <= *least), "minReplicas")),
        () if count < min => Some((min, chain.scale.max.filter(|most| *most < min && count >= *most), "maxReplicas")),
        () => None,
    };
    if let Some((bound, held, field)) = moved {
        return Some(match held {
            Some(held) => told(
                Reason::ClusterBound,
                format!("because {field} of the cluster, {held}, leaves HPA {name} no count of its range, {min} to {max}"),
                format!("Give the cluster and what drives it a range in common: {} or {field} of the cluster.", range_of(chain)),
            ),
            None => told(
                Reason::OutsideRange,
                format!("because somebody wrote that around HPA {name}, whose range is {min} to {max}"),
                format!("HPA {name} moves it to {bound} when it next looks, every 15 seconds; to keep it, change {}.", range_of(chain)),
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
            format!("because HPA {name} scales down on whole data only: what it has asks for {asked}, and there is no value of {}", listed(&missing)),
            format!("With a value for {} it goes on; {}", names(&missing), growth(chain, "until then, only more load changes the count")),
        )),
        (None, Some(Limit { message, .. })) => Some(told(
            Reason::MetricsMissing,
            format!("because HPA {name} has nothing to go by: {message}"),
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

/// Where the HPA works: what its triggers ask for, against the count.
fn by_numbers(chain: &Chain, hpa: &HpaLink) -> Told {
    let count = chain.scale.replicas;
    let Some((asked, leading)) = asked(chain) else {
        return told(Reason::NotLookedYet, format!("because HPA {} has no values", hpa.name), "The HPA looks every 15 seconds.");
    };
    match asked.cmp(&count) {
        std::cmp::Ordering::Greater => wants_more(chain, hpa, asked, leading),
        std::cmp::Ordering::Less => wants_fewer(chain, hpa, asked, leading),
        std::cmp::Ordering::Equal => content(chain, hpa, leading),
    }
}

fn wants_more(chain: &Chain, hpa: &HpaLink, asked: i32, leading: &TriggerLink) -> Told {
    let (count, name) = (chain.scale.replicas, &hpa.name);
    let wish = format!("{} asks for {asked}", described(leading));
    let shrinks = shrinking(chain);
    if let Some(max) = chain.scale.max.filter(|max| count >= *max && *max < hpa.max) {
        return told(
            Reason::ClusterBound,
            format!("because maxReplicas of the cluster is {max}: {wish}"),
            format!("Raise maxReplicas of VLLMCluster {}, or lower the load. {shrinks}", chain.cluster),
        );
    }
    if count >= hpa.max {
        let also = chain.scale.max.filter(|max| *max <= hpa.max).map_or_else(String::new, |max| {
            format!(" and maxReplicas of the cluster, which is {max} as well")
        });
        return told(
            Reason::AtMaximum,
            format!("because that is the maximum of HPA {name}: {wish}"),
            format!("Raise {}{also}, or lower the load. {shrinks}", maximum_of(chain)),
        );
    }
    if hpa.up_disabled {
        return direction_off(chain, hpa, "up", "paused-scale-out", &wish);
    }
    match (&hpa.stabilizing, &hpa.limited) {
        (Some(window), _) if window.up => stabilized(chain, hpa, window, &wish),
        (_, Some(limit)) if limit.reason == "ScaleUpLimit" => rate_limited(hpa, limit, &wish, "up"),
        _ => under_way(hpa, &wish, "grows"),
    }
}

fn wants_fewer(chain: &Chain, hpa: &HpaLink, asked: i32, leading: &TriggerLink) -> Told {
    let (count, name) = (chain.scale.replicas, &hpa.name);
    let wish = format!("{} asks for {asked}", described(leading));
    if let Some(min) = chain.scale.min.filter(|min| count <= *min && *min > hpa.min) {
        return told(
            Reason::ClusterBound,
            format!("because minReplicas of the cluster is {min}: {wish}"),
            growth(chain, &format!("lower minReplicas of VLLMCluster {} for fewer", chain.cluster)),
        );
    }
    if count <= hpa.min {
        return told(
            Reason::AtMinimum,
            format!("because that is the minimum of HPA {name}: {wish}"),
            growth(chain, "only more load changes it"),
        );
    }
    if hpa.down_disabled {
        return direction_off(chain, hpa, "down", "paused-scale-in", &wish);
    }
    match (&hpa.stabilizing, &hpa.limited) {
        (Some(window), _) if !window.up => stabilized(chain, hpa, window, &wish),
        (_, Some(limit)) if limit.reason == "ScaleDownLimit" => rate_limited(hpa, limit, &wish, "down"),
        _ => under_way(hpa, &wish, "shrinks"),
    }
}

fn content(chain: &Chain, hpa: &HpaLink, leading: &TriggerLink) -> Told {
    let change = [growth(chain, ""), shrinking(chain)].join(" ");
    let change = change.trim().to_owned();
    if leading.within_tolerance {
        let (up, down) = (number(hpa.tolerance_up * 100.0), number(hpa.tolerance_down * 100.0));
        let because = format!(
            "because {} is near enough to its target: HPA {} changes nothing within {down} % below and {up} % above",
            described(leading),
            hpa.name
        );
        return told(Reason::WithinTolerance, because, change);
    }
    told(Reason::Followed, format!("because {} asks for just that", described(leading)), change)
}

fn direction_off(chain: &Chain, hpa: &HpaLink, direction: &str, annotation: &str, wish: &str) -> Told {
    let pause = chain.scaled_object.as_ref().filter(|found| {
        found.pause.as_ref().is_some_and(|pause| pause.annotation.ends_with(annotation))
    });
    let change = match pause {
        Some(found) => format!(
            "kubectl -n {} annotate scaledobject {} autoscaling.keda.sh/{annotation}- lets it scale {direction} again.",
            chain.namespace, found.name
        ),
        None => format!("Give the behavior of HPA {} another selectPolicy than Disabled for scaling {direction}.", hpa.name),
    };
    told(
        Reason::DirectionOff,
        format!("because scaling {direction} is switched off in HPA {}: {wish}", hpa.name),
        change,
    )
}

fn stabilized(chain: &Chain, hpa: &HpaLink, window: &Stabilizing, wish: &str) -> Told {
    let Stabilizing { up, window_seconds, window_is_default, not_before, not_after } = window;
    let (more, verb) = if *up { ("fewer", "grows") } else { ("more", "shrinks") };
    let default = if *window_is_default { ", the default, which a flag of the controller manager may change" } else { "" };
    let from = not_before.map_or_else(String::new, |at| format!(" not before {} and", moment(at)));
    told(
        Reason::Stabilizing,
        format!(
            "because {more} were asked for within the stabilization window of HPA {} ({window_seconds} s{default}): now {wish}",
            hpa.name
        ),
        format!(
            "It {verb}{from} at {} at the latest, if nothing asks for {more} again until then; stabilizationWindowSeconds in the behavior of {} makes the window another.",
            moment(*not_after),
            driver(chain, hpa)
        ),
    )
}

fn rate_limited(hpa: &HpaLink, limit: &Limit, wish: &str, direction: &str) -> Told {
    let policies: Vec<_> =
        hpa.policies.iter().filter(|policy| policy.starts_with(direction)).map(String::as_str).collect();
    let policies = if policies.is_empty() { String::new() } else { format!(" ({})", policies.join("; ")) };
    told(
        Reason::RateLimited,
        format!("because HPA {} bounds how fast it changes{policies}: {wish}; {}", hpa.name, limit.message),
        "The HPA goes on step by step, as its policies allow.",
    )
}

fn under_way(hpa: &HpaLink, wish: &str, verb: &str) -> Told {
    told(
        Reason::UnderWay,
        format!("because HPA {} has not acted on its newest values yet: {wish}", hpa.name),
        format!("It {verb} when the HPA next looks, every 15 seconds, unless a window or a policy of its behavior holds it."),
    )
}

/// What the values that there are ask for, and the trigger that leads. Of equal ones, one beyond its tolerance leads.
fn asked(chain: &Chain) -> Option<(i32, &TriggerLink)> {
    let asking = chain.triggers.iter().filter(|trigger| trigger.measured);
    let asking = asking.filter_map(|trigger| Some((trigger.asks_for?, trigger)));
    // Of equal maxima the last counts; the order is reversed, so that it is the first trigger.
    asking.rev().max_by_key(|(asked, trigger)| (*asked, !trigger.within_tolerance))
}

fn missing(chain: &Chain) -> impl Iterator<Item = &TriggerLink> {
    chain.triggers.iter().filter(|trigger| trigger.measured && trigger.asks_for.is_none())
}

fn label(trigger: &TriggerLink) -> String {
    match (&trigger.metric, &trigger.name) {
        (Some(metric), Some(name)) => format!("{metric} ({name})"),
        (Some(metric), None) => metric.clone(),
        (None, _) => trigger.type_.clone(),
    }
}

fn names(triggers: &[&TriggerLink]) -> String {
    triggers.iter().map(|trigger| label(trigger)).collect::<Vec<_>>().join(" and ")
}

fn listed(triggers: &[&TriggerLink]) -> String {
    let each = triggers.iter().map(|trigger| {
        format!("{} ({})", label(trigger), trigger.missing.as_deref().unwrap_or("nobody says why"))
    });
    each.collect::<Vec<_>>().join(" and of ")
}

/// A value of a trigger, in its measure.
pub fn measure(trigger: &TriggerLink, value: f64) -> String {
    match trigger.target_type {
        Some(TargetType::Utilization) => format!("{} % of its request", number(value)),
        Some(TargetType::AverageValue) => format!("{} per replica", number(value)),
        Some(TargetType::Value) | None => number(value),
    }
}

fn described(trigger: &TriggerLink) -> String {
    let at = trigger.current.map_or_else(String::new, |current| format!(" at {}", measure(trigger, current)));
    let against = trigger.target.map_or_else(String::new, |target| format!(", target {},", number(target)));
    format!("{}{at}{against}", label(trigger)).trim_end_matches(',').to_owned() + if against.is_empty() { "" } else { "," }
}

/// When the count grows; `otherwise` follows, or stands alone where no edge is known.
fn growth(chain: &Chain, otherwise: &str) -> String {
    let edges = chain.triggers.iter().filter_map(|trigger| {
        Some(format!("{} rises above {}", label(trigger), measure(trigger, trigger.grows_above?)))
    });
    let edges: Vec<_> = edges.collect();
    let room = chain.hpa.as_ref().is_some_and(|hpa| {
        chain.scale.replicas < hpa.max.min(chain.scale.max.unwrap_or(i32::MAX)) && !hpa.up_disabled
    });
    match (edges.is_empty() || !room, otherwise) {
        (true, "") if room => "It grows when a trigger asks for more.".into(),
        (true, "") => "It grows no further.".into(),
        (true, otherwise) => capital(otherwise) + ".",
        (false, "") => format!("It grows when {}.", edges.join(" or ")),
        (false, otherwise) => format!("It grows when {}; {otherwise}.", edges.join(" or ")),
    }
}

/// When the count shrinks: every trigger must let it.
fn shrinking(chain: &Chain) -> String {
    let room = chain.hpa.as_ref().is_some_and(|hpa| {
        chain.scale.replicas > hpa.min.max(chain.scale.min.unwrap_or(1)) && !hpa.down_disabled
    });
    let measured = || chain.triggers.iter().filter(|trigger| trigger.measured);
    let edges: Option<Vec<_>> = measured()
        .map(|trigger| {
            Some(format!("{} falls below about {}", label(trigger), measure(trigger, trigger.shrinks_below?)))
        })
        .collect();
    match edges.filter(|edges| !edges.is_empty()) {
        _ if !room => "It shrinks no further.".into(),
        Some(edges) => format!("It shrinks when {}.", edges.join(" and ")),
        None => "It shrinks when no trigger asks for as many.".into(),
    }
}

fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

fn driver(chain: &Chain, hpa: &HpaLink) -> String {
    match &chain.scaled_object {
        Some(found) => format!("ScaledObject {}", found.name),
        None => format!("HPA {}", hpa.name),
    }
}

fn maximum_of(chain: &Chain) -> String {
    match (&chain.scaled_object, &chain.hpa) {
        (Some(found), _) => format!("maxReplicaCount of ScaledObject {}", found.name),
        (None, Some(hpa)) => format!("maxReplicas of HPA {}", hpa.name),
        (None, None) => "its maximum".into(),
    }
}

fn range_of(chain: &Chain) -> String {
    match (&chain.scaled_object, &chain.hpa) {
        (Some(found), _) => format!("minReplicaCount and maxReplicaCount of ScaledObject {}", found.name),
        (None, Some(hpa)) => format!("minReplicas and maxReplicas of HPA {}", hpa.name),
        (None, None) => "its range".into(),
    }
}
