//! What the schema of our own CRD says of a cluster, for tests: types and limits of the counts, and every CEL rule.
//!
//! Architecture invariant: reads the definition as it is installed, and shares no code with the policy.

use std::sync::{Arc, LazyLock};

use cel::{Context, Env, Program, Value as CelValue};
use serde_json::{Value, json};

use crate::api::crd::definition;

/// The fields that hold counts.
const COUNTS: [&str; 3] = ["replicas", "minReplicas", "maxReplicas"];

struct Schema {
    definition: Value,
    /// What rules may call; shared, since making it takes longer than a rule.
    env: Arc<Env>,
    /// Rules of the whole object, and of its spec.
    root: Vec<(String, Program)>,
    spec: Vec<(String, Program)>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let definition = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
    let env = Arc::new(Env::stdlib());
    let rules = |at: &Value| {
        let rules = at["x-kubernetes-validations"].as_array().cloned().unwrap_or_default();
        let rules = rules.iter().map(|rule| rule["rule"].as_str().unwrap().to_owned());
        rules.map(|rule| (rule.clone(), env.compile(&rule).unwrap())).collect::<Vec<_>>()
    };
    let (root, spec) = (rules(&definition), rules(&definition["properties"]["spec"]));
    assert!(root.len() >= 2 && spec.len() >= 3, "the rules are read");
    Schema { definition, env, root, spec }
});

/// Why the API server would not store a new cluster; empty where it would. Rules about a change need an older object
/// and are left out.
pub(crate) fn complaints(cluster: &Value) -> Vec<String> {
    let schema = &*SCHEMA;
    let mut cluster = cluster.clone();
    if cluster["spec"].is_null() {
        cluster["spec"] = schema.definition["properties"]["spec"]["default"].clone();
    }
    let mut complaints = Vec::new();
    for field in COUNTS {
        let limits = &schema.definition["properties"]["spec"]["properties"][field];
        let value = &cluster["spec"][field];
        let count = value.as_i64().or_else(|| {
            value.as_f64().filter(|count| count.fract() == 0.0).map(|count| {
                // Whole, and what does not fit is refused all the same.
                #[allow(clippy::cast_possible_truncation)]
                let count = count as i64;
                count
            })
        });
        let fits = count.is_some_and(|count| {
            (limits["minimum"].as_i64().unwrap()..=limits["maximum"].as_i64().unwrap()).contains(&count)
        });
        if !(value.is_null() || fits) {
            complaints.push(format!("spec.{field}: {value}"));
        }
    }
    if !complaints.is_empty() {
        return complaints;
    }
    // A null is dropped before the rules see it.
    if let Some(fields) = cluster["spec"].as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let spec = &cluster["spec"];
    for (rules, this) in [(&schema.root, &cluster), (&schema.spec, spec)] {
        let mut context = Context::with_env(schema.env.clone());
        context.add_variable("self", this).unwrap();
        for (rule, program) in rules.iter().filter(|(rule, _)| !rule.contains("oldSelf")) {
            match program.execute(&context) {
                Ok(CelValue::Bool(true)) => {}
                Ok(CelValue::Bool(false)) => complaints.push(rule.clone()),
                other => panic!("{rule} of {this}: {other:?}"),
            }
        }
    }
    complaints
}

#[test]
fn the_rules_are_evaluated() {
    let cluster = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    for sound in [json!({"replicas": 1}), json!({"replicas": 3, "minReplicas": 3, "maxReplicas": 3})] {
        assert_eq!(complaints(&cluster("a", sound)), Vec::<String>::new());
    }
    for bad in [
        json!({}),
        json!({"replicas": 0}),
        json!({"replicas": "1"}),
        json!({"replicas": 1, "minReplicas": 2}),
        json!({"replicas": 3, "maxReplicas": 2}),
        json!({"replicas": 1, "maxReplicas": 100_001}),
    ] {
        assert_eq!(complaints(&cluster("a", bad.clone())).len(), 1, "{bad}");
    }
    assert_eq!(complaints(&cluster("a.b", json!({"replicas": 1}))).len(), 1);
}
