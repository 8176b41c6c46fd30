//! The commands, one file each.
//!
//! Architecture invariant: a command reads its arguments and ties modules together; what is decided is decided
//! elsewhere.

mod connect;
pub mod crd;
pub mod explain_scaling;
pub mod fields;
pub mod lint;
pub mod manifest;
pub mod rules;
pub mod run;
