//! What a VLLMCluster asks of its pods: judged by the policy, by what its writer may do, and by the API server.
//!
//! Architecture invariant: asks the API server only about what this write changes, and only in the validating phase,
//! which sees what will be stored.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ObjectMeta;
use serde::Deserialize;
use serde_json::value::RawValue;
use webhook::review::Request;

use crate::api::{VLLMCluster, VLLMClusterSpec};
use crate::objects::statefulset::statefulset;
use crate::objects::{ValidatedCluster, budget, origin};
use crate::policy::workload::{check, lent, not_taken, not_theirs_to_lend, unreadable};
use crate::policy::{Clause, Outcome};
use crate::world::live::LiveError;

use super::{Admission, Phase, budget as time_left};

/// The whole spec as it is written; `None` where there is no object.
fn spec(raw: Option<&RawValue>) -> Option<&str> {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow)]
        spec: Option<&'a RawValue>,
    }

    let part: Part<'_> = serde_json::from_str(raw?.get()).ok()?;
    Some(part.spec.map_or("{}", RawValue::get))
}

impl Admission {
    /// Adds to the outcome of a write what is wrong with the workload that it asks for.
    pub(super) async fn workload(
        &self,
        phase: Phase,
        request: &Request<'_>,
        name: &str,
        outcome: &mut Outcome,
    ) -> Result<(), LiveError> {
        let (Some(new_text), old_text) = (spec(request.object), spec(request.old_object)) else {
            return Ok(());
        };
        let new: VLLMClusterSpec = match (serde_json::from_str(new_text), phase) {
            (Ok(new), _) => new,
            // The schema has a better sentence for most of what cannot be read. What it lets pass, nobody could judge.
            (Err(error), Phase::Validating) => {
                outcome.add_refusal(unreadable(&error.to_string()));
                return Ok(());
            }
            (Err(_), Phase::Mutating) => return Ok(()),
        };
        // A label or an annotation leaves the spec as it was, to the letter.
        let unchanged = old_text == Some(new_text);
        let read = old_text.filter(|_| !unchanged).and_then(|text| serde_json::from_str(text).ok());
        let old = if unchanged { Some(&new) } else { read.as_ref() };
        let judged = check(&new, old, self.host_access);
        let sound = judged.allowed();
        outcome.refusals.extend(judged.refusals);
        match phase {
            // The validating webhook says the warnings.
            Phase::Mutating => return Ok(()),
            Phase::Validating => outcome.warnings.extend(judged.warnings),
        }
        if unchanged {
            return Ok(());
        }
        if let Some(field) = lent(&new, old).filter(|_| Clause::WriterIsAsked.in_force()) {
            let user = &request.user;
            if !self.live.may_create_statefulsets(&request.namespace, user, time_left(request)).await? {
                outcome.add_refusal(not_theirs_to_lend(field, &user.username, &request.namespace));
            }
        }
        // What the policy refuses already would only be said twice.
        if sound && needs_trial(&new) {
            // Boxed, as the objects in it are large.
            Box::pin(self.try_objects(request, name, new, read, outcome)).await?;
        }
        Ok(())
    }

    /// Has the API server judge what would be made of a spec, as far as the write changes it.
    async fn try_objects(
        &self,
        request: &Request<'_>,
        name: &str,
        new: VLLMClusterSpec,
        old: Option<VLLMClusterSpec>,
        outcome: &mut Outcome,
    ) -> Result<(), LiveError> {
        let namespace = request.namespace.as_ref();
        let objects = |spec| objects(namespace, name, spec);
        let Some(Objects { set, budget, cluster }) = objects(new) else { return Ok(()) };
        let before = old.and_then(objects);
        if before.as_ref().is_none_or(|before| before.set != set) {
            let template = serde_json::to_value(&cluster.template).unwrap_or_default();
            let spec = serde_json::to_value(&cluster.spec).unwrap_or_default();
            for (field, message) in self.live.faults_of(namespace, &set, time_left(request)).await? {
                let origin = origin::of_stateful_set(&field, &template, &spec);
                outcome.add_refusal(not_taken(origin, &sent("StatefulSet", &field), &message));
            }
        }
        if let Some(budget) = budget
            && before.is_none_or(|before| before.budget.as_ref() != Some(&budget))
        {
            for (field, message) in self.live.faults_of(namespace, &budget, time_left(request)).await? {
                let origin = origin::of_budget(&field);
                outcome.add_refusal(not_taken(origin, &sent("PodDisruptionBudget", &field), &message));
            }
        }
        Ok(())
    }
}

/// What the API server was sent: the field of an object, or all of it.
fn sent(kind: &str, field: &str) -> String {
    if field.is_empty() { format!("the {kind}") } else { format!("{field} of the {kind}") }
}

/// Whether a spec states anything that the schema and the policy cannot judge to the end.
fn needs_trial(spec: &VLLMClusterSpec) -> bool {
    let limited = spec.update_strategy.as_ref().is_some_and(|strategy| strategy.max_unavailable.is_some());
    spec.pod_template.is_some()
        || spec.resources.is_some()
        || spec.accelerator.is_some()
        || spec.hugging_face_token.is_some()
        || spec.model_cache.is_some()
        || spec.shared_memory_size.is_some()
        || spec.disruption_budget.is_some()
        || !spec.env.is_empty()
        || !spec.env_from.is_empty()
        || limited
}

/// What would be made of a spec.
struct Objects {
    cluster: ValidatedCluster,
    set: StatefulSet,
    budget: Option<PodDisruptionBudget>,
}

/// The objects of a cluster whatever its count, and without the owner that it is only to become. `None`: no pods can be built,
/// which the policy or the controller says.
fn objects(namespace: &str, name: &str, spec: VLLMClusterSpec) -> Option<Objects> {
    let metadata = ObjectMeta {
        // A name that the API server is still to complete is as good as any.
        name: Some(if name.is_empty() { "unnamed" } else { name }.to_owned()),
        namespace: Some(namespace.to_owned()),
        uid: Some(String::new()),
        ..ObjectMeta::default()
    };
    let spec = VLLMClusterSpec { replicas: Some(1), ..spec };
    let cluster = ValidatedCluster::try_from(&VLLMCluster { metadata, spec, status: None }).ok()?;
    let mut set = statefulset(&cluster);
    set.metadata.owner_references = None;
    let mut budget = budget::budget(&cluster);
    if let Some(budget) = &mut budget {
        budget.metadata.owner_references = None;
    }
    Some(Objects { cluster, set, budget })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::{Fixture, Reply, recorded, review};
    use super::*;

    const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    const SETS: &str = "/apis/apps/v1/namespaces/t/statefulsets";
    const BUDGETS: &str = "/apis/policy/v1/namespaces/t/poddisruptionbudgets";

    fn server(may: bool, dry_run: Reply) -> Fixture {
        Fixture::new([
            (ACCESS, Reply::Object(json!({"spec": {}, "status": {"allowed": may}}))),
            (SETS, dry_run.clone()),
            (BUDGETS, dry_run),
        ])
    }

    fn taken() -> Reply {
        Reply::Object(json!({"metadata": {}}))
    }

    /// A write of a cluster with this spec, over one with that.
    fn write(old: Option<&Value>, new: &Value) -> Value {
        let mut review = review(recorded::CREATE_WITHOUT_COUNT);
        let request = &mut review["request"];
        request["namespace"] = json!("t");
        let mut with = |spec: &Value| {
            let mut object = request["object"].clone();
            object["spec"] = spec.clone();
            object["spec"]["replicas"] = json!(1);
            object
        };
        let (old, new) = (old.map(&mut with), with(new));
        if let Some(old) = old {
            request["operation"] = json!("UPDATE");
            request["oldObject"] = old;
        }
        request["object"] = new;
        review
    }

    #[tokio::test]
    async fn a_secret_is_lent_by_those_alone_who_may_start_pods() {
        let token = json!({"huggingFaceToken": {"secretName": "s"}});
        let refused = server(false, taken()).answer(Phase::Validating, &write(None, &token)).await;
        assert_eq!(refused["allowed"], false);
        let text = refused["status"]["message"].as_str().unwrap();
        assert!(text.contains("spec.huggingFaceToken: it gives pods what"), "{text}");
        assert!(text.contains("permission to create StatefulSets in namespace \"t\""), "{text}");
        let passes = server(true, taken()).answer(Phase::Validating, &write(None, &token)).await;
        assert_eq!(passes["allowed"], true);
    }

    #[tokio::test]
    async fn another_use_of_a_secret_is_lent_anew() {
        let token = json!({"huggingFaceToken": {"secretName": "s"}});
        let mut other = token.clone();
        other["args"] = json!(["--x=$(HF_TOKEN)"]);
        let refused = server(false, taken()).answer(Phase::Validating, &write(Some(&token), &other)).await;
        assert!(
            refused["status"]["message"].as_str().unwrap().contains("spec.huggingFaceToken: it gives pods")
        );
        let mut more = token.clone();
        more["maxReplicas"] = json!(9);
        let passes = server(false, taken()).answer(Phase::Validating, &write(Some(&token), &more)).await;
        assert_eq!(passes["allowed"], true);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_refused_once_the_schema_has_let_it_pass() {
        let unreadable = json!({"updateStrategy": {"maxUnavailable": 9_999_999_999_i64}});
        let answer = server(true, taken()).answer(Phase::Mutating, &write(None, &unreadable)).await;
        assert_eq!(answer["allowed"], true);
        let answer = server(true, taken()).answer(Phase::Validating, &write(None, &unreadable)).await;
        let text = answer["status"]["message"].as_str().unwrap();
        assert!(text.contains("spec: it cannot be read: ") && text.contains("9999999999"), "{text}");
    }

    #[tokio::test]
    async fn a_budget_is_tried_where_it_changes() {
        let causes = json!([{"field": "spec.minAvailable", "message": "Invalid value: \"150%\"", "reason": "FieldValueInvalid"}]);
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid", "message": "no", "details": {"causes": causes}});
        let fixture = Fixture::new([(SETS, taken()), (BUDGETS, Reply::Status(422, status))]);
        let budget = json!({"disruptionBudget": {"minAvailable": "150%"}});
        let answer = fixture.answer(Phase::Validating, &write(Some(&json!({})), &budget)).await;
        assert_eq!(
            answer["status"]["details"]["causes"][0]["field"], "spec.disruptionBudget.minAvailable",
            "{answer}"
        );
        // The pods are what they were.
        assert_eq!(fixture.asked(), [BUDGETS]);
    }

    #[tokio::test]
    async fn nobody_is_asked_about_what_a_write_leaves_as_it_was() {
        let same = json!({"huggingFaceToken": {"secretName": "s"}, "env": [{"name": "A", "value": "1"}]});
        let fixture = server(false, Reply::Failure(500));
        let answer = fixture.answer(Phase::Validating, &write(Some(&same), &same)).await;
        assert_eq!((&answer["allowed"], fixture.asked()), (&json!(true), Vec::new()));
        // And the mutating webhook asks nothing at all.
        let answer = fixture.answer(Phase::Mutating, &write(None, &same)).await;
        assert_eq!((&answer["allowed"], fixture.asked()), (&json!(true), Vec::new()));
    }

    #[tokio::test]
    async fn what_the_api_server_does_not_take_is_refused_at_its_field() {
        let causes = json!([{"field": "spec.template.spec.containers[0].imagePullPolicy", "message": "Unsupported value", "reason": "FieldValueNotSupported"}]);
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid", "message": "no", "details": {"causes": causes}});
        let fixture = server(true, Reply::Status(422, status));
        let template = json!({"podTemplate": {"spec": {"containers": [{"name": "vllm", "imagePullPolicy": "Sometimes"}]}}});
        let answer = fixture.answer(Phase::Validating, &write(None, &template)).await;
        let cause = &answer["status"]["details"]["causes"][0];
        assert_eq!(cause["field"], "spec.podTemplate.spec.containers[0].imagePullPolicy", "{answer}");
        assert_eq!(fixture.asked(), [ACCESS, SETS]);
        // A quota on PodTemplates says nothing of this one.
        let answer =
            server(true, Reply::Failure(403)).answer(Phase::Validating, &write(None, &template)).await;
        assert_eq!(answer["allowed"], true);
        let answer =
            server(true, Reply::Failure(500)).answer(Phase::Validating, &write(None, &template)).await;
        assert!(answer["status"]["message"].as_str().unwrap().contains("try again"), "{answer}");
    }
}
