//! Triggers that the operator's own scaler answers: what is filled in, and what is wrong with one.
//!
//! KEDA fails as a whole where it cannot reach or read one external trigger, and so every fault refuses.
//!
//! Architecture invariant: what the metadata means is read by the scaler's own [`trigger::Trigger::read`], never here.

use crate::api::go::parse_bool;
use crate::policy::{Clause, Outcome, Rule};
use crate::scaler::trigger::{self, Fault, OF_KEDA, OF_SCALER};

use super::ExternalScaler;
use super::check::{Judged, Violation};
use super::default::add;
use super::external::{ADDRESS, AUTHENTICATION_KIND, Reach};
use super::http::connected;
use super::values::{Form, unknown_key};
use super::view::Trigger;

/// What KEDA takes for an absent `metricType`.
const KEDAS_METRIC_TYPE: &str = "AverageValue";
const ENABLE_TLS: &str = "enableTLS";
const UNSAFE_SSL: &str = "unsafeSsl";

/// Fills in what follows from the rest.
pub(super) fn fill(index: usize, trigger: &Trigger, scaler: &ExternalScaler<'_>, outcome: &mut Outcome) {
    if !scaler.is_meant_by(trigger) || scaler.reach == Reach::Off {
        return;
    }
    if Clause::OwnAuthenticationFilled.in_force() {
        outcome.edits.extend(connected(index, trigger, scaler));
    }
    if let (None, Ok(read)) = (&trigger.metric_type, trigger::Trigger::read(&trigger.metadata))
        && Clause::OwnMetricTypeFilled.in_force()
    {
        let path = ["spec", "triggers", &index.to_string(), "metricType"];
        outcome.edits.push(add(&path, read.metric_type()));
    }
}

/// Judges one.
pub(super) fn judge(index: usize, trigger: &Trigger, scaler: &ExternalScaler<'_>, judged: &mut Judged) {
    let mut wrong = |rule, field: &str, message: String| {
        judged.wrong(Violation::of_trigger(rule, index, field, message));
    };
    let pushes = trigger.type_ != "external";
    if pushes {
        wrong(
            Rule::OwnPush,
            "type",
            format!(
                "{:?} waits for a scaler that reports by itself, and the operator's is asked; use \"external\"",
                trigger.type_
            ),
        );
    }
    let (address, stated) = (scaler.address(), trigger.value(ADDRESS).unwrap_or_default());
    if stated != address {
        wrong(
            Rule::OwnAddress,
            "metadata.scalerAddress",
            format!(
                "{stated:?} is the operator's own scaler, but not the address under which KEDA reaches and trusts it; use {address:?}"
            ),
        );
    } else if let Some(message) = scaler.unanswered(&trigger.type_).filter(|_| !pushes) {
        wrong(Rule::ScalerUnanswered, "type", message);
    }
    let read = trigger::Trigger::read(&trigger.metadata);
    for Fault { key, missing, message } in read.as_ref().err().into_iter().flatten() {
        let rule = if *missing { Rule::OwnMissing } else { Rule::OwnUnreadable };
        wrong(rule, &format!("metadata.{key}"), message.clone());
    }
    for key in [ENABLE_TLS, UNSAFE_SSL] {
        let Some(value) = trigger.value(key) else { continue };
        let without_tls = key == ENABLE_TLS && scaler.authentication.is_none() && scaler.reach != Reach::Off;
        let message = Form::Bool.complaint(value).or_else(|| {
            (without_tls && parse_bool(value) == Some(true))
                .then(|| "is set, and the operator's scaler is served without TLS; remove it".to_owned())
        });
        if let Some(message) = message {
            wrong(Rule::OwnUnreadable, &format!("metadata.{key}"), message);
        }
    }
    let keys = [&OF_KEDA[..], &OF_SCALER[..]].concat();
    for key in trigger.metadata.keys().filter(|key| !keys.contains(&key.as_str())) {
        let says = unknown_key(key, &keys);
        wrong(
            Rule::OwnUnknownKey,
            &format!("metadata.{key}"),
            format!("is nothing that the operator's scaler reads; {says}"),
        );
    }
    if let Ok(read) = read {
        let needed = read.metric_type();
        let means = if needed == "Value" {
            "a response time is one of the whole cluster"
        } else {
            "the scaler answers with a sum over the replicas"
        };
        match trigger.metric_type.as_deref() {
            None if needed != KEDAS_METRIC_TYPE => wrong(
                Rule::OwnMetricType,
                "metricType",
                format!("is absent, which means {KEDAS_METRIC_TYPE} to KEDA; use {needed}: {means}"),
            ),
            Some(stated) if stated != needed => wrong(
                Rule::OwnMetricType,
                "metricType",
                format!("{stated:?} does not suit the signal; use {needed}: {means}"),
            ),
            _ => {}
        }
    }
    let reference = trigger.authentication.as_ref();
    let message = match scaler.authentication {
        _ if scaler.reach == Reach::Off => None,
        Some(name) => (!reference.is_some_and(|reference| scaler.is_reached_by(reference))).then(|| {
            format!(
                "must be {{kind: {AUTHENTICATION_KIND}, name: {name}}}: KEDA cannot connect without the certificate that it leads to, and that freezes the other triggers too"
            )
        }),
        None => reference.map(|_| {
            "leads to certificates, and the operator's scaler is served without TLS; remove it".to_owned()
        }),
    };
    if let Some(message) = message {
        wrong(Rule::OwnAuthentication, "authenticationRef", message);
    }
}
