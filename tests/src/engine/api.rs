//! vLLM's HTTP API: health, models, metrics, completions and chat.
//!
//! **Architecture invariant**: what a request costs is the scheduler's business; here it gets its shape.

use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream::{self, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};

use super::args::EngineArgs;
use super::control::{self, Controlled};
use super::metrics::{self, Load};
use super::scheduler::{Scheduler, count};

/// One engine.
#[derive(Debug)]
pub struct Engine {
    args: EngineArgs,
    /// Its queue.
    pub scheduler: Scheduler,
    /// What a test has told it.
    pub controlled: Controlled,
    draining: AtomicBool,
    /// Tells this engine's requests from another's.
    seed: u64,
    asked: AtomicU64,
}

impl Engine {
    /// An idle engine.
    pub fn new(args: EngineArgs, tokens_per_second: f64) -> Self {
        let scheduler = Scheduler::new(args.max_num_seqs, tokens_per_second);
        Self {
            args,
            scheduler,
            controlled: Controlled::default(),
            draining: AtomicBool::new(false),
            seed: RandomState::new().hash_one(()),
            asked: AtomicU64::new(0),
        }
    }

    /// From now on new requests are refused.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// How long requests in flight may take once it drains.
    pub fn shutdown_timeout(&self) -> Duration {
        self.args.shutdown_timeout
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}-{:016x}{:x}", self.seed, self.asked.fetch_add(1, Ordering::Relaxed))
    }

    fn name(&self) -> &str {
        &self.args.served_model_names[0]
    }
}

type Shared = State<Arc<Engine>>;

/// All routes.
pub fn router(engine: Arc<Engine>) -> Router {
    let v1 = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .layer(from_fn_with_state(Arc::clone(&engine), admit));
    Router::new()
        .route("/health", get(|| async {}))
        .route("/version", get(|| async { Json(json!({"version": "0.32.0"})) }))
        .route("/load", get(|State(engine): Shared| async move { Json(json!({"server_load": engine.scheduler.in_flight()})) }))
        .route("/metrics", get(metrics_page))
        .route(control::PATH, get(control::show).put(control::set))
        .route(control::LANDING, get(|| async { "a redirect was followed" }))
        .merge(v1)
        .layer(from_fn_with_state(Arc::clone(&engine), control::intercept))
        .with_state(engine)
}

/// A refusal in the form of OpenAI's API.
struct ApiError(StatusCode, &'static str, String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self(code, kind, message) = self;
        let body = json!({"error": {"message": message, "type": kind, "param": null, "code": code.as_u16()}});
        (code, Json(body)).into_response()
    }
}

fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError(StatusCode::BAD_REQUEST, "BadRequestError", message.into())
}

/// The key, where one is demanded, and nothing new while draining.
async fn admit(State(engine): Shared, request: Request, next: Next) -> Result<Response, ApiError> {
    if let Some(key) = &engine.args.api_key {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if given.and_then(|value| value.strip_prefix("Bearer ")) != Some(key) {
            return Err(ApiError(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized".into()));
        }
    }
    if engine.draining.load(Ordering::Acquire) {
        return Err(ApiError(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            "the server is shutting down".into(),
        ));
    }
    Ok(next.run(request).await)
}

async fn metrics_page(State(engine): Shared) -> impl IntoResponse {
    let told = engine.controlled.now();
    let scheduler = &engine.scheduler;
    let load = Load {
        waiting: told.waiting.map_or_else(|| count(scheduler.waiting()), f64::from),
        running: told.running.map_or_else(|| count(scheduler.running()), f64::from),
        usage: told.kv_cache_usage.unwrap_or_else(|| scheduler.usage()),
    };
    let page = metrics::page(load, &scheduler.totals(), engine.name());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page)
}

async fn models(State(engine): Shared) -> Json<Value> {
    let data: Vec<_> = engine
        .args
        .served_model_names
        .iter()
        .map(|name| json!({"id": name, "object": "model", "created": 0, "owned_by": "vllm", "root": engine.args.model, "max_model_len": engine.args.max_model_len}))
        .collect();
    Json(json!({"object": "list", "data": data}))
}

/// What both kinds of requests have in common.
#[derive(Deserialize)]
struct Ask {
    model: Option<String>,
    prompt: Option<Value>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<usize>,
    /// The newer name, of chats alone.
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Value,
}

/// Text or chat: the two differ in names only.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Chat,
}

async fn completions(engine: Shared, body: Bytes) -> Result<Response, ApiError> {
    answer(engine, &body, Form::Text).await
}

async fn chat(engine: Shared, body: Bytes) -> Result<Response, ApiError> {
    answer(engine, &body, Form::Chat).await
}

async fn answer(State(engine): Shared, body: &[u8], form: Form) -> Result<Response, ApiError> {
    let ask: Ask = serde_json::from_slice(body).map_err(|error| bad_request(error.to_string()))?;
    let model = ask.model.unwrap_or_else(|| engine.name().to_owned());
    if !engine.args.served_model_names.contains(&model) {
        return Err(ApiError(
            StatusCode::NOT_FOUND,
            "NotFoundError",
            format!("The model `{model}` does not exist."),
        ));
    }
    let prompt_tokens = match form {
        Form::Text => prompt_words(&ask.prompt.ok_or_else(|| bad_request("'prompt' is required"))?)?,
        Form::Chat => {
            let messages = ask.messages.ok_or_else(|| bad_request("'messages' is required"))?;
            if messages.is_empty() {
                return Err(bad_request("'messages' must hold at least one message"));
            }
            messages.iter().map(|message| words(&message.content)).sum()
        }
    };
    let newer = ask.max_completion_tokens.filter(|_| matches!(form, Form::Chat));
    let tokens = newer.or(ask.max_tokens).unwrap_or(16);
    if tokens == 0 {
        return Err(bad_request("max_tokens must be at least 1, got 0."));
    }
    if ask.stream {
        let usage = ask.stream_options.is_some_and(|options| options.include_usage);
        return Ok(streamed(engine, form, model, prompt_tokens, tokens, usage));
    }
    if ask.stream_options.is_some() {
        return Err(bad_request("Stream options can only be defined when `stream=True`."));
    }
    let mut running = engine.scheduler.start(prompt_tokens).await;
    for _ in 0..tokens {
        running.token().await;
    }
    running.finish();
    let text = "word ".repeat(tokens);
    let (id, object, choice) = match form {
        Form::Text => (
            engine.id("cmpl"),
            "text_completion",
            json!({"index": 0, "text": text, "logprobs": null, "finish_reason": "length"}),
        ),
        Form::Chat => (
            engine.id("chatcmpl"),
            "chat.completion",
            json!({"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": null, "finish_reason": "length"}),
        ),
    };
    let usage = used(prompt_tokens, tokens);
    Ok(Json(json!({"id": id, "object": object, "created": 0, "model": model, "choices": [choice], "usage": usage})).into_response())
}

fn used(prompt_tokens: usize, tokens: usize) -> Value {
    json!({"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens})
}

/// A token as it comes, each an event, the usage if it is wanted, and `[DONE]`.
fn streamed(
    engine: Arc<Engine>,
    form: Form,
    model: String,
    prompt_tokens: usize,
    tokens: usize,
    usage: bool,
) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        // A client that hangs up drops the receiver: the request leaves the queue, or ends at its next token.
        let started = tokio::select! {
            running = engine.scheduler.start(prompt_tokens) => Some(running),
            () = sender.closed() => None,
        };
        let Some(mut running) = started else { return };
        let (id, object) = match form {
            Form::Text => (engine.id("cmpl"), "text_completion"),
            Form::Chat => (engine.id("chatcmpl"), "chat.completion.chunk"),
        };
        for left in (0..tokens).rev() {
            running.token().await;
            let reason = (left == 0).then_some("length");
            let choice = match form {
                Form::Text => json!({"index": 0, "text": "word ", "finish_reason": reason}),
                Form::Chat => json!({"index": 0, "delta": {"content": "word "}, "finish_reason": reason}),
            };
            let chunk =
                json!({"id": id, "object": object, "created": 0, "model": model, "choices": [choice]});
            if sender.send(chunk.to_string()).await.is_err() {
                return;
            }
        }
        running.finish();
        if usage {
            let usage = used(prompt_tokens, tokens);
            let chunk = json!({"id": id, "object": object, "created": 0, "model": model, "choices": [], "usage": usage});
            let _ = sender.send(chunk.to_string()).await;
        }
        // The client may have left after its last token.
        let _ = sender.send("[DONE]".into()).await;
    });
    let events =
        stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    Sse::new(events.map(|data| Ok::<_, Infallible>(Event::default().data(data)))).into_response()
}

/// The size of a prompt: a text or several, or tokens by their numbers.
fn prompt_words(prompt: &Value) -> Result<usize, ApiError> {
    let readable = match prompt {
        Value::String(_) => true,
        Value::Array(parts) if parts.is_empty() => {
            return Err(bad_request("please provide at least one prompt"));
        }
        Value::Array(parts) => {
            parts.iter().all(Value::is_string)
                || is_tokens(prompt)
                || parts.iter().all(|part| is_tokens(part) && part != &json!([]))
        }
        _ => false,
    };
    if readable {
        Ok(words(prompt))
    } else {
        Err(bad_request("'prompt' must be text, tokens, or a list of either"))
    }
}

fn is_tokens(prompt: &Value) -> bool {
    prompt.as_array().is_some_and(|tokens| tokens.iter().all(Value::is_u64))
}

/// Words stand in for tokens.
fn words(prompt: &Value) -> usize {
    match prompt {
        Value::String(text) => text.split_whitespace().count(),
        Value::Array(parts) => parts.iter().map(words).sum(),
        Value::Object(fields) => fields.values().map(words).sum(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests;
