//! Writes of ScaledObjects that drive a VLLMCluster.
//!
//! Architecture invariant: decides from what is known, and reads live only where the cluster is not known yet and
//! before a refusal that rests on what is around; ScaledObjects are written by people, not by the second.

use std::sync::Arc;

use json_patch::PatchOperation;
use serde_json::Value;
use webhook::review::{Operation, Request};

use crate::policy::scaled_object::{Cluster, Known, ScaledObject, Write, check, default};
use crate::policy::{Clause, Outcome, Scaler};
use crate::world::claims::Claimed;
use crate::world::live::LiveError;
use crate::world::part::ScaledObjectPart;
use crate::world::{self, Target};

use super::claim::joined;
use super::{Admission, OwnScaler, Phase, Unjudged, budget, part};

/// What is around a ScaledObject.
#[derive(Clone)]
struct Surroundings {
    cluster: Option<Cluster>,
    scalers: Vec<Scaler>,
    hpas: Vec<String>,
}

impl Surroundings {
    fn new(target: &Target, own_name: &str) -> Self {
        let Target { cluster, scalers, hpas, leaving: _ } = target;
        Self {
            cluster: cluster.as_ref().map(
                |&world::Cluster { bounds, cpu_request, memory_request, .. }| Cluster {
                    bounds,
                    cpu_request,
                    memory_request,
                },
            ),
            scalers: scalers
                .iter()
                .filter(|scaler| scaler.name != own_name || !Clause::OwnScaler.in_force())
                .cloned()
                .collect(),
            hpas: hpas.iter().map(|hpa| hpa.name.clone()).collect(),
        }
    }

    /// These, and what was let through a moment ago.
    fn with(&self, claimed: &Claimed) -> Self {
        let mut all = self.clone();
        all.scalers.extend(claimed.scaler().cloned());
        all.hpas.extend(claimed.hpa().map(|hpa| hpa.name.clone()));
        all
    }

    fn known<'a>(&'a self, namespace: &'a str, scaler: &'a OwnScaler) -> Known<'a> {
        let Self { cluster, scalers, hpas } = self;
        Known { cluster: *cluster, scalers, hpas, namespace, external: scaler.known() }
    }
}

impl Admission {
    pub(super) async fn scaled_object(
        &self,
        phase: Phase,
        request: &Request<'_>,
    ) -> Result<Outcome, Unjudged> {
        // What does not parse has a field of a wrong type: KEDA's schema refuses it, and names the field.
        let Ok(new) = part::<ScaledObject>(request.object, "object") else { return Ok(Outcome::default()) };
        let old = match request.operation {
            Operation::Delete | Operation::Connect if Clause::ScalerDeletion.in_force() => {
                return Ok(Outcome::default());
            }
            Operation::Update => part::<ScaledObject>(request.old_object, "oldObject").ok(),
            Operation::Create | Operation::Delete | Operation::Connect => None,
        };
        let write = Write { new: &new, old: old.as_ref(), known: Known::default() };
        let Some(cluster) = write.concerns() else { return Ok(Outcome::default()) };
        let namespace = &*request.namespace;
        let mut target = self.world.target(namespace, cluster);
        if target.cluster.is_none() && Clause::FreshTarget.in_force() {
            // Applied together, the cluster may be younger than what the watch has told.
            Arc::make_mut(&mut target).cluster =
                self.live.cluster(namespace, cluster, budget(request)).await?;
        }
        let ask = |surroundings: &Surroundings| {
            let write = Write { known: surroundings.known(namespace, &self.scaler), ..write };
            match phase {
                Phase::Validating => check(&write),
                Phase::Mutating => default_then_check(&write, request),
            }
        };
        let mut around = Surroundings::new(&target, &new.name);
        let mut outcome = ask(&around);
        let mut unread = true;
        // What is wrong by itself stays so, whatever is around it.
        if outcome.rests_on().next().is_some() && Clause::FreshSurroundings.in_force() {
            around = self.live_surroundings(request, cluster, &new.name).await?;
            outcome = ask(&around);
            unread = false;
        }
        // One that was attached to this cluster before joins nobody.
        let stays = old.as_ref().and_then(ScaledObject::targets_cluster) == Some(cluster);
        if phase == Phase::Mutating || stays {
            return Ok(outcome);
        }
        let Some(scaler) = joined(request, ScaledObjectPart::attachment) else { return Ok(outcome) };
        let beside = |claimed: &Claimed| ask(&around.with(claimed));
        let live = async { Ok(ask(&self.live_surroundings(request, cluster, &new.name).await?)) };
        Ok(self.claim(request, scaler, outcome, beside, unread.then_some(live)).await?)
    }

    /// All around a ScaledObject, read live.
    async fn live_surroundings(
        &self,
        request: &Request<'_>,
        cluster: &str,
        own_name: &str,
    ) -> Result<Surroundings, LiveError> {
        let (namespace, within) = (&*request.namespace, budget(request));
        let (found, scalers, hpas, defaults) = tokio::try_join!(
            self.live.cluster(namespace, cluster, within),
            self.live.scalers_of(namespace, within),
            self.live.hpas_of(namespace, within),
            self.live.default_requests(namespace, within),
        )?;
        let scalers = scalers.into_iter().filter_map(|scaler| scaler.driver_of(cluster));
        let hpas = hpas.into_iter().filter_map(|hpa| hpa.driver_of(cluster));
        let mut found = Surroundings::new(
            &Target { cluster: found, scalers: scalers.collect(), hpas: hpas.collect(), leaving: Vec::new() },
            own_name,
        );
        if let Some(cluster) = found.cluster.as_mut().filter(|_| Clause::LimitRangeIsRequest.in_force()) {
            cluster.cpu_request |= defaults.cpu;
            cluster.memory_request |= defaults.memory;
        }
        Ok(found)
    }
}

/// Fills in and brings up to date, and judges the result as it would be stored.
fn default_then_check(write: &Write<'_>, request: &Request<'_>) -> Outcome {
    let Outcome { edits, warnings, refusals, .. } = default(write);
    let stored = if edits.is_empty() { None } else { stored(request, &edits) };
    let new = stored.as_ref().unwrap_or(write.new);
    // The validating webhook repeats the check's warnings; here they would be said twice.
    let judged = check(&Write { new, old: write.old, known: write.known });
    Outcome { refusals: [refusals, judged.refusals].concat(), warnings, edits, ..Outcome::default() }
}

fn stored(request: &Request<'_>, edits: &[PatchOperation]) -> Option<ScaledObject> {
    let mut object: Value = serde_json::from_str(request.object?.get()).ok()?;
    json_patch::patch(&mut object, edits).ok()?;
    serde_json::from_value(object).ok()
}
