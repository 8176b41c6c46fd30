//! Which drivers were let through a moment ago, and for which cluster.
//!
//! Of two writes at the same moment neither is stored while the other is judged, so that neither the index nor a live
//! read tells of it. Both would pass, and KEDA lets neither work. So whoever is let through claims its cluster, and
//! the next one is judged beside it.
//!
//! A claim is no proof that anything is stored: another webhook may refuse the write afterwards. It speaks for itself
//! while the API server may still be storing; from then on it only says that a live read will tell.
//!
//! This is best effort: replicas of the operator know nothing of each other's claims, and of very many at the same
//! moment the oldest are forgotten. The cluster's condition tells of what slips through.
//!
//! Architecture invariant: no clock, time is an argument; a bounded number of claims, and no call costs more with
//! their number.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::policy::Scaler;

use super::{Attached, ForeignHpa, Key};

/// How long the API server may take to store what was let through: it asks the other validating webhooks at the same
/// time, KEDA's among them, and each answers in milliseconds unless the machine is very busy.
const STORING: Duration = Duration::from_secs(2);

/// How long a claim is kept: longer than a watch lags that works at all. No more than a live read hangs on it by then.
const KEPT: Duration = Duration::from_secs(10);

/// How many claims are kept: some hundreds of new drivers a second, at the most a megabyte or two of names.
const MOST: usize = 4096;

/// The claim of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<D> {
    driver: D,
    since: Instant,
    /// Whether a watch has told of it.
    told: bool,
}

impl<D> Claim<D> {
    fn settled(&self, now: Instant) -> bool {
        self.told || now.duration_since(self.since) >= STORING
    }
}

/// The claims on one cluster: of each kind of driver the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    scaler: Option<Claim<Scaler>>,
    hpa: Option<Claim<ForeignHpa>>,
}

impl Claimed {
    /// Whether nobody claims it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a live read tells of all of them: what it does not find is not there.
    pub fn settled(&self, now: Instant) -> bool {
        let Self { scaler, hpa } = self;
        scaler.as_ref().is_none_or(|claim| claim.settled(now))
            && hpa.as_ref().is_none_or(|claim| claim.settled(now))
    }

    /// The ScaledObject that claims it.
    pub fn scaler(&self) -> Option<&Scaler> {
        self.scaler.as_ref().map(|claim| &claim.driver)
    }

    /// Takes in that there is a ScaledObject by this name.
    pub(super) fn scaler_told(&mut self, name: &str) {
        if let Some(claim) = self.scaler.as_mut().filter(|claim| claim.driver.name == name) {
            claim.told = true;
        }
    }

    /// Takes in that there is an HPA by this name.
    pub(super) fn hpa_told(&mut self, name: &str) {
        if let Some(claim) = self.hpa.as_mut().filter(|claim| claim.driver.name == name) {
            claim.told = true;
        }
    }

    /// The HPA that claims it.
    pub fn hpa(&self) -> Option<&ForeignHpa> {
        self.hpa.as_ref().map(|claim| &claim.driver)
    }
}

/// A kind of driver that may claim a cluster.
pub trait Claimant: Attached {
    /// Where its claim stands.
    fn claim_in(claimed: &mut Claimed) -> &mut Option<Claim<Self>>;
    /// Leaves those claims that it is judged beside.
    fn rivals(&self, claimed: &Claimed) -> Claimed;
}

impl Claimant for Scaler {
    fn claim_in(claimed: &mut Claimed) -> &mut Option<Claim<Self>> {
        &mut claimed.scaler
    }
    fn rivals(&self, Claimed { scaler, hpa }: &Claimed) -> Claimed {
        let other = scaler.as_ref().filter(|claim| claim.driver.name != self.name);
        Claimed { scaler: other.cloned(), hpa: hpa.clone() }
    }
}

impl Claimant for ForeignHpa {
    fn claim_in(claimed: &mut Claimed) -> &mut Option<Claim<Self>> {
        &mut claimed.hpa
    }
    fn rivals(&self, Claimed { scaler, hpa: _ }: &Claimed) -> Claimed {
        Claimed { scaler: scaler.clone(), hpa: None }
    }
}

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    of: HashMap<Key, Claimed>,
    /// Each claim since when, the oldest first.
    order: VecDeque<(Instant, Key)>,
}

impl Claims {
    /// The claims that a driver of this cluster is to be judged beside.
    pub(super) fn rivals<D: Claimant>(&mut self, target: &Key, driver: &D, now: Instant) -> Claimed {
        self.forget(now);
        self.of.get(target).map(|claimed| driver.rivals(claimed)).unwrap_or_default()
    }

    /// Claims a cluster for a driver, unless its rivals are others by now than those beside which it was judged.
    pub(super) fn claim<D: Claimant>(
        &mut self,
        target: &Key,
        driver: D,
        now: Instant,
        judged_beside: &Claimed,
    ) -> bool {
        if self.rivals(target, &driver, now) != *judged_beside {
            return false;
        }
        let claim = Claim { driver, since: now, told: false };
        *D::claim_in(self.of.entry(target.clone()).or_default()) = Some(claim);
        self.order.push_back((now, target.clone()));
        true
    }

    /// Takes in that a watch tells of a driver of this cluster.
    pub(super) fn told<D: Attached>(&mut self, target: &Key, driver: &str) {
        if let Some(claimed) = self.of.get_mut(target) {
            D::told(claimed, driver);
        }
    }

    /// Forgets what is too old, and the oldest where there is no room for one more.
    fn forget(&mut self, now: Instant) {
        while let Some((since, _)) = self.order.front()
            && (now.duration_since(*since) >= KEPT || self.order.len() >= MOST)
            && let Some((since, target)) = self.order.pop_front()
        {
            let Some(claimed) = self.of.get_mut(&target) else { continue };
            let Claimed { scaler, hpa } = claimed;
            // One that was made anew stands further back in the order.
            scaler.take_if(|claim| claim.since <= since);
            hpa.take_if(|claim| claim.since <= since);
            if claimed.is_empty() {
                self.of.remove(&target);
            }
        }
    }
}

#[cfg(test)]
mod tests;
