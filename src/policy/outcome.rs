//! What a rule answers: findings that refuse or warn, and the count to set instead.
//!
//! Architecture invariant: knows nothing of HTTP or of AdmissionReviews; `admit` turns an outcome into one.

use std::borrow::Cow;
use std::fmt;

use json_patch::PatchOperation;

use super::Rule;
use super::rule::Basis;

/// One reason for a refusal or a warning: which rule, where, and a sentence that says what is wrong, what is allowed
/// and what to do. Printed as webhooks say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule that speaks.
    pub rule: Rule,
    /// JSON path of the field, such as `spec.replicas`.
    pub field: Cow<'static, str>,
    /// The sentence.
    pub message: String,
    /// Whether the sentence is whole without the field, and is printed so. Refusals never are.
    pub bare: bool,
}

impl Finding {
    /// A finding that is printed with its field.
    pub fn new(rule: Rule, field: impl Into<Cow<'static, str>>, message: String) -> Self {
        Self { rule, field: field.into(), message, bare: false }
    }

    /// A warning whose sentence needs no field to be understood.
    pub fn bare(rule: Rule, field: impl Into<Cow<'static, str>>, message: String) -> Self {
        Self { bare: true, ..Self::new(rule, field, message) }
    }

    /// What is printed.
    pub fn into_sentence(self) -> String {
        if self.bare { self.message } else { self.to_string() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule: _, field, message, bare } = self;
        if *bare { f.write_str(message) } else { write!(f, "{field}: {message}") }
    }
}

/// The answer to one write. Empty: allowed, as it is, in silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// All that refuses the write, in a stable order. Empty: allowed.
    pub refusals: Vec<Finding>,
    /// What the writer should know although the write passes.
    pub warnings: Vec<Finding>,
    /// Changes to the written object that are no count: fields filled in, older forms brought up to date.
    pub edits: Vec<PatchOperation>,
    /// The count to store instead of what the write states.
    pub replicas: Option<i32>,
    /// The count that an autoscaler asked for, where [`Outcome::replicas`] moved it to a bound.
    pub clamped_from: Option<i32>,
}

impl Outcome {
    /// Adds a reason to refuse. Every refusal comes in here.
    pub(super) fn refuse(&mut self, finding: Finding) {
        if finding.rule.in_force() {
            self.refusals.push(finding);
        }
    }

    /// Adds a reason to refuse that only the API server could tell.
    pub fn add_refusal(&mut self, finding: Finding) {
        self.refuse(finding);
    }

    /// Adds reasons to refuse.
    pub(super) fn refuse_all(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.refuse(finding);
        }
    }

    /// Adds a warning. Every warning comes in here.
    pub(super) fn warn(&mut self, finding: Finding) {
        if finding.rule.in_force() {
            self.warnings.push(finding);
        }
    }

    /// Adds a warning, if there is one.
    pub(super) fn warn_of(&mut self, finding: Option<Finding>) {
        if let Some(finding) = finding {
            self.warn(finding);
        }
    }

    /// Adds a reason to refuse, or where it is excused a warning of it.
    pub(super) fn refuse_unless(&mut self, excused: bool, finding: Finding) {
        if excused {
            self.warn(finding);
        } else {
            self.refuse(finding);
        }
    }

    /// Whether the write passes.
    pub fn allowed(&self) -> bool {
        self.refusals.is_empty()
    }

    /// What the refusals rest on beside the written object: it may have changed since it was last seen.
    pub fn rests_on(&self) -> impl Iterator<Item = Basis> {
        self.refusals.iter().filter_map(|finding| finding.rule.rests_on())
    }

    /// All refusals in one sentence, as the HPA's conditions and KEDA's events show it.
    pub fn message(&self) -> String {
        self.refusals.iter().map(Finding::to_string).collect::<Vec<_>>().join("; ")
    }
}
