//! From a field's path to its place in the text.
//!
//! Architecture invariant: a path always has a place: that of its nearest parent, where the field is absent.

use std::ops::Range;

use super::tree::{Node, Tree};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Reads a path as findings spell it: `spec.triggers[0].metadata.query`, `metadata.annotations[a.b/c]`.
pub(super) fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) =
            if let Some((inner, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
                (inner.parse().map_or_else(|_| Step::Key(inner.into()), Step::Index), after)
            } else {
                // At least one character, so that a stray bracket ends.
                let mut later = rest.char_indices().skip(1);
                let end = later.find(|(_, c)| matches!(c, '.' | '[')).map_or(rest.len(), |(end, _)| end);
                (Step::Key(rest[..end].into()), &rest[end..])
            };
        steps.push(step);
        rest = after.strip_prefix('.').unwrap_or(after);
    }
    steps
}

/// Spells a path as [`steps`] reads it. A key that would not be read as one stands in brackets.
pub(super) fn spell(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        let step = match step {
            Step::Index(index) => format!("[{index}]"),
            Step::Key(key) if key.contains(['.', '[', ']', '/']) || key.is_empty() => format!("[{key}]"),
            Step::Key(key) if path.is_empty() => key.clone(),
            Step::Key(key) => format!(".{key}"),
        };
        path.push_str(&step);
    }
    path
}

/// The place of a field: of a single value the value, of all else, and where the field is absent, the key of what
/// is there.
pub(super) fn place(root: &Node, path: &[Step]) -> Range<usize> {
    let mut node = root;
    let mut key = first_key(root);
    for step in path {
        let next = match (step, &node.tree) {
            (Step::Key(name), _) => node.entry(name).map(|entry| (&entry.node, entry.key_span.clone())),
            (Step::Index(index), Tree::List(items)) => items.get(*index).map(|item| (item, first_key(item))),
            (Step::Index(_), Tree::Scalar(_) | Tree::Map { .. }) => None,
        };
        let Some((found, found_key)) = next else { return key };
        (node, key) = (found, found_key);
    }
    match &node.tree {
        Tree::Scalar(_) if !node.span.is_empty() => node.span.clone(),
        _ => key,
    }
}

/// The place of a field's name.
pub(super) fn key_place(root: &Node, path: &[Step]) -> Range<usize> {
    let Some((Step::Key(name), parents)) = path.split_last() else { return place(root, path) };
    let mut node = root;
    for step in parents {
        let next = match (step, &node.tree) {
            (Step::Key(name), _) => node.entry(name).map(|entry| &entry.node),
            (Step::Index(index), Tree::List(items)) => items.get(*index),
            (Step::Index(_), _) => None,
        };
        match next {
            Some(next) => node = next,
            None => return place(root, path),
        }
    }
    node.entry(name).map_or_else(|| place(root, path), |entry| entry.key_span.clone())
}

/// The path of the field whose name stands there.
pub(super) fn path_of_key(root: &Node, key_span: &Range<usize>) -> Option<Vec<Step>> {
    let below = |step: Step, node: &Node| {
        path_of_key(node, key_span).map(|mut path| {
            path.insert(0, step);
            path
        })
    };
    match &root.tree {
        Tree::Scalar(_) => None,
        Tree::List(items) => {
            items.iter().enumerate().find_map(|(index, item)| below(Step::Index(index), item))
        }
        Tree::Map { entries, .. } => entries.iter().find_map(|entry| {
            let step = Step::Key(entry.key.clone());
            if entry.key_span == *key_span { Some(vec![step]) } else { below(step, &entry.node) }
        }),
    }
}

/// What stands for a value as a whole.
fn first_key(node: &Node) -> Range<usize> {
    match &node.tree {
        Tree::Map { entries, .. } => {
            entries.first().map_or_else(|| node.span.clone(), |entry| entry.key_span.clone())
        }
        Tree::Scalar(_) | Tree::List(_) => node.span.clone(),
    }
}

/// Line and column of a byte, both from 1, the column in characters.
pub(super) fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::tree::parse;
    use super::*;

    const TEXT: &str = "kind: A\nspec:\n  replicas: 9\n  empty:\n  triggers:\n    - type: cpu\n      metadata: {value: '70'}\n  notes:\n    a.b/c: x\n";

    #[rstest]
    #[case::value("spec.replicas", "9")]
    #[case::in_a_list("spec.triggers[0].metadata.value", "'70'")]
    #[case::a_key_in_brackets("spec.notes[a.b/c]", "x")]
    #[case::a_mapping("spec.triggers[0].metadata", "metadata")]
    #[case::an_item("spec.triggers[0]", "type")]
    #[case::empty("spec.empty", "empty")]
    #[case::absent("spec.maxReplicas", "spec")]
    #[case::absent_in_an_item("spec.triggers[0].metricType", "type")]
    #[case::absent_item("spec.triggers[3].type", "triggers")]
    #[case::absent_root("metadata.name", "kind")]
    #[case::whole("", "kind")]
    fn fields_and_their_nearest_parents(#[case] path: &str, #[case] stands_at: &str) {
        let root = &parse(TEXT).documents[0].root;
        let steps = steps(path);
        assert_eq!(&TEXT[place(root, &steps)], stands_at);
        assert_eq!(spell(&steps), path);
    }

    #[test]
    fn the_name_of_a_field() {
        let root = &parse(TEXT).documents[0].root;
        assert_eq!(&TEXT[key_place(root, &steps("spec.replicas"))], "replicas");
        assert_eq!(&TEXT[key_place(root, &steps("spec.other"))], "spec");
    }

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        assert_eq!(line_column("ä: 1\nö: é2", 0), (1, 1));
        assert_eq!(line_column("ä: 1\nö: é2", "ä: 1\nö: é".len()), (2, 5));
    }
}
