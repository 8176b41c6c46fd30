//! Load on an engine in this process.

use std::future::pending;

use clap::Parser as _;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::engine::api::Engine;
use crate::engine::args::EngineArgs;
use crate::engine::server::serve_until;

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    load: Load,
}

fn load(flags: &str) -> Result<Load, String> {
    let words = std::iter::once("load").chain(flags.split_whitespace());
    Cli::try_parse_from(words).map(|cli| cli.load).map_err(|error| error.to_string())
}

/// An engine, and the flag that names it.
async fn engine(flags: &str) -> (Arc<Engine>, String) {
    let words: Vec<_> = format!("serve m {flags}").split_whitespace().map(str::to_owned).collect();
    let engine = Arc::new(Engine::new(EngineArgs::parse(&words).unwrap(), 1000.0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--url http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve_until(listener, Arc::clone(&engine), pending()));
    (engine, url)
}

/// Waits for `reached`, so that a load ends as soon as there is something to see.
async fn until(what: &str, reached: impl Fn() -> bool) {
    let reached = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), reached)
        .await
        .unwrap_or_else(|_| panic!("it never came to this: {what}"));
}

#[tokio::test]
async fn each_client_asks_again_and_every_answer_is_counted() {
    // The name is found out: another than the engine's own would be refused.
    let (engine, url) = engine("--served-model-name found --max-num-seqs 2").await;
    let load = load(&format!("{url} --concurrency 5 --max-tokens 20")).unwrap();
    let scheduler = &engine.scheduler;
    let counts = make(&load, async {
        until("5 clients, of which 2 run", || (scheduler.waiting(), scheduler.running()) == (3, 2)).await;
        until("more answers than clients", || scheduler.totals().finished > 10).await;
    })
    .await;
    let (ok, failed) = counts.read();
    let finished = engine.scheduler.totals().finished;
    assert_eq!(failed, 0);
    // The last answers may be on their way still, one for each client.
    assert!(ok <= finished && ok + 5 >= finished, "{ok} counted of {finished}");
    // Nobody is left behind when the load ends.
    until("an idle engine", || engine.scheduler.in_flight() == 0).await;
}

#[tokio::test]
async fn it_ends_by_its_duration_and_counts_what_is_refused() {
    let (engine, url) = engine("").await;
    let load = load(&format!("{url} --concurrency 2 --duration 1 --model other")).unwrap();
    let began = Instant::now();
    let counts = timeout(Duration::from_secs(20), make(&load, pending())).await.expect("it ends by itself");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let (ok, failed) = counts.read();
    assert_eq!(ok, 0);
    assert!(failed >= 2, "each client was refused at least once, not {failed} times");
    assert_eq!(engine.scheduler.totals().finished, 0);
}

#[tokio::test]
async fn it_waits_for_a_model_no_longer_than_its_duration() {
    // It answers without a key with 401 alone.
    let (_engine, url) = engine("--api-key secret").await;
    let load = load(&format!("{url} --duration 1")).unwrap();
    let counts = timeout(Duration::from_secs(20), make(&load, pending())).await.expect("it ends by itself");
    assert_eq!(counts.read(), (0, 0));
}

#[test]
fn only_plain_http_is_taken() {
    for (url, says) in [
        ("https://my-cluster:8000", "plain HTTP only"),
        ("my-cluster:8000", "as in http://my-cluster:8000"),
        ("/v1", "a URL is wanted"),
    ] {
        let error = load(&format!("--url {url}")).unwrap_err();
        assert!(error.contains(says), "{url}: {error}");
    }
    assert_eq!(load("--url http://my-cluster").unwrap().url.host(), Some("my-cluster"));
}
