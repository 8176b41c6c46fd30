//! A real Kubernetes control plane in namespaces of its own, a node that runs pods as processes, and vLLM engines.
//!
//! Reading order: [`parts`] (the programs, built from pinned modules), [`plane`] (a control plane, from its owner's side and
//! from its inside), [`namespaces`] and [`pki`] (what it stands on).

pub mod by_hand;
pub mod engine;
pub mod images;
pub mod load;
pub mod namespaces;
pub mod node;
pub mod parts;
pub mod pki;
pub mod plane;
pub mod proxy;
pub mod sandbox;
