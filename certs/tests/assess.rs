//! What is done about every state that a Secret can be in.

use std::time::Duration;

use certs::{
    Assessment, Authority, AuthorityError, Bundle, BundleError, LARGEST_PEM, MendReason, PemError, Policy,
    ReplaceReason, SecretBytes, assess,
};
use jiff::Timestamp;

const HOUR: Duration = Duration::from_hours(1);
const LIFETIME: Duration = Duration::from_hours(100);
const POLICY: Policy = Policy { least_remaining: Duration::from_hours(10) };

fn now() -> Timestamp {
    "2030-01-01T12:00:00Z".parse().expect("a literal")
}

fn authority() -> Authority {
    Authority::generate("ca", now(), LIFETIME).expect("a lifetime in range")
}

/// What a Secret holds, owned.
#[derive(Clone)]
struct Stored {
    certificate: Option<String>,
    key: Option<String>,
    bundle: Option<String>,
}

impl Stored {
    fn of(authority: &Authority) -> Self {
        Self {
            certificate: Some(authority.certificate_pem()),
            key: Some(authority.key_pem()),
            bundle: Some(Bundle::of(authority).to_pem()),
        }
    }

    fn assessed_at(&self, now: Timestamp) -> Assessment {
        let Self { certificate, key, bundle } = self;
        let secret = SecretBytes {
            ca_certificate: certificate.as_deref().map(str::as_bytes),
            ca_key: key.as_deref().map(str::as_bytes),
            bundle: bundle.as_deref().map(str::as_bytes),
        };
        assess(Some(&secret), now, &POLICY)
    }
}

fn half(text: &str) -> String {
    text[..text.len() / 2].to_owned()
}

fn large() -> String {
    " ".repeat(LARGEST_PEM + 1)
}

#[test]
fn a_whole_secret_is_used_as_it_is() {
    let authority = authority();
    let Assessment::Usable { authority: found, bundle } = Stored::of(&authority).assessed_at(now()) else {
        panic!("{:?}", Stored::of(&authority).assessed_at(now()));
    };
    assert_eq!(found.certificate(), authority.certificate());
    assert_eq!(found.key_pem(), authority.key_pem());
    assert_eq!(bundle, Bundle::of(&authority));
}

#[test]
fn without_a_usable_authority_a_new_one_is_asked_for_and_the_reason_told() {
    let authority = authority();
    let whole = Stored::of(&authority);
    let too_large = PemError::TooLarge { bytes: LARGEST_PEM + 1 };
    for (what, stored, expected) in [
        ("no certificate", Stored { certificate: None, ..whole.clone() }, ReplaceReason::NoCertificate),
        ("no key", Stored { key: None, ..whole.clone() }, ReplaceReason::NoKey),
        (
            "cut certificate",
            Stored { certificate: Some(half(&authority.certificate_pem())), ..whole.clone() },
            AuthorityError::Certificate(PemError::Truncated).into(),
        ),
        (
            "cut key",
            Stored { key: Some(half(&authority.key_pem())), ..whole.clone() },
            AuthorityError::Key(PemError::Truncated).into(),
        ),
        (
            "large certificate",
            Stored { certificate: Some(large()), ..whole.clone() },
            AuthorityError::Certificate(too_large.clone()).into(),
        ),
        ("large key", Stored { key: Some(large()), ..whole.clone() }, AuthorityError::Key(too_large).into()),
        (
            "another's key",
            Stored { key: Some(self::authority().key_pem()), ..whole.clone() },
            AuthorityError::KeyDoesNotFit.into(),
        ),
    ] {
        match stored.assessed_at(now()) {
            Assessment::Replace { reason } => assert_eq!(reason, expected, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let none = assess(None, now(), &POLICY);
    assert!(matches!(none, Assessment::Replace { reason: ReplaceReason::NoSecret }), "{none:?}");
}

#[test]
fn an_authority_is_good_from_its_first_moment_until_too_little_is_left() {
    let stored = Stored::of(&authority());
    let (not_before, not_after) = (authority().not_before(), authority().not_after());
    let second = Duration::from_secs(1);
    for (at, expected) in [
        (not_before - second, Some(ReplaceReason::NotYetValid { not_before })),
        (not_before, None),
        (not_after - 10 * HOUR - second, None),
        (not_after - 10 * HOUR, Some(ReplaceReason::Expires { not_after })),
        (not_after + HOUR, Some(ReplaceReason::Expires { not_after })),
    ] {
        match (stored.assessed_at(at), expected) {
            (Assessment::Usable { .. }, None) => {}
            (Assessment::Replace { reason }, Some(expected)) => assert_eq!(reason, expected, "{at}"),
            (other, expected) => panic!("{at}: {other:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn a_damaged_bundle_costs_no_authority() {
    let (authority, older) = (authority(), authority());
    let whole = Stored::of(&authority);
    let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    let ours = Bundle::of(&authority);
    let too_large = PemError::TooLarge { bytes: LARGEST_PEM + 1 };
    for (what, bundle, reason, mended) in [
        ("missing", None, MendReason::Missing, ours.clone()),
        ("cut", Some(half(&ours.to_pem())), BundleError::from(PemError::Truncated).into(), ours.clone()),
        ("empty", Some(String::new()), BundleError::from(PemError::Missing).into(), ours.clone()),
        ("large", Some(large()), BundleError::from(too_large).into(), ours.clone()),
        (
            "no X.509",
            Some(ours.to_pem() + &no_x509),
            BundleError::NotX509 { position: 2 }.into(),
            ours.clone(),
        ),
        (
            "another's",
            Some(Bundle::of(&older).to_pem()),
            MendReason::LacksAuthority,
            Bundle::of(&older).with(&authority),
        ),
    ] {
        match (Stored { bundle, ..whole.clone() }).assessed_at(now()) {
            Assessment::Mend { authority: found, bundle, reason: told } => {
                assert_eq!(told, reason, "{what}");
                assert_eq!(bundle, mended, "{what}");
                assert_eq!(found.certificate(), authority.certificate(), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn expired_authorities_are_not_trusted_any_longer() {
    let old = Authority::generate("ca", now() - 2 * HOUR, HOUR).expect("a lifetime in range");
    let authority = authority();
    let both = Bundle::of(&old).with(&authority);
    assert_eq!(both.len(), 2);
    let stored = Stored { bundle: Some(both.to_pem()), ..Stored::of(&authority) };
    match stored.assessed_at(now()) {
        Assessment::Usable { bundle, .. } => assert_eq!(bundle, Bundle::of(&authority)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bundle_reads_the_same_whatever_the_order_and_however_often_each_is_named() {
    let (older, newer) = (authority(), Authority::generate("ca", now() + HOUR, LIFETIME).expect("in range"));
    let bundle = Bundle::of(&newer).with(&older).with(&newer);
    assert_eq!(bundle, Bundle::of(&older).with(&newer));
    assert_eq!(bundle.to_pem(), older.certificate_pem() + &newer.certificate_pem());
    let repeated =
        newer.certificate_pem() + "a remark between\n" + &older.certificate_pem() + &bundle.to_pem();
    assert_eq!(Bundle::parse(repeated.as_bytes()), Ok(bundle.clone()));
    assert!(bundle.contains(&older) && bundle.contains(&newer) && !bundle.contains(&authority()));
}

#[test]
fn debug_output_tells_sizes_and_no_content() {
    let secret = SecretBytes { ca_key: Some(b"very secret"), ..SecretBytes::default() };
    let printed = format!("{secret:?}");
    assert!(printed.contains("ca_key_length: Some(11)") && !printed.contains("118"), "{printed}");
}
