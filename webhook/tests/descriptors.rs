//! No file descriptors left: `accept` fails, and the server is there again once they are.
//!
//! Architecture invariant: the only test of its binary, because the limit it lowers is the process's.

#[expect(dead_code, reason = "the other binaries use the rest")]
mod support;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit, setrlimit};
use support::{Server, unreached, within};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Counts what the server warns of: the only sign of a failed `accept`.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().starts_with("webhook::server")
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn the_server_outlives_a_lack_of_file_descriptors() {
    let warnings = Warnings::default();
    tracing::subscriber::set_global_default(warnings.clone()).expect("the only subscriber");
    let server = Server::start(unreached()).await;
    assert_eq!(server.connect().await.review("before").await.status, 200);

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(64);
    setrlimit(Resource::Nofile, limit).expect("a lower limit");
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    // One is left for the client's end, and none for the server's.
    held.pop().expect("some were free");
    let socket =
        tokio::net::TcpStream::connect(server.address).await.expect("the kernel takes the connection");
    within("two failures of accept", async {
        while warnings.0.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(socket);
    drop(held);
    assert_eq!(server.connect().await.review("after").await.status, 200);
}
