//! Manifests as fresh writes, each in the world of all the others.
//!
//! The operator's own admission answers, over a world and live reads that hold the manifests: first what the
//! mutating webhook would store of each, then what the validating one says of that. So a finding here is the finding
//! there.
//!
//! Architecture invariant: no rule of the policy stands here; what a schema refuses and the policy says better is said
//! once, by the policy.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use json_patch::PatchOperation;
use serde_json::Value;
use serde_json::value::to_raw_value;
use webhook::review::{GroupVersionKind, GroupVersionResource, Operation, Request, User};

use crate::admit::{Admission, OwnScaler, Phase, Repeats, Unjudged};
use crate::policy::{Mode, Outcome};
use crate::world::World;
use crate::world::files::{Kind, Objects};

use super::finding::{Finding, Place, Severity};
use super::manifest::Manifest;
use super::place::{Step, key_place, spell};
use super::schema::{UNKNOWN_FIELD, Violation, violations};
use super::schemas::Schemas;

/// What is found in manifests, and what their older triggers become.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) findings: Vec<Finding>,
    /// What the mutating webhook changes, for each manifest.
    pub(super) edits: Vec<Vec<PatchOperation>>,
}

/// A manifest on its way through admission.
struct Write<'a> {
    manifest: &'a Manifest,
    violations: Vec<Violation>,
    /// The value without what has a wrong type; then with what the mutating webhook changes.
    value: Value,
    mutated: Outcome,
}

/// Judges all manifests. `around` is what else there is; a manifest takes the place of its own name there.
pub(super) async fn judge(manifests: &[Manifest], around: &Objects) -> Result<Judged, Unjudged> {
    let schemas = Schemas::new();
    let mut writes: Vec<_> = manifests.iter().map(|manifest| Write::new(manifest, &schemas)).collect();
    // A ScaledObject takes from its cluster what it leaves out, and a cluster without a count takes from its stored
    // ScaledObject.
    for kind in [Kind::ScaledObject, Kind::Cluster] {
        let surroundings = Surroundings::new(&writes, around);
        for write in
            writes.iter_mut().filter(|write| write.manifest.kind == kind && write.manifest.concerns_us())
        {
            write.mutated = surroundings.ask(Phase::Mutating, write).await?;
            // The patch is for this very value, so it applies.
            let _ = json_patch::patch(&mut write.value, &write.mutated.edits);
        }
    }
    let surroundings = Surroundings::new(&writes, around);
    let mut judged = Judged::default();
    for write in writes {
        let checked = if write.manifest.concerns_us() {
            surroundings.ask(Phase::Validating, &write).await?
        } else {
            Outcome::default()
        };
        judged.findings.extend(write.findings(&checked));
        judged.edits.push(write.mutated.edits);
    }
    Ok(judged)
}

/// All that one write is judged by.
struct Surroundings {
    world: Arc<World>,
    objects: Arc<Objects>,
}

impl Surroundings {
    fn new(writes: &[Write<'_>], around: &Objects) -> Self {
        let mut objects = around.clone();
        for Write { manifest, value, .. } in writes.iter().filter(|write| !write.manifest.duplicate) {
            objects.put(manifest.kind, &manifest.namespace, &manifest.name, value.clone());
        }
        Self { world: Arc::new(objects.world()), objects: Arc::new(objects) }
    }

    async fn ask(&self, phase: Phase, write: &Write<'_>) -> Result<Outcome, Unjudged> {
        // Of its own, so that no bound on the rate of live reads is shared.
        let admission = Admission {
            world: Arc::clone(&self.world),
            live: Arc::clone(&self.objects).live(),
            host_access: false,
            autoscalers: HashSet::new(),
            mode: Mode::Deny,
            scaler: OwnScaler::usual(),
            metrics: Arc::default(),
            repeats: Repeats::default(),
        };
        let Manifest { kind, version, namespace, name, .. } = write.manifest;
        let (group, plural) = kind.resource();
        // A value of JSON has a JSON form.
        let object = to_raw_value(&write.value).expect("a value of JSON");
        let request = Request {
            uid: Cow::Borrowed("lint"),
            kind: GroupVersionKind {
                group: group.into(),
                version: version.into(),
                kind: write.manifest.kind.name().into(),
            },
            resource: GroupVersionResource {
                group: group.into(),
                version: version.into(),
                resource: plural.into(),
            },
            sub_resource: Cow::Borrowed(""),
            name: name.into(),
            namespace: namespace.into(),
            operation: Operation::Create,
            user: User::default(),
            object: Some(&object),
            old_object: None,
            dry_run: true,
        };
        // Boxed, because it holds the futures of all kinds of writes.
        Box::pin(admission.judge(phase, &request)).await
    }
}

impl<'a> Write<'a> {
    fn new(manifest: &'a Manifest, schemas: &Schemas) -> Self {
        let mut value = manifest.value.clone();
        let schema = schemas.of(manifest.kind, &manifest.version).filter(|_| manifest.concerns_us());
        let violations = schema.map_or_else(Vec::new, |schema| violations(schema, &value));
        for violation in violations.iter().filter(|violation| violation.hides_value()) {
            remove(&mut value, up_to_field(&violation.path));
        }
        Self { manifest, violations, value, mutated: Outcome::default() }
    }

    fn findings(&self, checked: &Outcome) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        let mut add = |finding: Finding| {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        };
        let hidden: Vec<_> = self
            .violations
            .iter()
            .filter(|violation| violation.hides_value())
            .map(|violation| spell(up_to_field(&violation.path)))
            .collect();
        // What is said of a value that could not be read is said of its absence.
        let speaks_of_hidden = |field: &str| {
            hidden.iter().any(|hidden| {
                field
                    .strip_prefix(hidden.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
        };
        let refused: HashSet<_> = checked.refusals.iter().map(|finding| finding.field.as_ref()).collect();
        for violation in &self.violations {
            let field = spell(&violation.path);
            if !refused.contains(field.as_str()) || violation.hides_value() {
                add(self.of_schema(violation, &field));
            }
        }
        let refusals =
            self.mutated.refusals.iter().chain(&checked.refusals).map(|of| (Severity::Refusal, of));
        let warnings =
            self.mutated.warnings.iter().chain(&checked.warnings).map(|of| (Severity::Warning, of));
        for (severity, of) in refusals.chain(warnings) {
            if !speaks_of_hidden(&of.field) {
                let finding = self.manifest.finding(severity, of.rule.as_str(), &of.field, &*of.message);
                add(Finding { bare: of.bare, ..finding });
            }
        }
        findings
    }

    fn of_schema(&self, violation: &Violation, field: &str) -> Finding {
        let Manifest { kind, file, root, .. } = self.manifest;
        // KEDA gets new fields with each release, and the one in use may be newer.
        let newer = violation.rule == UNKNOWN_FIELD && *kind == Kind::ScaledObject;
        let (severity, message) = if newer {
            (
                Severity::Warning,
                format!("{} (of KEDA 2.21; leave it if yours is newer and has it)", violation.message),
            )
        } else {
            (Severity::Refusal, violation.message.clone())
        };
        let finding = self.manifest.finding(severity, violation.rule, field, message);
        if violation.rule == UNKNOWN_FIELD {
            let span = key_place(root, &violation.path);
            return Finding { place: Place { file: *file, span }, ..finding };
        }
        finding
    }
}

/// The path without what stands in lists: an entry that is left out would move the others.
fn up_to_field(path: &[Step]) -> &[Step] {
    let end = path.iter().rposition(|step| matches!(step, Step::Key(_))).map_or(0, |last| last + 1);
    &path[..end]
}

fn remove(value: &mut Value, path: &[Step]) {
    let Some((Step::Key(last), parents)) = path.split_last() else { return };
    let mut parent = value;
    for step in parents {
        let next = match step {
            Step::Key(key) => parent.get_mut(key),
            Step::Index(index) => parent.get_mut(index),
        };
        let Some(next) = next else { return };
        parent = next;
    }
    if let Some(fields) = parent.as_object_mut() {
        fields.remove(last);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;
    use serde_json::json;

    use super::super::place::line_column;
    use super::super::{Checked, Read};
    use super::*;
    use crate::api::crd::definition;
    use crate::commands::lint::source::Source;

    const CLUSTER: &str = "apiVersion: training.distributed-inference.io/v1alpha1\nkind: VLLMCluster\nmetadata: {name: a}\nspec:\n";
    const SCALED_OBJECT: &str = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: q}\nspec:\n  scaleTargetRef: {apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: a}\n";
    const HPA: &str = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: h}\nspec:\n  scaleTargetRef: {apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: a}\n";
    const PROMETHEUS: &str =
        "  triggers: [{type: prometheus, metadata: {serverAddress: 'http://p', query: q, threshold: '1'}}]\n";
    const CPU: &str = "  triggers: [{type: cpu, metricType: Utilization, metadata: {value: '70'}}]\n";

    async fn check(text: &str) -> Checked {
        let sources = [Source { name: "x.yaml".into(), text: text.into(), has_mark: false }];
        Read::new(&sources, "default").judged(&Objects::default()).await.unwrap()
    }

    /// Line, rule and severity of all that is found.
    async fn found(text: &str) -> Vec<String> {
        let checked = check(text).await;
        let line = |finding: &Finding| {
            let mark = if finding.severity == Severity::Refusal { "!" } else { "" };
            format!("{} {}{mark}", line_column(text, finding.place.span.start).0, finding.rule)
        };
        checked.findings.iter().map(line).collect()
    }

    #[rstest]
    #[case::good(format!("{CLUSTER}  maxReplicas: 5\n---\n{SCALED_OBJECT}  maxReplicaCount: 4\n{PROMETHEUS}"), &[])]
    #[case::no_spec("apiVersion: training.distributed-inference.io/v1alpha1\nkind: VLLMCluster\nmetadata: {name: a}\n".into(), &[])]
    #[case::bounds_are_taken_over(format!("{CLUSTER}  minReplicas: 2\n  maxReplicas: 5\n---\n{SCALED_OBJECT}{PROMETHEUS}"), &[])]
    #[case::a_count_too_high(format!("{CLUSTER}  replicas: 6\n  maxReplicas: 5\n"), &["5 scale/above-maximum!"])]
    #[case::an_order_of_files(format!("{SCALED_OBJECT}  minReplicaCount: 7\n{PROMETHEUS}---\n{CLUSTER}  maxReplicas: 5\n"), &["6 scaled-object/no-common-range!", "13 cluster/no-common-range!"])]
    #[case::of_another_namespace(format!("{CLUSTER}  maxReplicas: 5\n---\n{}  minReplicaCount: 7\n{PROMETHEUS}", SCALED_OBJECT.replace("name: q", "name: q, namespace: other")), &["11 scaled-object/target-missing"])]
    #[case::two_drivers(format!("{CLUSTER}  maxReplicas: 5\n---\n{SCALED_OBJECT}{PROMETHEUS}---\n{HPA}  maxReplicas: 5\n"), &["11 scaled-object/foreign-hpa!", "18 hpa/beside-scaled-object!"])]
    #[case::no_request(format!("{CLUSTER}  maxReplicas: 5\n---\n{SCALED_OBJECT}{CPU}"), &["12 scaled-object/cpu-without-request!"])]
    #[case::a_limit_range_gives_it(format!("{CLUSTER}  maxReplicas: 5\n---\n{SCALED_OBJECT}{CPU}---\napiVersion: v1\nkind: LimitRange\nmetadata: {{name: r}}\nspec: {{limits: [{{type: Container, default: {{cpu: 1}}}}]}}\n"), &[])]
    #[case::others_are_passed_over("apiVersion: v1\nkind: Service\nspec: 5\n---\nx: 1\n---\napiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nspec: {scaleTargetRef: {name: d}, wrong: 1}\n".into(), &[])]
    #[case::a_list(format!("apiVersion: v1\nkind: List\nitems:\n- apiVersion: training.distributed-inference.io/v1alpha1\n  kind: VLLMCluster\n  metadata: {{name: a}}\n  spec: {{replicas: 0}}\n"), &["7 scale/below-one!"])]
    #[case::twice(format!("{CLUSTER}  maxReplicas: 5\n---\n{CLUSTER}  maxReplicas: 6\n"), &["9 manifest/duplicate!"])]
    #[case::not_twice(format!("{CLUSTER}  maxReplicas: 5\n---\n{}  maxReplicas: 6\n", CLUSTER.replace("name: a", "name: a, namespace: b")), &[])]
    #[case::a_key_twice(format!("{CLUSTER}  maxReplicas: 5\n  maxReplicas: 6\n  replicas: 6\n"), &["6 manifest/duplicate-key!"])]
    #[case::unknown_field(format!("{CLUSTER}  modell: x\n"), &["5 schema/unknown-field!"])]
    #[case::wrong_type(format!("{CLUSTER}  replicas: '2'\n  maxReplicas: 0\n"), &["5 schema/type!", "6 cluster/maximum-out-of-range!"])]
    #[case::wrong_type_is_not_missing(format!("{CLUSTER}  maxReplicas: 5\n---\n{SCALED_OBJECT}{}", PROMETHEUS.replace("'1'", "1")), &["12 schema/type!"])]
    #[case::no_count_of_a_wrong_type(format!("{CLUSTER}  replicas: '2'\n---\n{SCALED_OBJECT}{PROMETHEUS}"), &["5 schema/type!"])]
    #[case::schema_and_policy_say_it_once(format!("{CLUSTER}  replicas: 0\n"), &["5 scale/below-one!"])]
    #[case::of_kedas_schema(format!("{CLUSTER}  replicas: 2\n---\n{SCALED_OBJECT}  pollingInterval: 30s\n  maxReplicas: 3\n{PROMETHEUS}"), &["12 schema/type!", "13 schema/unknown-field"])]
    #[case::of_the_hpas_types(format!("{HPA}  maxReplicas: many\n"), &["6 schema/type!"])]
    #[case::of_the_metadata(format!("{}spec: {{}}\n", CLUSTER.replace("name: a", "name: a, labels: {x: yes}").replace("spec:\n", "")), &["3 schema/type!"])]
    #[case::no_name(format!("{}  replicas: 1\n", CLUSTER.replace("name: a", "")), &["3 manifest/name!"])]
    #[case::generated_name(format!("{}  replicas: 1\n", CLUSTER.replace("name: a", "generateName: a-")), &[])]
    #[case::version(format!("{}  replicas: 1\n", CLUSTER.replace("v1alpha1", "v1")), &["1 manifest/version!"])]
    #[case::no_version(format!("{}  replicas: 1\n", CLUSTER.replace("training.distributed-inference.io/v1alpha1", "''")), &["1 manifest/version!"])]
    #[case::kind(format!("{}  replicas: 1\n", CLUSTER.replace("VLLMCluster", "VllmCluster")), &["2 manifest/kind!"])]
    #[case::hpa_version(format!("{}  maxReplicas: 3\n", HPA.replace("/v2", "/v2beta2")), &["1 manifest/version!"])]
    #[tokio::test]
    async fn manifests_in_the_world_of_the_others(#[case] text: String, #[case] expected: &[&str]) {
        assert_eq!(found(&text).await, expected, "{text}");
    }

    #[tokio::test]
    async fn a_cluster_around_takes_no_place_of_its_manifest() {
        let mut around = Objects::default();
        let live = |max: i32| json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": max}});
        around.put(Kind::Cluster, "default", "a", live(3));
        let text = format!("{SCALED_OBJECT}  minReplicaCount: 5\n{PROMETHEUS}");
        let judged = |text: &str| {
            let sources = [Source { name: "x.yaml".into(), text: text.into(), has_mark: false }];
            Read::new(&sources, "default")
        };
        let alone = judged(&text).judged(&around).await.unwrap();
        assert_eq!(
            alone.findings.iter().map(|finding| finding.rule.as_str()).collect::<Vec<_>>(),
            ["scaled-object/no-common-range"]
        );
        let with_cluster =
            judged(&format!("{text}---\n{CLUSTER}  maxReplicas: 8\n")).judged(&around).await.unwrap();
        assert!(
            with_cluster.findings.iter().all(|finding| finding.severity == Severity::Warning),
            "{:?}",
            with_cluster.findings
        );
    }

    /// The definition's rules in CEL are not evaluated here: of each, what the policy says instead.
    #[tokio::test]
    async fn each_rule_of_the_definition_has_its_counterpart_in_the_policy() {
        let mut counterparts = BTreeMap::from([
            // The mutating webhook fills the count in, so nothing is stored that violates it.
            ("has(self.spec) && has(self.spec.replicas)", ("metadata: {name: a}", &[][..])),
            (
                "size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                ("metadata: {name: -a}", &["3 cluster/name-no-dns-label!"][..]),
            ),
            (
                "!has(self.replicas) || !has(self.minReplicas) || self.replicas >= self.minReplicas",
                ("metadata: {name: a}\nspec: {replicas: 1, minReplicas: 2}", &["4 scale/below-minimum!"][..]),
            ),
            (
                "!has(self.replicas) || !has(self.maxReplicas) || self.replicas <= self.maxReplicas",
                ("metadata: {name: a}\nspec: {replicas: 3, maxReplicas: 2}", &["4 scale/above-maximum!"][..]),
            ),
            (
                "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                (
                    "metadata: {name: a}\nspec: {minReplicas: 3, maxReplicas: 2}",
                    &["4 cluster/minimum-above-maximum!"][..],
                ),
            ),
            (
                "has(self.claim) != has(self.existingClaim)",
                ("metadata: {name: a}\nspec: {modelCache: {}}", &["4 cluster/cache-of-one-kind!"][..]),
            ),
            (
                "has(self.claim) || !has(self.retention)",
                (
                    "metadata: {name: a}\nspec: {modelCache: {existingClaim: c, retention: {}}}",
                    &["4 cluster/retention-without-claim!"][..],
                ),
            ),
            (
                "!has(self.maxUnavailable) || !has(self.type) || self.type == 'RollingUpdate'",
                (
                    "metadata: {name: a}\nspec: {updateStrategy: {type: OnDelete, maxUnavailable: 1}}",
                    &["4 cluster/max-unavailable-on-delete!"][..],
                ),
            ),
            (
                "!has(self.servedModelName) || has(self.model)",
                (
                    "metadata: {name: a}\nspec: {servedModelName: b}",
                    &["4 cluster/served-name-of-nothing!"][..],
                ),
            ),
            (
                "has(self.minAvailable) != has(self.maxUnavailable)",
                ("metadata: {name: a}\nspec: {disruptionBudget: {}}", &["4 cluster/budget-of-one-kind!"][..]),
            ),
        ]);
        let mut rules = Vec::new();
        collect_rules(&definition(), &mut rules);
        // What a change may do is no question of a fresh write.
        rules.retain(|rule| !rule.contains("oldSelf"));
        for rule in rules {
            let (manifest, expected) = counterparts
                .remove(rule.as_str())
                .unwrap_or_else(|| panic!("say here what the policy finds instead of {rule}"));
            let text = format!(
                "apiVersion: training.distributed-inference.io/v1alpha1\nkind: VLLMCluster\n{manifest}\n"
            );
            assert_eq!(found(&text).await, expected, "{rule}");
        }
        assert_eq!(counterparts.len(), 0, "the definition has no such rule: {counterparts:?}");
    }

    fn collect_rules(node: &Value, rules: &mut Vec<String>) {
        match node {
            Value::Object(fields) => {
                for rule in
                    fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
                {
                    rules.extend(rule["rule"].as_str().map(str::to_owned));
                }
                fields.values().for_each(|field| collect_rules(field, rules));
            }
            Value::Array(items) => items.iter().for_each(|item| collect_rules(item, rules)),
            _ => {}
        }
    }
}
