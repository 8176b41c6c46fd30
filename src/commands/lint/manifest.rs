//! Documents as manifests of the kinds that the policy looks at; all others are passed over.
//!
//! Architecture invariant: says what a document is and where it stands; judges nothing but that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use serde_json::Value;

use crate::api::names::{API_VERSION, GROUP, KEDA_GROUP, KIND, SCALED_OBJECT_KIND, VERSION};
use crate::world::files::Kind;

use super::finding::{Finding, Place, Severity};
use super::place::{path_of_key, place, spell, steps};
use super::tree::{Document, Node, Repeated};

/// A document, or an item of a list, of a kind that the policy looks at.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Which of the files, by its index.
    pub(super) file: usize,
    /// Which of its documents, from 1.
    pub(super) document: usize,
    pub(super) root: Node,
    /// Keys that stand in one mapping of it twice.
    repeated_keys: Vec<Repeated>,
    pub(super) kind: Kind,
    pub(super) version: String,
    pub(super) namespace: String,
    /// Empty where the API server is to generate it, or where it is missing.
    pub(super) name: String,
    pub(super) value: Value,
    /// Whether another one of the same name stands before it.
    pub(super) duplicate: bool,
}

impl Manifest {
    /// A finding about a field, at its place or at that of its nearest parent.
    pub(super) fn finding(
        &self,
        severity: Severity,
        rule: &str,
        field: &str,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            place: Place { file: self.file, span: place(&self.root, &steps(field)) },
            document: self.document,
            kind: self.kind.name().to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            field: field.to_owned(),
            rule: rule.to_owned(),
            severity,
            message: message.into(),
            bare: false,
            elsewhere: None,
        }
    }

    /// Whether the policy has anything to say of it: itself a cluster, or pointing at one.
    pub(super) fn concerns_us(&self) -> bool {
        let target = &self.value["spec"]["scaleTargetRef"];
        let points_at_us = || {
            let group = target["apiVersion"].as_str().and_then(|version| version.split_once('/'));
            target["kind"] == KIND && group.is_some_and(|(group, _)| group == GROUP)
        };
        match self.kind {
            Kind::Cluster => true,
            Kind::ScaledObject | Kind::Hpa => points_at_us(),
            Kind::LimitRange => false,
        }
    }
}

/// The manifests among the documents of a file, in their order.
pub(super) fn manifests(file: usize, documents: &[Document], default_namespace: &str) -> Vec<Manifest> {
    let mut manifests = Vec::new();
    for document in documents {
        collect(file, document, &document.root, default_namespace, &mut manifests);
    }
    manifests
}

fn collect(
    file: usize,
    document: &Document,
    root: &Node,
    default_namespace: &str,
    manifests: &mut Vec<Manifest>,
) {
    let (api_version, kind) =
        (root.text("apiVersion").unwrap_or_default(), root.text("kind").unwrap_or_default());
    if let Some(items) =
        root.entry("items").filter(|_| kind.ends_with("List")).and_then(|entry| entry.node.items())
    {
        for item in items {
            collect(file, document, item, default_namespace, manifests);
        }
        return;
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = match (group, kind) {
        // A kind of ours without its apiVersion is a slip; nobody else has it.
        (GROUP, _) | ("", KIND) => Kind::Cluster,
        (KEDA_GROUP, SCALED_OBJECT_KIND) => Kind::ScaledObject,
        ("autoscaling", "HorizontalPodAutoscaler") => Kind::Hpa,
        ("", "LimitRange") => Kind::LimitRange,
        _ => return,
    };
    let metadata = root.entry("metadata").map(|entry| &entry.node);
    let text = |field| metadata.and_then(|metadata| metadata.text(field)).filter(|text| !text.is_empty());
    manifests.push(Manifest {
        file,
        document: document.number,
        repeated_keys: document.repeated_keys.clone(),
        kind,
        version: version.to_owned(),
        namespace: text("namespace").unwrap_or(default_namespace).to_owned(),
        name: text("name").unwrap_or_default().to_owned(),
        value: root.value(),
        root: root.clone(),
        duplicate: false,
    });
}

/// What is wrong with a manifest as such: it says what it is, in a version that is served, and has a name.
pub(super) fn identity(manifest: &Manifest) -> Vec<Finding> {
    let refuse =
        |rule: &str, field: &str, message: String| manifest.finding(Severity::Refusal, rule, field, message);
    let mut findings = Vec::new();
    let api_version = manifest.root.text("apiVersion").unwrap_or_default();
    let kind = manifest.root.text("kind").unwrap_or_default();
    match manifest.kind {
        Kind::Cluster if kind != KIND => findings.push(refuse(
            "manifest/kind",
            "kind",
            format!("{GROUP} has no kind {kind:?}; use {KIND}"),
        )),
        Kind::Cluster if api_version != API_VERSION => findings.push(refuse(
            "manifest/version",
            "apiVersion",
            format!("{api_version:?} is not served; use {API_VERSION}"),
        )),
        Kind::ScaledObject if manifest.version != VERSION => findings.push(refuse(
            "manifest/version",
            "apiVersion",
            format!("{api_version:?} is not served; use {KEDA_GROUP}/{VERSION}"),
        )),
        Kind::Hpa if !matches!(manifest.version.as_str(), "v1" | "v2") => findings.push(refuse(
            "manifest/version",
            "apiVersion",
            format!("{api_version:?} is not served any more; use autoscaling/v2"),
        )),
        _ => {}
    }
    let metadata = &manifest.value["metadata"];
    let is_stated = |field: &str| !metadata[field].is_null() && metadata[field] != "";
    if !is_stated("name") && !is_stated("generateName") {
        findings.push(refuse("manifest/name", "metadata.name", "is missing; state the object's name".into()));
    }
    // In a list, other items have theirs.
    for Repeated { key, first, second } in &manifest.repeated_keys {
        let Some(path) = path_of_key(&manifest.root, second) else { continue };
        let at = |span: &Range<usize>| Place { file: manifest.file, span: span.clone() };
        let message =
            format!("{key:?} stands twice in one mapping, and only the last one counts; remove one");
        findings.push(Finding {
            place: at(second),
            elsewhere: Some((at(first), "the first one")),
            ..refuse("manifest/duplicate-key", &spell(&path), message)
        });
    }
    findings
}

/// Marks manifests that stand twice. The first one counts; the others are refused, with both places.
pub(super) fn duplicates(manifests: &mut [Manifest]) -> Vec<Finding> {
    let mut first: HashMap<(Kind, String, String), usize> = HashMap::new();
    let mut findings = Vec::new();
    for index in 0..manifests.len() {
        let manifest = &manifests[index];
        if manifest.name.is_empty() || !(manifest.concerns_us() || manifest.kind == Kind::LimitRange) {
            continue;
        }
        match first.entry((manifest.kind, manifest.namespace.clone(), manifest.name.clone())) {
            Entry::Vacant(entry) => {
                entry.insert(index);
            }
            Entry::Occupied(entry) => {
                let earlier = &manifests[*entry.get()];
                let at = |manifest: &Manifest| Place {
                    file: manifest.file,
                    span: place(&manifest.root, &steps("metadata.name")),
                };
                let message = format!(
                    "{} {:?} stands twice in namespace {:?}, and whichever is applied last wins; remove one, or give it another name",
                    manifest.kind.name(),
                    manifest.name,
                    manifest.namespace
                );
                findings.push(Finding {
                    elsewhere: Some((at(earlier), "the first one")),
                    ..manifest.finding(Severity::Refusal, "manifest/duplicate", "metadata.name", message)
                });
                manifests[index].duplicate = true;
            }
        }
    }
    findings
}
