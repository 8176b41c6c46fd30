//! The places in an object that a field manager owns, and what else could stand there.
//!
//! **Architecture invariant**: plain functions of JSON values.

use std::fmt;

use anyhow::Context as _;
use serde_json::{Value, json};

/// One step into an object.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// The entry of a list that has these values.
    Entry(Value),
}

/// Where something is, from the root of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    steps: Vec<Step>,
    /// Whether it is an entry of a list as a whole.
    pub entry: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Field(name) => write!(f, "/{}", name.replace('~', "~0").replace('/', "~1"))?,
                Step::Entry(key) => {
                    let fields = key.as_object().into_iter().flatten();
                    let values: Vec<_> =
                        fields.map(|(_, value)| value.to_string().replace('"', "")).collect();
                    write!(f, "[{}]", values.join(","))?;
                }
            }
        }
        Ok(())
    }
}

impl Place {
    /// The JSON pointer to it in an object; `None` if it is not there.
    pub fn pointer(&self, object: &Value) -> Option<String> {
        let (mut at, mut pointer) = (object, String::new());
        for step in &self.steps {
            let token = match step {
                Step::Field(name) => name.replace('~', "~0").replace('/', "~1"),
                Step::Entry(key) => {
                    let fields = key.as_object()?;
                    let has = |entry: &Value| fields.iter().all(|(name, value)| &entry[name] == value);
                    at.as_array()?.iter().position(has)?.to_string()
                }
            };
            at = at.pointer(&format!("/{token}"))?;
            pointer = format!("{pointer}/{token}");
        }
        Some(pointer)
    }

    /// What is there.
    pub fn value<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        object.pointer(&self.pointer(object)?)
    }
}

/// What `manager` has applied of an object.
pub fn owned(object: &Value, manager: &str) -> anyhow::Result<Vec<Place>> {
    let entries = object["metadata"]["managedFields"].as_array().context("nobody manages fields")?;
    let applied = entries
        .iter()
        .find(|entry| {
            entry["manager"] == manager && entry["operation"] == "Apply" && entry["subresource"].is_null()
        })
        .with_context(|| format!("{manager} has applied nothing"))?;
    let mut places = Vec::new();
    walk(&applied["fieldsV1"], &mut Vec::new(), &mut places)?;
    Ok(places)
}

fn walk(fields: &Value, steps: &mut Vec<Step>, places: &mut Vec<Place>) -> anyhow::Result<()> {
    for (name, below) in fields.as_object().into_iter().flatten() {
        let step = match name.split_once(':') {
            Some(("f", name)) => Step::Field(name.to_owned()),
            Some(("k", key)) => Step::Entry(serde_json::from_str(key)?),
            _ if name == "." => {
                let entry = matches!(steps.last(), Some(Step::Entry(_)));
                if entry {
                    places.push(Place { steps: steps.clone(), entry });
                }
                continue;
            }
            _ => anyhow::bail!("{name:?} among managed fields"),
        };
        steps.push(step);
        if below.as_object().is_some_and(serde_json::Map::is_empty) {
            places.push(Place { steps: steps.clone(), entry: false });
        } else {
            walk(below, steps, places)?;
        }
        steps.pop();
    }
    Ok(())
}

/// What is at a place as the tables write it: a JSON pointer, with the names of entries in brackets.
pub fn find<'a>(object: &'a Value, place: &str) -> Option<&'a Value> {
    place.split('/').skip(1).try_fold(object, |at, token| match token.split_once('[') {
        None => at.pointer(&format!("/{token}")),
        Some((list, name)) => {
            at[list].as_array()?.iter().find(|entry| entry["name"] == name.trim_end_matches(']'))
        }
    })
}

/// Values of which the API server takes few, each with another one.
const ENUMERATIONS: &[(&str, &str)] = &[
    ("Memory", ""),
    ("RuntimeDefault", "Unconfined"),
    ("FallbackToLogsOnError", "File"),
    ("AlwaysAllow", "IfHealthyBudget"),
    ("Retain", "Delete"),
    ("Delete", "Retain"),
    ("Parallel", "OrderedReady"),
];

/// Something else of the same type.
pub fn another(value: &Value) -> Value {
    match value {
        Value::Null => json!("x"),
        Value::Bool(value) => json!(!value),
        Value::Number(number) => json!(number.as_i64().unwrap_or_default() + 1),
        Value::String(text) => match ENUMERATIONS.iter().find(|(one, _)| one == text) {
            Some((_, other)) => json!(other),
            None if text.ends_with("Gi") || text.ends_with('%') => json!(format!("3{text}")),
            // A quantity.
            None if text.parse::<u8>().is_ok() => json!(format!("{text}1")),
            None => json!(format!("{text}-x")),
        },
        Value::Array(items) => match items.last() {
            Some(last) => json!([items.as_slice(), &[another(last)]].concat()),
            None => json!(["x"]),
        },
        Value::Object(fields) => {
            let mut fields = fields.clone();
            for value in fields.values_mut().take(1) {
                *value = another(value);
            }
            Value::Object(fields)
        }
    }
}
