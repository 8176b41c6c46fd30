//! Which clients a server lets in: those with a certificate of the given CAs, and of the given names if there are any.
//!
//! **Architecture invariant:** no I/O: whoever reads the CAs swaps them in. While there are none, nobody is let in; no moment
//! exists at which everybody is.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::bundle::Bundle;
use crate::pem::{self, PemError};

/// Why a text does not name the CAs of clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientsError {
    /// The text holds no whole certificate.
    #[error("it must hold the CA certificates of clients as PEM: {0}")]
    Text(PemError),
    /// One of them cannot be trusted as a CA.
    #[error("certificate {position} in it is no X.509 certificate of a CA")]
    NotACa {
        /// Its position in the text, from 1.
        position: usize,
    },
}

/// Lets in clients with a certificate of one of the CAs that were swapped in last.
pub struct Clients {
    names: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
    /// `None`: there is no CA yet.
    verifier: ArcSwapOption<Arc<dyn ClientCertVerifier>>,
}

impl Clients {
    /// Lets in nobody, until CAs are swapped in.
    pub fn none_yet(names: Vec<String>) -> Self {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        Self { names, algorithms, verifier: ArcSwapOption::empty() }
    }

    /// Lets in clients of the CAs in `text`; of all common names, if `names` is empty.
    pub fn new(text: &[u8], names: Vec<String>) -> Result<Self, ClientsError> {
        let clients = Self::none_yet(names);
        clients.swap(text)?;
        Ok(clients)
    }

    /// Lets in clients of the CAs in `text` from the next handshake on, and of no others. Unless they can be read: then
    /// nothing changes.
    pub fn swap(&self, text: &[u8]) -> Result<(), ClientsError> {
        let mut roots = RootCertStore::empty();
        for (index, certificate) in
            pem::certificates(text).map_err(ClientsError::Text)?.into_iter().enumerate()
        {
            if !add(&mut roots, certificate) {
                return Err(ClientsError::NotACa { position: index + 1 });
            }
        }
        let verifier = verifier(roots).ok_or(ClientsError::Text(PemError::Missing))?;
        self.verifier.store(Some(Arc::new(verifier)));
        Ok(())
    }

    /// Lets in clients of the CAs in `bundle` that are valid at `at` from the next handshake on, and of no others; nobody,
    /// if there are none.
    pub fn trust(&self, bundle: &Bundle, at: Timestamp) {
        let mut roots = RootCertStore::empty();
        for ca in bundle.iter().filter(|ca| ca.is_valid(at)) {
            add(&mut roots, CertificateDer::from_slice(&ca.der).into_owned());
        }
        self.verifier.store(verifier(roots).map(Arc::new));
    }

    fn is_named(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        let mut names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        self.names.is_empty() || names.any(|name| self.names.iter().any(|allowed| allowed == name))
    }
}

/// Whether it is trusted now. What is trusted may be any certificate for rustls; one that may not sign would let in nobody,
/// or whoever has its key.
fn add(roots: &mut RootCertStore, certificate: CertificateDer<'static>) -> bool {
    let is_ca = matches!(X509Certificate::from_der(&certificate), Ok(([], parsed)) if parsed.is_ca());
    is_ca && roots.add(certificate).is_ok()
}

fn verifier(roots: RootCertStore) -> Option<Arc<dyn ClientCertVerifier>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    // It fails without roots, and with revocation lists that cannot be read.
    builder.build().ok()
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // They may change; without any, a client shows what it has.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let current = self.verifier.load();
        let current = current.as_deref().ok_or(CertificateError::UnknownIssuer)?;
        let verified = current.verify_client_cert(end_entity, intermediates, now)?;
        if self.is_named(end_entity) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Clients").field("names", &self.names).finish_non_exhaustive()
    }
}
