//! Drains of an engine in this process.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::super::args::EngineArgs;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    engine: Arc<Engine>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<io::Result<usize>>,
}

fn served(flags: &str, tokens_per_second: f64) -> Served {
    let words: Vec<_> = format!("serve m {flags}").split_whitespace().map(str::to_owned).collect();
    let engine = Arc::new(Engine::new(EngineArgs::parse(&words).unwrap(), tokens_per_second));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let served = Arc::clone(&engine);
    // A runtime of its own, as the program has: what is not written when the server ends is lost.
    let ended = tokio::task::spawn_blocking(move || {
        tokio::runtime::Runtime::new()?.block_on(async {
            serve_until(TcpListener::from_std(listener)?, served, async {
                let _ = stopped.await;
            })
            .await
        })
    });
    Served { engine, address, stop, ended }
}

/// Sends a request on a connection that stays open, as a client with a pool does.
async fn send(address: SocketAddr, head: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{head} HTTP/1.1\r\nhost: m\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn to_the_end(mut stream: TcpStream) -> String {
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("the connection closes").unwrap();
    text
}

/// The first bytes of an answer.
async fn answer(mut stream: TcpStream) -> String {
    let mut bytes = vec![0; 1024];
    let length = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("it answers").unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let reached = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("it never came to this: {what}"));
}

#[tokio::test]
async fn a_drain_lets_answers_come_to_their_last_byte() {
    let served = served("--shutdown-timeout 20", 50.0);
    let body = r#"{"prompt": "a", "max_tokens": 80}"#;
    let whole = send(served.address, "POST /v1/completions", body).await;
    let streamed =
        send(served.address, "POST /v1/completions", r#"{"prompt": "a", "max_tokens": 80, "stream": true}"#)
            .await;
    let engine = Arc::clone(&served.engine);
    until("both run", || engine.scheduler.running() == 2).await;
    // The drain lasts until this goes, however slow the machine is.
    let held = engine.scheduler.start(1).await;
    served.stop.send(()).unwrap();

    // Healthy while it drains, and closed to what is new.
    let refused = async {
        loop {
            let asked =
                send(served.address, "POST /v1/completions", r#"{"prompt": "a", "max_tokens": 1}"#).await;
            let answer = answer(asked).await;
            if answer.starts_with("HTTP/1.1 503") {
                return;
            }
        }
    };
    timeout(PATIENCE, refused).await.expect("a draining engine refuses");
    let health = answer(send(served.address, "GET /health", "").await).await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(!served.ended.is_finished(), "requests are still in flight");

    held.finish();
    let (whole, streamed) = tokio::join!(to_the_end(whole), to_the_end(streamed));
    assert!(whole.contains(r#""completion_tokens":80"#), "{whole}");
    assert!(streamed.contains("data: [DONE]") && streamed.ends_with("0\r\n\r\n"), "{streamed}");
    let aborted = timeout(PATIENCE, served.ended).await.expect("it ends by itself").unwrap().unwrap();
    assert_eq!((aborted, engine.scheduler.totals().aborted), (0, 0));
}

#[tokio::test]
async fn an_answer_that_is_generated_but_not_sent_yet_is_waited_for() {
    // More than the sockets between the two hold, so that it cannot be sent before it is read.
    let name = "m".repeat(16 << 20);
    let served = served(&format!("--shutdown-timeout 20 --served-model-name {name}"), 50.0);
    let client = send(served.address, "POST /v1/completions", r#"{"prompt": "a", "max_tokens": 2}"#).await;
    until("it is generated", || served.engine.scheduler.totals().finished == 1).await;
    served.stop.send(()).unwrap();
    // Once no connection is taken any more, all that is left is this answer.
    let closed = async { while TcpStream::connect(served.address).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("the listener closes");
    let answer = to_the_end(client).await;
    assert!(answer.len() > name.len() && answer.ends_with('}'), "cut off at {} bytes", answer.len());
    assert_eq!(timeout(PATIENCE, served.ended).await.expect("it ends by itself").unwrap().unwrap(), 0);
}

#[tokio::test]
async fn without_patience_requests_in_flight_are_cut_off_and_counted() {
    for flags in ["", "--shutdown-timeout 1"] {
        let served = served(flags, 50.0);
        let _held =
            send(served.address, "POST /v1/completions", r#"{"prompt": "a", "max_tokens": 100000}"#).await;
        until("it runs", || served.engine.scheduler.running() == 1).await;
        served.stop.send(()).unwrap();
        let aborted = timeout(PATIENCE, served.ended).await.expect("it ends in time").unwrap().unwrap();
        assert_eq!(aborted, 1, "{flags:?}");
    }
}

#[tokio::test]
async fn an_idle_engine_ends_at_once_whatever_it_may_wait() {
    let served = served("--shutdown-timeout 18446744073709551615", 50.0);
    // A connection that a pool keeps.
    let mut kept = send(served.address, "GET /health", "").await;
    let mut bytes = [0; 12];
    kept.read_exact(&mut bytes).await.unwrap();
    served.stop.send(()).unwrap();
    let aborted = timeout(PATIENCE, served.ended).await.expect("nothing holds it up").unwrap().unwrap();
    assert_eq!(aborted, 0);
}
