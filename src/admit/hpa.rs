//! Writes of HorizontalPodAutoscalers that point at a VLLMCluster.
//!
//! Architecture invariant: judges only; an HPA is never changed.

use webhook::review::{Operation, Request};

use crate::policy::hpa::{Write, check};
use crate::policy::{Bounds, Clause, Outcome, Scaler};
use crate::world::claims::Claimed;
use crate::world::live::LiveError;
use crate::world::part::HpaPart;

use super::claim::joined;
use super::{Admission, Unjudged, budget, part};

impl Admission {
    pub(super) async fn hpa(&self, request: &Request<'_>) -> Result<Outcome, Unjudged> {
        // What does not parse has a field of a wrong type: the API server refuses it, and names the field.
        let Ok(new) = part::<HpaPart>(request.object, "object") else { return Ok(Outcome::default()) };
        let old = match request.operation {
            Operation::Delete | Operation::Connect if Clause::HpaDeletion.in_force() => {
                return Ok(Outcome::default());
            }
            Operation::Update => part::<HpaPart>(request.old_object, "oldObject").ok(),
            Operation::Create | Operation::Delete | Operation::Connect => None,
        };
        let controlled = new.of_scaled_object() && Clause::HpaControlled.in_force();
        let deleting =
            [Some(&new), old.as_ref()].iter().flatten().any(|of| of.metadata.deletion_timestamp.is_some())
                && Clause::DeletedHpa.in_force();
        if controlled || deleting {
            return Ok(Outcome::default());
        }
        let joined = joined(request, HpaPart::attachment);
        // One that is taken from its ScaledObject had no predecessor to excuse it.
        let old = old.filter(|old| !old.of_scaled_object()).and_then(|old| old.view());
        let Some(new) = new.view() else { return Ok(Outcome::default()) };
        let ask = |bounds: Option<Bounds>, scalers: &[Scaler]| {
            check(&Write { new: &new, old: old.as_ref(), bounds, scalers })
        };
        let (namespace, within) = (&*request.namespace, budget(request));
        let known = self.world.target(namespace, &new.cluster);
        // A cluster that no watch has told of may be younger than that: applied together with its HPA.
        let bounds = known.cluster.as_ref().map(|cluster| cluster.bounds);
        let outcome = bounds.map(|bounds| (Some(bounds), ask(Some(bounds), &known.scalers)));
        let stands = |(_, outcome): &(_, Outcome)| {
            outcome.rests_on().next().is_none() || !Clause::FreshHpaSurroundings.in_force()
        };
        // A refusal rests on other objects, which may have changed since they were last seen.
        let live = async {
            let (cluster, scalers) = tokio::try_join!(
                self.live.cluster(namespace, &new.cluster, within),
                self.live.scalers_of(namespace, within)
            )?;
            let scalers = scalers.into_iter().filter_map(|scaler| scaler.driver_of(&new.cluster));
            let (bounds, scalers) = (cluster.map(|cluster| cluster.bounds), scalers.collect::<Vec<_>>());
            Ok::<_, LiveError>((bounds, ask(bounds, &scalers)))
        };
        let (bounds, outcome, live) = if let Some((bounds, outcome)) = outcome.filter(stands) {
            (bounds, outcome, Some(live))
        } else {
            let (bounds, outcome) = live.await?;
            (bounds, outcome, None)
        };
        let Some(hpa) = joined else { return Ok(outcome) };
        // Whoever else is there was judged.
        let beside = |claimed: &Claimed| ask(bounds, claimed.scaler().map_or(&[], std::slice::from_ref));
        let live = live.map(|live| async { Ok(live.await?.1) });
        Ok(self.claim(request, hpa, outcome, beside, live).await?)
    }
}
