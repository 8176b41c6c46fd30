//! The request of an `AdmissionReview` of `admission.k8s.io/v1`, parsed without copies.
//!
//! As in Go, whose zero values know no difference, a field that is null is one that is absent. What has a wrong
//! type is told, and for what else cannot be read [`uid_of`] still finds whom to answer.
//!
//! Architecture invariant: objects stay raw; which of their fields matter is the caller's business.

use std::borrow::Cow;
use std::fmt;
use std::str::Utf8Error;

use serde::de::{Error, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

pub(crate) const API_VERSION: &str = "admission.k8s.io/v1";
pub(crate) const KIND: &str = "AdmissionReview";

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
    #[serde(default, borrow, deserialize_with = "text")]
    pub group: Cow<'a, str>,
    /// The version.
    #[serde(default, borrow, deserialize_with = "text")]
    pub version: Cow<'a, str>,
    /// The kind.
    #[serde(default, borrow, deserialize_with = "text")]
    pub kind: Cow<'a, str>,
}

/// A resource with its group and version.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct GroupVersionResource<'a> {
    /// The API group; empty for the core group.
    #[serde(default, borrow, deserialize_with = "text")]
    pub group: Cow<'a, str>,
    /// The version.
    #[serde(default, borrow, deserialize_with = "text")]
    pub version: Cow<'a, str>,
    /// The plural name.
    #[serde(default, borrow, deserialize_with = "text")]
    pub resource: Cow<'a, str>,
}

/// Who asks.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct User<'a> {
    /// The name, such as `system:serviceaccount:keda:keda-operator`.
    #[serde(default, borrow, deserialize_with = "text")]
    pub username: Cow<'a, str>,
    /// The groups.
    #[serde(default, borrow, deserialize_with = "null_is_default")]
    pub groups: Vec<Cow<'a, str>>,
}

/// One request for admission, borrowed from the body it came in.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// Identifies the request; the answer bears it too.
    #[serde(default, borrow, deserialize_with = "text")]
    pub uid: Cow<'a, str>,
    /// The kind of `object`.
    #[serde(default, borrow, deserialize_with = "null_is_default")]
    pub kind: GroupVersionKind<'a>,
    /// The resource that is written.
    #[serde(default, borrow, deserialize_with = "null_is_default")]
    pub resource: GroupVersionResource<'a>,
    /// The subresource; empty for the resource itself.
    #[serde(default, borrow, deserialize_with = "text")]
    pub sub_resource: Cow<'a, str>,
    /// The object's name; empty where the API server is to generate it.
    #[serde(default, borrow, deserialize_with = "text")]
    pub name: Cow<'a, str>,
    /// The namespace; empty for cluster-wide objects.
    #[serde(default, borrow, deserialize_with = "text")]
    pub namespace: Cow<'a, str>,
    /// What is asked.
    pub operation: Operation,
    /// Who asks.
    #[serde(default, borrow, rename = "userInfo", deserialize_with = "null_is_default")]
    pub user: User<'a>,
    /// The object as it is to be; `None` on deletion.
    #[serde(default, borrow)]
    pub object: Option<&'a RawValue>,
    /// The object as it was; `None` on creation.
    #[serde(default, borrow)]
    pub old_object: Option<&'a RawValue>,
    /// Whether nothing will be stored.
    #[serde(default, deserialize_with = "null_is_default")]
    pub dry_run: bool,
}

fn null_is_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A string, borrowed where it has no escapes. `Option<Cow<str>>` would copy each.
fn text<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, str>, D::Error> {
    struct Text;

    impl<'de> Visitor<'de> for Text {
        type Value = Cow<'de, str>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a string")
        }

        fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(Cow::Borrowed(text))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Cow::Owned(text.to_owned()))
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Cow::Borrowed(""))
        }
    }

    deserializer.deserialize_any(Text)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a, R> {
    #[serde(default, borrow, deserialize_with = "text")]
    api_version: Cow<'a, str>,
    #[serde(default, borrow, deserialize_with = "text")]
    kind: Cow<'a, str>,
    request: Option<R>,
}

impl<R> Review<'_, R> {
    /// The request, if it is of the version that is read here.
    fn request(self) -> Result<R, ParseError> {
        let Self { api_version, kind, request } = self;
        if api_version != API_VERSION || kind != KIND {
            return Err(ParseError::OtherKind {
                api_version: api_version.into_owned(),
                kind: kind.into_owned(),
            });
        }
        request.ok_or(ParseError::NoRequest)
    }
}

/// Why a body is no request for admission.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Not the JSON of an `AdmissionReview`.
    #[error("the body is no AdmissionReview of admission.k8s.io/v1: {0}")]
    Json(#[from] serde_json::Error),
    /// No text in UTF-8, as all JSON is.
    #[error("the body is no AdmissionReview of admission.k8s.io/v1: {0}")]
    Utf8(#[from] Utf8Error),
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
        // As a whole: otherwise each string is looked at by itself.
        let body = std::str::from_utf8(body)?;
        let request = match serde_json::from_str::<Review<'a, Self>>(body) {
            Ok(review) => review.request()?,
            // Another version is told by its name, and not by a field that it lacks.
            Err(error) => {
                serde_json::from_str::<Review<'a, IgnoredAny>>(body)?.request()?;
                return Err(error.into());
            }
        };
        if request.uid.is_empty() {
            return Err(ParseError::NoUid);
        }
        Ok(request)
    }
}

/// The uid of a request that cannot be read as one, so that even it can be refused in a way that the API server
/// understands. `None` where there is none, or where the review is of another version and so is its answer.
pub fn uid_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Review {
        api_version: String,
        kind: String,
        request: Request,
    }

    #[derive(Deserialize)]
    struct Request {
        uid: String,
    }

    // A wrong byte elsewhere does not make the uid unreadable.
    let Review { api_version, kind, request } = serde_json::from_str(&String::from_utf8_lossy(body)).ok()?;
    (api_version == API_VERSION && kind == KIND && !request.uid.is_empty()).then_some(request.uid)
}
