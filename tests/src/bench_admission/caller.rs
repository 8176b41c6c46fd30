//! How they are asked: as fast as they answer, or at a fixed rate, over kept connections; and over a new one each time.
//!
//! **Architecture invariant**: every answer is compared with what must come of the review.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::bench_abuse::target::SERVER_NAME;

use super::payload::Payload;
use super::servers::Server;

/// Kept connections. An API server has some for each webhook.
const CONNECTIONS: usize = 4;

/// What a span of asking came to.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// How many reviews were answered.
    pub reviews: u32,
    /// How long it took.
    pub span: Duration,
    /// The server's time on its processor meanwhile.
    pub processor: Duration,
}

impl Asked {
    /// Processor time for a review, in microseconds.
    pub fn each(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / f64::from(self.reviews)
    }

    /// Reviews a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.reviews) / self.span.as_secs_f64()
    }
}

/// A connection that answers one review after the other.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
    payload: Payload,
}

impl Kept {
    async fn open(server: &Server, payload: &Payload) -> anyhow::Result<Self> {
        let stream =
            server.target.connect().await.with_context(|| format!("connecting to {}", server.name))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, payload: payload.clone() })
    }

    async fn ask(&mut self) -> anyhow::Result<()> {
        let request = Request::post(self.payload.path)
            .header("host", SERVER_NAME)
            .header("content-type", "application/json")
            .body(Full::from(self.payload.body.clone()))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        let answer = std::str::from_utf8(&answer)?;
        let expected = if self.payload.allowed { r#""allowed":true"# } else { r#""allowed":false"# };
        // A refusal that rests on no rule is none.
        let judged = answer.contains(expected) && !answer.contains("try again");
        ensure!(judged, "{} answered {answer}", self.payload.name);
        Ok(())
    }
}

/// As fast as it answers, for so long.
pub async fn ask_for(server: &Server, payload: &Payload, span: Duration) -> anyhow::Result<Asked> {
    let open = (0..CONNECTIONS).map(|_| Kept::open(server, payload));
    let mut kept = try_join_all(open).await?;
    // What the first ones cost, nobody measures.
    for connection in &mut kept {
        connection.ask().await?;
    }
    let (before, begun) = (server.processor()?, Instant::now());
    let asking = kept.iter_mut().map(|connection| async move {
        let mut reviews = 0;
        while begun.elapsed() < span {
            connection.ask().await?;
            reviews += 1;
        }
        anyhow::Ok(reviews)
    });
    let reviews = try_join_all(asking).await?.into_iter().sum();
    Ok(Asked { reviews, span: begun.elapsed(), processor: server.processor()?.saturating_sub(before) })
}

/// Each over a connection of its own, so many.
pub async fn connect_for(server: &Server, payload: &Payload, times: u32) -> anyhow::Result<Asked> {
    let (before, begun) = (server.processor()?, Instant::now());
    for _ in 0..times {
        Kept::open(server, payload).await?.ask().await?;
    }
    Ok(Asked { reviews: times, span: begun.elapsed(), processor: server.processor()?.saturating_sub(before) })
}

/// At a fixed rate, for so long: how long each review took from the time at which it was due, whatever became of those before.
pub async fn ask_at(
    server: &Server,
    payload: &Payload,
    rate: u32,
    span: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let (free, mut idle) = mpsc::unbounded_channel();
    for _ in 0..CONNECTIONS {
        let mut connection = Kept::open(server, payload).await?;
        connection.ask().await?;
        free.send(connection).ok().context("somebody listens")?;
    }
    let (begun, count) = (Instant::now(), (span.as_secs_f64() * f64::from(rate)).round());
    let (told, mut times) = mpsc::unbounded_channel();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand")]
    for number in 0..count as u32 {
        let due = begun + Duration::from_secs(1) * number / rate;
        sleep_until(due).await;
        // With none free the review waits, and its time runs.
        let mut connection = idle.recv().await.context("connections come back")?;
        let (free, told) = (free.clone(), told.clone());
        tokio::spawn(async move {
            let asked = connection.ask().await.map(|()| due.elapsed());
            let _ = free.send(connection);
            let _ = told.send(asked);
        });
    }
    drop(told);
    let mut all = Vec::new();
    while let Some(time) = times.recv().await {
        all.push(time?);
    }
    Ok(all)
}
