//! What is read from every state that a Secret can be in, and what is in it after a step.

use std::time::Duration;

use certs::rotation::{IntroduceReason, Moment, Policy, Step, next_step};
use certs::{
    Authority, AuthorityError, Bundle, BundleError, CA_BUNDLE, CA_CERTIFICATE, CA_KEY, CaCertificate,
    MendReason, NEXT_CERTIFICATE, NEXT_KEY, NextReason, PemError, ReplaceReason, SINCE, SecretBytes, Stored,
};
use jiff::Timestamp;

const HOUR: Duration = Duration::from_hours(1);
const LIFETIME: Duration = Duration::from_hours(100);
const POLICY: Policy = Policy {
    lead: Duration::from_hours(40),
    leaf_lifetime: Duration::from_hours(10),
    propagation: Duration::from_mins(1),
    clock_tolerance: Duration::from_mins(1),
};

fn now() -> Timestamp {
    "2030-01-01T12:00:00Z".parse().expect("a literal")
}

fn moment(at: Timestamp) -> Moment {
    Moment { before: at, after: at, own: at }
}

fn authority() -> Authority {
    Authority::generate("ca", now(), LIFETIME).expect("a lifetime in range")
}

/// A Secret with `authority` alone.
fn whole(authority: &Authority) -> SecretBytes {
    SecretBytes::from([
        (CA_CERTIFICATE, authority.certificate_pem().into_bytes()),
        (CA_KEY, authority.key_pem().into_bytes()),
        (CA_BUNDLE, authority.certificate_pem().into_bytes()),
    ])
}

fn with(mut bytes: SecretBytes, key: &'static str, text: Option<Vec<u8>>) -> SecretBytes {
    match text {
        Some(text) => drop(bytes.insert(key, text)),
        None => drop(bytes.remove(key)),
    }
    bytes
}

fn half(text: &str) -> Vec<u8> {
    text[..text.len() / 2].into()
}

fn megabyte() -> Vec<u8> {
    vec![b' '; 1 << 20]
}

/// What is decided on `bytes`.
fn decided(bytes: Option<SecretBytes>, at: Timestamp) -> Step {
    next_step(&Stored::read(bytes).state, true, &moment(at), &POLICY)
}

#[test]
fn a_whole_secret_is_used_as_it_is() {
    let authority = authority();
    let stored = Stored::read(Some(whole(&authority)));
    assert_eq!(stored.signer.as_ref().map(Authority::key_pem), Some(authority.key_pem()));
    assert_eq!(stored.state.signer, Ok(CaCertificate::from(&authority)));
    assert_eq!(stored.state.bundle, Ok(Bundle::of(&authority)));
    assert!(matches!(decided(Some(whole(&authority)), now()), Step::Wait(Some(_))));
}

#[test]
fn without_a_usable_authority_a_new_one_is_asked_for_and_the_reason_told() {
    let authority = authority();
    let whole = whole(&authority);
    let too_large = PemError::TooLarge { bytes: 1 << 20 };
    let (certificate, key) = (authority.certificate_pem(), authority.key_pem());
    for (what, name, text, expected) in [
        ("no certificate", CA_CERTIFICATE, None, ReplaceReason::NoCertificate),
        ("no key", CA_KEY, None, ReplaceReason::NoKey),
        (
            "cut",
            CA_CERTIFICATE,
            Some(half(&certificate)),
            AuthorityError::Certificate(PemError::Truncated).into(),
        ),
        ("cut key", CA_KEY, Some(half(&key)), AuthorityError::Key(PemError::Truncated).into()),
        ("large", CA_CERTIFICATE, Some(megabyte()), AuthorityError::Certificate(too_large.clone()).into()),
        ("large key", CA_KEY, Some(megabyte()), AuthorityError::Key(too_large).into()),
        (
            "another's key",
            CA_KEY,
            Some(self::authority().key_pem().into()),
            AuthorityError::KeyDoesNotFit.into(),
        ),
    ] {
        let step = decided(Some(with(whole.clone(), name, text)), now());
        assert_eq!(step, Step::Replace(expected), "{what}");
    }
    assert_eq!(decided(None, now()), Step::Replace(ReplaceReason::NoSecret));
}

#[test]
fn a_damaged_bundle_costs_no_authority() {
    let (authority, other) = (authority(), authority());
    let whole = whole(&authority);
    let no_x509 =
        authority.certificate_pem() + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let too_large = PemError::TooLarge { bytes: 1 << 20 };
    for (what, text, reason, trusted) in [
        ("missing", None, MendReason::Missing, vec![&authority]),
        (
            "cut",
            Some(half(&authority.certificate_pem())),
            BundleError::from(PemError::Truncated).into(),
            vec![&authority],
        ),
        ("empty", Some(vec![]), BundleError::from(PemError::Missing).into(), vec![&authority]),
        ("large", Some(megabyte()), BundleError::from(too_large).into(), vec![&authority]),
        ("no X.509", Some(no_x509.into()), BundleError::NotX509 { position: 2 }.into(), vec![&authority]),
        (
            "another's",
            Some(other.certificate_pem().into()),
            MendReason::LacksAuthority,
            vec![&other, &authority],
        ),
    ] {
        let stored = Stored::read(Some(with(whole.clone(), CA_BUNDLE, text)));
        let step = next_step(&stored.state, true, &moment(now()), &POLICY);
        assert_eq!(step, Step::Mend(reason), "{what}");
        let after = Stored::read(Some(stored.after(&step, None, &Bundle::default(), &moment(now()))));
        let expected = trusted.into_iter().fold(Bundle::default(), Bundle::with);
        assert_eq!(after.state.bundle, Ok(expected), "{what}");
        assert_eq!(after.signer.map(|signer| signer.key_pem()), Some(authority.key_pem()), "{what}");
    }
}

#[test]
fn a_damaged_next_ca_is_made_anew_and_nothing_else_is_touched() {
    let (authority, next, newer) = (authority(), authority(), authority());
    let whole = with(whole(&authority), NEXT_CERTIFICATE, Some(next.certificate_pem().into()));
    let bundle = Bundle::of(&authority).with(&next).to_pem();
    let whole = with(whole, CA_BUNDLE, Some(bundle.into()));
    let truncated = AuthorityError::Key(PemError::Truncated);
    for (what, key, expected) in [
        ("no key", None, NextReason::Half),
        ("cut key", Some(half(&next.key_pem())), truncated.into()),
        ("another's key", Some(newer.key_pem().into()), AuthorityError::KeyDoesNotFit.into()),
    ] {
        let stored = Stored::read(Some(with(whole.clone(), NEXT_KEY, key)));
        let step = next_step(&stored.state, true, &moment(now()), &POLICY);
        assert_eq!(step, Step::Introduce(IntroduceReason::NextUnusable(expected)), "{what}");
        let after = Stored::read(Some(stored.after(&step, Some(&newer), &Bundle::default(), &moment(now()))));
        assert_eq!(after.state.signer, Ok(CaCertificate::from(&authority)), "{what}");
        assert_eq!(after.state.next, Some(Ok(CaCertificate::from(&newer))), "{what}");
        assert!(
            after.state.bundle.is_ok_and(|bundle| bundle.contains(&authority) && bundle.contains(&newer)),
            "{what}"
        );
    }
}

#[test]
fn a_rotation_goes_from_secret_to_secret_and_ends_with_one_ca() {
    let (old, new) = (authority(), Authority::generate("ca", now() + 60 * HOUR, LIFETIME).expect("in range"));
    let mut bytes = whole(&old);
    let mut at = now() + 60 * HOUR;
    let mut steps = vec![];
    while steps.len() < 6 {
        let stored = Stored::read(Some(bytes.clone()));
        let step = next_step(&stored.state, true, &moment(at), &POLICY);
        match step {
            Step::Wait(until) => {
                let until = until.expect("all is in place");
                if until > at + 20 * HOUR {
                    break;
                }
                at = until;
            }
            step => {
                // Every key fits its certificate after every step.
                bytes = stored.after(&step, step.makes_ca().then_some(&new), &Bundle::default(), &moment(at));
                steps.push(step);
            }
        }
    }
    let not_after = old.not_after();
    let introduce = Step::Introduce(IntroduceReason::EndsSoon { not_after });
    assert_eq!(steps, [introduce, Step::Witness, Step::Promote, Step::Witness, Step::Retire]);
    assert_eq!(bytes, whole(&new));
}

#[test]
fn a_time_says_nothing_of_other_contents_than_those_it_was_written_for() {
    let (old, new) = (authority(), authority());
    let introduce = Step::Introduce(IntroduceReason::EndsSoon { not_after: now() });
    let at = moment(now());
    let none = Bundle::default();
    let introduced = Stored::read(Some(whole(&old))).after(&introduce, Some(&new), &none, &at);
    let witnessed = Stored::read(Some(introduced)).after(&Step::Witness, None, &none, &at);
    assert_eq!(Stored::read(Some(witnessed.clone())).state.since, Some(now()));
    let other = Bundle::of(&old).with(&new).with(&authority()).to_pem().into_bytes();
    for (key, text) in [
        (CA_BUNDLE, Some(other)),
        (CA_CERTIFICATE, Some(new.certificate_pem().into_bytes())),
        (NEXT_CERTIFICATE, None),
        (SINCE, Some(b"2030-01-01T12:00:00Z".to_vec())),
        (SINCE, Some(vec![0xff; 40])),
        (SINCE, Some(megabyte())),
    ] {
        assert_eq!(Stored::read(Some(with(witnessed.clone(), key, text))).state.since, None, "{key}");
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
fn debug_output_has_no_key() {
    let authority = authority();
    let printed = format!("{:?}", Stored::read(Some(whole(&authority))));
    assert!(printed.contains("signer") && !printed.contains("PRIVATE"), "{printed}");
}
