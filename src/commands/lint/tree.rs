//! A YAML text as trees of values, each of which knows where it stands.
//!
//! Architecture invariant: knows YAML and JSON, and nothing of Kubernetes. A text with a fault still gives the
//! documents around it.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StructureStyle, Tag, options};
use serde_json::{Map, Value};

use super::scalar;

/// Most values of one text, those that aliases repeat included: aliases of aliases grow exponentially.
const MOST_NODES: usize = 200_000;
/// Deepest nesting, below the 128 of `serde_json`.
const DEEPEST: usize = 100;

/// A text, read.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// What could be read; the numbers of empty documents and of broken ones are left out.
    pub(super) documents: Vec<Document>,
    /// What is no YAML.
    pub(super) faults: Vec<Fault>,
}

/// One document of a text.
#[derive(Debug)]
pub(super) struct Document {
    /// Its number in the text, from 1.
    pub(super) number: usize,
    /// Its value.
    pub(super) root: Node,
    /// Keys that stand in one mapping twice; the last one counts.
    pub(super) repeated_keys: Vec<Repeated>,
}

/// A key that its mapping has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    pub(super) key: String,
    pub(super) first: Range<usize>,
    pub(super) second: Range<usize>,
}

/// Why a text is no YAML, and where that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) message: String,
}

/// A value and where it stands, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) tree: Tree,
    /// Whether it stands there by an alias or a merge: a change of it would change other places too.
    pub(super) shared: bool,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Scalar(Value),
    List(Vec<Node>),
    Map { entries: Vec<Entry>, flow: bool },
}

/// An entry of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) node: Node,
    /// Whether `<<` brought it here.
    merged: bool,
}

impl Node {
    /// The value, without its places. Of repeated keys the last one counts.
    pub(super) fn value(&self) -> Value {
        match &self.tree {
            Tree::Scalar(value) => value.clone(),
            Tree::List(items) => items.iter().map(Self::value).collect(),
            Tree::Map { entries, .. } => {
                let entries = entries.iter().map(|entry| (entry.key.clone(), entry.node.value()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// The entry of a mapping.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.tree {
            Tree::Map { entries, .. } => entries.iter().rev().find(|entry| entry.key == key),
            Tree::Scalar(_) | Tree::List(_) => None,
        }
    }

    /// The text of a field.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.entry(key)?.node.tree {
            Tree::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<&[Self]> {
        match &self.tree {
            Tree::List(items) => Some(items),
            Tree::Scalar(_) | Tree::Map { .. } => None,
        }
    }

    fn shared(&self) -> Self {
        let tree = match &self.tree {
            Tree::Scalar(value) => Tree::Scalar(value.clone()),
            Tree::List(items) => Tree::List(items.iter().map(Self::shared).collect()),
            Tree::Map { entries, flow } => Tree::Map {
                entries: entries
                    .iter()
                    .map(|entry| Entry { node: entry.node.shared(), ..entry.clone() })
                    .collect(),
                flow: *flow,
            },
        };
        Self { span: self.span.clone(), tree, shared: true }
    }

    fn count(&self) -> usize {
        1 + match &self.tree {
            Tree::Scalar(_) => 0,
            Tree::List(items) => items.iter().map(Self::count).sum(),
            Tree::Map { entries, .. } => entries.iter().map(|entry| entry.node.count()).sum(),
        }
    }
}

/// Reads a text.
pub(super) fn parse(text: &str) -> Parsed {
    let options: Options = options! { emit_comments: false };
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        repeated_keys: Vec::new(),
        nodes: 0,
        end: text.len(),
    };
    let mut parsed = Parsed::default();
    let mut number = 0;
    loop {
        match reader.document(&mut number) {
            Ok(Some(document)) => parsed.documents.push(document),
            Ok(None) => return parsed,
            Err(fault) => {
                parsed.faults.push(fault);
                // Where it goes on is a guess, but only a later document can be lost by it.
                if !matches!(reader.events.proceed_next_document(), Ok(true)) {
                    return parsed;
                }
            }
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    repeated_keys: Vec<Repeated>,
    nodes: usize,
    /// Where the text ends: the place of what has none.
    end: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Range<usize>), Fault> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, self.range(&span))),
            Some(Err(error)) => Err(self.fault(&error)),
            None => Ok((Event::StreamEnd, self.end..self.end)),
        }
    }

    /// The next document that is not empty.
    fn document(&mut self, number: &mut usize) -> Result<Option<Document>, Fault> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::DocumentStart(..), _) => {}
                _ => continue,
            }
            *number += 1;
            self.anchors.clear();
            self.repeated_keys.clear();
            self.nodes = 0;
            let (event, span) = self.next()?;
            let root = self.node(event, span, 0)?;
            while !matches!(self.next()?.0, Event::DocumentEnd | Event::StreamEnd) {}
            if !matches!(root.tree, Tree::Scalar(Value::Null)) {
                let repeated_keys = std::mem::take(&mut self.repeated_keys);
                return Ok(Some(Document { number: *number, root, repeated_keys }));
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Range<usize>, depth: usize) -> Result<Node, Fault> {
        self.nodes += 1;
        if self.nodes > MOST_NODES || depth > DEEPEST {
            let message = format!(
                "more than {MOST_NODES} values, or more than {DEEPEST} levels, in one document; no manifest needs as many"
            );
            return Err(Fault { at: span.start, message });
        }
        let node = |span, tree| Node { span, tree, shared: false };
        let (anchor, node) = match event {
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor).map(Node::shared) else {
                    let message = "an alias inside of what it stands for never ends".into();
                    return Err(Fault { at: span.start, message });
                };
                self.nodes += target.count();
                return Ok(target);
            }
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, node(span, Tree::Scalar(value(&text, style, tag.as_deref()))))
            }
            Event::SequenceStart(style, anchor, _) => {
                let mut items = Vec::new();
                let end = loop {
                    match self.next()? {
                        (Event::SequenceEnd, end) => break end,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                };
                (anchor, node(span.start..inner_end(style, &end, items.last()), Tree::List(items)))
            }
            Event::MappingStart(style, anchor, _) => {
                let mut entries = Vec::new();
                let end = loop {
                    match self.next()? {
                        (Event::MappingEnd, end) => break end,
                        (event, span) => self.entry(event, span, depth, &mut entries)?,
                    }
                };
                let flow = style == StructureStyle::Flow;
                let end = inner_end(
                    style,
                    &end,
                    entries.iter().rfind(|entry| !entry.merged).map(|entry| &entry.node),
                );
                (anchor, node(span.start..end, Tree::Map { entries, flow }))
            }
            other => {
                let message = format!("{other:?} stands where a value should");
                return Err(Fault { at: span.start, message });
            }
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entry(
        &mut self,
        event: Event<'a>,
        span: Range<usize>,
        depth: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), Fault> {
        let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
        let key_span = span.clone();
        let key = self.node(event, span, depth + 1)?;
        let (event, span) = self.next()?;
        let at = span.start;
        let node = self.node(event, span, depth + 1)?;
        if merges {
            return merge(&node, entries).ok_or_else(|| Fault {
                at,
                message: "<< takes a mapping or a list of mappings, such as an alias of one".into(),
            });
        }
        let key = match key.tree {
            Tree::Scalar(Value::String(key)) => key,
            Tree::Scalar(other) => other.to_string(),
            Tree::List(_) | Tree::Map { .. } => {
                let message = "a list or mapping is no key that JSON can have; use a word, and render a template before it is checked".into();
                return Err(Fault { at: key_span.start, message });
            }
        };
        // What is stated goes before what was merged in, wherever the merge stands.
        entries.retain(|known| !(known.merged && known.key == key));
        if let Some(known) = entries.iter().find(|known| known.key == key) {
            let first = known.key_span.clone();
            self.repeated_keys.push(Repeated { key: key.clone(), first, second: key_span.clone() });
        }
        entries.push(Entry { key, key_span, node, merged: false });
        Ok(())
    }

    fn range(&self, span: &Span) -> Range<usize> {
        span.byte_range().unwrap_or(self.end..self.end)
    }

    fn fault(&self, error: &ScanError) -> Fault {
        Fault { at: error.marker().byte_offset().unwrap_or(self.end), message: error.info() }
    }
}

/// Where a collection ends. The end of a block is seen only where the next thing begins.
fn inner_end(style: StructureStyle, seen: &Range<usize>, last: Option<&Node>) -> usize {
    match style {
        StructureStyle::Flow => seen.end,
        StructureStyle::Block => last.map_or(seen.start, |last| last.span.end),
    }
}

/// Takes in the entries of `<<`, as far as the mapping does not state them itself.
fn merge(node: &Node, entries: &mut Vec<Entry>) -> Option<()> {
    match &node.tree {
        Tree::Map { entries: merged, .. } => {
            for entry in merged {
                if entries.iter().all(|known| known.key != entry.key) {
                    entries.push(Entry { node: entry.node.shared(), merged: true, ..entry.clone() });
                }
            }
            Some(())
        }
        Tree::List(items) => items.iter().try_for_each(|item| {
            matches!(item.tree, Tree::Map { .. }).then(|| merge(item, entries)).flatten()
        }),
        Tree::Scalar(_) => None,
    }
}

fn value(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let tag = tag.and_then(Tag::core_suffix);
    match (style, tag) {
        (ScalarStyle::Plain, None) | (_, Some("int" | "float" | "bool" | "null")) => scalar::plain(text),
        _ => Value::String(text.into()),
    }
}

#[cfg(test)]
mod tests;
