//! An API server that knows one cluster, answers everything else as absent or empty, and counts what it is asked.
//!
//! **Architecture invariant**: no behaviour of a real one is imitated but what the operator needs in order to serve.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const CLUSTERS: &str = "/apis/training.distributed-inference.io/v1alpha1/vllmclusters";
const SECRETS: &str = "/api/v1/namespaces/vllm-operator-system/secrets";

/// What it was asked, and what it was given to keep.
#[derive(Clone, Default)]
pub struct ApiServer {
    calls: Arc<AtomicU64>,
    kept: Arc<Mutex<HashMap<String, Value>>>,
}

impl ApiServer {
    /// Serves on a loopback port for as long as the runtime runs.
    pub async fn start() -> anyhow::Result<(Self, SocketAddr)> {
        let api = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((api, address))
    }

    /// How many requests have come so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// The CA that the operator has stored, as PEM.
    pub fn authority(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let kept = self.kept();
        let Some(secret) = kept.get(&format!("{SECRETS}/vllm-operator-ca")) else { return Ok(None) };
        let text = secret["data"]["ca.crt"].as_str().context("a Secret without ca.crt")?;
        Ok(Some(base64::engine::general_purpose::STANDARD.decode(text)?))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, Value>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(State(api): State<ApiServer>, method: Method, uri: Uri, body: Bytes) -> Response {
    api.calls.fetch_add(1, Ordering::Relaxed);
    let path = uri.path();
    let query = uri.query().unwrap_or_default();
    if query.contains("watch=true") || query.contains("watch=1") {
        // Nothing ever changes.
        let body = Body::from_stream(futures::stream::pending::<std::io::Result<Bytes>>());
        return ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    }
    let written = || serde_json::from_slice::<Value>(&body).unwrap_or_default();
    match method {
        Method::POST if path == SECRETS => {
            let mut secret = written();
            secret["metadata"]["resourceVersion"] = json!("1");
            let name = secret["metadata"]["name"].as_str().unwrap_or_default();
            api.kept().insert(format!("{SECRETS}/{name}"), secret.clone());
            object(StatusCode::CREATED, &secret)
        }
        Method::GET => {
            if let Some(kept) = api.kept().get(path) {
                return object(StatusCode::OK, kept);
            }
            if is_list(path) {
                let items = if path == CLUSTERS { vec![cluster()] } else { Vec::new() };
                let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items});
                return object(StatusCode::OK, &list);
            }
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
                "message": format!("{path} not found"),
            });
            object(StatusCode::NOT_FOUND, &status)
        }
        _ => object(StatusCode::OK, &written()),
    }
}

/// Whether the last segment of a path is a kind and no name.
fn is_list(path: &str) -> bool {
    let kinds = [
        "vllmclusters",
        "scaledobjects",
        "horizontalpodautoscalers",
        "namespaces",
        "statefulsets",
        "services",
        "pods",
        "poddisruptionbudgets",
        "secrets",
        "limitranges",
        "customresourcedefinitions",
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
    ];
    path.rsplit('/').next().is_some_and(|last| kinds.contains(&last))
}

fn object(code: StatusCode, object: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], object.to_string()).into_response()
}

/// The cluster of the recorded review, as it was just before.
fn cluster() -> Value {
    json!({
        "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
        "metadata": {"name": "a", "namespace": "t", "resourceVersion": "349", "uid": "7c511b6b-887c-4061-8822-2866ecda4419", "generation": 1},
        "spec": {"replicas": 3, "minReplicas": 2, "maxReplicas": 8},
    })
}
