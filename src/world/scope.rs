//! Which namespaces are this operator's.
//!
//! Architecture invariant: names alone. What lies elsewhere is neither known nor touched.

use std::collections::BTreeSet;

/// Namespaces, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(Option<BTreeSet<String>>);

impl Scope {
    /// These; none named: all.
    pub fn of(namespaces: &[String]) -> Self {
        Self((!namespaces.is_empty()).then(|| namespaces.iter().cloned().collect()))
    }

    /// Whether an object there is this operator's. What is in no namespace always is.
    pub fn has(&self, namespace: &str) -> bool {
        namespace.is_empty() || self.0.as_ref().is_none_or(|names| names.contains(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_names_it_is_everything() {
        assert!(Scope::of(&[]).has("a"));
        let scope = Scope::of(&["a".into(), "b".into()]);
        assert_eq!(["a", "b", "c", ""].map(|namespace| scope.has(namespace)), [true, true, false, true]);
    }
}
