//! What is wrong with the triggers.
//!
//! One trigger that KEDA cannot build leaves the whole ScaledObject without an HPA, so every fault refuses that is
//! certain before KEDA tries.
//!
//! Architecture invariant: a trigger is judged by its type's table of metadata; how a value must read stands in
//! `values`.

use std::collections::BTreeSet;

use crate::api::names::KIND;
use crate::policy::{Clause, Finding, Rule};

use super::check::{Judged, Violation};
use super::default::RESOURCE_TYPES;
use super::http::HTTP;
use super::values::{Form, one_slip};
use super::view::{ScaledObject, Trigger};
use super::{Known, http, metrics, own};

/// The triggers of KEDA 2.21, as `pkg/scaling/scalers_builder.go` lists them.
const KNOWN: [&str; 80] = [
    "activemq",
    "apache-kafka",
    "arangodb",
    "artemis-queue",
    "aws-cloudwatch",
    "aws-dynamodb",
    "aws-dynamodb-streams",
    "aws-kinesis-stream",
    "aws-sqs-queue",
    "azure-app-insights",
    "azure-blob",
    "azure-cosmosdb",
    "azure-data-explorer",
    "azure-eventhub",
    "azure-log-analytics",
    "azure-monitor",
    "azure-pipelines",
    "azure-queue",
    "azure-servicebus",
    "beanstalkd",
    "cassandra",
    "clickhouse",
    "couchdb",
    "cpu",
    "cron",
    "datadog",
    "dynatrace",
    "elastic-forecast",
    "elasticsearch",
    "etcd",
    "external",
    "external-mock",
    "external-push",
    "forgejo-runner",
    "gcp-cloudtasks",
    "gcp-pubsub",
    "gcp-spanner",
    "gcp-stackdriver",
    "gcp-storage",
    "github-runner",
    "graphite",
    "huawei-cloudeye",
    "ibmmq",
    "influxdb",
    "kafka",
    "kubernetes-resource",
    "kubernetes-workload",
    "liiklus",
    "loki",
    "memory",
    "metrics-api",
    "mongodb",
    "mssql",
    "mysql",
    "nats-jetstream",
    "new-relic",
    "nsq",
    "opensearch",
    "openstack-metric",
    "openstack-swift",
    "postgresql",
    "predictkube",
    "prometheus",
    "pulsar",
    "rabbitmq",
    "redis",
    "redis-cluster",
    "redis-cluster-streams",
    "redis-sentinel",
    "redis-sentinel-streams",
    "redis-streams",
    "selenium-grid",
    "solace-direct-messaging",
    "solace-event-queue",
    "solarwinds",
    "solr",
    "splunk",
    "splunk-observability",
    "sumologic",
    "temporal",
];

/// One key of a trigger's metadata.
struct Key {
    name: &'static str,
    required: bool,
    form: Form,
}

const fn required(name: &'static str, form: Form) -> Key {
    Key { name, required: true, form }
}

const fn optional(name: &'static str, form: Form) -> Key {
    Key { name, required: false, form }
}

/// What is read of the metadata of one type of trigger.
struct Metadata {
    missing: Rule,
    unreadable: Rule,
    keys: &'static [Key],
}

const PROMETHEUS: Metadata = Metadata {
    missing: Rule::PrometheusMissing,
    unreadable: Rule::PrometheusUnreadable,
    keys: &[
        required("serverAddress", Form::Url),
        required("query", Form::Text("a query such as sum(vllm:num_requests_waiting)")),
        required("threshold", Form::Threshold),
        optional("activationThreshold", Form::Number),
        optional("ignoreNullValues", Form::Bool),
        optional("unsafeSsl", Form::Bool),
        optional("timeout", Form::Duration),
        optional("customHeaders", Form::Pairs),
        optional("queryParameters", Form::Pairs),
    ],
};

const METRICS_API: Metadata = Metadata {
    missing: Rule::MetricsApiMissing,
    unreadable: Rule::MetricsApiUnreadable,
    keys: &[
        required("url", Form::Url),
        required("valueLocation", Form::Text("where the number stands in the answer, such as load.waiting")),
        required("targetValue", Form::Threshold),
        optional("activationTargetValue", Form::Number),
        optional("unsafeSsl", Form::Bool),
        optional("aggregateFromKubeServiceEndpoints", Form::Bool),
        optional("timeout", Form::Duration),
        optional("format", Form::OneOf(&["json", "prometheus", "xml", "yaml"])),
        optional("aggregationType", Form::OneOf(&["average", "sum", "max", "min"])),
    ],
};

/// Judges all triggers, each by itself and against each other.
pub(super) fn judge_triggers(cluster: &str, object: &ScaledObject, known: Known<'_>, judged: &mut Judged) {
    let spec = &object.spec;
    if spec.triggers.is_empty() {
        judged.wrong(Violation::new(
            Rule::NoTriggers,
            "spec.triggers",
            "there is none, and KEDA scales nothing; add one, such as a prometheus trigger on vllm:num_requests_waiting",
        ));
    }
    let mut names = BTreeSet::new();
    for (index, trigger) in spec.triggers.iter().enumerate() {
        if judged.has_enough() {
            judged.leave_out();
            break;
        }
        judge_name(index, trigger, &mut names, judged);
        if trigger.use_cached_metrics && matches!(trigger.type_.as_str(), "cpu" | "memory" | "cron") {
            judged.wrong(Violation::of_trigger(
                Rule::CachedMetrics,
                index,
                "useCachedMetrics",
                format!("KEDA caches no metrics of a {} trigger; remove useCachedMetrics", trigger.type_),
            ));
        }
        match trigger.type_.as_str() {
            "prometheus" => {
                judge_external(index, trigger, &PROMETHEUS, spec.modifiers.is_some(), judged);
                judge_prometheus(index, trigger, judged);
            }
            "metrics-api" => {
                judge_external(index, trigger, &METRICS_API, spec.modifiers.is_some(), judged);
            }
            "cpu" => {
                judge_resource(index, trigger, cluster, known.cluster.map(|known| known.cpu_request), judged);
            }
            "memory" => {
                judge_resource(
                    index,
                    trigger,
                    cluster,
                    known.cluster.map(|known| known.memory_request),
                    judged,
                );
            }
            HTTP => http::judge(index, trigger, object, known, judged),
            _ if known.external.is_meant_by(trigger) => own::judge(index, trigger, &known.external, judged),
            other => judge_type(index, other, judged),
        }
    }
}

fn judge_name<'a>(index: usize, trigger: &'a Trigger, seen: &mut BTreeSet<&'a str>, judged: &mut Judged) {
    let Some(name) = trigger.name.as_deref() else { return };
    if !seen.insert(name) {
        judged.wrong(Violation::of_trigger(
            Rule::TriggerNameTwice,
            index,
            "name",
            format!("{name:?} is the name of an earlier trigger too; use each name once"),
        ));
    }
}

fn judge_type(index: usize, type_: &str, judged: &mut Judged) {
    if KNOWN.contains(&type_) {
        return;
    }
    let lower = type_.to_lowercase();
    let meant = KNOWN.iter().find(|known| **known == lower || one_slip(known, &lower));
    if let Some(meant) = meant {
        judged.wrong(Violation::of_trigger(
            Rule::TriggerTypeMisspelt,
            index,
            "type",
            format!(
                "KEDA has no trigger {type_:?}, and a ScaledObject with such a trigger scales nothing at all; use {meant:?}"
            ),
        ));
    } else {
        judged.warn(Finding::new(
            Rule::TriggerTypeUnknown,
            format!("spec.triggers[{index}].type"),
            format!(
                "KEDA 2.21 has no trigger {type_:?}; unless yours has it, the ScaledObject scales nothing at all"
            ),
        ));
    }
}

/// A trigger whose metric the HPA asks KEDA for.
fn judge_external(index: usize, trigger: &Trigger, read: &Metadata, composite: bool, judged: &mut Judged) {
    let Metadata { missing, unreadable, keys } = read;
    for Key { name, required, form } in *keys {
        // Of a metric that only feeds a formula, the HPA never sees the threshold; metrics-api may leave it out.
        let feeds = composite && *form == Form::Threshold && Clause::FeedsFormula.in_force();
        let form = if feeds { Form::Number } else { *form };
        let fault = match trigger.value(name) {
            Some(value) => form.complaint(value).map(|message| (*unreadable, message)),
            None if *required && !(feeds && trigger.type_ == "metrics-api") => {
                Some((*missing, format!("is missing; state {}", form.example())))
            }
            None => None,
        };
        if let Some((rule, message)) = fault {
            judged.wrong(Violation::of_trigger(rule, index, format!("metadata.{name}"), message));
        }
    }
    if let Some(metric_type) = trigger.metric_type.as_deref()
        && !matches!(metric_type, "AverageValue" | "Value")
    {
        judged.wrong(Violation::of_trigger(
            Rule::ExternalMetricType,
            index,
            "metricType",
            format!(
                "{metric_type:?} is nothing a {} trigger can aim at; use AverageValue or Value, or leave it out for AverageValue",
                trigger.type_
            ),
        ));
    }
}

fn judge_prometheus(index: usize, trigger: &Trigger, judged: &mut Judged) {
    if trigger.metadata.contains_key("metricName") {
        judged.wrong(Violation::of_trigger(
            Rule::PrometheusMetricName,
            index,
            "metadata.metricName",
            "is an older form that KEDA ignores; remove it",
        ));
    }
    for complaint in trigger.value("query").map(metrics::complaints).unwrap_or_default() {
        let field = format!("spec.triggers[{index}].metadata.query");
        judged.warn(Finding::new(Rule::UnknownMetric, field, complaint));
    }
}

/// A trigger that the HPA measures by itself, against what the pods request.
fn judge_resource(
    index: usize,
    trigger: &Trigger,
    cluster: &str,
    has_request: Option<bool>,
    judged: &mut Judged,
) {
    let type_ = &trigger.type_;
    let mut wrong = |rule, field: &str, message: String| {
        judged.wrong(Violation::of_trigger(rule, index, field, message));
    };
    let (older, current) = (trigger.value("type"), trigger.metric_type.as_deref());
    match (older, current) {
        (Some(older), None) if RESOURCE_TYPES.contains(&older) => wrong(
            Rule::ResourceOlderType,
            "metadata.type",
            format!(
                "is an older form that KEDA refuses; remove it and set metricType: {older} beside type: {type_}"
            ),
        ),
        (Some(older), None) => wrong(
            Rule::ResourceOlderType,
            "metadata.type",
            format!(
                "{older:?} is an older form that KEDA refuses; remove it and set metricType to Utilization or AverageValue beside type: {type_}"
            ),
        ),
        (Some(older), Some(current)) => wrong(
            Rule::ResourceOlderType,
            "metadata.type",
            format!(
                "{older:?} is an older form that KEDA refuses, and metricType says {current:?}; remove metadata.type"
            ),
        ),
        (None, None) => wrong(
            Rule::ResourceTypeMissing,
            "metricType",
            format!("is missing; set it to Utilization or AverageValue beside type: {type_}"),
        ),
        (None, Some(_)) => {}
    }
    if let Some(current) = current.filter(|current| !RESOURCE_TYPES.contains(current)) {
        wrong(
            Rule::ResourceMetricType,
            "metricType",
            format!("{current:?} is nothing a {type_} trigger can aim at; use Utilization or AverageValue"),
        );
    }
    let form = match current.or(older) {
        Some("AverageValue") => Form::Quantity,
        _ => Form::Percentage,
    };
    match trigger.value("value") {
        None => wrong(
            Rule::ResourceValueMissing,
            "metadata.value",
            format!("is missing; state {}", form.example()),
        ),
        // Without a type, it is unknown how the value is to be read.
        Some(value) if current.or(older).is_some_and(|type_| RESOURCE_TYPES.contains(&type_)) => {
            if let Some(message) = form.complaint(value) {
                wrong(Rule::ResourceValueUnreadable, "metadata.value", message);
            }
        }
        Some(_) => {}
    }
    if has_request == Some(false) {
        wrong(
            if type_ == "cpu" { Rule::CpuWithoutRequest } else { Rule::MemoryWithoutRequest },
            "type",
            format!(
                "the pods of {KIND} {cluster:?} request no {type_}, which a {type_} trigger demands; set resources.requests.{type_} there first, or use another trigger"
            ),
        );
    }
}
