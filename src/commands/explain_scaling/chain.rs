//! The chain from a ScaledObject to pods, as it is told: what `--output json` prints.
//!
//! Fields are added, and never renamed or given another meaning; `docs/explain-scaling.md` describes each.
//!
//! Architecture invariant: shapes only.

use jiff::Timestamp;
use serde::Serialize;

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Why the count is what it is, in a word for programs.
    pub reason: Reason,
    /// The same in a sentence.
    pub why: String,
    /// What would change it, in a sentence.
    pub change: String,
    /// What it rests on.
    #[serde(flatten)]
    pub chain: Chain,
}

/// Why a count is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The cluster is being deleted.
    Deleting,
    /// More than one autoscaler drives it.
    SeveralDrivers,
    /// Nobody drives it but people.
    NoDriver,
    /// Its ScaledObject is paused.
    Paused,
    /// Its ScaledObject is being deleted.
    DriverDeleting,
    /// KEDA makes no HPA, because something is wrong with the ScaledObject.
    ScaledObjectFailing,
    /// The HPA is missing, and nobody says why.
    HpaMissing,
    /// The HPA has not looked at the cluster yet.
    NotLookedYet,
    /// The HPA may not or cannot read or write `/scale`.
    ScaleFailing,
    /// Values are missing, and without them nothing is scaled down, or nothing at all.
    MetricsMissing,
    /// The count lies outside of the HPA's range.
    OutsideRange,
    /// The cluster's own bound holds.
    ClusterBound,
    /// The HPA's maximum holds.
    AtMaximum,
    /// The HPA's minimum holds.
    AtMinimum,
    /// One direction is paused or switched off.
    DirectionOff,
    /// A stabilization window holds the count.
    Stabilizing,
    /// A policy bounds how fast it changes.
    RateLimited,
    /// Triggers are near enough to their targets.
    WithinTolerance,
    /// A trigger asks for just that.
    Followed,
    /// A change is on its way.
    UnderWay,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// The cluster's namespace.
    pub namespace: String,
    /// Its name.
    pub cluster: String,
    /// When this was looked at.
    pub at: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether KEDA's types are there.
    pub keda_installed: bool,
    /// The ScaledObject that drives the cluster; of several, the first by name.
    pub scaled_object: Option<ScaledObjectLink>,
    /// Further ones.
    pub other_scaled_objects: Vec<String>,
    /// The ScaledObject's triggers in their order, then what else its HPA measures.
    pub triggers: Vec<TriggerLink>,
    /// The HPA that drives the cluster.
    pub hpa: Option<HpaLink>,
    /// Further ones.
    pub other_hpas: Vec<String>,
    /// The scale subresource and its bounds.
    pub scale: ScaleLink,
    /// The StatefulSet; absent where it is missing or could not be seen.
    pub stateful_set: Option<SetLink>,
    /// The pods; absent where they could not be seen.
    pub pods: Option<Vec<PodLink>>,
    /// What keeps pods from serving, where some do not.
    pub waiting_for: Option<String>,
    /// What could not be looked at, and what that takes from this answer.
    pub unseen: Vec<String>,
}

/// A ScaledObject.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaledObjectLink {
    /// Its name.
    pub name: String,
    /// `minReplicaCount`.
    pub min: Option<i32>,
    /// `maxReplicaCount`.
    pub max: Option<i32>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// How it is paused; absent: it is not.
    pub pause: Option<Pause>,
    /// Its condition Ready; absent while KEDA has not judged it, or does not know.
    pub ready: Option<bool>,
    /// Its condition Active.
    pub active: Option<bool>,
    /// Whether KEDA reports a fallback in place of a value.
    pub fallback: bool,
    /// `fallback.replicas`.
    pub fallback_replicas: Option<i32>,
    /// What KEDA says is wrong, from its conditions.
    pub last_error: Option<String>,
    /// Its newest warning.
    pub last_warning: Option<Warning>,
}

/// How a ScaledObject is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Which annotation says so.
    pub annotation: &'static str,
    /// Which directions.
    pub kind: PauseKind,
    /// The count that it is pinned to, of `paused-replicas`.
    pub replicas: Option<i32>,
}

/// Which directions are paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PauseKind {
    /// Both: there is no HPA.
    Whole,
    /// Only down.
    ScaleIn,
    /// Only up.
    ScaleOut,
}

/// An event of the type Warning.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// When it was last seen.
    pub at: Option<Timestamp>,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// A trigger, and what the HPA knows of it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TriggerLink {
    /// Its place among the ScaledObject's triggers; absent for what the HPA measures besides.
    pub index: Option<usize>,
    /// Its type; for what the HPA measures besides, the type of the HPA's metric.
    #[serde(rename = "type")]
    pub type_: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The name of its metric: `s0-prometheus`, `cpu`.
    pub metric: Option<String>,
    /// Whether the HPA measures it; a part of a formula, for one, is not.
    pub measured: bool,
    /// What its target is of.
    pub target_type: Option<TargetType>,
    /// The target: a number, or a percentage of what pods request.
    pub target: Option<f64>,
    /// The value, in the target's measure: of an average, what falls on one replica.
    pub current: Option<f64>,
    /// Of an external average, the sum over all replicas.
    pub total: Option<f64>,
    /// How many replicas it alone asks for, before any bound.
    pub asks_for: Option<i32>,
    /// Whether its value is so near to the target that it asks for no change.
    pub within_tolerance: bool,
    /// Above which value it asks for more than there are.
    pub grows_above: Option<f64>,
    /// Below about which value it asks for fewer.
    pub shrinks_below: Option<f64>,
    /// Why there is no value.
    pub missing: Option<String>,
}

/// What a target is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TargetType {
    /// The whole.
    Value,
    /// What falls on each replica.
    AverageValue,
    /// Percent of what pods request.
    Utilization,
}

/// The HPA.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HpaLink {
    /// Its name.
    pub name: String,
    /// `spec.minReplicas`.
    pub min: i32,
    /// `spec.maxReplicas`.
    pub max: i32,
    /// `status.currentReplicas`: the count when it last looked.
    pub current: Option<i32>,
    /// `status.desiredReplicas`; absent until it has looked.
    pub desired: Option<i32>,
    /// When it last changed the count.
    pub last_scaled: Option<Timestamp>,
    /// Its condition `ScalingLimited`, where it holds.
    pub limited: Option<Limit>,
    /// Its condition `ScalingActive`, where it does not hold.
    pub inactive: Option<Limit>,
    /// Its condition `AbleToScale`, where it does not hold.
    pub unable: Option<Limit>,
    /// The stabilization that holds the count.
    pub stabilizing: Option<Stabilizing>,
    /// By how much a value may be above its target without effect: 0.1 is a tenth.
    pub tolerance_up: f64,
    /// By how much it may be below.
    pub tolerance_down: f64,
    /// Whether its behavior switches growth off.
    pub up_disabled: bool,
    /// Whether its behavior switches shrinking off.
    pub down_disabled: bool,
    /// Policies of its behavior, one a line.
    pub policies: Vec<String>,
    /// Its newest warning.
    pub last_warning: Option<Warning>,
}

/// A condition that explains something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// A stabilization window at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stabilizing {
    /// Whether it holds back growth; otherwise, shrinking.
    pub up: bool,
    /// The window, in seconds.
    pub window_seconds: i32,
    /// Whether the window is Kubernetes' default, because the HPA states none; the controller manager may have another.
    pub window_is_default: bool,
    /// Before which moment the count cannot change, where that can be known.
    pub not_before: Option<Timestamp>,
    /// At which moment it changes at the latest, if nothing asks otherwise until then.
    pub not_after: Timestamp,
}

/// The scale subresource.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleLink {
    /// `spec.replicas`: the count.
    pub replicas: i32,
    /// `status.replicas`: pods that exist.
    pub existing: i32,
    /// `status.readyReplicas` of the cluster.
    pub ready: i32,
    /// `status.selector`.
    pub selector: Option<String>,
    /// The cluster's `minReplicas`.
    pub min: Option<i32>,
    /// The cluster's `maxReplicas`.
    pub max: Option<i32>,
    /// The message of the condition `ScalingConflict`, where it holds.
    pub conflict: Option<String>,
}

/// The StatefulSet.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetLink {
    /// Its name.
    pub name: String,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.replicas`.
    pub existing: i32,
    /// `status.readyReplicas`.
    pub ready: i32,
    /// `status.updatedReplicas`.
    pub updated: i32,
}

/// A pod.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLink {
    /// Its name.
    pub name: String,
    /// Whether it serves.
    pub ready: bool,
    /// Why it does not.
    pub because: Option<String>,
}
