//! The axes of the matrix, and who may decide.
//!
//! **Architecture invariant**: names only; which points of the product exist is [`super::cells`]'s to say.

pub const GROUP: &str = "training.distributed-inference.io";

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Cluster,
    Scale,
    ScaledObject,
    HpaV1,
    HpaV2,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Scale, Self::ScaledObject, Self::HpaV1, Self::HpaV2];

    pub fn label(self) -> &'static str {
        match self {
            Self::Cluster => "vllmcluster",
            Self::Scale => "scale",
            Self::ScaledObject => "scaledobject",
            Self::HpaV1 => "hpa/v1",
            Self::HpaV2 => "hpa/v2",
        }
    }

    pub fn is_hpa(self) -> bool {
        matches!(self, Self::HpaV1 | Self::HpaV2)
    }
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Put,
    MergePatch,
    JsonPatch,
    Apply,
}

impl Verb {
    pub const ALL: [Self; 5] = [Self::Create, Self::Put, Self::MergePatch, Self::JsonPatch, Self::Apply];

    pub fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Put => "put",
            Self::MergePatch => "merge",
            Self::JsonPatch => "json",
            Self::Apply => "apply",
        }
    }
}

/// Whether the object is there before the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    New,
    Existing,
}

/// What of the operator's webhooks can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Webhook {
    Up,
    Down,
}

impl Webhook {
    pub const ALL: [Self; 2] = [Self::Up, Self::Down];

    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Which namespace it is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Nothing special.
    Plain,
    /// A `LimitRange` gives each container a default request of cpu.
    Limits,
    /// Labelled to be warned in place of refused.
    Warned,
    /// As [`Place::Warned`] until everything that was there before is made: so violations can be older than the write.
    Old,
}

impl Place {
    pub const ALL: [Self; 4] = [Self::Plain, Self::Limits, Self::Warned, Self::Old];

    pub fn namespace(self) -> &'static str {
        match self {
            Self::Plain => "matrix",
            Self::Limits => "matrix-limits",
            Self::Warned => "matrix-warned",
            Self::Old => "matrix-old",
        }
    }
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Writer {
    Admin,
    /// KEDA's operator, an autoscaler.
    Keda,
    /// The HPA controller, an autoscaler and an account of kube-system; it may only PUT.
    HpaController,
}

/// Who decides on a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decider {
    /// kubectl, before any request.
    Kubectl,
    /// The API server itself: decoding, schema and CEL rules, its own validation.
    Schema,
    /// Our mutating webhook: it refused, or changed what is stored.
    Mutating,
    /// Our validating webhook: it refused, or had the last word on what passed as it was.
    Validating,
    /// Our webhook's `failurePolicy: Fail`.
    FailurePolicy,
    /// KEDA's webhook.
    Keda,
    /// Nobody: no webhook of ours was asked, or its failure was ignored.
    Nobody,
}
