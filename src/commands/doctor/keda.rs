//! KEDA, who serves metrics, and whether KEDA can call the operator's scaler.
//!
//! Architecture invariant: KEDA is optional: without it, nothing is said.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certs::Bundle;

use crate::api::names::SCALER_AUTHENTICATION;
use crate::args::{RunArgs, ScalerMode};
use crate::certificates::judge_authentication;

use super::authority::signer;
use super::finding::{Check, Finding};
use super::seen::{Look, Seen, about, condition, holds};

const APPLY_KEDA: &str = "apply deploy/keda.yaml, or set scaler.keda.create of the chart";

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    if seen.keda.definition.found().is_some() && !seen.scaling.scaled_objects.is_empty() {
        findings.extend(operator(seen));
        findings.extend(served(
            Check::ExternalMetricsMissing,
            "v1beta1.external.metrics.k8s.io",
            &seen.keda.external_metrics,
            "KEDA's HPAs get no values",
            "see that KEDA's metrics server runs and that this APIService names its Service; only one adapter can serve it",
        ));
    }
    if let Some(by) = by_usage(seen) {
        findings.extend(served(
            Check::ResourceMetricsMissing,
            "v1beta1.metrics.k8s.io",
            &seen.keda.resource_metrics,
            &format!("{by} scales by cpu or memory and gets no values"),
            "install metrics-server, or see why it is not available",
        ));
    }
    findings.extend(scaler(seen));
    findings
}

fn operator(seen: &Seen) -> Option<Finding> {
    let scales = |scaled_object| holds(scaled_object, "Ready", "True");
    let serves = |look: &Look| look.found().is_some_and(|found| holds(found, "Available", "True"));
    let works = serves(&seen.keda.external_metrics) && seen.scaling.scaled_objects.iter().any(scales);
    let about = "deployment/keda-operator";
    let (what, remedy) = match &seen.keda.operator {
        // It may have another name, or be elsewhere, as long as nothing needs to know where.
        Look::Absent if works => return None,
        Look::Absent => (
            "It is not in the namespace that the operator takes for KEDA's".to_owned(),
            "install KEDA, or name its namespace with --keda-namespace (chart: scaler.keda.namespace)",
        ),
        Look::Found(found) if found["status"]["availableReplicas"].as_u64().unwrap_or_default() == 0 => (
            "None of its replicas is available".to_owned(),
            "see why: kubectl describe deployment keda-operator, and its pods' logs",
        ),
        Look::Found(_) | Look::Unseen => return None,
    };
    Some(Finding::new(Check::KedaUnavailable, about, format!("{what}: ScaledObjects scale nothing."), remedy))
}

fn served(check: Check, name: &str, look: &Look, follows: &str, remedy: &str) -> Option<Finding> {
    let what = match look {
        Look::Absent => "It is not there".to_owned(),
        Look::Found(found) if !holds(found, "Available", "True") => {
            let told = condition(found, "Available").and_then(|condition| condition["message"].as_str());
            format!("It is not available ({})", told.unwrap_or("nothing is known of it yet"))
        }
        Look::Found(_) | Look::Unseen => return None,
    };
    Some(Finding::new(check, format!("apiservice/{name}"), format!("{what}: {follows}."), remedy))
}

/// Something that scales by the usage of pods.
fn by_usage(seen: &Seen) -> Option<String> {
    let hpa = seen.scaling.hpas.iter().find(|hpa| {
        let mut metrics = hpa["spec"]["metrics"].as_array().into_iter().flatten();
        metrics.any(|metric| metric["type"] == "Resource" || metric["type"] == "ContainerResource")
    });
    let scaled_object = seen.scaling.scaled_objects.iter().find(|object| {
        let mut triggers = object["spec"]["triggers"].as_array().into_iter().flatten();
        triggers.any(|trigger| trigger["type"] == "cpu" || trigger["type"] == "memory")
    });
    scaled_object.map(|object| about("scaledobject", object)).or_else(|| Some(about("hpa", hpa?)))
}

/// Whether KEDA can call the scaler, where a ScaledObject needs it.
fn scaler(seen: &Seen) -> Option<Finding> {
    let settings = seen
        .settings()
        .ok()
        .filter(|settings| seen.deployment.found().is_some() && settings.scaler != ScalerMode::Plaintext)?;
    let needed = seen.scaling.scaled_objects.iter().find(|object| {
        let mut triggers = object["spec"]["triggers"].as_array().into_iter().flatten();
        triggers.any(|trigger| trigger["authenticationRef"]["name"] == SCALER_AUTHENTICATION)
    })?;
    let (object, what, remedy) = broken_link(seen, &settings)?;
    Some(Finding::new(
        Check::ScalerUntrusted,
        object,
        format!(
            "{what}: KEDA cannot call the operator's scaler, which {} scales by.",
            about("scaledobject", needed)
        ),
        remedy,
    ))
}

/// The first link that is missing between KEDA and the scaler.
fn broken_link(seen: &Seen, settings: &RunArgs) -> Option<(String, String, &'static str)> {
    let authentication = format!("clustertriggerauthentication/{SCALER_AUTHENTICATION}");
    let secret = format!("secret/{SCALER_AUTHENTICATION} in namespace {}", settings.keda_namespace);
    if settings.scaler == ScalerMode::Off {
        let remedy = "set it to tls (chart: scaler.mode), or take the trigger out of the ScaledObject";
        return Some(("the operator's setting --scaler".into(), "It is off".into(), remedy));
    }
    match &seen.keda.authentication {
        Look::Absent => return Some((authentication, "It is not there".into(), APPLY_KEDA)),
        Look::Found(found) => {
            if let Err(wrong) = judge_authentication(found) {
                return Some((authentication, wrong, APPLY_KEDA));
            }
        }
        Look::Unseen => {}
    }
    let found = match &seen.keda.secret {
        Look::Absent => return Some((secret, "It is not there".into(), APPLY_KEDA)),
        Look::Found(found) => found,
        Look::Unseen => return None,
    };
    let value = |key: &str| {
        found["data"][key].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
    };
    let filled = "the replica that leads fills it in within seconds: see what is said of it and of its right to patch this Secret";
    let empty = ["ca.crt", "tls.crt", "tls.key"].into_iter().find(|key| value(key).is_empty());
    if let Some(key) = empty {
        return Some((secret, format!("Its {key} is empty"), filled));
    }
    let bundle = Bundle::parse(&value("ca.crt")).unwrap_or_default();
    let is_foreign = signer(seen).is_some_and(|signer| !bundle.contains(signer));
    is_foreign
        .then(|| (secret, "Its ca.crt lacks the authority that signs what the scaler serves".into(), filled))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn available(status: &str) -> Look {
        Look::Found(
            json!({"status": {"conditions": [{"type": "Available", "status": status, "message": "no route"}]}}),
        )
    }

    fn scaled_object(trigger: &Value) -> Value {
        json!({"metadata": {"namespace": "team", "name": "so"}, "spec": {"triggers": [trigger]}})
    }

    /// KEDA in order, and a ScaledObject with this trigger.
    fn healthy(trigger: &Value) -> Seen {
        let mut seen = Seen { deployment: Look::Found(json!({})), namespace: "ns".into(), ..Seen::default() };
        seen.keda.definition = Look::Found(json!({}));
        seen.keda.operator = Look::Found(json!({"status": {"availableReplicas": 1}}));
        seen.keda.external_metrics = available("True");
        seen.keda.resource_metrics = available("True");
        let reference = |parameter: &str, key: &str| json!({"parameter": parameter, "name": SCALER_AUTHENTICATION, "key": key});
        seen.keda.authentication = Look::Found(json!({"spec": {"secretTargetRef": [
            reference("caCert", "ca.crt"), reference("tlsClientCert", "tls.crt"), reference("tlsClientKey", "tls.key"),
        ]}}));
        seen.keda.secret =
            Look::Found(json!({"data": {"ca.crt": "eA==", "tls.crt": "eA==", "tls.key": "eA=="}}));
        seen.scaling.scaled_objects = vec![scaled_object(trigger)];
        seen
    }

    fn told(seen: &Seen) -> Vec<(Check, String)> {
        check(seen).into_iter().map(|finding| (finding.check, finding.message)).collect()
    }

    #[test]
    fn what_works_is_passed_over_and_so_is_the_absence_of_keda() {
        let own = json!({"type": "external", "authenticationRef": {"name": SCALER_AUTHENTICATION}});
        assert_eq!(told(&healthy(&own)), []);
        assert_eq!(told(&healthy(&json!({"type": "cpu"}))), []);
        let mut absent = Seen::default();
        absent.keda.definition = Look::Absent;
        absent.keda.external_metrics = Look::Absent;
        absent.keda.resource_metrics = Look::Absent;
        assert_eq!(told(&absent), []);
    }

    /// The trigger of the ScaledObject, what is broken, and what is found.
    type Case<'a> = (&'a Value, fn(&mut Seen), Check);

    #[test]
    fn each_fault_is_found() {
        let own = json!({"type": "external", "authenticationRef": {"name": SCALER_AUTHENTICATION}});
        let cpu = json!({"type": "cpu"});
        let broken: [Case<'_>; 9] = [
            (
                &cpu,
                |seen| {
                    seen.keda.operator = Look::Absent;
                    seen.scaling.scaled_objects[0]["status"] = Value::Null;
                },
                Check::KedaUnavailable,
            ),
            (&cpu, |seen| seen.keda.operator = Look::Found(json!({})), Check::KedaUnavailable),
            (&cpu, |seen| seen.keda.external_metrics = available("False"), Check::ExternalMetricsMissing),
            (&cpu, |seen| seen.keda.resource_metrics = Look::Absent, Check::ResourceMetricsMissing),
            (&own, |seen| seen.keda.authentication = Look::Absent, Check::ScalerUntrusted),
            (&own, |seen| seen.keda.authentication = Look::Found(json!({})), Check::ScalerUntrusted),
            (&own, |seen| seen.keda.secret = Look::Absent, Check::ScalerUntrusted),
            (&own, |seen| seen.keda.secret = Look::Found(json!({})), Check::ScalerUntrusted),
            (
                &own,
                |seen| {
                    let env = json!([{"name": "SCALER", "value": "off"}]);
                    seen.deployment =
                        Look::Found(json!({"spec": {"template": {"spec": {"containers": [{"env": env}]}}}}));
                },
                Check::ScalerUntrusted,
            ),
        ];
        for (trigger, change, check) in broken {
            let mut seen = healthy(trigger);
            change(&mut seen);
            let told = told(&seen);
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(told[0].0, check, "{told:?}");
        }
        let mut seen = healthy(&cpu);
        seen.keda.resource_metrics = available("False");
        let message = &told(&seen)[0].1;
        let wanted = "It is not available (no route): scaledobject/so in namespace team scales by cpu or memory and gets no values.";
        assert_eq!(message, wanted);
    }
}
