//! The external scaler: KEDA asks, and the servers of the cluster are read.
//!
//! - [`trigger`]: what a trigger asks for.
//!
//! Architecture invariant: what is answered is decided by plain functions; no URL, host or namespace of a user's choosing is
//! ever contacted.

pub mod trigger;
