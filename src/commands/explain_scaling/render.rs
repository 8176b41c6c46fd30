//! The page.
//!
//! Architecture invariant: shows what the explanation holds, and nothing else.

use std::fmt::Write as _;

use jiff::{Timestamp, Unit};

use super::chain::{Chain, Explanation, HpaLink, PauseKind, ScaledObjectLink, TriggerLink};
use super::words::measure;

/// The explanation as a page of text, one link of the chain a paragraph.
pub fn page(explanation: &Explanation) -> String {
    let Explanation { reason: _, why, change, chain } = explanation;
    let mut page = Page::default();
    let at = moment(chain.at);
    page.line(0, &format!("VLLMCluster {}/{}, as of {at}", chain.namespace, chain.cluster));
    page.line(0, "");
    page.scaled_object(chain);
    page.triggers(chain);
    page.hpa(chain);
    page.scale(chain);
    page.pods(chain);
    for unseen in &chain.unseen {
        page.entry("not seen", unseen);
    }
    page.line(0, "");
    page.line(0, why);
    page.line(0, change);
    page.text
}

/// A moment, to the second.
pub fn moment(moment: Timestamp) -> String {
    // Only a rounding beyond the end of time fails.
    moment.round(Unit::Second).unwrap_or(moment).to_string()
}

/// A count with its noun.
pub fn replicas(count: i32) -> String {
    format!("{count} replica{}", if count == 1 { "" } else { "s" })
}

/// A number to thousandths, as the HPA counts.
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A text of another program in one line, and without what a terminal would obey.
fn flat(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, indent: usize, text: &str) {
        let text = flat(text);
        self.text.push_str(&" ".repeat(if text.is_empty() { 0 } else { indent }));
        self.text.push_str(&text);
        self.text.push('\n');
    }

    /// A link of the chain: its kind in a column, and what is said of it.
    fn entry(&mut self, kind: &str, text: &str) {
        let text = flat(text);
        // Writing into a string does not fail.
        let _ = writeln!(self.text, "{kind:<13} {text}");
    }

    fn more(&mut self, text: &str) {
        self.line(14, text);
    }

    fn scaled_object(&mut self, chain: &Chain) {
        let Some(found) = &chain.scaled_object else {
            let keda = if chain.keda_installed { "" } else { "; KEDA is not installed" };
            return self.entry("ScaledObject", &format!("none{keda}"));
        };
        let ScaledObjectLink { name, min, max, deleting, pause, ready, active, .. } = found;
        let state = match ready {
            Some(true) => "Ready",
            Some(false) => "not Ready",
            None => "not judged by KEDA",
        };
        let active = match active {
            Some(true) => ", active",
            Some(false) => ", not active",
            None => "",
        };
        let deleting = if *deleting { ", being deleted" } else { "" };
        let (min, max) = (min.unwrap_or(0), max.unwrap_or(100));
        self.entry("ScaledObject", &format!("{name}: {state}{active}{deleting}, {min} to {max}"));
        if let Some(pause) = pause {
            let what = match (pause.kind, pause.replicas) {
                (PauseKind::Whole, Some(count)) => format!("pinned to {}", replicas(count)),
                (PauseKind::Whole, None) => "paused".into(),
                (PauseKind::ScaleIn, _) => "paused for scaling down".into(),
                (PauseKind::ScaleOut, _) => "paused for scaling up".into(),
            };
            self.more(&format!("{what} by {}", pause.annotation));
        }
        if found.fallback {
            let to =
                found.fallback_replicas.map_or_else(String::new, |count| format!(" to {}", replicas(count)));
            self.more(&format!("falls back{to}"));
        }
        if let Some(error) = &found.last_error {
            self.more(&format!("KEDA says: {error}"));
        }
        if let Some(warning) = &found.last_warning {
            let at = warning.at.map_or_else(String::new, |at| format!(" at {}", moment(at)));
            self.more(&format!("newest warning{at}: {}: {}", warning.reason, warning.message));
        }
        for other in &chain.other_scaled_objects {
            self.more(&format!("beside it: ScaledObject {other}"));
        }
    }

    fn triggers(&mut self, chain: &Chain) {
        for trigger in &chain.triggers {
            let TriggerLink { type_, metric, name, missing, .. } = trigger;
            let metric = metric.as_deref().filter(|metric| metric != type_);
            let metric = metric.map_or_else(String::new, |metric| format!(" {metric}"));
            let name = name.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
            let target = trigger
                .target
                .map_or_else(String::new, |target| format!(", target {}", measure(trigger, target)));
            let head = format!("{type_}{metric}{name}:");
            let Some((current, asked)) = trigger.current.zip(trigger.asks_for) else {
                let why = missing.as_deref().unwrap_or("unknown");
                self.entry("trigger", &format!("{head} no value{target}: {why}"));
                continue;
            };
            let total =
                trigger.total.map_or_else(String::new, |total| format!(" ({} in all)", number(total)));
            let near = if trigger.within_tolerance { ", being near its target" } else { "" };
            let (current, asks) = (measure(trigger, current), replicas(asked));
            self.entry("trigger", &format!("{head} {current}{total}{target} → asks for {asks}{near}"));
        }
    }

    fn hpa(&mut self, chain: &Chain) {
        let Some(hpa) = &chain.hpa else { return self.entry("HPA", "none") };
        let HpaLink { name, min, max, current, desired, .. } = hpa;
        let counts = match (current, desired) {
            (Some(current), Some(desired)) => format!("saw {current}, wants {desired}"),
            _ => "has not looked yet".into(),
        };
        self.entry("HPA", &format!("{name}: {counts}, {min} to {max}"));
        for (what, limit) in [("limited", &hpa.limited), ("inactive", &hpa.inactive), ("unable", &hpa.unable)]
        {
            if let Some(limit) = limit {
                self.more(&format!("{what}: {}: {}", limit.reason, limit.message));
            }
        }
        if let Some(window) = &hpa.stabilizing {
            let way = if window.up { "up" } else { "down" };
            let from =
                window.not_before.map_or_else(String::new, |at| format!("not before {}, ", moment(at)));
            self.more(&format!(
                "stabilizing on the way {way} by a window of {} s: {from}at the latest {}",
                window.window_seconds,
                moment(window.not_after)
            ));
        }
        if let Some(at) = hpa.last_scaled {
            self.more(&format!("last changed the count at {}", moment(at)));
        }
        for policy in &hpa.policies {
            self.more(&format!("policy {policy}"));
        }
        for other in &chain.other_hpas {
            self.more(&format!("beside it: HPA {other}"));
        }
    }

    fn scale(&mut self, chain: &Chain) {
        let scale = &chain.scale;
        let selector = scale.selector.as_deref().unwrap_or("none, without which no HPA works");
        let bounds = match (scale.min, scale.max) {
            (None, None) => "no bounds of its own".into(),
            (min, Some(max)) => format!("bounds {} to {max}", min.unwrap_or(1)),
            (Some(min), None) => format!("at least {min}"),
        };
        let counts = format!("spec {}, status {}", scale.replicas, scale.existing);
        self.entry("/scale", &format!("{counts}, {bounds}, selector {selector}"));
        if let Some(conflict) = &scale.conflict {
            self.more(&format!("conflict: {conflict}"));
        }
    }

    fn pods(&mut self, chain: &Chain) {
        match &chain.stateful_set {
            Some(set) => self.entry(
                "StatefulSet",
                &format!(
                    "{}: spec {}, {} exist, {} ready, {} updated",
                    set.name, set.replicas, set.existing, set.ready, set.updated
                ),
            ),
            None => self.entry("StatefulSet", "not there"),
        }
        let Some(pods) = &chain.pods else { return };
        let ready = pods.iter().filter(|pod| pod.ready).count();
        self.entry("pods", &format!("{ready} of {} ready", pods.len()));
        for pod in pods.iter().filter(|pod| !pod.ready || pod.because.is_some()) {
            self.more(&format!("{}: {}", pod.name, pod.because.as_deref().unwrap_or("not ready")));
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0.4, "0.4")]
    #[case(10.0, "10")]
    #[case(3.333_333, "3.333")]
    #[case(0.0, "0")]
    fn numbers_have_no_more_digits_than_they_need(#[case] value: f64, #[case] text: &str) {
        assert_eq!(number(value), text);
    }

    #[test]
    fn a_message_of_another_program_moves_no_cursor() {
        assert_eq!(flat("a\n b\u{1b}[2J\t c"), "a b [2J c");
    }
}
