//! `AdmissionReview` of `admission.k8s.io/v1`: parsed without copies, answered with the uid it came with.
//!
//! The API server treats an answer with a wrong uid, or with a patch but no `patchType`, as a failed webhook,
//! which under `failurePolicy: Ignore` is a silent allowance. Neither can be built here: [`Response::to_bytes`]
//! takes the uid, and a patch brings its type along.
//!
//! Architecture invariant: objects stay raw; which of their fields matter is the caller's business.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Longest warning that is sent. The API server cuts one at 256 characters once all together exceed 4,096.
const WARNING_LENGTH: usize = 1024;
/// What all warnings of one answer may have together; the API server drops what is beyond.
const WARNINGS_LENGTH: usize = 4096;
/// Room for the sentence that says how many were left out.
const WARNINGS_RESERVE: usize = 64;

/// What is asked.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// An object is to be created.
    Create,
    /// An object or subresource is to be replaced or patched.
    Update,
    /// An object is to be deleted.
    Delete,
    /// A connection is to be made, as for `exec`.
    Connect,
}

/// A kind with its group and version.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct GroupVersionKind<'a> {
    /// The API group; empty for the core group.
    #[serde(default, borrow)]
    pub group: Cow<'a, str>,
    /// The version.
    #[serde(default, borrow)]
    pub version: Cow<'a, str>,
    /// The kind.
    #[serde(default, borrow)]
    pub kind: Cow<'a, str>,
}

/// A resource with its group and version.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct GroupVersionResource<'a> {
    /// The API group; empty for the core group.
    #[serde(default, borrow)]
    pub group: Cow<'a, str>,
    /// The version.
    #[serde(default, borrow)]
    pub version: Cow<'a, str>,
    /// The plural name.
    #[serde(default, borrow)]
    pub resource: Cow<'a, str>,
}

/// Who asks.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct User<'a> {
    /// The name, such as `system:serviceaccount:keda:keda-operator`.
    #[serde(default, borrow)]
    pub username: Cow<'a, str>,
    /// The groups.
    #[serde(default, borrow)]
    pub groups: Vec<Cow<'a, str>>,
}

/// One request for admission, borrowed from the body it came in.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// Identifies the request; the answer bears it too.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    /// The kind of `object`.
    #[serde(default, borrow)]
    pub kind: GroupVersionKind<'a>,
    /// The resource that is written.
    #[serde(borrow)]
    pub resource: GroupVersionResource<'a>,
    /// The subresource; empty for the resource itself.
    #[serde(default, borrow)]
    pub sub_resource: Cow<'a, str>,
    /// The object's name; empty where the API server is to generate it.
    #[serde(default, borrow)]
    pub name: Cow<'a, str>,
    /// The namespace; empty for cluster-wide objects.
    #[serde(default, borrow)]
    pub namespace: Cow<'a, str>,
    /// What is asked.
    pub operation: Operation,
    /// Who asks.
    #[serde(default, borrow, rename = "userInfo")]
    pub user: User<'a>,
    /// The object as it is to be; `None` on deletion.
    #[serde(default, borrow)]
    pub object: Option<&'a RawValue>,
    /// The object as it was; `None` on creation.
    #[serde(default, borrow)]
    pub old_object: Option<&'a RawValue>,
    /// Whether nothing will be stored.
    #[serde(default, deserialize_with = "null_is_false")]
    pub dry_run: bool,
}

fn null_is_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(default, borrow)]
    api_version: Cow<'a, str>,
    #[serde(default, borrow)]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    request: Option<&'a RawValue>,
}

/// Why a body is no request for admission.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not the JSON of an `AdmissionReview`.
    #[error("the body is no AdmissionReview of admission.k8s.io/v1: {0}")]
    Json(#[from] serde_json::Error),
    /// Another object, or a review of another version.
    #[error(
        "the body is a {kind:?} of {api_version:?}, not an AdmissionReview of admission.k8s.io/v1; list \"v1\" in \
         admissionReviewVersions of the webhook configuration"
    )]
    OtherKind {
        /// The `apiVersion` that came.
        api_version: String,
        /// The `kind` that came.
        kind: String,
    },
    /// A review without `request`, such as an answer.
    #[error("the AdmissionReview has no request; send it as the API server does")]
    NoRequest,
    /// An empty uid cannot be echoed.
    #[error("the request has an empty uid; the API server gives each request one")]
    NoUid,
}

impl<'a> Request<'a> {
    /// Reads the body of a review.
    pub fn parse(body: &'a [u8]) -> Result<Self, ParseError> {
        let Review { api_version, kind, request } = serde_json::from_slice(body)?;
        if api_version != API_VERSION || kind != KIND {
            return Err(ParseError::OtherKind {
                api_version: api_version.into_owned(),
                kind: kind.into_owned(),
            });
        }
        // A second step, so that another version is told by its name and not by a field that it lacks.
        let request: Self = serde_json::from_str(request.ok_or(ParseError::NoRequest)?.get())?;
        if request.uid.is_empty() {
            return Err(ParseError::NoUid);
        }
        Ok(request)
    }
}

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
    /// Each cause with its field.
    pub causes: Vec<Cause>,
}

#[derive(Clone, Debug, Serialize)]
struct Details {
    name: String,
    group: String,
    kind: String,
    causes: Vec<Cause>,
}

#[derive(Clone, Debug, Serialize)]
struct Status {
    code: u16,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
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
        let Denial { name, group, kind, message, causes } = denial;
        let details = Some(Details { name, group, kind, causes });
        Self {
            status: Some(Status { code: 422, message, reason: Some("Invalid"), details }),
            ..Self::default()
        }
    }

    /// The write could not be judged: code 500, which tells the client to try again.
    pub fn error(message: impl Into<String>) -> Self {
        let status =
            Status { code: 500, message: message.into(), reason: Some("InternalError"), details: None };
        Self { status: Some(status), ..Self::default() }
    }

    /// Whether the write passes.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Adds sentences that the writer is shown. Line breaks and tabs become spaces, since the API server drops
    /// a warning that has one; what exceeds its budget of 4,096 characters is counted in a last sentence.
    #[must_use]
    pub fn warnings(mut self, warnings: impl IntoIterator<Item = String>) -> Self {
        let mut used: usize = self.warnings.iter().map(String::len).sum();
        let mut left_out = 0_usize;
        for warning in warnings {
            let warning = shown(&warning);
            if left_out > 0 || used + warning.len() > WARNINGS_LENGTH - WARNINGS_RESERVE {
                left_out += 1;
            } else {
                used += warning.len();
                self.warnings.push(warning);
            }
        }
        if left_out > 0 {
            self.warnings.push(format!("{left_out} further warnings were left out"));
        }
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

    /// Adds an annotation to the API server's audit log, which prefixes the key with the webhook's name.
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
        serde_json::to_vec(&answer).expect("an answer has a JSON form")
    }
}

/// A warning as the API server lets it through: on one line, and not endless.
fn shown(warning: &str) -> String {
    let mut shown: String =
        warning.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    if shown.len() > WARNING_LENGTH {
        let end = shown.floor_char_boundary(WARNING_LENGTH - '…'.len_utf8());
        shown.truncate(end);
        shown.push('…');
    }
    shown
}
