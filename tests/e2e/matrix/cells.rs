//! The cells: every case by every verb, as a dry run and not, with the operator up and down.
//!
//! **Architecture invariant**: a product with stated holes; nothing is left out without a reason that is counted.

use std::collections::BTreeMap;

use super::axes::{Decider, Kind, Mode, Verb, Webhook, Writer};
use super::case::{Case, Expect, Ways};

/// One write.
#[derive(Clone, Debug)]
pub struct Cell<'a> {
    pub case: &'a Case,
    pub verb: Verb,
    pub mode: Mode,
    pub dry: bool,
    pub webhook: Webhook,
    pub expect: Expect,
}

impl Cell<'_> {
    pub fn id(&self) -> String {
        let mode = if (self.verb, self.mode) == (Verb::Apply, Mode::New) { "-new" } else { "" };
        format!(
            "{}/{}/{}{mode}{}/{}",
            self.case.kind.label(),
            self.case.name,
            self.verb.label(),
            if self.dry { "/dry" } else { "" },
            self.webhook.label()
        )
    }
}

/// What was left out, and how many cells each reason took.
pub type LeftOut = BTreeMap<&'static str, usize>;

/// All cells of all cases.
pub fn generate(cases: &[Case]) -> (Vec<Cell<'_>>, LeftOut) {
    let mut cells = Vec::new();
    let mut left_out = LeftOut::new();
    for case in cases {
        for (verb, mode) in ways() {
            for dry in [false, true] {
                for webhook in Webhook::ALL {
                    match hole(case, verb, mode, dry, webhook) {
                        Some(reason) => *left_out.entry(reason).or_default() += 1,
                        None => cells.push(Cell {
                            case,
                            verb,
                            mode,
                            dry,
                            webhook,
                            expect: case.outcome(verb, mode, webhook),
                        }),
                    }
                }
            }
        }
    }
    (cells, left_out)
}

/// An apply makes what is not there, and changes what is.
fn ways() -> impl Iterator<Item = (Verb, Mode)> {
    [
        (Verb::Create, Mode::New),
        (Verb::Apply, Mode::New),
        (Verb::Put, Mode::Existing),
        (Verb::MergePatch, Mode::Existing),
        (Verb::JsonPatch, Mode::Existing),
        (Verb::Apply, Mode::Existing),
    ]
    .into_iter()
}

/// Whether a write is refused because nobody answers, whatever it says, and another one of its case tells as much.
fn one_tells(case: &Case, verb: Verb, mode: Mode, dry: bool, webhook: Webhook) -> bool {
    let unanswered = webhook == Webhook::Down
        && case.outcome(verb, mode, webhook).decider == Decider::FailurePolicy
        && !case.name.starts_with("good");
    let one = if case.ways == Ways::Updates { Verb::Put } else { Verb::Create };
    unanswered && (dry || verb != one)
}

/// Why a case cannot be written in a way.
fn hole(case: &Case, verb: Verb, mode: Mode, dry: bool, webhook: Webhook) -> Option<&'static str> {
    let generated = case.write["metadata"]["name"].as_str().is_none();
    match (mode, verb) {
        (Mode::New, _) if case.kind == Kind::Scale => {
            Some("a scale is a view of a cluster: nobody creates one")
        }
        (Mode::New, _) if case.ways == Ways::Updates => Some("the case is about a change of what is there"),
        (Mode::New, Verb::Apply) if generated => Some("an apply states the name"),
        (Mode::Existing, _) if case.before.is_none() || case.ways == Ways::Creations => {
            Some("the case is about a creation: a name, an owner, or a cluster that comes before")
        }
        (_, verb) if case.writer == Writer::HpaController && verb != Verb::Put => {
            Some("the HPA controller may PUT scales, and patch none")
        }
        _ if one_tells(case, verb, mode, dry, webhook) => Some(
            "with nobody there to answer a webhook that fails closed, no content matters: one write of each case tells, and each way to write what is good",
        ),
        _ if !case.detail => None,
        (_, verb) if webhook == Webhook::Down && verb != Verb::Create => {
            Some("with nobody there to ask, the details of a trigger are not looked at: a creation tells")
        }
        (_, verb) if dry && !matches!(verb, Verb::Create | Verb::Put) => {
            Some("a dry run of a detail of a trigger: a creation and a PUT tell")
        }
        _ => None,
    }
}
