//! `vllm-operator`: a map of the modules, in reading order.
//!
//! 1. [`api`]: what users write, and every name.

pub mod api;
