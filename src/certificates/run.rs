//! The loop that keeps the Secret, the served leaf and the injected bundle in step.
//!
//! **Architecture invariant:** no state but what is served, what was seen in place and what was last reported. Each turn starts from
//! what the API server says, so that a crash, a lost watch event or another replica's write needs no case of
//! its own. No error ends the loop.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use certs::rotation::Moment;
use certs::{Clients, Resolver};
use futures::future::{FutureExt as _, ready};
use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::pace::{self, Steady};
use crate::telemetry::CertificateMetrics;

use super::files::{self, FromFiles};
use super::injection::{Configuration, Entry};
use super::issued::FromSecret;
use super::{CertificateError, CertificateSettings, Source, keda, summary};
use crate::args::ScalerMode;

/// A turn without cause, for what no watch reports: a leaf that comes of age, a watch that died silently.
const INTERVAL: Duration = Duration::from_mins(3);
/// Between turns: events of one change, our own among them, make one turn; and two writers who disagree
/// about a bundle do not heat each other up.
const SETTLE: Duration = Duration::from_millis(500);
/// First wait after a failed turn; it doubles up to [`RETRY_CEILING`].
const RETRY_FLOOR: Duration = Duration::from_secs(1);
/// Longest wait after a failed turn: with it, a CA whose Secret was lost is back in half a minute even if the
/// API server was away.
const RETRY_CEILING: Duration = Duration::from_secs(10);

/// What the loop works with.
pub struct Certificates {
    /// The API server.
    pub client: Client,
    /// What to keep in step.
    pub settings: CertificateSettings,
    /// Whose certificate is served.
    pub resolver: Arc<Resolver>,
    /// Becomes true once every named configuration was seen with a bundle in each of its entries that verifies what is
    /// served, and stays so: a bundle that is cleared later is put back, and makes no replica unready.
    pub in_place: watch::Sender<bool>,
    /// Whom the external scaler lets in: kept in step with the CAs that are trusted.
    pub scaler_clients: Arc<Clients>,
    /// Whether KEDA can call the external scaler: at once without TLS, never where there is none, and otherwise as long as
    /// what KEDA reads fits what is served.
    pub published: watch::Sender<bool>,
    /// Whether this replica is the one that rotates the CA.
    pub leading: watch::Receiver<bool>,
    /// The clock of this node, which is compared with the API server's.
    pub own_time: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// What is told of it.
    pub metrics: CertificateMetrics,
}

/// Keeps everything in step for as long as it is polled; it may be dropped at any time.
pub async fn run(certificates: Certificates) {
    let mut changes = changes(&certificates.client, &certificates.settings);
    let mut leading = certificates.leading.clone();
    let mut issued = FromSecret::default();
    let mut files = FromFiles::default();
    let mut last = Turn::default();
    let mut retry = RETRY_FLOOR;
    certificates.published.send_replace(certificates.settings.scaler == ScalerMode::Plaintext);
    loop {
        let mut turn = Turn::default();
        let ended = match certificates.settings.source {
            Source::Issued => issued.turn(&certificates, &mut turn).await,
            Source::Files { .. } => files.turn(&certificates, &mut turn).await,
        };
        if let Err(error) = ended {
            turn.failed(&error);
        }
        if let (Some(conflict), Some(_)) = (&turn.conflict, &last.conflict) {
            turn.failures.push(conflict.clone());
        }
        if turn.ready {
            certificates.in_place.send_if_modified(|was| !std::mem::replace(was, true));
        }
        if let Some(published) = turn.published {
            publish(&certificates.published, published);
        }
        let wait = if turn.failures.is_empty() {
            retry = RETRY_FLOOR;
            if turn.conflict.is_some() {
                Duration::ZERO
            } else {
                turn.again.unwrap_or(INTERVAL).min(INTERVAL)
            }
        } else {
            let wait = retry;
            retry = (retry * 2).min(RETRY_CEILING);
            wait
        };
        tell(&last, &turn);
        turn.tell_of_keda(&last);
        last = turn;

        sleep(SETTLE).await;
        if !drain(&mut changes) {
            // All arms are cancellation-safe: a stream loses nothing when `next` is dropped, nor does a receiver.
            tokio::select! {
                _ = changes.next() => {}
                Ok(()) = leading.changed() => {}
                () = sleep(wait.saturating_sub(SETTLE)) => {}
            }
        }
    }
}

/// What one turn came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// What did not succeed, in words.
    pub failures: Vec<String>,
    /// Configurations that do not exist.
    pub absent: Vec<String>,
    /// Whether what is served is verified by what is in place.
    pub ready: bool,
    /// What another's write came before. Once, that is no failure: what it wrote is to be read.
    pub conflict: Option<String>,
    /// Whether KEDA can call the external scaler; `None`: as far as it is known, that is as it was.
    pub published: Option<bool>,
    /// What is in the way of that, or of its lasting, in words. It is no failure: webhooks do not wait for KEDA.
    pub keda: Vec<String>,
    /// What was told of it.
    keda_told: Vec<String>,
    /// When there is something to do, if nothing else happens.
    again: Option<Duration>,
}

impl Turn {
    /// The next turn is due by then.
    pub fn again_in(&mut self, wait: Option<Duration>) {
        self.again = self.again.into_iter().chain(wait).min();
    }

    /// Notes which configurations do not exist.
    pub fn note_absent(&mut self, configurations: &[Configuration]) {
        let absent = configurations.iter().filter(|configuration| configuration.found.is_none());
        self.absent.extend(absent.map(ToString::to_string));
    }

    /// Notes clocks that tell different times: the CA is not rotated then, until it has to be.
    pub fn clocks_differ(&mut self, moment: &Moment) {
        if !moment.clocks_agree() {
            // Minutes would make a new line of each turn.
            self.failures.push(
                "the clock of this node and that of the API server are more than 15 minutes apart; the CA is not rotated until one of them is set right"
                    .to_owned(),
            );
        }
    }

    /// Puts the bundle that `wanted` tells for each entry into those that have another.
    pub async fn inject(
        &mut self,
        client: &Client,
        configuration: &Configuration,
        wanted: impl Fn(&Entry) -> String,
    ) {
        let Some(patch) = configuration.patch(wanted) else { return };
        match configuration.send(client, patch).await {
            Ok(()) => {
                info!(%configuration, "put the CA bundle into its webhooks");
                // Whether it is there is seen when it is read.
                self.again_in(Some(Duration::ZERO));
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Logs what is in the way of KEDA's calls, once, if it is the second turn that meets it: what another replica is just
    /// about to write is no trouble.
    fn tell_of_keda(&mut self, before: &Self) {
        for trouble in self.keda.iter().filter(|trouble| before.keda.contains(trouble)) {
            if !before.keda_told.contains(trouble) {
                warn!("{trouble}; looking again every few seconds");
            }
            self.keda_told.push(trouble.clone());
        }
    }

    /// Notes what did not succeed.
    pub fn failed(&mut self, error: &CertificateError) {
        if error.is_conflict() {
            self.conflict = Some(error.to_string());
        } else {
            self.failures.push(error.to_string());
        }
    }
}

/// Tells whether KEDA can call, if that is something else than before.
fn publish(published: &watch::Sender<bool>, now: bool) {
    if published.send_if_modified(|was| std::mem::replace(was, now) != now) {
        if now {
            info!("KEDA can call the external scaler");
        } else {
            warn!("KEDA cannot call the external scaler any more");
        }
    }
}

/// Logs what differs from the turn before: a lasting trouble is one line, and so is its end.
fn tell(before: &Turn, now: &Turn) {
    let Turn { failures, absent, ready: _, conflict: _, published: _, keda: _, keda_told: _, again: _ } = now;
    for failure in failures.iter().filter(|failure| !before.failures.contains(failure)) {
        warn!("{failure}; trying again");
    }
    for configuration in absent.iter().filter(|configuration| !before.absent.contains(configuration)) {
        warn!("there is no {configuration}; what it is to send does not reach us");
    }
    if failures.is_empty() && !before.failures.is_empty() {
        info!("certificates are in step again");
    }
}

/// An item whenever one of the objects may have changed.
fn changes(client: &Client, settings: &CertificateSettings) -> SelectAll<BoxStream<'static, ()>> {
    let mut changes = SelectAll::new();
    changes.push(files::changes(settings));
    changes.push(keda::changes(client, settings));
    if settings.source == Source::Issued {
        let secrets = Api::namespaced(client.clone(), &settings.namespace);
        changes.push(changes_of::<Secret>(secrets, &settings.secret_name));
    }
    for name in &settings.mutating {
        changes.push(changes_of::<MutatingWebhookConfiguration>(Api::all(client.clone()), name));
    }
    for name in &settings.validating {
        changes.push(changes_of::<ValidatingWebhookConfiguration>(Api::all(client.clone()), name));
    }
    changes
}

/// Watches one object by its name, which is what RBAC's `resourceNames` allow, and its metadata alone: the
/// turn reads what it needs, and no key material lies in a stream.
pub(super) fn changes_of<K>(api: Api<PartialObjectMeta<K>>, name: &str) -> BoxStream<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
    PartialObjectMeta<K>: Debug,
{
    let kind = K::kind(&()).into_owned();
    let name = name.to_owned();
    let config = pace::watching().fields(&format!("metadata.name={name}"));
    let mut failing = None;
    watcher(api, config)
        .backoff(Steady)
        .filter_map(move |event| {
            let changed = match event {
                // It comes before the list is asked for, and says nothing of success.
                Ok(Event::Init) => false,
                Ok(event) => {
                    if failing.take().is_some() {
                        info!(kind, name, "watching again");
                    }
                    matches!(event, Event::Apply(_) | Event::Delete(_) | Event::InitDone)
                }
                // The watch fell behind while it was cut off, and starts over by itself.
                Err(watcher::Error::WatchError(status)) if status.code == 410 => false,
                Err(error) => {
                    let error = watch_summary(&error);
                    if failing.as_ref() != Some(&error) {
                        warn!(kind, name, error, "cannot watch; trying again, and looking every few minutes");
                    }
                    failing = Some(error);
                    false
                }
            };
            ready(changed.then_some(()))
        })
        .boxed()
}

fn watch_summary(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => summary(error),
        watcher::Error::WatchError(status) => status.message.clone(),
        other @ watcher::Error::NoResourceVersion => other.to_string(),
    }
}

/// Takes what is there to take; whether there was anything.
fn drain(changes: &mut SelectAll<BoxStream<'static, ()>>) -> bool {
    let mut any = false;
    while changes.next().now_or_never().flatten().is_some() {
        any = true;
    }
    any
}
