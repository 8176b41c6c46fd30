//! How a count is read from JSON: what the API server takes for an `int32` is one, `3.0` too.
//!
//! Architecture invariant: reads numbers; what a count means is not known here.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A field for a count, whatever stands there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// Nothing, or null.
    #[default]
    Absent,
    /// A whole number of 32 bits.
    Whole(i32),
    /// Anything else: the schema refuses it, and names the field and the type.
    Unreadable,
}

impl Count {
    /// The number, where there is one.
    pub fn whole(self) -> Option<i32> {
        match self {
            Self::Whole(count) => Some(count),
            Self::Absent | Self::Unreadable => None,
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a count")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Count, E> {
                Ok(i32::try_from(number).map_or(Count::Unreadable, Count::Whole))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Count, E> {
                Ok(i32::try_from(number).map_or(Count::Unreadable, Count::Whole))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Count, E> {
                let whole =
                    number.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number);
                // Whole and within 32 bits, so the conversion is exact.
                #[allow(clippy::cast_possible_truncation)]
                Ok(if whole { Count::Whole(number as i32) } else { Count::Unreadable })
            }
            fn visit_bool<E: Error>(self, _: bool) -> Result<Count, E> {
                Ok(Count::Unreadable)
            }
            fn visit_str<E: Error>(self, _: &str) -> Result<Count, E> {
                Ok(Count::Unreadable)
            }
            fn visit_unit<E: Error>(self) -> Result<Count, E> {
                Ok(Count::Absent)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Count, A::Error> {
                while all.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Count::Unreadable)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Count, A::Error> {
                while all.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Count::Unreadable)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// For `deserialize_with`: a count that may be absent; anything unreadable is an error.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    match Count::deserialize(deserializer)? {
        Count::Absent => Ok(None),
        Count::Whole(count) => Ok(Some(count)),
        Count::Unreadable => Err(D::Error::custom("no whole number of 32 bits")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::null(json!(null), Count::Absent)]
    #[case::whole(json!(3), Count::Whole(3))]
    #[case::whole_float(json!(3.0), Count::Whole(3))]
    #[case::negative(json!(-3), Count::Whole(-3))]
    #[case::lowest(json!(i32::MIN), Count::Whole(i32::MIN))]
    #[case::highest(json!(2_147_483_647.0), Count::Whole(i32::MAX))]
    #[case::fraction(json!(3.5), Count::Unreadable)]
    #[case::one_more(json!(2_147_483_648_i64), Count::Unreadable)]
    #[case::one_less(json!(-2_147_483_649_i64), Count::Unreadable)]
    #[case::i64(json!(i64::MIN), Count::Unreadable)]
    #[case::u64(json!(u64::MAX), Count::Unreadable)]
    #[case::huge(json!(1e300), Count::Unreadable)]
    #[case::text(json!("3"), Count::Unreadable)]
    #[case::bool(json!(true), Count::Unreadable)]
    #[case::list(json!([3, {}]), Count::Unreadable)]
    #[case::map(json!({"a": [3]}), Count::Unreadable)]
    fn what_a_count_may_be(#[case] json: Value, #[case] expected: Count) {
        let text = json.to_string();
        assert_eq!(serde_json::from_str::<Count>(&text).unwrap(), expected, "{text}");
        let read = optional(&mut serde_json::Deserializer::from_str(&text));
        assert_eq!(read.ok().flatten(), expected.whole());
    }
}
