//! The commands, one file each.
//!
//! Architecture invariant: a command reads its arguments and ties modules together; what is decided is decided
//! elsewhere.

pub mod completions;
mod connect;
pub mod crd;
pub mod doctor;
pub mod explain_scaling;
pub mod fields;
pub mod lint;
mod listing;
pub mod manifest;
pub mod rules;
pub mod run;
pub mod status;
