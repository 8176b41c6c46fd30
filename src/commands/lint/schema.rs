//! A structural schema, as a CustomResourceDefinition holds one, against a value.
//!
//! Rules in CEL are not evaluated: each of ours has its counterpart in the policy, with the better sentence; a test
//! in `judge` lists them.
//!
//! Architecture invariant: JSON in, violations out, each with its path; no text, no Kubernetes client.

use regex::Regex;
use serde_json::{Map, Value};

use crate::api::crd::QUANTITY;

use super::place::Step;

/// What a schema does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) path: Vec<Step>,
    pub(super) rule: &'static str,
    pub(super) message: String,
}

impl Violation {
    /// Whether the value there cannot stay for the rest to be read.
    pub(super) fn hides_value(&self) -> bool {
        self.rule == TYPE
    }
}

const TYPE: &str = "schema/type";
/// A field that the schema does not have.
pub(super) const UNKNOWN_FIELD: &str = "schema/unknown-field";

/// All that a schema does not allow in a value, in the order of its fields.
pub(super) fn violations(schema: &Value, value: &Value) -> Vec<Violation> {
    let mut found = Walk::default();
    found.value(schema, value);
    found.violations
}

#[derive(Default)]
struct Walk {
    path: Vec<Step>,
    violations: Vec<Violation>,
}

impl Walk {
    fn violation(&mut self, rule: &'static str, message: impl Into<String>) {
        self.violations.push(Violation { path: self.path.clone(), rule, message: message.into() });
    }

    fn below(&mut self, step: Step, look: impl FnOnce(&mut Self)) {
        self.path.push(step);
        look(self);
        self.path.pop();
    }

    fn value(&mut self, schema: &Value, value: &Value) {
        if schema["x-kubernetes-int-or-string"] == true {
            if !(value.is_i64() || value.is_u64() || value.is_string()) {
                return self.violation(TYPE, format!("is {}; use a whole number or a text", named(value)));
            }
        } else if let Some(wanted) = schema["type"].as_str()
            && !is_of(wanted, value)
        {
            return self.violation(TYPE, wrong_type(wanted, value));
        }
        match value {
            Value::Object(fields) => self.object(schema, fields),
            Value::Array(items) => self.list(schema, items),
            Value::String(text) => self.text(schema, text),
            Value::Number(number) => self.number(schema, number),
            Value::Null | Value::Bool(_) => {}
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            let allowed: Vec<_> = allowed.iter().map(shown).collect();
            self.violation(
                "schema/enum",
                format!("{} is not allowed; use {}", shown(value), allowed.join(", ")),
            );
        }
    }

    fn object(&mut self, schema: &Value, fields: &Map<String, Value>) {
        let properties = schema["properties"].as_object();
        for (name, value) in fields {
            let property = properties.and_then(|properties| properties.get(name));
            let schema_of_value = match (property, &schema["additionalProperties"]) {
                (Some(property), _) => property,
                (None, Value::Object(_)) => &schema["additionalProperties"],
                (None, Value::Bool(true)) => continue,
                (None, _) if schema["x-kubernetes-preserve-unknown-fields"] == true => continue,
                // A free-form object.
                (None, _) if properties.is_none() => continue,
                (None, _) => {
                    self.below(Step::Key(name.clone()), |walk| walk.unknown(name, properties));
                    continue;
                }
            };
            // Null is absent: the API server drops it before it looks.
            if !value.is_null() {
                self.below(Step::Key(name.clone()), |walk| walk.value(schema_of_value, value));
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let defaulted =
                properties.is_some_and(|all| all.get(name).is_some_and(|of| !of["default"].is_null()));
            if fields.get(name).is_none_or(Value::is_null) && !defaulted {
                self.below(Step::Key(name.into()), |walk| {
                    walk.violation("schema/required", "is missing; state it");
                });
            }
        }
    }

    fn unknown(&mut self, name: &str, properties: Option<&Map<String, Value>>) {
        let known = || properties.into_iter().flatten().map(|(known, _)| known.as_str());
        let meant = known()
            .map(|known| (strsim::damerau_levenshtein(&known.to_lowercase(), &name.to_lowercase()), known))
            .filter(|(distance, known)| *distance <= 1 + known.len() / 5)
            .min();
        let way_out = match meant {
            Some((_, meant)) => format!("did you mean {meant}?"),
            None => format!("use one of {}", known().collect::<Vec<_>>().join(", ")),
        };
        self.violation(UNKNOWN_FIELD, format!("is no field here; {way_out}"));
    }

    fn list(&mut self, schema: &Value, items: &[Value]) {
        if let Some(least) = schema["minItems"].as_u64().filter(|least| (items.len() as u64) < *least) {
            self.violation("schema/length", format!("has {} entries; state at least {least}", items.len()));
        }
        let mut seen: Vec<Vec<&Value>> = Vec::new();
        let keys: Vec<_> = schema["x-kubernetes-list-map-keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (index, item) in items.iter().enumerate() {
            self.below(Step::Index(index), |walk| {
                walk.value(&schema["items"], item);
                let key: Vec<_> = keys.iter().map(|key| &item[key]).collect();
                if !keys.is_empty() && seen.contains(&key) {
                    let key: Vec<_> = key.into_iter().map(shown).collect();
                    walk.violation(
                        "schema/repeated",
                        format!(
                            "{} stands in an earlier entry too; use each {} once",
                            key.join(", "),
                            keys.join(" and ")
                        ),
                    );
                } else {
                    seen.push(key);
                }
            });
        }
    }

    fn text(&mut self, schema: &Value, text: &str) {
        let length = text.chars().count() as u64;
        if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
            self.violation(
                "schema/length",
                format!("has {length} characters; use at least {least}, or leave it out"),
            );
        }
        if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
            self.violation("schema/length", format!("has {length} characters; use at most {most}"));
        }
        // Schemas come with the program, and each of their patterns is compiled in a test.
        let Some(pattern) = schema["pattern"].as_str() else { return };
        if !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text)) {
            let message = match pattern {
                QUANTITY => format!("{text:?} is no quantity; use one such as 500m, 2 or 4Gi"),
                _ => format!("{text:?} does not match {pattern}"),
            };
            self.violation("schema/pattern", message);
        }
    }

    fn number(&mut self, schema: &Value, number: &serde_json::Number) {
        let value = number.as_f64().unwrap_or(f64::MAX);
        if let Some(least) = schema["minimum"].as_f64().filter(|least| value < *least) {
            self.violation(
                "schema/minimum",
                format!("{number} is below the minimum {least}; use {least} or more"),
            );
        }
        let most = schema["maximum"].as_f64();
        if let Some(most) = most.filter(|most| value > *most) {
            self.violation(
                "schema/maximum",
                format!("{number} is above the maximum {most}; use {most} or less"),
            );
        } else if schema["format"] == "int32" && i32::try_from(number.as_i64().unwrap_or(i64::MAX)).is_err() {
            self.violation(TYPE, format!("{number} does not fit into 32 bits; use a smaller number"));
        }
    }
}

fn is_of(wanted: &str, value: &Value) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        // A type that this walker does not know forbids nothing.
        _ => true,
    }
}

fn wrong_type(wanted: &str, value: &Value) -> String {
    let way_out = match (wanted, value) {
        ("string", Value::Number(_) | Value::Bool(_)) => "put it in quotes".into(),
        ("integer", Value::String(text)) if text.parse::<i64>().is_ok() => format!("drop the quotes: {text}"),
        ("integer", _) => "use a whole number".into(),
        ("boolean", Value::String(text)) if text == "true" || text == "false" => {
            format!("drop the quotes: {text}")
        }
        ("boolean", _) => "use true or false".into(),
        ("string", _) => "use a text".into(),
        ("array", _) => "use a list".into(),
        ("object", _) => "use a mapping of fields to values".into(),
        _ => format!("use a value of type {wanted}"),
    };
    format!("is {}; {way_out}", named(value))
}

fn named(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::commands::lint::place::spell;

    fn schema() -> Value {
        json!({
            "type": "object",
            "required": ["count", "given"],
            "properties": {
                "count": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 10},
                "wide": {"type": "integer", "format": "int32"},
                "given": {"type": "string", "default": "x"},
                "mode": {"type": "string", "enum": ["a", "b"]},
                "short": {"type": "string", "minLength": 2, "maxLength": 3},
                "on": {"type": "boolean"},
                "free": {"type": "object"},
                "kept": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": true},
                "amounts": {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true, "pattern": QUANTITY}},
                "list": {
                    "type": "array", "minItems": 1, "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                },
            },
        })
    }

    #[rstest]
    #[case::nothing(json!({"count": 1}), &[])]
    #[case::all(json!({
        "count": 10, "mode": "a", "short": "abc", "on": false, "free": {"x": 1}, "kept": {"x": 1},
        "amounts": {"cpu": 1, "memory": "2Gi", "a.b/c": "1.5e3"}, "list": [{"name": "a"}, {"name": "b"}],
    }), &[])]
    #[case::null_is_absent(json!({"count": null, "mode": null}), &["count: is missing"])]
    #[case::absent(json!({}), &["count: is missing; state it"])]
    #[case::below(json!({"count": 0}), &["count: 0 is below the minimum 1; use 1 or more"])]
    #[case::above(json!({"count": 11}), &["count: 11 is above the maximum 10; use 10 or less"])]
    #[case::too_wide(json!({"count": 1, "wide": 3_000_000_000_i64}), &["wide: 3000000000 does not fit into 32 bits"])]
    #[case::quoted(json!({"count": "3"}), &["count: is the text \"3\"; drop the quotes: 3"])]
    #[case::fraction(json!({"count": 1.5}), &["count: is the number 1.5; use a whole number"])]
    #[case::no_text(json!({"count": 1, "mode": true}), &["mode: is the boolean true; put it in quotes"])]
    #[case::no_boolean(json!({"count": 1, "on": "true"}), &["on: is the text \"true\"; drop the quotes: true"])]
    #[case::no_list(json!({"count": 1, "list": {}}), &["list: is a mapping; use a list"])]
    #[case::no_object(json!([]), &[": is a list; use a mapping"])]
    #[case::no_amount(json!({"count": 1, "amounts": {"cpu": true}}), &["amounts.cpu: is the boolean true"])]
    #[case::no_quantity(json!({"count": 1, "amounts": {"a.b/c": "1x"}}), &["amounts[a.b/c]: \"1x\" is no quantity"])]
    #[case::not_listed(json!({"count": 1, "mode": "c"}), &["mode: \"c\" is not allowed; use \"a\", \"b\""])]
    #[case::short(json!({"count": 1, "short": "a"}), &["short: has 1 characters; use at least 2"])]
    #[case::long(json!({"count": 1, "short": "abcd"}), &["short: has 4 characters; use at most 3"])]
    #[case::empty(json!({"count": 1, "list": []}), &["list: has 0 entries; state at least 1"])]
    #[case::repeated(json!({"count": 1, "list": [{"name": "a"}, {"name": "a"}]}), &["list[1]: \"a\" stands in an earlier entry"])]
    #[case::misspelt(json!({"count": 1, "Short": "ab"}), &["Short: is no field here; did you mean short?"])]
    #[case::unknown(json!({"count": 1, "list": [{"name": "a", "xyzzy": 1}]}), &["list[0].xyzzy: is no field here; use one of name"])]
    #[case::several(json!({"count": 0, "mode": "c"}), &["count: 0", "mode: \"c\""])]
    fn values(#[case] value: Value, #[case] says: &[&str]) {
        let violations = violations(&schema(), &value);
        let found: Vec<_> =
            violations.iter().map(|found| format!("{}: {}", spell(&found.path), found.message)).collect();
        assert_eq!(found.len(), says.len(), "{found:?}");
        for (found, says) in found.iter().zip(says) {
            assert!(found.starts_with(says), "{found:?} is not {says:?}");
        }
    }
}
