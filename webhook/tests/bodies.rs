//! What is held of bodies and of answers, and who must go when it is too much.

#[expect(dead_code, reason = "the other binaries use the rest")]
mod support;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use support::{Server, post, review_of, unreached, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use webhook::server::{Limits, ORDINARY_BODY, Stop, Transport, serve};

/// The beginning of a review that is longer than any ordinary one, and its end.
fn long(name: &str, length: usize) -> (Vec<u8>, Vec<u8>) {
    let review = review_of(name);
    let mut begin = post(&format!("{review}{}", " ".repeat(length - review.len())));
    let end = begin.split_off(begin.len() - 1);
    (begin, end)
}

#[tokio::test]
async fn beyond_the_budget_the_body_that_has_been_coming_for_longest_goes() {
    // Room for one of them and a half.
    let body = 16 * ORDINARY_BODY;
    let server = Server::start(Limits { bodies: body * 3 / 2, ..unreached() }).await;
    let mut first = server.connect_and_speak().await;
    let (begin, end) = long("first", body);
    first.send(&begin).await;
    let mut second = server.connect_and_speak().await;
    second.try_send(&begin).await;
    assert_eq!(first.closed().await, "");
    second.send(&end).await;
    assert_eq!(second.answer().await.status, 200);
    // What was held is there again, also of the one that went.
    for _ in 0..4 {
        second.send(&begin).await;
        second.send(&end).await;
        assert_eq!(second.answer().await.status, 200);
    }
}

#[tokio::test]
async fn an_ordinary_body_never_waits_for_others() {
    let body = 16 * ORDINARY_BODY;
    let server = Server::start(Limits { bodies: body, ..unreached() }).await;
    // It has come whole, so that nobody displaces it, and its decision takes its time.
    let mut deciding = server.connect().await;
    let (begin, end) = long("wait", body);
    deciding.send(&begin).await;
    deciding.send(&end).await;
    within("the decision", server.decider.waiting.acquire()).await.expect("open").forget();
    let mut long_one = server.connect().await;
    let (begin, end) = long("after", body);
    long_one.try_send(&begin).await;
    assert_eq!(server.connect().await.review("ordinary").await.status, 200);
    server.decider.released.add_permits(1);
    assert_eq!(deciding.answer().await.status, 200);
    long_one.send(&end).await;
    assert_eq!(long_one.answer().await.status, 200);
}

#[tokio::test]
async fn chunks_of_one_byte_are_no_small_body() {
    let server = Server::start(Limits { bodies: 0, ..unreached() }).await;
    let mut peer = server.connect().await;
    let head = "POST /review HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let review = review_of("a");
    let chunks: String =
        review.chars().flat_map(|byte| ["1\r\n".to_owned(), format!("{byte}\r\n")]).collect();
    // An ordinary review would have room, but nothing has room for what keeping so many parts of one costs.
    assert!(review.len() < ORDINARY_BODY && review.len() * 64 > ORDINARY_BODY);
    peer.send(format!("{head}{chunks}0\r\n\r\n").as_bytes()).await;
    let mut other = server.connect().await;
    assert_eq!(other.review("b").await.status, 200);
    server.stop.stop.cancel();
    assert_eq!(other.closed().await, "");
    assert!(!server.ended.is_finished(), "the first is being waited for");
}

#[tokio::test]
async fn at_the_cap_slow_bodies_go_before_idle_connections() {
    let server = Server::start(Limits { connections: 4, ..unreached() }).await;
    let mut kept = server.connect_and_speak().await;
    let (begin, _) = long("slow", ORDINARY_BODY);
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut peer = server.connect_and_speak().await;
        peer.send(&begin[..begin.len() / 2]).await;
        // Its answer tells that the server has read what was sent before.
        assert_eq!(kept.review("again").await.status, 200);
        slow.push(peer);
    }
    let mut newcomers = Vec::new();
    for mut gone in slow.drain(..2) {
        let mut newcomer = server.connect_and_speak().await;
        assert_eq!(gone.closed().await, "");
        newcomer.send(&begin[..begin.len() / 2]).await;
        newcomers.push(newcomer);
        assert_eq!(kept.review("again").await.status, 200);
    }
    assert_eq!(kept.review("again").await.status, 200);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    const ANSWER: usize = 8 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/", get(|| async { vec![b'x'; ANSWER] }));
    // Long enough for whoever reads, on a busy machine too.
    let limits = Limits { answer: Duration::from_secs(2), ..unreached() };
    let stop = Stop::default();
    let ended = tokio::spawn(serve(listener, Transport::Plain, router, limits, stop.clone()));
    let mut reader = TcpStream::connect(address).await.expect("a connection");
    let mut sleeper = TcpStream::connect(address).await.expect("a connection");
    for peer in [&mut reader, &mut sleeper] {
        peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("a request");
    }
    let mut seen = vec![0; ANSWER];
    within("all of an answer", reader.read_exact(&mut seen)).await.expect("an answer");
    stop.stop.cancel();
    // No other limit is near that could end it.
    within("the server's end", ended).await.expect("no panic");
    seen.clear();
    let _ = within("a part of an answer", sleeper.read_to_end(&mut seen)).await;
    assert!(seen.len() < ANSWER, "{} bytes", seen.len());
}
