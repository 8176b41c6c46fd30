//! Plan: from what should be and what is, what to write.
//!
//! An object that exists and is not ours is never touched; one that already states all we want is not written.
//!
//! Architecture invariant: a plain function; it holds for any two snapshots, so that a write made twice, or from
//! old knowledge, is harmless.

use json_patch::Patch;
use serde_json::Value;

use crate::api::names::{GROUP, KIND, LABEL_CLUSTER, LABEL_MANAGED_BY, OPERATOR};
use crate::objects::{ValidatedCluster, budget, service, statefulset};

use super::Kind;
use super::difference::{DIGEST, stamp, states_all};
use super::observe::Observed;
use super::ports::renumbered;

/// What to do about one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is as it should be.
    Keep,
    /// It is missing or differs: apply this.
    Apply(Value),
    /// A port of it has another number than ours, which no apply could put right: this JSON patch does. All else that
    /// differs is applied when that write has been seen.
    Renumber(Patch),
    /// It is on its way out, and is made anew once it is gone.
    Wait,
    /// It is not ours: whose it is and what to do, for the condition.
    Foreign(String),
    /// It is not asked for, and there is none of ours.
    Absent,
    /// It is not asked for any more: delete the one of this uid.
    Remove(String),
    /// It could not be read. Written blindly, it might be somebody else's.
    Unread,
}

/// A step for each kind of object.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// By [`Kind::index`].
    pub steps: [Step; Kind::ALL.len()],
}

/// What to write for a cluster.
pub fn plan(cluster: &ValidatedCluster, observed: &Observed) -> Plan {
    Plan {
        steps: Kind::ALL.map(|kind| match (desired(kind, cluster), &observed.live[kind.index()]) {
            (_, Err(_)) => Step::Unread,
            (Some(mut desired), Ok(live)) => {
                stamp(&mut desired);
                step(kind, cluster, desired, live.as_ref())
            }
            (None, Ok(live)) => unwanted(cluster, live.as_ref()),
        }),
    }
}

/// The object of one kind, as it is applied but for the digest; `None`: the cluster asks for none.
fn desired(kind: Kind, cluster: &ValidatedCluster) -> Option<Value> {
    let json = match kind {
        Kind::StatefulSet => serde_json::to_value(statefulset::statefulset(cluster)),
        Kind::HeadlessService => serde_json::to_value(service::headless(cluster)),
        Kind::ClientService => serde_json::to_value(service::client(cluster)),
        Kind::Budget => serde_json::to_value(budget::budget(cluster)?),
    };
    // The API's own types have string keys only.
    Some(json.expect("an object has a JSON form"))
}

/// What to do about an object that the cluster does not ask for.
fn unwanted(cluster: &ValidatedCluster, live: Option<&Value>) -> Step {
    let Some(metadata) = live.map(|live| &live["metadata"]) else { return Step::Absent };
    let ours = controller_of(metadata).is_some_and(|owner| owner["uid"] == cluster.uid.as_str());
    match metadata["uid"].as_str() {
        Some(uid) if ours && metadata["deletionTimestamp"].is_null() => Step::Remove(uid.to_owned()),
        _ => Step::Absent,
    }
}

fn controller_of(metadata: &Value) -> Option<&Value> {
    metadata["ownerReferences"]
        .as_array()
        .and_then(|owners| owners.iter().find(|owner| owner["controller"] == Value::Bool(true)))
}

fn step(kind: Kind, cluster: &ValidatedCluster, desired: Value, live: Option<&Value>) -> Step {
    let Some(live) = live else { return Step::Apply(desired) };
    let metadata = &live["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let going = !metadata["deletionTimestamp"].is_null();
    match controller_of(metadata) {
        Some(owner) if owner["uid"] == cluster.uid.as_str() => {
            if going {
                Step::Wait
            } else if states_all(&desired, live) {
                Step::Keep
            } else {
                renumbered(&desired, live).map_or(Step::Apply(desired), Step::Renumber)
            }
        }
        // Left over from a deleted cluster of the same name: garbage collection takes it.
        Some(owner) if is_cluster(owner) && owner["name"] == cluster.name.as_str() => Step::Wait,
        Some(owner) => Step::Foreign(format!(
            "{kind} {name:?} belongs to {} {:?}, and this VLLMCluster needs the name; create the VLLMCluster under another name",
            owner["kind"].as_str().unwrap_or_default(),
            owner["name"].as_str().unwrap_or_default()
        )),
        None if going => Step::Wait,
        // Deletion that left it behind, a restore without owner references, or a hand that took them away.
        None if bears_our_marks(cluster, metadata) => Step::Apply(desired),
        // The API server's own Service comes back whenever it is deleted.
        None if kind == Kind::ClientService && name == "kubernetes" && cluster.namespace == "default" => {
            Step::Foreign(format!(
                "{kind} {name:?} is the API server's own; create the VLLMCluster under another name"
            ))
        }
        None => Step::Foreign(format!(
            "{kind} {name:?} was not made by this operator, and this VLLMCluster needs the name; delete the {kind}, or create the VLLMCluster under another name"
        )),
    }
}

/// Whether an object without owner was made by this operator, for a cluster of this name.
fn bears_our_marks(cluster: &ValidatedCluster, metadata: &Value) -> bool {
    metadata["annotations"][DIGEST].is_string()
        && metadata["labels"][LABEL_MANAGED_BY] == OPERATOR
        && metadata["labels"][LABEL_CLUSTER] == cluster.name.as_str()
}

/// Whether an owner reference names a `VLLMCluster` of ours; other groups may have a kind of that name.
fn is_cluster(owner: &Value) -> bool {
    let group = owner["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    owner["kind"] == KIND && group.is_some_and(|(group, _)| group == GROUP)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::CallError;
    use super::*;
    use crate::objects::fixture::{validated, with};

    fn nothing() -> Observed {
        Observed { live: Kind::ALL.map(|_| Ok(None)), cause: Ok(None) }
    }

    /// What exists after the plan was carried out, with some of the API server's defaults.
    fn carried_out(cluster: &ValidatedCluster) -> Observed {
        let mut observed = nothing();
        for (kind, step) in Kind::ALL.into_iter().zip(plan(cluster, &nothing()).steps) {
            let Step::Apply(mut live) = step else { continue };
            live["metadata"]["uid"] = json!("u-2");
            live["metadata"]["resourceVersion"] = json!("7");
            live["metadata"]["labels"]["of-another"] = json!("label");
            if kind == Kind::StatefulSet {
                let pod = &mut live["spec"]["template"]["spec"];
                pod["restartPolicy"] = json!("Always");
                pod["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
                pod["containers"][0]["ports"][0]["protocol"] = json!("TCP");
                live["spec"]["updateStrategy"]["rollingUpdate"] = json!({"partition": 0});
                live["status"] = json!({"replicas": 2});
            } else if kind != Kind::Budget {
                live["spec"]["sessionAffinity"] = json!("None");
                live["spec"]["ports"][0]["protocol"] = json!("TCP");
            }
            observed.live[kind.index()] = Ok(Some(live));
        }
        observed
    }

    fn set(observed: &mut Observed) -> &mut Value {
        live(observed, Kind::StatefulSet)
    }

    fn live(observed: &mut Observed, kind: Kind) -> &mut Value {
        observed.live[kind.index()].as_mut().unwrap().as_mut().unwrap()
    }

    #[test]
    fn nothing_there_applies_all_three() {
        let plan = plan(&validated(2), &nothing());
        assert!(plan.steps[..3].iter().all(|step| matches!(step, Step::Apply(_))), "{plan:?}");
        assert_eq!(plan.steps[3], Step::Absent);
    }

    #[test]
    fn what_was_applied_is_kept() {
        let cluster = validated(2);
        assert_eq!(
            plan(&cluster, &carried_out(&cluster)).steps,
            [Step::Keep, Step::Keep, Step::Keep, Step::Absent]
        );
    }

    #[test]
    fn drift_and_change_are_applied_and_touch_nothing_else() {
        type Change = fn(&mut Value);
        let cluster = validated(2);
        let changes: [(&str, Change); 4] = [
            ("replicas", |set| set["spec"]["replicas"] = json!(9)),
            ("image", |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other")),
            ("label", |set| set["metadata"]["labels"]["cluster"] = json!("other")),
            ("argument", |set| set["spec"]["template"]["spec"]["containers"][0]["args"] = json!([])),
        ];
        for (what, change) in changes {
            let mut observed = carried_out(&cluster);
            change(set(&mut observed));
            let steps = plan(&cluster, &observed).steps;
            assert!(matches!(steps[0], Step::Apply(_)), "{what}");
            assert_eq!(steps[1..], [Step::Keep, Step::Keep, Step::Absent], "{what}");
        }
    }

    #[test]
    fn drift_of_a_service_is_applied() {
        let cluster = validated(2);
        for (place, kind) in [(1, Kind::HeadlessService), (2, Kind::ClientService)] {
            let mut observed = carried_out(&cluster);
            live(&mut observed, kind)["spec"]["ports"][0]["port"] = json!(80);
            let steps = plan(&cluster, &observed).steps;
            for (at, step) in steps.iter().enumerate() {
                assert_eq!(matches!(step, Step::Apply(_)), at == place, "{kind}: {steps:?}");
            }
        }
    }

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let cluster = validated(2);
        let mut observed = carried_out(&cluster);
        observed.live[0] = Err(CallError::Timeout("reading".into()));
        assert_eq!(plan(&cluster, &observed).steps, [Step::Unread, Step::Keep, Step::Keep, Step::Absent]);
    }

    #[test]
    fn what_is_no_longer_stated_is_applied() {
        let cluster =
            with(2, |spec| spec.resources = serde_json::from_value(json!({"limits": {"cpu": "2"}})).unwrap());
        let observed = carried_out(&cluster);
        assert_eq!(plan(&cluster, &observed).steps[0], Step::Keep);
        let cluster = validated(2);
        assert!(matches!(plan(&cluster, &observed).steps[0], Step::Apply(_)));
    }

    #[test]
    fn a_budget_comes_and_goes_with_its_field() {
        let at = Kind::Budget.index();
        let with_budget = with(2, |spec| {
            spec.disruption_budget = serde_json::from_value(json!({"minAvailable": 1})).unwrap();
        });
        assert!(matches!(plan(&with_budget, &nothing()).steps[at], Step::Apply(_)));
        let mut observed = carried_out(&with_budget);
        assert_eq!(plan(&with_budget, &observed).steps[at], Step::Keep);
        let without = validated(2);
        assert_eq!(plan(&without, &observed).steps[at], Step::Remove("u-2".into()));
        // One of somebody else's stays.
        live(&mut observed, Kind::Budget)["metadata"]["ownerReferences"] = Value::Null;
        assert_eq!(plan(&without, &observed).steps[at], Step::Absent);
    }

    #[test]
    fn what_belongs_to_others_is_not_touched() {
        let cluster = validated(2);
        let mut observed = carried_out(&cluster);
        set(&mut observed)["metadata"]["ownerReferences"] =
            json!([{"kind": "Deployment", "name": "x", "uid": "u-9", "controller": true}]);
        let belongs = "StatefulSet \"my-cluster\" belongs to Deployment \"x\"";
        assert!(says(&cluster, &observed).starts_with(belongs));
        assert!(!says(&cluster, &observed).contains("delete"), "another's object is not to be deleted");
        // Of what has no owner, only our marks tell that it is ours: each of them is needed.
        for mark in ["/metadata/annotations", "/metadata/labels"] {
            let mut observed = carried_out(&cluster);
            set(&mut observed)["metadata"]["ownerReferences"] = Value::Null;
            *set(&mut observed).pointer_mut(mark).unwrap() = json!({});
            let unmarked = "StatefulSet \"my-cluster\" was not made by this operator";
            assert!(says(&cluster, &observed).starts_with(unmarked));
            assert!(says(&cluster, &observed).contains("delete the StatefulSet, or"));
        }
    }

    /// What the condition says of a StatefulSet that is not ours.
    fn says(cluster: &ValidatedCluster, observed: &Observed) -> String {
        match &plan(cluster, observed).steps[0] {
            Step::Foreign(sentence) => sentence.clone(),
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn what_lost_its_owner_is_adopted() {
        let cluster = validated(2);
        let mut observed = carried_out(&cluster);
        set(&mut observed)["metadata"]["ownerReferences"] = Value::Null;
        let Step::Apply(adopted) = &plan(&cluster, &observed).steps[0] else { panic!("not adopted") };
        assert_eq!(adopted["metadata"]["ownerReferences"][0]["uid"], "u-1");
        // Made for a cluster of another name, it is not ours to take.
        set(&mut observed)["metadata"]["labels"][LABEL_CLUSTER] = json!("other");
        assert!(says(&cluster, &observed).contains("was not made by this operator"));
    }

    #[test]
    fn the_api_servers_own_service_is_not_to_be_deleted() {
        let mut cluster = validated(1);
        cluster.name = "kubernetes".into();
        cluster.namespace = "default".into();
        let mut observed = nothing();
        observed.live[Kind::ClientService.index()] = Ok(Some(json!({"metadata": {"name": "kubernetes"}})));
        let Step::Foreign(sentence) = &plan(&cluster, &observed).steps[Kind::ClientService.index()] else {
            panic!("it is taken for ours")
        };
        assert!(sentence.contains("another name") && !sentence.contains("delete"), "{sentence}");
    }

    #[test]
    fn what_is_on_its_way_out_is_waited_for() {
        let cluster = validated(2);
        let mut observed = carried_out(&cluster);
        set(&mut observed)["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(plan(&cluster, &observed).steps[0], Step::Wait);
        let mut observed = carried_out(&cluster);
        set(&mut observed)["metadata"]["ownerReferences"][0]["uid"] = json!("of-the-deleted-one");
        assert_eq!(plan(&cluster, &observed).steps[0], Step::Wait);
        // A kind of the same name in another group is nobody whom garbage collection takes away.
        set(&mut observed)["metadata"]["ownerReferences"][0]["apiVersion"] = json!("other.example/v1");
        assert!(matches!(plan(&cluster, &observed).steps[0], Step::Foreign(_)));
    }
}
