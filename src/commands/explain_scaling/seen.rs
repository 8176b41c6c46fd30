//! What was read of the cluster, and which of it belongs together.
//!
//! Architecture invariant: plain values and their selection; nothing is read here, and nothing is judged.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler as Hpa;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;
use serde::Deserialize;
use serde_json::Value;

use crate::api::VLLMCluster;
use crate::api::names::{KEDA_GROUP, SCALED_OBJECT_KIND};
use crate::policy::hpa::kedas_name;
use crate::policy::scaled_object::view;

/// All that an explanation rests on.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it was read.
    pub at: Timestamp,
    /// The cluster.
    pub cluster: VLLMCluster,
    /// The ScaledObjects of its namespace; `None` where KEDA is not installed.
    pub scaled_objects: Option<Vec<ScaledObject>>,
    /// The HPAs of its namespace.
    pub hpas: Vec<Hpa>,
    /// Its scale subresource.
    pub scale: Option<Scale>,
    /// Its StatefulSet.
    pub set: Option<StatefulSet>,
    /// Its pods.
    pub pods: Option<Vec<Pod>>,
    /// The events of the ScaledObject and the HPA.
    pub events: Vec<Event>,
    /// What could not be read, a sentence each.
    pub unseen: Vec<String>,
}

/// A `ScaledObject`: what the policy reads of it, and what KEDA says of it.
#[derive(Clone, Debug)]
pub struct ScaledObject {
    /// As the policy reads it.
    pub view: view::ScaledObject,
    /// `status`.
    pub status: Status,
}

impl ScaledObject {
    /// Reads the object's JSON.
    pub fn read(object: &Value) -> serde_json::Result<Self> {
        let view = view::ScaledObject::deserialize(object)?;
        let status = Option::<Status>::deserialize(&object["status"])?.unwrap_or_default();
        Ok(Self { view, status })
    }

    /// Whether a condition holds; `None` where it is unknown or missing.
    pub fn holds(&self, kind: &str) -> Option<bool> {
        match self.condition(kind)?.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }

    /// A condition.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().flatten().find(|condition| condition.kind == kind)
    }

    /// The name of its HPA, whether that is there or not.
    pub fn hpa_name(&self) -> String {
        let given = self.status.hpa_name.clone().filter(|name| !name.is_empty());
        given.or_else(|| self.view.spec.hpa_name.clone()).unwrap_or_else(|| kedas_name(&self.view.name))
    }
}

/// A ScaledObject's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `conditions`.
    pub conditions: Option<Vec<Condition>>,
    /// `hpaName`.
    pub hpa_name: Option<String>,
    /// `health`, by metric name.
    pub health: Option<BTreeMap<String, Health>>,
}

/// A condition of KEDA's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// `message`.
    pub message: String,
}

/// How often a trigger has failed in a row.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `numberOfFailures`.
    pub number_of_failures: Option<i32>,
}

/// What drives the cluster.
#[derive(Clone, Debug)]
pub struct Drivers<'a> {
    /// Its ScaledObjects, by name.
    pub scaled_objects: Vec<&'a ScaledObject>,
    /// The HPA of the first of them, or without any the first that points at the cluster.
    pub hpa: Option<&'a Hpa>,
    /// Further HPAs that point at the cluster, but for those of further ScaledObjects.
    pub other_hpas: Vec<&'a Hpa>,
}

impl Seen {
    /// What drives the cluster.
    pub fn drivers(&self) -> Drivers<'_> {
        let cluster = self.cluster.name_any();
        let attached =
            |scaled_object: &&ScaledObject| scaled_object.view.targets_cluster() == Some(cluster.as_str());
        let mut scaled_objects: Vec<_> = self.scaled_objects.iter().flatten().filter(attached).collect();
        // One that goes comes last: it drives no more than until it is gone.
        scaled_objects.sort_by_key(|found| (found.view.deleting, &found.view.name));
        let mut hpas: Vec<_> = self.hpas.iter().filter(|hpa| points_at(hpa, &cluster)).collect();
        hpas.sort_by_key(|hpa| hpa.name_any());
        let Some(first) = scaled_objects.first() else {
            let hpa = hpas.first().copied();
            return Drivers { scaled_objects, hpa, other_hpas: hpas.into_iter().skip(1).collect() };
        };
        let hpa = hpas.iter().copied().find(|hpa| is_of(hpa, first));
        let other_hpas =
            hpas.into_iter().filter(|hpa| scaled_objects.iter().all(|of| !is_of(hpa, of))).collect();
        Drivers { scaled_objects, hpa, other_hpas }
    }

    /// The cluster that a ScaledObject of this name drives.
    pub fn cluster_of(scaled_objects: &[ScaledObject], name: &str) -> Option<String> {
        let found = scaled_objects.iter().find(|found| found.view.name == name)?;
        found.view.targets_cluster().map(str::to_owned)
    }
}

fn points_at(hpa: &Hpa, cluster: &str) -> bool {
    let Some(target) = hpa.spec.as_ref().map(|spec| &spec.scale_target_ref) else { return false };
    let target = view::Target {
        api_version: target.api_version.clone(),
        kind: Some(target.kind.clone()),
        name: Some(target.name.clone()),
    };
    target.cluster() == Some(cluster)
}

fn is_of(hpa: &Hpa, scaled_object: &ScaledObject) -> bool {
    let owned = hpa.owner_references().iter().find(|owner| {
        owner.kind == SCALED_OBJECT_KIND
            && owner.api_version.split_once('/').is_some_and(|(group, _)| group == KEDA_GROUP)
    });
    owned.map_or_else(
        || hpa.name_any() == scaled_object.hpa_name(),
        |owner| owner.name == scaled_object.view.name,
    )
}
