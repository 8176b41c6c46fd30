//! A TLS handshake in memory, between a server with a [`Resolver`] and a client that trusts a [`Bundle`].

use std::sync::Arc;

use certs::{Bundle, Resolver};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, ConnectionCommon, Error, RootCertStore, ServerConfig,
    ServerConnection,
};
use rustls_pki_types::pem::PemObject as _;

/// Why there was no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The client: the certificate is for other names.
    OtherName,
    /// The client: nobody it trusts has signed.
    UnknownIssuer,
    /// The client: the validity begins later.
    NotYetValid,
    /// The client: the validity has ended.
    Expired,
    /// The server: it has nothing to present.
    NoCertificate,
    /// Anything else.
    Other(String),
}

/// Connects to `name` at the time `at`.
pub fn handshake(resolver: Resolver, name: &str, bundle: &Bundle, at: Timestamp) -> Result<(), Refused> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers for them")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.to_pem().as_bytes()) {
        roots.add(certificate.expect("a bundle writes PEM")).expect("a bundle holds trust anchors");
    }
    let client = ClientConfig::builder_with_details(provider, Arc::new(At(at)))
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers for them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let mut server = ServerConnection::new(Arc::new(server)).expect("a whole configuration");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a whole configuration");

    while server.is_handshaking() || client.is_handshaking() {
        transfer(&mut client, &mut server).map_err(|error| refused(&error))?;
        transfer(&mut server, &mut client).map_err(|error| refused(&error))?;
    }
    Ok(())
}

/// Everything that `from` has to say.
fn transfer<A, B>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) -> Result<(), Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).expect("a Vec takes all");
    }
    let mut bytes = bytes.as_slice();
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).expect("a slice gives all");
        to.process_new_packets()?;
    }
    Ok(())
}

fn refused(error: &Error) -> Refused {
    match error {
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }) => Refused::OtherName,
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Refused::UnknownIssuer
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }) => Refused::NotYetValid,
        Error::InvalidCertificate(CertificateError::ExpiredContext { .. }) => Refused::Expired,
        Error::General(reason) if reason.contains("no server certificate chain resolved") => {
            Refused::NoCertificate
        }
        other => Refused::Other(other.to_string()),
    }
}

#[derive(Debug)]
struct At(Timestamp);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}
