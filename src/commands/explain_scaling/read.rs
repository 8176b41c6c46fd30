//! All reads, side by side.
//!
//! Architecture invariant: reads, and judges only what cannot be read: what is essential ends the command with a sentence,
//! the rest is noted.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use thiserror::Error;

use crate::api::VLLMCluster;
use crate::api::names::{GROUP, KEDA_GROUP, PLURAL, SCALED_OBJECT_KIND, VERSION, selector};

use super::seen::{ScaledObject, Seen};

/// Most names that are offered in place of one that does not exist.
const OFFERED: usize = 5;

/// Why there is no explanation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// No cluster has this name.
    #[error("no VLLMCluster {name:?} in namespace {namespace:?}, and no ScaledObject of that name that drives one{}", offer(.near, .namespace))]
    NoCluster {
        /// Where it was looked for.
        namespace: String,
        /// What was asked for.
        name: String,
        /// Names that are there, the likeliest first.
        near: Vec<String>,
    },
    /// The user lacks rights.
    #[error("you may not {} in namespace {namespace:?}, and without that there is no explanation: ask for a Role with these verbs and resources; `kubectl auth can-i --list -n {namespace}` shows what you may", .rights.join(", "))]
    Forbidden {
        /// Where.
        namespace: String,
        /// "get vllmclusters.group", one each.
        rights: Vec<String>,
    },
    /// The type is not installed.
    #[error(
        "the API server knows no VLLMCluster: install the operator first, or choose another context of the kubeconfig"
    )]
    NotInstalled,
    /// Anything else.
    #[error("cannot {what} in namespace {namespace:?}: {error}")]
    Failed {
        /// What was tried.
        what: String,
        /// Where.
        namespace: String,
        /// What came of it.
        error: kube::Error,
    },
}

fn offer(near: &[String], namespace: &str) -> String {
    if near.is_empty() {
        return format!(
            "; the namespace has no VLLMCluster at all: `kubectl get vllmclusters -A` shows where there are some, not in {namespace:?}"
        );
    }
    format!("; there are {}: give one of them, as in {namespace}/{}", near.join(", "), near[0])
}

/// Reads all that there is about a cluster, given by its own name or that of a ScaledObject that drives it.
pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<Seen, Unreadable> {
    let place = Place { client, namespace };
    let (clusters, scaled_objects, hpas) =
        tokio::join!(place.clusters(), place.scaled_objects(), place.list_hpas());
    let (names, (scaled_objects, mut unseen), hpas) = essential(namespace, clusters, scaled_objects, hpas)?;
    let name = Some(name.to_owned())
        .filter(|name| names.contains(name))
        .or_else(|| Seen::cluster_of(scaled_objects.as_deref()?, name))
        .filter(|name| names.contains(name))
        .ok_or_else(|| Unreadable::NoCluster {
            namespace: namespace.into(),
            name: name.into(),
            near: near(name, names.clone()),
        })?;
    let (cluster, scale, set, pods) =
        tokio::join!(place.cluster(&name), place.scale(&name), place.set(&name), place.pods(&name));
    let cluster = cluster.map_err(|failed| failed.fatal(namespace))?;
    let scale = noted(scale, "its numbers are taken from the cluster's own fields", &mut unseen);
    let set = noted(set, "the StatefulSet is missing here", &mut unseen).flatten();
    let pods = noted(pods, "the pods are missing here", &mut unseen);
    let mut seen = Seen {
        at: Timestamp::now(),
        cluster,
        scaled_objects,
        hpas,
        scale,
        set,
        pods,
        events: Vec::new(),
        unseen: Vec::new(),
    };
    seen.events = place.events(&seen, &mut unseen).await;
    seen.unseen = unseen;
    Ok(seen)
}

/// Unwraps what an explanation cannot do without; all missing rights are named at once.
fn essential<A, B, C>(
    namespace: &str,
    clusters: Result<A, Failed>,
    scaled_objects: Result<B, Failed>,
    hpas: Result<C, Failed>,
) -> Result<(A, B, C), Unreadable> {
    let failures = [clusters.as_ref().err(), scaled_objects.as_ref().err(), hpas.as_ref().err()];
    let rights: Vec<_> = failures
        .into_iter()
        .flatten()
        .filter(|failed| failed.is(403))
        .map(|failed| failed.what.clone())
        .collect();
    if !rights.is_empty() {
        return Err(Unreadable::Forbidden { namespace: namespace.into(), rights });
    }
    let fatal = |failed: Failed| failed.fatal(namespace);
    Ok((clusters.map_err(fatal)?, scaled_objects.map_err(fatal)?, hpas.map_err(fatal)?))
}

/// A read that came to nothing.
struct Failed {
    what: String,
    error: kube::Error,
}

impl Failed {
    fn is(&self, code: u16) -> bool {
        matches!(&self.error, kube::Error::Api(status) if status.code == code)
    }

    fn fatal(self, namespace: &str) -> Unreadable {
        let namespace = namespace.to_owned();
        let Self { what, error } = self;
        match &error {
            kube::Error::Api(status) if status.code == 403 => {
                Unreadable::Forbidden { namespace, rights: vec![what] }
            }
            kube::Error::Api(status) if status.code == 404 && what.contains(PLURAL) => {
                Unreadable::NotInstalled
            }
            _ => Unreadable::Failed { what, namespace, error },
        }
    }
}

/// What there is, or a note of what is missing and what follows.
fn noted<T>(read: Result<T, Failed>, follows: &str, unseen: &mut Vec<String>) -> Option<T> {
    read.map_err(|Failed { what, error }| unseen.push(format!("cannot {what} ({error}): {follows}"))).ok()
}

/// Where everything is read place.
#[derive(Clone, Copy)]
struct Place<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Place<'_> {
    fn api<K>(self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    /// The names of all clusters.
    async fn clusters(self) -> Result<Vec<String>, Failed> {
        let api: Api<VLLMCluster> = self.api();
        let listed = api.list_metadata(&ListParams::default()).await;
        let listed = listed.map_err(|error| Failed { what: format!("list {PLURAL}.{GROUP}"), error })?;
        Ok(listed.items.iter().map(PartialObjectMeta::name_any).collect())
    }

    async fn cluster(self, name: &str) -> Result<VLLMCluster, Failed> {
        let read = self.api::<VLLMCluster>().get(name).await;
        read.map_err(|error| Failed { what: format!("get {PLURAL}.{GROUP}"), error })
    }

    /// `None` where KEDA is not installed; one that cannot be read is noted.
    async fn scaled_objects(self) -> Result<(Option<Vec<ScaledObject>>, Vec<String>), Failed> {
        let resource = ApiResource {
            group: KEDA_GROUP.into(),
            version: VERSION.into(),
            api_version: format!("{KEDA_GROUP}/{VERSION}"),
            kind: SCALED_OBJECT_KIND.into(),
            plural: "scaledobjects".into(),
        };
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), self.namespace, &resource);
        let listed = match api.list(&ListParams::default()).await {
            Ok(listed) => listed,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok((None, Vec::new())),
            Err(error) => return Err(Failed { what: format!("list scaledobjects.{KEDA_GROUP}"), error }),
        };
        let (mut scaled_objects, mut unseen) = (Vec::new(), Vec::new());
        for object in listed.items {
            let name = object.name_any();
            match serde_json::to_value(object).and_then(|object| ScaledObject::read(&object)) {
                Ok(read) => scaled_objects.push(read),
                Err(error) => unseen.push(format!("ScaledObject {name:?} is left out: {error}")),
            }
        }
        Ok((Some(scaled_objects), unseen))
    }

    async fn list_hpas(self) -> Result<Vec<HorizontalPodAutoscaler>, Failed> {
        let listed = self.api().list(&ListParams::default()).await;
        let what = "list horizontalpodautoscalers.autoscaling";
        listed.map(|list| list.items).map_err(|error| Failed { what: what.into(), error })
    }

    async fn scale(self, name: &str) -> Result<k8s_openapi::api::autoscaling::v1::Scale, Failed> {
        let read = self.api::<VLLMCluster>().get_scale(name).await;
        read.map_err(|error| Failed { what: format!("get {PLURAL}.{GROUP}/scale"), error })
    }

    async fn set(self, name: &str) -> Result<Option<StatefulSet>, Failed> {
        let read = self.api().get_opt(name).await;
        read.map_err(|error| Failed { what: "get statefulsets.apps".into(), error })
    }

    async fn pods(self, cluster: &str) -> Result<Vec<Pod>, Failed> {
        let listed = self.api().list(&ListParams::default().labels(&selector(cluster))).await;
        listed.map(|list| list.items).map_err(|error| Failed { what: "list pods".into(), error })
    }

    /// Of what drives the cluster alone: a namespace may have very many.
    async fn events(self, seen: &Seen, unseen: &mut Vec<String>) -> Vec<Event> {
        let drivers = seen.drivers();
        let scaled_object = drivers.scaled_objects.first();
        let scaled_object = scaled_object.map(|found| (SCALED_OBJECT_KIND, found.view.name.clone()));
        let hpa = drivers.hpa.map(|hpa| ("HorizontalPodAutoscaler", hpa.name_any()));
        let of = async |about: Option<(&str, String)>| {
            let Some((kind, name)) = about else { return Ok(Vec::new()) };
            let fields = format!("involvedObject.kind={kind},involvedObject.name={name}");
            let listed = self.api::<Event>().list(&ListParams::default().fields(&fields)).await;
            listed.map(|list| list.items).map_err(|error| Failed { what: "list events".into(), error })
        };
        let (scaled_object, hpa) = tokio::join!(of(scaled_object), of(hpa));
        let events = scaled_object.and_then(|first| Ok([first, hpa?].concat()));
        noted(events, "the newest warnings are missing here", unseen).unwrap_or_default()
    }
}

/// The names likest to one, and without any that is like it the first ones.
fn near(name: &str, mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|other| (strsim::damerau_levenshtein(name, other), other.clone()));
    names.truncate(OFFERED);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_first() {
        let names = ["zebra", "my-cluster", "other"].map(str::to_owned).to_vec();
        assert_eq!(near("my-clutser", names)[0], "my-cluster");
        let many: Vec<_> = (0..9).map(|n| format!("c{n}")).collect();
        assert_eq!(near("x", many).len(), OFFERED);
    }

    #[test]
    fn all_missing_rights_are_named_at_once() {
        let forbidden = |what: &str| Failed {
            what: what.into(),
            error: kube::Error::Api(Box::new(kube::core::Status::failure("no", "Forbidden").with_code(403))),
        };
        let error = essential::<(), (), ()>("ns", Err(forbidden("list a")), Ok(()), Err(forbidden("list b")));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("you may not list a, list b in namespace \"ns\""), "{text}");
    }

    #[test]
    fn a_name_that_is_not_there_is_answered_with_those_that_are() {
        let missing = |near: &[&str]| {
            let near = near.iter().map(ToString::to_string).collect();
            Unreadable::NoCluster { namespace: "ns".into(), name: "x".into(), near }.to_string()
        };
        assert!(
            missing(&["y"]).ends_with("there are y: give one of them, as in ns/y"),
            "{}",
            missing(&["y"])
        );
        assert!(missing(&[]).contains("no VLLMCluster at all"), "{}", missing(&[]));
    }
}
