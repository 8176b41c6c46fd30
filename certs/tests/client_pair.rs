//! The client certificates that an authority issues: who lets them in, for how long, and what is said of a stored pair.

use std::time::Duration;

use certs::{
    Authority, Bundle, CLOCK_SKEW, Clients, IssueError, Issued, Leaf, LeafError, PairError, stored_pair,
};
use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rstest::rstest;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use rustls_pki_types::pem::PemObject as _;

const DAY: Duration = Duration::from_hours(24);
const NAME: &str = "caller";

fn now() -> Timestamp {
    "2030-01-01T12:00:00Z".parse().unwrap()
}

fn authority() -> Authority {
    Authority::generate("x.y CA", now(), 10 * DAY).unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn lets_in(clients: &Clients, certificate: &CertificateDer<'_>, at: Timestamp) -> bool {
    let seconds = at.as_second().unsigned_abs();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    clients.verify_client_cert(certificate, &[], at).is_ok()
}

/// What is said of a pair by one who trusts `bundle`.
fn judged(pair: (&str, &str), bundle: &Bundle, at: Timestamp) -> Result<Issued, PairError> {
    stored_pair(pair.0.as_bytes(), pair.1.as_bytes(), bundle, NAME, at)
}

#[test]
fn what_is_issued_is_let_in_by_its_name_and_said_to_be_of_its_authority() {
    let (ca, other) = (authority(), authority());
    let pair = ca.issue_client(NAME, now(), DAY).unwrap();
    let texts = (pair.certificate_pem(), pair.key_pem());
    let expected = Issued { ca: (&ca).into(), at: now(), not_after: now() + DAY };
    assert_eq!(judged(texts, &Bundle::of(&ca), now()), Ok(expected.clone()));
    assert_eq!(judged(texts, &Bundle::of(&other).with(&ca), now()), Ok(expected));
    assert!(matches!(judged(texts, &Bundle::of(&other), now()), Err(PairError::Refused(_))));
    assert!(matches!(judged(texts, &Bundle::default(), now()), Err(PairError::Refused(_))));
    let other_name = stored_pair(texts.0.as_bytes(), texts.1.as_bytes(), &Bundle::of(&ca), "other", now());
    assert!(matches!(other_name, Err(PairError::Refused(_))));
}

/// A third before its end, as leaves are.
#[test]
fn a_stored_pair_is_due_in_the_last_third_of_its_life() {
    let ca = authority();
    let pair = ca.issue_client(NAME, now(), 9 * DAY).unwrap();
    let issued = judged((pair.certificate_pem(), pair.key_pem()), &Bundle::of(&ca), now()).unwrap();
    let due_in = issued.due_in(&(&ca).into(), Some(Duration::ZERO), now(), 0.0);
    assert_eq!(due_in + Duration::from_secs(1), 6 * DAY);
    let other = authority();
    assert!(issued.due_in(&(&other).into(), Some(Duration::ZERO), now(), 0.0).is_zero());
}

#[rstest]
#[case::clock_behind_within_the_skew(now() - CLOCK_SKEW, true)]
#[case::clock_further_behind(now() - CLOCK_SKEW - Duration::from_secs(1), false)]
#[case::last_second(now() + DAY, true)]
#[case::expired(now() + DAY + Duration::from_secs(1), false)]
fn it_is_let_in_during_its_validity(#[case] at: Timestamp, #[case] expected: bool) {
    let ca = authority();
    let pair = ca.issue_client(NAME, now(), DAY).unwrap();
    let judged = judged((pair.certificate_pem(), pair.key_pem()), &Bundle::of(&ca), at);
    assert_eq!(judged.is_ok(), expected, "{judged:?}");
}

#[test]
fn it_ends_no_later_than_its_authority_and_an_expired_one_issues_none() {
    let ca = authority();
    assert_eq!(ca.issue_client(NAME, now(), 20 * DAY).unwrap().not_after(), ca.not_after());
    let not_after = ca.not_after();
    assert_eq!(ca.issue_client(NAME, not_after, DAY).unwrap_err(), IssueError::Expired { not_after });
}

/// Whoever has the one cannot pose as the other, whatever names it bears.
#[test]
fn a_servers_certificate_is_none_of_a_client_and_a_clients_none_of_a_server() {
    let ca = authority();
    let bundle = Bundle::of(&ca);
    let (served, pair) =
        (ca.issue(&[NAME.into()], now(), DAY).unwrap(), ca.issue_client(NAME, now(), DAY).unwrap());
    let clients = Clients::none_yet(vec![NAME.into()]);
    clients.trust(&bundle, now());
    assert!(lets_in(&clients, &der(pair.certificate_pem()), now()));
    assert!(!lets_in(&clients, &served.chain()[0], now()));

    assert!(served.verify(&bundle, NAME, now()).is_ok());
    let posing = Leaf::from_pem(pair.certificate_pem().as_bytes(), pair.key_pem().as_bytes()).unwrap();
    let refused = posing.verify(&bundle, NAME, now()).unwrap_err();
    // Not for its name alone: with the name, and the client's use, it is refused just as well.
    let key = KeyPair::from_pem(&ca.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate_pem(), key).unwrap();
    let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let named = params.signed_by(&key, &issuer).unwrap().pem();
    let posing = Leaf::from_pem(named.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let usage = posing.verify(&bundle, NAME, now()).unwrap_err();
    for refused in [refused, usage] {
        assert!(format!("{refused:?}").contains("Purpose"), "{refused:?}");
    }
}

#[test]
fn nobody_is_let_in_before_there_is_a_ca_and_after_it_is_gone_or_has_ended() {
    let ca = authority();
    let shown = der(ca.issue_client(NAME, now(), DAY).unwrap().certificate_pem());
    let clients = Clients::none_yet(vec![NAME.into()]);
    assert!(clients.client_auth_mandatory() && clients.offer_client_auth());
    assert!(!lets_in(&clients, &shown, now()));
    clients.trust(&Bundle::of(&ca), now());
    assert!(lets_in(&clients, &shown, now()));
    clients.trust(&Bundle::default(), now());
    assert!(!lets_in(&clients, &shown, now()));
    clients.trust(&Bundle::of(&ca), ca.not_after());
    assert!(!lets_in(&clients, &shown, now()), "a CA that has ended vouches for nobody");
    // What may not sign is not trusted to: whoever has its key would make callers of its own.
    let leaf = Bundle::parse(ca.issue_client(NAME, now(), DAY).unwrap().certificate_pem().as_bytes());
    clients.trust(&leaf.unwrap().with(&ca), now());
    assert!(lets_in(&clients, &shown, now()));
}

#[test]
fn each_damage_of_a_stored_pair_is_told() {
    let ca = authority();
    let bundle = Bundle::of(&ca);
    let (pair, other) =
        (ca.issue_client(NAME, now(), DAY).unwrap(), ca.issue_client(NAME, now(), DAY).unwrap());
    let (certificate, key) = (pair.certificate_pem(), pair.key_pem());
    let half = &certificate[..certificate.len() / 2];
    assert_eq!(
        judged((certificate, other.key_pem()), &bundle, now()),
        Err(PairError::Unusable(LeafError::KeyDoesNotFit))
    );
    for (certificate, key) in [(half, key), ("", key), (certificate, ""), (certificate, "nonsense")] {
        assert!(matches!(judged((certificate, key), &bundle, now()), Err(PairError::Unusable(_))));
    }
    let printed = format!("{pair:?}");
    assert!(printed.contains("ClientPair") && !printed.to_lowercase().contains("key"), "{printed}");
}
