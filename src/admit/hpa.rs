//! Writes of HorizontalPodAutoscalers that point at a VLLMCluster.
//!
//! Architecture invariant: judges only; an HPA is never changed.

use webhook::review::{Operation, Request};

use crate::policy::hpa::{Write, check};
use crate::policy::{Bounds, Outcome, Scaler};
use crate::world::part::HpaPart;

use super::{Admission, Unjudged, part};

impl Admission {
    pub(super) async fn hpa(&self, request: &Request<'_>) -> Result<Outcome, Unjudged> {
        // What does not parse has a field of a wrong type: the API server refuses it, and names the field.
        let Ok(new) = part::<HpaPart>(request.object, "object") else { return Ok(Outcome::default()) };
        let old = match request.operation {
            Operation::Create => None,
            Operation::Update => {
                part::<HpaPart>(request.old_object, "oldObject").ok().and_then(|old| old.view())
            }
            Operation::Delete | Operation::Connect => return Ok(Outcome::default()),
        };
        if new.of_scaled_object() || new.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::default());
        }
        let Some(new) = new.view() else { return Ok(Outcome::default()) };
        let ask = |bounds: Option<Bounds>, scalers: &[Scaler]| {
            check(&Write { new: &new, old: old.as_ref(), bounds, scalers })
        };
        let namespace = &*request.namespace;
        let known = self.world.target(namespace, &new.cluster);
        // A cluster that no watch has told of may be younger than that: applied together with its HPA.
        let outcome = known.cluster.map(|cluster| ask(Some(cluster.bounds), &known.scalers));
        if let Some(outcome) = outcome.filter(Outcome::allowed) {
            return Ok(outcome);
        }
        // A refusal rests on other objects, which may have changed since they were last seen.
        let (cluster, scalers) =
            tokio::try_join!(self.live.cluster(namespace, &new.cluster), self.live.scalers_of(namespace))?;
        let scalers: Vec<_> =
            scalers.into_iter().filter_map(|scaler| scaler.driver_of(&new.cluster)).collect();
        Ok(ask(cluster.map(|cluster| cluster.bounds), &scalers))
    }
}
