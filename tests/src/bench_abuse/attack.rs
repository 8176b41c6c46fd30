//! The kinds of abuse, each as many connections that cost the attacker next to nothing.
//!
//! **Architecture invariant**: speaks raw TLS and HTTP, so that each byte is one that an attacker would send; never judges.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::calls::recorded;
use super::target::Target;

/// Between two bytes of somebody slow.
const DRIP: Duration = Duration::from_secs(1);
/// Just below the largest body that is read.
const HUGE: usize = (7 << 20) - 1;
/// Connections over which forged reviews come.
const FORGERS: usize = 50;

/// A kind of abuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection and not a byte.
    IdleTcp,
    /// A TLS session and not a byte.
    IdleTls,
    /// A `ClientHello` of which the end never comes.
    Handshake,
    /// A header, a byte now and then.
    Header,
    /// A body, a byte now and then.
    Body,
    /// Bodies as large as they are read, and without end.
    Huge,
    /// Request upon request, and no answer is ever read.
    Unread,
    /// Reviews of clusters that nobody knows, each of which makes admission read.
    Forged,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::IdleTcp,
        Self::IdleTls,
        Self::Handshake,
        Self::Header,
        Self::Body,
        Self::Huge,
        Self::Unread,
        Self::Forged,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::IdleTcp => "idle, TCP alone",
            Self::IdleTls => "idle, after TLS",
            Self::Handshake => "stalled handshakes",
            Self::Header => "slow headers",
            Self::Body => "slow bodies",
            Self::Huge => "huge bodies",
            Self::Unread => "answers never read",
            Self::Forged => "forged reviews",
        })
    }
}

/// How much of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// What is done.
    pub kind: Kind,
    /// How often: connections, or reviews.
    pub attempts: usize,
    /// Attempts a second.
    pub rate: u32,
}

/// What an attack has come to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Attempts that were made.
    pub made: AtomicUsize,
    /// Connections that the server closed, or never took.
    pub closed: AtomicUsize,
}

impl Attack {
    /// Attacks until `end`, and lets everything go then.
    pub async fn run(self, target: Target, tally: Arc<Tally>, end: CancellationToken) {
        let begin = Instant::now();
        let mut running = JoinSet::new();
        let by_review = self.kind == Kind::Forged;
        let connections = if by_review { FORGERS.min(self.attempts) } else { self.attempts };
        for number in 0..connections {
            if !by_review {
                let due =
                    begin + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX) / self.rate;
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = end.cancelled() => break,
                }
            }
            let (target, tally) = (target.clone(), Arc::clone(&tally));
            running.spawn(async move {
                if by_review {
                    let forger = Forger { number, of: connections, attack: self };
                    let _ = forger.run(&target, &tally, begin).await;
                } else {
                    tally.made.fetch_add(1, Ordering::Relaxed);
                    let _ = attempt(self.kind, number, &target).await;
                }
                tally.closed.fetch_add(1, Ordering::Relaxed);
            });
        }
        end.cancelled().await;
        running.shutdown().await;
    }
}

/// One attempt; returns once the server has closed the connection.
async fn attempt(kind: Kind, number: usize, target: &Target) -> io::Result<()> {
    match kind {
        Kind::IdleTcp => {
            let mut stream = TcpStream::connect(target.address).await?;
            stream.read_u8().await.map(drop)
        }
        Kind::Handshake => {
            let mut stream = TcpStream::connect(target.address).await?;
            // The head of a record of 16 KiB and of a ClientHello as long as it may be, and three quarters of it.
            let mut hello = vec![0; 12 << 10];
            hello[..11].copy_from_slice(&[0x16, 3, 1, 0x40, 0, 1, 0, 0xf0, 0, 3, 3]);
            stream.write_all(&hello).await?;
            stream.read_u8().await.map(drop)
        }
        Kind::IdleTls => {
            let mut stream = target.connect().await?;
            stream.read_u8().await.map(drop)
        }
        Kind::Header => {
            let stream = target.connect().await?;
            let (mut from, mut to) = tokio::io::split(stream);
            to.write_all(b"POST /mutate/scale HTTP/1.1\r\nHost: x\r\nX-Slow: ").await?;
            // A long part at once, so that it has to be kept.
            to.write_all(&[b'x'; 6 << 10]).await?;
            to.flush().await?;
            tokio::select! {
                dripped = drip(&mut to) => dripped,
                closed = from.read_u8() => closed.map(drop),
            }
        }
        Kind::Body => {
            let stream = target.connect().await?;
            let (mut from, mut to) = tokio::io::split(stream);
            to.write_all(&head("/mutate/scale", Some(HUGE))).await?;
            to.write_all(&recorded().map_err(io::Error::other)?.as_bytes()[..1500]).await?;
            to.flush().await?;
            tokio::select! {
                dripped = drip(&mut to) => dripped,
                answered = from.read_u8() => answered.map(drop),
            }
        }
        Kind::Huge => {
            let stream = target.connect().await?;
            let (mut from, mut to) = tokio::io::split(stream);
            let flood = async {
                if number.is_multiple_of(2) {
                    to.write_all(&head("/validate/vllmclusters", Some(HUGE))).await?;
                    // All but the last byte.
                    for _ in 0..HUGE / ZEROES.len() {
                        to.write_all(&ZEROES).await?;
                    }
                    to.flush().await?;
                    return std::future::pending().await;
                }
                to.write_all(&head("/validate/vllmclusters", None)).await?;
                loop {
                    to.write_all(format!("{:x}\r\n", ZEROES.len()).as_bytes()).await?;
                    to.write_all(&ZEROES).await?;
                    to.write_all(b"\r\n").await?;
                }
            };
            tokio::select! {
                sent = flood => sent,
                answered = from.read_u8() => answered.map(drop),
            }
        }
        Kind::Unread => {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(2048)?;
            let mut stream = target.handshake(socket.connect(target.address).await?).await?;
            let review = recorded().map_err(io::Error::other)?;
            let mut request = head("/validate/scale", Some(review.len()));
            request.extend_from_slice(review.as_bytes());
            loop {
                stream.write_all(&request).await?;
                stream.flush().await?;
            }
        }
        Kind::Forged => Ok(()),
    }
}

static ZEROES: [u8; 32 << 10] = [b'0'; 32 << 10];

async fn drip(to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        sleep(DRIP).await;
        to.write_all(b"x").await?;
        to.flush().await?;
    }
}

fn head(path: &str, length: Option<usize>) -> Vec<u8> {
    let framing = match length {
        Some(length) => format!("Content-Length: {length}"),
        None => "Transfer-Encoding: chunked".to_owned(),
    };
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n")
        .into_bytes()
}

/// One connection over which forged reviews come.
struct Forger {
    number: usize,
    of: usize,
    attack: Attack,
}

impl Forger {
    async fn run(&self, target: &Target, tally: &Tally, begin: Instant) -> io::Result<()> {
        let stream = target.connect().await?;
        let (mut from, mut to) = tokio::io::split(stream);
        let review = recorded().map_err(io::Error::other)?;
        let mut answers = vec![0; 16 << 10];
        for number in (self.number..self.attack.attempts).step_by(self.of) {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            sleep_until(begin + Duration::from_secs(1) * number / self.attack.rate).await;
            let forged = review.replace(r#""name":"a""#, &format!(r#""name":"unknown-{number}""#));
            let mut request = head("/validate/scale", Some(forged.len()));
            request.extend_from_slice(forged.as_bytes());
            to.write_all(&request).await?;
            to.flush().await?;
            tally.made.fetch_add(1, Ordering::Relaxed);
            // One at a time is all that is served; an answer comes in one piece.
            if from.read(&mut answers).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        std::future::pending().await
    }
}
