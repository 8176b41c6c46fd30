//! Load by HTTP requests: `testbed load --url http://my-cluster:8000 --concurrency 40`.
//!
//! Each of so many clients asks again as soon as it is answered, on a fresh connection, so that a Service spreads
//! the requests over its pods. Once a second a line says how it goes.
//!
//! **Architecture invariant**: bounded in time and in the number of clients; it ends by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// After a failed request; a pod that has just gone is out of the Service by then.
const BACK_OFF: Duration = Duration::from_millis(200);
/// No request of a test waits longer in a queue.
const PATIENCE: Duration = Duration::from_mins(2);

/// What load to make.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Where the API is, as in `http://my-cluster:8000`.
    #[arg(long)]
    url: Uri,
    /// Requests at once.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Tokens to ask for in each.
    #[arg(long, default_value_t = 100)]
    max_tokens: usize,
    /// Seconds until it ends by itself.
    #[arg(long, default_value_t = 600)]
    duration: u64,
    /// The model; by default the first that the API names.
    #[arg(long)]
    model: Option<String>,
}

#[derive(Debug, Default)]
struct Counts {
    ok: AtomicUsize,
    failed: AtomicUsize,
}

/// Makes the load until it is told to stop.
pub fn main(load: Load) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(load))
}

async fn run(load: Load) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let counts = Arc::new(Counts::default());
    // The clients end when their set is dropped.
    tokio::select! {
        result = clients(&load, Arc::clone(&counts)) => result?,
        () = sleep(Duration::from_secs(load.duration)) => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    println!(
        "total: {} answered, {} failed",
        counts.ok.load(Ordering::Relaxed),
        counts.failed.load(Ordering::Relaxed)
    );
    Ok(())
}

async fn clients(load: &Load, counts: Arc<Counts>) -> anyhow::Result<()> {
    let model = match &load.model {
        Some(model) => model.clone(),
        None => first_model(&load.url).await,
    };
    let body =
        json!({"model": model, "prompt": "Tell me a story", "max_tokens": load.max_tokens}).to_string();
    let mut set = JoinSet::new();
    for _ in 0..load.concurrency {
        let (url, body, counts) = (load.url.clone(), body.clone(), Arc::clone(&counts));
        set.spawn(async move {
            loop {
                if let Ok(Ok(_)) =
                    timeout(PATIENCE, call(&url, Method::POST, "/v1/completions", body.clone())).await
                {
                    counts.ok.fetch_add(1, Ordering::Relaxed);
                } else {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    sleep(BACK_OFF).await;
                }
            }
        });
    }
    let mut seconds = 0;
    loop {
        sleep(Duration::from_secs(1)).await;
        seconds += 1;
        let (ok, failed) = (counts.ok.load(Ordering::Relaxed), counts.failed.load(Ordering::Relaxed));
        println!("{seconds:>4} s: {} clients, {ok} answered, {failed} failed", load.concurrency);
    }
}

/// Asks until something answers: the pods may not be up yet.
async fn first_model(url: &Uri) -> String {
    loop {
        if let Ok(Ok(answer)) = timeout(PATIENCE, call(url, Method::GET, "/v1/models", String::new())).await
            && let Some(model) = answer["data"][0]["id"].as_str()
        {
            return model.to_owned();
        }
        sleep(BACK_OFF).await;
    }
}

/// One request on a connection of its own.
async fn call(url: &Uri, method: Method, path: &str, body: String) -> anyhow::Result<Value> {
    let host = url.host().context("the URL has no host")?;
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", format!("{host}:{port}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{status}");
        Ok(serde_json::from_slice(&body)?)
    };
    // The connection is driven here, so that it goes with the request when that is dropped.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = exchange => result,
        () = connection => unreachable!("it is pending for ever"),
    }
}
