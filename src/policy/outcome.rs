//! What a rule answers: findings that refuse, warnings, and the count to set instead.
//!
//! Architecture invariant: knows nothing of HTTP or of AdmissionReviews; `admit` turns an outcome into one.

use std::borrow::Cow;

use json_patch::PatchOperation;

/// One reason for a refusal: where, and a sentence that says what is wrong, what is allowed and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// JSON path of the field, such as `spec.replicas`.
    pub field: Cow<'static, str>,
    /// The sentence.
    pub message: String,
    /// Whether the finding rests on a ScaledObject, which is read live before it refuses anything.
    pub rests_on_scaler: bool,
}

impl Finding {
    /// A finding that rests on the written object alone.
    pub fn new(field: impl Into<Cow<'static, str>>, message: String) -> Self {
        Self { field: field.into(), message, rests_on_scaler: false }
    }

    /// A finding that rests on a ScaledObject as well.
    pub fn of_scaler(field: impl Into<Cow<'static, str>>, message: String) -> Self {
        Self { field: field.into(), message, rests_on_scaler: true }
    }
}

/// The answer to one write. Empty: allowed, as it is, in silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// All that refuses the write, in a stable order. Empty: allowed.
    pub refusals: Vec<Finding>,
    /// What the writer should know although the write passes.
    pub warnings: Vec<String>,
    /// Changes to the written object that are no count: fields filled in, older forms brought up to date.
    pub edits: Vec<PatchOperation>,
    /// The count to store instead of what the write states.
    pub replicas: Option<i32>,
    /// The count that an autoscaler asked for, where [`Outcome::replicas`] moved it to a bound.
    pub clamped_from: Option<i32>,
}

impl Outcome {
    /// Whether the write passes.
    pub fn allowed(&self) -> bool {
        self.refusals.is_empty()
    }

    /// Whether a refusal rests on a ScaledObject that may have changed since it was last seen.
    pub fn rests_on_scaler(&self) -> bool {
        self.refusals.iter().any(|finding| finding.rests_on_scaler)
    }

    /// All findings in one sentence, as the HPA's conditions and KEDA's events show it.
    pub fn message(&self) -> String {
        let findings: Vec<_> =
            self.refusals.iter().map(|finding| format!("{}: {}", finding.field, finding.message)).collect();
        findings.join("; ")
    }
}
