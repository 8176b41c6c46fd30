//! `vllm-operator`: a map of the modules, in reading order.
//!
//! 1. [`api`]: what users write, and every name that another program sees.
//! 2. [`policy`]: what a write may do, as plain functions.
//! 3. [`world`]: what admission knows of clusters and ScaledObjects.
//! 4. [`admit`]: an admission review in, an answer out.
//! 5. [`objects`] and [`controller`]: from a cluster to its StatefulSet and Services, and back to its status.
//! 6. [`scaler`]: what KEDA asks for, read from the servers themselves.
//! 7. [`certificates`]: the CA's Secret, the served leaf, the injected bundle.
//! 8. [`leader`]: which of the replicas reconciles.
//! 9. [`pace`] and [`resume`]: how long a watch lasts, and how it goes on after whatever ended it.
//! 10. [`args`], [`telemetry`] and [`commands`]: how it is started and what it tells.

pub mod admit;
pub mod api;
pub mod args;
pub mod certificates;
pub mod commands;
pub mod controller;
pub mod leader;
pub mod objects;
pub mod pace;
pub mod policy;
pub mod resume;
pub mod scaler;
pub mod telemetry;
pub mod world;

#[cfg(test)]
mod faulty;
