//! Writes to `/scale`: what is known of the cluster is brought up to date, then the policy decides.
//!
//! Architecture invariant: reads at most the cluster and its ScaledObject, each once.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::json;
use tracing::info;
use webhook::review::Request;

use crate::api::object;
use crate::policy::scale::{Count, decide};
use crate::policy::{Clause, Outcome, Writer};
use crate::world::{Cluster, Target};

use super::{Admission, Phase, Unjudged, add, budget, part};

impl Admission {
    pub(super) async fn scale(&self, phase: Phase, request: &Request<'_>) -> Result<Outcome, Unjudged> {
        let (namespace, name) = (&*request.namespace, &*request.name);
        let new: ScalePart<'_> = part(request.object, "object")?;
        let old: ScalePart<'_> = part(request.old_object, "oldObject")?;
        let known = self.world.target(namespace, name);
        let Some(cluster) = self.parent(request, &old.metadata.resource_version, &known).await? else {
            // The write itself will find nothing to scale.
            return Ok(Outcome::default());
        };
        if cluster.deleting && Clause::DeletedScale.in_force() {
            return Ok(Outcome::default());
        }
        let writer = if self.autoscalers.contains(&*request.user.username) {
            Writer::Autoscaler
        } else {
            Writer::Person
        };
        if (phase, writer) == (Phase::Validating, Writer::Autoscaler) {
            // Its count was moved to a bound before the schema; there is nothing left to move.
            return Ok(Outcome::default());
        }
        let mut outcome = self
            .with_fresh_scaler(request, name, known.scaler(), |scaler| {
                let (old, new) = (Some(old.spec.replicas), new.spec.replicas);
                decide(Count { name: name.into(), old, new, bounds: cluster.bounds, scaler }, writer)
            })
            .await?;
        if (phase, writer) == (Phase::Mutating, Writer::Person) && outcome.allowed() {
            // The validating webhook says the same; here it would be said twice.
            outcome.warnings.clear();
        }
        if let (Some(from), Some(to)) = (outcome.clamped_from, outcome.replicas) {
            self.metrics.admission.clamped.inc();
            info!(
                namespace,
                name,
                from,
                to,
                user = &*request.user.username,
                "an autoscaler's count was moved to the nearest bound"
            );
        }
        outcome.edits.extend(outcome.replicas.map(|replicas| add(&["spec", "replicas"], json!(replicas))));
        Ok(outcome)
    }

    /// The cluster of a scale write, as it was just before: what is known if it is of the review's
    /// resourceVersion, or else what a live read finds.
    async fn parent<'k>(
        &self,
        request: &Request<'_>,
        resource_version: &str,
        known: &'k Target,
    ) -> Result<Option<Cow<'k, Cluster>>, Unjudged> {
        if let Some(cluster) = known
            .cluster
            .as_ref()
            .filter(|known| known.resource_version == resource_version || !Clause::FreshParent.in_force())
        {
            return Ok(Some(Cow::Borrowed(cluster)));
        }
        let live = self.live.cluster(&request.namespace, &request.name, budget(request)).await?;
        Ok(live.map(Cow::Owned))
    }
}

/// An `autoscaling/v1` `Scale` in a review. Its resourceVersion is the cluster's.
#[derive(Deserialize)]
struct ScalePart<'a> {
    #[serde(borrow, deserialize_with = "object::required")]
    metadata: ScaleMetadataPart<'a>,
    #[serde(default, deserialize_with = "object::required")]
    spec: ScaleSpecPart,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaleMetadataPart<'a> {
    #[serde(default, borrow)]
    resource_version: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
struct ScaleSpecPart {
    /// The API server leaves a zero out.
    #[serde(default)]
    replicas: i32,
}
