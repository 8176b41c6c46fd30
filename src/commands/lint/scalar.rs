//! What an unquoted word means.
//!
//! kubectl reads YAML with the rules of version 1.1, in the form that its library gives them: `yes` is a boolean,
//! `010` is eight, and `3.0` becomes the whole number 3 on its way through JSON. A manifest that is read otherwise
//! here would be judged otherwise than it is stored.
//!
//! Architecture invariant: one word in, one JSON value out; where it stands is not known here.

use serde_json::{Number, Value};

/// The value of a plain scalar.
pub(super) fn plain(word: &str) -> Value {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    number(word).map_or_else(|| Value::String(word.into()), Value::Number)
}

fn number(word: &str) -> Option<Number> {
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let digits = word.replace('_', "");
    whole(&digits).or_else(|| if is_decimal(&digits) { decimal(digits.parse().ok()?) } else { None })
}

/// A whole number as Go's `strconv.ParseInt` with base 0 reads it.
fn whole(digits: &str) -> Option<Number> {
    let (negative, unsigned) = match digits.as_bytes().first()? {
        b'-' => (true, &digits[1..]),
        b'+' => (false, &digits[1..]),
        _ => (false, digits),
    };
    let prefix = |lower: &str, upper: &str| unsigned.strip_prefix(lower).or(unsigned.strip_prefix(upper));
    let (radix, unsigned) = if let Some(rest) = prefix("0x", "0X") {
        (16, rest)
    } else if let Some(rest) = prefix("0o", "0O") {
        (8, rest)
    } else if let Some(rest) = prefix("0b", "0B") {
        (2, rest)
    } else if unsigned.len() > 1 && unsigned.starts_with('0') {
        (8, unsigned)
    } else {
        (10, unsigned)
    };
    // Rust takes a sign here, Go does not.
    if unsigned.starts_with(['+', '-']) {
        return None;
    }
    let value = u64::from_str_radix(unsigned, radix).ok()?;
    if negative { 0_i64.checked_sub_unsigned(value).map(Number::from) } else { Some(value.into()) }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(digits: &str) -> bool {
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    all_digits(before)
        && all_digits(after)
        && !(before.is_empty() && after.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && all_digits(exponent))
}

fn decimal(value: f64) -> Option<Number> {
    // JSON has one kind of number: Go writes 3.0 as 3.
    if value.fract() == 0.0 && value.abs() < 9e15 {
        // Whole and far below 2^63, so the conversion is exact.
        #[allow(clippy::cast_possible_truncation)]
        return Some((value as i64).into());
    }
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("", json!(null))]
    #[case("~", json!(null))]
    #[case("yes", json!(true))]
    #[case("Off", json!(false))]
    #[case("12", json!(12))]
    #[case("-3", json!(-3))]
    #[case("+3", json!(3))]
    #[case("1_000", json!(1000))]
    #[case("010", json!(8))]
    #[case("08", json!(8))]
    #[case("0x1F", json!(31))]
    #[case("0b101", json!(5))]
    #[case("-0b101", json!(-5))]
    #[case("3.0", json!(3))]
    #[case("1e3", json!(1000))]
    #[case("0.5", json!(0.5))]
    #[case(".5", json!(0.5))]
    #[case("9223372036854775808", json!(9_223_372_036_854_775_808_u64))]
    #[case("-9223372036854775808", json!(i64::MIN))]
    #[case("500m", json!("500m"))]
    #[case("1.2.3", json!("1.2.3"))]
    #[case("-", json!("-"))]
    #[case("+-3", json!("+-3"))]
    #[case(".", json!("."))]
    #[case("2026-01-01", json!("2026-01-01"))]
    #[case("yES", json!("yES"))]
    fn words(#[case] word: &str, #[case] value: Value) {
        assert_eq!(plain(word), value);
    }
}
