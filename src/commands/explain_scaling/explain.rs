//! From what was read to what is told.
//!
//! Architecture invariant: a plain function; the only clock is the time at which was read.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::api::VLLMCluster;
use crate::api::go::parse_bool;
use crate::api::names::{
    CONDITION_READY, CONDITION_RECONCILING, CONDITION_SCALING_CONFLICT, CONDITION_STALLED, PAUSED,
    PAUSED_REPLICAS, PAUSED_SCALE_IN, PAUSED_SCALE_OUT, SCALED_OBJECT_KIND,
};
use crate::controller::pods;
use crate::objects::pod::startup_seconds;
use crate::policy::scaled_object::view::Trigger;
use crate::scaler::trigger;

use super::arithmetic::Counts;
use super::chain::{
    Chain, Explanation, Pause, PauseKind, PodLink, ScaleLink, ScaledObjectLink, SetLink, TargetType,
    TriggerLink,
};
use super::seen::{Drivers, ScaledObject, Seen};
use super::{hpa, verdict};

/// The name of the metric that KEDA makes of a formula.
const COMPOSITE: &str = "composite-metric";

/// Explains what was seen.
pub fn explain(seen: &Seen) -> Explanation {
    let chain = chain(seen);
    let verdict::Verdict { reason, why, change } = verdict::verdict(&chain);
    Explanation { reason, why, change, chain }
}

fn chain(seen: &Seen) -> Chain {
    let Drivers { scaled_objects, hpa: driving, other_hpas } = seen.drivers();
    let scale = scale(seen);
    let counts = Counts { spec: scale.replicas, existing: scale.existing, ready: ready_pods(seen, &scale) };
    let measured = driving.map(|hpa| hpa::metrics(hpa, &seen.events, counts)).unwrap_or_default();
    let first = scaled_objects.first().copied();
    Chain {
        namespace: seen.cluster.namespace().unwrap_or_default(),
        cluster: seen.cluster.name_any(),
        at: seen.at,
        deleting: seen.cluster.metadata.deletion_timestamp.is_some(),
        keda_installed: seen.scaled_objects.is_some(),
        scaled_object: first.map(|found| scaled_object(found, seen)),
        other_scaled_objects: scaled_objects.iter().skip(1).map(|found| found.view.name.clone()).collect(),
        triggers: first.map_or_else(|| measured.clone(), |found| triggers(found, &measured)),
        hpa: driving.map(|hpa| hpa::link(hpa, &seen.events, seen.at)),
        other_hpas: other_hpas.iter().map(|hpa| hpa.name_any()).collect(),
        stateful_set: seen.set.as_ref().map(|set| {
            let status = set.status.clone().unwrap_or_default();
            SetLink {
                name: set.name_any(),
                replicas: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
                existing: status.replicas,
                ready: status.ready_replicas.unwrap_or(0),
                updated: status.updated_replicas.unwrap_or(0),
            }
        }),
        pods: seen.pods.as_ref().map(|pods| links(pods, startup_seconds(&seen.cluster.spec))),
        waiting_for: waiting_for(seen, &scale),
        scale,
        unseen: seen.unseen.clone(),
    }
}

/// Ready pods, as the HPA counts them; where pods cannot be seen, as the cluster does.
fn ready_pods(seen: &Seen, scale: &ScaleLink) -> i32 {
    let Some(pods) = &seen.pods else { return scale.ready };
    i32::try_from(pods.iter().filter(|pod| pods::is_ready(pod)).count()).unwrap_or(i32::MAX)
}

fn links(pods: &[Pod], startup_seconds: i32) -> Vec<PodLink> {
    let mut links: Vec<_> = pods
        .iter()
        .map(|pod| {
            let name = pod.name_any();
            let cause = pods::cause(std::slice::from_ref(pod), startup_seconds);
            let told =
                cause.map(|cause| cause.message.trim_start_matches(&format!("pod {name}: ")).to_owned());
            let ready = pods::is_ready(pod);
            let because = told.or_else(|| (!ready).then(|| "not ready".into()));
            PodLink { name, ready, because }
        })
        .collect();
    let ordinal = |pod: &PodLink| pod.name.rsplit('-').next().and_then(|number| number.parse::<u32>().ok());
    links.sort_by(|one, other| ordinal(one).cmp(&ordinal(other)).then_with(|| one.name.cmp(&other.name)));
    links
}

/// What keeps pods from serving: what the operator says in its conditions, else what the pods show.
fn waiting_for(seen: &Seen, scale: &ScaleLink) -> Option<String> {
    if scale.ready >= scale.replicas {
        return None;
    }
    let conditions = seen.cluster.status.iter().flat_map(|status| &status.conditions);
    let is = |kind: &str, status: &str| {
        conditions.clone().find(|found| found.type_ == kind && found.status == status)
    };
    let told = is(CONDITION_STALLED, "True")
        .or_else(|| is(CONDITION_READY, "False"))
        .or_else(|| is(CONDITION_RECONCILING, "True"))
        .map(|condition| condition.message.clone());
    told.filter(|message| !message.is_empty()).or_else(|| {
        let pods = seen.pods.as_ref()?;
        pods::cause(pods, startup_seconds(&seen.cluster.spec)).map(|cause| cause.message)
    })
}

fn scale(seen: &Seen) -> ScaleLink {
    let VLLMCluster { spec, status, .. } = &seen.cluster;
    let of_cluster = status.clone().unwrap_or_default();
    let (scale_spec, scale_status) = (
        seen.scale.as_ref().and_then(|scale| scale.spec.as_ref()),
        seen.scale.as_ref().and_then(|scale| scale.status.as_ref()),
    );
    let selector =
        scale_status.map_or_else(|| Some(of_cluster.selector.clone()), |status| status.selector.clone());
    let conflict = of_cluster
        .conditions
        .iter()
        .find(|found| found.type_ == CONDITION_SCALING_CONFLICT && found.status == "True");
    ScaleLink {
        replicas: scale_spec.and_then(|scale| scale.replicas).or(spec.replicas).unwrap_or(0),
        existing: scale_status.map_or(of_cluster.replicas, |status| status.replicas),
        ready: of_cluster.ready_replicas,
        selector: selector.filter(|selector| !selector.is_empty()),
        min: spec.min_replicas,
        max: spec.max_replicas,
        conflict: conflict.map(|condition| condition.message.clone()),
    }
}

fn scaled_object(found: &ScaledObject, seen: &Seen) -> ScaledObjectLink {
    let ready = found.holds("Ready");
    let failing = |kind: &str, fine: bool| {
        let condition = found.condition(kind)?;
        let is_bad = if fine { condition.status != "True" } else { condition.status == "False" };
        Some(condition.message.clone()).filter(|message| is_bad && !message.is_empty())
    };
    ScaledObjectLink {
        name: found.view.name.clone(),
        min: found.view.spec.min,
        max: found.view.spec.max,
        deleting: found.view.deleting,
        pause: pause(found),
        ready,
        active: found.holds("Active"),
        fallback: found.holds("Fallback") == Some(true),
        fallback_replicas: found.view.spec.fallback.as_ref().and_then(|fallback| fallback.replicas),
        last_error: failing("Ready", true).or_else(|| failing("HPAActive", false)),
        last_warning: hpa::newest_warning(&seen.events, SCALED_OBJECT_KIND, &found.view.name),
    }
}

/// How it is paused, by KEDA's own order: a pinned count goes before a freeze, and both before one direction.
fn pause(found: &ScaledObject) -> Option<Pause> {
    let annotations = &found.view.annotations;
    let pause = |annotation, kind, replicas| Some(Pause { annotation, kind, replicas });
    // What is no boolean pauses as well.
    let is_set = |key: &str| annotations.get(key).is_some_and(|value| parse_bool(value) != Some(false));
    if let Some(count) = annotations.get(PAUSED_REPLICAS) {
        return pause(PAUSED_REPLICAS, PauseKind::Whole, count.parse().ok());
    }
    match () {
        () if is_set(PAUSED) => pause(PAUSED, PauseKind::Whole, None),
        () if is_set(PAUSED_SCALE_IN) => pause(PAUSED_SCALE_IN, PauseKind::ScaleIn, None),
        () if is_set(PAUSED_SCALE_OUT) => pause(PAUSED_SCALE_OUT, PauseKind::ScaleOut, None),
        () => None,
    }
}

/// The ScaledObject's triggers, each with its metric of the HPA, and then whatever the HPA measures besides.
fn triggers(found: &ScaledObject, measured: &[TriggerLink]) -> Vec<TriggerLink> {
    let stated = &found.view.spec.triggers;
    let of = |index: usize, trigger: &Trigger, link: &TriggerLink| {
        let Some(metric) = link.metric.as_deref() else { return false };
        match trigger.type_.as_str() {
            resource @ ("cpu" | "memory") => metric == resource,
            _ => metric.starts_with(&format!("s{index}-")),
        }
    };
    let mut links: Vec<_> = stated
        .iter()
        .enumerate()
        .map(|(index, trigger)| {
            let link = measured.iter().find(|link| of(index, trigger, link)).cloned();
            let mut link = link.unwrap_or_else(|| unmeasured(found, index, trigger, measured));
            link.index = Some(index);
            link.type_.clone_from(&trigger.type_);
            link.name.clone_from(&trigger.name);
            if let (Some(missing), Some(failures)) =
                (&mut link.missing, failures(found, link.metric.as_deref()))
            {
                *missing = format!("{missing} (failed {failures} times in a row, says KEDA)");
            }
            link
        })
        .collect();
    let is_stated =
        |link: &TriggerLink| stated.iter().enumerate().any(|(index, trigger)| of(index, trigger, link));
    links.extend(measured.iter().filter(|link| !is_stated(link)).cloned().map(|mut link| {
        if link.metric.as_deref() == Some(COMPOSITE) {
            link.type_ = "formula".into();
        }
        link
    }));
    links
}

fn failures(found: &ScaledObject, metric: Option<&str>) -> Option<i32> {
    let health = found.status.health.as_ref()?.get(metric?)?;
    health.number_of_failures.filter(|failures| *failures > 0)
}

/// A trigger without a metric: what it is meant to be, and why the HPA does not have it.
fn unmeasured(
    found: &ScaledObject,
    index: usize,
    trigger: &Trigger,
    measured: &[TriggerLink],
) -> TriggerLink {
    let missing = if measured.iter().any(|link| link.metric.as_deref() == Some(COMPOSITE)) {
        "a part of the formula, which alone is measured".into()
    } else if measured.is_empty() {
        "there is no HPA that would measure it".into()
    } else {
        let error = found.condition("Ready").filter(|ready| ready.status != "True");
        let error = error.map(|ready| format!(": {}", ready.message)).unwrap_or_default();
        format!("KEDA has not put it into the HPA{error}")
    };
    let own = trigger::Trigger::read(&trigger.metadata).ok().filter(|_| trigger.type_ == "external");
    let target_type = own.as_ref().map(|own| match own.metric_type() {
        "Value" => TargetType::Value,
        _ => TargetType::AverageValue,
    });
    TriggerLink {
        metric: own.as_ref().map(|own| format!("s{index}-{}", own.metric_name())),
        target_type,
        target: own.as_ref().map(trigger::Trigger::target),
        missing: Some(missing),
        ..TriggerLink::default()
    }
}
