//! Hands the current leaf to rustls, and swaps it under running servers.
//!
//! **Architecture invariant:** no lock on the handshake path, and no decision: whoever swaps has decided.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::Leaf;

/// The certificate that is served now, to every client and for every name. Empty until the first swap:
/// until then handshakes are refused.
#[derive(Default)]
pub struct Resolver {
    current: ArcSwapOption<CertifiedKey>,
}

impl Resolver {
    /// Nothing to serve yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serve `leaf` from the next handshake on; established connections keep what they have.
    pub fn swap(&self, leaf: &Leaf) {
        self.current.store(Some(leaf.certified_key()));
    }

    /// Whether there is a certificate to present.
    pub fn is_serving(&self) -> bool {
        self.current.load().is_some()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Resolver").field("serving", &self.is_serving()).finish_non_exhaustive()
    }
}
