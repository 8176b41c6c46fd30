//! Where the HPA works: what its triggers ask for, against the count, and what stands between the two.
//!
//! Architecture invariant: a plain function of the chain. The numbers decide, and a condition only says what holds them.

use super::chain::{Chain, HpaLink, Limit, Reason, Stabilizing, TriggerLink};
use super::render::{moment, number};
use super::verdict::{Told, told};
use super::words::{asked, described, driver, grows, maximum_of, minimum_of, sentence, shrinks};

/// Where the HPA works: what its triggers ask for, against the count.
pub fn by_numbers(chain: &Chain, hpa: &HpaLink) -> Told {
    let count = chain.scale.replicas;
    let Some((asked, leading)) = asked(chain) else {
        return told(
            Reason::NotLookedYet,
            format!("because HPA {} has no values", hpa.name),
            "The HPA looks every 15 seconds.",
        );
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
    let shrinks = shrinks(chain);
    if let Some(max) = chain.scale.max.filter(|max| count >= *max && *max < hpa.max) {
        return told(
            Reason::ClusterBound,
            format!("because maxReplicas of the cluster is {max}: {wish}"),
            format!("Raise maxReplicas of VLLMCluster {}, or lower the load: {shrinks}.", chain.cluster),
        );
    }
    if count >= hpa.max {
        let also = chain.scale.max.filter(|max| *max <= hpa.max).map_or_else(String::new, |max| {
            format!(" and maxReplicas of the cluster, which is {max} as well")
        });
        return told(
            Reason::AtMaximum,
            format!("because that is the maximum of HPA {name}: {wish}"),
            format!("Raise {}{also}, or lower the load: {shrinks}.", maximum_of(chain)),
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
            sentence(&[
                &grows(chain),
                &format!("for fewer, lower minReplicas of VLLMCluster {}", chain.cluster),
            ]),
        );
    }
    if count <= hpa.min {
        return told(
            Reason::AtMinimum,
            format!("because that is the minimum of HPA {name}: {wish}"),
            sentence(&[&grows(chain), &fewer(chain, hpa)]),
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

/// How there could be fewer than the minimum.
fn fewer(chain: &Chain, hpa: &HpaLink) -> String {
    if hpa.min <= 1 {
        return "fewer than 1 there cannot be".into();
    }
    let also =
        chain.scale.min.filter(|min| *min >= hpa.min).map_or_else(String::new, |min| {
            format!(" and minReplicas of the cluster, which is {min} as well")
        });
    format!("for fewer, lower {}{also}", minimum_of(chain))
}

fn content(chain: &Chain, hpa: &HpaLink, leading: &TriggerLink) -> Told {
    let change = sentence(&[&grows(chain), &shrinks(chain)]);
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
    let pause = chain
        .scaled_object
        .as_ref()
        .filter(|found| found.pause.as_ref().is_some_and(|pause| pause.annotation.ends_with(annotation)));
    let change = match pause {
        Some(found) => format!(
            "kubectl -n {} annotate scaledobject {} autoscaling.keda.sh/{annotation}- lets it scale {direction} again.",
            chain.namespace, found.name
        ),
        None => format!(
            "Give the behavior of HPA {} another selectPolicy than Disabled for scaling {direction}.",
            hpa.name
        ),
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
    let default = if *window_is_default {
        ", the default, which a flag of the controller manager may change"
    } else {
        ""
    };
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
        format!(
            "It {verb} when the HPA next looks, every 15 seconds, unless a window or a policy of its behavior holds it."
        ),
    )
}
