//! Writes through the API server that each must be judged by the operator: some it must admit, and some that nobody but it
//! refuses.
//!
//! They are made at a steady rate, whatever becomes of those before them. A write that comes to another end than it must is
//! lost: one that was refused or failed though it must be admitted, and one that was let through though it must be refused,
//! as where a webhook was ignored.
//!
//! **Architecture invariant**: knows nothing of what happens to the operator meanwhile.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::hollow::{self, Hollow};
use crate::objects;
use crate::plane::trying_again;
use crate::plane::wait::{Deadline, eventually};

/// Where the objects are that are written to.
const NAMESPACE: &str = "availability";
/// How many clusters there are, each with a ScaledObject that holds it to 1 to 3. So many that writes seldom meet at one: each
/// conflict has the API server ask all webhooks again, and where an answer takes a second, a few clusters written to by all keep
/// it at that for good.
const CLUSTERS: usize = 64;
/// Writes that may be under way. More are only where each takes seconds, and then those that are missing are told.
const MOST_AT_ONCE: usize = 500;
/// A client's patience; the API server gives a webhook 5 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is told of a write that was let through.
const LET_THROUGH: &str = "let through, and only the operator would have refused it";
/// How many losses are told in words.
const MOST_TOLD: usize = 10;

/// What writes came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Admitted, as they had to be.
    pub admitted: usize,
    /// Refused by the operator, as they had to be.
    pub refused: usize,
    /// Not made or not answered, since the API server or etcd could not.
    pub unreachable: usize,
    /// Lost.
    pub lost: usize,
    /// The first of the lost, in words.
    pub told: Vec<String>,
    /// The longest that one took.
    pub slowest: Duration,
}

impl Tally {
    /// All that were judged.
    pub fn judged(&self) -> usize {
        self.admitted + self.refused + self.lost
    }

    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        let Self { admitted, refused, unreachable, lost, told, slowest } = other;
        self.admitted += admitted;
        self.refused += refused;
        self.unreachable += unreachable;
        self.lost += lost;
        self.told.extend(told.into_iter().take(MOST_TOLD.saturating_sub(self.told.len())));
        self.slowest = self.slowest.max(slowest);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { admitted, refused, unreachable, lost, told, slowest } = self;
        write!(f, "{admitted} admitted, {refused} refused, {lost} lost; slowest {} ms", slowest.as_millis())?;
        if *unreachable > 0 {
            write!(f, "; {unreachable} without an API server")?;
        }
        told.iter().try_for_each(|told| write!(f, "\n  lost: {told}"))
    }
}

/// A write, and how it must end.
#[derive(Clone, Copy, Debug)]
enum Write {
    /// The count that it has, by `/scale`.
    SameCount,
    /// Another maximum, which still holds the ScaledObject's.
    OtherMaximum,
    /// A count beyond the ScaledObject's range and within the schema's.
    TooMany,
    /// Bounds that have nothing in common with the ScaledObject.
    NothingInCommon,
    /// A ScaledObject that may go down to 0.
    DownToZero,
}

impl Write {
    const ALL: [Self; 5] =
        [Self::SameCount, Self::TooMany, Self::OtherMaximum, Self::NothingInCommon, Self::DownToZero];

    fn must_pass(self) -> bool {
        matches!(self, Self::SameCount | Self::OtherMaximum)
    }

    /// What the operator says of it.
    fn sentence(self) -> &'static str {
        match self {
            Self::SameCount | Self::OtherMaximum => "",
            Self::TooMany => "is above the maximum 3",
            Self::NothingInCommon => "have no count in common",
            Self::DownToZero => "is below the minimum 1",
        }
    }
}

/// The objects that are written to.
#[derive(Clone)]
struct Objects {
    clusters: Api<DynamicObject>,
    scaled_objects: Api<DynamicObject>,
}

impl Objects {
    fn of(client: &Client) -> Self {
        Self {
            clusters: objects::clusters(client, NAMESPACE),
            scaled_objects: objects::scaled_objects(client, NAMESPACE),
        }
    }

    /// Reads one of each kind from etcd: the API server has connections of their own for each kind, and makes them again one
    /// after the other, up to a second and a half after it says that it is ready.
    async fn read(&self) -> kube::Result<()> {
        self.clusters.get("c-0").await?;
        self.scaled_objects.get("c-0").await.map(drop)
    }

    async fn make(&self, write: Write, number: usize) -> kube::Result<()> {
        let name = format!("c-{}", number % CLUSTERS);
        let merge = PatchParams::default();
        match write {
            Write::SameCount | Write::TooMany => {
                let replicas = if write.must_pass() { 1 } else { 9 };
                let scale = json!({"spec": {"replicas": replicas}});
                self.clusters.patch_scale(&name, &merge, &Patch::Merge(scale)).await.map(drop)
            }
            Write::OtherMaximum => {
                let spec = json!({"spec": {"maxReplicas": 10 + number % 7}});
                self.clusters.patch(&name, &merge, &Patch::Merge(spec)).await.map(drop)
            }
            Write::NothingInCommon => {
                let spec = json!({"spec": {"minReplicas": 5, "replicas": 5}});
                self.clusters.patch(&name, &merge, &Patch::Merge(spec)).await.map(drop)
            }
            Write::DownToZero => {
                let spec = json!({"spec": {"minReplicaCount": 0}});
                self.scaled_objects.patch(&name, &merge, &Patch::Merge(spec)).await.map(drop)
            }
        }
    }
}

/// Which writes may fail, as they do while there is nobody to call the operator. None may be let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Excused {
    #[default]
    None,
    /// All: there is an outage.
    All,
    /// Those that met the last outage.
    BegunBefore(Instant),
}

/// What writes came to, and what is made of those that end now.
#[derive(Default)]
struct Book {
    tally: Tally,
    excused: Excused,
}

impl Book {
    fn enter(&mut self, write: Write, begun: Instant, end: End) {
        let excused = match self.excused {
            Excused::None => false,
            Excused::All => true,
            Excused::BegunBefore(outages_end) => begun < outages_end,
        };
        self.tally.slowest = self.tally.slowest.max(begun.elapsed());
        let end = if excused { end.in_outage() } else { end };
        end.count(write, &mut self.tally);
    }
}

/// Writes that are being made.
pub struct Load {
    /// Where the clusters' pods are: their servers are nobody's concern here.
    _node: Hollow,
    objects: Objects,
    book: Arc<Mutex<Book>>,
    stop: CancellationToken,
    made: JoinHandle<()>,
}

impl Load {
    /// Makes what is to be written to, and begins, so many writes a second.
    pub async fn start(client: &Client, rate: u32) -> anyhow::Result<Self> {
        let node = hollow::start(client.clone()).await?;
        let objects = Objects::of(client);
        make_objects(client, &objects).await?;
        let (book, stop) = (Arc::<Mutex<Book>>::default(), CancellationToken::new());
        let made = tokio::spawn(make(objects.clone(), rate, Arc::clone(&book), stop.clone()));
        Ok(Self { _node: node, objects, book, stop, made })
    }

    /// What the writes since the last look came to.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut self.open().tally)
    }

    /// From here on, a write may fail, and none may be let through.
    pub fn outage_begins(&self) {
        self.open().excused = Excused::All;
    }

    /// Waits until the API server can read what is written to.
    pub async fn can_be_judged(&self) -> anyhow::Result<()> {
        eventually("what is written to can be read", Deadline::after(PATIENCE), || async {
            self.objects.read().await.map_err(|error| error.to_string())
        })
        .await
    }

    /// From here on, writes that begin must end as they ought to. One that is under way has met the outage.
    pub fn outage_ends(&self) {
        self.open().excused = Excused::BegunBefore(Instant::now());
    }

    fn open(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the writes of such a span from now on came to; those since the last look are told as well.
    pub async fn watch(&self, span: Duration) -> Tally {
        let before = self.take();
        tokio::time::sleep(span).await;
        let seen = self.take();
        let mut whole = before;
        whole.add(seen.clone());
        self.open().tally.add(whole);
        seen
    }

    /// Makes no more, and waits for those under way.
    pub async fn stop(self) -> anyhow::Result<Tally> {
        self.stop.cancel();
        self.made.await.context("the load")?;
        Ok(self.book.lock().unwrap_or_else(PoisonError::into_inner).tally.clone())
    }
}

async fn make(objects: Objects, rate: u32, book: Arc<Mutex<Book>>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    // The rate is that of arrivals: what was missed is made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_usize.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        let (objects, book) = (objects.clone(), Arc::clone(&book));
        tokio::spawn(async move {
            let write = Write::ALL[number % Write::ALL.len()];
            let begun = Instant::now();
            let answer = timeout(PATIENCE, objects.make(write, number)).await;
            let end = End::of(write, answer.ok());
            book.lock().unwrap_or_else(PoisonError::into_inner).enter(write, begun, end);
            drop(permit);
        });
    }
    // All of them back: none is under way.
    let all = u32::try_from(MOST_AT_ONCE).expect("a small number");
    let _ = room.acquire_many(all).await;
}

/// How a write has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Admitted,
    Refused,
    /// It was no doing of the operator's.
    Unreachable,
    Lost(String),
}

impl End {
    /// `None`: it was not answered in time.
    fn of(write: Write, answer: Option<kube::Result<()>>) -> Self {
        match answer {
            None => Self::Lost(format!("no answer within {} s", PATIENCE.as_secs())),
            Some(Ok(())) if write.must_pass() => Self::Admitted,
            Some(Ok(())) => Self::Lost(LET_THROUGH.into()),
            Some(Err(kube::Error::Api(status))) => {
                let ours =
                    !write.must_pass() && status.code == 422 && status.message.contains(write.sentence());
                let webhook = status.message.contains("webhook");
                let by_store = status.message.contains("etcdserver")
                    || status.message.contains("request timed out")
                    || matches!(status.code, 429 | 503 | 504);
                match () {
                    () if ours => Self::Refused,
                    () if by_store && !webhook => Self::Unreachable,
                    () => Self::Lost(format!("{} {}", status.code, status.message)),
                }
            }
            Some(Err(_transport)) => Self::Unreachable,
        }
    }

    /// As one ends that met an outage: it may have failed.
    fn in_outage(self) -> Self {
        match self {
            Self::Lost(why) if why != LET_THROUGH => Self::Unreachable,
            other => other,
        }
    }

    fn count(self, write: Write, tally: &mut Tally) {
        match self {
            Self::Admitted => tally.admitted += 1,
            Self::Refused => tally.refused += 1,
            Self::Unreachable => tally.unreachable += 1,
            Self::Lost(why) => {
                tally.lost += 1;
                if tally.told.len() < MOST_TOLD {
                    tally.told.push(format!("{write:?}: {why}"));
                }
            }
        }
    }
}

/// The clusters with their ScaledObjects, once each is refused what it must be refused.
async fn make_objects(client: &Client, made: &Objects) -> anyhow::Result<()> {
    let params = PostParams::default();
    objects::namespace(client, NAMESPACE).await?;
    for number in 0..CLUSTERS {
        let name = format!("c-{number}");
        let cluster: DynamicObject = serde_json::from_value(of_cluster(&name))?;
        trying_again(|| made.clusters.create(&params, &cluster)).await?;
        let scaled_object: DynamicObject = serde_json::from_value(of_scaled_object(&name))?;
        trying_again(|| made.scaled_objects.create(&params, &scaled_object)).await?;
        for write in Write::ALL {
            eventually(&format!("{write:?} of {name} ends well"), Deadline::after(PATIENCE), || async {
                match End::of(write, Some(made.make(write, number).await)) {
                    End::Admitted | End::Refused => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await?;
        }
    }
    Ok(())
}

fn of_cluster(name: &str) -> Value {
    json!({
        "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1, "maxReplicas": 10, "accelerator": {"count": 0}, "podTemplate": {"spec": hollow::pod_spec()},
        },
    })
}

/// One whose trigger KEDA does not know: nothing moves by itself.
fn of_scaled_object(name: &str) -> Value {
    json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": name,
            },
            "minReplicaCount": 1, "maxReplicaCount": 3,
            "triggers": [{"type": "of-another-release", "metadata": {}}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> kube::Result<()> {
        let status = json!({"status": "Failure", "code": code, "message": message, "reason": ""});
        Err(kube::Error::Api(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn what_counts_as_lost() {
        let ours = "spec.replicas: 9 is above the maximum 3 (maxReplicaCount of …)";
        let failed = "failed calling webhook \"check.scale…\": connection refused";
        for (write, answer, lost) in [
            (Write::SameCount, Some(Ok(())), false),
            (Write::TooMany, Some(Ok(())), true),
            (Write::TooMany, Some(refused(422, ours)), false),
            (Write::TooMany, Some(refused(422, "by the schema")), true),
            (Write::SameCount, Some(refused(422, ours)), true),
            (Write::OtherMaximum, Some(refused(500, failed)), true),
            (Write::OtherMaximum, Some(refused(504, failed)), true),
            (Write::OtherMaximum, Some(refused(503, "etcdserver: leader changed")), false),
            (Write::OtherMaximum, None, true),
        ] {
            let what = format!("{write:?} {answer:?}");
            assert_eq!(matches!(End::of(write, answer), End::Lost(_)), lost, "{what}");
        }
    }
    #[test]
    fn what_met_an_outage_may_fail_and_not_be_let_through() {
        let failed = || End::of(Write::SameCount, Some(refused(500, "took longer than 900 ms; try again")));
        let let_through = || End::of(Write::TooMany, Some(Ok(())));
        let before = Instant::now();
        let outages_end = before + Duration::from_millis(1);
        for (excused, begun, lost) in [
            (Excused::None, before, 2),
            (Excused::All, outages_end, 1),
            (Excused::BegunBefore(outages_end), before, 1),
            (Excused::BegunBefore(outages_end), outages_end, 2),
        ] {
            let mut book = Book { excused, ..Book::default() };
            book.enter(Write::SameCount, begun, failed());
            book.enter(Write::TooMany, begun, let_through());
            let Tally { lost: found, unreachable, .. } = book.tally;
            assert_eq!((found, unreachable), (lost, 2 - lost), "{excused:?}");
        }
    }
}
