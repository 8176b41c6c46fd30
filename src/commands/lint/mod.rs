//! `vllm-operator lint`: what admission would say of manifests, before they are applied.
//!
//! Read [`judge`] first. [`tree`] and [`place`] find the line of a field, [`manifest`] says what a document is,
//! [`schema`] and [`schemas`] are the API server's part, [`finding`] shows what was found, [`fix`] changes the text;
//! [`source`] and [`live`] read.
//!
//! Architecture invariant: the policy is asked, never repeated.

mod finding;
mod fix;
mod judge;
mod live;
mod manifest;
mod place;
mod scalar;
mod schema;
mod schemas;
mod source;
mod tree;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

use annotate_snippets::Renderer;
use anyhow::Context as _;
use json_patch::PatchOperation;
use serde_json::Value;

use crate::admit::Unjudged;
use crate::api::names::OWNER_LABEL;
use crate::args::{LintArgs, LintOutput};
use crate::world::files::{Kind, Objects};

use finding::{Finding, Severity};
use manifest::Manifest;
use source::Source;
use tree::Fault;

/// No refusal.
const PASSED: u8 = 0;
/// At least one refusal.
const REFUSED: u8 = 1;
/// Something could not be read, so the answer is not whole.
const UNREADABLE: u8 = 2;

/// Judges the manifests of `args` and prints what was found. Exit code 0 without refusals, 1 with, 2 where a file
/// cannot be read or is no YAML.
pub async fn run(args: LintArgs) -> ExitCode {
    match lint(&args).await {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            UNREADABLE.into()
        }
    }
}

async fn lint(args: &LintArgs) -> anyhow::Result<u8> {
    let (sources, errors) = source::read(&args.files);
    for error in &errors {
        eprintln!("error: {error}");
    }
    let read = Read::new(&sources, &args.namespace);
    for (file, fault) in &read.faults {
        let renderer = renderer(&std::io::stderr());
        eprintln!("{}\n", finding::fault(&sources[*file], fault, &renderer));
    }
    let is_whole = errors.is_empty() && read.faults.is_empty();
    let around = if args.live {
        live::around(&args.connection, &read.namespaces()).await?
    } else {
        Objects::default()
    };
    let checked = read.judged(&around).await?;
    print(args, &sources, &checked, is_whole).context("cannot write what was found")?;
    Ok(match () {
        () if !is_whole => UNREADABLE,
        () if checked.count(Severity::Refusal) > 0 => REFUSED,
        () => PASSED,
    })
}

/// What admission would refuse of what drives clusters, among objects that are stored: each as a fresh write in the world of all of
/// them. What KEDA has made is left to what KEDA has made it of.
pub(super) async fn refusals(objects: impl Iterator<Item = &Value>) -> anyhow::Result<Vec<Refused>> {
    let mut text = String::new();
    for object in objects {
        let mut object = object.clone();
        // Nobody writes these into a manifest.
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        text.extend(["---\n", &object.to_string(), "\n"]);
    }
    let sources = [Source { name: "the cluster".into(), text, has_mark: false }];
    let checked = Read::new(&sources, "default").judged(&Objects::default()).await?;
    let drivers = [Kind::ScaledObject.name(), Kind::Hpa.name()];
    let made_by_keda: Vec<_> = checked
        .manifests
        .iter()
        .filter(|manifest| {
            !manifest.value["metadata"]["labels"][OWNER_LABEL].is_null() && manifest.kind == Kind::Hpa
        })
        .map(|manifest| (manifest.namespace.as_str(), manifest.name.as_str()))
        .collect();
    let refused = checked.findings.iter().filter(|finding| {
        finding.severity == Severity::Refusal
            && drivers.contains(&finding.kind.as_str())
            && !(finding.kind == Kind::Hpa.name()
                && made_by_keda.contains(&(&finding.namespace, &finding.name)))
    });
    Ok(refused.map(Refused::from).collect())
}

/// A stored object that admission would refuse now.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// Its kind.
    pub(super) kind: String,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// The refusal.
    pub(super) message: String,
}

impl From<&Finding> for Refused {
    fn from(finding: &Finding) -> Self {
        let Finding { kind, namespace, name, .. } = finding.clone();
        Self { kind, namespace, name, message: finding.title() }
    }
}

/// Manifests, as far as they could be read.
struct Read {
    manifests: Vec<Manifest>,
    faults: Vec<(usize, Fault)>,
    /// What is wrong with manifests as such.
    findings: Vec<Finding>,
}

impl Read {
    fn new(sources: &[Source], namespace: &str) -> Self {
        let (mut manifests, mut faults) = (Vec::new(), Vec::new());
        for (file, source) in sources.iter().enumerate() {
            let parsed = tree::parse(&source.text);
            manifests.extend(manifest::manifests(file, &parsed.documents, namespace));
            faults.extend(parsed.faults.into_iter().map(|fault| (file, fault)));
        }
        let mut findings = manifest::duplicates(&mut manifests);
        let concerned = manifests.iter().filter(|manifest| manifest.concerns_us());
        findings.extend(concerned.flat_map(manifest::identity));
        Self { manifests, faults, findings }
    }

    /// Where manifests are that the policy judges.
    fn namespaces(&self) -> BTreeSet<String> {
        let concerned = self.manifests.iter().filter(|manifest| manifest.concerns_us());
        concerned.map(|manifest| manifest.namespace.clone()).collect()
    }

    /// What is found in them, with `around` as the rest of the world.
    async fn judged(self, around: &Objects) -> Result<Checked, Unjudged> {
        let Self { manifests, faults: _, mut findings } = self;
        let judged = judge::judge(&manifests, around).await?;
        findings.extend(judged.findings);
        findings.sort_by_key(|finding| {
            (finding.place.file, finding.document, finding.place.span.start, finding.severity)
        });
        Ok(Checked { manifests, findings, edits: judged.edits })
    }
}

/// Manifests, judged.
struct Checked {
    manifests: Vec<Manifest>,
    findings: Vec<Finding>,
    /// What the mutating webhook would change in each manifest.
    edits: Vec<Vec<PatchOperation>>,
}

impl Checked {
    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    fn text(&self, sources: &[Source], renderer: &Renderer) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            text.push_str(&finding.render(sources, renderer));
            text.push_str("\n\n");
        }
        let checked = self.manifests.iter().filter(|manifest| manifest.concerns_us()).count();
        text + &format!(
            "{}: {}, {}\n",
            counted(checked, "manifest"),
            counted(self.count(Severity::Refusal), "refusal"),
            counted(self.count(Severity::Warning), "warning")
        )
    }

    fn json(&self, sources: &[Source]) -> serde_json::Result<String> {
        let records: Vec<_> = self.findings.iter().map(|finding| finding.record(sources)).collect();
        Ok(serde_json::to_string_pretty(&records)? + "\n")
    }
}

/// Findings go to standard output, or make room there for the manifests.
fn print(args: &LintArgs, sources: &[Source], checked: &Checked, is_whole: bool) -> anyhow::Result<()> {
    let renderer = if args.fix { renderer(&std::io::stderr()) } else { renderer(&std::io::stdout()) };
    let findings = match args.output {
        LintOutput::Json => checked.json(sources)?,
        LintOutput::Text => checked.text(sources, &renderer),
    };
    if !args.fix {
        return Ok(std::io::stdout().write_all(findings.as_bytes())?);
    }
    std::io::stderr().write_all(findings.as_bytes())?;
    // A part of the manifests must not pass for all of them.
    anyhow::ensure!(is_whole, "no manifests are printed, because not all could be read");
    let (stream, unfixed) = fix::fixed(sources, &checked.manifests, &checked.edits, &args.namespace);
    for unfixed in unfixed {
        eprintln!("warning: {unfixed}");
    }
    Ok(std::io::stdout().write_all(stream.as_bytes())?)
}

/// In colours for people, by the convention of no-color.org.
fn renderer(stream: &impl IsTerminal) -> Renderer {
    let is_declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stream.is_terminal() && !is_declined { Renderer::styled() } else { Renderer::plain() }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
