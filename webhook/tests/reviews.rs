//! The codec against reviews recorded from a real API server, and against bodies made to break it.

use std::borrow::Cow;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};
use webhook::review::{Operation, Request};

const RECORDED: &str = include_str!("../../tests/fixtures/admission-reviews.jsonl");

#[test]
fn every_recorded_review_parses_to_what_it_says() {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for line in RECORDED.lines() {
        let expected = &serde_json::from_str::<Value>(line).expect("JSON")["request"];
        let request = Request::parse(line.as_bytes()).expect("a review");
        assert!(matches!(request.uid, Cow::Borrowed(_)), "the uid is borrowed");
        assert_eq!(*request.uid, text(&expected["uid"]));
        let operation = match request.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        };
        assert_eq!(operation, expected["operation"]);
        let (kind, resource) = (&request.kind, &request.resource);
        assert_eq!(
            json!({ "group": kind.group, "version": kind.version, "kind": kind.kind }),
            expected["kind"]
        );
        assert_eq!(
            json!({ "group": resource.group, "version": resource.version, "resource": resource.resource }),
            expected["resource"]
        );
        assert_eq!(*request.sub_resource, text(&expected["subResource"]));
        assert_eq!(*request.name, text(&expected["name"]));
        assert_eq!(*request.namespace, text(&expected["namespace"]));
        assert_eq!(*request.user.username, text(&expected["userInfo"]["username"]));
        assert_eq!(json!(request.user.groups), expected["userInfo"]["groups"]);
        assert_eq!(request.dry_run, expected["dryRun"] == true);
        for (raw, expected) in
            [(request.object, &expected["object"]), (request.old_object, &expected["oldObject"])]
        {
            let value = raw.map_or(Value::Null, |raw| serde_json::from_str(raw.get()).expect("JSON"));
            assert_eq!(&value, expected);
            assert!(raw.is_none_or(|raw| raw.get() != "null"), "null is none");
        }
    }
    assert_eq!(RECORDED.lines().count(), 61);
}

#[test]
fn no_truncated_review_parses() {
    for line in RECORDED.lines() {
        for length in (0..line.len()).step_by(97) {
            Request::parse(&line.as_bytes()[..length]).expect_err("a part is no review");
        }
    }
}

/// The review that the tables below change.
fn review() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "operation": "UPDATE",
            "resource": { "group": "g", "version": "v1", "resource": "things" },
            "userInfo": { "username": "me" },
        },
    })
}

#[rstest]
#[case("/request/uid", json!(""), "uid")]
#[case("/request/uid", json!(7), "invalid type: integer `7`")]
#[case("/request/operation", json!("PATCH"), "unknown variant `PATCH`")]
#[case("/request/operation", Value::Null, "expected value")]
#[case("/request/resource", json!("things"), "invalid type: string")]
#[case("/request/userInfo", json!([[]]), "invalid type")]
#[case("/request/userInfo/username", json!({}), "invalid type: map")]
#[case("/request", Value::Null, "no request")]
#[case("/request", json!([]), "invalid")]
#[case("/request", json!("x"), "invalid type: string")]
#[case("/kind", json!("Pod"), "AdmissionReview of admission.k8s.io/v1")]
#[case("/apiVersion", json!("admission.k8s.io/v1beta1"), "admission.k8s.io/v1beta1")]
fn a_wrong_value_is_told(#[case] pointer: &str, #[case] value: Value, #[case] sentence: &str) {
    let mut body = review();
    Request::parse(body.to_string().as_bytes()).expect("the unchanged review parses");
    *body.pointer_mut(pointer).expect("a value to change") = value;
    let error = Request::parse(body.to_string().as_bytes()).expect_err("a refusal").to_string();
    assert!(error.contains(sentence), "{error}");
}

#[rstest]
#[case(b"")]
#[case(b"null")]
#[case(b"[]")]
#[case(b"\"AdmissionReview\"")]
#[case(b"\xff\xfe{}")]
#[case(b"{\"request\":{\"uid\":\"\xff\"}}")]
fn what_is_no_review_is_told(#[case] body: &[u8]) {
    let error = Request::parse(body).expect_err("a refusal").to_string();
    assert!(error.contains("AdmissionReview"), "{error}");
}

#[rstest]
#[case(r#""uid":"u","#, r#""uid":"u","uid":"v","#)]
#[case(r#""kind":"AdmissionReview","#, r#""kind":"AdmissionReview","kind":"AdmissionReview","#)]
#[case(r#""username":"me""#, r#""username":"me","username":"system:admin""#)]
fn a_key_given_twice_is_refused(#[case] once: &str, #[case] twice: &str) {
    let body = review().to_string();
    assert!(body.contains(once), "{body}");
    let error = Request::parse(body.replace(once, twice).as_bytes()).expect_err("a refusal").to_string();
    assert!(error.contains("duplicate field"), "{error}");
}

#[test]
fn nulls_are_nothing() {
    let mut body = review();
    for field in ["object", "oldObject", "dryRun", "options"] {
        body["request"][field] = Value::Null;
    }
    let body = body.to_string();
    let request = Request::parse(body.as_bytes()).expect("a review");
    assert!(request.object.is_none() && request.old_object.is_none() && !request.dry_run);
}

#[test]
fn escapes_are_resolved() {
    let body = review().to_string().replace(r#""me""#, r#""m\u0065\n\"""#);
    assert_eq!(Request::parse(body.as_bytes()).expect("a review").user.username, "me\n\"");
}

#[rstest]
#[case::in_the_object("object")]
#[case::in_a_field_that_is_not_read("futureField")]
fn no_depth_overflows_the_stack(#[case] field: &str) {
    let depth = 200_000;
    let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let body = review().to_string().replacen(r#""uid""#, &format!(r#""{field}":{nested},"uid""#), 1);
    let parsed = Request::parse(body.as_bytes());
    // Raw values are skipped, not descended into; the error of a parser with a limit would do as well.
    assert!(parsed.is_err() || parsed.is_ok_and(|request| request.uid == "u"));
    let unclosed = body.replace(']', "");
    Request::parse(unclosed.as_bytes()).expect_err("never closed");
}

proptest! {
    #[test]
    fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::parse(&body);
    }

    #[test]
    fn no_changed_byte_panics(line in 0_usize..61, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = RECORDED.lines().nth(line).expect("61 lines").as_bytes().to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let _ = Request::parse(&body);
    }
}
