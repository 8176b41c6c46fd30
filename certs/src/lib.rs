//! A private certificate authority for one TLS server: a map of the modules, in reading order.
//!
//! 1. [`Authority`]: the ECDSA P-256 CA that signs; made anew, or read from PEM text.
//! 2. [`Leaf`]: what it issues, and what a server presents.
//! 3. [`Bundle`]: the CAs that clients are to trust.
//! 4. [`Resolver`]: hands the current leaf to rustls, and swaps it under running servers.
//! 5. [`Stored`]: the bytes in which all of it is kept: what they say, and what they are after a step.
//! 6. [`rotation`]: which step is next, from the first CA to its orderly replacement.
//! 7. [`Issued`] and [`Known`]: when a replica renews its leaf, and when it may change to one of another CA.
//! 8. [`Clients`]: which clients a server lets in.
//! 9. [`ClientPair`]: what such a client shows, where the authority issues that too.
//!
//! **Architecture invariant:** nothing here knows of Kubernetes objects, reads a clock or does I/O. What
//! is stored comes in as bytes and the time as an argument, so every expiry is a test without a sleep.

mod authority;
mod bundle;
mod client_pair;
mod clients;
mod leaf;
mod pem;
mod renewal;
mod resolver;
pub mod rotation;
mod stored;
mod validity;

pub use authority::{Authority, AuthorityError, IssueError};
pub use bundle::{Bundle, BundleError, CaCertificate};
pub use client_pair::{ClientPair, PairError, stored_pair};
pub use clients::{Clients, ClientsError};
pub use leaf::{Leaf, LeafError};
pub use pem::{LARGEST_PEM, PemError};
pub use renewal::{Issued, Known};
pub use resolver::Resolver;
pub use stored::{
    CA_BUNDLE, CA_CERTIFICATE, CA_KEY, KEYS, MendReason, NEXT_CERTIFICATE, NEXT_KEY, NextReason,
    ReplaceReason, SINCE, SecretBytes, Stored,
};
pub use validity::CLOCK_SKEW;
