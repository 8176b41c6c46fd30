//! The floor: what a server costs that reads a review, finds its uid, and allows it. Nothing that answers over TLS can cost less.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What it is told.
#[derive(Clone, Debug, Args)]
pub struct Floor {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
}

/// Serves until it is killed.
pub fn main(floor: &Floor) -> anyhow::Result<()> {
    let certificates = CertificateDer::pem_file_iter(&floor.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&floor.key)?;
    let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind(floor.listen).await.context("listening")?;
        loop {
            let (stream, _) = listener.accept().await?;
            // A connection that breaks is its client's.
            tokio::spawn(connection(stream, acceptor.clone()));
        }
    })
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await?;
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let answered = body.ok().as_deref().and_then(allowed);
    let mut response = Response::new(Full::from(answered.clone().unwrap_or_default()));
    if answered.is_none() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The answer to a review.
fn allowed(review: &[u8]) -> Option<String> {
    let review = std::str::from_utf8(review).ok()?;
    let (_, rest) = review.split_once(r#""uid":""#)?;
    let (uid, _) = rest.split_once('"')?;
    Some(format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{{"uid":"{uid}","allowed":true}}}}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_comes_back() {
        let review = include_str!("../../fixtures/admission-reviews.jsonl").lines().nth(1).expect("a line");
        let answer: serde_json::Value =
            serde_json::from_str(&allowed(review.as_bytes()).expect("an answer")).expect("JSON");
        assert_eq!(answer["response"]["uid"], "6e08421a-de10-4722-b609-825e924257de");
        assert_eq!(allowed(b"{}"), None);
    }
}
