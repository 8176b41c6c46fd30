//! The server over real TLS on loopback: what it answers, whom it cuts off and whom not, and how it ends.

mod support;

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use support::{SHORT, Server, post, review_of, self_signed, unreached, within};
use tokio::net::TcpStream;
use webhook::handler::BODY_LIMIT;
use webhook::server::Limits;

#[tokio::test]
async fn serves_one_review_after_another_on_one_connection() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let (_, session) = peer.stream.get_ref();
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    for name in ["a", "b", "c"] {
        let answer = peer.review(name).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert_eq!(answer.header("connection"), None, "kept alive");
        let review: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(
            review,
            serde_json::json!({
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "response": { "uid": format!("uid-{name}"), "allowed": true },
            })
        );
    }
}

#[tokio::test]
async fn offers_http_1_only() {
    let server = Server::start(unreached()).await;
    let both = server.connect_offering(&["h2", "http/1.1"]).await.expect("a common protocol");
    assert_eq!(both.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let error = server.connect_offering(&["h2"]).await.err().expect("no common protocol");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn asks_for_a_client_certificate_where_told_to() {
    let (certificate, key) = self_signed();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().expect("a verifier");
    let server = Server::start_for(unreached(), Some(verifier)).await;
    assert_eq!(server.connect_as((certificate, key)).await.review("a").await.status, 200);
    // In TLS 1.3 the client is done before the server refuses it.
    assert_eq!(server.connect_as(self_signed()).await.closed().await, "");
    assert_eq!(server.connect().await.closed().await, "");
}

#[tokio::test]
async fn says_what_is_wrong_with_a_request_and_keeps_the_connection() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let review = review_of("a");
    let as_yaml =
        String::from_utf8(post(&review)).expect("text").replace("application/json", "application/yaml");
    for (request, status, sentence) in [
        (as_yaml.into_bytes(), 415, "application/json"),
        (
            b"POST /review HTTP/1.1\r\nHost: webhook\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
            415,
            "application/json",
        ),
        (post(&review[..review.len() / 2]), 400, "AdmissionReview"),
        (post(""), 400, "AdmissionReview"),
        (post("{}"), 400, "AdmissionReview"),
        (b"GET /review HTTP/1.1\r\nHost: webhook\r\n\r\n".to_vec(), 405, ""),
        (b"POST /other HTTP/1.1\r\nHost: webhook\r\nContent-Length: 0\r\n\r\n".to_vec(), 404, ""),
    ] {
        peer.send(&request).await;
        let answer = peer.answer().await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains(sentence), "{answer:?}");
    }
    assert_eq!(peer.review("b").await.status, 200);
}

#[tokio::test]
async fn takes_a_charset_with_the_content_type() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let request = String::from_utf8(post(&review_of("a"))).expect("text");
    peer.send(request.replace("application/json", "Application/JSON; charset=utf-8").as_bytes()).await;
    assert_eq!(peer.answer().await.status, 200);
}

#[tokio::test]
async fn takes_two_objects_of_three_mebibytes() {
    let server = Server::start(unreached()).await;
    let object = format!("{{\"data\":\"{}\"}}", "x".repeat(3 << 20));
    let review = review_of("a").replace(r#"{"data":{}}"#, &format!(r#"{object},"oldObject":{object}"#));
    assert!(review.len() > 6 << 20);
    let mut peer = server.connect().await;
    peer.send(&post(&review)).await;
    assert_eq!(peer.answer().await.status, 200);
}

#[tokio::test]
async fn refuses_a_body_beyond_the_limit() {
    let server = Server::start(unreached()).await;
    let head = "POST /review HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\n";
    // Nothing of the body is sent: the length alone is told.
    let mut announced = server.connect().await;
    announced.send(format!("{head}Content-Length: {}\r\n\r\n", BODY_LIMIT + 1).as_bytes()).await;
    assert_eq!(announced.answer().await.status, 413);

    let mut chunked = server.connect().await;
    chunked
        .send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", BODY_LIMIT + 1).as_bytes())
        .await;
    chunked.send(&vec![b' '; BODY_LIMIT + 1]).await;
    assert_eq!(chunked.answer().await.status, 413);
}

#[tokio::test]
async fn goes_on_after_a_panic() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let answer = peer.review("panic").await;
    assert_eq!(answer.status, 500);
    assert!(!answer.body.contains("as the test wants it"), "{answer:?}");
    assert_eq!(peer.review("a").await.status, 200);
    assert_eq!(server.connect().await.review("b").await.status, 200);
}

#[tokio::test]
async fn a_stalled_handshake_holds_nobody_up() {
    let server = Server::start(unreached()).await;
    let _stalled = server.connect_tcp().await;
    assert_eq!(server.connect().await.review("a").await.status, 200);
}

#[tokio::test]
async fn a_stalled_handshake_is_cut_off() {
    let server = Server::start(Limits { handshake: SHORT, ..unreached() }).await;
    let mut silent = server.connect_tcp().await;
    let mut stuttering = server.connect_tcp().await;
    // The head of a TLS record of 512 bytes that never come.
    stuttering.send(&[0x16, 0x03, 0x01, 0x02, 0x00]).await;
    silent.closed().await;
    stuttering.closed().await;
}

#[tokio::test]
async fn no_tls_at_all_ends_that_connection_only() {
    let server = Server::start(unreached()).await;
    let mut plain = server.connect_tcp().await;
    plain.send(b"GET / HTTP/1.1\r\n\r\n").await;
    plain.closed().await;
    assert_eq!(server.connect().await.review("a").await.status, 200);
}

#[tokio::test]
async fn a_slow_header_is_cut_off_also_if_bytes_keep_coming() {
    let server = Server::start(Limits { header: SHORT, ..unreached() }).await;
    let mut stopped = server.connect().await;
    stopped.send(b"POST /review HTTP/1.1\r\nHost: web").await;
    assert_eq!(stopped.closed().await, "");
    // The second header on a connection is held to the same limit.
    let mut second = server.connect_and_speak().await;
    second.send(b"POST /review HTTP/1.1\r\n").await;
    assert_eq!(second.closed().await, "");

    let dripping = server.connect().await;
    let (mut from, mut to) = tokio::io::split(dripping.stream);
    let mut bytes = Vec::new();
    let close = tokio::io::AsyncReadExt::read_to_end(&mut from, &mut bytes);
    let drip = async {
        let mut each = tokio::time::interval(SHORT / 10);
        loop {
            each.tick().await;
            if tokio::io::AsyncWriteExt::write_all(&mut to, b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    within("the close of a connection that sends a byte now and then", async {
        tokio::select! {
            _ = close => {}
            () = drip => {}
        }
    })
    .await;
}

#[tokio::test]
async fn the_header_limit_spares_idle_connections_and_bodies() {
    let server = Server::start(Limits { header: SHORT, ..unreached() }).await;
    let mut idle = server.connect_and_speak().await;
    let mut never_spoke = server.connect().await;
    let mut sending = server.connect().await;
    let request = post(&review_of("b"));
    let (begin, rest) = request.split_at(request.len() - 10);
    sending.send(begin).await;
    let mut waiting = server.connect().await;
    waiting.send(&post(&review_of("wait"))).await;
    within("the decision", server.decider.waiting.acquire()).await.expect("open").forget();

    server.let_header_limit_pass().await;
    server.let_header_limit_pass().await;
    sending.send(rest).await;
    assert_eq!(sending.answer().await.status, 200);
    server.decider.released.add_permits(1);
    assert_eq!(waiting.answer().await.status, 200);
    assert_eq!(never_spoke.review("c").await.status, 200);
    assert_eq!(idle.review("a").await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_its_limit() {
    let server = Server::start(Limits { idle: SHORT, ..unreached() }).await;
    let mut spoke = server.connect_and_speak().await;
    let mut never_spoke = server.connect().await;
    assert_eq!(spoke.closed().await, "");
    never_spoke.closed().await;
}

#[tokio::test]
async fn at_the_cap_those_go_first_that_never_sent_a_request() {
    let server = Server::start(Limits { connections: 3, ..unreached() }).await;
    let mut speaking = server.connect_and_speak().await;
    let mut silent = server.connect().await;
    let mut without_handshake = server.connect_tcp().await;

    let mut fourth = server.connect_and_speak().await;
    silent.closed().await;
    let mut fifth = server.connect_and_speak().await;
    without_handshake.closed().await;
    // All have sent requests: the newcomer goes.
    server.connect_tcp().await.closed().await;
    for peer in [&mut speaking, &mut fourth, &mut fifth] {
        assert_eq!(peer.review("again").await.status, 200);
    }
    // Whoever leaves makes room.
    drop(fifth);
    let room = async { while server.connect_offering(&["http/1.1"]).await.is_err() {} };
    within("room for one more", room).await;
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight() {
    let server = Server::start(unreached()).await;
    let mut idle = server.connect_and_speak().await;
    let mut silent = server.connect().await;
    let mut stalled = server.connect_tcp().await;
    let mut speaking = server.connect_and_speak().await;
    let mut waiting = server.connect().await;
    waiting.send(&post(&review_of("wait"))).await;
    within("the decision", server.decider.waiting.acquire()).await.expect("open").forget();

    // First step: all are served, and asked to go.
    server.stop.lame_duck.cancel();
    let answer = speaking.review("a").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(speaking.closed().await, "");
    let mut new = server.connect().await;
    let answer = new.review("b").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));

    // Second step: whoever asks nothing goes at once, the decision in flight is waited for.
    server.stop.stop.cancel();
    idle.closed().await;
    silent.closed().await;
    stalled.closed().await;
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    within("refused connections", refused).await;
    assert!(!server.ended.is_finished());
    server.decider.released.add_permits(1);
    let answer = waiting.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    within("the server's end", server.ended).await.expect("no panic");
}

#[tokio::test]
async fn a_drain_ends_at_its_limit() {
    let server = Server::start(Limits { drain: SHORT, ..unreached() }).await;
    let mut waiting = server.connect().await;
    waiting.send(&post(&review_of("wait"))).await;
    within("the decision", server.decider.waiting.acquire()).await.expect("open").forget();
    server.stop.stop.cancel();
    within("the server's end", server.ended).await.expect("no panic");
    assert_eq!(waiting.closed().await, "");
}
