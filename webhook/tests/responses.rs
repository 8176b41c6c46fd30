//! What the API server gets to read, field by field.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use webhook::review::{Cause, Denial, Response};

/// The `response` of the answer to the request with uid `u`.
fn written(response: &Response) -> Value {
    let mut review: Value = serde_json::from_slice(&response.to_bytes("u")).expect("JSON");
    assert_eq!(
        (&review["apiVersion"], &review["kind"]),
        (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
    );
    review["response"].take()
}

fn denial() -> Denial {
    Denial {
        name: "x".into(),
        group: "example.com".into(),
        kind: "Thing".into(),
        message: "Thing \"x\": a is 0".into(),
        causes: vec![Cause::new("spec.a", "is 0; at least 1")],
    }
}

#[test]
fn the_uid_is_echoed_whatever_it_is() {
    let uid = "\"}\n\u{1f980}";
    for response in [Response::allow(), Response::deny(denial()), Response::error("try again")] {
        let review: Value = serde_json::from_slice(&response.to_bytes(uid)).expect("JSON");
        assert_eq!(review["response"]["uid"], uid);
    }
}

#[test]
fn an_allowance_is_bare() {
    assert_eq!(written(&Response::allow()), json!({ "uid": "u", "allowed": true }));
}

#[test]
fn a_refusal_has_code_reason_message_and_causes() {
    assert_eq!(
        written(&Response::deny(denial())),
        json!({
            "uid": "u",
            "allowed": false,
            "status": {
                "code": 422,
                "reason": "Invalid",
                "message": "Thing \"x\": a is 0",
                "details": {
                    "name": "x",
                    "group": "example.com",
                    "kind": "Thing",
                    "causes": [
                        { "reason": "FieldValueInvalid", "message": "is 0; at least 1", "field": "spec.a" },
                    ],
                },
            },
        })
    );
}

#[test]
fn a_failure_has_code_500_and_the_message() {
    assert_eq!(
        written(&Response::error("try again")),
        json!({
            "uid": "u",
            "allowed": false,
            "status": { "code": 500, "reason": "InternalError", "message": "try again" },
        })
    );
}

#[test]
fn a_patch_comes_with_its_type() {
    let operation = json!({ "op": "add", "path": "/spec/replicas", "value": 1 });
    let response = written(&Response::allow().patch(&[&operation]));
    assert_eq!((&response["patchType"], &response["allowed"]), (&json!("JSONPatch"), &json!(true)));
    let patch = STANDARD.decode(response["patch"].as_str().expect("text")).expect("base64");
    assert_eq!(serde_json::from_slice::<Value>(&patch).expect("JSON"), json!([operation]));
}

#[test]
fn neither_an_empty_patch_nor_one_of_a_refusal_is_sent() {
    let operation = json!({ "op": "remove", "path": "/spec" });
    for response in [
        Response::allow().patch::<Value>(&[]),
        Response::deny(denial()).patch(&[&operation]),
        Response::error("try again").patch(&[&operation]),
    ] {
        let response = written(&response);
        assert_eq!((response.get("patch"), response.get("patchType")), (None, None));
    }
}

#[test]
fn audit_annotations_are_a_map() {
    let response = Response::allow().audit_annotation("clamped", "4").audit_annotation("by", "us");
    assert_eq!(written(&response)["auditAnnotations"], json!({ "clamped": "4", "by": "us" }));
}

#[test]
fn a_warning_is_one_line() {
    let response = Response::deny(denial()).warnings(["a\nb\tc\r\nd\u{7f}".to_owned(), "whole".to_owned()]);
    assert_eq!(written(&response)["warnings"], json!(["a b c  d ", "whole"]));
}

#[test]
fn warnings_stay_within_the_budget_and_tell_what_they_lack() {
    let response = written(&Response::allow().warnings(vec!["ü".repeat(3000); 9]));
    let warnings: Vec<&str> = response["warnings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|text| text.as_str().expect("text"))
        .collect();
    let (last, shown) = warnings.split_last().expect("warnings");
    assert!(!shown.is_empty() && shown.iter().all(|warning| warning.ends_with('…')), "{warnings:?}");
    assert_eq!(*last, format!("{} further warnings were left out", 9 - shown.len()));
    assert!(warnings.iter().map(|warning| warning.len()).sum::<usize>() <= 4096);
}
