//! What an authority issues, seen by a client: whole TLS handshakes in memory, at a time of the test's choice.

mod handshake;

use std::time::Duration;

use certs::{Authority, AuthorityError, Bundle, CLOCK_SKEW, IssueError, LARGEST_PEM, PemError, Resolver};
use handshake::{Refused, handshake};
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use rstest::rstest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

const YEAR: Duration = Duration::from_hours(365 * 24);
const DAY: Duration = Duration::from_hours(24);
const NAME: &str = "x.y.svc";

fn now() -> Timestamp {
    "2030-01-01T12:00:00Z".parse().expect("a literal")
}

fn authority() -> Authority {
    Authority::generate("x.y CA", now(), 10 * YEAR).expect("a lifetime in range")
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A resolver that serves a leaf of `authority` for [`NAME`], made at [`now`] for a day.
fn serving(authority: &Authority) -> Resolver {
    let resolver = Resolver::new();
    resolver.swap(&authority.issue(&names(&[NAME, "x.y"]), now(), DAY).expect("valid names"));
    resolver
}

#[test]
fn a_client_that_trusts_the_bundle_accepts_each_name() {
    let authority = authority();
    let bundle = Bundle::of(&authority);
    for name in [NAME, "x.y"] {
        assert_eq!(handshake(serving(&authority), name, &bundle, now()), Ok(()));
    }
}

#[test]
fn an_authority_read_back_from_its_pem_issues_for_the_same_bundle() {
    let original = authority();
    let read = Authority::from_pem(original.certificate_pem().as_bytes(), original.key_pem().as_bytes())
        .expect("what was written is read");
    assert_eq!(read.certificate(), original.certificate());
    assert_eq!((read.not_before(), read.not_after()), (original.not_before(), original.not_after()));
    assert_eq!(handshake(serving(&read), NAME, &Bundle::of(&original), now()), Ok(()));
}

#[test]
fn another_name_is_refused() {
    let authority = authority();
    let refused = handshake(serving(&authority), "z.y.svc", &Bundle::of(&authority), now());
    assert_eq!(refused, Err(Refused::OtherName));
}

#[test]
fn an_authority_of_the_same_subject_and_another_key_is_not_trusted() {
    let refused = handshake(serving(&authority()), NAME, &Bundle::of(&authority()), now());
    assert!(matches!(refused, Err(Refused::UnknownIssuer)), "{refused:?}");
}

#[test]
fn during_an_overlap_leaves_of_both_authorities_are_accepted() {
    let (old, new) = (authority(), authority());
    let bundle = Bundle::of(&old).with(&new);
    assert_eq!(handshake(serving(&old), NAME, &bundle, now()), Ok(()));
    assert_eq!(handshake(serving(&new), NAME, &bundle, now()), Ok(()));
}

#[rstest]
#[case::clock_behind_within_the_skew(now() - CLOCK_SKEW, Ok(()))]
#[case::clock_further_behind(now() - CLOCK_SKEW - Duration::from_secs(1), Err(Refused::NotYetValid))]
#[case::last_second(now() + DAY, Ok(()))]
#[case::expired(now() + DAY + Duration::from_secs(1), Err(Refused::Expired))]
fn a_leaf_is_accepted_during_its_validity(#[case] at: Timestamp, #[case] expected: Result<(), Refused>) {
    let authority = authority();
    assert_eq!(handshake(serving(&authority), NAME, &Bundle::of(&authority), at), expected);
}

#[test]
fn nothing_is_served_before_the_first_swap() {
    let resolver = Resolver::new();
    assert!(!resolver.is_serving());
    assert_eq!(handshake(resolver, NAME, &Bundle::of(&authority()), now()), Err(Refused::NoCertificate));
    assert!(serving(&authority()).is_serving());
}

#[test]
fn a_swap_holds_from_the_next_handshake_on() {
    let (old, new) = (authority(), authority());
    let resolver = serving(&old);
    resolver.swap(&new.issue(&names(&[NAME]), now(), DAY).expect("a valid name"));
    assert_eq!(handshake(resolver, NAME, &Bundle::of(&new), now()), Ok(()));
}

#[test]
fn a_leaf_ends_no_later_than_its_authority() {
    let authority = authority();
    let leaf = authority.issue(&names(&[NAME]), now(), 20 * YEAR).expect("a valid name");
    assert_eq!(leaf.not_after(), authority.not_after());
    assert_eq!(leaf.not_before(), now() - CLOCK_SKEW);
}

#[test]
fn an_expired_authority_issues_nothing() {
    let authority = authority();
    let not_after = authority.not_after();
    assert_eq!(not_after, now() + 10 * YEAR);
    let issued = authority.issue(&names(&[NAME]), not_after, DAY);
    assert_eq!(issued.expect_err("expired"), IssueError::Expired { not_after });
}

#[rstest]
#[case::none(&[], IssueError::NoNames)]
#[case::no_host_name(&["x.y.svc", "not a name"], IssueError::InvalidName { name: "not a name".into() })]
#[case::empty(&[""], IssueError::InvalidName { name: String::new() })]
fn unusable_names_are_refused(#[case] given: &[&str], #[case] expected: IssueError) {
    assert_eq!(authority().issue(&names(given), now(), DAY).expect_err("unusable"), expected);
}

#[test]
fn a_lifetime_beyond_the_years_of_a_certificate_is_refused() {
    let made = Authority::generate("ca", now(), Duration::MAX);
    assert_eq!(made.expect_err("out of range"), IssueError::LifetimeOutOfRange);
}

#[test]
fn a_long_common_name_is_cut_to_what_a_certificate_can_state() {
    let made = Authority::generate(&"é".repeat(200), now(), YEAR).expect("cut to fit");
    Authority::from_pem(made.certificate_pem().as_bytes(), made.key_pem().as_bytes()).expect("still read");
}

/// What can be wrong with the two texts, and the error that says so.
#[test]
fn each_damage_has_its_own_error() {
    use AuthorityError::{Certificate, Key};

    let authority = authority();
    let (certificate, key) = (authority.certificate_pem(), authority.key_pem());
    let other = self::authority();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("ring makes P-384 keys");
    let leaf = CertificateParams::new(names(&[NAME])).expect("a valid name");
    let leaf_key = KeyPair::generate().expect("the default algorithm");
    let leaf = leaf.self_signed(&leaf_key).expect("a key that fits").pem();
    let cut = |text: &str| text[..text.len() / 2].to_owned();
    let large = " ".repeat(LARGEST_PEM + 1);
    let too_large = PemError::TooLarge { bytes: LARGEST_PEM + 1 };
    let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    let no_base64 = no_x509.replace("AAAA", "A$AA");
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned();

    for (what, certificate, key, expected) in [
        ("empty certificate", String::new(), key.clone(), Certificate(PemError::Missing)),
        ("key for certificate", key.clone(), key.clone(), Certificate(PemError::Missing)),
        ("cut certificate", cut(&certificate), key.clone(), Certificate(PemError::Truncated)),
        ("damaged base64", no_base64, key.clone(), Certificate(PemError::Damaged)),
        ("large certificate", large.clone(), key.clone(), Certificate(too_large.clone())),
        ("no X.509", no_x509, key.clone(), AuthorityError::NotX509),
        (
            "two certificates",
            certificate.clone() + &other.certificate_pem(),
            key.clone(),
            AuthorityError::SeveralCertificates { count: 2 },
        ),
        ("a leaf", leaf, leaf_key.serialize_pem(), AuthorityError::NotAnAuthority),
        ("empty key", certificate.clone(), String::new(), Key(PemError::Missing)),
        ("cut key", certificate.clone(), cut(&key), Key(PemError::Truncated)),
        ("large key", certificate.clone(), large, Key(too_large)),
        ("no key", certificate.clone(), no_key, AuthorityError::UnsupportedKey),
        ("P-384 key", certificate.clone(), p384.serialize_pem(), AuthorityError::UnsupportedKey),
        ("another's key", certificate.clone(), other.key_pem(), AuthorityError::KeyDoesNotFit),
    ] {
        let read = Authority::from_pem(certificate.as_bytes(), key.as_bytes());
        assert_eq!(read.err(), Some(expected), "{what}");
    }
}

#[test]
fn debug_output_holds_no_key() {
    let authority = authority();
    let key = authority.key_pem();
    let line = key.lines().nth(1).expect("a PEM key has a body");
    let leaf = authority.issue(&names(&[NAME]), now(), DAY).expect("a valid name");
    let printed = format!("{authority:?} {leaf:?} {:?}", serving(&authority));
    assert!(printed.contains("Authority") && printed.contains("Leaf") && printed.contains("Resolver"));
    assert!(!printed.contains(line) && !printed.to_lowercase().contains("key"), "{printed}");
}

#[test]
fn a_leaf_states_its_use_and_names_its_authority_by_key() {
    let authority = authority();
    let leaf = authority.issue(&names(&[NAME]), now(), DAY).expect("a valid name").certified_key();
    let (_, ca) = X509Certificate::from_der(authority.certificate()).expect("X.509");
    let (_, leaf) = X509Certificate::from_der(&leaf.cert[0]).expect("X.509");

    let constraints = |certificate: &X509Certificate<'_>| {
        let extension = certificate.basic_constraints().expect("unique").expect("present");
        (extension.critical, extension.value.ca, extension.value.path_len_constraint)
    };
    assert_eq!(constraints(&ca), (true, true, Some(0)));
    assert_eq!(constraints(&leaf), (true, false, None));
    let uses = leaf.extended_key_usage().expect("unique").expect("present").value.clone();
    assert!(uses.server_auth && !uses.client_auth && !uses.any);

    let subject_key = |certificate: &X509Certificate<'_>| {
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    };
    let issuer_key = leaf.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0.to_vec()),
        _ => None,
    });
    assert!(subject_key(&leaf).is_some() && subject_key(&leaf) != issuer_key);
    assert_eq!(subject_key(&ca).expect("present"), issuer_key.expect("present"));
}
