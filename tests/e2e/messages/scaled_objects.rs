//! Writes of ScaledObjects: each a sound one with one thing changed.

use serde_json::{Value, json};
use vllm_operator::policy::Rule;

use super::{NS, Transcript};

const REWRITE: &str = "training.distributed-inference.io/rewrite-triggers";

/// Names, ranges, and what else they state but for triggers.
pub async fn themselves(transcript: &mut Transcript<'_>) -> anyhow::Result<()> {
    let paused =
        |count: &str| json!({"metadata": {"annotations": {"autoscaling.keda.sh/paused-replicas": count}}});
    let of = |cluster: &str| json!({"spec": {"scaleTargetRef": {"name": cluster}}});
    let spec = |spec: Value| json!({"spec": spec});
    let advanced = |advanced: Value| json!({"spec": {"advanced": advanced}});
    for (rule, patch) in [
        (Rule::ScalerMinimumBelowOne, spec(json!({"minReplicaCount": 0}))),
        (Rule::ScalerIdle, spec(json!({"idleReplicaCount": 0}))),
        (Rule::ScalerMaximumBelowOne, spec(json!({"maxReplicaCount": 0}))),
        (Rule::ScalerMinimumAboveMaximum, spec(json!({"minReplicaCount": 5, "maxReplicaCount": 4}))),
        (
            Rule::ScalerMinimumAboveDefault,
            spec(
                json!({"scaleTargetRef": {"name": "plain"}, "minReplicaCount": 101, "maxReplicaCount": null}),
            ),
        ),
        (Rule::ScalerOutsideBounds, spec(json!({"minReplicaCount": 11, "maxReplicaCount": 12}))),
        (Rule::ScalerWider, spec(json!({"minReplicaCount": 1, "maxReplicaCount": 12}))),
        (Rule::FallbackOutsideBounds, spec(json!({"fallback": {"failureThreshold": 3, "replicas": 11}}))),
        (
            Rule::FallbackWithoutFormula,
            spec(json!({"fallback": {"failureThreshold": 3, "replicas": 2, "behavior": "scalingModifiers"}})),
        ),
        (
            Rule::FallbackOfResources,
            spec(json!({"fallback": {"failureThreshold": 3, "replicas": 2}, "triggers": [cpu(&json!({}))]})),
        ),
        (Rule::PausedUnreadable, paused("two")),
        (Rule::PausedOutsideBounds, paused("11")),
        (Rule::FormulaMissing, advanced(json!({"scalingModifiers": {"activationTarget": "5"}}))),
        (Rule::FormulaWithoutTarget, advanced(json!({"scalingModifiers": {"formula": "q"}}))),
        (
            Rule::FormulaTargetNotPositive,
            advanced(json!({"scalingModifiers": {"formula": "q", "target": "0"}})),
        ),
        (Rule::ScalerNameTooLong, json!({"metadata": {"name": "n".repeat(64)}})),
        (Rule::HpaNameTooLong, advanced(json!({"horizontalPodAutoscalerConfig": {"name": "h".repeat(64)}}))),
        (Rule::DefaultHpaNameTooLong, json!({"metadata": {"name": "n".repeat(55)}})),
        (Rule::SecondScaler, of("held")),
        (Rule::ForeignHpa, of("driven")),
        (
            Rule::HpaWithoutOwner,
            json!({"metadata": {"name": "restored"}, "spec": {"scaleTargetRef": {"name": "restored"}}}),
        ),
        (Rule::TargetMissing, of("not-yet")),
        (Rule::NoTriggers, spec(json!({"triggers": []}))),
    ] {
        create(transcript, rule, &patch).await?;
    }
    Ok(())
}

/// Triggers.
pub async fn triggers(transcript: &mut Transcript<'_>) -> anyhow::Result<()> {
    let mut named = prometheus(&json!({}));
    named["name"] = json!("q");
    let mut cached = trigger(
        "cron",
        json!({"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "3"}),
        &json!({}),
    );
    cached["useCachedMetrics"] = json!(true);
    let memory = json!({"type": "memory", "metricType": "Utilization", "metadata": {"value": "80"}});
    let aimless = json!({"type": "cpu", "metadata": {"value": "80"}});
    let older = json!({"type": "cpu", "metadata": {"type": "Utilization", "value": "80"}});
    for (rule, patch) in [
        (Rule::TriggerNameTwice, json!({"spec": {"triggers": [named, named]}})),
        (Rule::CachedMetrics, one(cached)),
        (Rule::TriggerTypeMisspelt, one(json!({"type": "promethues", "metadata": {"query": "up"}}))),
        (
            Rule::TriggerTypeUnknown,
            one(json!({"type": "of-another-release", "metadata": {"address": "there"}})),
        ),
        (Rule::PrometheusMissing, one(prometheus(&json!({"serverAddress": null})))),
        (Rule::PrometheusMissing, one(prometheus(&json!({"query": null})))),
        (Rule::PrometheusMissing, one(prometheus(&json!({"threshold": null})))),
        (Rule::PrometheusUnreadable, one(prometheus(&json!({"serverAddress": "prometheus:9090"})))),
        (Rule::PrometheusUnreadable, one(prometheus(&json!({"threshold": "five"})))),
        (Rule::PrometheusUnreadable, one(prometheus(&json!({"threshold": "0"})))),
        (Rule::PrometheusUnreadable, one(prometheus(&json!({"ignoreNullValues": "yes"})))),
        (Rule::PrometheusUnreadable, one(prometheus(&json!({"timeout": "soon"})))),
        (Rule::PrometheusUnreadable, one(prometheus(&json!({"customHeaders": "a"})))),
        (Rule::PrometheusMetricName, as_it_is(prometheus(&json!({"metricName": "waiting"})))),
        (Rule::RewroteMetricName, one(prometheus(&json!({"metricName": "waiting"})))),
        (Rule::UnknownMetric, one(prometheus(&json!({"query": "sum(vllm:gpu_cache_usage_perc)"})))),
        (Rule::MetricsApiMissing, one(metrics_api(&json!({"url": null})))),
        (Rule::MetricsApiMissing, one(metrics_api(&json!({"valueLocation": null})))),
        (Rule::MetricsApiMissing, one(metrics_api(&json!({"targetValue": null})))),
        (Rule::MetricsApiUnreadable, one(metrics_api(&json!({"url": "example"})))),
        (Rule::MetricsApiUnreadable, one(metrics_api(&json!({"format": "toml"})))),
        (Rule::MetricsApiUnreadable, one(metrics_api(&json!({"aggregationType": "median"})))),
        (Rule::ExternalMetricType, one(aimed(prometheus(&json!({})), "Utilization"))),
        (Rule::ResourceOlderType, as_it_is(older.clone())),
        (Rule::ResourceOlderType, one(cpu(&json!({"type": "AverageValue"})))),
        (Rule::RewroteType, one(older)),
        (Rule::ResourceTypeMissing, one(aimless)),
        (Rule::ResourceMetricType, one(aimed(cpu(&json!({})), "Value"))),
        (Rule::ResourceValueMissing, one(cpu(&json!({"value": null})))),
        (Rule::ResourceValueUnreadable, one(cpu(&json!({"value": "80%"})))),
        (
            Rule::CpuWithoutRequest,
            json!({"spec": {"scaleTargetRef": {"name": "plain"}, "triggers": [cpu(&json!({}))]}}),
        ),
        (Rule::MemoryWithoutRequest, one(memory)),
    ] {
        create(transcript, rule, &patch).await?;
    }
    Ok(())
}

/// Triggers that the operator answers, and those of the older form that become such.
pub async fn answered(transcript: &mut Transcript<'_>) -> anyhow::Result<()> {
    let http = |metadata: &Value| {
        trigger("http", json!({"url": "http://a:8000/v1/models", "targetValue": "100"}), metadata)
    };
    let own = |metadata: &Value| {
        let sound = json!({
            "scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:443", "signal": "queue", "targetValue": "5",
        });
        trigger("external", sound, metadata)
    };
    let mut other_reference = own(&json!({}));
    other_reference["authenticationRef"] = json!({"name": "mine"});
    let mut pushes = own(&json!({}));
    pushes["type"] = json!("external-push");
    for (rule, patch) in [
        (Rule::HttpTrigger, as_it_is(http(&json!({})))),
        (Rule::HttpMissing, one(http(&json!({"url": null})))),
        (Rule::HttpMissing, one(http(&json!({"targetValue": null})))),
        (Rule::HttpUnreadable, one(http(&json!({"url": "a:8000"})))),
        (Rule::HttpUnreadable, one(http(&json!({"url": "http://a:8000/#x"})))),
        (Rule::HttpUnreadable, one(http(&json!({"targetValue": "fast"})))),
        (Rule::HttpHost, one(http(&json!({"url": "http://www.example.com/"})))),
        (Rule::HttpHost, one(http(&json!({"url": "http://jane:secret@a:8000/"})))),
        (Rule::HttpUnknownKey, one(http(&json!({"method": "GET"})))),
        (Rule::HttpUnknownKey, one(http(&json!({"targetvalue": "100"})))),
        (Rule::RewroteHttp, one(http(&json!({})))),
        (
            Rule::OwnAddress,
            one(own(&json!({"scalerAddress": "vllm-operator-scaler.vllm-operator-system:9444"}))),
        ),
        (Rule::OwnPush, one(pushes)),
        (Rule::OwnMissing, one(own(&json!({"signal": null})))),
        (Rule::OwnMissing, one(own(&json!({"targetValue": null})))),
        (Rule::OwnUnreadable, one(own(&json!({"signal": "que"})))),
        (Rule::OwnUnreadable, one(own(&json!({"targetValue": "five"})))),
        (Rule::OwnUnreadable, one(own(&json!({"path": "v1"})))),
        (Rule::OwnUnreadable, one(own(&json!({"enableTLS": "yes"})))),
        (Rule::OwnUnknownKey, one(own(&json!({"model": "x"})))),
        (Rule::OwnUnknownKey, one(own(&json!({"runingTarget": "5"})))),
        (Rule::OwnMetricType, one(aimed(own(&json!({})), "Value"))),
        (Rule::OwnAuthentication, one(other_reference)),
    ] {
        create(transcript, rule, &patch).await?;
    }
    Ok(())
}

fn one(trigger: Value) -> Value {
    json!({"spec": {"triggers": Value::from(vec![trigger])}})
}

fn as_it_is(trigger: Value) -> Value {
    let mut patch = one(trigger);
    patch["metadata"] = json!({"annotations": {REWRITE: "false"}});
    patch
}

fn aimed(mut trigger: Value, metric_type: &str) -> Value {
    trigger["metricType"] = json!(metric_type);
    trigger
}

async fn create(transcript: &mut Transcript<'_>, rule: Rule, patch: &Value) -> anyhow::Result<()> {
    let mut object = json!({
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "new"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "training.distributed-inference.io/v1alpha1",
                "kind": "VLLMCluster",
                "name": "free",
            },
            "minReplicaCount": 2,
            "maxReplicaCount": 10,
            "triggers": [prometheus(&json!({}))],
        },
    });
    json_patch::merge(&mut object, patch);
    let gist = patch.get("spec").filter(|_| patch.get("metadata").is_none()).unwrap_or(patch).to_string();
    transcript.run(&[rule], (NS, "create --dry-run=server -f -"), Some((&gist, object.to_string()))).await
}

fn prometheus(metadata: &Value) -> Value {
    let sound = json!({
        "serverAddress": "http://prometheus:9090", "query": "sum(vllm:num_requests_waiting)", "threshold": "5",
    });
    trigger("prometheus", sound, metadata)
}

fn metrics_api(metadata: &Value) -> Value {
    let sound = json!({"url": "https://example/load", "valueLocation": "waiting", "targetValue": "5"});
    trigger("metrics-api", sound, metadata)
}

fn cpu(metadata: &Value) -> Value {
    let mut cpu = trigger("cpu", json!({"value": "80"}), metadata);
    cpu["metricType"] = json!("Utilization");
    cpu
}

fn trigger(type_: &str, mut sound: Value, metadata: &Value) -> Value {
    json_patch::merge(&mut sound, metadata);
    json!({"type": type_, "metadata": sound})
}
