//! A real Kubernetes control plane in namespaces of its own, a node that runs pods as processes, and vLLM engines.
//!
//! Reading order: [`parts`] (the programs, built from pinned modules), [`plane`] (a control plane, from its owner's side and
//! from its inside), [`namespaces`] and [`pki`] (what it stands on); [`node`] with [`images`] and [`sandbox`] (pods as
//! processes), [`proxy`] (Services); [`engine`] and [`load`] (vLLM, simulated), [`pods`] (how it is told to be sick); [`addons`] (KEDA, Prometheus,
//! metrics-server, the operator), [`prometheus`] (what it is asked); [`assembly`] (the operator's image);
//! [`render`] with [`messages`] (what is generated from the Helm chart, and from transcripts); [`by_hand`], [`demo`], [`bench_control`] and [`bench_scaler`] with
//! [`hollow`] and [`objects`], [`bench_abuse`], [`bench_admission`] and [`availability`] (the commands).

pub mod addons;
pub mod assembly;
pub mod availability;
pub mod bench_abuse;
pub mod bench_admission;
pub mod bench_control;
pub mod bench_scaler;
pub mod by_hand;
pub mod demo;
pub mod engine;
pub mod hollow;
pub mod images;
pub mod load;
pub mod messages;
pub mod namespaces;
pub mod node;
pub mod objects;
pub mod parts;
pub mod pki;
pub mod plane;
pub mod pods;
pub mod prometheus;
pub mod proxy;
pub mod render;
pub mod sandbox;
