//! The server over real TLS on loopback: what it answers, whom it cuts off and whom not, and how it ends.

#[expect(dead_code, reason = "the other binaries use the rest")]
mod support;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use support::{Peer, SHORT, Server, post, review_of, self_signed, unreached, within};
use tokio::net::{TcpListener, TcpStream};
use webhook::server::{Limits, Stop, Transport, serve};

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
async fn an_answer_that_nobody_reads_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // More than the kernel keeps at both ends.
    let router = Router::new().route("/large", get(async || "x".repeat(64 << 20)));
    let limits = Limits { answer: SHORT, ..unreached() };
    tokio::spawn(serve(listener, Transport::Plain, router, limits, Stop::default()));
    let mut peer = TcpStream::connect(address).await.expect("the server");
    let request = b"GET /large HTTP/1.1\r\nHost: web\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut peer, request).await.expect("a request");
    within("the end of a connection whose answer is not read", async {
        // What is sent to an end that is gone comes back as an error.
        while tokio::io::AsyncWriteExt::write_all(&mut peer, b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
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
    server.wait_with(&mut waiting).await;

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
async fn a_decision_may_take_longer_than_a_connection_may_be_idle() {
    let server = Server::start(Limits { idle: SHORT, ..unreached() }).await;
    let mut waiting = server.connect().await;
    server.wait_with(&mut waiting).await;
    // It connected later, and has reached the limit.
    server.connect().await.closed().await;
    server.decider.released.add_permits(1);
    assert_eq!(waiting.answer().await.status, 200);
    // The limit holds on afterwards.
    waiting.closed().await;
}

#[tokio::test]
async fn at_the_cap_those_go_first_that_never_sent_a_request() {
    let server = Server::start(Limits { connections: 3, ..unreached() }).await;
    let mut speaking = server.connect_and_speak().await;
    let mut silent = server.connect().await;
    silent.send(b"POST /review HTTP/1.1\r\n").await;
    let mut without_handshake = server.connect_tcp().await;

    let mut fourth = server.connect_and_speak().await;
    silent.closed().await;
    let mut fifth = server.connect_and_speak().await;
    without_handshake.closed().await;
    for peer in [&mut speaking, &mut fourth, &mut fifth] {
        assert_eq!(peer.review("again").await.status, 200);
    }
    // Whoever leaves makes room.
    drop(fifth);
    let room = async { while server.connect_offering(&["http/1.1"]).await.is_err() {} };
    within("room for one more", room).await;
    assert_eq!(speaking.review("again").await.status, 200);
}

#[tokio::test]
async fn at_the_cap_the_longest_idle_goes_next_and_never_one_that_is_asking() {
    let server = Server::start(Limits { connections: 3, ..unreached() }).await;
    let mut asking = server.connect_and_speak().await;
    server.wait_with(&mut asking).await;
    let mut sooner = server.connect_and_speak().await;
    let mut later = server.connect_and_speak().await;
    // It was the last to connect, and has now been idle for longer.
    assert_eq!(sooner.review("again").await.status, 200);
    let mut fourth = server.connect_and_speak().await;
    assert_eq!(later.closed().await, "");
    for peer in [&mut sooner, &mut fourth] {
        assert_eq!(peer.review("again").await.status, 200);
    }
    // One that has begun a request is asking, though it was idle for longest. The other's answer tells that the
    // server has read its beginning.
    let request = post(&review_of("half"));
    sooner.send(&request[..20]).await;
    assert_eq!(fourth.review("again").await.status, 200);
    let mut fifth = server.connect_and_speak().await;
    assert_eq!(fourth.closed().await, "");
    sooner.send(&request[20..]).await;
    let answer = sooner.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, None));

    // Only the newcomer is left to go.
    for peer in [&mut sooner, &mut fifth] {
        server.wait_with(peer).await;
    }
    server.connect_tcp().await.closed().await;
    server.decider.released.add_permits(3);
    for peer in [&mut asking, &mut sooner, &mut fifth] {
        assert_eq!(peer.answer().await.status, 200);
    }
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight() {
    let server = Server::start(unreached()).await;
    let mut idle = server.connect_and_speak().await;
    let mut silent = server.connect().await;
    let mut stalled = server.connect_tcp().await;
    let mut speaking = server.connect_and_speak().await;
    let mut waiting = server.connect().await;
    server.wait_with(&mut waiting).await;

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
async fn a_plain_port_has_the_same_limits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/healthz", get(|| async { "ok\n" }));
    let limits = Limits { header: SHORT, connections: 3, ..unreached() };
    let stop = Stop::default();
    let ended = tokio::spawn(serve(listener, Transport::Plain, router, limits, stop.clone()));
    let connect = async || Peer::over(TcpStream::connect(address).await.expect("a connection"));
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

    let mut half_sent = connect().await;
    half_sent.send(b"GET /healthz HTTP/1.1\r\n").await;
    assert_eq!(half_sent.closed().await, "");

    let mut crowd = Vec::new();
    for _ in 0..30 {
        let mut peer = connect().await;
        peer.try_send(b"GET /healthz HTTP/1.1\r\nX: ").await;
        crowd.push(peer);
    }
    let mut probe = connect().await;
    for _ in 0..2 {
        probe.send(request).await;
        let answer = probe.unverified_answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    }
    for peer in &mut crowd {
        peer.closed().await;
    }
    stop.stop.cancel();
    assert_eq!(probe.closed().await, "");
    within("the server's end", ended).await.expect("no panic");
}

#[tokio::test]
async fn a_drain_ends_at_its_limit() {
    let server = Server::start(Limits { drain: SHORT, ..unreached() }).await;
    let mut waiting = server.connect().await;
    server.wait_with(&mut waiting).await;
    server.stop.stop.cancel();
    within("the server's end", server.ended).await.expect("no panic");
    assert_eq!(waiting.closed().await, "");
}
