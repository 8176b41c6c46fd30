//! The cluster of the kubeconfig: which kinds are asked for, and what it does not tell.
//!
//! Architecture invariant: answers as they come; a question that is refused is noted and not asked again.

use std::cell::RefCell;

use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::api::names::{GROUP, KEDA_GROUP, KIND, PLURAL, SCALED_OBJECT_KIND, VERSION};
use crate::commands::listing::list;

use super::seen::Look;

/// A kind of objects, as URLs and manifests have it.
pub(super) struct Kind {
    group: &'static str,
    version: &'static str,
    pub(super) name: &'static str,
    plural: &'static str,
}

const fn kind(group: &'static str, version: &'static str, name: &'static str, plural: &'static str) -> Kind {
    Kind { group, version, name, plural }
}

pub(super) const SERVICE: Kind = kind("", "v1", "Service", "services");
pub(super) const SECRET: Kind = kind("", "v1", "Secret", "secrets");
pub(super) const POD: Kind = kind("", "v1", "Pod", "pods");
pub(super) const CONFIG_MAP: Kind = kind("", "v1", "ConfigMap", "configmaps");
pub(super) const LIMIT_RANGE: Kind = kind("", "v1", "LimitRange", "limitranges");
pub(super) const DEPLOYMENT: Kind = kind("apps", "v1", "Deployment", "deployments");
pub(super) const ENDPOINT_SLICE: Kind = kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
pub(super) const LEASE: Kind = kind("coordination.k8s.io", "v1", "Lease", "leases");
pub(super) const HPA: Kind = kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers");
pub(super) const MUTATING: Kind = kind(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
);
pub(super) const VALIDATING: Kind = kind(
    "admissionregistration.k8s.io",
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
);
pub(super) const DEFINITION: Kind =
    kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions");
pub(super) const API_SERVICE: Kind = kind("apiregistration.k8s.io", "v1", "APIService", "apiservices");
pub(super) const ACCESS_REVIEW: Kind =
    kind("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews");
pub(super) const CLUSTER: Kind = kind(GROUP, VERSION, KIND, PLURAL);
pub(super) const SCALED_OBJECT: Kind = kind(KEDA_GROUP, VERSION, SCALED_OBJECT_KIND, "scaledobjects");
pub(super) const TRIGGER_AUTHENTICATION: Kind =
    kind(KEDA_GROUP, VERSION, "ClusterTriggerAuthentication", "clustertriggerauthentications");

/// The cluster, and what it did not tell.
pub(super) struct Cluster<'a> {
    pub(super) client: &'a Client,
    unseen: RefCell<Vec<String>>,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client, unseen: RefCell::default() }
    }

    /// What was not told, a sentence each.
    pub(super) fn unseen(self) -> Vec<String> {
        self.unseen.into_inner()
    }

    pub(super) fn note(&self, sentence: String) {
        let mut unseen = self.unseen.borrow_mut();
        if !unseen.contains(&sentence) {
            unseen.push(sentence);
        }
    }

    fn api(&self, kind: &Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        let Kind { group, version, name, plural } = *kind;
        let resource = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: if group.is_empty() { version.into() } else { format!("{group}/{version}") },
            kind: name.into(),
            plural: plural.into(),
        };
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    pub(super) async fn get(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Look {
        match self.api(kind, namespace).get(name).await {
            Ok(object) => serde_json::to_value(object).map_or(Look::Unseen, Look::Found),
            Err(kube::Error::Api(status)) if status.code == 404 => Look::Absent,
            Err(error) => {
                self.note(format!("{} {name}: {}", kind.plural, reason(&error)));
                Look::Unseen
            }
        }
    }

    /// All of a kind; `None` where they could not be asked for, and none at all where the kind is not installed.
    pub(super) async fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        labels: &str,
    ) -> Option<Vec<Value>> {
        match list(&self.api(kind, namespace), &ListParams::default().labels(labels)).await {
            Ok(listed) => Some(listed.unwrap_or_default()),
            Err(error) => {
                self.note(format!("{}: {error:#}", kind.plural));
                None
            }
        }
    }

    /// Creates an object; as a dry run, nothing is stored of it.
    pub(super) async fn create(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        object: Value,
        dry_run: bool,
    ) -> kube::Result<DynamicObject> {
        let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        self.api(kind, namespace).create(&PostParams { dry_run, ..PostParams::default() }, &object).await
    }
}

/// What an API server says, without what a client puts around it.
pub(super) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
