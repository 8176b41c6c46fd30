//! A Kubernetes admission webhook server: a map of the modules, in reading order.
//!
//! 1. [`review`]: the request of an `AdmissionReview` of `admission.k8s.io/v1`, borrowed from the body it came in.
//! 2. [`response`]: the answer to it, with its [`warnings`].
//! 3. [`handler`]: a route that reads a review, asks an [`Admit`](handler::Admit) and writes its answer.
//! 4. [`server`]: the HTTPS server that serves such routes: accept loop, limits, drain. It serves bare HTTP too.
//! 5. [`verify`]: what the API server checks in an answer, for tests.
//!
//! **Architecture invariant:** no resource and no rule is known here, and no API client: what is decided is the
//! caller's [`Admit`](handler::Admit).

pub mod handler;
pub mod response;
pub mod review;
pub mod server;
pub mod verify;
pub mod warnings;
