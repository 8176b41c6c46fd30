//! What is reported, case by case.

use rstest::rstest;

use super::super::CallError;
use super::*;
use crate::objects::fixture::validated;

/// The status of a cluster that wants so many replicas, that had this one, and whose StatefulSet came to this at that second.
fn told(replicas: i32, before: &VLLMClusterStatus, set: Outcome, second: i64) -> VLLMClusterStatus {
    status(&validated(replicas), before, &applied(set), &Drivers::default(), at(second))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

/// A StatefulSet as its controller reports it.
fn set(generation: i64, observed: i64, replicas: i32, ready: i32, updated: i32, rolled: bool) -> Outcome {
    Outcome::Done(json!({
        "metadata": {"generation": generation},
        "status": {
            "observedGeneration": observed, "replicas": replicas, "readyReplicas": ready, "updatedReplicas": updated,
            "currentRevision": if rolled { "b" } else { "a" }, "updateRevision": "b",
        },
    }))
}

fn applied(set: Outcome) -> Applied {
    Applied {
        outcomes: [set, Outcome::Done(json!({})), Outcome::Done(json!({})), Outcome::Absent],
        set_before: None,
        cause: None,
    }
}

/// As [`applied`], where the StatefulSet was to be written over `before`.
fn over(before: Outcome, set: Outcome) -> Applied {
    let Outcome::Done(before) = before else { panic!("{before:?}") };
    Applied { set_before: Some(before), ..applied(set) }
}

/// The same StatefulSet with these pods.
fn with_template(set: Outcome, template: &Value) -> Outcome {
    let Outcome::Done(mut live) = set else { panic!("{set:?}") };
    live["spec"]["template"] = template.clone();
    Outcome::Done(live)
}

fn condition<'a>(status: &'a VLLMClusterStatus, kind: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == kind).unwrap()
}

fn holds(status: &VLLMClusterStatus) -> [bool; 3] {
    [CONDITION_READY, CONDITION_RECONCILING, CONDITION_STALLED]
        .map(|kind| condition(status, kind).status == "True")
}

fn refused(code: u16) -> CallError {
    let status = json!({"status": "Failure", "message": "quota", "reason": "Forbidden", "code": code});
    CallError::Api(
        "applying StatefulSet my-cluster".into(),
        kube::Error::Api(serde_json::from_value(status).unwrap()),
    )
}

/// Conditions of a cluster that wants 3: Ready, Reconciling, Stalled.
#[rstest]
#[case::just_made(set(1, 0, 0, 0, 0, true), [false, true, false])]
#[case::pods_start(set(1, 1, 3, 0, 3, true), [false, true, false])]
#[case::one_serves(set(1, 1, 3, 1, 3, true), [true, true, false])]
#[case::all_serve(set(1, 1, 3, 3, 3, true), [true, false, false])]
#[case::shrinking(set(2, 2, 5, 5, 5, true), [true, true, false])]
#[case::rolling_out(set(2, 2, 3, 3, 1, false), [true, true, false])]
#[case::old_revision_left(set(2, 2, 3, 3, 3, false), [true, true, false])]
#[case::on_its_way_out(Outcome::Waiting, [false, true, false])]
#[case::of_another(Outcome::Foreign("Deployment \"x\"".into()), [false, false, true])]
#[case::refused_for_good(Outcome::Failed(refused(422)), [false, false, true])]
#[case::refused_for_now(Outcome::Failed(refused(500)), [false, true, false])]
fn conditions_of(#[case] set: Outcome, #[case] expected: [bool; 3]) {
    let status = told(3, &VLLMClusterStatus::default(), set, 0);
    assert_eq!(holds(&status), expected, "{:#?}", status.conditions);
    assert_eq!(status.selector, "app=vllm-cluster,cluster=my-cluster,component=vllm-server");
    assert_eq!(status.observed_generation, Some(1));
}

#[rstest]
#[case::scaling(set(2, 2, 5, 5, 5, true), "Scaling", "5 pods exist, 3 are wanted")]
#[case::rolling_out(set(2, 2, 3, 3, 1, false), "RollingOut", "1 of 3 pods run the current spec")]
#[case::starting(set(1, 1, 3, 1, 3, true), "Starting", "1 of 3 pods are ready")]
#[case::not_seen(set(2, 1, 3, 3, 3, true), "Progressing", "has not seen the spec yet")]
fn why_it_is_reconciling(#[case] set: Outcome, #[case] reason: &str, #[case] says: &str) {
    let status = told(3, &VLLMClusterStatus::default(), set, 0);
    let condition = condition(&status, CONDITION_RECONCILING);
    assert_eq!(condition.reason, reason);
    assert!(condition.message.contains(says), "{condition:?}");
}

#[test]
fn ready_needs_the_lower_bound() {
    let mut cluster = validated(3);
    cluster.spec.min_replicas = Some(2);
    let one = status(
        &cluster,
        &VLLMClusterStatus::default(),
        &applied(set(1, 1, 3, 1, 3, true)),
        &Drivers::default(),
        at(0),
    );
    assert!(!holds(&one)[0]);
    let two = status(&cluster, &one, &applied(set(1, 1, 3, 2, 3, true)), &Drivers::default(), at(1));
    assert!(holds(&two)[0]);
}

#[test]
fn growth_does_not_make_a_serving_cluster_unready() {
    let serving = told(1, &VLLMClusterStatus::default(), set(1, 1, 1, 1, 1, true), 0);
    assert_eq!(holds(&serving), [true, false, false]);
    // The StatefulSet has its new spec, and its controller has not looked yet.
    let growing = told(4, &serving, set(2, 1, 1, 1, 1, true), 9);
    assert_eq!(holds(&growing), [true, true, false]);
    assert_eq!(condition(&growing, CONDITION_READY).last_transition_time, Time(at(0)));
    // Without having been ready, the same counts are not enough.
    let unknown = told(4, &VLLMClusterStatus::default(), set(2, 1, 1, 1, 1, true), 9);
    assert!(!holds(&unknown)[0]);
}

/// A cluster of 3 that needs 2, mid-rollout: what is ready may all be of the old revision.
#[rstest]
#[case::none_new(set(2, 2, 3, 3, 0, false), false, "RollingOut")]
#[case::new_one_broken(set(2, 2, 3, 2, 1, false), false, "RollingOut")]
#[case::one_new_serves(set(2, 2, 3, 3, 1, false), false, "RollingOut")]
#[case::two_new_serve(set(2, 2, 3, 3, 2, false), true, "EnoughReplicas")]
#[case::too_few_at_all(set(2, 2, 3, 1, 1, false), false, "NotEnoughReplicas")]
#[case::shrinking_without_rollout(set(2, 2, 5, 3, 3, true), true, "EnoughReplicas")]
fn ready_counts_pods_of_the_current_spec(#[case] set: Outcome, #[case] ready: bool, #[case] reason: &str) {
    let mut cluster = validated(3);
    cluster.spec.min_replicas = Some(2);
    let status = status(&cluster, &VLLMClusterStatus::default(), &applied(set), &Drivers::default(), at(0));
    assert_eq!((holds(&status)[0], condition(&status, CONDITION_READY).reason.as_str()), (ready, reason));
}

#[test]
fn new_pods_are_not_ready_before_the_statefulset_has_taken_them() {
    let serving = told(1, &VLLMClusterStatus::default(), set(1, 1, 1, 1, 1, true), 0);
    let written = with_template(set(2, 1, 1, 1, 1, true), &json!("new"));
    let before = with_template(set(1, 1, 1, 1, 1, true), &json!("old"));
    let changed = status(&validated(1), &serving, &over(before, written), &Drivers::default(), at(1));
    assert_eq!(holds(&changed), [false, true, false]);
    assert_eq!(condition(&changed, CONDITION_READY).reason, "SpecNotTaken");
    // Seen again before the StatefulSet controller has looked: still not.
    let again = told(1, &changed, set(2, 1, 1, 1, 1, true), 2);
    assert!(!holds(&again)[0]);
}

/// A write that fails over a StatefulSet that serves, with the pods of the spec or others.
#[rstest]
#[case::growth_for_now(500, true, [true, true, false])]
#[case::growth_for_good(422, true, [true, false, true])]
#[case::new_pods_for_now(500, false, [false, true, false])]
#[case::new_pods_for_good(422, false, [false, false, true])]
fn a_failed_write_says_nothing_of_what_serves(
    #[case] code: u16,
    #[case] same_pods: bool,
    #[case] expected: [bool; 3],
) {
    let serving = told(1, &VLLMClusterStatus::default(), set(1, 1, 1, 1, 1, true), 0);
    let live = if same_pods { template(&validated(1)) } else { json!("old") };
    let before = with_template(set(1, 1, 2, 2, 2, true), &live);
    let after = status(
        &validated(4),
        &serving,
        &over(before, Outcome::Failed(refused(code))),
        &Drivers::default(),
        at(1),
    );
    assert_eq!(holds(&after), expected, "{:#?}", after.conditions);
    assert_eq!((after.replicas, after.ready_replicas), (2, 2), "the live counts");
}

#[test]
fn what_cannot_be_seen_for_a_moment_stays_ready() {
    let serving = told(1, &VLLMClusterStatus::default(), set(1, 1, 1, 1, 1, true), 0);
    let ready = |cluster: &ValidatedCluster, code| {
        holds(&status(
            cluster,
            &serving,
            &applied(Outcome::Failed(refused(code))),
            &Drivers::default(),
            at(1),
        ))[0]
    };
    let mut changed = validated(1);
    changed.generation = 2;
    assert!(ready(&validated(1), 500));
    assert!(!ready(&changed, 500), "nothing is known of another spec");
    assert!(!ready(&validated(1), 403), "somebody has to look");
    let never = VLLMClusterStatus { observed_generation: Some(1), ..VLLMClusterStatus::default() };
    let unseen = told(1, &never, Outcome::Failed(refused(500)), 1);
    assert!(!holds(&unseen)[0], "what was not ready does not become so");
}

#[test]
fn a_service_that_has_to_wait_is_reconciling() {
    let mut applied = applied(set(1, 1, 3, 3, 3, true));
    applied.outcomes[Kind::ClientService.index()] = Outcome::Waiting;
    let status = status(&validated(3), &VLLMClusterStatus::default(), &applied, &Drivers::default(), at(0));
    assert_eq!(holds(&status), [true, true, false]);
}

#[test]
fn an_unchanged_cluster_has_an_unchanged_status() {
    let first = told(3, &VLLMClusterStatus::default(), set(1, 1, 3, 3, 3, true), 0);
    let second = told(3, &first, set(1, 1, 3, 3, 3, true), 100);
    assert_eq!(patch(Some(&first), &second), None);
}

#[test]
fn a_patch_holds_what_differs() {
    let first = told(3, &VLLMClusterStatus::default(), set(1, 1, 3, 2, 3, true), 0);
    let whole = patch(None, &first).unwrap();
    assert_eq!(whole["status"]["selector"], first.selector);
    assert_eq!(whole["status"]["replicas"], 3);
    let second = told(3, &first, set(1, 1, 3, 3, 3, true), 1);
    let patch = patch(Some(&first), &second).unwrap();
    let fields: Vec<_> = patch["status"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["conditions", "readyReplicas"]);
    assert_eq!(condition(&second, CONDITION_READY).last_transition_time, Time(at(0)));
    assert_eq!(condition(&second, CONDITION_RECONCILING).last_transition_time, Time(at(1)));
}

#[test]
fn counts_stay_while_the_statefulset_cannot_be_seen() {
    let seen = told(3, &VLLMClusterStatus::default(), set(1, 1, 3, 3, 3, true), 0);
    let unseen = told(3, &seen, Outcome::Failed(refused(500)), 1);
    assert_eq!((unseen.replicas, unseen.ready_replicas), (3, 3));
    assert_eq!(unseen.stateful_set_name.as_deref(), Some("my-cluster"));
}

#[test]
fn conditions_of_others_stay() {
    let other = Condition {
        type_: "Audited".into(),
        status: "True".into(),
        reason: "Yes".into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(at(0)),
    };
    let before = VLLMClusterStatus { conditions: vec![other.clone()], ..VLLMClusterStatus::default() };
    let after = told(1, &before, Outcome::Waiting, 1);
    assert_eq!(after.conditions[0], other);
    assert_eq!(after.conditions.len(), 5);
}

#[test]
fn what_cannot_be_built_is_stalled() {
    let status = unbuildable("my-cluster", 2, &VLLMClusterStatus::default(), "the name is too long", at(0));
    assert_eq!(holds(&status), [false, false, true]);
    assert_eq!(condition(&status, CONDITION_STALLED).message, "the name is too long");
}

#[test]
fn what_slipped_past_admission_shows_in_its_own_words() {
    let before = VLLMClusterStatus::default();
    let fits = told(3, &before, set(1, 1, 3, 3, 3, true), 0);
    assert_eq!(condition(&fits, CONDITION_SCALING_CONFLICT).status, "False");
    let conflicts = Drivers { conflicts: vec!["one".to_owned(), "two".to_owned()], autoscaling: None };
    let conflict = status(&validated(3), &fits, &applied(set(1, 1, 3, 3, 3, true)), &conflicts, at(1));
    let shown = condition(&conflict, CONDITION_SCALING_CONFLICT);
    assert_eq!((shown.status.as_str(), shown.message.as_str()), ("True", "one; two"));
    // It serves all the same.
    assert_eq!(holds(&conflict), [true, false, false]);
}

#[test]
fn a_stalled_cluster_says_whose_name_it_is_and_what_the_api_server_said() {
    let foreign = Outcome::Foreign("StatefulSet \"my-cluster\" belongs to Deployment \"x\"".into());
    let stalled = told(1, &VLLMClusterStatus::default(), foreign, 0);
    let message = &condition(&stalled, CONDITION_STALLED).message;
    assert_eq!(message, "StatefulSet \"my-cluster\" belongs to Deployment \"x\"");
    let stalled = told(1, &VLLMClusterStatus::default(), Outcome::Failed(refused(422)), 0);
    assert_eq!(condition(&stalled, CONDITION_STALLED).message, "applying StatefulSet my-cluster: quota");
}

#[test]
fn a_missing_service_is_not_up_to_date() {
    let mut applied = applied(set(1, 1, 1, 1, 1, true));
    applied.outcomes[Kind::ClientService.index()] = Outcome::Foreign("Service is another's".into());
    let status = status(&validated(1), &VLLMClusterStatus::default(), &applied, &Drivers::default(), at(0));
    assert_eq!(condition(&status, CONDITION_RECONCILING).reason, "Stalled");
    assert_eq!(holds(&status), [true, false, true]);
}

#[test]
fn messages_of_any_length_fit_into_the_status() {
    let conflicts = Drivers { conflicts: vec!["x".repeat(1000); 1000], autoscaling: None };
    let status = status(
        &validated(1),
        &VLLMClusterStatus::default(),
        &applied(set(1, 1, 1, 1, 1, true)),
        &conflicts,
        at(0),
    );
    let message = &condition(&status, CONDITION_SCALING_CONFLICT).message;
    assert!(message.chars().count() < MAX_MESSAGE + 40, "{}", message.len());
    assert!(message.ends_with("more characters)"));
}
