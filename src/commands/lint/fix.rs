//! Older triggers rewritten in the text itself, as the mutating webhook rewrites them in what is stored.
//!
//! All else stays as it was written: comments, order, quotes, line ends. Each change is made alone and the text read
//! again, so that no place has to be reckoned from another; in the end the text must say exactly what would be stored.
//!
//! Architecture invariant: which changes are made is not decided here.

use std::ops::Range;

use json_patch::PatchOperation;
use serde_json::Value;

use super::manifest::{Manifest, manifests};
use super::scalar;
use super::source::Source;
use super::tree::{Entry, Node, Tree, parse};

/// A trigger that could not be rewritten in the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{file}: the triggers of {kind} {namespace}/{name} are left as they are, because they share text with others by anchors and aliases; change them by hand"
)]
pub(super) struct Unfixed {
    file: String,
    kind: &'static str,
    namespace: String,
    name: String,
}

/// All sources as one stream of documents, with the changes that concern triggers made.
pub(super) fn fixed(
    sources: &[Source],
    manifests: &[Manifest],
    edits: &[Vec<PatchOperation>],
    namespace: &str,
) -> (String, Vec<Unfixed>) {
    let mut stream = String::new();
    let mut unfixed = Vec::new();
    for (file, source) in sources.iter().enumerate() {
        let mut text = source.text.clone();
        let of_file = manifests.iter().zip(edits).filter(|(manifest, _)| manifest.file == file);
        for (index, (manifest, edits)) in of_file.enumerate() {
            let edits: Vec<_> = edits.iter().filter(|edit| is_of_trigger(edit)).collect();
            match rewritten(&text, index, manifest, &edits, namespace) {
                Some(rewritten) => text = rewritten,
                None => unfixed.push(Unfixed {
                    file: source.name.clone(),
                    kind: manifest.kind.name(),
                    namespace: manifest.namespace.clone(),
                    name: manifest.name.clone(),
                }),
            }
        }
        append(&mut stream, source, &text);
    }
    (stream, unfixed)
}

fn is_of_trigger(edit: &PatchOperation) -> bool {
    edit.path().to_string().starts_with("/spec/triggers/")
}

/// The text with the changes to one manifest; `None` if that would change anything else, or fall short.
fn rewritten(
    text: &str,
    index: usize,
    manifest: &Manifest,
    edits: &[&PatchOperation],
    namespace: &str,
) -> Option<String> {
    if edits.is_empty() {
        return Some(text.to_owned());
    }
    let read = |text: &str| manifests(manifest.file, &parse(text).documents, namespace);
    let values =
        |manifests: Vec<Manifest>| manifests.into_iter().map(|manifest| manifest.value).collect::<Vec<_>>();
    let mut wanted = values(read(text));
    let mut changed = text.to_owned();
    for edit in edits {
        json_patch::patch(wanted.get_mut(index)?, std::slice::from_ref(*edit)).ok()?;
        let (span, replacement) = change(&changed, &read(&changed).get(index)?.root, edit)?;
        changed.replace_range(span, &replacement);
    }
    (values(read(&changed)) == wanted).then_some(changed)
}

/// One change, as what to put where.
fn change(text: &str, root: &Node, edit: &PatchOperation) -> Option<(Range<usize>, String)> {
    let path: Vec<_> = edit.path().tokens().map(|token| token.decoded().into_owned()).collect();
    let (field, parents) = path.split_last()?;
    let mut parent = root;
    for step in parents {
        parent = match &parent.tree {
            Tree::Map { .. } => &parent.entry(step)?.node,
            Tree::List(items) => items.get(step.parse::<usize>().ok()?)?,
            Tree::Scalar(_) => return None,
        };
    }
    let Tree::Map { entries, flow } = &parent.tree else { return None };
    let known = entries.iter().rposition(|entry| entry.key == *field);
    let is_shared = parent.shared || known.is_some_and(|at| entries[at].node.shared);
    match edit {
        _ if is_shared => None,
        PatchOperation::Remove(_) if *flow => Some((flow_entry(entries, known?), String::new())),
        PatchOperation::Remove(_) => Some(block_entry(text, entries, known?)),
        PatchOperation::Add(_) | PatchOperation::Replace(_) => {
            let value = match edit {
                PatchOperation::Add(add) => &add.value,
                PatchOperation::Replace(replace) => &replace.value,
                _ => return None,
            };
            let quoted = entries.first().is_some_and(|entry| text[entry.key_span.clone()].starts_with('"'));
            let value = written(value, quoted);
            Some(if let Some(at) = known {
                (entries[at].node.span.clone(), value)
            } else {
                let entry = format!("{}: {value}", written_text(field, quoted));
                inserted(text, parent, entries, *flow, &entry)
            })
        }
        PatchOperation::Move(_) | PatchOperation::Copy(_) | PatchOperation::Test(_) => None,
    }
}

/// An entry between braces, with the comma that it leaves over.
fn flow_entry(entries: &[Entry], at: usize) -> Range<usize> {
    let entry = &entries[at];
    match (entries.get(at + 1), at.checked_sub(1).map(|before| &entries[before])) {
        (Some(next), _) => entry.key_span.start..next.key_span.start,
        (None, Some(before)) => end(before)..end(entry),
        (None, None) => entry.key_span.start..end(entry),
    }
}

/// An entry on lines of its own, to the end of its last line.
fn block_entry(text: &str, entries: &[Entry], at: usize) -> (Range<usize>, String) {
    let entry = &entries[at];
    let start = entry.key_span.start;
    let line = line_start(text, start);
    match entries.get(at + 1) {
        _ if entries.len() == 1 => (start..end(entry), "{}".into()),
        // What is before it on its line, such as the dash of a list, belongs to the next one then.
        Some(next) if !text[line..start].trim().is_empty() => (start..next.key_span.start, String::new()),
        _ => (line..line_end(text, end(entry)), String::new()),
    }
}

/// A new entry, after the type or else the last one.
fn inserted(text: &str, parent: &Node, entries: &[Entry], flow: bool, entry: &str) -> (Range<usize>, String) {
    let Some(after) = entries.iter().find(|entry| entry.key == "type").or(entries.last()) else {
        let inside = parent.span.start + 1;
        return (inside..inside, entry.into());
    };
    if flow {
        return (end(after)..end(after), format!(", {entry}"));
    }
    let column = text[line_start(text, after.key_span.start)..after.key_span.start].chars().count();
    let at = line_end(text, end(after));
    let line_break = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let line = format!("{:column$}{entry}", "");
    // The last line of a text may lack its end.
    let line = if text[..at].ends_with('\n') { line + line_break } else { format!("{line_break}{line}") };
    (at..at, line)
}

/// Where an entry ends; of an empty value, where its name does.
fn end(entry: &Entry) -> usize {
    if entry.node.span.is_empty() { entry.key_span.end } else { entry.node.span.end }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |line_break| line_break + 1)
}

/// Behind the line break after `at`; a block of text brings its own.
fn line_end(text: &str, at: usize) -> usize {
    if text[..at].ends_with('\n') {
        return at;
    }
    text[at..].find('\n').map_or(text.len(), |line_break| at + line_break + 1)
}

fn written(value: &Value, quoted: bool) -> String {
    match value {
        Value::String(text) => written_text(text, quoted),
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(key, value)| format!("{}: {}", written_text(key, quoted), written(value, quoted)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        // JSON is YAML.
        other => other.to_string(),
    }
}

/// A text without quotes where it reads as the same text without them.
fn written_text(text: &str, quoted: bool) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        && scalar::plain(text) == text;
    if is_word && !quoted { text.into() } else { Value::from(text).to_string() }
}

/// Puts a text behind others, as documents of their own.
fn append(stream: &mut String, source: &Source, text: &str) {
    if stream.is_empty() {
        if source.has_mark {
            stream.push('\u{feff}');
        }
    } else {
        if !stream.ends_with('\n') {
            stream.push('\n');
        }
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
        if first.is_some_and(|line| !line.starts_with("---") && !line.starts_with('%')) {
            stream.push_str("---\n");
        }
    }
    stream.push_str(text);
}

#[cfg(test)]
mod tests {
    use json_patch::{AddOperation, RemoveOperation, ReplaceOperation};
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const HEAD: &str = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: x}\n";

    fn add(path: &str, value: Value) -> PatchOperation {
        PatchOperation::Add(AddOperation { path: path.parse().unwrap(), value })
    }

    fn remove(path: &str) -> PatchOperation {
        PatchOperation::Remove(RemoveOperation { path: path.parse().unwrap() })
    }

    fn replace(path: &str, value: Value) -> PatchOperation {
        PatchOperation::Replace(ReplaceOperation { path: path.parse().unwrap(), value })
    }

    /// What the mutating webhook does to a cpu trigger of the older form.
    fn resource() -> Vec<PatchOperation> {
        vec![
            remove("/spec/triggers/0/metadata/type"),
            add("/spec/triggers/0/metricType", json!("Utilization")),
        ]
    }

    fn source(text: &str) -> Source {
        Source { name: "x.yaml".into(), text: text.into(), has_mark: false }
    }

    fn fix(text: &str, edits: Vec<PatchOperation>) -> (String, Vec<Unfixed>) {
        let manifests = manifests(0, &parse(text).documents, "default");
        fixed(&[source(text)], &manifests, &[edits], "default")
    }

    #[rstest]
    #[case::block(
        "spec:\n  triggers:\n  - type: cpu # busy\n    # how\n    metadata:\n      type: Utilization # of what\n      value: '70' # percent\n",
        "spec:\n  triggers:\n  - type: cpu # busy\n    metricType: Utilization\n    # how\n    metadata:\n      value: '70' # percent\n"
    )]
    #[case::the_last_of_its_lines(
        "spec:\n  triggers:\n    -   metadata:\n            value: \"70\"\n            type: Utilization\n        type: cpu",
        "spec:\n  triggers:\n    -   metadata:\n            value: \"70\"\n        type: cpu\n        metricType: Utilization"
    )]
    #[case::braces(
        "spec:\n  triggers:\n  - {type: cpu, metadata: {type: Utilization, value: '70'}} # x\n",
        "spec:\n  triggers:\n  - {type: cpu, metricType: Utilization, metadata: {value: '70'}} # x\n"
    )]
    #[case::the_last_between_braces(
        "spec:\n  triggers: [{metadata: {value: '70', type: Utilization }, type: cpu}]\n",
        "spec:\n  triggers: [{metadata: {value: '70' }, type: cpu, metricType: Utilization}]\n"
    )]
    #[case::braces_in_lines(
        "spec:\n  triggers:\n  - type: cpu\n    metadata: {type: Utilization}\n",
        "spec:\n  triggers:\n  - type: cpu\n    metricType: Utilization\n    metadata: {}\n"
    )]
    #[case::the_only_line(
        "spec:\n  triggers:\n  - type: cpu\n    metadata:\n      type: Utilization\n",
        "spec:\n  triggers:\n  - type: cpu\n    metricType: Utilization\n    metadata:\n      {}\n"
    )]
    #[case::windows(
        "spec:\r\n  triggers:\r\n  - type: cpu\r\n    metadata:\r\n      type: Utilization\r\n      value: '70'\r\n",
        "spec:\r\n  triggers:\r\n  - type: cpu\r\n    metricType: Utilization\r\n    metadata:\r\n      value: '70'\r\n"
    )]
    fn forms(#[case] older: &str, #[case] newer: &str) {
        let (older, newer) = (HEAD.to_owned() + older, HEAD.to_owned() + newer);
        assert_eq!(fix(&older, resource()), (newer, vec![]));
    }

    #[test]
    fn json_stays_json() {
        let older = r#"{"kind": "ScaledObject", "apiVersion": "keda.sh/v1alpha1",
            "spec": {"triggers": [{"type": "cpu", "metadata": {"type": "Utilization", "value": "70"}}]}}"#;
        let (newer, unfixed) = fix(older, resource());
        assert_eq!(unfixed, []);
        let newer: Value = serde_json::from_str(&newer).unwrap();
        let trigger = json!({"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}});
        assert_eq!(newer["spec"]["triggers"], json!([trigger]));
    }

    #[test]
    fn a_type_is_replaced_and_values_are_quoted_where_they_must_be() {
        let older = format!("{HEAD}spec:\n  triggers:\n  - type: 'http' # x\n    metadata:\n      url: y\n");
        let edits = vec![
            replace("/spec/triggers/0/type", json!("external")),
            remove("/spec/triggers/0/metadata/url"),
            add("/spec/triggers/0/metadata", json!({"scalerAddress": "a.b:9"})),
            add("/spec/triggers/0/metadata/count", json!("5")),
            add("/spec/triggers/0/name", json!("on")),
        ];
        let newer = format!(
            "{HEAD}spec:\n  triggers:\n  - type: external # x\n    name: \"on\"\n    metadata:\n      {{scalerAddress: \"a.b:9\", count: \"5\"}}\n"
        );
        assert_eq!(fix(&older, edits), (newer, vec![]));
    }

    #[test]
    fn what_is_filled_in_is_no_older_form_and_stays_out() {
        let text = format!("{HEAD}spec: {{triggers: [ ]}}\n\n# end");
        assert_eq!(fix(&text, vec![add("/spec/minReplicaCount", json!(1))]), (text, vec![]));
    }

    #[rstest]
    #[case::alias(
        "x: &m {type: Utilization, value: '70'}\nspec:\n  triggers:\n  - type: cpu\n    metadata: *m\n"
    )]
    #[case::merge(
        "x: &m {type: Utilization}\nspec:\n  triggers:\n  - type: cpu\n    metadata: {<<: *m, value: '70'}\n"
    )]
    #[case::of_the_trigger("x: &t {type: cpu, metadata: {type: Utilization}}\nspec:\n  triggers: [*t]\n")]
    #[case::anchor(
        "spec:\n  triggers:\n  - type: cpu\n    metadata: &m\n      type: Utilization\n      value: '70'\nx: *m\n"
    )]
    fn shared_text_is_left_alone_and_named(#[case] text: &str) {
        let text = HEAD.to_owned() + text;
        let (same, unfixed) = fix(&text, resource());
        assert_eq!(same, text);
        assert_eq!(
            unfixed[0].to_string(),
            "x.yaml: the triggers of ScaledObject default/x are left as they are, because they share text with others by anchors and aliases; change them by hand"
        );
    }

    #[rstest]
    #[case(&["a: 1\n", "b: 2\n"], "a: 1\n---\nb: 2\n")]
    #[case(&["a: 1", "# x\n---\nb: 2\n"], "a: 1\n# x\n---\nb: 2\n")]
    #[case(&["a: 1\n", "{}", ""], "a: 1\n---\n{}\n")]
    fn texts_become_one_stream(#[case] texts: &[&str], #[case] stream: &str) {
        let sources: Vec<_> = texts.iter().map(|text| source(text)).collect();
        assert_eq!(fixed(&sources, &[], &[], "default").0, stream);
    }

    proptest! {
        /// However the triggers are laid out, the text says what would be stored, or stays as it is.
        #[test]
        fn the_text_says_what_would_be_stored(
            keys in Just(["type", "value", "other"]).prop_shuffle(),
            fields in Just(["type", "metadata", "name"]).prop_shuffle(),
            flow in any::<bool>(),
            indent in 0..4_usize,
            comment in prop::sample::select(&["", " # x", "  # 'y': {"][..]),
            line_break in prop::sample::select(&["\n", "\r\n"][..]),
            ends in any::<bool>(),
        ) {
            let value = |key: &str| if key == "type" { "Utilization" } else { "'7'" };
            let metadata = if flow {
                format!(" {{{}}}{comment}", keys.map(|key| format!("{key}: {}", value(key))).join(", "))
            } else {
                keys.map(|key| format!("{comment}{line_break}{:1$}{key}: {2}", "", indent + 7, value(key))).concat()
            };
            let fields = fields.map(|field| match field {
                "metadata" => format!("metadata:{metadata}"),
                "type" => format!("type: cpu{comment}"),
                _ => "name: queue".into(),
            });
            let separator = format!("{line_break}{:1$}", "", indent + 4);
            let end = if ends { line_break } else { "" };
            let head = HEAD.replace('\n', line_break);
            let text = format!("{head}spec:{line_break}  triggers:{line_break}{:1$}- {2}{end}", "", indent + 2, fields.join(&separator));
            let (newer, unfixed) = fix(&text, resource());
            prop_assert_eq!(unfixed, vec![], "{}", text);
            let stored = parse(&newer).documents[0].root.value();
            let trigger = json!({"type": "cpu", "name": "queue", "metricType": "Utilization", "metadata": {"value": "7", "other": "7"}});
            prop_assert_eq!(&stored["spec"]["triggers"][0], &trigger, "{}", newer);
            let comments = |text: &str| text.matches('#').count();
            prop_assert!(comments(&newer) + 1 >= comments(&text), "{}", newer);
        }
    }
}
