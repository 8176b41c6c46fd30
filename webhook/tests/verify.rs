//! The port of the API server's checks: each of them violated once, in an answer that is right in all else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use webhook::verify::{Accepted, Call, Violation, verify, verify_http};

fn patch(operations: &Value) -> String {
    STANDARD.encode(operations.to_string())
}

fn add(path: &str) -> String {
    patch(&json!([{ "op": "add", "path": path, "value": 1 }]))
}

fn allowance() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": "u",
            "allowed": true,
            "patch": add("/spec/replicas"),
            "patchType": "JSONPatch",
            "auditAnnotations": { "scale-clamped": "from 9 to 5" },
            "warnings": ["one", "two"],
        },
    })
}

fn refusal() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": "u",
            "allowed": false,
            "status": {
                "status": "Failure",
                "code": 422,
                "reason": "Invalid",
                "message": "no",
                "details": { "name": "x", "causes": [{ "field": "spec", "message": "no" }], "retryAfterSeconds": 1 },
            },
        },
    })
}

fn verified(mutating: bool, object: Option<&str>, answer: &Value) -> Result<Accepted, Violation> {
    let object = object.map(|object| RawValue::from_string(object.to_owned()).expect("JSON"));
    verify(Call { uid: "u", mutating, object: object.as_deref() }, answer.to_string().as_bytes())
}

fn mutated(answer: &Value) -> Result<Accepted, Violation> {
    verified(true, Some(r#"{"spec":{}}"#), answer)
}

/// Sets the value at a JSON pointer; null removes it.
fn with(mut answer: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = answer.pointer_mut(parent).expect("a parent").as_object_mut().expect("an object");
    match value {
        Value::Null => _ = parent.remove(key),
        value => _ = parent.insert(key.to_owned(), value),
    }
    answer
}

#[test]
fn right_answers_pass() {
    let accepted = mutated(&allowance()).expect("accepted");
    assert_eq!(accepted.patched, Some(json!({ "spec": { "replicas": 1 } })));
    assert_eq!(accepted.response["allowed"], true);
    assert_eq!(mutated(&refusal()).expect("accepted").patched, None);
    verified(false, None, &refusal()).expect("accepted");
    let bare = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": { "uid": "u", "allowed": true } });
    verified(false, None, &bare).expect("accepted");
}

#[rstest]
#[case::no_response("/response", Value::Null, "webhook response was absent")]
#[case::no_uid("/response/uid", Value::Null, r#"expected response.uid="u", got """#)]
#[case::other_uid("/response/uid", json!("v"), r#"expected response.uid="u", got "v""#)]
#[case::other_version("/apiVersion", json!("admission.k8s.io/v1beta1"), "got admission.k8s.io/v1beta1")]
#[case::no_version("/apiVersion", Value::Null, "expected webhook response of admission.k8s.io/v1")]
#[case::other_kind("/kind", json!("Status"), "Kind=Status")]
#[case::no_kind("/kind", Value::Null, "got admission.k8s.io/v1, Kind=")]
#[case::patch_without_type("/response/patchType", Value::Null, "response.patch but not response.patchType")]
#[case::type_without_patch("/response/patch", Value::Null, "response.patchType but not response.patch")]
#[case::type_with_empty_patch("/response/patch", json!(""), "response.patchType but not response.patch")]
#[case::empty_type("/response/patchType", json!(""), r#"invalid response.patchType of """#)]
#[case::other_type("/response/patchType", json!("MergePatch"), r#"patchType of "MergePatch""#)]
#[case::no_base64("/response/patch", json!("[]"), "undecodable patch")]
#[case::no_list("/response/patch", json!(patch(&json!({}))), "undecodable patch")]
#[case::no_operation("/response/patch", json!(patch(&json!([{ "op": "put", "path": "/" }]))), "undecodable patch")]
#[case::patch_that_does_not_fit("/response/patch", json!(add("/status/replicas")), "does not apply")]
#[case::allowed_as_text("/response/allowed", json!("true"), "no AdmissionReview")]
#[case::warnings_as_text("/response/warnings", json!("one"), "no AdmissionReview")]
#[case::audit_value_of_a_number("/response/auditAnnotations", json!({ "a": 1 }), "no AdmissionReview")]
#[case::empty_warning("/response/warnings", json!(["one", ""]), r#"the warning "" is dropped"#)]
#[case::newline("/response/warnings", json!(["a\nb"]), "is dropped")]
#[case::control_beyond_ascii("/response/warnings", json!(["a\u{85}b"]), "is dropped")]
#[case::warning_twice("/response/warnings", json!(["a", "b", "a"]), "given twice")]
#[case::audit_key_with_a_slash("/response/auditAnnotations", json!({ "a/b": "" }), "not logged")]
#[case::empty_audit_key("/response/auditAnnotations", json!({ "": "" }), "not logged")]
#[case::audit_key_with_an_end("/response/auditAnnotations", json!({ "a-": "" }), "not logged")]
#[case::audit_key_with_a_space("/response/auditAnnotations", json!({ "a b": "" }), "not logged")]
#[case::long_audit_key("/response/auditAnnotations", json!({ "a".repeat(64): "" }), "not logged")]
fn what_is_wrong_with_an_allowance(#[case] pointer: &str, #[case] value: Value, #[case] says: &str) {
    let violation = mutated(&with(allowance(), pointer, value)).expect_err("a violation");
    assert!(violation.to_string().contains(says), "{violation}");
}

#[rstest]
#[case::no_status("/response/status", Value::Null, "code None")]
#[case::no_code("/response/status/code", Value::Null, "code None")]
#[case::a_code_of_success("/response/status/code", json!(200), "code Some(200)")]
#[case::a_code_beyond_http("/response/status/code", json!(600), "code Some(600)")]
#[case::a_code_on_which_clients_retry("/response/status/code", json!(409), "code Some(409)")]
#[case::a_code_as_text("/response/status/code", json!("422"), "no AdmissionReview")]
#[case::a_code_beyond_32_bits("/response/status/code", json!(1_u64 << 32), "no AdmissionReview")]
#[case::no_message("/response/status/message", Value::Null, "no message")]
#[case::an_empty_message("/response/status/message", json!(""), "no message")]
#[case::success("/response/status/status", json!("Success"), "Success")]
#[case::a_reason_of_a_number("/response/status/reason", json!(1), "no AdmissionReview")]
#[case::causes_of_text("/response/status/details/causes", json!(["no"]), "no AdmissionReview")]
#[case::a_field_of_a_number("/response/status/details/causes", json!([{ "field": 1 }]), "no AdmissionReview")]
#[case::a_delay_as_text("/response/status/details/retryAfterSeconds", json!("1"), "no AdmissionReview")]
fn what_is_wrong_with_a_refusal(#[case] pointer: &str, #[case] value: Value, #[case] says: &str) {
    let violation = mutated(&with(refusal(), pointer, value)).expect_err("a violation");
    assert!(violation.to_string().contains(says), "{violation}");
}

#[test]
fn a_refusal_has_no_patch() {
    let answer = with(refusal(), "/response/patch", json!(add("/spec/replicas")));
    let answer = with(answer, "/response/patchType", json!("JSONPatch"));
    assert!(matches!(mutated(&answer), Err(Violation::PatchOfRefusal)));
}

#[rstest]
#[case::both(allowance())]
#[case::patch_alone(with(allowance(), "/response/patchType", Value::Null))]
#[case::type_alone(with(allowance(), "/response/patch", Value::Null))]
fn a_validating_webhook_changes_nothing(#[case] answer: Value) {
    let verdict = verified(false, Some(r#"{"spec":{}}"#), &answer);
    assert!(matches!(verdict, Err(Violation::PatchOfValidating)), "{verdict:?}");
}

#[test]
fn a_deletion_has_nothing_to_patch() {
    assert!(matches!(verified(true, None, &allowance()), Err(Violation::PatchOfNothing)));
}

#[rstest]
#[case::created(201, Some("application/json"), None)]
#[case::charset(200, Some("Application/JSON; charset=utf-8"), None)]
#[case::no_type(200, None, None)]
#[case::internal_error(500, Some("application/json"), Some("HTTP status 500"))]
#[case::redirect(302, Some("application/json"), Some("HTTP status 302"))]
#[case::text(200, Some("text/plain; charset=utf-8"), Some("text/plain"))]
fn the_http_answer_counts_too(
    #[case] status: u16,
    #[case] content_type: Option<&str>,
    #[case] says: Option<&str>,
) {
    let call = Call { uid: "u", mutating: false, object: None };
    let verdict = verify_http(call, status, content_type, refusal().to_string().as_bytes());
    assert_eq!(verdict.as_ref().err().is_some(), says.is_some(), "{verdict:?}");
    if let (Err(violation), Some(says)) = (verdict, says) {
        assert!(violation.to_string().contains(says), "{violation}");
    }
}

#[test]
fn no_json_is_no_answer() {
    for body in [&b""[..], b"{", b"null", b"[]", b"\xff"] {
        let call = Call { uid: "u", mutating: false, object: None };
        assert!(matches!(verify(call, body), Err(Violation::Json(_))), "{body:?}");
    }
}
