//! The loop that keeps the Secret, the served leaf and the injected bundle in step.
//!
//! **Architecture invariant:** no state but what is served and what was last reported. Each turn starts from
//! what the API server says, so that a crash, a lost watch event or another replica's write needs no case of
//! its own. No error ends the loop.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use certs::Resolver;
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

use crate::pace::Steady;

use super::injection::{Injection, inject};
use super::secret::ensure_authority;
use super::{CertificateError, CertificateSettings, summary};

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

/// Keeps everything in step for as long as it is polled; it may be dropped at any time.
///
/// `in_place` becomes true once every named configuration was seen with the bundle in each of its entries,
/// and stays so: a bundle that is cleared later is put back, and makes no replica unready. Absent
/// configurations delay it and nothing else.
pub async fn run(
    client: Client,
    settings: CertificateSettings,
    resolver: Arc<Resolver>,
    in_place: watch::Sender<bool>,
) {
    let mut changes = changes(&client, &settings);
    let mut served = None;
    let mut last = Turn::default();
    let mut retry = RETRY_FLOOR;
    loop {
        let turn = turn(&client, &settings, &resolver, &mut served, Timestamp::now()).await;
        if turn.is_in_place() {
            in_place.send_if_modified(|was| !std::mem::replace(was, true));
        }
        let wait = if turn.failures.is_empty() {
            retry = RETRY_FLOOR;
            INTERVAL
        } else {
            let wait = retry;
            retry = (retry * 2).min(RETRY_CEILING);
            wait
        };
        tell(&last, &turn);
        last = turn;

        sleep(SETTLE).await;
        if !drain(&mut changes) {
            // Both arms are cancellation-safe: a stream loses nothing when `next` is dropped.
            tokio::select! {
                _ = changes.next() => {}
                () = sleep(wait) => {}
            }
        }
    }
}

/// What one turn came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Turn {
    /// What did not succeed, in words.
    failures: Vec<String>,
    /// Configurations that do not exist.
    absent: Vec<String>,
}

impl Turn {
    fn is_in_place(&self) -> bool {
        self.failures.is_empty() && self.absent.is_empty()
    }

    fn note(&mut self, kind: &str, name: &str, injection: Result<Injection, CertificateError>) {
        match injection {
            Ok(Injection::Unchanged) => {}
            Ok(Injection::Patched) => info!(kind, name, "put the CA bundle into its webhooks"),
            Ok(Injection::Absent) => self.absent.push(format!("{kind} {name}")),
            Err(error) => self.failures.push(error.to_string()),
        }
    }
}

/// The leaf that is served, and the CA that signed it.
struct Served {
    ca: Vec<u8>,
    leaf: certs::Leaf,
}

/// CA, then leaf, then bundles. The leaf comes before the bundles so that missing configurations never keep
/// us from serving; each bundle is tried whatever becomes of the others.
async fn turn(
    client: &Client,
    settings: &CertificateSettings,
    resolver: &Resolver,
    served: &mut Option<Served>,
    now: Timestamp,
) -> Turn {
    let mut turn = Turn::default();
    let trust = match ensure_authority(client, settings, now).await {
        Ok(trust) => trust,
        Err(error) => {
            turn.failures.push(error.to_string());
            return turn;
        }
    };
    if is_leaf_due(served.as_ref(), trust.authority.certificate(), now) {
        match trust.authority.issue(&settings.server_names(), now, settings.leaf_lifetime) {
            Ok(leaf) => {
                info!(not_after = %leaf.not_after(), "serving a new certificate");
                resolver.swap(&leaf);
                *served = Some(Served { ca: trust.authority.certificate().to_vec(), leaf });
            }
            Err(error) => turn.failures.push(CertificateError::from(error).to_string()),
        }
    }
    let bundle = trust.bundle.to_pem();
    for name in &settings.mutating {
        let injection = inject::<MutatingWebhookConfiguration>(client, name, &bundle).await;
        turn.note("MutatingWebhookConfiguration", name, injection);
    }
    for name in &settings.validating {
        let injection = inject::<ValidatingWebhookConfiguration>(client, name, &bundle).await;
        turn.note("ValidatingWebhookConfiguration", name, injection);
    }
    turn
}

/// A leaf of another CA is not trusted, and one in the last third of its life is renewed while there is time
/// for failures.
fn is_leaf_due(served: Option<&Served>, ca: &[u8], now: Timestamp) -> bool {
    let Some(Served { ca: signed_by, leaf }) = served else {
        return true;
    };
    let remaining = leaf.not_after().duration_since(now);
    let lifetime = leaf.not_after().duration_since(leaf.not_before());
    signed_by.as_slice() != ca || remaining * 3 < lifetime
}

/// Logs what differs from the turn before: a lasting trouble is one line, and so is its end.
fn tell(before: &Turn, now: &Turn) {
    let Turn { failures, absent } = now;
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
    let secrets = Api::namespaced(client.clone(), &settings.namespace);
    let mut changes = SelectAll::new();
    changes.push(changes_of::<Secret>(secrets, &settings.secret_name));
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
fn changes_of<K>(api: Api<PartialObjectMeta<K>>, name: &str) -> BoxStream<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
    PartialObjectMeta<K>: Debug,
{
    let kind = K::kind(&()).into_owned();
    let name = name.to_owned();
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
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

#[cfg(test)]
mod tests {
    use certs::Authority;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn served(now: Timestamp) -> Served {
        let authority = Authority::generate("ca", now, 100 * DAY).expect("in range");
        let leaf = authority.issue(&["x.y.svc".to_owned()], now, 30 * DAY).expect("a valid name");
        Served { ca: authority.certificate().to_vec(), leaf }
    }

    #[test]
    fn a_leaf_is_issued_at_first_for_another_ca_and_in_the_last_third_of_its_life() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a literal");
        let served = served(now);
        let ca = served.ca.clone();
        for (what, served, ca, at, due) in [
            ("the first", None, ca.as_slice(), now, true),
            ("just issued", Some(&served), ca.as_slice(), now, false),
            ("another CA", Some(&served), b"other".as_slice(), now, true),
            ("at 19 of 30 days", Some(&served), ca.as_slice(), now + 19 * DAY, false),
            ("at 20 of 30 days", Some(&served), ca.as_slice(), now + 20 * DAY, true),
            ("expired", Some(&served), ca.as_slice(), now + 40 * DAY, true),
        ] {
            assert_eq!(is_leaf_due(served, ca, at), due, "{what}");
        }
    }

    #[test]
    fn the_bundle_is_in_place_when_no_configuration_is_missing_or_refused() {
        let mut turn = Turn::default();
        turn.note("K", "a", Ok(Injection::Unchanged));
        turn.note("K", "b", Ok(Injection::Patched));
        assert!(turn.is_in_place());
        turn.note("K", "c", Ok(Injection::Absent));
        assert_eq!(turn, Turn { failures: vec![], absent: vec!["K c".into()] });
        assert!(!turn.is_in_place());

        let mut turn = Turn::default();
        turn.note("K", "a", Err(CertificateError::Timeout { action: "patch K a".into() }));
        assert_eq!(turn.failures, ["cannot patch K a: no answer within 8 s"]);
        assert!(!turn.is_in_place());
    }
}
