//! The admission policy: what a write may do, as plain functions of the write and of what is known.
//!
//! Read [`bounds`] for the two ranges that every rule speaks of, then [`scale`], [`cluster`],
//! [`scaled_object`] and [`hpa`], one for each kind of write. All answer with an [`Outcome`], whose findings name
//! their [`Rule`].
//!
//! The way in is the same for each kind: build its `Write` from the object and from what is known around it
//! ([`crate::world`]), let `default` say what will be stored instead ([`Outcome::replicas`], [`Outcome::edits`]),
//! apply that, and let `check` judge the result. The webhooks, `lint` and the controller's conditions all come in
//! here. A fresh write is one whose `old` is `None`.
//!
//! Architecture invariant: no async, no client, no clock, no JSON of a review. The same functions serve the
//! webhooks and whoever else must know what they would say.

pub mod bounds;
pub(crate) mod clause;
pub mod cluster;
pub mod host_access;
pub mod hpa;
pub mod name;
pub mod outcome;
pub mod rule;
pub mod scale;
pub mod scaled_object;
pub mod workload;

pub use bounds::{Bounds, ForeignHpa, Scaler};
pub(crate) use clause::Clause;
pub use name::Name;
pub use outcome::{Finding, Outcome};
pub use rule::{Basis, Rule};

/// What becomes of a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The write is refused.
    #[default]
    Deny,
    /// The write passes, and its writer is warned. Patches, the schema and failed look-ups stay as they are.
    Warn,
}

impl Mode {
    /// The mode that a namespace's label names; `None` for any other text.
    pub fn of_label(value: &str) -> Option<Self> {
        match value {
            "deny" => Some(Self::Deny),
            "warn" => Some(Self::Warn),
            _ => None,
        }
    }
}

/// Who asks for a count. A person learns from a refusal; an autoscaler that is refused stays where it is for
/// ever, so its wish is moved to the nearest bound instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Anybody who is not a configured autoscaler: people, CI, GitOps controllers.
    Person,
    /// KEDA's operator or the HPA controller.
    Autoscaler,
}

#[cfg(test)]
mod mutants;
