//! What an authority issues: a server certificate with its key, ready for rustls.
//!
//! **Architecture invariant:** the key never leaves this process; there is no way to write it out.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;

/// A server certificate and its key. The chain is the leaf alone: clients trust the CA by the bundle.
#[derive(Clone)]
pub struct Leaf {
    pub(crate) certified_key: Arc<CertifiedKey>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Leaf {
    /// What a rustls resolver returns.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified_key)
    }

    /// The first moment of its validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certified_key: _, not_before, not_after } = self;
        formatter
            .debug_struct("Leaf")
            .field("not_before", not_before)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}
