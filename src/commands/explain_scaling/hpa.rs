//! What an HPA says: its conditions, its metrics, and what each of them asks for.
//!
//! Architecture invariant: plain functions of the HPA and of events, time included.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler as Hpa, HorizontalPodAutoscalerCondition, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus,
};
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt as _;

use super::arithmetic::{Counts, DEFAULT_TOLERANCE, Tolerance, asked, edges, number};
use super::chain::{HpaLink, Limit, Stabilizing, TargetType, TriggerLink, Warning};

/// Kubernetes' default of `--horizontal-pod-autoscaler-downscale-stabilization`, in seconds.
const DEFAULT_DOWN_WINDOW: i32 = 300;

/// The HPA, its conditions told apart.
pub fn link(hpa: &Hpa, events: &[Event], at: Timestamp) -> HpaLink {
    let (spec, status) = (hpa.spec.as_ref(), hpa.status.as_ref());
    let behavior = spec.and_then(|spec| spec.behavior.as_ref());
    let (up, down) = (
        behavior.and_then(|behavior| behavior.scale_up.as_ref()),
        behavior.and_then(|behavior| behavior.scale_down.as_ref()),
    );
    let Tolerance { up: tolerance_up, down: tolerance_down } = tolerance(hpa);
    let name = hpa.name_any();
    // Without conditions, the controller has not looked yet, and its zeros mean nothing.
    let looked = status.filter(|status| status.conditions.as_ref().is_some_and(|all| !all.is_empty()));
    HpaLink {
        min: spec.and_then(|spec| spec.min_replicas).unwrap_or(1),
        max: spec.map_or(0, |spec| spec.max_replicas),
        current: looked.map(|status| status.current_replicas.unwrap_or(0)),
        desired: looked.map(|status| status.desired_replicas),
        last_scaled: last_scaled(hpa),
        limited: condition(hpa, "ScalingLimited").filter(|found| found.status == "True").map(limit),
        inactive: condition(hpa, "ScalingActive").filter(|found| found.status == "False").map(limit),
        unable: condition(hpa, "AbleToScale").filter(|found| found.status == "False").map(limit),
        stabilizing: stabilizing(hpa, events, at),
        tolerance_up,
        tolerance_down,
        up_disabled: is_disabled(up),
        down_disabled: is_disabled(down),
        policies: policies("up", up).chain(policies("down", down)).collect(),
        last_warning: newest_warning(events, "HorizontalPodAutoscaler", &name),
        name,
    }
}

fn condition<'a>(hpa: &'a Hpa, kind: &str) -> Option<&'a HorizontalPodAutoscalerCondition> {
    hpa.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn limit(condition: &HorizontalPodAutoscalerCondition) -> Limit {
    Limit {
        reason: condition.reason.clone().unwrap_or_default(),
        message: plain(condition.message.as_deref().unwrap_or_default()),
    }
}

/// A message of the HPA controller without what says nothing: how it always begins, and Go's form of a label selector.
fn plain(message: &str) -> String {
    let message =
        message.strip_prefix("the HPA was unable to compute the replica count: ").unwrap_or(message);
    let Some((before, rest)) = message.split_once("/&LabelSelector{") else { return message.to_owned() };
    let mut open = 1_usize;
    let end = rest.find(|c: char| {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        open == 0
    });
    end.map_or_else(|| message.to_owned(), |end| format!("{before}{}", &rest[end + 1..]))
}

fn last_scaled(hpa: &Hpa) -> Option<Timestamp> {
    Some(hpa.status.as_ref()?.last_scale_time.as_ref()?.0)
}

fn is_disabled(rules: Option<&HPAScalingRules>) -> bool {
    rules.and_then(|rules| rules.select_policy.as_deref()) == Some("Disabled")
}

fn policies(direction: &str, rules: Option<&HPAScalingRules>) -> impl Iterator<Item = String> {
    let choice = match rules.and_then(|rules| rules.select_policy.as_deref()) {
        Some("Min") => ", the smallest change of them",
        Some("Disabled") => ", switched off",
        _ => "",
    };
    rules.and_then(|rules| rules.policies.as_ref()).into_iter().flatten().map(move |policy| {
        let unit = match (policy.type_.as_str(), policy.value) {
            ("Percent", _) => "percent",
            (_, 1) => "pod",
            _ => "pods",
        };
        format!("{direction}: {} {unit} in {} s{choice}", policy.value, policy.period_seconds)
    })
}

/// What its behavior says of tolerance, and where it says nothing, Kubernetes' default.
pub fn tolerance(hpa: &Hpa) -> Tolerance {
    let behavior = hpa.spec.as_ref().and_then(|spec| spec.behavior.as_ref());
    let of = |rules: Option<&HPAScalingRules>| {
        rules.and_then(|rules| number(rules.tolerance.as_ref()?)).unwrap_or(DEFAULT_TOLERANCE)
    };
    Tolerance {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}

/// The window that holds the count back, by the condition `AbleToScale`. The recommendations that it looks back on are known to
/// the controller alone; what can be known is that one of them was made when it last scaled up, and none is made later than now.
fn stabilizing(hpa: &Hpa, events: &[Event], at: Timestamp) -> Option<Stabilizing> {
    let found = condition(hpa, "AbleToScale").filter(|found| found.status == "True")?;
    let up = match found.reason.as_deref()? {
        "ScaleDownStabilized" => false,
        "ScaleUpStabilized" => true,
        _ => return None,
    };
    let behavior = hpa.spec.as_ref()?.behavior.as_ref();
    let rules = behavior
        .and_then(|behavior| if up { behavior.scale_up.as_ref() } else { behavior.scale_down.as_ref() });
    let stated = rules.and_then(|rules| rules.stabilization_window_seconds);
    let window_seconds = stated.unwrap_or(if up { 0 } else { DEFAULT_DOWN_WINDOW });
    let window = SignedDuration::from_secs(i64::from(window_seconds));
    let after = |moment: Timestamp| moment.checked_add(window).unwrap_or(Timestamp::MAX);
    let not_before = (!up && stated.is_some() && last_was_up(hpa, events))
        .then(|| last_scaled(hpa).map(after))
        .flatten()
        .filter(|moment| *moment > at);
    Some(Stabilizing {
        up,
        window_seconds,
        window_is_default: stated.is_none(),
        not_before,
        not_after: after(at),
    })
}

/// Whether the last change of the count was a growth: the controller's event says so.
fn last_was_up(hpa: &Hpa, events: &[Event]) -> bool {
    let name = hpa.name_any();
    let rescales = events.iter().filter(|event| {
        event.reason.as_deref() == Some("SuccessfulRescale")
            && event.involved_object.name.as_deref() == Some(name.as_str())
    });
    let newest = rescales.max_by_key(|event| seen_at(event));
    newest.and_then(|event| event.message.as_deref()).is_some_and(|message| message.contains("above target"))
}

/// When an event was last seen: recorders of both generations have a field of their own for it.
fn seen_at(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let micro = series.or(event.event_time.as_ref()).map(|time| time.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    event.last_timestamp.as_ref().map(|time| time.0).max(micro).or(created)
}

/// The newest warning about an object.
pub fn newest_warning(events: &[Event], kind: &str, name: &str) -> Option<Warning> {
    let about = events.iter().filter(|event| {
        event.type_.as_deref() == Some("Warning")
            && event.involved_object.kind.as_deref() == Some(kind)
            && event.involved_object.name.as_deref() == Some(name)
    });
    let event = about.max_by_key(|event| seen_at(event))?;
    Some(Warning {
        at: seen_at(event),
        reason: event.reason.clone().unwrap_or_default(),
        message: plain(event.message.as_deref().unwrap_or_default()),
    })
}

/// Each of the HPA's metrics.
pub fn metrics(hpa: &Hpa, events: &[Event], counts: Counts) -> Vec<TriggerLink> {
    let specs = hpa.spec.iter().flat_map(|spec| spec.metrics.iter().flatten());
    specs.map(|spec| metric(hpa, spec, events, counts)).collect()
}

fn metric(hpa: &Hpa, spec: &MetricSpec, events: &[Event], counts: Counts) -> TriggerLink {
    let tolerance = tolerance(hpa);
    let Some((name, target)) = measured(spec) else {
        return TriggerLink { type_: spec.type_.clone(), measured: true, ..TriggerLink::default() };
    };
    let over_pods = matches!(spec.type_.as_str(), "Resource" | "ContainerResource" | "Pods");
    let (target_type, target) = target_of(target);
    let current = current_of(hpa, spec, &name).and_then(|current| value_of(current, target_type));
    let asked = target
        .zip(current)
        .and_then(|(target, current)| asked(target_type, over_pods, current, target, counts, tolerance));
    let settled = counts.spec == counts.existing && counts.existing == counts.ready && counts.spec > 0;
    let edges = target.filter(|_| settled).map(|target| edges(target, counts.spec, tolerance));
    TriggerLink {
        index: None,
        type_: spec.type_.clone(),
        name: None,
        missing: asked.is_none().then(|| missing(hpa, &name, events)),
        metric: Some(name),
        measured: true,
        target_type: Some(target_type),
        target,
        current,
        total: asked.and_then(|asked| asked.total),
        asks_for: asked.map(|asked| asked.replicas),
        within_tolerance: asked.is_some_and(|asked| asked.within_tolerance),
        grows_above: edges.map(|(above, _)| above),
        shrinks_below: edges.and_then(|(_, below)| below),
    }
}

/// The name and the target of what a metric measures.
fn measured(spec: &MetricSpec) -> Option<(String, &MetricTarget)> {
    let MetricSpec { container_resource, external, object, pods, resource, type_: _ } = spec;
    None.or_else(|| external.as_ref().map(|found| (found.metric.name.clone(), &found.target)))
        .or_else(|| resource.as_ref().map(|found| (found.name.clone(), &found.target)))
        .or_else(|| container_resource.as_ref().map(|found| (found.name.clone(), &found.target)))
        .or_else(|| pods.as_ref().map(|found| (found.metric.name.clone(), &found.target)))
        .or_else(|| object.as_ref().map(|found| (found.metric.name.clone(), &found.target)))
}

fn target_of(target: &MetricTarget) -> (TargetType, Option<f64>) {
    match target.type_.as_str() {
        "Utilization" => (TargetType::Utilization, target.average_utilization.map(f64::from)),
        "Value" => (TargetType::Value, target.value.as_ref().and_then(number)),
        _ => (TargetType::AverageValue, target.average_value.as_ref().and_then(number)),
    }
}

/// What the HPA last saw of a metric. A metric that failed leaves an empty entry.
fn current_of<'a>(hpa: &'a Hpa, spec: &MetricSpec, name: &str) -> Option<&'a MetricValueStatus> {
    let container = spec.container_resource.as_ref().map(|found| found.container.as_str());
    let of = |status: &'a MetricStatus| {
        let MetricStatus { container_resource, external, object, pods, resource, type_ } = status;
        if *type_ != spec.type_ {
            return None;
        }
        None.or_else(|| {
            external.as_ref().filter(|found| found.metric.name == name).map(|found| &found.current)
        })
        .or_else(|| resource.as_ref().filter(|found| found.name == name).map(|found| &found.current))
        .or_else(|| {
            let same = |found: &&k8s_openapi::api::autoscaling::v2::ContainerResourceMetricStatus| {
                found.name == name && Some(found.container.as_str()) == container
            };
            container_resource.as_ref().filter(same).map(|found| &found.current)
        })
        .or_else(|| pods.as_ref().filter(|found| found.metric.name == name).map(|found| &found.current))
        .or_else(|| object.as_ref().filter(|found| found.metric.name == name).map(|found| &found.current))
    };
    hpa.status.as_ref()?.current_metrics.iter().flatten().find_map(of)
}

fn value_of(current: &MetricValueStatus, target_type: TargetType) -> Option<f64> {
    let MetricValueStatus { average_utilization, average_value, value } = current;
    match target_type {
        TargetType::Utilization => average_utilization.map(f64::from),
        TargetType::Value => value.as_ref().and_then(number),
        TargetType::AverageValue => average_value.as_ref().and_then(number),
    }
}

/// Why a metric has no value: what the HPA says of this one, else what it says at all.
fn missing(hpa: &Hpa, name: &str, events: &[Event]) -> String {
    let Some(active) = condition(hpa, "ScalingActive") else {
        return "the HPA has not asked for it yet".into();
    };
    let said = plain(active.message.as_deref().filter(|_| active.status == "False").unwrap_or_default());
    if said.contains(name) {
        return said;
    }
    let warnings = events.iter().filter(|event| {
        event.type_.as_deref() == Some("Warning")
            && event.involved_object.kind.as_deref() == Some("HorizontalPodAutoscaler")
            && event.message.as_deref().is_some_and(|message| message.contains(name))
    });
    let warned =
        warnings.max_by_key(|event| seen_at(event)).and_then(|event| event.message.as_deref().map(plain));
    warned.unwrap_or_else(|| {
        if said.is_empty() { "the HPA has no value of it and does not say why".into() } else { said }
    })
}
