//! What texts become.

use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;

fn value(text: &str) -> Value {
    let Parsed { documents, faults } = parse(text);
    assert_eq!(faults, []);
    documents[0].root.value()
}

#[rstest]
#[case::words("a: yes\nb: 'yes'\nc: 010\nd: !!str 5\ne: |\n  x\nf:\n", json!({"a": true, "b": "yes", "c": 8, "d": "5", "e": "x\n", "f": null}))]
#[case::keys("1: a\ntrue: b\n'x y': c\n", json!({"1": "a", "true": "b", "x y": "c"}))]
#[case::alias("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}}))]
#[case::merge("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", json!({"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}))]
#[case::stated_before_merged("a: &x {b: 1}\nd: {b: 2, <<: *x}\n", json!({"a": {"b": 1}, "d": {"b": 2}}))]
#[case::the_first_of_merged("d: {<<: [{b: 1}, {b: 2, c: 3}]}\n", json!({"d": {"b": 1, "c": 3}}))]
#[case::json("{\n\t\"a\": [1, 2.5, null, \"\\u00e4\"]}", json!({"a": [1, 2.5, null, "ä"]}))]
#[case::windows("a: 1\r\nb:\r\n- c\r\n", json!({"a": 1, "b": ["c"]}))]
fn values(#[case] text: &str, #[case] expected: Value) {
    assert_eq!(value(text), expected);
}

#[test]
fn documents_keep_their_numbers() {
    let parsed = parse("# nothing\n---\n---\na: 1\n---\nb: [\n---\nc: 3\n...\n---\n# nothing\n");
    let seen: Vec<_> =
        parsed.documents.iter().map(|document| (document.number, document.root.value())).collect();
    assert_eq!(seen, [(2, json!({"a": 1})), (4, json!({"c": 3}))]);
    assert_eq!(parsed.faults.len(), 1, "{:?}", parsed.faults);
}

#[test]
fn blocks_end_with_what_is_in_them() {
    let text = "a:\n  b: 1\n\n# of c\nc: [1]\n";
    let parsed = parse(text);
    let root = &parsed.documents[0].root;
    assert_eq!(&text[root.entry("a").unwrap().node.span.clone()], "b: 1");
    assert_eq!(&text[root.entry("c").unwrap().node.span.clone()], "[1]");
    assert_eq!(&text[root.span.clone()], text.trim_end());
}

#[test]
fn a_repeated_key_is_told_and_the_last_one_counts() {
    let text = "a: 1\nb: {c: 1, c: 2}\na: 2\n";
    let parsed = parse(text);
    let document = &parsed.documents[0];
    assert_eq!(document.root.value(), json!({"a": 2, "b": {"c": 2}}));
    let seen = document
        .repeated_keys
        .iter()
        .map(|again| (again.key.as_str(), again.first.start, again.second.start));
    assert_eq!(seen.collect::<Vec<_>>(), [("c", 9, 15), ("a", 0, 21)]);
}

#[rstest]
#[case::tab("a:\n\tb: 1\n", 4, "tab")]
#[case::unknown_alias("a: *x\n", 3, "anchor")]
#[case::a_list_as_key("? [a]\n: b\n", 2, "no key that JSON can have")]
#[case::no_merge("a: {<<: 5}\n", 8, "<< takes a mapping")]
#[case::of_itself("a: &x [*x]\n", 7, "never ends")]
#[case::template("{{ .Values.a }}\n", 1, "render a template")]
fn faults(#[case] text: &str, #[case] at: usize, #[case] says: &str) {
    let parsed = parse(text);
    let [fault] = &parsed.faults[..] else { panic!("{:?}", parsed.faults) };
    assert!(fault.message.contains(says), "{fault:?}");
    assert_eq!(fault.at, at, "{fault:?}");
}

#[test]
fn aliases_of_aliases_and_deep_nesting_end() {
    let line = |level: usize| {
        let item = level.checked_sub(1).map_or_else(|| "x".into(), |below| format!("*a{below}"));
        format!("a{level}: &a{level} [{}]\n", vec![item; 10].join(", "))
    };
    let text: String = (0..12).map(line).collect();
    assert!(parse(&text).faults[0].message.contains("200000 values"));
    assert_eq!(parse(&"[".repeat(5000)).faults.len(), 1);
    assert!(
        parse(&format!("{}{}", "[".repeat(150), "]".repeat(150))).faults[0].message.contains("100 levels")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// Whatever the text: reading it ends, and every place is one of the text.
    #[test]
    fn places_are_within_the_text(text in "[a-c:{}\\[\\],&*<!'\"|>#?%. \\-\\n\\t\\ré\u{feff}]{0,40}") {
        fn within(node: &Node, text: &str) -> bool {
            let spans = |span: &Range<usize>| text.get(span.clone()).is_some();
            spans(&node.span) && match &node.tree {
                Tree::Scalar(_) => true,
                Tree::List(items) => items.iter().all(|item| within(item, text)),
                Tree::Map { entries, .. } => {
                    entries.iter().all(|entry| spans(&entry.key_span) && within(&entry.node, text))
                }
            }
        }
        let Parsed { documents, faults } = parse(&text);
        prop_assert!(faults.iter().all(|fault| fault.at <= text.len()), "{:?}", faults);
        prop_assert!(documents.iter().all(|document| within(&document.root, &text)), "{:?}", documents);
    }
}
