//! What time the API server says it is: its clock decides whether it accepts a certificate.
//!
//! **Architecture invariant:** no decision; our own clock is an answer only where the API server gives none.

use axum::http::Request;
use axum::http::header::DATE;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use kube::Client;
use kube::client::Body;

use super::{CertificateError, bounded};

static HTTP_DATE: DateTimeParser = DateTimeParser::new();

/// The date of an answer of the API server, in whole seconds.
pub async fn of_the_api_server(client: &Client) -> Result<Timestamp, CertificateError> {
    // Everybody may ask for it, and it costs the API server nothing.
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = axum::http::Uri::from_static("/version");
    let answer = bounded(|| "ask the API server for the time".to_owned(), client.send(request)).await?;
    let date = answer.headers().get(DATE).and_then(|date| HTTP_DATE.parse_timestamp(date.as_bytes()).ok());
    Ok(date.unwrap_or_else(Timestamp::now))
}
