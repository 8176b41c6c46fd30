//! A Kubernetes admission webhook server: a map of the modules, in reading order.
//!
//! 1. [`review`]: the `AdmissionReview` codec of `admission.k8s.io/v1`; a borrowed request in, an answer out.
//! 2. [`handler`]: a route that reads a review, asks an [`Admit`](handler::Admit) and writes its answer.
//! 3. [`server`]: the HTTPS server that serves such routes: accept loop, limits, drain.
//!
//! **Architecture invariant:** no resource and no rule is known here, and no API client: what is decided is the
//! caller's [`Admit`](handler::Admit).

pub mod handler;
pub mod review;
pub mod server;
