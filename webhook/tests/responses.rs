//! What the API server gets to read, field by field.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use webhook::response::{Cause, Denial, Response};
use webhook::verify::{Call, verify};

/// The `response` of the answer to the request with uid `u`, if the API server takes it.
fn written(response: &Response) -> Value {
    written_to("u", response)
}

fn written_to(uid: &str, response: &Response) -> Value {
    let object = RawValue::from_string(r#"{"spec":{}}"#.to_owned()).expect("JSON");
    let call = Call { uid, mutating: true, object: Some(&object) };
    match verify(call, &response.to_bytes(uid)) {
        Ok(accepted) => accepted.response,
        Err(violation) => panic!("{violation}: {response:?}"),
    }
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
        assert_eq!(written_to(uid, &response)["uid"], uid);
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
fn a_refusal_of_what_cannot_be_read_or_judged_says_so() {
    assert_eq!(
        written(&Response::unreadable("no operation")),
        json!({
            "uid": "u",
            "allowed": false,
            "status": { "code": 400, "reason": "BadRequest", "message": "no operation" },
        })
    );
    assert_eq!(
        written(&Response::busy("too many reads; try again", 1)),
        json!({
            "uid": "u",
            "allowed": false,
            "status": {
                "code": 429,
                "reason": "TooManyRequests",
                "message": "too many reads; try again",
                "details": { "retryAfterSeconds": 1 },
            },
        })
    );
}

#[test]
fn a_refusal_with_countless_findings_is_cut_and_says_so() {
    let causes = vec![Cause::new("spec.a", "x".repeat(1000)); 100_000];
    let response = written(&Response::deny(Denial { message: "ü".repeat(100_000), causes, ..denial() }));
    let causes = response["status"]["details"]["causes"].as_array().expect("a list");
    assert_eq!(causes.len(), 101);
    assert_eq!(
        causes[100],
        json!({ "reason": "FieldValueInvalid", "field": "…", "message": "and 99900 further findings; mend these first" })
    );
    let message = response["status"]["message"].as_str().expect("text");
    assert!(message.ends_with("ü…") && (32_000..=32 << 10).contains(&message.len()), "{}", message.len());
    // None is left out where there is room for all.
    let causes = vec![Cause::new("spec.a", "is 0"); 100];
    let response = written(&Response::deny(Denial { causes, ..denial() }));
    assert_eq!(response["status"]["details"]["causes"].as_array().map(Vec::len), Some(100));
}
