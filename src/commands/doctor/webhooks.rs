//! The webhooks: configured, trusted, reachable, called.
//!
//! Architecture invariant: what they must be stands in the installed manifest and nowhere else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certs::Bundle;
use serde_json::Value;

use crate::api::names::{GROUP, KIND};
use crate::commands::manifest::OPERATOR;

use super::authority::signer;
use super::finding::{Check, Finding};
use super::seen::{Look, Seen, Trial};

/// The kinds of configurations, in the order in which they are looked at.
const KINDS: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
const APPLY: &str = "apply deploy/install.yaml (kubectl apply --server-side), or upgrade the release again";

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_scoped = seen.settings().is_ok_and(|settings| !settings.watch_namespaces.is_empty());
    for (kind, found) in KINDS.into_iter().zip(&seen.configurations) {
        let about = format!("{}/vllm-operator", kind.to_lowercase());
        let wanted = configured(kind);
        match found {
            Look::Unseen => {}
            Look::Absent => findings.push(Finding::new(
                Check::WebhookMissing,
                about,
                "It is not there: writes of VLLMClusters, their counts and ScaledObjects go by the operator.",
                APPLY,
            )),
            Look::Found(found) => {
                for wanted in &wanted {
                    findings.extend(webhook(&about, wanted, found, is_scoped));
                }
                findings.extend(bundles(&about, found, seen));
            }
        }
    }
    findings.extend(seen.trials.iter().filter_map(trial));
    findings
}

/// The webhooks of this kind in the installed manifest.
fn configured(kind: &str) -> Vec<Value> {
    // A test reads it.
    let objects: Vec<Value> = serde_saphyr::from_multiple(OPERATOR).unwrap_or_default();
    let mut configuration = objects.into_iter().find(|object| object["kind"] == kind).unwrap_or_default();
    match configuration["webhooks"].take() {
        Value::Array(webhooks) => webhooks,
        _ => Vec::new(),
    }
}

fn entries(configuration: &Value) -> impl Iterator<Item = &Value> {
    configuration["webhooks"].as_array().into_iter().flatten()
}

/// How one webhook differs from what it must be.
fn webhook(about: &str, wanted: &Value, configuration: &Value, is_scoped: bool) -> Option<Finding> {
    let name = wanted["name"].as_str().unwrap_or_default();
    let Some(found) = entries(configuration).find(|found| found["name"] == name) else {
        return Some(Finding::new(
            Check::WebhookMissing,
            about,
            format!("It has no webhook {name}, so the operator is not asked about those writes."),
            APPLY,
        ));
    };
    let what = changed(wanted, found, is_scoped)?;
    Some(Finding::new(
        Check::WebhookChanged,
        about,
        format!("{what} of webhook {name} is not what the operator relies on."),
        APPLY,
    ))
}

/// The first field that is not as in the manifest; what a release may set is left out.
fn changed(wanted: &Value, found: &Value, is_scoped: bool) -> Option<&'static str> {
    for field in ["rules", "failurePolicy", "sideEffects", "timeoutSeconds", "reinvocationPolicy"] {
        if wanted[field] != found[field] {
            return Some(field);
        }
    }
    let narrowed = |field: &str| found[field].as_object().is_some_and(|selector| !selector.is_empty());
    if narrowed("namespaceSelector") != is_scoped {
        return Some("namespaceSelector");
    }
    if narrowed("objectSelector") {
        return Some("objectSelector");
    }
    let path = |webhook: &Value| webhook["clientConfig"]["service"]["path"].clone();
    if path(wanted) != path(found) {
        return Some("clientConfig.service.path");
    }
    (conditions(wanted) != conditions(found)).then_some("matchConditions")
}

/// Names and expressions of what a webhook asks before it is called; who KEDA's operator is, an installation may say.
fn conditions(webhook: &Value) -> Vec<(&Value, Option<String>)> {
    let conditions = webhook["matchConditions"].as_array().into_iter().flatten();
    let expression = |condition: &Value| -> Option<String> {
        let words: Vec<_> = condition["expression"].as_str()?.split_whitespace().collect();
        Some(words.join(" ")).filter(|expression| !expression.contains("system:serviceaccount:"))
    };
    conditions.map(|condition| (&condition["name"], expression(condition))).collect()
}

/// Whether each webhook trusts the authority that signs what is served.
fn bundles(about: &str, configuration: &Value, seen: &Seen) -> Option<Finding> {
    let signer = signer(seen);
    let wrong = entries(configuration).find_map(|webhook| {
        let name = webhook["name"].as_str().unwrap_or_default();
        let text = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
        let bundle = STANDARD.decode(text).ok().and_then(|pem| Bundle::parse(&pem).ok()).unwrap_or_default();
        if bundle.is_empty() {
            return Some(format!("The caBundle of webhook {name} is empty or unreadable."));
        }
        let is_foreign = signer.as_ref().is_some_and(|signer| !bundle.contains(signer.clone()));
        is_foreign.then(|| {
            format!("The caBundle of webhook {name} lacks the authority that signs what the operator serves.")
        })
    })?;
    Some(Finding::new(
        Check::BundleUntrusted,
        about,
        wrong,
        "the replica that leads puts its bundle in within seconds: see what is said of it, of its right to patch this configuration, and \
         who else writes the field (kubectl get --show-managed-fields)",
    ))
}

/// What a write that changes nothing has shown.
fn trial(trial: &Trial) -> Option<Finding> {
    let Trial { kind, refusal } = trial;
    let refusal = refusal.as_deref()?;
    let about = format!("a {kind} that is created as a dry run");
    if let Some((_, rest)) = refusal.split_once("failed calling webhook ") {
        let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
        return name.contains(GROUP).then(|| {
            Finding::new(
                Check::AdmissionUnanswered,
                about,
                format!("The API server calls {name} in vain: {why}."),
                way_out(why),
            )
        });
    }
    let is_bypassed = *kind == KIND && refusal.contains("replicas is required in what is stored");
    is_bypassed.then(|| {
        Finding::new(
            Check::AdmissionBypassed,
            about,
            "The API server does not ask the operator: the count that it fills in was missing.",
            format!("see what is said of the webhooks; {APPLY}"),
        )
    })
}

/// By what an API server says when a call fails.
fn way_out(why: &str) -> &'static str {
    if why.contains("x509") || why.contains("certificate") {
        "the caBundle and the served certificate do not fit: see what is said of them; restarting the Deployment makes both anew"
    } else if why.contains("no endpoints available") || why.contains("not found") {
        "no replica is ready behind the Service: see what is said of the Deployment and the Service"
    } else if why.contains("connection refused") {
        "nothing listens where the Service leads: compare its targetPort with the container's port \"webhook\""
    } else {
        "let the API server reach port 9443 of the operator's pods: firewalls of managed control planes and NetworkPolicies are the usual \
         cause (docs/security.md)"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The configurations as they are installed, each trusting an authority.
    fn installed() -> [Look; 2] {
        KINDS.map(|kind| {
            let mut webhooks = configured(kind);
            for webhook in &mut webhooks {
                webhook["clientConfig"]["caBundle"] =
                    json!(STANDARD.encode(super::super::authority::tests::PEM.as_str()));
            }
            assert!(!webhooks.is_empty(), "{kind}");
            Look::Found(json!({ "webhooks": webhooks }))
        })
    }

    fn with(change: impl FnOnce(&mut Value)) -> Vec<(Check, String)> {
        let mut seen = Seen { configurations: installed(), ..Seen::default() };
        if let Look::Found(found) = &mut seen.configurations[0] {
            change(&mut found["webhooks"]);
        }
        check(&seen).into_iter().map(|finding| (finding.check, finding.message)).collect()
    }

    #[test]
    fn what_is_installed_is_passed_over() {
        assert_eq!(with(|_| {}), []);
    }

    #[test]
    fn each_change_is_found() {
        for (pointer, value, what) in [
            ("/0/failurePolicy", json!("Ignore"), "failurePolicy"),
            ("/0/rules/0/operations", json!(["CREATE"]), "rules"),
            ("/0/timeoutSeconds", json!(30), "timeoutSeconds"),
            ("/0/clientConfig/service/path", json!("/"), "clientConfig.service.path"),
            ("/0/matchConditions/0/name", json!("other"), "matchConditions"),
            ("/0/matchConditions/0/expression", json!("false"), "matchConditions"),
        ] {
            let findings = with(|webhooks| *webhooks.pointer_mut(pointer).expect(pointer) = value);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].0, Check::WebhookChanged);
            assert!(findings[0].1.starts_with(&format!("{what} of webhook ")), "{findings:?}");
        }
        let findings = with(|webhooks| webhooks[1]["namespaceSelector"] = json!({"matchLabels": {"a": "b"}}));
        assert!(findings[0].1.starts_with("namespaceSelector"), "{findings:?}");
        let env = json!([{"name": "WATCH_NAMESPACES", "value": "a,b"}]);
        let deployment = json!({"spec": {"template": {"spec": {"containers": [{"env": env}]}}}});
        let unscoped = check(&Seen {
            configurations: installed(),
            deployment: Look::Found(deployment),
            ..Seen::default()
        });
        assert!(unscoped[0].message.starts_with("namespaceSelector"), "{unscoped:?}");
        let findings = with(|webhooks| drop(webhooks.as_array_mut().map(|webhooks| webhooks.remove(1))));
        assert_eq!(findings[0].0, Check::WebhookMissing);
        let findings =
            with(|webhooks| webhooks[2]["clientConfig"]["caBundle"] = json!("bm90IGEgY2VydGlmaWNhdGU="));
        assert_eq!(findings[0].0, Check::BundleUntrusted);
        let absent = check(&Seen { configurations: [Look::Absent, Look::Unseen], ..Seen::default() });
        assert_eq!(absent.len(), 1, "{absent:?}");
    }

    #[test]
    fn what_the_api_server_says_has_a_way_out() {
        let told = |refusal: &str| {
            trial(&Trial { kind: KIND, refusal: Some(refusal.to_owned()) })
                .map(|found| (found.check, found.remedy))
        };
        let failed = |why: &str| {
            let name = "default.vllmclusters.training.distributed-inference.io";
            let (check, remedy) =
                told(&format!("Internal error occurred: failed calling webhook \"{name}\": {why}"))
                    .expect("a finding");
            assert_eq!(check, Check::AdmissionUnanswered);
            remedy
        };
        assert!(
            failed("failed to call webhook: Post \"x\": tls: failed to verify certificate: x509: …")
                .contains("caBundle")
        );
        assert!(
            failed("failed to call webhook: no endpoints available for service \"vllm-operator\"")
                .contains("no replica")
        );
        assert!(failed("dial tcp 10.0.0.1:443: connect: connection refused").contains("targetPort"));
        assert!(failed("context deadline exceeded").contains("9443"));
        assert_eq!(told("failed calling webhook \"somebody.else\": whatever"), None);
        assert_eq!(told("exceeded quota"), None);
        let (check, _) = told("spec.replicas: Required value: replicas is required in what is stored: …")
            .expect("a finding");
        assert_eq!(check, Check::AdmissionBypassed);
        assert!(trial(&Trial { kind: KIND, refusal: None }).is_none());
    }
}
