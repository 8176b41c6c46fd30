//! The schemas that manifests are held against: of VLLMClusters the very definition that is installed, of HPAs the
//! API server's types, of ScaledObjects KEDA's.
//!
//! Architecture invariant: schemas alone; what is done with a violation is decided elsewhere.

use k8s_openapi::api::autoscaling::{v1, v2};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::api::crd::definition;
use crate::world::files::Kind;

/// KEDA 2.21's.
const SCALED_OBJECT_SPEC: &str = include_str!("schemas/scaledobject-spec.yaml");

/// One schema a kind and version.
pub(super) struct Schemas {
    cluster: Value,
    scaled_object: Value,
    hpa_v1: Value,
    hpa_v2: Value,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let mut cluster = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
        // The definition leaves to the API server what every object has.
        let spec = cluster["properties"]["spec"].take();
        cluster["properties"] = whole(&spec)["properties"].take();
        // The file is part of the program, and a test reads it.
        let spec: Value = serde_saphyr::from_str(SCALED_OBJECT_SPEC).expect("a schema is YAML");
        let mut scaled_object = whole(&spec);
        scaled_object["required"] = json!(["spec"]);
        Self {
            cluster,
            scaled_object,
            hpa_v1: whole(&inlined::<v1::HorizontalPodAutoscalerSpec>()),
            hpa_v2: whole(&inlined::<v2::HorizontalPodAutoscalerSpec>()),
        }
    }

    /// The schema of a kind in a version; `None` where the API server's own word is left to it.
    pub(super) fn of(&self, kind: Kind, version: &str) -> Option<&Value> {
        match (kind, version) {
            (Kind::Cluster, _) => Some(&self.cluster),
            (Kind::ScaledObject, _) => Some(&self.scaled_object),
            (Kind::Hpa, "v1") => Some(&self.hpa_v1),
            (Kind::Hpa, _) => Some(&self.hpa_v2),
            (Kind::LimitRange, _) => None,
        }
    }
}

/// The schema of an object with this spec. A status in a manifest is ignored, whatever it says.
fn whole(spec: &Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": inlined::<ObjectMeta>(),
            "spec": spec,
            "status": {"x-kubernetes-preserve-unknown-fields": true},
        },
    })
}

fn inlined<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    fn each(node: &Value, visit: &mut dyn FnMut(&Value)) {
        visit(node);
        match node {
            Value::Object(fields) => fields.values().for_each(|field| each(field, visit)),
            Value::Array(items) => items.iter().for_each(|item| each(item, visit)),
            _ => {}
        }
    }

    fn all() -> Vec<Value> {
        let Schemas { cluster, scaled_object, hpa_v1, hpa_v2 } = Schemas::new();
        vec![cluster, scaled_object, hpa_v1, hpa_v2]
    }

    #[test]
    fn nothing_stands_in_a_schema_that_is_not_looked_at() {
        const KNOWN: [&str; 22] = [
            "$schema",
            "additionalProperties",
            "default",
            "description",
            "enum",
            "format",
            "items",
            "maxLength",
            "maximum",
            "minItems",
            "minLength",
            "minimum",
            "pattern",
            "properties",
            "required",
            "title",
            "type",
            "x-kubernetes-int-or-string",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-list-type",
            "x-kubernetes-preserve-unknown-fields",
            // Covered by the policy: a test of `judge` goes through them.
            "x-kubernetes-validations",
        ];
        for schema in all() {
            let mut fields = 0;
            each(&schema, &mut |node| {
                // The names below `properties` are fields, not words of the schema.
                if let Some(words) = node.as_object().filter(|words| words.contains_key("type")) {
                    fields += 1;
                    for word in words.keys().filter(|_| words["type"].is_string()) {
                        assert!(KNOWN.contains(&word.as_str()), "{word} is not looked at: {node}");
                    }
                }
            });
            assert!(fields > 20, "{fields}");
        }
    }

    #[test]
    fn patterns_compile() {
        let mut patterns = 0;
        for schema in all() {
            each(&schema, &mut |node| {
                if let Some(pattern) = node["pattern"].as_str() {
                    patterns += 1;
                    assert!(Regex::new(pattern).is_ok(), "{pattern}");
                }
            });
        }
        assert!(patterns > 0);
    }
}
