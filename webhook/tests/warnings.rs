//! Warnings: what the API server would drop or cut without a word is put into a form that it shows.

use proptest::prelude::*;
use rstest::rstest;
use serde_json::value::RawValue;
use webhook::response::Response;
use webhook::verify::{Call, Violation, verify};
use webhook::warnings::fit;

fn length(warning: &str) -> usize {
    warning.chars().count()
}

fn together(warnings: &[String]) -> usize {
    warnings.iter().map(|warning| length(warning)).sum()
}

#[rstest]
#[case::whole(&["one", "two"], &["one", "two"])]
#[case::line_breaks_and_controls(&["a\nb\tc\r\nd\u{7f}e\u{85}\0"], &["a b c  d e"])]
#[case::empty(&["", "\n", "a"], &["a"])]
#[case::twice(&["a", "b", "a", "a\n"], &["a", "b"])]
#[case::quotes_are_the_servers_business(&["\"a\\\""], &["\"a\\\""])]
fn a_warning_is_one_line_and_said_once(#[case] given: &[&str], #[case] expected: &[&str]) {
    assert_eq!(fit(given.iter().map(|&warning| warning.to_owned())), expected);
}

#[rstest]
#[case::one(vec![3000], vec![1024])]
#[case::just_fitting(vec![1024, 1024], vec![1024, 1024])]
#[case::one_too_long(vec![1025], vec![1024])]
#[case::three(vec![800, 800, 800], vec![512, 512, 512])]
#[case::the_short_ones_stay_whole(vec![100, 3000, 90, 3000, 3000], vec![100, 512, 90, 512, 512])]
#[case::eight_fit(vec![900; 8], vec![256; 8])]
fn long_ones_are_cut_the_shorter_the_more_there_are(#[case] given: Vec<usize>, #[case] expected: Vec<usize>) {
    // Letters of two bytes: what counts is characters. The first one differs, so that none is said twice.
    let warnings =
        given.iter().zip('a'..).map(|(length, first)| format!("{first}{}", "ü".repeat(length - 1)));
    let fitting = fit(warnings);
    assert_eq!(fitting.iter().map(|warning| length(warning)).collect::<Vec<_>>(), expected);
    for (warning, given) in fitting.iter().zip(given) {
        assert_eq!(warning.ends_with('…'), length(warning) < given, "{warning}");
    }
}

#[rstest]
#[case::long(900, 30, 7)]
#[case::short(20, 500, 99)]
fn what_finds_no_room_is_counted(#[case] length: usize, #[case] count: usize, #[case] shown: usize) {
    let fitting = fit((0..count).map(|number| format!("{number:0length$}")).map(|mut warning| {
        // The number first, or all would be cut to the same zeros.
        warning = warning.chars().rev().collect();
        warning
    }));
    let (last, rest) = fitting.split_last().expect("warnings");
    assert_eq!(
        (rest.len(), last.as_str()),
        (shown, format!("{} further warnings were left out", count - shown).as_str())
    );
    assert!(together(&fitting) <= 2048);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One write passes two webhooks of ours.
    #[test]
    fn whatever_two_answers_warn_of_is_shown(
        first in proptest::collection::vec(".{0,40}|\\PC{0,2000}|[a-z]{200,600}", 0..40),
        second in proptest::collection::vec("\\PC{0,2000}", 0..12),
    ) {
        let (first, second) = (fit(first), fit(second));
        prop_assert!(together(&first) + together(&second) <= 4096);
        let object = RawValue::from_string("{}".to_owned()).expect("JSON");
        for warnings in [first, second] {
            let call = Call { uid: "u", mutating: true, object: Some(&object) };
            let accepted = verify(call, &Response::allow().warnings(warnings.clone()).to_bytes("u"));
            prop_assert!(accepted.is_ok(), "{accepted:?}");
            let shown = &accepted.expect("as just seen").response["warnings"];
            prop_assert_eq!(shown.as_array().map_or(0, Vec::len), warnings.len());
        }
    }
}

#[test]
fn the_limits_are_the_api_servers() {
    let verdict = |length: usize| {
        let warnings: Vec<_> = (0..length / 16).map(|number| format!("{number:016}")).collect();
        let body = serde_json::json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": { "uid": "u", "allowed": true, "warnings": warnings },
        });
        verify(Call { uid: "u", mutating: false, object: None }, body.to_string().as_bytes())
    };
    verdict(4096).expect("all are shown");
    assert!(matches!(verdict(4112), Err(Violation::WarningsCut(4112))));
}
