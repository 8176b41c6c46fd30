//! Who decided, by what the API server said and logged, and whether that is what must be.
//!
//! **Architecture invariant**: the decider is read off the answer and the audit log, never off what is expected.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

use super::axes::{Decider, Kind};
use super::case::Expect;
use super::cells::Cell;
use super::stage::{Seen, Stage};

/// The names of our webhooks.
#[derive(Debug, Default)]
pub struct Ours {
    pub mutating: BTreeSet<String>,
    pub validating: BTreeSet<String>,
}

/// What the audit log has of one request.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Mutating webhooks that were called, and whether each changed the object.
    mutating: Vec<(String, bool)>,
    /// Webhooks whose failure was ignored.
    failed_open: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "auditID")]
    audit_id: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Mutation {
    webhook: String,
    mutated: bool,
}

/// The audit log by audit id; of a request that was repeated, its last.
pub fn audit(path: &Path) -> anyhow::Result<HashMap<String, Audit>> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8_lossy(&text);
    let mut log = HashMap::new();
    for line in text.lines().filter(|line| line.contains("\"auditID\":\"matrix-cell-")) {
        let Line { audit_id, annotations } = serde_json::from_str(line)?;
        let mut audit = Audit::default();
        for (key, value) in annotations {
            if key.starts_with("mutation.webhook.admission.k8s.io/") {
                let Mutation { webhook, mutated } = serde_json::from_str(&value)?;
                audit.mutating.push((webhook, mutated));
            } else if key.starts_with("failed-open.") {
                audit.failed_open.push(value);
            }
        }
        log.insert(audit_id, audit);
    }
    Ok(log)
}

/// Who decided.
pub fn decider(kind: Kind, seen: &Seen, audit: &Audit, ours: &Ours) -> Decider {
    if !seen.answer.ok() {
        let message = seen.answer.message();
        if message.contains("failed calling webhook") {
            return Decider::FailurePolicy;
        }
        let denied = message
            .strip_prefix("admission webhook \"")
            .and_then(|rest| rest.split_once("\" denied the request"));
        return match denied {
            Some((name, _)) if ours.mutating.contains(name) => Decider::Mutating,
            Some((name, _)) if ours.validating.contains(name) => Decider::Validating,
            Some(_) => Decider::Keda,
            None => Decider::Schema,
        };
    }
    let ours_failed =
        audit.failed_open.iter().any(|name| ours.mutating.contains(name) || ours.validating.contains(name));
    let changed = audit.mutating.iter().any(|(name, mutated)| *mutated && ours.mutating.contains(name));
    let called = audit.mutating.iter().any(|(name, _)| ours.mutating.contains(name));
    if ours_failed {
        Decider::Nobody
    } else if changed {
        Decider::Mutating
    } else if (kind.is_hpa() && seen.counted == Some(true)) || (!kind.is_hpa() && called) {
        Decider::Validating
    } else {
        Decider::Nobody
    }
}

/// All that is not as it must be.
pub fn wrong(cell: &Cell<'_>, stage: &Stage<'_>, seen: &Seen, decider: Decider) -> Vec<String> {
    let Expect { refused, decider: by, says, warns, stored } = &cell.expect;
    let mut wrong = Vec::new();
    let answer = &seen.answer;
    if answer.ok() == *refused {
        wrong.push(format!("must be {}", if *refused { "refused" } else { "let through" }));
    }
    if decider != *by {
        wrong.push(format!("must be decided by {by:?}"));
    }
    let lines = |texts: &[&str]| texts.iter().map(|text| stage.text(text)).collect::<Vec<_>>();
    let says = lines(says);
    if matches!(decider, Decider::Mutating | Decider::Validating) && !answer.ok() {
        if answer.code != 422 || answer.body["reason"] != "Invalid" {
            wrong.push(format!(
                "a refusal of ours is 422 Invalid, not {} {}",
                answer.code, answer.body["reason"]
            ));
        }
        let causes: Vec<_> =
            causes(&answer.body).iter().map(|(field, message)| format!("{field}: {message}")).collect();
        differ("cause", &says, &causes, &mut wrong);
        // Who shows only the message shows as much.
        wrong.extend(
            says.iter()
                .filter(|part| !answer.message().contains(*part))
                .map(|part| format!("the message must say: {part}")),
        );
    } else {
        wrong.extend(
            says.iter()
                .filter(|part| !answer.message().contains(*part))
                .map(|part| format!("must say: {part}")),
        );
    }
    let mut warns = lines(warns);
    if (decider, *by) == (Decider::Keda, Decider::Keda) && answer.warnings.is_empty() {
        // Both are asked at once, and one answer is told: behind KEDA's, ours may have been to try again.
        warns.clear();
    }
    differ("warning", &warns, &answer.warnings, &mut wrong);
    if *refused || cell.dry {
        if seen.before != seen.after {
            wrong.push(format!("must change nothing, and changed {:?} to {:?}", seen.before, seen.after));
        }
    } else if !super::stage::name_of(&cell.case.write).is_empty() {
        let after = seen.after.as_ref().map_or(&Value::Null, |after| &after["spec"]);
        let answered = &answer.body["spec"];
        let alike = match cell.case.kind {
            Kind::Scale => answered["replicas"] == after["replicas"],
            Kind::HpaV1 => after["maxReplicas"] == answered["maxReplicas"],
            _ => after == answered,
        };
        if !alike {
            wrong.push(format!("what is stored must be what was answered: {after}"));
        }
    }
    if !*refused && answer.ok() {
        let mut wanted = stage.wanted(cell)["spec"].clone();
        for (pointer, value) in stored {
            place(&mut wanted, pointer, value);
        }
        let got = &answer.body["spec"];
        let alike = match cell.case.kind {
            // The API server fills in what else an HPA has; a Scale leaves out nothing else.
            Kind::HpaV1 | Kind::HpaV2 | Kind::Scale => contains(got, &wanted),
            Kind::Cluster | Kind::ScaledObject => *got == wanted,
        };
        if !alike {
            wrong.push(format!("must be stored as {wanted}, and is {got}"));
        }
    }
    wrong
}

/// The causes of a refusal: field and sentence of each.
pub fn causes(status: &Value) -> Vec<(String, String)> {
    let causes = status["details"]["causes"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    causes.into_iter().flatten().map(|cause| (text(&cause["field"]), text(&cause["message"]))).collect()
}

/// Each expected text must be in the found one of the same place, and there must be no other.
fn differ(what: &str, expected: &[String], found: &[String], wrong: &mut Vec<String>) {
    for (index, part) in expected.iter().enumerate() {
        if !found.get(index).is_some_and(|found| found.contains(part)) {
            wrong.push(format!("{what} {} must be: {part}", index + 1));
        }
    }
    wrong.extend(found.iter().skip(expected.len()).map(|found| format!("{what} too many: {found}")));
}

fn place(object: &mut Value, pointer: &str, value: &Value) {
    let Some((parent, key)) = pointer.rsplit_once('/') else { return };
    if object.is_null() {
        *object = Value::Object(serde_json::Map::new());
    }
    let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) else { return };
    if value.is_null() {
        parent.remove(key);
    } else {
        parent.insert(key.to_owned(), value.clone());
    }
}

/// Whether one value has all that another has.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|found| contains(found, value)))
        }
        _ => whole == part,
    }
}
