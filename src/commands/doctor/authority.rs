//! Certificates: the authority in its Secret, and what the replicas say of what they serve.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certs::{CaCertificate, KEYS, SecretBytes, Stored};
use jiff::Timestamp;

use crate::args::RunArgs;

use super::finding::{Check, Finding};
use super::seen::{Look, Seen};

/// The metric that tells when what is served ends.
const LEAF_END: &str = "vllm_operator_leaf_expiry_timestamp_seconds";
/// The metric that counts mounted files that were of no use.
const FILES_UNUSABLE: &str = "vllm_operator_certificate_files_unusable_total";
/// A leaf is renewed in the last third of its life: with half of that left, something is wrong.
const LATE_LEAF: u32 = 6;
/// Likewise of the time before its end in which an authority is rotated.
const LATE_AUTHORITY: u32 = 2;

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let Ok(settings) = seen.settings() else { return Vec::new() };
    let is_issued = settings.tls_cert_file.is_none();
    let mut findings = Vec::new();
    if is_issued && seen.deployment.found().is_some() {
        findings.extend(authority(seen, &settings));
    }
    for replica in &seen.replicas {
        let name = format!("pod/{}", replica.pod["metadata"]["name"].as_str().unwrap_or_default());
        let metric = |metric: &str| replica.metrics.get(&(metric.to_owned(), String::new())).copied();
        let unusable = metric(FILES_UNUSABLE).unwrap_or_default();
        if !is_issued && unusable > 0.0 {
            findings.push(Finding::new(
                Check::CertificateFilesUnusable,
                &name,
                format!("Since it started it has found nothing to serve in its mounted certificate files, {unusable} times."),
                "see its log for the reason, and the Secret that is mounted: tls.crt and tls.key must be a pair for the names of the \
                 Service (docs/certificates.md)",
            ));
        }
        let left = metric(LEAF_END).filter(|end| *end > 0.0).map(|end| left(end, seen.at));
        if let Some(left) =
            left.filter(|left| *left < settings.leaf_life / LATE_LEAF && is_issued || left.is_zero())
        {
            findings.push(Finding::new(
                Check::CertificateEnding,
                &name,
                format!("What it serves ends in {}, and was not renewed.", spelt(left)),
                "see its log; restarting the pod makes it ask for a new one",
            ));
        }
    }
    findings
}

/// What is wrong with the Secret of the authority.
fn authority(seen: &Seen, settings: &RunArgs) -> Option<Finding> {
    let about = format!("secret/{} in namespace {}", settings.ca_secret, seen.namespace);
    let stored = match &seen.parts.authority {
        Look::Unseen => return None,
        Look::Absent => Stored::read(None),
        Look::Found(_) => stored(seen)?,
    };
    match stored.state.signer {
        Err(reason) => Some(Finding::new(
            Check::AuthorityUnusable,
            about,
            format!("It holds no authority that could sign: {reason}."),
            "the replica that leads makes a new one by itself within seconds: see what is said of it and of its right to update this \
             Secret; an immutable Secret must be deleted",
        )),
        Ok(ca) => {
            let left = until(ca.not_after, seen.at);
            (left < settings.ca_rotation_lead / LATE_AUTHORITY).then(|| {
                Finding::new(
                    Check::AuthorityEnding,
                    about,
                    format!("The authority ends in {}, and was not rotated.", spelt(left)),
                    "see the log of the replica that leads",
                )
            })
        }
    }
}

/// What signs, where the operator issues by itself and its Secret could be read.
pub(super) fn signer(seen: &Seen) -> Option<CaCertificate> {
    let is_issued = seen.settings().is_ok_and(|settings| settings.tls_cert_file.is_none());
    if is_issued { stored(seen)?.state.signer.ok() } else { None }
}

fn stored(seen: &Seen) -> Option<Stored> {
    let data = &seen.parts.authority.found()?["data"];
    let bytes: SecretBytes =
        KEYS.into_iter().filter_map(|key| Some((key, STANDARD.decode(data[key].as_str()?).ok()?))).collect();
    Some(Stored::read(Some(bytes)))
}

fn left(end: f64, at: Timestamp) -> Duration {
    // As far as a timestamp reaches.
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    Timestamp::from_second(end as i64).map_or(Duration::ZERO, |end| until(end, at))
}

fn until(end: Timestamp, at: Timestamp) -> Duration {
    end.duration_since(at).try_into().unwrap_or_default()
}

/// The largest unit that says something.
fn spelt(left: Duration) -> String {
    let seconds = left.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use certs::{Authority, CA_CERTIFICATE, CA_KEY};
    use serde_json::{Value, json};

    use super::super::seen::Replica;
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn made(at: Timestamp, life: Duration) -> Authority {
        Authority::generate("test", at, life).expect("an authority")
    }

    /// An authority that lives on.
    pub static PEM: LazyLock<String> = LazyLock::new(|| made(now(), 365 * DAY).certificate_pem());

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn seen(authority: Option<&Authority>) -> Seen {
        let mut seen =
            Seen { at: now(), namespace: "ns".into(), deployment: Look::Found(json!({})), ..Seen::default() };
        let data = authority.map(|authority| {
            json!({
                CA_CERTIFICATE: STANDARD.encode(authority.certificate_pem()),
                CA_KEY: STANDARD.encode(authority.key_pem()),
            })
        });
        seen.parts.authority = data.map_or(Look::Absent, |data| Look::Found(json!({ "data": data })));
        seen
    }

    fn replica(metrics: &[(&str, f64)]) -> Replica {
        let metrics =
            metrics.iter().map(|(name, value)| (((*name).to_owned(), String::new()), *value)).collect();
        Replica { pod: json!({"metadata": {"name": "a"}}), metrics, ..Replica::default() }
    }

    fn told(seen: &Seen) -> Vec<(Check, String)> {
        check(seen).into_iter().map(|finding| (finding.check, finding.message)).collect()
    }

    #[test]
    fn an_authority_must_be_there_whole_and_in_time() {
        assert_eq!(told(&seen(Some(&made(now(), 365 * DAY)))), []);
        assert_eq!(told(&seen(None))[0].0, Check::AuthorityUnusable);
        let ending = told(&seen(Some(&made(now(), 10 * DAY))));
        assert_eq!(ending[0].0, Check::AuthorityEnding);
        let mut broken = seen(Some(&made(now(), 365 * DAY)));
        broken.parts.authority = Look::Found(json!({"data": {CA_CERTIFICATE: "eA==", CA_KEY: "eA=="}}));
        assert_eq!(told(&broken)[0].0, Check::AuthorityUnusable);
        assert_eq!(
            told(&Seen { deployment: Look::Found(Value::Null), ..Seen::default() }),
            [],
            "what is not seen"
        );
    }

    #[test]
    fn what_is_served_must_last() {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let end = |days: i64| (now().as_second() + days * 86_400) as f64;
        let mut seen = seen(Some(&made(now(), 365 * DAY)));
        for (days, found) in [(7, 0), (2, 0), (1, 1), (-1, 1)] {
            seen.replicas = vec![replica(&[(LEAF_END, end(days)), (FILES_UNUSABLE, 3.0)])];
            assert_eq!(told(&seen).len(), found, "{days} days");
        }
        let env = json!([{"name": "TLS_CERT_FILE", "value": "/a"}, {"name": "TLS_KEY_FILE", "value": "/b"}]);
        seen.deployment =
            Look::Found(json!({"spec": {"template": {"spec": {"containers": [{"env": env}]}}}}));
        seen.replicas = vec![replica(&[(LEAF_END, end(1)), (FILES_UNUSABLE, 3.0)])];
        assert_eq!(
            told(&seen).into_iter().map(|(check, _)| check).collect::<Vec<_>>(),
            [Check::CertificateFilesUnusable]
        );
        assert!(signer(&seen).is_none());
    }
}
