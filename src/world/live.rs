//! Single live reads, for when what the watches told may be old.
//!
//! Whoever may write may make admission read, as often as they like. So identical reads are shared ([`flights`]),
//! and all together have a rate; beyond it a read waits for its turn, and where that is too far off, the review is
//! refused with "try again" rather than passed on to the API server as one more request.
//!
//! What was read is not kept, not even for a moment. A review must be answered by what was stored when it came, or
//! whoever widens a bound and then scales is refused by the bound that they have just changed. The API server
//! answers a read by what is stored when the read comes, so that only a read that starts after the review will do.
//!
//! How long a read may take is for whoever waits to say: each webhook has a timeout of its own.
//!
//! Architecture invariant: knows of no webhook; no read waits longer than it is told to.

mod flights;

use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::LimitRange;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};
use webhook::review::User;

use crate::api::guarded::Guarded;
use crate::policy::Scaler;
use crate::telemetry::LiveReads;

use super::part::{ClusterPart, HpaPart, ScaledObjectPart, is_some_amount};
use super::{Attachment, Cluster, ForeignHpa, Key};
use flights::Flights;

/// Reads a second for the whole process. A controller is allowed 20 by default; a cluster's autoscaling needs one
/// each 15 s for each cluster whose watch lags behind, and a release of many clusters several for each.
const RATE: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// Reads at once. The judgement of a ScaledObject takes up to five, so that a directory with forty new ones passes.
const BURST: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// How long a read may wait for its turn. What is left of the time that whoever waits has is for the read itself.
const QUEUE: Duration = Duration::from_millis(500);

/// Why a live read gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// The API server did not answer in time.
    #[error("reading {0} took longer than {ms} ms", ms = .1.as_millis())]
    Timeout(String, Duration),
    /// The API server refused or could not be reached.
    #[error("reading {0} failed: {sentence}", sentence = sentence(.1))]
    Api(String, Arc<kube::Error>),
    /// More is read already than the API server should bear.
    #[error("{0} was not read, since more than {RATE} objects a second would be")]
    Rate(String),
}

/// kube's own text of a refusal prints the whole `Status`.
fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} (code {})", status.message, status.code),
        other => other.to_string(),
    }
}

/// Reads objects live. Its client must not retry: the API server's own timeout runs meanwhile. Clones share their
/// reads and their rate.
#[derive(Clone)]
pub struct Live {
    reader: Reader,
    clusters: Flights<Option<Cluster>>,
    scalers: Flights<Option<Attachment<Scaler>>>,
    scalers_of: Flights<Vec<Attachment<Scaler>>>,
    hpas_of: Flights<Vec<Attachment<ForeignHpa>>>,
    default_requests: Flights<DefaultRequests>,
}

impl Live {
    /// Reads through `client`, and nobody counts how often.
    pub fn new(client: Client) -> Self {
        Self::counting(client, LiveReads::default())
    }

    /// Reads through `client`, and counts.
    pub fn counting(client: Client, reads: LiveReads) -> Self {
        Self::at_rate(client, reads, Quota::per_second(RATE).allow_burst(BURST))
    }

    /// Reads through `client` as often as it is asked to, because what answers is no API server.
    pub fn without_rate(client: Client) -> Self {
        Self::at_rate(client, LiveReads::default(), Quota::per_second(NonZeroU32::MAX))
    }

    /// Reads nothing for an hour.
    #[cfg(test)]
    pub(crate) fn with_its_rate_used_up(client: Client) -> Self {
        let quota = Quota::with_period(Duration::from_hours(1)).unwrap();
        let live = Self::at_rate(client, LiveReads::default(), quota);
        live.reader.rate.check().unwrap();
        live
    }

    fn at_rate(client: Client, reads: LiveReads, quota: Quota) -> Self {
        let rate = Arc::new(RateLimiter::direct(quota));
        Self {
            clusters: Flights::new(&reads),
            scalers: Flights::new(&reads),
            scalers_of: Flights::new(&reads),
            hpas_of: Flights::new(&reads),
            default_requests: Flights::new(&reads),
            reader: Reader { client, rate, reads },
        }
    }

    /// A cluster; `None` if there is none by that name.
    pub async fn cluster(
        &self,
        namespace: &str,
        name: &str,
        within: Duration,
    ) -> Result<Option<Cluster>, LiveError> {
        let what = format!("VLLMCluster {namespace}/{name}");
        let read = self.reader.object::<ClusterPart>(namespace, name, &what);
        let read = async { Ok(read.await?.map(|part| part.facts())) };
        in_time(what, within, self.clusters.join(Key::new(namespace, name), read)).await
    }

    /// What a ScaledObject is attached to; `None` if it is gone or attached to no cluster.
    pub async fn scaler(
        &self,
        namespace: &str,
        name: &str,
        within: Duration,
    ) -> Result<Option<Attachment<Scaler>>, LiveError> {
        let what = format!("ScaledObject {namespace}/{name}");
        let read = self.reader.object::<ScaledObjectPart>(namespace, name, &what);
        let read = async { Ok(read.await?.and_then(|part| part.attachment())) };
        in_time(what, within, self.scalers.join(Key::new(namespace, name), read)).await
    }

    /// The ScaledObjects of a namespace that are attached to any cluster; none where KEDA is not installed.
    pub async fn scalers_of(
        &self,
        namespace: &str,
        within: Duration,
    ) -> Result<Vec<Attachment<Scaler>>, LiveError> {
        let what = format!("ScaledObjects of {namespace}");
        let read = self.reader.list(namespace, &what);
        let read = async { Ok(read.await?.iter().filter_map(ScaledObjectPart::attachment).collect()) };
        in_time(what, within, self.scalers_of.join(Key::new(namespace, ""), read)).await
    }

    /// The HPAs of a namespace that point at any cluster and that no ScaledObject controls.
    pub async fn hpas_of(
        &self,
        namespace: &str,
        within: Duration,
    ) -> Result<Vec<Attachment<ForeignHpa>>, LiveError> {
        let what = format!("HorizontalPodAutoscalers of {namespace}");
        let read = self.reader.list(namespace, &what);
        let read = async { Ok(read.await?.iter().filter_map(HpaPart::attachment).collect()) };
        in_time(what, within, self.hpas_of.join(Key::new(namespace, ""), read)).await
    }

    /// Whether a user may create StatefulSets in a namespace.
    pub async fn may_create_statefulsets(
        &self,
        namespace: &str,
        user: &User<'_>,
        within: Duration,
    ) -> Result<bool, LiveError> {
        let what = format!("what {} may do in {namespace}", user.username);
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.username.to_string()),
                groups: Some(user.groups.iter().map(ToString::to_string).collect()),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(namespace.to_owned()),
                    group: Some("apps".into()),
                    resource: Some("statefulsets".into()),
                    verb: Some("create".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.reader.client.clone());
        let params = PostParams::default();
        let answer = self.reader.send(what.clone(), api.create(&params, &review));
        let answer = in_time(what, within, answer).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// What the API server finds wrong with an object, by a dry run of its creation: fields and sentences. That there is one
    /// of its name already is nothing that is wrong with it.
    pub async fn faults_of<K>(
        &self,
        namespace: &str,
        object: &K,
        within: Duration,
    ) -> Result<Vec<(String, String)>, LiveError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Serialize,
    {
        let what = format!("a dry run of a {} in {namespace}", K::kind(&()));
        let api = Api::<K>::namespaced(self.reader.client.clone(), namespace);
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let answer = self.reader.send(what.clone(), async {
            match api.create(&params, object).await {
                Ok(_) => Ok(Vec::new()),
                Err(kube::Error::Api(status)) if status.code == 422 => {
                    let causes = status.details.into_iter().flat_map(|details| details.causes);
                    Ok(causes.map(|cause| (cause.field, cause.message)).collect())
                }
                // A quota, another's policy, a namespace that goes, a webhook that knows no dry runs: nothing that is wrong
                // with the object.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => Ok(Vec::new()),
                Err(kube::Error::Api(status)) if status.code == 400 => {
                    let of_webhook = status.message.contains("does not support dry run");
                    Ok(if of_webhook { Vec::new() } else { vec![(String::new(), status.message)] })
                }
                Err(error) => Err(error),
            }
        });
        in_time(what, within, answer).await
    }

    /// The requests that containers of a namespace get without stating any.
    pub async fn default_requests(
        &self,
        namespace: &str,
        within: Duration,
    ) -> Result<DefaultRequests, LiveError> {
        let what = format!("LimitRanges of {namespace}");
        let read = self.reader.list(namespace, &what);
        let read = async { Ok(DefaultRequests::of(&read.await?)) };
        in_time(what, within, self.default_requests.join(Key::new(namespace, ""), read)).await
    }
}

/// Which requests a namespace's LimitRanges give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultRequests {
    /// Of cpu.
    pub cpu: bool,
    /// Of memory.
    pub memory: bool,
}

impl DefaultRequests {
    fn of(ranges: &[LimitRange]) -> Self {
        let limits = ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|spec| &spec.limits);
        let mut defaults = Self::default();
        for item in limits.filter(|item| item.type_ == "Container") {
            let requests = |resource: &str| {
                // A default limit is a default request too, where no request is stated.
                let mut stated = [&item.default_request, &item.default].into_iter().flatten();
                let amount = stated.find_map(|stated| stated.get(resource));
                amount.is_some_and(|Quantity(amount)| is_some_amount(amount))
            };
            defaults.cpu |= requests("cpu");
            defaults.memory |= requests("memory");
        }
        defaults
    }
}

/// Sends reads, as often as the rate allows.
#[derive(Clone)]
struct Reader {
    client: Client,
    rate: Arc<DefaultDirectRateLimiter>,
    reads: LiveReads,
}

/// The kinds that are read.
trait Read:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

impl<K> Read for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

impl Reader {
    fn object<K: Read>(
        &self,
        namespace: &str,
        name: &str,
        what: &str,
    ) -> impl Future<Output = Result<Option<K>, LiveError>> + use<K> {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let (reader, name, what) = (self.clone(), name.to_owned(), what.to_owned());
        async move { reader.send(what, api.get_opt(&name)).await }
    }

    fn list<K: Read>(
        &self,
        namespace: &str,
        what: &str,
    ) -> impl Future<Output = Result<Vec<K>, LiveError>> + use<K> {
        let api = Api::<Guarded<K>>::namespaced(self.client.clone(), namespace);
        let (reader, what) = (self.clone(), what.to_owned());
        let read = async move {
            match api.list(&ListParams::default()).await {
                // An unreadable one is left out, as the watch does, which reports it.
                Ok(list) => Ok(list.items.into_iter().filter_map(|object| object.0.ok()).collect()),
                // The kind is not installed.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        };
        async move { reader.send(what, read).await }
    }

    async fn send<T>(
        &self,
        what: String,
        read: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, LiveError> {
        let latest = Instant::now() + QUEUE;
        while let Err(later) = self.rate.check() {
            let turn = Instant::now() + later.wait_time_from(self.rate.clock().now());
            if turn > latest {
                self.reads.limited.inc();
                return Err(LiveError::Rate(what));
            }
            sleep_until(turn).await;
        }
        self.reads.sent.inc();
        read.await.map_err(|error| LiveError::Api(what, Arc::new(error)))
    }
}

/// Whoever waits has a limit, and not the read: it ends when nobody waits for it any more.
async fn in_time<T>(
    what: String,
    within: Duration,
    read: impl Future<Output = Result<T, LiveError>>,
) -> Result<T, LiveError> {
    timeout(within, read).await.unwrap_or_else(|_elapsed| Err(LiveError::Timeout(what, within)))
}

#[cfg(test)]
mod tests;
