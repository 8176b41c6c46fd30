//! What the API server does with an answer, for tests: each answer of a webhook goes through [`verify`].
//!
//! A port of Kubernetes 1.37: `VerifyAdmissionResponse` of v1 and `ToStatusErr` in `pkg/admission/plugin/webhook`,
//! what both dispatchers there do with the result, `transformResponse` of client-go, and `NewWarningHeader`.
//! Stricter in this: what the API server drops, replaces or cuts without a word is a [`Violation`] too.
//!
//! Architecture invariant: shares no code with what builds answers, or both would make the same mistake.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// What the API server knows of the call that it made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The uid that it sent.
    pub uid: &'a str,
    /// Whether it is a mutating webhook.
    pub mutating: bool,
    /// The object that it sent, which a patch is applied to.
    pub object: Option<&'a RawValue>,
}

/// What the API server takes from an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The `response`, as it was sent.
    pub response: Value,
    /// The object after the patch, if there is one.
    pub patched: Option<Value>,
}

/// Why an answer does not do what its sender meant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Any other status than success: the call failed, whatever the body says.
    #[error("HTTP status {0}: the call counts as failed")]
    HttpStatus(u16),
    /// A media type that the API server has no decoder for.
    #[error("the content type is {0:?}, not application/json")]
    ContentType(String),
    /// No JSON, or a field of a wrong type.
    #[error("the body is no AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// No `response`.
    #[error("webhook response was absent")]
    NoResponse,
    /// The uid of another call, or none.
    #[error("expected response.uid={expected:?}, got {got:?}")]
    Uid {
        /// What was sent.
        expected: String,
        /// What came.
        got: String,
    },
    /// Another object, or another version.
    #[error("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {0}, Kind={1}")]
    Kind(String, String),
    /// A patch of which the API server does not know what it is.
    #[error("webhook returned response.patch but not response.patchType")]
    PatchWithoutType,
    /// A type of nothing.
    #[error("webhook returned response.patchType but not response.patch")]
    TypeWithoutPatch,
    /// Only `JSONPatch` is one.
    #[error("webhook returned invalid response.patchType of {0:?}")]
    PatchType(String),
    /// Validating webhooks change nothing.
    #[error("validating webhook may not return response.patch or response.patchType")]
    PatchOfValidating,
    /// No base64 of a JSON patch.
    #[error("received undecodable patch in webhook response: {0}")]
    Patch(String),
    /// As on deletion. The write fails even under `failurePolicy: Ignore`.
    #[error("the patch has no object to be applied to")]
    PatchOfNothing,
    /// The patch does not fit the object. The write fails even under `failurePolicy: Ignore`.
    #[error("the patch does not apply: {0}")]
    PatchDoesNotApply(#[from] json_patch::PatchError),
    /// The API server never looks at a patch of a refusal.
    #[error("a refusal has a patch")]
    PatchOfRefusal,
    /// A code that is none of an error becomes 400; 409 makes clients repeat the write at once, for minutes.
    #[error(
        "a refusal has code {0:?}, which is replaced by 400, or is 409, on which clients repeat the write"
    )]
    RefusalCode(Option<i32>),
    /// Neither message nor reason: "denied the request without explanation".
    #[error("a refusal has no message")]
    RefusalWithoutMessage,
    /// Refused, and yet a success.
    #[error("a refusal has status {0:?}, which is replaced by Failure")]
    RefusalStatus(String),
    /// Dropped, for a control character in it or because there is nothing in it.
    #[error("the warning {0:?} is dropped: it is empty or has a control character")]
    WarningDropped(String),
    /// Said once only.
    #[error("the warning {0:?} is given twice")]
    WarningTwice(String),
    /// Beyond 4,096 characters each warning is cut at 256.
    #[error("the warnings have {0} characters together; beyond 4,096 they are cut")]
    WarningsCut(usize),
    /// Not logged: with the webhook's name before it, it is no qualified name.
    #[error("the audit annotation key {0:?} is no qualified name, so it is not logged")]
    AuditKey(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: Option<String>,
    kind: Option<String>,
    response: Option<Value>,
}

/// The types are Go's: an absent field and null are its zero value, another type is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    uid: Option<String>,
    allowed: Option<bool>,
    status: Option<Verdict>,
    patch: Option<String>,
    patch_type: Option<String>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
struct Verdict {
    status: Option<String>,
    code: Option<i32>,
    message: Option<String>,
    /// Read for its type alone, as are the details.
    #[serde(rename = "reason")]
    _reason: Option<String>,
    #[serde(rename = "details")]
    _details: Option<Details>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "group")]
    _group: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "uid")]
    _uid: Option<String>,
    #[serde(rename = "retryAfterSeconds")]
    _retry_after_seconds: Option<i32>,
    #[serde(rename = "causes")]
    _causes: Option<Vec<Cause>>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(rename = "reason")]
    _reason: Option<String>,
    #[serde(rename = "message")]
    _message: Option<String>,
    #[serde(rename = "field")]
    _field: Option<String>,
}

/// Checks a whole HTTP answer, then its body by [`verify`].
pub fn verify_http(
    call: Call<'_>,
    status: u16,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<Accepted, Violation> {
    if !(200..=206).contains(&status) {
        return Err(Violation::HttpStatus(status));
    }
    // Without one, the API server decodes as what it sent: JSON.
    let media_type =
        content_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_lowercase());
    if let Some(other) = media_type.filter(|media_type| media_type != "application/json") {
        return Err(Violation::ContentType(other));
    }
    verify(call, body)
}

/// Checks the body of an answer.
pub fn verify(call: Call<'_>, body: &[u8]) -> Result<Accepted, Violation> {
    let Review { api_version, kind, response } = serde_json::from_slice(body)?;
    let response = response.ok_or(Violation::NoResponse)?;
    let answer = Answer::deserialize(&response)?;
    let uid = answer.uid.unwrap_or_default();
    if uid != call.uid {
        return Err(Violation::Uid { expected: call.uid.to_owned(), got: uid });
    }
    if api_version.as_deref() != Some("admission.k8s.io/v1") || kind.as_deref() != Some("AdmissionReview") {
        return Err(Violation::Kind(api_version.unwrap_or_default(), kind.unwrap_or_default()));
    }
    let patch = answer.patch.filter(|patch| !patch.is_empty());
    match (&patch, answer.patch_type.as_deref()) {
        (Some(_), _) | (_, Some(_)) if !call.mutating => return Err(Violation::PatchOfValidating),
        (Some(_), None) => return Err(Violation::PatchWithoutType),
        (None, Some(_)) => return Err(Violation::TypeWithoutPatch),
        (None, None) | (Some(_), Some("JSONPatch")) => {}
        (Some(_), Some(other)) => return Err(Violation::PatchType(other.to_owned())),
    }
    answer.audit_annotations.unwrap_or_default().into_keys().try_for_each(audit_key)?;
    warnings(&answer.warnings.unwrap_or_default())?;
    let allowed = answer.allowed.unwrap_or_default();
    if !allowed {
        refusal(answer.status.unwrap_or_default())?;
        if patch.is_some() {
            return Err(Violation::PatchOfRefusal);
        }
    }
    let patched = patch.map(|patch| apply(&patch, call.object)).transpose()?;
    Ok(Accepted { response, patched })
}

fn refusal(verdict: Verdict) -> Result<(), Violation> {
    let Verdict { status, code, message, _reason, _details } = verdict;
    if !code.is_some_and(|code| (400..600).contains(&code) && code != 409) {
        return Err(Violation::RefusalCode(code));
    }
    if message.is_none_or(|message| message.is_empty()) {
        return Err(Violation::RefusalWithoutMessage);
    }
    match status.as_deref() {
        None | Some("Failure") => Ok(()),
        Some(other) => Err(Violation::RefusalStatus(other.to_owned())),
    }
}

fn warnings(warnings: &[String]) -> Result<(), Violation> {
    let mut said = HashSet::new();
    for warning in warnings {
        if warning.is_empty() || warning.chars().any(char::is_control) {
            return Err(Violation::WarningDropped(warning.clone()));
        }
        if !said.insert(warning) {
            return Err(Violation::WarningTwice(warning.clone()));
        }
    }
    let together = warnings.iter().map(|warning| warning.chars().count()).sum();
    if together > 4096 { Err(Violation::WarningsCut(together)) } else { Ok(()) }
}

/// The part after the slash in `IsQualifiedName`; the webhook's name, a DNS subdomain, is before it.
fn audit_key(key: String) -> Result<(), Violation> {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = key.as_bytes();
    if bytes.len() <= 63 && bytes.iter().all(inner) && outer(bytes.first()) && outer(bytes.last()) {
        Ok(())
    } else {
        Err(Violation::AuditKey(key))
    }
}

fn apply(patch: &str, object: Option<&RawValue>) -> Result<Value, Violation> {
    let json = STANDARD.decode(patch).map_err(|error| Violation::Patch(error.to_string()))?;
    let patch: json_patch::Patch =
        serde_json::from_slice(&json).map_err(|error| Violation::Patch(error.to_string()))?;
    let mut object = serde_json::from_str(object.ok_or(Violation::PatchOfNothing)?.get())?;
    json_patch::patch(&mut object, &patch)?;
    Ok(object)
}
