//! Load by HTTP requests: `testbed load --url http://my-cluster:8000 --concurrency 40`.
//!
//! Each of so many clients asks again as soon as it is answered, on a fresh connection, so that a Service spreads
//! the requests over its pods. Once a second a line says how it goes.
//!
//! **Architecture invariant**: bounded in time and in the number of clients; it ends by itself.

use std::convert::Infallible;
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
    #[arg(long, value_parser = plain_http)]
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

/// A pod that makes this load on `url` until it is deleted.
pub fn pod(url: &str, concurrency: usize) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: load}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  containers:
    - {{name: load, image: testbed/load, args: [--url, "{url}", --concurrency, "{concurrency}"]}}
"#
    )
}

#[derive(Debug, Default)]
struct Counts {
    ok: AtomicUsize,
    failed: AtomicUsize,
}

impl Counts {
    fn read(&self) -> (usize, usize) {
        (self.ok.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Makes the load until it is told to stop.
pub fn main(load: Load) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(load))
}

async fn run(load: Load) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let counts = make(&load, async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
    .await;
    let (ok, failed) = counts.read();
    println!("total: {ok} answered, {failed} failed");
    Ok(())
}

/// Makes the load until its duration is over, or until `stop`.
async fn make(load: &Load, stop: impl Future<Output = ()>) -> Arc<Counts> {
    let counts = Arc::new(Counts::default());
    // The clients end when their set is dropped.
    tokio::select! {
        never = clients(load, Arc::clone(&counts)) => match never {},
        () = sleep(Duration::from_secs(load.duration)) => {}
        () = stop => {}
    }
    counts
}

/// There is no TLS here, and a URL without a scheme is not taken for one with it.
fn plain_http(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http"), Some(_)) => Ok(url),
        (Some("https"), _) => {
            Err("load is made by plain HTTP only: name the Service or a pod, as in http://my-cluster:8000"
                .into())
        }
        _ => Err("a URL is wanted, as in http://my-cluster:8000".into()),
    }
}

async fn clients(load: &Load, counts: Arc<Counts>) -> Infallible {
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
                let why = match timeout(PATIENCE, call(&url, Method::POST, "/v1/completions", body.clone()))
                    .await
                {
                    Ok(Ok(_)) => {
                        counts.ok.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(_) => format!("no answer in {} s", PATIENCE.as_secs()),
                };
                counts.failed.fetch_add(1, Ordering::Relaxed);
                println!("failed: {why}");
                sleep(BACK_OFF).await;
            }
        });
    }
    let mut seconds = 0;
    loop {
        sleep(Duration::from_secs(1)).await;
        seconds += 1;
        let (ok, failed) = counts.read();
        println!("{seconds:>4} s: {} clients, {ok} answered, {failed} failed", load.concurrency);
    }
}

/// Asks until something answers: the pods may not be up yet. Each new reason to wait is said once.
async fn first_model(url: &Uri) -> String {
    let mut said = String::new();
    loop {
        let reason = match timeout(PATIENCE, call(url, Method::GET, "/v1/models", String::new())).await {
            Ok(Ok(answer)) => match answer["data"][0]["id"].as_str() {
                Some(model) => return model.to_owned(),
                None => "it names no model".to_owned(),
            },
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer in {} s", PATIENCE.as_secs()),
        };
        if reason != said {
            println!("waiting for the model of {url}: {reason}");
            said = reason;
        }
        sleep(BACK_OFF).await;
    }
}

/// One request on a connection of its own.
async fn call(url: &Uri, method: Method, path: &str, body: String) -> anyhow::Result<Value> {
    let host = url.host().context("the URL has no host")?;
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
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

#[cfg(test)]
mod tests;
