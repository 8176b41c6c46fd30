//! That no sentence contradicts its numbers.

use crate::commands::explain_scaling::chain::{
    Chain, Explanation, HpaLink, Limit, Pause, PauseKind, Reason, ScaleLink, ScaledObjectLink, Stabilizing,
    TargetType, TriggerLink,
};
use crate::commands::explain_scaling::render::page;

use super::objects::now;

/// What of an explanation's reason does not follow from its own numbers, worked out apart from how the reason was found.
pub(super) fn contradiction(explanation: &Explanation) -> Option<&'static str> {
    let Explanation { reason, why, change, chain } = explanation;
    let count = chain.scale.replicas;
    let asking: Vec<i32> =
        chain.triggers.iter().filter(|trigger| trigger.measured).filter_map(|t| t.asks_for).collect();
    let asked = asking.iter().copied().max();
    let hpa = chain.hpa.as_ref();
    let (least, most) = hpa.map_or((1, i32::MAX), |hpa| (hpa.min, hpa.max));
    let wrong = match reason {
        Reason::AtMaximum => count < most || asked.is_none_or(|asked| asked <= count),
        Reason::AtMinimum => count > least || asked.is_none_or(|asked| asked >= count),
        Reason::ClusterBound => {
            Some(count) != chain.scale.max
                && Some(count) != chain.scale.min
                && (least..=most).contains(&count)
                && chain.scale.max.is_none_or(|max| count < max)
                && chain.scale.min.is_none_or(|min| count > min)
        }
        Reason::Followed | Reason::WithinTolerance => asked != Some(count),
        Reason::Stabilizing => {
            let up = hpa.and_then(|hpa| hpa.stabilizing.as_ref()).is_none_or(|window| window.up);
            asked.is_none_or(|asked| if up { asked <= count } else { asked >= count })
        }
        Reason::UnderWay | Reason::RateLimited | Reason::DirectionOff => {
            asked.is_none_or(|asked| asked == count)
        }
        Reason::OutsideRange => (least..=most).contains(&count),
        Reason::HpaMissing | Reason::NoDriver | Reason::ScaledObjectFailing => hpa.is_some(),
        Reason::MetricsMissing => {
            let missing = chain.triggers.iter().any(|trigger| trigger.measured && trigger.asks_for.is_none());
            let inactive = hpa.is_some_and(|hpa| hpa.inactive.is_some());
            !missing && !inactive
        }
        Reason::Paused => chain.scaled_object.as_ref().is_none_or(|found| found.pause.is_none()),
        Reason::SeveralDrivers => chain.other_scaled_objects.is_empty() && chain.other_hpas.is_empty(),
        Reason::Deleting => !chain.deleting,
        Reason::DriverDeleting => chain.scaled_object.as_ref().is_none_or(|found| !found.deleting),
        Reason::ScaleFailing => hpa.is_none_or(|hpa| hpa.unable.is_none()),
        Reason::NotLookedYet => hpa.is_none(),
    };
    match () {
        () if wrong => Some("the reason does not fit the numbers"),
        () if *reason != Reason::Deleting && !why.contains(&format!("is set to {count} replica")) => {
            Some("the count")
        }
        () if why.is_empty() || !why.ends_with('.') || change.is_empty() || !change.ends_with('.') => {
            Some("no sentence")
        }
        () => None,
    }
}

mod properties {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::commands::explain_scaling::verdict::verdict;

    fn trigger() -> impl Strategy<Value = TriggerLink> {
        (option::of(0..12_i32), any::<bool>(), any::<bool>()).prop_map(
            |(asks_for, within_tolerance, measured)| TriggerLink {
                type_: "prometheus".into(),
                metric: Some("s0-prometheus".into()),
                measured,
                target_type: Some(TargetType::AverageValue),
                target: Some(4.0),
                current: asks_for.map(f64::from),
                within_tolerance: within_tolerance && asks_for.is_some(),
                asks_for,
                ..TriggerLink::default()
            },
        )
    }

    fn limit(reasons: &'static [&'static str]) -> impl Strategy<Value = Option<Limit>> {
        option::of(proptest::sample::select(reasons))
            .prop_map(|reason| reason.map(|reason| Limit { reason: reason.into(), message: "m".into() }))
    }

    fn hpa() -> impl Strategy<Value = HpaLink> {
        let stabilizing = option::of(any::<bool>()).prop_map(|up| {
            up.map(|up| Stabilizing {
                up,
                window_seconds: 300,
                window_is_default: true,
                not_before: None,
                not_after: now(),
            })
        });
        (
            (1..5_i32, 5..9_i32, option::of(0..9_i32), stabilizing, any::<[bool; 2]>()),
            limit(&["ScaleUpLimit", "ScaleDownLimit", "TooManyReplicas", "TooFewReplicas"]),
            limit(&["FailedGetExternalMetric"]),
            limit(&["FailedUpdateScale", "FailedGetScale"]),
            0..4,
        )
            .prop_map(
                |((min, max, desired, stabilizing, [up, down]), limited, inactive, unable, healthy)| {
                    HpaLink {
                        name: "h".into(),
                        min,
                        max,
                        current: desired,
                        desired,
                        limited,
                        // Mostly healthy, or no more than that would be seen.
                        inactive: inactive.filter(|_| healthy == 0),
                        unable: unable.filter(|_| healthy == 1),
                        stabilizing,
                        up_disabled: up,
                        down_disabled: down,
                        ..HpaLink::default()
                    }
                },
            )
    }

    fn scaled_object() -> impl Strategy<Value = ScaledObjectLink> {
        (option::of(0..12_i32), 0..6, option::of(any::<bool>()), any::<bool>()).prop_map(
            |(pinned, state, ready, fallback)| ScaledObjectLink {
                name: "q".into(),
                pause: (state == 0).then_some(Pause {
                    annotation: "a",
                    kind: PauseKind::Whole,
                    replicas: pinned,
                }),
                deleting: state == 1,
                ready,
                last_error: (ready == Some(false)).then(|| "e".into()),
                fallback,
                ..ScaledObjectLink::default()
            },
        )
    }

    fn chain() -> impl Strategy<Value = Chain> {
        let scale = (1..12_i32, option::of(1..4_i32), option::of(4..12_i32), 0..12_i32).prop_map(
            |(replicas, min, max, ready)| ScaleLink {
                replicas: replicas.clamp(min.unwrap_or(1), max.unwrap_or(12)),
                existing: replicas,
                ready,
                min,
                max,
                ..ScaleLink::default()
            },
        );
        (
            scale,
            option::of(scaled_object()),
            option::weighted(0.9, hpa()),
            prop::collection::vec(trigger(), 1..4),
            0..20,
        )
            .prop_map(|(scale, scaled_object, hpa, triggers, rest)| Chain {
                namespace: "n".into(),
                cluster: "c".into(),
                at: now(),
                deleting: rest == 0,
                keda_installed: true,
                scaled_object,
                other_scaled_objects: Vec::new(),
                triggers,
                other_hpas: if rest == 1 && hpa.is_some() { vec!["other".into()] } else { Vec::new() },
                hpa,
                scale,
                stateful_set: None,
                pods: None,
                waiting_for: None,
                unseen: Vec::new(),
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_sentence_contradicts_its_numbers(chain in chain()) {
            let found = verdict(&chain);
            let explanation = Explanation { reason: found.reason, why: found.why, change: found.change, chain };
            prop_assert_eq!(contradiction(&explanation), None, "{:#?}", explanation);
            let page = page(&explanation);
            prop_assert!(page.contains(&explanation.why) && page.ends_with(&format!("{}\n", explanation.change)), "{}", page);
        }
    }
}
