//! A finding: what is wrong, where, and how it is shown.
//!
//! Architecture invariant: data and its two forms, text and JSON; nothing is judged here.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Element, Level, Renderer, Snippet};
use serde::Serialize;

use super::place::line_column;
use super::source::Source;
use super::tree::Fault;

/// Whether a write would be refused or only warned about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Refusal,
    Warning,
}

/// Where in which file, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) span: Range<usize>,
}

/// One thing that a person should know before these manifests are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) place: Place,
    /// Which document of the file, from 1.
    pub(super) document: usize,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Path of the field.
    pub(super) field: String,
    pub(super) rule: String,
    pub(super) severity: Severity,
    pub(super) message: String,
    /// Whether the sentence is whole without the field.
    pub(super) bare: bool,
    /// Another place that has to do with it, and what it is.
    pub(super) elsewhere: Option<(Place, &'static str)>,
}

/// A finding as `--output json` gives it.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    file: &'a str,
    document: usize,
    line: usize,
    column: usize,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    field: &'a str,
    rule: &'a str,
    severity: Severity,
    message: &'a str,
}

impl Finding {
    pub(super) fn record<'a>(&'a self, sources: &'a [Source]) -> Record<'a> {
        let Self {
            place,
            document,
            kind,
            namespace,
            name,
            field,
            rule,
            severity,
            message,
            bare: _,
            elsewhere: _,
        } = self;
        let source = &sources[place.file];
        let (line, column) = line_column(&source.text, place.span.start);
        Record {
            file: &source.name,
            document: *document,
            line,
            column,
            kind,
            namespace,
            name,
            field,
            rule,
            severity: *severity,
            message,
        }
    }

    /// The whole sentence.
    pub(super) fn title(&self) -> String {
        if self.bare { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }

    /// As a compiler shows it.
    pub(super) fn render(&self, sources: &[Source], renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Refusal => Level::ERROR.with_name("refused"),
            Severity::Warning => Level::WARNING,
        };
        let object = match self.name.as_str() {
            "" => self.kind.clone(),
            name => format!("{} {}/{name}", self.kind, self.namespace),
        };
        let element = |place: &Place, kind, label| element(&sources[place.file], &place.span, kind, label);
        let here = element(&self.place, AnnotationKind::Primary, object.as_str());
        let there =
            self.elsewhere.as_ref().map(|(place, what)| element(place, AnnotationKind::Context, *what));
        let title = level.primary_title(self.title()).id(&self.rule);
        renderer.render(&[title.elements([here]).elements(there)])
    }
}

/// What is no YAML, as a compiler shows it.
pub(super) fn fault(source: &Source, fault: &Fault, renderer: &Renderer) -> String {
    let here = element(source, &(fault.at..fault.at + 1), AnnotationKind::Primary, "");
    let title = Level::ERROR.primary_title(format!("this is no YAML: {}", fault.message));
    renderer.render(&[title.element(here)])
}

/// The line of a place, and what stands there.
fn element<'a>(source: &'a Source, span: &Range<usize>, kind: AnnotationKind, label: &'a str) -> Element<'a> {
    let Source { name, text, has_mark: _ } = source;
    let start = text.floor_char_boundary(span.start);
    // A value of many lines is shown by its first one.
    let line_end = text[start..].find(['\r', '\n']).map_or(text.len(), |length| start + length);
    let end = text.floor_char_boundary(span.end).clamp(start, line_end);
    Snippet::source(text.as_str()).path(name.as_str()).annotation(kind.span(start..end).label(label)).into()
}
