//! What `vllm-operator lint` finds in the manifests of all creations, beside what the API server said of them.
//!
//! **Architecture invariant**: lint is run as its users run it, over files and without a cluster; what it must find is
//! what was seen at the API server, never what a row expects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use testbed::parts::operator_binary;
use tokio::process::Command;

use super::axes::{Decider, Mode, Place, Verb, Webhook};
use super::cells::Cell;
use super::ground::limit_range;
use super::judge::causes;
use super::stage::{Seen, Stage};

/// A creation, and what came of it.
pub struct Creation {
    id: String,
    place: Place,
    by: Decider,
    refused: bool,
    /// What was there before.
    world: Vec<Value>,
    document: Value,
    /// Fields that the API server named, each with its sentence.
    causes: Vec<(String, String)>,
    message: String,
    warnings: Vec<String>,
}

impl Creation {
    /// Of each cell that really created something while the operator was up.
    pub fn of(cell: &Cell<'_>, stage: &Stage<'_>, seen: &Seen, by: Decider) -> Option<Self> {
        let is_one =
            (cell.verb, cell.mode, cell.dry, cell.webhook) == (Verb::Create, Mode::New, false, Webhook::Up);
        is_one.then(|| Self {
            id: cell.id(),
            place: cell.case.place,
            by,
            refused: !seen.answer.ok(),
            world: stage.around(),
            document: stage.wanted(cell),
            causes: causes(&seen.answer.body),
            message: seen.answer.message().to_owned(),
            warnings: seen.answer.warnings.clone(),
        })
    }
}

/// One creation, and where lint differs.
pub struct Compared {
    pub id: String,
    /// `None`: there is nothing to compare.
    pub wrong: Option<Vec<String>>,
    pub found: Vec<String>,
}

/// A finding of lint's.
#[derive(Deserialize)]
struct Found {
    file: String,
    namespace: String,
    field: String,
    rule: String,
    severity: String,
    message: String,
}

impl Found {
    fn said(&self) -> String {
        format!("{}: {}", self.field, self.message)
    }

    /// Of the policy, and not of a schema, which is said only where no webhook has refused before.
    fn of_policy(&self) -> bool {
        !self.rule.starts_with("schema/") && !self.rule.starts_with("manifest/")
    }
}

/// The document of each creation in its own namespace, with all that was there before.
const DOCUMENT: &str = "document.yaml";
const WORLD: &str = "world.yaml";

/// Runs lint once, over all creations.
pub async fn compare(creations: &[Creation]) -> anyhow::Result<Vec<Compared>> {
    let program = tokio::task::spawn_blocking(operator_binary).await??;
    let folder = tempfile::tempdir()?;
    for (index, Creation { place, world, document, .. }) in creations.iter().enumerate() {
        let folder = folder.path().join(namespace(index));
        std::fs::create_dir(&folder)?;
        let limits = (*place == Place::Limits).then(limit_range);
        write(&folder.join(WORLD), index, world.iter().cloned().chain(limits))?;
        write(&folder.join(DOCUMENT), index, [document.clone()])?;
    }
    let output = Command::new(&program)
        .args(["lint", "--output=json"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "lint ended with {}: {stderr}", output.status);
    let found: Vec<Found> = serde_json::from_slice(&output.stdout).context("what lint prints as JSON")?;
    let mut by_creation: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for found in found.into_iter().filter(|found| found.file.ends_with(DOCUMENT)) {
        by_creation.entry(found.namespace.clone()).or_default().push(found);
    }
    Ok(creations
        .iter()
        .enumerate()
        .map(|(index, creation)| {
            let found = by_creation.remove(&namespace(index)).unwrap_or_default();
            Compared {
                id: creation.id.clone(),
                wrong: differences(creation, &found),
                found: found.iter().map(|of| format!("{} {}", of.rule, of.said())).collect(),
            }
        })
        .collect())
}

fn namespace(index: usize) -> String {
    format!("creation-{index:03}")
}

fn write(path: &Path, index: usize, objects: impl IntoIterator<Item = Value>) -> anyhow::Result<()> {
    let mut text = String::new();
    for mut object in objects {
        object["metadata"]["namespace"] = json!(namespace(index));
        text = text + "---\n" + &serde_json::to_string_pretty(&object)? + "\n";
    }
    std::fs::write(path, text).with_context(|| format!("{}", path.display()))
}

/// Where lint says something else than the API server; `None` where KEDA alone can know.
fn differences(creation: &Creation, found: &[Found]) -> Option<Vec<String>> {
    let Creation { by, refused, place, causes, message, warnings, .. } = creation;
    let mut wrong = Vec::new();
    let of = |severity: &str| found.iter().filter(|found| found.severity == severity).collect::<Vec<_>>();
    let (refusals, warned) = (of("refusal"), of("warning"));
    match by {
        Decider::Keda if *refused => return None,
        Decider::Mutating | Decider::Validating if *refused => {
            let said = causes.iter().map(|(field, message)| format!("{field}: {message}")).collect();
            let policy = refusals.iter().filter(|found| found.of_policy()).map(|found| found.said());
            differ("a cause", &said, &policy.collect(), &mut wrong);
        }
        _ if *refused => {
            // A newer KEDA may have a field that lint does not know: there it only warns.
            let unknown = warned.iter().filter(|found| found.rule == "schema/unknown-field");
            let fields: Vec<_> = refusals.iter().chain(unknown).map(|found| found.field.as_str()).collect();
            // A rule of the schema stands at a parent of the fields that it compares.
            let within = |parent: &str, field: &str| {
                field.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            for (cause, said) in causes {
                // Of a value that it cannot read, the API server says more than once what is wrong, and not always where.
                let cause = cause.trim_start_matches('.');
                if cause != "<nil>" && !fields.iter().any(|field| within(cause, field)) {
                    wrong.push(format!("lint refuses nothing at {cause}, where the API server says: {said}"));
                }
            }
            // What cannot be decoded is told without causes.
            if !fields.iter().any(|field| message.contains(field)) && causes.is_empty() {
                wrong.push(format!("lint names no field that the API server names: {message}"));
            }
        }
        _ => {
            // Lint has no mode.
            let refuses = *place == Place::Warned;
            wrong.extend(
                refusals.iter().filter(|_| !refuses).map(|found| format!("lint refuses: {}", found.said())),
            );
        }
    }
    let told: Vec<_> = warned.iter().chain(refusals.iter().filter(|_| !refused)).collect();
    // A sentence that is whole by itself comes without its field.
    let is_told =
        |header: &String| told.iter().any(|found| *header == found.message || *header == found.said());
    wrong.extend(
        warnings
            .iter()
            .filter(|header| !is_told(header))
            .map(|header| format!("lint does not warn: {header}")),
    );
    // A mutating webhook that refuses leaves warnings to the validating one, which is not asked any more.
    if !refused {
        let is_header =
            |found: &Found| warnings.iter().any(|header| *header == found.message || *header == found.said());
        wrong.extend(
            warned
                .iter()
                .filter(|found| !is_header(found))
                .map(|found| format!("lint warns alone: {}", found.said())),
        );
    }
    Some(wrong)
}

fn differ(what: &str, said: &BTreeSet<String>, found: &BTreeSet<String>, wrong: &mut Vec<String>) {
    wrong.extend(said.difference(found).map(|said| format!("lint does not find {what}: {said}")));
    wrong.extend(found.difference(said).map(|found| format!("lint finds {what} alone: {found}")));
}
