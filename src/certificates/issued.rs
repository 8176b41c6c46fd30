//! One turn where leaves are issued by the CA in the Secret.
//!
//! **Architecture invariant:** the order of reading is what the safety of a rotation rests on (see `certs::rotation`):
//! the time, then the configurations and what KEDA has, then the Secret, then the time again. Nothing is written but for what
//! was read in the same turn, and nothing is issued from an older one.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use certs::rotation::{Moment, Step, next_step};
use certs::{Authority, Bundle, Issued, Known, Leaf, Stored};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use super::run::{Certificates, Turn};
use super::{CertificateError, clock, files, injection, keda, secret};

/// What this replica serves and has seen.
pub struct FromSecret {
    started: Instant,
    /// This replica's own part of the jitter, 0 to 1.
    jitter: f64,
    known: Known,
    served: Option<(Issued, Leaf)>,
}

impl Default for FromSecret {
    fn default() -> Self {
        // Seeded by the operating system.
        let random = RandomState::new().hash_one(0);
        let jitter = f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX);
        Self { started: Instant::now(), jitter, known: Known::default(), served: None }
    }
}

impl FromSecret {
    /// CA, then leaf, then bundles. The leaf comes before the bundles so that missing configurations never keep us
    /// from serving; each bundle is tried whatever becomes of the others.
    pub async fn turn(
        &mut self,
        certificates: &Certificates,
        turn: &mut Turn,
    ) -> Result<(), CertificateError> {
        let Certificates { client, settings, .. } = certificates;
        let before = clock::of_the_api_server(client).await?;
        let (configurations, keda) =
            tokio::join!(injection::read(client, settings), keda::read(client, settings));
        let (found, stored) = secret::read(client, settings).await?;
        let after = clock::of_the_api_server(client).await?;
        let moment = Moment { before, after, own: (certificates.own_time)() };
        turn.clocks_differ(&moment);
        let beside = files::bundle(settings.ca_file.as_deref()).unwrap_or_else(|error| {
            turn.failures.push(error.to_string());
            Bundle::default()
        });
        // Without a look at the configurations, what is broken is mended and leaves are renewed, and no more.
        let (configurations, readable) = match configurations {
            Ok(configurations) => (configurations, true),
            Err(error) => {
                turn.failures.push(error.to_string());
                (vec![], false)
            }
        };
        turn.note_absent(&configurations);
        let carried = injection::carried(&configurations);

        let in_place = readable
            && stored.state.bundle.as_ref().is_ok_and(|bundle| {
                let published = bundle.clone().union(&beside);
                carried.iter().all(|carried| *carried == published)
            });
        // A step that fails keeps nobody from serving by what was read.
        let stored = match step(certificates, turn, found, &stored, &carried, in_place, &moment).await {
            Ok(Some(after)) => after,
            Ok(None) => stored,
            Err(error) => {
                turn.failed(&error);
                stored
            }
        };
        self.leaf(certificates, turn, &stored, &carried, keda.as_ref(), &moment)?;

        let Ok(bundle) = &stored.state.bundle else { return Ok(()) };
        let published = bundle.clone().union(&beside);
        certificates.scaler_clients.trust(&published, moment.before);
        let text = published.to_pem();
        for configuration in &configurations {
            turn.inject(client, configuration, |_| text.clone()).await;
        }
        if let Some(keda) = &keda {
            let leaf = self.served.as_ref().map(|(_, leaf)| leaf);
            let serving = keda::Serving { leaf, bundle: &published, at: moment.before };
            let issuer = stored.signer.as_ref().map(|authority| keda::Issuer {
                authority,
                known_in: self.known.known_in(
                    &authority.into(),
                    self.started.elapsed(),
                    settings.policy.propagation,
                ),
            });
            keda.turn(certificates, turn, &serving, issuer.as_ref()).await;
        }
        let Some((issued, leaf)) = &self.served else { return Ok(()) };
        let name = settings.server_name();
        let verified = carried.iter().all(|bundle| leaf.verify(bundle, &name, moment.before).is_ok());
        let known_in = self.known.known_in(&issued.ca, self.started.elapsed(), settings.policy.propagation);
        turn.ready = readable
            && turn.absent.is_empty()
            && !carried.is_empty()
            && verified
            && known_in.is_some_and(|known_in| known_in.is_zero());
        if !turn.ready {
            turn.again_in(known_in);
        }
        Ok(())
    }

    /// What is served.
    #[cfg(test)]
    pub fn served(&self) -> Option<&Leaf> {
        self.served.as_ref().map(|(_, leaf)| leaf)
    }

    /// Renews the leaf, if it is due.
    fn leaf(
        &mut self,
        certificates: &Certificates,
        turn: &mut Turn,
        stored: &Stored,
        carried: &[Bundle],
        keda: Option<&keda::Seen>,
        moment: &Moment,
    ) -> Result<(), CertificateError> {
        let Certificates { settings, resolver, metrics, .. } = certificates;
        let (Some(authority), Ok(signer)) = (&stored.signer, &stored.state.signer) else { return Ok(()) };
        metrics.ca_expiry(signer.not_after);
        let elapsed = self.started.elapsed();
        let by_all = carried
            .split_first()
            .map(|(first, others)| others.iter().fold(first.clone(), Bundle::intersection));
        self.known.note(
            &by_all.unwrap_or_default(),
            elapsed,
            stored.state.is_settled(moment, &settings.policy),
        );
        let known_in = self.known.known_in(signer, elapsed, settings.policy.propagation);
        let due_in = |(issued, leaf): &(Issued, Leaf), jitter| {
            let now = moment.before;
            // KEDA is to know the CA as well; but no longer than a leaf can well wait for anything.
            let kedas = keda.is_some_and(|keda| keda.would_lose(leaf, signer, &settings.scaler_name(), now));
            let wait = if kedas { issued.due_in(&issued.ca, None, now, jitter) } else { Duration::ZERO };
            issued.due_in(signer, known_in.map(|known_in| known_in.max(wait)), now, jitter)
        };
        if self.served.as_ref().is_none_or(|served| due_in(served, self.jitter).is_zero()) {
            // Its life counts from before the Secret was read: see `certs::rotation`.
            let leaf =
                authority.issue(&settings.server_names(), moment.before, settings.policy.leaf_lifetime)?;
            info!(not_after = %leaf.not_after(), "serving a new certificate");
            resolver.swap(&leaf);
            metrics.leaf_expiry(leaf.not_after());
            let issued = Issued { ca: signer.clone(), at: moment.before, not_after: leaf.not_after() };
            self.served = Some((issued, leaf));
        }
        turn.again_in(self.served.as_ref().map(|served| due_in(served, self.jitter)));
        Ok(())
    }
}

/// Takes the next step, if it is ours; what is stored then, if that is something else.
async fn step(
    certificates: &Certificates,
    turn: &mut Turn,
    found: Option<Secret>,
    stored: &Stored,
    carried: &[Bundle],
    in_place: bool,
    moment: &Moment,
) -> Result<Option<Stored>, CertificateError> {
    let Certificates { client, settings, leading, .. } = certificates;
    let step = next_step(&stored.state, in_place, moment, &settings.policy);
    if let Step::Wait(until) = step {
        turn.again_in(until.map(|until| between(moment.before, until)));
        return Ok(None);
    }
    if !step.is_for_everyone() && !*leading.borrow() {
        return Ok(None);
    }
    let fresh = if step.makes_ca() {
        let common_name = format!("{}.{} CA", settings.service_name, settings.namespace);
        Some(Authority::generate(&common_name, moment.before, settings.ca_lifetime)?)
    } else {
        None
    };
    let all = carried.iter().fold(Bundle::default(), Bundle::union);
    let bytes = stored.after(&step, fresh.as_ref(), &all, moment);
    let (done, reason) = told(&step);
    secret::write(client, settings, found, bytes.clone(), &reason).await?;
    turn.again_in(Some(Duration::ZERO));
    let secret = &settings.secret_name;
    if step.is_for_everyone() {
        warn!(secret, reason, "{done}");
    } else {
        info!(secret, reason, "{done}");
    }
    Ok(Some(Stored::read(Some(bytes))))
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// What a step did and why, for the log.
fn told(step: &Step) -> (&'static str, String) {
    match step {
        Step::Replace(reason) => ("stored a new CA", reason.to_string()),
        Step::Mend(reason) => ("mended the CA bundle", reason.to_string()),
        Step::Introduce(reason) => ("a new CA is trusted from now on", reason.to_string()),
        Step::Witness => {
            ("noted what is in effect", "the bundle is in every webhook configuration".to_owned())
        }
        Step::Promote => ("the new CA signs from now on", "it is trusted everywhere".to_owned()),
        Step::Retire => ("the old CA is not trusted any more", "every leaf of it has ended".to_owned()),
        Step::Wait(_) => ("waiting", String::new()),
    }
}
