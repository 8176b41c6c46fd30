//! What a VLLMCluster asks of its pods: judged by the policy, by what its writer may do, and by the API server.
//!
//! Architecture invariant: asks the API server only about what this write changes, and only in the validating phase,
//! which sees what will be stored.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodTemplateSpec, Volume};
use serde::Deserialize;
use serde_json::value::RawValue;
use webhook::review::Request;

use crate::api::VLLMClusterSpec;
use crate::objects::pod::CACHE;
use crate::objects::{labels, pod};
use crate::policy::workload::{borrowed, check, not_taken, not_theirs_to_lend};
use crate::policy::{Clause, Outcome};
use crate::world::live::LiveError;

use super::{Admission, Phase, budget};

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    spec: VLLMClusterSpec,
}

/// The whole spec; `None` if it cannot be read, which the schema refuses with a better sentence.
fn spec(raw: Option<&RawValue>) -> Option<VLLMClusterSpec> {
    serde_json::from_str::<Part>(raw?.get()).ok().map(|part| part.spec)
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
        let Some(new) = spec(request.object) else { return Ok(()) };
        let old = spec(request.old_object);
        let judged = check(&new, old.as_ref(), self.host_access);
        let sound = judged.allowed();
        outcome.refusals.extend(judged.refusals);
        match phase {
            // The validating webhook says the warnings.
            Phase::Mutating => return Ok(()),
            Phase::Validating => outcome.warnings.extend(judged.warnings),
        }
        if let Some(field) = borrowed(&new, old.as_ref()).filter(|_| Clause::WriterIsAsked.in_force()) {
            let user = &request.user;
            if !self.live.may_create_statefulsets(&request.namespace, user, budget(request)).await? {
                outcome.add_refusal(not_theirs_to_lend(field, &user.username, &request.namespace));
            }
        }
        let template = template(name, &new);
        let changed = old.is_none_or(|old| self::template(name, &old) != template);
        let stated = new.pod_template.is_some()
            || new.resources.is_some()
            || !new.env.is_empty()
            || !new.env_from.is_empty();
        // What the policy refuses already would only be said twice.
        if let Some(template) = template.filter(|_| sound && stated && changed) {
            let faults = self.live.faults_of_template(&request.namespace, template, budget(request)).await?;
            for (field, message) in faults {
                outcome.add_refusal(not_taken(new.pod_template.is_some(), &field, &message));
            }
        }
        Ok(())
    }
}

/// The template as a pod would have it. The volume of a claim of each replica is added by the StatefulSet controller;
/// without one of that name, the API server would not take what mounts it.
fn template(name: &str, spec: &VLLMClusterSpec) -> Option<PodTemplateSpec> {
    let mut template = pod::template(labels(name), spec).ok()?;
    if spec.model_cache.as_ref().is_some_and(|cache| cache.claim.is_some())
        && let Some(pod) = &mut template.spec
    {
        pod.volumes.get_or_insert_default().push(Volume {
            name: CACHE.into(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    Some(template)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::{Fixture, Reply, recorded, review};
    use super::*;

    const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    const TEMPLATES: &str = "/api/v1/namespaces/t/podtemplates";

    fn server(may: bool, dry_run: Reply) -> Fixture {
        Fixture::new([
            (ACCESS, Reply::Object(json!({"spec": {}, "status": {"allowed": may}}))),
            (TEMPLATES, dry_run),
        ])
    }

    #[test]
    fn every_mount_of_the_template_has_its_volume() {
        for cache in [json!({"claim": {"size": "1Gi"}}), json!({"existingClaim": "models"})] {
            let spec = serde_json::from_value(json!({"modelCache": cache})).unwrap();
            let pod = serde_json::to_value(template("a", &spec).unwrap()).unwrap()["spec"].take();
            let names = |list: &Value| -> Vec<_> {
                list.as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect()
            };
            assert_eq!(names(&pod["volumes"]), names(&pod["containers"][0]["volumeMounts"]), "{cache}");
        }
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
        let causes = json!([{"field": "template.spec.containers[0].imagePullPolicy", "message": "Unsupported value", "reason": "FieldValueNotSupported"}]);
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid", "message": "no", "details": {"causes": causes}});
        let fixture = server(true, Reply::Status(422, status));
        let template = json!({"podTemplate": {"spec": {"containers": [{"name": "vllm", "imagePullPolicy": "Sometimes"}]}}});
        let answer = fixture.answer(Phase::Validating, &write(None, &template)).await;
        let cause = &answer["status"]["details"]["causes"][0];
        assert_eq!(cause["field"], "spec.podTemplate.spec.containers[0].imagePullPolicy", "{answer}");
        assert_eq!(fixture.asked(), [ACCESS, TEMPLATES]);
        // A quota on PodTemplates says nothing of this one.
        let answer =
            server(true, Reply::Failure(403)).answer(Phase::Validating, &write(None, &template)).await;
        assert_eq!(answer["allowed"], true);
        let answer =
            server(true, Reply::Failure(500)).answer(Phase::Validating, &write(None, &template)).await;
        assert!(answer["status"]["message"].as_str().unwrap().contains("try again"), "{answer}");
    }
}
