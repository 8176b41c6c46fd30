//! Triggers of the type `http`, which KEDA does not have: what they mean, and what they become.
//!
//! Such a trigger states a URL and the response time, in milliseconds, that it is to have. It becomes an `external` trigger
//! for the operator's own scaler, with the path and the query of the URL: those as they stand, a query without a path below
//! `/`, and [`DEFAULT_PATH`] where there is neither. The host is only looked at to tell a Service of the cluster from a site
//! elsewhere, which was hardly meant: the time is measured on the pods of the cluster, whatever Service it names.
//!
//! Architecture invariant: one reading, by which a trigger is rewritten and judged alike.

use std::collections::BTreeMap;

use json_patch::PatchOperation;

use crate::api::names::{KIND, REWRITE_TRIGGERS};
use crate::policy::{Clause, Finding, Outcome, Rule};
use crate::scaler::trigger::{self, ACTIVATION, DEFAULT_PATH, Fault, PATH, SIGNAL, Signal, TARGET};

use super::check::{Judged, Violation};
use super::default::{add, remove, replace};
use super::external::{ADDRESS, AUTHENTICATION_KIND, Reach};
use super::values::{Url, unknown_key};
use super::view::{ScaledObject, Trigger};
use super::{ExternalScaler, Known};

/// The type.
pub(super) const HTTP: &str = "http";
const URL: &str = "url";
/// What is read of its metadata. The last one has the same meaning for the scaler.
const KEYS: [&str; 3] = [URL, TARGET, ACTIVATION];
/// The metric type of a response time.
const METRIC_TYPE: &str = "Value";
const EXAMPLE: &str = "http://my-cluster:8000/v1/models";

/// Brings one up to date, where the scaler answers and nothing is wrong with it.
pub(super) fn rewrite(
    index: usize,
    trigger: &Trigger,
    cluster: &str,
    known: Known<'_>,
    outcome: &mut Outcome,
) {
    let scaler = known.external;
    if trigger.type_ != HTTP || scaler.reach != Reach::Ready || !Clause::RewriteHttp.in_force() {
        return;
    }
    let Ok(path) = read(trigger, known) else { return };
    let at = index.to_string();
    let to = |field: &[&'static str]| [&["spec", "triggers", at.as_str()][..], field].concat();
    outcome.edits.push(replace(&to(&["type"]), "external"));
    outcome.edits.extend(connected(index, trigger, &scaler));
    if trigger.metric_type.is_none() {
        outcome.edits.push(add(&to(&["metricType"]), METRIC_TYPE));
    }
    outcome.edits.extend([
        add(&to(&["metadata", ADDRESS]), scaler.address()),
        add(&to(&["metadata", SIGNAL]), Signal::ResponseTime.name()),
        add(&to(&["metadata", PATH]), path.as_str()),
        remove(&to(&["metadata", URL])),
    ]);
    outcome.warn(Finding::new(
        Rule::RewroteHttp,
        format!("spec.triggers[{index}]"),
        format!(
            "KEDA has no trigger {HTTP:?}; stored as {}: the operator measures the time on the pods of {KIND} {cluster:?}, whatever Service the host named. In your manifest, write it so",
            newer(trigger, &path, &scaler)
        ),
    ));
}

/// The reference by which KEDA connects, where the trigger has none.
pub(super) fn connected(
    index: usize,
    trigger: &Trigger,
    scaler: &ExternalScaler<'_>,
) -> Option<PatchOperation> {
    let name = scaler.authentication.filter(|_| trigger.authentication.is_none())?;
    let reference = serde_json::json!({"kind": AUTHENTICATION_KIND, "name": name});
    Some(add(&["spec", "triggers", &index.to_string(), "authenticationRef"], reference))
}

/// Judges one that was not rewritten.
pub(super) fn judge(
    index: usize,
    trigger: &Trigger,
    object: &ScaledObject,
    known: Known<'_>,
    judged: &mut Judged,
) {
    let scaler = known.external;
    let read = read(trigger, known);
    let rewrites = object.rewrites(&scaler);
    let kept = !rewrites && scaler.reach != Reach::Off;
    if kept || (scaler.reach == Reach::Ready && read.is_ok()) {
        let way = match () {
            () if rewrites => String::new(),
            () if object.opts_out() => format!("remove the annotation {REWRITE_TRIGGERS}, or "),
            () => "have the operator run with --rewrite-triggers=true, or ".to_owned(),
        };
        let path = read.unwrap_or_else(|_| DEFAULT_PATH.to_owned());
        judged.wrong(Violation::of_trigger(
            Rule::HttpTrigger,
            index,
            "type",
            format!(
                "KEDA has no trigger {HTTP:?}, and a ScaledObject with such a trigger scales nothing at all; {way}write {}",
                newer(trigger, &path, &scaler)
            ),
        ));
        return;
    }
    if let Some(message) = scaler.unanswered(HTTP) {
        judged.wrong(Violation::of_trigger(Rule::ScalerUnanswered, index, "type", message));
    }
    for Wrong { rule, key, message } in read.err().into_iter().flatten() {
        judged.wrong(Violation::of_trigger(rule, index, format!("metadata.{key}"), message));
    }
}

/// The trigger in its present form, on one line.
fn newer(trigger: &Trigger, path: &str, scaler: &ExternalScaler<'_>) -> String {
    let reference = scaler
        .authentication
        .map(|name| format!("authenticationRef: {{kind: {AUTHENTICATION_KIND}, name: {name}}}, "));
    format!(
        "{{type: external, metricType: {}, {}metadata: {{{ADDRESS}: {:?}, {SIGNAL}: {}, {PATH}: {path:?}, {TARGET}: {:?}}}}}",
        trigger.metric_type.as_deref().unwrap_or(METRIC_TYPE),
        reference.unwrap_or_default(),
        scaler.address(),
        Signal::ResponseTime.name(),
        trigger.value(TARGET).unwrap_or("100"),
    )
}

/// One thing that is wrong with the metadata.
struct Wrong {
    rule: Rule,
    key: String,
    message: String,
}

/// The path to measure, or all that is wrong.
fn read(trigger: &Trigger, known: Known<'_>) -> Result<String, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let mut add = |rule, key: &str, message| wrong.push(Wrong { rule, key: key.to_owned(), message });
    let url = trigger.value(URL);
    let parts = url.and_then(Url::read);
    match (url, parts) {
        (None, _) => add(
            Rule::HttpMissing,
            URL,
            format!("is missing; state what is to be asked for, such as {EXAMPLE}"),
        ),
        (Some(_), Some(parts)) => {
            if let Some(message) = host_complaint(parts, known) {
                add(Rule::HttpHost, URL, message);
            }
        }
        (Some(url), None) => {
            add(Rule::HttpUnreadable, URL, format!("{url:?} is no URL; use one such as {EXAMPLE}"));
        }
    }
    let path = parts.map_or_else(|| DEFAULT_PATH.to_owned(), |parts| path(parts.rest));
    let stated = |key: &str| Some((key.to_owned(), trigger.value(key)?.to_owned()));
    let mut metadata: BTreeMap<_, _> = [TARGET, ACTIVATION].into_iter().filter_map(stated).collect();
    metadata.insert(SIGNAL.to_owned(), Signal::ResponseTime.name().to_owned());
    metadata.insert(PATH.to_owned(), path.clone());
    for Fault { key, missing, message } in trigger::Trigger::read(&metadata).err().into_iter().flatten() {
        let rule = if missing { Rule::HttpMissing } else { Rule::HttpUnreadable };
        match key {
            PATH => add(rule, URL, format!("its path {message}")),
            key => add(rule, key, message),
        }
    }
    for key in trigger.metadata.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        let says = unknown_key(key, &KEYS);
        add(
            Rule::HttpUnknownKey,
            key,
            format!("is nothing that a trigger {HTTP:?} has, and would be lost; {says}"),
        );
    }
    if wrong.is_empty() { Ok(path) } else { Err(wrong) }
}

/// What is to be asked for, of what follows the host.
fn path(rest: &str) -> String {
    match rest.chars().next() {
        None => DEFAULT_PATH.to_owned(),
        Some('/') => rest.to_owned(),
        Some(_) => format!("/{rest}"),
    }
}

/// What is wrong with the host, if anything. A password is not repeated.
fn host_complaint(url: Url<'_>, known: Known<'_>) -> Option<String> {
    let Known { namespace, external: ExternalScaler { domain, .. }, .. } = known;
    let Url { has_user, host, rest: _ } = url;
    if has_user {
        return Some(format!(
            "names a user, and nobody is logged in; use a URL without one, such as {EXAMPLE}"
        ));
    }
    (!is_of_the_cluster(host, namespace, domain)).then(|| {
        format!(
            "{host:?} is no Service here, and only pods of the {KIND} are asked; use the name of a Service: one word, <service>.{namespace}, or one that ends in .svc or .svc.{domain}"
        )
    })
}

/// Whether a host is the name of a Service, as pods of the namespace may spell it.
fn is_of_the_cluster(host: &str, namespace: &str, domain: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels: Vec<_> = name.split('.').collect();
    let within = name.strip_suffix(domain).and_then(|name| name.strip_suffix('.')).unwrap_or(&name);
    labels.iter().copied().all(is_label)
        && match labels[..] {
            // A number alone is an address.
            [service] => !service.bytes().all(|byte| byte.is_ascii_digit()),
            [_, of] if of == namespace => true,
            _ => within.rsplit_once('.').is_some_and(|(_, last)| last == "svc"),
        }
}
