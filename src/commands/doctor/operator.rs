//! The operator's own Deployment, pods, Services and Lease.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::args::ScalerMode;
use crate::policy::Mode;

use super::finding::{Check, Finding};
use super::seen::{Look, Replica, Seen, condition, holds};

/// The metric that tells when a watch had word last.
const LEADER: &str = "vllm_operator_leader";
const HEARD: &str = "vllm_operator_watch_heard_timestamp_seconds";
/// The API server has something to say about once a minute: of five, none was heard.
const SILENCE: Duration = Duration::from_mins(5);
/// Clocks of a node and of the API server differ by less.
const CLOCKS: Duration = Duration::from_secs(5);
const INSTALL: &str =
    "helm install vllm-operator deploy/chart, or kubectl apply --server-side -f deploy/install.yaml";

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    let about = format!("deployment/vllm-operator in namespace {}", seen.namespace);
    match &seen.deployment {
        Look::Unseen => {}
        Look::Absent => findings.push(Finding::new(
            Check::OperatorMissing,
            about,
            "It is not there: new VLLMClusters and changes of them are refused, and none is reconciled.",
            format!("install it: {INSTALL}; if it is in another namespace, say so with --operator-namespace"),
        )),
        Look::Found(deployment) => {
            findings.extend(replicas(&about, deployment, &seen.replicas));
            findings.extend(settings(&about, deployment, seen));
        }
    }
    findings.extend(services(seen));
    findings.extend(
        seen.replicas
            .iter()
            .filter_map(|replica| silence(replica, seen.at, seen.keda.definition.is_absent())),
    );
    findings.extend(leader(seen));
    findings
}

fn replicas(about: &str, deployment: &Value, pods: &[Replica]) -> Option<Finding> {
    let count = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let (wanted, available) = (count("/spec/replicas"), count("/status/availableReplicas"));
    if wanted == 0 {
        return Some(Finding::new(
            Check::OperatorStopped,
            about,
            "It wants no replicas: new VLLMClusters and changes of them are refused, and none is reconciled.",
            "kubectl scale deployment vllm-operator --replicas=2",
        ));
    }
    // While a new revision does not become ready, the pods of the old one serve on.
    let is_stuck = count("/status/unavailableReplicas") > 0;
    if available < wanted || is_stuck {
        let why = pods.iter().find_map(ailment).or_else(|| refusal(deployment));
        let what = if available < wanted { "" } else { ", and those of the newest revision are not" };
        return Some(Finding::new(
            Check::OperatorUnavailable,
            about,
            format!(
                "Of {wanted} replicas {available} are available{what}: {}.",
                why.as_deref().unwrap_or("the others have not become ready yet")
            ),
            "mend what is named there; kubectl describe and kubectl logs of the pod tell more",
        ));
    }
    (wanted == 1).then(|| {
        Finding::new(
            Check::OperatorAlone,
            about,
            "It has one replica: while that one is replaced or its node fails, VLLMClusters cannot be changed.",
            "set replicas to 2 or more (chart: replicaCount)",
        )
    })
}

/// Why a pod does not serve.
fn ailment(replica: &Replica) -> Option<String> {
    let Replica { pod, unready, metrics: _ } = replica;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(unscheduled) =
        condition(pod, "PodScheduled").filter(|condition| condition["status"] == "False")
    {
        return Some(format!(
            "pod {name} has no node: {}",
            unscheduled["message"].as_str().unwrap_or_default()
        ));
    }
    let status = &pod["status"]["containerStatuses"][0];
    let waiting = &status["state"]["waiting"];
    if let Some(reason) = waiting["reason"].as_str().filter(|reason| *reason != "ContainerCreating") {
        let last = &status["lastState"]["terminated"];
        let told =
            [&last["message"], &waiting["message"]].into_iter().find_map(Value::as_str).unwrap_or_default();
        let exit = last["exitCode"].as_i64().map_or_else(String::new, |code| format!(", exit code {code}"));
        return Some(format!("pod {name} is in {reason}{exit}: {}", told.trim()));
    }
    let unready =
        unready.as_ref().map(|told| format!("pod {name} is not ready: {}", told.trim().replace('\n', ", ")));
    unready.or_else(|| {
        let told = condition(pod, "Ready").filter(|ready| ready["status"] != "True")?["message"].as_str()?;
        Some(format!("pod {name} is not ready: {told}"))
    })
}

/// Why pods cannot be created at all.
fn refusal(deployment: &Value) -> Option<String> {
    let failure = condition(deployment, "ReplicaFailure").filter(|failure| failure["status"] == "True")?;
    failure["message"].as_str().map(str::to_owned)
}

fn settings(about: &str, deployment: &Value, seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    match seen.settings() {
        Err(told) => findings.push(Finding::new(
            Check::SettingsUnusable,
            about,
            format!("Its arguments and environment are refused: {told}."),
            "correct them; vllm-operator run --help tells what each takes",
        )),
        Ok(settings) if settings.admission_mode == Mode::Warn => findings.push(Finding::new(
            Check::NothingRefused,
            about,
            "Its admission mode is warn: what should be refused passes with a warning.",
            "once the warnings are gone, set it to deny (--admission-mode, chart: admission.mode)",
        )),
        Ok(_) => {}
    }
    let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let tag = image.split('@').next().and_then(|image| image.rsplit_once(':')).map(|(_, tag)| tag);
    // A tag of one's own says nothing of the version.
    let is_version = |tag: &&str| {
        tag.trim_start_matches('v').split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3
    };
    if let Some(tag) =
        tag.filter(is_version).filter(|tag| tag.trim_start_matches('v') != env!("CARGO_PKG_VERSION"))
    {
        findings.push(Finding::new(
            Check::VersionDiffers,
            about,
            format!("It runs version {tag}, and this program is {}.", env!("CARGO_PKG_VERSION")),
            "upgrade the older one of them; what is said here is by the rules of this program",
        ));
    }
    findings
}

/// Both Services must lead to the pods that are ready.
fn services(seen: &Seen) -> Vec<Finding> {
    let ready = seen.replicas.iter().filter(|replica| holds(&replica.pod, "Ready", "True")).count();
    let is_off = seen.settings().is_ok_and(|settings| settings.scaler == ScalerMode::Off);
    let names = ["vllm-operator", "vllm-operator-scaler"];
    let looks = names.into_iter().zip(&seen.parts.services);
    let wrong = looks.filter_map(|(name, look)| {
        let what = match look {
            Look::Absent if is_off && name == names[1] => return None,
            Look::Absent => "It is not there".to_owned(),
            Look::Found(_) if ready > 0 && endpoints(seen, name) == Some(0) => {
                format!("It leads to none of the {ready} pods that are ready")
            }
            Look::Found(_) | Look::Unseen => return None,
        };
        let who = if name == names[0] { "the API server" } else { "KEDA" };
        Some(Finding::new(
            Check::ServiceLeadsNowhere,
            format!("service/{name} in namespace {}", seen.namespace),
            format!("{what}, so {who} cannot call the operator."),
            "compare its selector and ports with the pods' labels and ports, or apply deploy/install.yaml again",
        ))
    });
    if seen.deployment.is_absent() { Vec::new() } else { wrong.collect() }
}

/// Ready addresses behind a Service, where they could be looked at.
fn endpoints(seen: &Seen, service: &str) -> Option<usize> {
    let slices = seen.parts.slices.as_ref()?.iter();
    let of_service =
        slices.filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let endpoints = of_service.filter_map(|slice| slice["endpoints"].as_array()).flatten();
    Some(endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false).count())
}

/// Whether a replica says that it leads.
fn leads(replica: &Replica) -> bool {
    replica.metrics.get(&(LEADER.to_owned(), String::new())) == Some(&1.0)
}

fn silence(replica: &Replica, at: Timestamp, without_keda: bool) -> Option<Finding> {
    let name = replica.pod["metadata"]["name"].as_str().unwrap_or_default();
    let leads = leads(replica);
    // A replica goes on telling of the watches that it has ended: whoever leads has no look at the Lease any more, and whoever does
    // not lead none at what only a leader needs.
    let ended = |resource: &str| match resource {
        "leases" => leads,
        "services" | "poddisruptionbudgets" | "events" => !leads,
        "scaledobjects" => without_keda,
        _ => false,
    };
    let heard = replica.metrics.iter().filter(|((metric, resource), _)| metric == HEARD && !ended(resource));
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let silent = heard
        .filter(|(_, when)| **when > 0.0)
        .find(|(_, when)| at.as_second() - **when as i64 > SILENCE.as_secs().cast_signed());
    silent.map(|((_, resource), _)| {
        Finding::new(
            Check::WatchSilent,
            format!("pod/{name}"),
            format!("It has heard nothing of {resource} for more than five minutes: what it knows of them may be out of date."),
            "see its log for what the API server says to its watches, and its right to watch them",
        )
    })
}

fn leader(seen: &Seen) -> Option<Finding> {
    // Times in the Lease are those of the replica's own clock, which may be wrong.
    if seen.replicas.iter().any(leads) {
        return None;
    }
    let settings = seen.settings().ok()?;
    let wants_replicas = seen.deployment.found().is_some_and(|found| found["spec"]["replicas"] != 0);
    let about = format!("lease/{} in namespace {}", settings.lease, seen.namespace);
    let found = match &seen.parts.lease {
        Look::Unseen => return None,
        _ if !wants_replicas => return None,
        Look::Absent => &Value::Null,
        Look::Found(found) => found,
    };
    let spec = &found["spec"];
    let holder = spec["holderIdentity"].as_str().unwrap_or_default();
    let renewed = spec["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let duration = Duration::from_secs(spec["leaseDurationSeconds"].as_u64().unwrap_or_default());
    let age: Option<Duration> =
        renewed.map(|renewed| seen.at.duration_since(renewed).try_into().unwrap_or_default());
    let what = match age {
        _ if holder.is_empty() => "Nobody holds it".to_owned(),
        Some(age) if age > duration + CLOCKS => {
            format!(
                "{holder} has not renewed it for {} s, and it lasts {} s",
                age.as_secs(),
                duration.as_secs()
            )
        }
        Some(_) => {
            let pod = holder.rsplit_once('_').map_or(holder, |(pod, _)| pod);
            if seen.replicas.is_empty() || seen.pod_names().any(|name| name == pod) {
                return None;
            }
            format!("{holder} holds it, and there is no such pod")
        }
        None => format!("{holder} has never renewed it"),
    };
    Some(Finding::new(
        Check::LeaderMissing,
        about,
        format!("{what}: no VLLMCluster is reconciled."),
        "see what is said of the Deployment and of the right to update the Lease; a ready replica takes it over within seconds",
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    /// Two replicas that serve, one of which leads.
    fn healthy() -> Seen {
        let pod = |name: &str| Replica {
            pod: json!({
                "metadata": {"name": name},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            }),
            ..Replica::default()
        };
        let slice = |service: &str| {
            json!({
                "metadata": {"labels": {"kubernetes.io/service-name": service}},
                "endpoints": [{"conditions": {"ready": true}}],
            })
        };
        let mut seen =
            Seen { at: now(), namespace: "ns".into(), replicas: vec![pod("a"), pod("b")], ..Seen::default() };
        let image = format!("registry.example/vllm-operator:{}", env!("CARGO_PKG_VERSION"));
        seen.deployment = Look::Found(json!({
            "spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": image}]}}},
            "status": {"availableReplicas": 2},
        }));
        seen.parts.services = [Look::Found(json!({})), Look::Found(json!({}))];
        seen.parts.slices = Some(vec![slice("vllm-operator"), slice("vllm-operator-scaler")]);
        seen.parts.lease = Look::Found(json!({"spec": {
            "holderIdentity": "a_123", "renewTime": "2025-12-31T23:59:55.000000Z", "leaseDurationSeconds": 15,
        }}));
        seen
    }

    /// What is found after a change at `pointer` of the Deployment.
    fn deployment(pointer: &str, value: Value) -> Vec<Finding> {
        let mut seen = healthy();
        if let Look::Found(found) = &mut seen.deployment {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            found.pointer_mut(parent).expect(parent)[key] = value;
        }
        check(&seen)
    }

    #[test]
    fn a_healthy_one_is_passed_over() {
        assert_eq!(check(&healthy()), []);
    }

    #[test]
    fn each_fault_of_the_deployment_is_found() {
        let first = |findings: Vec<Finding>| {
            assert_eq!(findings.len(), 1, "{findings:?}");
            findings.into_iter().next().expect("one")
        };
        assert_eq!(first(deployment("/spec/replicas", json!(0))).check, Check::OperatorStopped);
        assert_eq!(
            first(deployment("/status/availableReplicas", json!(1))).check,
            Check::OperatorUnavailable
        );
        let stuck = first(deployment("/status/unavailableReplicas", json!(1)));
        assert!(
            stuck.message.starts_with("Of 2 replicas 2 are available, and those of the newest"),
            "{stuck:?}"
        );
        let container = "/spec/template/spec/containers/0";
        assert_eq!(
            first(deployment(&format!("{container}/image"), json!("x:0.0.9"))).check,
            Check::VersionDiffers
        );
        assert_eq!(deployment(&format!("{container}/image"), json!("x:5000/y@sha256:00")), []);
        assert_eq!(deployment(&format!("{container}/image"), json!("x:main")), []);
        let mode = |value: &str| json!([{"name": "ADMISSION_MODE", "value": value}]);
        assert_eq!(first(deployment(&format!("{container}/env"), mode("warn"))).check, Check::NothingRefused);
        let unusable = deployment(&format!("{container}/env"), mode("sometimes"));
        assert_eq!(unusable[0].check, Check::SettingsUnusable);
        assert!(unusable[0].message.contains("'sometimes'"), "{unusable:?}");
        let flag = deployment(&format!("{container}/args"), json!(["run", "--admission-mode=warn"]));
        assert_eq!(first(flag).check, Check::NothingRefused);
        let absent = check(&Seen { deployment: Look::Absent, ..healthy() });
        assert_eq!(absent[0].check, Check::OperatorMissing);
    }

    #[test]
    fn a_pod_that_does_not_serve_says_why() {
        let mut replica = healthy().replicas.remove(0);
        assert_eq!(ailment(&replica), None);
        replica.pod["status"]["conditions"][0]["status"] = json!("False");
        replica.unready = Some("VLLMClusters are not listed yet\nthe operator is stopping\n".into());
        let told = "pod a is not ready: VLLMClusters are not listed yet, the operator is stopping";
        assert_eq!(ailment(&replica).as_deref(), Some(told));
        replica.pod["status"]["containerStatuses"] = json!([{
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "error: no such flag"}},
        }]);
        assert_eq!(
            ailment(&replica).as_deref(),
            Some("pod a is in CrashLoopBackOff, exit code 1: error: no such flag")
        );
        replica.pod["status"]["conditions"] =
            json!([{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]);
        assert_eq!(ailment(&replica).as_deref(), Some("pod a has no node: 0/3 nodes are available"));
    }

    #[test]
    fn services_must_lead_to_ready_pods() {
        let mut seen = healthy();
        seen.parts.slices = seen.parts.slices.map(|slices| slices[..1].to_vec());
        seen.parts.services[0] = Look::Absent;
        let told: Vec<_> = check(&seen).into_iter().map(|finding| (finding.check, finding.about)).collect();
        assert_eq!(
            told,
            [
                (Check::ServiceLeadsNowhere, "service/vllm-operator in namespace ns".to_owned()),
                (Check::ServiceLeadsNowhere, "service/vllm-operator-scaler in namespace ns".to_owned()),
            ]
        );
    }

    #[test]
    fn somebody_must_lead() {
        let told = |field: &str, value: Value| {
            let mut seen = healthy();
            if let Look::Found(lease) = &mut seen.parts.lease {
                lease["spec"][field] = value;
            }
            check(&seen).pop().map(|finding| finding.message).unwrap_or_default()
        };
        assert!(told("holderIdentity", json!("")).starts_with("Nobody holds it"));
        assert!(
            told("holderIdentity", json!("gone_1")).starts_with("gone_1 holds it, and there is no such pod")
        );
        assert!(told("renewTime", json!("2025-12-31T23:59:00Z")).contains("has not renewed it for 60 s"));
        assert!(told("renewTime", Value::Null).contains("has never renewed it"));
        let absent = check(&Seen {
            parts: super::super::seen::Parts { lease: Look::Absent, ..healthy().parts },
            ..healthy()
        });
        assert_eq!(absent[0].check, Check::LeaderMissing);
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused_as_the_operator_refuses_them() {
        let lease = json!([{"name": "LEASE_DURATION_SECONDS", "value": "5"}]);
        let unusable = deployment("/spec/template/spec/containers/0/env", lease);
        assert_eq!(unusable[0].check, Check::SettingsUnusable);
        assert!(unusable[0].message.contains("must be longer than the renew deadline"), "{unusable:?}");
    }

    #[test]
    fn a_watch_that_was_ended_is_not_waited_for() {
        let heard = |resource: &str| ((HEARD.to_owned(), resource.to_owned()), 1.0);
        let mut seen = healthy();
        seen.keda.definition = Look::Absent;
        seen.replicas[0].metrics = [heard("leases"), heard("scaledobjects")].into();
        seen.replicas[0].metrics.insert((LEADER.to_owned(), String::new()), 1.0);
        seen.replicas[1].metrics = [heard("services"), heard("events")].into();
        seen.parts.lease = Look::Absent;
        assert_eq!(check(&seen), []);
        seen.replicas[0].metrics.insert((LEADER.to_owned(), String::new()), 0.0);
        let told: Vec<_> = check(&seen).into_iter().map(|finding| finding.check).collect();
        assert_eq!(told, [Check::WatchSilent, Check::LeaderMissing]);
    }

    #[test]
    fn a_watch_that_hears_nothing_is_told_of() {
        let mut seen = healthy();
        let mut heard = |resource: &str, ago: i64| {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
            let when = (now().as_second() - ago) as f64;
            seen.replicas[0].metrics.insert((HEARD.to_owned(), resource.to_owned()), when);
        };
        heard("statefulsets", 60);
        heard("pods", 400);
        let findings = check(&seen);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].message.contains("heard nothing of pods"), "{findings:?}");
    }
}
