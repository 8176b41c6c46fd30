//! One request straight to the API server, and everything that came back.
//!
//! **Architecture invariant**: judges nothing; a refusal is an answer like any other.

use std::time::Duration;

use anyhow::Context as _;
use axum::http::{Method, Request, header};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::Value;

use super::axes::{GROUP, Kind, Writer};

/// How often a request is made that is told to try again: as often as client-go makes it.
const TRIES: usize = 10;

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub content_type: &'static str,
    pub body: Option<Value>,
    pub writer: Writer,
    /// Under which id the audit log has it.
    pub audit_id: Option<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
    /// How often the answer before was to try again.
    pub again: usize,
}

impl Answer {
    pub fn ok(&self) -> bool {
        self.code < 400
    }

    /// The sentence of a refusal.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Call {
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            content_type: "application/json",
            body: None,
            writer: Writer::Admin,
            audit_id: None,
        }
    }

    #[must_use]
    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    #[must_use]
    pub fn typed(mut self, content_type: &'static str) -> Self {
        self.content_type = content_type;
        self
    }

    #[must_use]
    pub fn by(mut self, writer: Writer) -> Self {
        self.writer = writer;
        self
    }

    /// Makes it; and again where the answer is to try again: by `Retry-After`, as client-go does, or by a look-up of
    /// the operator's that took too long on a busy machine.
    pub async fn send(&self, client: &Client) -> anyhow::Result<Answer> {
        let mut told = String::new();
        for again in 0..TRIES {
            let (mut answer, wait) = self.once(client).await?;
            answer.again = again;
            answer.message().clone_into(&mut told);
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None if answer.code == 500 && told.ends_with("; try again") => {}
                None => return Ok(answer),
            }
        }
        anyhow::bail!("{} {}: told {TRIES} times to try again, at last: {told}", self.method, self.path)
    }

    /// The answer, and after how long to try again if it is none.
    async fn once(&self, client: &Client) -> anyhow::Result<(Answer, Option<Duration>)> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header(header::CONTENT_TYPE, self.content_type);
        if let Some((user, groups)) = identity(self.writer) {
            request = request.header("Impersonate-User", user);
            for group in groups {
                request = request.header("Impersonate-Group", *group);
            }
        }
        if let Some(id) = &self.audit_id {
            request = request.header("Audit-ID", id);
        }
        let body = self.body.as_ref().map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let response = client.send(request.body(Body::from(body))?).await?;
        let (head, body) = response.into_parts();
        let wait = head.headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let warnings = head.headers.get_all(header::WARNING).iter();
        let warnings = warnings.map(|value| warning(&String::from_utf8_lossy(value.as_bytes()))).collect();
        let bytes = body.collect().await.context("the body of an answer")?.to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        let answer = Answer { code: head.status.as_u16(), body, warnings, again: 0 };
        Ok((answer, wait.map(Duration::from_secs)))
    }
}

/// The text of `299 - "text"`.
fn warning(header: &str) -> String {
    let quoted = header.split_once('"').map_or(header, |(_, rest)| rest.strip_suffix('"').unwrap_or(rest));
    quoted.replace("\\\"", "\"").replace("\\\\", "\\")
}

fn identity(writer: Writer) -> Option<(&'static str, &'static [&'static str])> {
    match writer {
        Writer::Admin => None,
        Writer::Keda => Some((
            "system:serviceaccount:keda:keda-operator",
            &["system:serviceaccounts", "system:serviceaccounts:keda", "system:authenticated"],
        )),
        Writer::HpaController => Some((
            "system:serviceaccount:kube-system:horizontal-pod-autoscaler",
            &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
        )),
    }
}

/// Where the objects of a kind are; of `/scale`, the clusters.
pub fn collection(kind: Kind, namespace: &str) -> String {
    let (group, plural) = match kind {
        Kind::Cluster | Kind::Scale => (format!("{GROUP}/v1alpha1"), "vllmclusters"),
        Kind::ScaledObject => ("keda.sh/v1alpha1".into(), "scaledobjects"),
        Kind::HpaV1 => ("autoscaling/v1".into(), "horizontalpodautoscalers"),
        Kind::HpaV2 => ("autoscaling/v2".into(), "horizontalpodautoscalers"),
    };
    format!("/apis/{group}/namespaces/{namespace}/{plural}")
}

/// Where an object that stands around is.
pub fn collection_of(object: &Value, namespace: &str) -> String {
    match object["kind"].as_str() {
        Some("VLLMCluster") => collection(Kind::Cluster, namespace),
        Some("ScaledObject") => collection(Kind::ScaledObject, namespace),
        _ => collection(Kind::HpaV2, namespace),
    }
}
