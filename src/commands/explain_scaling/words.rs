//! How triggers, edges and drivers are called in a sentence.
//!
//! Architecture invariant: plain functions of the chain; which sentence is said is decided elsewhere.

use super::chain::{Chain, HpaLink, TargetType, TriggerLink};
use super::render::number;

/// What the values that there are ask for, and the trigger that leads. Of equal ones, one beyond its tolerance leads.
pub fn asked(chain: &Chain) -> Option<(i32, &TriggerLink)> {
    let asking = chain.triggers.iter().filter(|trigger| trigger.measured);
    let asking = asking.filter_map(|trigger| Some((trigger.asks_for?, trigger)));
    // Of equal maxima the last counts; the order is reversed, so that it is the first trigger.
    asking.rev().max_by_key(|(asked, trigger)| (*asked, !trigger.within_tolerance))
}

/// What is measured and has no value.
pub fn missing(chain: &Chain) -> impl Iterator<Item = &TriggerLink> {
    chain.triggers.iter().filter(|trigger| trigger.measured && trigger.asks_for.is_none())
}

/// How a trigger is called: its metric, and its name where it has one.
fn label(trigger: &TriggerLink) -> String {
    match (&trigger.metric, &trigger.name) {
        (Some(metric), Some(name)) => format!("{metric} ({name})"),
        (Some(metric), None) => metric.clone(),
        (None, _) => trigger.type_.clone(),
    }
}

/// Several triggers by their names.
pub fn names(triggers: &[&TriggerLink]) -> String {
    triggers.iter().map(|trigger| label(trigger)).collect::<Vec<_>>().join(" and ")
}

/// Several triggers, each with the reason why it has no value.
pub fn listed(triggers: &[&TriggerLink]) -> String {
    let each = triggers.iter().map(|trigger| {
        format!("{} ({})", label(trigger), trigger.missing.as_deref().unwrap_or("nobody says why"))
    });
    each.collect::<Vec<_>>().join(" and of ")
}

/// A value of a trigger, as its target is written.
fn amount(trigger: &TriggerLink, value: f64) -> String {
    const MEBIBYTE: f64 = 1_048_576.0;
    match trigger.target_type {
        Some(TargetType::Utilization) => format!("{} %", number(value)),
        Some(TargetType::AverageValue) if trigger.metric.as_deref() == Some("memory") => {
            format!("{} Mi", number(value / MEBIBYTE))
        }
        Some(TargetType::AverageValue | TargetType::Value) | None => number(value),
    }
}

/// A value of a trigger, and of what it is.
pub fn measure(trigger: &TriggerLink, value: f64) -> String {
    let amount = amount(trigger, value);
    match trigger.target_type {
        Some(TargetType::Utilization) => format!("{amount} of its request"),
        Some(TargetType::AverageValue) => format!("{amount} per replica"),
        Some(TargetType::Value) | None => amount,
    }
}

/// A trigger, its value and its target; a verb follows.
pub fn described(trigger: &TriggerLink) -> String {
    let at = trigger.current.map_or_else(String::new, |current| format!(" at {}", measure(trigger, current)));
    let target =
        trigger.target.map_or_else(String::new, |target| format!(", target {},", amount(trigger, target)));
    format!("{}{at}{target}", label(trigger))
}

/// When the count grows.
pub fn grows(chain: &Chain) -> String {
    let edges = chain.triggers.iter().filter_map(|trigger| {
        Some(format!("{} rises above {}", label(trigger), measure(trigger, trigger.grows_above?)))
    });
    let edges: Vec<_> = edges.collect();
    let has_room = chain.hpa.as_ref().is_some_and(|hpa| {
        chain.scale.replicas < hpa.max.min(chain.scale.max.unwrap_or(i32::MAX)) && !hpa.up_disabled
    });
    match (has_room, edges.is_empty()) {
        (false, _) => "it grows no further".into(),
        (true, true) => "it grows when a trigger asks for more".into(),
        (true, false) => format!("it grows when {}", edges.join(" or ")),
    }
}

/// When the count shrinks: every trigger must let it.
pub fn shrinks(chain: &Chain) -> String {
    let has_room = chain.hpa.as_ref().is_some_and(|hpa| {
        chain.scale.replicas > hpa.min.max(chain.scale.min.unwrap_or(1)) && !hpa.down_disabled
    });
    let measured = chain.triggers.iter().filter(|trigger| trigger.measured);
    let edges: Option<Vec<_>> = measured
        .map(|trigger| {
            Some(format!("{} falls below about {}", label(trigger), measure(trigger, trigger.shrinks_below?)))
        })
        .collect();
    match edges.filter(|edges| !edges.is_empty()) {
        _ if !has_room => "it shrinks no further".into(),
        Some(edges) => format!("it shrinks when {}", edges.join(" and ")),
        None => "it shrinks when no trigger asks for as many".into(),
    }
}

/// Clauses as one sentence.
pub fn sentence(clauses: &[&str]) -> String {
    capital(&clauses.join("; ")) + "."
}

/// A text that begins a sentence.
fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// What drives the cluster, to be edited for another behavior.
pub fn driver(chain: &Chain, hpa: &HpaLink) -> String {
    match &chain.scaled_object {
        Some(found) => format!("ScaledObject {}", found.name),
        None => format!("HPA {}", hpa.name),
    }
}

/// The field with the highest count.
pub fn maximum_of(chain: &Chain) -> String {
    match (&chain.scaled_object, &chain.hpa) {
        (Some(found), _) => format!("maxReplicaCount of ScaledObject {}", found.name),
        (None, Some(hpa)) => format!("maxReplicas of HPA {}", hpa.name),
        (None, None) => "its maximum".into(),
    }
}

/// The field with the lowest count.
pub fn minimum_of(chain: &Chain) -> String {
    match (&chain.scaled_object, &chain.hpa) {
        (Some(found), _) => format!("minReplicaCount of ScaledObject {}", found.name),
        (None, Some(hpa)) => format!("minReplicas of HPA {}", hpa.name),
        (None, None) => "its minimum".into(),
    }
}

/// The fields with both.
pub fn range_of(chain: &Chain) -> String {
    match (&chain.scaled_object, &chain.hpa) {
        (Some(found), _) => format!("minReplicaCount and maxReplicaCount of ScaledObject {}", found.name),
        (None, Some(hpa)) => format!("minReplicas and maxReplicas of HPA {}", hpa.name),
        (None, None) => "its range".into(),
    }
}
