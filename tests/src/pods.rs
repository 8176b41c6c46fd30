//! Requests to the pods of a plane from outside of its network, and what they are good for: engines that are told how to be.
//!
//! They go by way of the API server (`pods/<name>:<port>/proxy`), which is in the plane's network and dials the pod itself.
//!
//! **Architecture invariant**: one pod at a time, by its name; never through a Service.

use anyhow::Context as _;
use axum::http::Request;
use kube::Client;
use serde::de::DeserializeOwned;

use crate::engine::control::{self, Control, Seen};
use crate::plane::Plane;

/// The port that engines serve on.
pub const ENGINE_PORT: u16 = 8000;

/// The engines of one namespace.
#[derive(Clone)]
pub struct Engines {
    client: Client,
    namespace: String,
}

impl Engines {
    /// Of `namespace`.
    pub async fn of(plane: &Plane, namespace: &str) -> anyhow::Result<Self> {
        Ok(Self { client: plane.client().await?, namespace: namespace.to_owned() })
    }

    /// Tells the engine in `pod` how to be. It is so when this returns.
    pub async fn set(&self, pod: &str, control: &Control) -> anyhow::Result<Seen> {
        let request = Request::put(self.path(pod, control::PATH)).body(serde_json::to_vec(control)?)?;
        self.ask(pod, request).await
    }

    /// Makes the engine in `pod` as vLLM is.
    pub async fn heal(&self, pod: &str) -> anyhow::Result<Seen> {
        self.set(pod, &Control::default()).await
    }

    /// How the engine in `pod` is, and who has asked it for what.
    pub async fn seen(&self, pod: &str) -> anyhow::Result<Seen> {
        self.ask(pod, Request::get(self.path(pod, control::PATH)).body(Vec::new())?).await
    }

    /// What the engine in `pod` answers to `GET path`, as any caller would see it.
    pub async fn get(&self, pod: &str, path: &str) -> anyhow::Result<String> {
        let request = Request::get(self.path(pod, path)).body(Vec::new())?;
        self.client.request_text(request).await.with_context(|| format!("{path} of {}/{pod}", self.namespace))
    }

    fn path(&self, pod: &str, path: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{pod}:{ENGINE_PORT}/proxy{path}", self.namespace)
    }

    async fn ask<T: DeserializeOwned>(&self, pod: &str, request: Request<Vec<u8>>) -> anyhow::Result<T> {
        self.client
            .request(request)
            .await
            .with_context(|| format!("the engine of pod {}/{pod}", self.namespace))
    }
}
