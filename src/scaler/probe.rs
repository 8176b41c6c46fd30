//! One GET of one server: to an address that is known from the API server, bounded in time and in size, and no further.
//!
//! Architecture invariant: addresses alone, so that no name is looked up; no redirect is followed, no connection kept: vLLM's
//! server closes an idle one after 5 s, and a time that includes the connection is what a client waits.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::answer::Fault;

/// Longest body that is read, in bytes. vLLM's `/metrics` has 50 KB for each engine.
const LONGEST: usize = 2 << 20;
/// Longest header.
const HEADER: usize = 64 << 10;

/// What came back, and how long it took.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
    /// From the connection's beginning to the body's end.
    pub took: Duration,
}

/// Asks for `path`, and takes no longer than `limit`.
pub async fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Response, Fault> {
    timeout(limit, exchange(address, path)).await.unwrap_or(Err(Fault::Slow(limit)))
}

async fn exchange(address: SocketAddr, path: &str) -> Result<Response, Fault> {
    let began = Instant::now();
    let stream =
        TcpStream::connect(address).await.map_err(|error| Fault::Unreachable(error.kind().to_string()))?;
    // One small write; a failure costs latency alone.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEADER)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|_| Fault::Garbage(NO_HTTP))?;
    let request = Request::get(path)
        .header(header::HOST, host(address))
        .header(header::USER_AGENT, HeaderValue::from_static("vllm-operator"))
        .header(header::CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::new())
        .map_err(|_| Fault::Garbage("nothing: the path cannot be asked for"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| wrong(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|error| {
            match error.downcast_ref::<hyper::Error>() {
                Some(error) => wrong(error),
                None => Fault::Garbage("more than 2 MiB"),
            }
        })?;
        Ok(Response { status: head.status, body: body.to_bytes(), took: began.elapsed() })
    };
    let (mut answer, connection) = (pin!(answer), pin!(connection));
    // The connection does the work. When it ends, the answer has all that there will be.
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

const NO_HTTP: &str = "no HTTP";

fn wrong(error: &hyper::Error) -> Fault {
    if error.is_parse() || error.is_parse_too_large() {
        Fault::Garbage(NO_HTTP)
    } else {
        Fault::Unreachable("the connection ended".to_owned())
    }
}

fn host(address: SocketAddr) -> HeaderValue {
    // Digits, dots, colons and brackets.
    HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("localhost"))
}
