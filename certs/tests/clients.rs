//! Which client certificates are let in, before and after the CAs are swapped.

use certs::{Authority, Clients, ClientsError};
use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use std::time::Duration;

fn authority() -> Authority {
    Authority::generate("clients", Timestamp::now(), Duration::from_hours(24)).unwrap()
}

/// A client's certificate with this common name.
fn client(authority: &Authority, name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
    let key = KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate_pem(), key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
}

fn lets_in(clients: &Clients, certificate: &CertificateDer<'_>) -> bool {
    clients.verify_client_cert(certificate, &[], UnixTime::now()).is_ok()
}

#[test]
fn clients_of_the_ca_are_let_in_and_after_a_swap_those_of_the_next() {
    let (first, second) = (authority(), authority());
    let usage = || ExtendedKeyUsagePurpose::ClientAuth;
    let [of_first, of_second] = [&first, &second].map(|authority| client(authority, "apiserver", usage()));
    let clients = Clients::new(first.certificate_pem().as_bytes(), Vec::new()).unwrap();
    assert!(clients.client_auth_mandatory() && clients.offer_client_auth());
    assert_eq!((lets_in(&clients, &of_first), lets_in(&clients, &of_second)), (true, false));
    assert!(!lets_in(&clients, &client(&first, "apiserver", ExtendedKeyUsagePurpose::ServerAuth)));
    // What cannot be read changes nothing.
    assert!(clients.swap(b"").is_err());
    assert_eq!((lets_in(&clients, &of_first), lets_in(&clients, &of_second)), (true, false));
    // Both, as while a CA is replaced.
    clients.swap((first.certificate_pem() + &second.certificate_pem()).as_bytes()).unwrap();
    assert_eq!((lets_in(&clients, &of_first), lets_in(&clients, &of_second)), (true, true));
    clients.swap(second.certificate_pem().as_bytes()).unwrap();
    assert_eq!((lets_in(&clients, &of_first), lets_in(&clients, &of_second)), (false, true));
}

#[test]
fn where_names_are_given_the_common_name_is_one_of_them() {
    let authority = authority();
    let text = authority.certificate_pem();
    let named = |name| client(&authority, name, ExtendedKeyUsagePurpose::ClientAuth);
    let clients = Clients::new(text.as_bytes(), vec!["one".into(), "two".into()]).unwrap();
    assert!(lets_in(&clients, &named("one")) && lets_in(&clients, &named("two")));
    assert!(!lets_in(&clients, &named("three")) && !lets_in(&clients, &named("on")));
    let _ =
        Clients::new(text.as_bytes(), Vec::new()).map(|clients| assert!(lets_in(&clients, &named("three"))));
}

#[test]
fn what_is_no_ca_is_told() {
    let authority = authority();
    let leaf = client(&authority, "x", ExtendedKeyUsagePurpose::ClientAuth);
    let leaf = pem::encode(&pem::Pem::new("CERTIFICATE", leaf.to_vec()));
    let told = |text: &str| Clients::new(text.as_bytes(), Vec::new()).unwrap_err().to_string();
    assert_eq!(told(""), "it must hold the CA certificates of clients as PEM: it holds none");
    let text = authority.certificate_pem() + &leaf;
    assert_eq!(told(&text), "certificate 2 in it is no X.509 certificate of a CA");
    assert!(matches!(Clients::new(leaf.as_bytes(), Vec::new()), Err(ClientsError::NotACa { position: 1 })));
}
