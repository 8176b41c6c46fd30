//! What a sentence calls an object: its name, or as long as it has none, what its name will begin with.
//!
//! Architecture invariant: text alone.

use std::fmt;

/// The name of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// `metadata.name`.
    Given(&'a str),
    /// `metadata.generateName`: the API server gives the name after the mutating webhooks.
    Generated(&'a str),
}

/// What the API server keeps of a `generateName`: it appends [`SUFFIX`] characters, and a name has 63 at the most.
const BASE: usize = 63 - SUFFIX;
/// How many characters the API server appends to a `generateName`.
pub(super) const SUFFIX: usize = 5;

impl<'a> Name<'a> {
    /// What an object states, where an absent text is empty.
    pub fn new(name: &'a str, generate_name: &'a str) -> Self {
        if name.is_empty() { Self::Generated(generate_name) } else { Self::Given(name) }
    }

    /// How many characters the name has, or will have.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Given(name) => name.len(),
            Self::Generated(prefix) => prefix.len().min(BASE) + SUFFIX,
        }
    }
}

impl<'a> From<&'a str> for Name<'a> {
    fn from(name: &'a str) -> Self {
        Self::Given(name)
    }
}

/// As it stands after the kind: `VLLMCluster "a"`, `VLLMCluster with generateName "a-"`.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(name) => write!(f, "{name:?}"),
            Self::Generated(prefix) => write!(f, "with generateName {prefix:?}"),
        }
    }
}
