//! How the values of a trigger's metadata must read, so that KEDA can read them.
//!
//! Architecture invariant: one text in, one sentence out. Which key must have which form is not known here.

use crate::api::go::parse_bool;

/// What a value must be. KEDA reads numbers as JSON and booleans and durations as Go does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Anything; and an example of it.
    Text(&'static str),
    /// `http://` or `https://`, with a host.
    Url,
    /// Any number.
    Number,
    /// A number that an HPA can aim at: KEDA rounds it to thousandths, and 0 is refused.
    Threshold,
    /// `true` or `false`.
    Bool,
    /// `30s`, or whole milliseconds.
    Duration,
    /// `key=value`, separated by commas.
    Pairs,
    /// A percentage as a whole number.
    Percentage,
    /// A Kubernetes quantity above 0.
    Quantity,
    /// One of these.
    OneOf(&'static [&'static str]),
}

impl Form {
    /// What is wrong with a value, if anything, and what it should be.
    pub(super) fn complaint(self, value: &str) -> Option<String> {
        let (right, what) = match self {
            Self::Text(_) => return None,
            Self::Url => (Url::read(value).is_some(), "no URL"),
            Self::Number => (number(value).is_some(), "no number"),
            Self::Threshold => match number(value) {
                Some(number) => {
                    (format!("{number:.3}").parse().is_ok_and(|number: f64| number > 0.0), "not above 0")
                }
                None => (false, "no number"),
            },
            Self::Bool => (parse_bool(value).is_some(), "neither true nor false"),
            Self::Duration => (is_duration(value), "no duration"),
            Self::Pairs => {
                (value.split(',').all(|pair| pair.split('=').count() == 2), "no list of key=value")
            }
            Self::Percentage => (value.parse::<i32>().is_ok_and(|value| value > 0), "no percentage above 0"),
            Self::Quantity => (is_positive_quantity(value), "no quantity above 0"),
            Self::OneOf(values) => (values.contains(&value), "unknown to KEDA"),
        };
        (!right).then(|| format!("{value:?} is {what}; use {}", self.example()))
    }

    /// What to write, after "use".
    pub(super) fn example(self) -> String {
        match self {
            Self::Text(example) => example.into(),
            Self::Url => "an address such as http://prometheus.monitoring.svc:9090".into(),
            Self::Number => "a number such as 5 or 0.5".into(),
            Self::Threshold => "a number of at least 0.001, such as 5 or 0.5".into(),
            Self::Bool => "\"true\" or \"false\"".into(),
            Self::Duration => "a duration such as 30s, or whole milliseconds".into(),
            Self::Pairs => "key=value, separated by commas".into(),
            Self::Percentage => "a whole number without a sign, such as 80 for 80 %".into(),
            Self::Quantity => "a quantity such as 500m or 2Gi".into(),
            Self::OneOf(values) => values.join(", "),
        }
    }
}

fn number(value: &str) -> Option<f64> {
    serde_json::from_str(value).ok()
}

/// The parts of an `http://` or `https://` URL with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    /// Whether it names a user before the host.
    pub(super) has_user: bool,
    /// Of an IPv6 address, without the brackets.
    pub(super) host: &'a str,
    /// All behind the host and its port.
    pub(super) rest: &'a str,
}

impl<'a> Url<'a> {
    pub(super) fn read(value: &'a str) -> Option<Self> {
        let (scheme, rest) = value.split_once("://")?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (has_user, host_port) =
            authority.rsplit_once('@').map_or((false, authority), |(_, host)| (true, host));
        let (host, port) = match host_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':').or(Some("no port"))),
            None => host_port.split_once(':').map_or((host_port, None), |(host, port)| (host, Some(port))),
        };
        let scheme = scheme.to_ascii_lowercase();
        let right = (scheme == "http" || scheme == "https")
            && !host.is_empty()
            && !value.contains(char::is_whitespace)
            && port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok());
        right.then_some(Self { has_user, host, rest })
    }
}

/// Go's `time.ParseDuration`, not negative, or a count of milliseconds.
fn is_duration(value: &str) -> bool {
    let value = value.strip_prefix('+').unwrap_or(value);
    if value.parse::<i64>().is_ok_and(|milliseconds| milliseconds >= 0) {
        return true;
    }
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        if !is_decimal(&rest[..digits]) {
            return false;
        }
        rest = &rest[digits..];
        // The longer units first: "ms" begins like "m".
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
        let Some(after) = units.iter().find_map(|unit| rest.strip_prefix(unit)) else { return false };
        rest = after;
    }
    !value.is_empty()
}

/// Digits with at most one point, without a sign.
fn is_decimal(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    !(whole.is_empty() && fraction.is_empty())
        && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
}

/// A Kubernetes quantity: a decimal, and a suffix or an exponent.
fn is_positive_quantity(value: &str) -> bool {
    let value = value.strip_prefix('+').unwrap_or(value);
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (decimal, suffix) = value.split_at(digits);
    let known = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i32>().is_ok());
    is_decimal(decimal)
        && decimal.contains(|c: char| ('1'..='9').contains(&c))
        && (known.contains(&suffix) || exponent)
}

/// What to do about a key that is none of these.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let meant = known.iter().find(|known| known.eq_ignore_ascii_case(key) || one_slip(known, key));
    match meant {
        Some(meant) => format!("use {meant:?}"),
        None => format!("remove it, or use one of {}", known.join(", ")),
    }
}

/// Whether `a` and `b` differ by one character too many, too few or other, or by two neighbours swapped.
pub(super) fn one_slip(a: &str, b: &str) -> bool {
    // One character has at most four bytes. Most pairs end here, and nobody's text of a megabyte goes further.
    if a.len().abs_diff(b.len()) > 4 {
        return false;
    }
    let (mut a, mut b): (Vec<_>, Vec<_>) = (a.chars().collect(), b.chars().collect());
    let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    a.drain(..common);
    b.drain(..common);
    while !a.is_empty() && a.last() == b.last() {
        a.pop();
        b.pop();
    }
    match (&a[..], &b[..]) {
        ([], [_]) | ([_], [] | [_]) => true,
        ([a, b], [c, d]) => a == d && b == c,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Form::Text("x"), &["a", "sum(x) / 2"], &[])]
    #[case(
        Form::Url,
        &["http://prometheus:9090", "https://p.example/prefix/", "HTTP://p", "http://u:p@p:1/x", "http://[::1]:9090"],
        &["prometheus:9090", "ftp://p", "http://", "http://:9090", "http://p:port", "http://p:70000", "http://a b", "http://[::1]9090"],
    )]
    #[case(Form::Number, &["5", "0.5", "-1", "1e3", "0"], &["five", "5%", "+5", ".5", "05", "NaN", "1,5", "null"])]
    #[case(Form::Threshold, &["5", "0.001", "1e-3"], &["0", "-1", "0.0004", "five"])]
    #[case(Form::Bool, &["true", "F", "0", "TRUE"], &["yes", "on", "tRUE"])]
    #[case(
        Form::Duration,
        &["30s", "1h2m3.5s", "500", "+1ms", "0", "5us", ".5m", "7ns", "7µs"],
        &["-1s", "-5", "s", "1.2.3s", "3 s", "+", "1d", ".s", "5s5"],
    )]
    #[case(Form::Pairs, &["a=b", "a=b, c=d", "a="], &["a", "a=b,", "a=b=c"])]
    #[case(Form::Percentage, &["80", "150"], &["0", "-1", "80%", "0.8", "3000000000"])]
    #[case(Form::Quantity, &["500m", "2Gi", "1.5", "+1", "1e3", "5E-1", ".5k", "1E"], &["0", "0Gi", "-1", "80%", "1.2.3", "1GB", "Gi", "1e", ""])]
    #[case(Form::OneOf(&["json", "xml"]), &["json", "xml"], &["Json", "yaml"])]
    fn forms(#[case] form: Form, #[case] right: &[&str], #[case] wrong: &[&str]) {
        for value in right {
            assert_eq!(form.complaint(value), None, "{form:?} {value:?}");
        }
        for value in wrong {
            let complaint = form.complaint(value).unwrap_or_else(|| panic!("{form:?} takes {value:?}"));
            assert!(complaint.contains(&format!("{value:?} is ")), "{complaint}");
            assert!(complaint.contains(&form.example()), "{complaint}");
        }
    }

    #[rstest]
    #[case::missing("promethes", true)]
    #[case::doubled("promettheus", true)]
    #[case::other("prometheuz", true)]
    #[case::swapped("promehteus", true)]
    #[case::first_missing("rometheus", true)]
    #[case::last_too_many("prometheuss", true)]
    #[case::the_same("prometheus", false)]
    #[case::two_missing("promthes", false)]
    #[case::two_apart("arometheub", false)]
    #[case::swapped_apart("prometsheu", false)]
    fn slips(#[case] other: &str, #[case] one: bool) {
        assert_eq!(one_slip("prometheus", other), one);
        assert_eq!(one_slip(other, "prometheus"), one);
    }
}
