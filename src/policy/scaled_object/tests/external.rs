//! Triggers that the operator's own scaler answers, and those of the type `http`, which become such.

use super::*;
use crate::api::names::REWRITE_TRIGGERS;
use crate::policy::Outcome;

const ADDRESS: &str = "vllm-operator-scaler.vllm-operator-system.svc:443";
const WITHOUT_TLS: ExternalScaler<'static> = ExternalScaler { authentication: None, ..ExternalScaler::USUAL };

const fn reached(reach: Reach) -> Known<'static> {
    Known { external: ExternalScaler { reach, ..ExternalScaler::USUAL }, ..KNOWN }
}

fn authentication() -> Value {
    json!({"kind": "ClusterTriggerAuthentication", "name": "vllm-operator-scaler"})
}

/// A sound trigger for the scaler, with a merge patch.
fn own(patch: &Value) -> Value {
    let mut own = json!({
        "type": "external", "metricType": "AverageValue", "authenticationRef": authentication(),
        "metadata": {"scalerAddress": ADDRESS, "signal": "queue", "targetValue": "5"},
    });
    json_patch::merge(&mut own, patch);
    own
}

/// A sound trigger of the older form, with a merge patch of its metadata.
fn http(metadata: &Value) -> Value {
    let mut all = json!({"url": "http://vllm-cluster:8000/v1/models", "targetValue": "100"});
    json_patch::merge(&mut all, metadata);
    json!({"type": "http", "metadata": all})
}

fn http_at(url: &str) -> Value {
    http(&json!({"url": url}))
}

fn defaulted(new: &Value, known: Known<'_>) -> Outcome {
    let new: ScaledObject = serde_json::from_value(new.clone()).unwrap();
    default(&Write { new: &new, old: None, known })
}

/// The second trigger as it would be stored, and what is said of it; and twice is once.
fn stored(trigger: &Value, known: Known<'_>) -> (Value, Vec<String>) {
    let mut object = json!({
        "metadata": {"name": "queue"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": "a"},
            "minReplicaCount": 2, "maxReplicaCount": 10, "triggers": [prometheus(&json!({})), trigger],
        },
    });
    let outcome = defaulted(&object, known);
    assert!(outcome.refusals.is_empty(), "{outcome:?}");
    json_patch::patch(&mut object, &outcome.edits).unwrap();
    assert_eq!(defaulted(&object, known), Outcome::default(), "{object}");
    let stored = object["spec"]["triggers"][1].clone();
    (stored, outcome.warnings.iter().map(ToString::to_string).collect())
}

fn with(trigger: &Value) -> Value {
    with_triggers(&json!([prometheus(&json!({})), trigger]))
}

fn passes(trigger: &Value, known: Known<'_>) {
    assert_eq!(judge(&object(&with(trigger)), None, known), Outcome::default(), "{trigger}");
}

#[rstest]
#[case::plain(json!({}), json!({"path": "/v1/models", "targetValue": "100"}))]
#[case::no_path(json!({"url": "http://vllm-cluster:8000"}), json!({"path": "/v1/models", "targetValue": "100"}))]
#[case::root(json!({"url": "HTTPS://vllm-cluster/"}), json!({"path": "/", "targetValue": "100"}))]
#[case::query(json!({"url": "http://vllm-cluster:/health?x=1&y=/z"}), json!({"path": "/health?x=1&y=/z", "targetValue": "100"}))]
#[case::query_alone(json!({"url": "http://vllm-cluster?x=1"}), json!({"path": "/?x=1", "targetValue": "100"}))]
#[case::activation(json!({"activationTargetValue": "5", "targetValue": " 0.5 "}), json!({"path": "/v1/models", "targetValue": " 0.5 ", "activationTargetValue": "5"}))]
fn an_http_trigger_becomes_external(#[case] metadata: Value, #[case] newer: Value) {
    let mut expected = newer;
    json_patch::merge(&mut expected, &json!({"scalerAddress": ADDRESS, "signal": "response-time"}));
    let mut older = http(&metadata);
    older["name"] = json!("time");
    older["useCachedMetrics"] = json!(true);
    let (trigger, warnings) = stored(&older, KNOWN);
    let newer = json!({
        "type": "external", "name": "time", "useCachedMetrics": true, "metricType": "Value",
        "authenticationRef": authentication(), "metadata": expected,
    });
    assert_eq!(trigger, newer);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    passes(&trigger, KNOWN);
}

#[test]
fn the_newer_form_is_told() {
    let (_, warnings) = stored(&http(&json!({})), KNOWN);
    assert_eq!(
        warnings,
        [
            "spec.triggers[1]: KEDA has no trigger \"http\"; stored as {type: external, metricType: Value, authenticationRef: {kind: ClusterTriggerAuthentication, name: vllm-operator-scaler}, metadata: {scalerAddress: \"vllm-operator-scaler.vllm-operator-system.svc:443\", signal: response-time, path: \"/v1/models\", targetValue: \"100\"}}: the operator measures the time on the pods of VLLMCluster \"a\", whatever Service the host named. In your manifest, write it so"
        ]
    );
}

#[test]
fn without_tls_nothing_leads_to_certificates() {
    let known = Known { external: WITHOUT_TLS, ..KNOWN };
    let (trigger, warnings) = stored(&http(&json!({})), known);
    assert!(trigger["authenticationRef"].is_null(), "{trigger}");
    assert!(!warnings[0].contains("authenticationRef"), "{warnings:?}");
    passes(&trigger, known);
}

/// What is stated is kept, and judged.
#[test]
fn what_an_http_trigger_states_besides_stays() {
    let mut older = http(&json!({}));
    older["metricType"] = json!("AverageValue");
    older["authenticationRef"] = json!({"name": "mine"});
    let (trigger, _) = stored(&older, KNOWN);
    assert_eq!(
        (&trigger["metricType"], &trigger["authenticationRef"]["name"]),
        (&json!("AverageValue"), &json!("mine"))
    );
    let rules: Vec<_> = judge(&object(&with(&trigger)), None, KNOWN)
        .refusals
        .into_iter()
        .map(|finding| finding.rule)
        .collect();
    assert_eq!(rules, [Rule::OwnMetricType, Rule::OwnAuthentication]);
}

#[rstest]
#[case::one_word("vllm-cluster")]
#[case::of_the_namespace("vllm-cluster.t")]
#[case::svc("vllm-cluster.elsewhere.svc")]
#[case::domain("vllm-cluster.t.svc.cluster.local")]
#[case::dot("VLLM-Cluster.t.svc.cluster.local.")]
fn hosts_of_the_cluster(#[case] host: &str) {
    let (trigger, _) = stored(&http_at(&format!("http://{host}:8000/")), KNOWN);
    assert_eq!(trigger["type"], "external");
}

#[rstest]
#[case::no_url(http(&json!({"url": " "})), "metadata.url", "is missing; state what is to be asked for, such as http://my-cluster:8000/v1/models")]
#[case::no_target(http(&json!({"targetValue": null})), "metadata.targetValue", "is missing; state a number of milliseconds")]
#[case::target(http(&json!({"targetValue": "fast"})), "metadata.targetValue", "\"fast\" is no number from 0.001")]
#[case::target_zero(http(&json!({"targetValue": "0"})), "metadata.targetValue", "\"0\" is no number from 0.001")]
#[case::target_negative(http(&json!({"targetValue": "-1"})), "metadata.targetValue", "\"-1\" is no number from 0.001")]
#[case::activation(http(&json!({"activationTargetValue": "x"})), "metadata.activationTargetValue", "\"x\" is no number from 0")]
#[case::no_scheme(
    http_at("vllm-cluster:8000/v1/models"),
    "metadata.url",
    "is no URL; use one such as http://"
)]
#[case::other_scheme(http_at("ftp://vllm-cluster/x"), "metadata.url", "is no URL")]
#[case::port(http_at("http://vllm-cluster:port/x"), "metadata.url", "is no URL")]
#[case::path(
    http_at("http://vllm-cluster/<x>"),
    "metadata.url",
    "its path \"/<x>\" has characters that must be escaped"
)]
#[case::slashes(http_at("http://vllm-cluster//x"), "metadata.url", "its path \"//x\" begins with //")]
#[case::fragment(http_at("http://vllm-cluster#x"), "metadata.url", "its path \"/#x\" has a fragment")]
#[case::another_namespace(
    http_at("http://vllm-cluster.elsewhere/"),
    "metadata.url",
    "\"vllm-cluster.elsewhere\" is no Service here, and only pods of the VLLMCluster are asked; use the name of a Service: one word, <service>.t, or one that ends in .svc or .svc.cluster.local"
)]
#[case::outside(http_at("http://www.example.com/"), "metadata.url", "is no Service here")]
#[case::no_service(http_at("http://svc.cluster.local/"), "metadata.url", "is no Service here")]
#[case::domain_alone(http_at("http://vllm-cluster.cluster.local/"), "metadata.url", "is no Service here")]
#[case::other_domain(http_at("http://vllm-cluster.t.svc.example.com/"), "metadata.url", "is no Service here")]
#[case::address(http_at("http://10.244.0.7:8000/"), "metadata.url", "is no Service here")]
#[case::number(http_at("http://2130706433/"), "metadata.url", "is no Service here")]
#[case::ipv6(http_at("http://[::1]:8000/"), "metadata.url", "is no Service here")]
#[case::no_label(http_at("http://.svc/"), "metadata.url", "is no Service here")]
#[case::underscore(http_at("http://vllm_cluster/"), "metadata.url", "is no Service here")]
#[case::dash(http_at("http://-vllm/"), "metadata.url", "is no Service here")]
#[case::user(
    http_at("http://jane:secret@vllm-cluster/"),
    "metadata.url",
    "names a user, and nobody is logged in"
)]
#[case::unknown_key(http(&json!({"method": "GET"})), "metadata.method", "is nothing that a trigger \"http\" has, and would be lost; remove it, or use one of url, targetValue, activationTargetValue")]
#[case::a_slip(http(&json!({"targetvalue": "100"})), "metadata.targetvalue", "use \"targetValue\"")]
#[case::empty_key(http(&json!({"scalerAddress": ""})), "metadata.scalerAddress", "would be lost")]
fn what_is_wrong_with_an_http_trigger(#[case] trigger: Value, #[case] field: &str, #[case] says: &str) {
    assert_eq!(stored(&trigger, KNOWN), (trigger.clone(), vec![]), "it is left alone");
    assert_refused(&with(&trigger), KNOWN, &format!("spec.triggers[1].{field}"), says);
    assert_new_fault_refused(&with(&trigger));
    let message = judge(&object(&with(&trigger)), None, KNOWN).message();
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn all_that_is_wrong_with_an_http_trigger_is_said_at_once() {
    let trigger = json!({"type": "http", "metadata": {"url": "http://www.example.com/a b#c", "x": "y"}});
    let of =
        |known| judge(&object(&with(&trigger)), None, known).refusals.into_iter().map(|finding| finding.rule);
    assert!(of(KNOWN).eq([Rule::HttpUnreadable, Rule::HttpMissing, Rule::HttpUnknownKey]));
    assert!(of(reached(Reach::Off)).eq([
        Rule::ScalerUnanswered,
        Rule::HttpUnreadable,
        Rule::HttpMissing,
        Rule::HttpUnknownKey
    ]));
}

#[rstest]
#[case::off(
    Reach::Off,
    "would be answered by the operator's own scaler, which is switched off, and a trigger that KEDA cannot reach freezes the others too; have the operator run without --scaler=off, or use a prometheus trigger"
)]
#[case::unpublished(
    Reach::Unpublished,
    "is answered by the operator's own scaler, to which KEDA has no certificate yet, and a trigger that KEDA cannot reach freezes the others too; apply deploy/keda.yaml if that is not done and try again in a minute, or use a prometheus trigger"
)]
fn while_keda_cannot_reach_the_scaler(#[case] reach: Reach, #[case] says: &str) {
    let known = reached(reach);
    for trigger in [http(&json!({})), own(&json!({}))] {
        assert_eq!(stored(&trigger, known), (trigger.clone(), vec![]));
        let says = format!("{} {says}", trigger["type"]);
        assert_refused(&with(&trigger), known, "spec.triggers[1].type", &says);
    }
    // Other people's scalers are none of ours.
    passes(&own(&json!({"metadata": {"scalerAddress": "scaler.elsewhere:443"}})), known);
}

#[rstest]
#[case::annotation(
    true,
    "remove the annotation training.distributed-inference.io/rewrite-triggers, or write {type: external, "
)]
#[case::flag(false, "have the operator run with --rewrite-triggers=true, or write {type: external, ")]
fn where_older_forms_stay(#[case] annotated: bool, #[case] way: &str) {
    let known = Known { external: ExternalScaler { rewrites: annotated, ..ExternalScaler::USUAL }, ..KNOWN };
    let mut patch = with(&http(&json!({"url": "http://x/health", "targetValue": "20"})));
    if annotated {
        patch["metadata"] = json!({"annotations": {REWRITE_TRIGGERS: "false"}});
    }
    let says = format!(
        "KEDA has no trigger \"http\", and a ScaledObject with such a trigger scales nothing at all; {way}"
    );
    assert_refused(&patch, known, "spec.triggers[1].type", &says);
    let message = judge(&object(&patch), None, known).message();
    assert!(message.contains("path: \"/health\", targetValue: \"20\"}}"), "{message}");
    let older = json!([
        http(&json!({})),
        cpu(&json!(null), &json!({"type": "Utilization"})),
        prometheus(&json!({"metricName": "x"})),
    ]);
    patch["spec"]["triggers"] = older;
    let new = object(&patch);
    assert_eq!(default(&Write { new: &new, old: None, known }), Outcome::default());
    let rules: Vec<_> = judge(&new, None, known).refusals.into_iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, [Rule::HttpTrigger, Rule::ResourceOlderType, Rule::PrometheusMetricName]);

    // What cannot be read is shown all the same, and without a scaler there is no way to write it.
    let unreadable = object(&with(&json!({"type": "http"})));
    let message = judge(
        &unreadable,
        None,
        Known { external: ExternalScaler { rewrites: false, ..known.external }, ..known },
    )
    .message();
    assert!(message.contains("path: \"/v1/models\", targetValue: \"100\"}}"), "{message}");
    let off = ExternalScaler { reach: Reach::Off, ..known.external };
    patch["spec"]["triggers"] = json!([http(&json!({}))]);
    let outcome = judge(&object(&patch), None, Known { external: off, ..known });
    assert_eq!(
        outcome.refusals.iter().map(|finding| finding.rule).collect::<Vec<_>>(),
        [Rule::ScalerUnanswered]
    );
}

/// As where the mutating webhook is not asked.
#[test]
fn an_http_trigger_that_was_not_rewritten() {
    let says = "scales nothing at all; write {type: external, metricType: Value, ";
    assert_refused(&with(&http(&json!({}))), KNOWN, "spec.triggers[1].type", says);
}

#[rstest]
#[case::nothing_absent(json!({}), None, None)]
#[case::queue(json!({"metricType": null, "authenticationRef": null}), Some("AverageValue"), Some(()))]
#[case::response_time(json!({"metricType": "", "metadata": {"signal": "response-time"}}), Some("Value"), None)]
#[case::combined(json!({"metricType": null, "metadata": {"signal": "combined", "queueTarget": "5", "targetValue": null}}), Some("AverageValue"), None)]
#[case::without_a_name(json!({"authenticationRef": {"name": ""}}), None, Some(()))]
#[case::at_another_port(json!({"authenticationRef": null, "metadata": {"scalerAddress": "vllm-operator-scaler.vllm-operator-system:9444"}}), None, Some(()))]
#[case::of_a_push(json!({"type": "external-push", "authenticationRef": null}), None, Some(()))]
fn what_is_filled_in(#[case] patch: Value, #[case] metric_type: Option<&str>, #[case] reference: Option<()>) {
    let own = own(&patch);
    let mut expected = own.clone();
    if let Some(metric_type) = metric_type {
        expected["metricType"] = json!(metric_type);
    }
    if reference.is_some() {
        expected["authenticationRef"] = authentication();
    }
    assert_eq!(stored(&own, KNOWN), (expected, vec![]));
}

#[rstest]
#[case::unreadable(own(&json!({"metricType": null, "metadata": {"signal": "que"}})))]
#[case::anothers(own(&json!({"metricType": null, "authenticationRef": null, "metadata": {"scalerAddress": "scaler.elsewhere:443"}})))]
fn what_is_not_filled_in(#[case] trigger: Value) {
    assert_eq!(stored(&trigger, KNOWN), (trigger.clone(), vec![]));
}

#[rstest]
#[case::every_key(own(&json!({"metadata": {"activationTargetValue": "1", "path": "/x", "enableTLS": "true", "unsafeSsl": "false"}})))]
#[case::combined(own(&json!({"metadata": {"signal": "combined", "targetValue": null, "queueTarget": "5", "runningTarget": "5", "kvCacheTarget": "80", "responseTimeTarget": "100"}})))]
#[case::response_time(own(&json!({"metricType": "Value", "metadata": {"signal": "response-time"}})))]
#[case::kedas_metric_type(own(&json!({"metricType": null})))]
#[case::spaces(own(&json!({"metadata": {"scalerAddress": format!(" {ADDRESS} ")}})))]
fn own_triggers_that_pass(#[case] trigger: Value) {
    passes(&trigger, KNOWN);
}

#[rstest]
#[case::no_signal(own(&json!({"metadata": {"signal": null}})), "metadata.signal", "is missing; state response-time, queue, running, kv-cache or combined")]
#[case::no_target(own(&json!({"metadata": {"targetValue": null}})), "metadata.targetValue", "is missing; state a number of waiting requests")]
#[case::signal(own(&json!({"metadata": {"signal": "que"}})), "metadata.signal", "\"que\" is no signal")]
#[case::target(own(&json!({"metadata": {"targetValue": "0"}})), "metadata.targetValue", "\"0\" is no number from 0.001")]
#[case::path(own(&json!({"metadata": {"path": "v1"}})), "metadata.path", "\"v1\" does not begin with /")]
#[case::enable_tls(own(&json!({"metadata": {"enableTLS": "yes"}})), "metadata.enableTLS", "\"yes\" is neither true nor false")]
#[case::unsafe_ssl(own(&json!({"metadata": {"unsafeSsl": "yes"}})), "metadata.unsafeSsl", "\"yes\" is neither true nor false")]
#[case::unknown_key(own(&json!({"metadata": {"model": "x"}})), "metadata.model", "is nothing that the operator's scaler reads; remove it, or use one of scalerAddress, enableTLS, unsafeSsl, signal")]
#[case::a_slip(own(&json!({"metadata": {"runingTarget": "5"}})), "metadata.runingTarget", "use \"runningTarget\"")]
#[case::metric_type(own(&json!({"metricType": "Value"})), "metricType", "\"Value\" does not suit the signal; use AverageValue: the scaler answers with a sum")]
#[case::metric_type_of_a_time(own(&json!({"metadata": {"signal": "response-time"}})), "metricType", "\"AverageValue\" does not suit the signal; use Value: a response time is one of the whole cluster")]
#[case::no_metric_type_of_a_time(own(&json!({"metricType": null, "metadata": {"signal": "response-time"}})), "metricType", "is absent, which means AverageValue to KEDA; use Value")]
#[case::no_reference(own(&json!({"authenticationRef": null})), "authenticationRef", "must be {kind: ClusterTriggerAuthentication, name: vllm-operator-scaler}: KEDA cannot connect")]
#[case::other_reference(own(&json!({"authenticationRef": {"name": "mine"}})), "authenticationRef", "must be {kind: ClusterTriggerAuthentication")]
#[case::reference_of_a_namespace(own(&json!({"authenticationRef": {"kind": null}})), "authenticationRef", "must be {kind: ClusterTriggerAuthentication")]
#[case::other_port(own(&json!({"metadata": {"scalerAddress": "vllm-operator-scaler.vllm-operator-system.svc:9444"}})), "metadata.scalerAddress", "but not the address under which KEDA reaches and trusts it; use \"vllm-operator-scaler.vllm-operator-system.svc:443\"")]
#[case::short_name(own(&json!({"metadata": {"scalerAddress": "vllm-operator-scaler.vllm-operator-system:443"}})), "metadata.scalerAddress", "use \"vllm-operator-scaler.vllm-operator-system.svc:443\"")]
#[case::push(own(&json!({"type": "external-push"})), "type", "\"external-push\" waits for a scaler that reports by itself, and the operator's is asked; use \"external\"")]
fn what_is_wrong_with_an_own_trigger(#[case] trigger: Value, #[case] field: &str, #[case] says: &str) {
    assert_refused(&with(&trigger), KNOWN, &format!("spec.triggers[1].{field}"), says);
    assert_new_fault_refused(&with(&trigger));
}

#[rstest]
#[case::reference(own(&json!({})), "authenticationRef", "is served without TLS; remove it")]
#[case::enable_tls(own(&json!({"authenticationRef": null, "metadata": {"enableTLS": "true"}})), "metadata.enableTLS", "is set, and the operator's scaler is served without TLS; remove it")]
fn what_is_wrong_without_tls(#[case] trigger: Value, #[case] field: &str, #[case] says: &str) {
    let known = Known { external: WITHOUT_TLS, ..KNOWN };
    assert_refused(&with(&trigger), known, &format!("spec.triggers[1].{field}"), says);
    passes(
        &own(&json!({"authenticationRef": null, "metadata": {"enableTLS": "false", "unsafeSsl": "true"}})),
        known,
    );
}

/// Where it is, a change of something else passes even after the scaler is out of reach.
#[test]
fn an_older_trigger_outlives_the_scaler() {
    let old = object(&with(&own(&json!({}))));
    let new = object(&with_triggers(&json!([prometheus(&json!({"threshold": "6"})), own(&json!({}))])));
    for reach in [Reach::Off, Reach::Unpublished] {
        let outcome = judge(&new, Some(&old), reached(reach));
        let warned: Vec<_> = outcome.warnings.iter().map(|warning| warning.rule).collect();
        assert_eq!((outcome.allowed(), &warned[..]), (true, &[Rule::ScalerUnanswered][..]));
    }
}
