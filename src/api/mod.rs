//! The API: what users write, what the operator reads of others' objects, and every name both agree on.
//!
//! Architecture invariant: types and constants alone. No client, no decision; whoever needs a label, an
//! annotation, a condition or a field manager takes it from [`names`] and never spells it again.

pub mod cluster;
pub mod count;
pub mod crd;
pub mod fields;
pub mod go;
pub mod guarded;
pub mod names;
pub mod object;
pub mod reasons;
pub mod workload;

pub use cluster::{AutoscalingStatus, VLLMCluster, VLLMClusterSpec, VLLMClusterStatus};
