//! How an object is read from JSON: as a map, and as nothing else.
//!
//! To serde a list would do for a struct, by the order of its fields; a patch would then find no field to set. Mutating webhooks
//! see such a `spec`, since they come before the schema.
//!
//! Architecture invariant: reads shapes; which objects there are is not known here.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

/// What stands there as a map.
#[derive(Clone, Copy, Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Map(PhantomData))
    }
}

/// For `deserialize_with`: an object that must be there.
pub fn required<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(read)| read)
}

/// For `deserialize_with`: an object that may be absent, or null.
pub fn optional<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.map(|Object(read)| read))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Part {
        a: i32,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Whole {
        #[serde(deserialize_with = "required")]
        must: Part,
        #[serde(default, deserialize_with = "optional")]
        may: Option<Part>,
    }

    fn read(may: Option<i32>) -> Whole {
        Whole { must: Part { a: 1 }, may: may.map(|a| Part { a }) }
    }

    #[rstest]
    #[case::both(r#"{"must": {"a": 1}, "may": {"a": 2}}"#, Some(read(Some(2))))]
    #[case::one(r#"{"must": {"a": 1}}"#, Some(read(None)))]
    #[case::null(r#"{"must": {"a": 1}, "may": null}"#, Some(read(None)))]
    #[case::unknown_fields(r#"{"must": {"b": [], "a": 1}, "c": {}}"#, Some(read(None)))]
    #[case::the_other(r#"{"may": {"a": 2}}"#, None)]
    #[case::null_where_it_must_be(r#"{"must": null}"#, None)]
    #[case::list(r#"{"must": [1]}"#, None)]
    #[case::list_where_it_may_be(r#"{"must": {"a": 1}, "may": [2]}"#, None)]
    #[case::list_of_all(r#"[{"a": 1}, {"a": 2}]"#, None)]
    #[case::text(r#""must""#, None)]
    fn a_map_and_nothing_else(#[case] json: &str, #[case] expected: Option<Whole>) {
        assert_eq!(serde_json::from_str::<Object<Whole>>(json).ok().map(|Object(whole)| whole), expected);
    }
}
