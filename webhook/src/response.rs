//! The answer to a request: allowed, refused, or not judged; with a patch, warnings and audit annotations.
//!
//! The API server treats an answer with a wrong uid, or with a patch but no `patchType`, as a failed webhook,
//! which under `failurePolicy: Ignore` is a silent allowance. Neither can be built here: [`Response::to_bytes`]
//! takes the uid, and a patch brings its type along. [`verify`](crate::verify) holds its checks.
//!
//! Architecture invariant: no answer grows with what came in beyond the limits below.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::review::{API_VERSION, KIND};
use crate::warnings;

/// Most causes of one refusal. Nobody reads more, and an object of 1.5 MB has room for half a million mistakes.
const CAUSES: usize = 100;
/// What there is room for from the beginning, in bytes: an answer with a sentence or two.
const ORDINARY_ANSWER: usize = 1 << 10;
/// Longest message, in bytes: the causes above with sentences of the usual length.
const MESSAGE_LENGTH: usize = 32 << 10;

/// One reason for a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Always `FieldValueInvalid`: the field has a value that it must not have.
    reason: &'static str,
    message: String,
    field: String,
}

impl Cause {
    /// What is wrong with a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: "FieldValueInvalid", message: message.into(), field: field.into() }
    }
}

/// A refusal. Some clients show the causes only, others the message only, so both are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The object's name.
    pub name: String,
    /// The object's API group.
    pub group: String,
    /// The object's kind.
    pub kind: String,
    /// All causes in one sentence.
    pub message: String,
    /// Each cause with its field. Of more than a hundred, a last one tells how many there are.
    pub causes: Vec<Cause>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u16>,
}

#[derive(Clone, Debug, Serialize)]
struct Status {
    code: u16,
    message: String,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// The answer to a request.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: AnswerBody<'a>,
}

#[derive(Serialize)]
struct AnswerBody<'a> {
    uid: &'a str,
    #[serde(flatten)]
    response: &'a Response,
}

impl Response {
    /// The write passes.
    pub fn allow() -> Self {
        Self { allowed: true, ..Self::default() }
    }

    /// The write is refused as invalid: code 422, which no client retries.
    pub fn deny(denial: Denial) -> Self {
        let Denial { name, group, kind, message, mut causes } = denial;
        if causes.len() > CAUSES {
            let further = causes.len() - CAUSES;
            causes.truncate(CAUSES);
            causes.push(Cause::new("…", format!("and {further} further findings; mend these first")));
        }
        let details = Details { name, group, kind, causes, retry_after_seconds: None };
        Self::refuse(422, "Invalid", message, Some(details))
    }

    /// The write could not be judged: code 500.
    pub fn error(message: impl Into<String>) -> Self {
        Self::refuse(500, "InternalError", message.into(), None)
    }

    /// The request is none that can be judged: code 400.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Self::refuse(400, "BadRequest", message.into(), None)
    }

    /// The write could not be judged now: code 429. The API server passes the seconds on as `Retry-After`, on
    /// which clients wait and try again by themselves.
    pub fn busy(message: impl Into<String>, retry_after_seconds: u16) -> Self {
        let details = Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() };
        Self::refuse(429, "TooManyRequests", message.into(), Some(details))
    }

    fn refuse(code: u16, reason: &'static str, mut message: String, details: Option<Details>) -> Self {
        if message.len() > MESSAGE_LENGTH {
            message.truncate(message.floor_char_boundary(MESSAGE_LENGTH - '…'.len_utf8()));
            message.push('…');
        }
        Self { status: Some(Status { code, message, reason, details }), ..Self::default() }
    }

    /// Whether the write passes.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// The sentences that the writer is shown, made so that the API server shows them; see
    /// [`warnings::fit`].
    #[must_use]
    pub fn warnings(mut self, warnings: impl IntoIterator<Item = String>) -> Self {
        self.warnings = warnings::fit(warnings);
        self
    }

    /// Changes the object by a JSON patch (RFC 6902). No operation: no patch. A refusal stays without one.
    ///
    /// # Panics
    /// If an operation has no JSON form, as a map with keys that are no strings.
    #[must_use]
    pub fn patch<T: Serialize>(mut self, operations: &[T]) -> Self {
        if self.allowed && !operations.is_empty() {
            let json = serde_json::to_vec(operations).expect("patch operations have a JSON form");
            self.patch = Some(STANDARD.encode(json));
            self.patch_type = Some("JSONPatch");
        }
        self
    }

    /// Adds an annotation to the API server's audit log, which prefixes the key with the webhook's name. A key is
    /// up to 63 letters, digits, dashes, underscores and dots, a letter or digit at either end.
    #[must_use]
    pub fn audit_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.audit_annotations.insert(key.into(), value.into());
        self
    }

    /// The body to answer with.
    pub fn to_bytes(&self, uid: &str) -> Vec<u8> {
        let answer =
            Answer { api_version: API_VERSION, kind: KIND, response: AnswerBody { uid, response: self } };
        // Only strings, numbers and maps with string keys, and a Vec takes every byte.
        let mut body = Vec::with_capacity(ORDINARY_ANSWER);
        serde_json::to_writer(&mut body, &answer).expect("an answer has a JSON form");
        body
    }
}
