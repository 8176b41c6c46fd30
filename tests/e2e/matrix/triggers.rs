//! Writes of ScaledObjects: triggers, their metadata, names, and scaling modifiers.
//!
//! **Architecture invariant**: each row states its outcome; none is computed by the code under test.

use serde_json::{Value, json};

use super::axes::{Decider, Kind, Place, Verb};
use super::case::{Case, Expect};
use super::objects::{cluster, scaled_object};
use super::scaled_objects::{bounded, modifiers, queue, waiting};

/// Within the bounds, with these triggers.
fn case(name: &'static str, triggers: impl Into<Value>) -> Case {
    let triggers = triggers.into();
    let spec = json!({"minReplicaCount": 3, "maxReplicaCount": 6, "triggers": triggers});
    super::scaled_objects::case(name, spec)
}

/// With one prometheus trigger, in which these values of its metadata are other ones; null: absent.
fn prometheus(name: &'static str, metadata: Value) -> Case {
    let mut trigger = waiting();
    change(&mut trigger["metadata"], metadata);
    case(name, json!([trigger]))
}

/// With one metrics-api trigger, likewise.
fn metrics_api(name: &'static str, metadata: Value) -> Case {
    let mut trigger = json!({"type": "metrics-api", "metadata": {
        "url": "http://a:8000/load", "valueLocation": "server_load", "targetValue": "4",
    }});
    change(&mut trigger["metadata"], metadata);
    case(name, json!([trigger]))
}

fn change(metadata: &mut Value, changes: Value) {
    let (Some(metadata), Value::Object(changes)) = (metadata.as_object_mut(), changes) else { return };
    for (key, value) in changes {
        if value.is_null() {
            metadata.remove(&key);
        } else {
            metadata.insert(key, value);
        }
    }
}

fn resource(name: &'static str, trigger: impl Into<Value>) -> Case {
    let trigger = trigger.into();
    case(name, json!([trigger]))
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = metadata().into_iter().chain(resources()).map(Case::detail).collect();
    cases.extend(kinds());
    cases.extend(answered());
    cases.extend(names());
    cases
}

fn metadata() -> Vec<Case> {
    vec![
        prometheus("prometheus-without-address", json!({"serverAddress": null}))
            .mutating(&["spec.triggers[0].metadata.serverAddress: is missing; state an address such as"]),
        prometheus("prometheus-without-scheme", json!({"serverAddress": "prometheus:9090"}))
            .mutating(&["spec.triggers[0].metadata.serverAddress: \"prometheus:9090\" is no URL; use an address such as"]),
        prometheus("prometheus-without-query", json!({"query": null}))
            .mutating(&["spec.triggers[0].metadata.query: is missing; state a query such as"]),
        prometheus("prometheus-without-threshold", json!({"threshold": null}))
            .mutating(&["spec.triggers[0].metadata.threshold: is missing; state a number of at least 0.001"]),
        prometheus("prometheus-threshold-zero", json!({"threshold": "0"}))
            .mutating(&["spec.triggers[0].metadata.threshold: \"0\" is not above 0"]),
        prometheus("prometheus-threshold-text", json!({"threshold": "five"}))
            .mutating(&["spec.triggers[0].metadata.threshold: \"five\" is no number"]),
        prometheus("prometheus-threshold-no-string", json!({"threshold": 5}))
            .schema("spec.triggers[0].metadata.threshold: Invalid value: \"integer\"")
            .expect_by(Verb::Apply, Expect::refused(Decider::Schema, &["threshold"])),
        prometheus("prometheus-switch-unreadable", json!({"ignoreNullValues": "yes"}))
            .mutating(&["spec.triggers[0].metadata.ignoreNullValues: \"yes\" is neither true nor false"]),
        prometheus("prometheus-nothing-stated", json!({"serverAddress": null, "query": null, "threshold": null})).mutating(&[
            "spec.triggers[0].metadata.serverAddress: is missing",
            "spec.triggers[0].metadata.query: is missing",
            "spec.triggers[0].metadata.threshold: is missing",
        ]),
        prometheus("prometheus-metric-nobody-exports", json!({"query": "avg(vllm:gpu_cache_usage_perc)"})).expect(
            Expect::passes().warns(&[
                "spec.triggers[0].metadata.query: vLLM exports no vllm:gpu_cache_usage_perc, and an empty result counts as 0; use vllm:kv_cache_usage_perc",
            ]),
        ),
        prometheus("prometheus-older-name", json!({"metricName": "queue"}))
            .expect(Expect::stores([("/triggers/0/metadata/metricName", Value::Null)]).warns(&[
                "spec.triggers[0]: metadata.metricName is an older form that KEDA ignores",
            ])),
        not_rewritten(prometheus("prometheus-older-name-kept", json!({"metricName": "queue"})))
            .mutating(&["spec.triggers[0].metadata.metricName: is an older form that KEDA ignores; remove it"]),
        {
            let mut trigger = waiting();
            trigger["metricType"] = json!("Utilization");
            case("prometheus-utilization", json!([trigger]))
                .mutating(&["spec.triggers[0].metricType: \"Utilization\" is nothing a prometheus trigger can aim at"])
        },
        metrics_api("metrics-api", json!({})),
        metrics_api("metrics-api-without-url", json!({"url": null}))
            .mutating(&["spec.triggers[0].metadata.url: is missing; state an address"]),
        metrics_api("metrics-api-without-location", json!({"valueLocation": null}))
            .mutating(&["spec.triggers[0].metadata.valueLocation: is missing"]),
        metrics_api("metrics-api-without-target", json!({"targetValue": null}))
            .mutating(&["spec.triggers[0].metadata.targetValue: is missing"]),
        metrics_api("metrics-api-unknown-format", json!({"format": "csv"}))
            .mutating(&["spec.triggers[0].metadata.format: \"csv\" is unknown to KEDA; use json, prometheus, xml, yaml"]),
    ]
}

fn not_rewritten(case: Case) -> Case {
    case.annotated("training.distributed-inference.io/rewrite-triggers", "false")
}

/// cpu and memory. The cluster's pods request cpu, and no memory.
fn resources() -> Vec<Case> {
    let cpu = |value: &str| json!({"type": "cpu", "metricType": "Utilization", "metadata": {"value": value}});
    let older = || json!({"type": "cpu", "metadata": {"type": "Utilization", "value": "70"}});
    let idle = || cluster("a@", json!({"replicas": 4, "minReplicas": 2, "maxReplicas": 10}));
    vec![
        resource("cpu", cpu("70")),
        resource("cpu-older", older()).expect(
            Expect::stores([
                ("/triggers/0/metadata/type", Value::Null),
                ("/triggers/0/metricType", json!("Utilization")),
            ])
            .warns(&["spec.triggers[0]: metadata.type is out of date and KEDA refuses it; stored as metricType: Utilization. In your manifest, move it there"]),
        ),
        not_rewritten(resource("cpu-older-kept", older()))
            .mutating(&["spec.triggers[0].metadata.type: is an older form that KEDA refuses; remove it and set metricType: Utilization"]),
        resource(
            "cpu-says-two-things",
            json!({"type": "cpu", "metricType": "AverageValue", "metadata": {"type": "Utilization", "value": "1"}}),
        )
        .mutating(&["spec.triggers[0].metadata.type: \"Utilization\" is an older form that KEDA refuses, and metricType says \"AverageValue\""]),
        resource("cpu-without-type", json!({"type": "cpu", "metadata": {"value": "70"}}))
            .mutating(&["spec.triggers[0].metricType: is missing; set it to Utilization or AverageValue"]),
        resource("cpu-without-value", json!({"type": "cpu", "metricType": "Utilization", "metadata": {}}))
            .mutating(&["spec.triggers[0].metadata.value: is missing; state a whole number"]),
        resource("cpu-percent-sign", cpu("70%")).mutating(&["spec.triggers[0].metadata.value: \"70%\" is no percentage above 0"]),
        resource("cpu-quantity", json!({"type": "cpu", "metricType": "AverageValue", "metadata": {"value": "a lot"}}))
            .mutating(&["spec.triggers[0].metadata.value: \"a lot\" is no quantity above 0"]),
        resource("cpu-value", json!({"type": "cpu", "metricType": "Value", "metadata": {"value": "70"}}))
            .mutating(&["spec.triggers[0].metricType: \"Value\" is nothing a cpu trigger can aim at"]),
        resource("cpu-without-request", cpu("70"))
            .around([idle()])
            .mutating(&["spec.triggers[0].type: the pods of VLLMCluster \"a@\" request no cpu, which a cpu trigger demands"]),
        resource("cpu-with-the-namespaces-request", cpu("70")).place(Place::Limits).around([idle()]),
        resource("memory-without-request", json!({"type": "memory", "metricType": "AverageValue", "metadata": {"value": "2Gi"}}))
            .mutating(&["spec.triggers[0].type: the pods of VLLMCluster \"a@\" request no memory"]),
        resource("memory-without-the-namespaces-request", json!({"type": "memory", "metricType": "AverageValue", "metadata": {"value": "2Gi"}}))
            .place(Place::Limits)
            .around([idle()])
            .mutating(&["spec.triggers[0].type: the pods of VLLMCluster \"a@\" request no memory"]),
        {
            let mut trigger = cpu("70");
            trigger["useCachedMetrics"] = json!(true);
            resource("cpu-cached", trigger)
                .mutating(&["spec.triggers[0].useCachedMetrics: KEDA caches no metrics of a cpu trigger"])
        },
        {
            let mut case = resource("cpu-alone-with-fallback", cpu("70"));
            case.write["spec"]["fallback"] = json!({"failureThreshold": 3, "replicas": 3});
            case.mutating(&["spec.fallback: cpu and memory triggers have no fallback in KEDA"])
        },
    ]
}

/// Which triggers there are.
fn kinds() -> Vec<Case> {
    let of = |type_: &str| json!([{"type": type_, "metadata": {"x": "y"}}]);
    vec![
        case("no-triggers", json!([])).mutating(&["spec.triggers: there is none, and KEDA scales nothing"]),
        {
            let mut case = case("triggers-absent", json!([waiting()]));
            if let Some(spec) = case.write["spec"].as_object_mut() {
                spec.remove("triggers");
            }
            case.mutating(&["spec.triggers: there is none, and KEDA scales nothing"])
        },
        case("trigger-misspelt", of("promtheus"))
            .mutating(&["spec.triggers[0].type: KEDA has no trigger \"promtheus\", and a ScaledObject with such a trigger scales nothing at all; use \"prometheus\""]),
        case("trigger-in-capitals", of("Prometheus")).mutating(&["spec.triggers[0].type: KEDA has no trigger \"Prometheus\""]),
        case("trigger-unknown", of("frobnicator"))
            .expect(Expect::passes().warns(&["spec.triggers[0].type: KEDA 2.21 has no trigger \"frobnicator\""])),
        {
            let mut first = waiting();
            first["name"] = json!("x");
            case("trigger-names-twice", json!([first.clone(), first]))
                .mutating(&["spec.triggers[1].name: \"x\" is the name of an earlier trigger too"])
        },
        case("second-trigger-misspelt", json!([waiting(), {"type": "promtheus", "metadata": {}}]))
            .mutating(&["spec.triggers[1].type: KEDA has no trigger \"promtheus\""]),
    ]
}

/// Triggers that the operator answers, and those of the older form that become such: what is said of them whether or not KEDA can
/// reach the scaler, which lint takes for granted.
fn answered() -> Vec<Case> {
    let http = |name, metadata: Value| {
        let mut trigger = json!({"type": "http", "metadata": {
            "url": "http://vllm-cluster:8000/v1/models", "targetValue": "100",
        }});
        change(&mut trigger["metadata"], metadata);
        not_rewritten(case(name, json!([trigger])))
    };
    // Under another address, which is told whatever else there is to tell.
    let own = |name, metadata: Value| {
        let mut trigger = json!({
            "type": "external",
            "metadata": {
                "scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:9444",
                "signal": "queue", "targetValue": "5",
            },
        });
        change(&mut trigger["metadata"], metadata);
        case(name, json!([trigger]))
    };
    let address = "spec.triggers[0].metadata.scalerAddress: \"vllm-operator-scaler.vllm-operator-system.svc:9444\" is the operator's own scaler, but not the address under which KEDA reaches and trusts it; use \"vllm-operator-scaler.vllm-operator-system.svc:443\"";
    vec![
        rewritten(),
        connected(),
        http("http-kept", json!({})).mutating(&[
            "spec.triggers[0].type: KEDA has no trigger \"http\", and a ScaledObject with such a trigger scales nothing at all; remove the annotation training.distributed-inference.io/rewrite-triggers, or write {type: external, metricType: Value, authenticationRef: {kind: ClusterTriggerAuthentication, name: vllm-operator-scaler}, metadata: {scalerAddress: \"vllm-operator-scaler.vllm-operator-system.svc:443\", signal: response-time, path: \"/v1/models\", targetValue: \"100\"}}",
        ]),
        own("scaler-at-another-port", json!({})).mutating(&[address]),
        own("scaler-without-signal", json!({"signal": null}))
            .detail()
            .mutating(&[address, "spec.triggers[0].metadata.signal: is missing; state response-time, queue, running, kv-cache or combined"]),
        own("scaler-target-text", json!({"targetValue": "five"}))
            .detail()
            .mutating(&[address, "spec.triggers[0].metadata.targetValue: \"five\" is no number from 0.001 to"]),
        own("scaler-key-misspelt", json!({"activationTargetvalue": "1"}))
            .detail()
            .mutating(&[address, "spec.triggers[0].metadata.activationTargetvalue: is nothing that the operator's scaler reads; use \"activationTargetValue\""]),
        {
            let mut case = own("scaler-of-another-metric-type", json!({}));
            let trigger = &mut case.write["spec"]["triggers"][0];
            trigger["metricType"] = json!("Value");
            trigger["authenticationRef"] = json!({"name": "mine"});
            case.detail().mutating(&[
                address,
                "spec.triggers[0].metricType: \"Value\" does not suit the signal; use AverageValue",
                "spec.triggers[0].authenticationRef: must be {kind: ClusterTriggerAuthentication, name: vllm-operator-scaler}",
            ])
        },
        case(
            "scaler-pushes",
            json!([{
                "type": "external-push", "metricType": "AverageValue",
                "authenticationRef": scaler_authentication(),
                "metadata": {
                    "scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:443", "signal": "queue", "targetValue": "5",
                },
            }]),
        )
        .mutating(&["spec.triggers[0].type: \"external-push\" waits for a scaler that reports by itself, and the operator's is asked; use \"external\""]),
    ]
}

/// The older form, as it is to be written now.
fn rewritten() -> Case {
    let trigger = json!({"type": "http", "metadata": {"url": "http://vllm-cluster:8000/health?deep=1", "targetValue": "100"}});
    let metadata = json!({
        "scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:443",
        "signal": "response-time", "path": "/health?deep=1", "targetValue": "100",
    });
    case("http-older", json!([trigger])).expect(
        Expect::stores([
            ("/triggers/0/type", json!("external")),
            ("/triggers/0/metricType", json!("Value")),
            ("/triggers/0/authenticationRef", scaler_authentication()),
            ("/triggers/0/metadata", metadata),
        ])
        .warns(&[
            "spec.triggers[0]: KEDA has no trigger \"http\"; stored as {type: external, metricType: Value,",
        ]),
    )
}

/// With what KEDA connects to the operator's scaler.
fn scaler_authentication() -> Value {
    json!({"kind": "ClusterTriggerAuthentication", "name": "vllm-operator-scaler"})
}

/// What follows from the rest is filled in.
fn connected() -> Case {
    let trigger = json!({"type": "external", "metadata": {
        "scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:443", "signal": "queue", "targetValue": "5",
    }});
    case("scaler", json!([trigger])).expect(Expect::stores([
        ("/triggers/0/metricType", json!("AverageValue")),
        ("/triggers/0/authenticationRef", scaler_authentication()),
    ]))
}

fn names() -> Vec<Case> {
    let named = |name, metadata_name: &str, hpa: Option<String>| {
        let mut object = queue("a@", 3, 6);
        object["metadata"]["name"] = json!(metadata_name);
        if let Some(hpa) = hpa {
            object["spec"]["advanced"] = json!({"horizontalPodAutoscalerConfig": {"name": hpa}});
        }
        Case::new(Kind::ScaledObject, name, object).around([bounded()])
    };
    let modified = |name, spec: Value| super::scaled_objects::case(name, spec);
    let (long, longer) = ("q".repeat(52) + "@", "q".repeat(61) + "@");
    vec![
        named("name-as-long-as-may-be", &("q".repeat(51) + "@"), None),
        named("name-too-long-for-its-hpa", &long, None)
            .mutating(&["has 55 characters, and the HPA's name keda-hpa-"]),
        named("name-too-long-but-its-hpa", &long, Some("h@".into())),
        named("name-too-long", &longer, Some("h@".into()))
            .mutating(&["has 64 characters; use at most 63, because KEDA labels the HPA with the name"]),
        named("hpa-name-too-long", "queue@", Some(longer.clone()))
            .mutating(&["spec.advanced.horizontalPodAutoscalerConfig.name: "]),
        modified("formula", modifiers("x + 1", "5")),
        modified("formula-without-target", modifiers("x + 1", ""))
            .mutating(&["spec.advanced.scalingModifiers.target: is missing"]),
        modified("target-without-formula", modifiers("", "5"))
            .mutating(&["spec.advanced.scalingModifiers.formula: is missing"]),
        modified("target-zero", modifiers("x + 1", "0"))
            .mutating(&["spec.advanced.scalingModifiers.target: \"0\" is no number above 0"]),
        Case::new(
            Kind::ScaledObject,
            "of-another-group",
            scaled_object(
                "queue@",
                "",
                json!({
                    "scaleTargetRef": {"apiVersion": "training.distributed-inference.io.example.com/v1", "kind": "VLLMCluster", "name": "a@"},
                    "minReplicaCount": 0, "triggers": [waiting()],
                }),
            ),
        )
        .around([bounded()])
        // Not ours to judge, it is nobody's: KEDA looks its target's kind up.
        .unasked(Expect::refused(Decider::Keda, &["no matches for kind \"VLLMCluster\" in version"])),
    ]
}
