//! The plain port: what it tells, and that nobody takes it from those who ask.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::health::{Health, PLAIN_CONNECTIONS, serve_plain};
use super::*;
use crate::world::watch::Synced;

/// Before a header is overdue, so that a close tells of the cap.
const DEADLINE: Duration = Duration::from_secs(8);

async fn read_to_end(peer: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    // A reset is an end too.
    let _ = timeout(DEADLINE, peer.read_to_end(&mut seen)).await.expect("the server closes");
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_crowd_of_half_sent_headers_takes_nothing_from_a_probe() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ((_synced, synced), (_bundle, bundle)) = (watch::channel(Synced::ALL), watch::channel(true));
    let stopping = CancellationToken::new();
    let health = Health { synced, bundle, stopping: stopping.clone(), metrics: Arc::default() };
    let server = tokio::spawn(serve_plain(listener, health));
    let ask = async |path: &str| {
        let mut peer = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        peer.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut peer).await
    };
    let mut crowd = Vec::new();
    for _ in 0..3 * PLAIN_CONNECTIONS {
        let mut peer = TcpStream::connect(address).await.unwrap();
        // One that has been dropped already may fail to send.
        let _ = peer.write_all(b"GET /metrics HTTP/1.1\r\n").await;
        crowd.push(peer);
    }
    assert!(ask("/readyz").await.starts_with("HTTP/1.1 200 OK"));
    assert!(ask("/metrics").await.contains("vllm_operator_admission_live_reads_limited_total 0"));
    // The first ones have made room, long before any of them was overdue.
    for peer in &mut crowd[..2 * PLAIN_CONNECTIONS] {
        assert_eq!(read_to_end(peer).await, "");
    }
    stopping.cancel();
    assert!(ask("/readyz").await.contains("the operator is stopping"));
    assert!(ask("/healthz").await.ends_with("ok\n"));
    assert!(!server.is_finished());
}
