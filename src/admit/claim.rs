//! Drivers that come to a cluster at the same moment as others.
//!
//! Architecture invariant: what two drivers do to each other is the policy's to say, and what was let through the
//! world's to remember.

use serde::de::DeserializeOwned;
use tokio::time::Instant;
use webhook::review::{Operation, Request};

use crate::policy::{Clause, Outcome};
use crate::world::claims::{Claimant, Claimed};
use crate::world::live::LiveError;
use crate::world::{Attachment, Key};

use super::{Admission, part};

/// The attachment that a write makes; `None` where the cluster was the same before.
pub(super) fn joined<P: DeserializeOwned, D>(
    request: &Request<'_>,
    attachment: impl Fn(&P) -> Option<Attachment<D>>,
) -> Option<Attachment<D>> {
    let attachment = |raw| attachment(&part::<P>(raw, "object").ok()?);
    let new = attachment(request.object)?;
    let old = (request.operation == Operation::Update).then(|| attachment(request.old_object)).flatten();
    old.is_none_or(|old| old.cluster != new.cluster).then_some(new)
}

impl Admission {
    /// Judges a driver that nothing else refuses beside what was let through a moment ago, and claims its cluster if
    /// it is let through too. `ask` judges it beside claims, `live` by what is stored, where it was not read already.
    pub(super) async fn claim<D: Claimant>(
        &self,
        request: &Request<'_>,
        Attachment { cluster, driver }: Attachment<D>,
        mut outcome: Outcome,
        ask: impl Fn(&Claimed) -> Outcome,
        mut live: Option<impl Future<Output = Result<Outcome, LiveError>>>,
    ) -> Result<Outcome, LiveError> {
        let target = Key::new(&*request.namespace, cluster);
        while outcome.allowed() && Clause::ClaimedCluster.in_force() {
            let now = Instant::now();
            let rivals = self.world.rivals(&target, &driver, now);
            if !rivals.is_empty() {
                outcome = match live.take_if(|_| rivals.settled(now)) {
                    Some(live) => live.await?,
                    None => not_stored_yet(ask(&rivals)),
                };
            }
            // Whoever claims it meanwhile is one more to be judged beside.
            if outcome.allowed()
                && (request.dry_run || self.world.claim(&target, driver.clone(), Instant::now(), &rivals))
            {
                break;
            }
        }
        Ok(outcome)
    }
}

/// Says of refusals that they rest on what was only let through.
fn not_stored_yet(mut outcome: Outcome) -> Outcome {
    for finding in &mut outcome.refusals {
        finding.message +=
            " (it was let through a moment ago; if nothing came of it, try again in a few seconds)";
    }
    outcome
}

#[cfg(test)]
mod tests;
