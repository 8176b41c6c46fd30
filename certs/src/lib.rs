//! A private certificate authority for one TLS server: a map of the modules, in reading order.
//!
//! 1. [`Authority`]: the ECDSA P-256 CA that signs; made anew, or read from PEM text.
//! 2. [`Leaf`]: what it issues, and what a server presents.
//! 3. [`Bundle`]: the CAs that clients are to trust.
//! 4. [`Resolver`]: hands the current leaf to rustls, and swaps it under running servers.
//! 5. [`assess`]: judges the stored bytes — use them, mend them, or replace them.
//!
//! **Architecture invariant:** nothing here knows of Kubernetes objects, reads a clock or does I/O. What
//! is stored comes in as bytes and the time as an argument, so every expiry is a test without a sleep.

mod assess;
mod authority;
mod bundle;
mod leaf;
mod pem;
mod resolver;
mod validity;

pub use assess::{
    Assessment, CA_BUNDLE, CA_CERTIFICATE, CA_KEY, MendReason, Policy, ReplaceReason, SecretBytes, assess,
};
pub use authority::{Authority, AuthorityError, IssueError};
pub use bundle::{Bundle, BundleError};
pub use leaf::Leaf;
pub use pem::{LARGEST_PEM, PemError};
pub use resolver::Resolver;
pub use validity::CLOCK_SKEW;
