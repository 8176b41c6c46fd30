//! From the first waiting request to the count: the same signal by the external scaler and by Prometheus, at the same time.
//!
//! **Architecture invariant**: both clusters are told at one moment and alike; what differs is the trigger.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures::StreamExt as _;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{queue, scaled_object};
use crate::addons;
use crate::engine::control::Control;
use crate::objects;
use crate::plane::Plane;
use crate::pods::Engines;

const TRIALS: usize = 10;
const CLUSTER: &str = "a";
/// The pod that is told that requests wait.
const FIRST: &str = "a-0";
const POLLING: Duration = Duration::from_secs(2);
/// Far above the target, so that how many replicas are wanted is no question of rounding.
const WAITING: u32 = 100;
/// Tells a hang from a slow machine: a turn takes a few periods and the start or end of a pod.
const PATIENCE: Duration = Duration::from_mins(3);
/// The part of the HPA's period by which each trial begins later in it than the one before. No few of its multiples come near
/// a whole number, so trials begin all over the period.
const STRIDE: f64 = 0.618;

/// Options of `bench-scaler latency`.
#[derive(Clone, Debug, Args)]
pub struct Latency {
    /// How often.
    #[arg(long, default_value_t = TRIALS)]
    pub trials: usize,
}

impl Default for Latency {
    fn default() -> Self {
        Self { trials: TRIALS }
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What bounds every time from below: how often HPAs look.
    pub hpa_period: Duration,
    /// How often Prometheus reads the servers, and how often it evaluates its rules, as its configuration says it.
    pub prometheus_intervals: [&'static str; 2],
    /// By the external scaler.
    pub scaler: Times,
    /// By Prometheus.
    pub prometheus: Times,
}

/// Times of all trials, shortest first.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// From the first waiting request to the raised count.
    pub up: Vec<Duration>,
    /// From the end of the queue to the lowered count.
    pub down: Vec<Duration>,
}

impl Times {
    fn add(&mut self, up: Duration, down: Duration) {
        for (times, time) in [(&mut self.up, up), (&mut self.down, down)] {
            times.insert(times.partition_point(|known| *known < time), time);
        }
    }
}

/// The middle of times in order; of an even number the mean of both.
fn median(times: &[Duration]) -> Duration {
    let middle = times.len() / 2;
    match times {
        [] => Duration::ZERO,
        _ if times.len().is_multiple_of(2) => (times[middle - 1] + times[middle]) / 2,
        _ => times[middle],
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hpa_period, prometheus_intervals: [scrape, evaluation], scaler, prometheus } = self;
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let mut line = |label: &str, [first, second, third]: [String; 3]| {
            writeln!(f, "{label:<34}{first:>8}{second:>10}{third:>10}")
        };
        line("", ["median", "least", "most"].map(String::from))?;
        for (what, by_scaler, by_prometheus) in
            [("raised", &scaler.up, &prometheus.up), ("lowered", &scaler.down, &prometheus.down)]
        {
            for (way, times) in [("by the scaler", by_scaler), ("by Prometheus", by_prometheus)] {
                let [least, most] =
                    [times.first(), times.last()].map(|time| time.copied().unwrap_or_default());
                line(&format!("{what} {way}"), [median(times), least, most].map(seconds))?;
            }
            let ratio = median(by_prometheus).as_secs_f64() / median(by_scaler).as_secs_f64();
            line("  Prometheus over the scaler", [format!("{ratio:.2}"), String::new(), String::new()])?;
        }
        write!(
            f,
            "{} trials, from {WAITING} waiting requests, or none any more, until the count is written on /scale. An HPA looks \
             every {} s; Prometheus reads the servers every {scrape}, and evaluates its rules every {evaluation}.",
            scaler.up.len(),
            hpa_period.as_secs_f64(),
        )
    }
}

/// Measures on a plane with KEDA, Prometheus, and a scaler that KEDA can call.
pub async fn measure(plane: &Plane, latency: &Latency) -> anyhow::Result<Figures> {
    let by_prometheus = |namespace: &str| {
        let query = format!(
            r#"sum(vllm_request_queue_size{{job="vllm-cluster",namespace="{namespace}",cluster="{CLUSTER}"}})"#
        );
        json!({"type": "prometheus", "metadata": {
            "serverAddress": "http://prometheus:9090", "query": query, "threshold": "10",
            // An empty result is no queue of 0.
            "ignoreNullValues": "false",
        }})
    };
    let (mut scaler, mut prometheus) = tokio::try_join!(
        Driven::start(plane, "latency-scaler", queue()),
        Driven::start(plane, "latency-prometheus", by_prometheus("latency-prometheus")),
    )?;
    let hpa_period = plane.spec().hpa_sync_period;
    let mut figures = Figures {
        hpa_period,
        prometheus_intervals: addons::prometheus_intervals()?,
        scaler: Times::default(),
        prometheus: Times::default(),
    };
    let busy = Control { waiting: Some(WAITING), ..Control::default() };
    let mut phase = 0.0;
    for _ in 0..latency.trials {
        // A trial ends with a look of the HPA's; without this all would begin at the same moment of its period.
        sleep(hpa_period.mul_f64(phase)).await;
        phase = (phase + STRIDE).fract();
        let up = tokio::try_join!(scaler.turn(&busy, 1, 2), prometheus.turn(&busy, 1, 2))?;
        let idle = Control::default();
        let down = tokio::try_join!(scaler.turn(&idle, 2, 1), prometheus.turn(&idle, 2, 1))?;
        figures.scaler.add(up.0, down.0);
        figures.prometheus.add(up.1, down.1);
    }
    Ok(figures)
}

/// A cluster of one that a ScaledObject drives, in a namespace of its own.
struct Driven {
    namespace: &'static str,
    engines: Engines,
    counts: watch::Receiver<Counts>,
    /// Ends the watch when this is dropped.
    _watch: JoinSet<()>,
}

/// Of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Replicas that are wanted.
    wanted: i64,
    /// Pods that there are.
    pods: i64,
    /// Pods that are ready.
    ready: i64,
}

impl Counts {
    fn of(cluster: &DynamicObject) -> Self {
        let count = |pointer: &str| cluster.data.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
        Self {
            wanted: count("/spec/replicas"),
            pods: count("/status/replicas"),
            ready: count("/status/readyReplicas"),
        }
    }
}

impl Driven {
    /// Whose HPA has its metric.
    async fn start(plane: &Plane, namespace: &'static str, trigger: Value) -> anyhow::Result<Self> {
        let kubectl = async |words: &str, manifest: Value| {
            let args: Vec<_> = ["-n", namespace].into_iter().chain(words.split(' ')).collect();
            plane.kubectl(&args).stdin(manifest.to_string()).ok().await
        };
        kubectl(&format!("create namespace {namespace}"), Value::Null).await?;
        let cluster = json!({
            "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
            "metadata": {"name": CLUSTER}, "spec": {"replicas": 1, "maxReplicas": 2, "accelerator": {"count": 0}},
        });
        kubectl("apply -f -", cluster).await?;
        let wait =
            async |what: &str| kubectl(&format!("wait --timeout=180s --for={what}"), Value::Null).await;
        wait("jsonpath={.status.readyReplicas}=1 vllmcluster/a").await?;
        kubectl("apply -f -", scaled_object(CLUSTER, POLLING, &trigger)).await?;
        wait("condition=Ready scaledobject/a").await?;
        wait("condition=ScalingActive hpa/keda-hpa-a").await?;

        let clusters = objects::clusters(&plane.client().await?, namespace);
        let (sender, counts) = watch::channel(Counts::default());
        let mut task = JoinSet::new();
        task.spawn(
            watcher(clusters, watcher::Config::default()).default_backoff().applied_objects().for_each(
                move |cluster| {
                    // The watch tries again by itself.
                    if let Ok(cluster) = cluster {
                        sender.send_replace(Counts::of(&cluster));
                    }
                    std::future::ready(())
                },
            ),
        );
        let engines = Engines::of(plane, namespace).await?;
        let mut driven = Self { namespace, engines, counts, _watch: task };
        driven
            .until("one pod, which is ready", |counts| counts == Counts { wanted: 1, pods: 1, ready: 1 })
            .await?;
        Ok(driven)
    }

    /// Tells the first pod how to be, and says how long it took until the count went from `from` to `to`. Returns once the
    /// pods are as many.
    async fn turn(&mut self, control: &Control, from: i64, to: i64) -> anyhow::Result<Duration> {
        let wanted = self.counts.borrow_and_update().wanted;
        ensure!(wanted == from, "{}: the count is {wanted} before anything was told", self.namespace);
        let told = Instant::now();
        self.engines.set(FIRST, control).await?;
        self.until(&format!("a count of {to}"), |counts| counts.wanted == to).await?;
        let took = told.elapsed();
        let all = Counts { wanted: to, pods: to, ready: to };
        self.until(&format!("{to} pods, all of them ready"), |counts| counts == all).await?;
        Ok(took)
    }

    async fn until(&mut self, what: &str, is: impl Fn(Counts) -> bool) -> anyhow::Result<()> {
        let seen =
            timeout(PATIENCE, self.counts.wait_for(|counts| is(*counts))).await.map(|seen| seen.map(drop));
        seen.with_context(|| format!("{}: not so within {PATIENCE:?}: {what}", self.namespace))?
            .with_context(|| format!("{}: the watch ended before {what}", self.namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_in_order_and_have_a_middle() {
        let second = Duration::from_secs;
        let mut times = Times::default();
        for time in [3, 1, 2, 9] {
            times.add(second(time), second(time));
        }
        assert_eq!(times.up, [1, 2, 3, 9].map(second));
        assert_eq!(median(&times.up), Duration::from_millis(2500));
        assert_eq!(median(&times.up[..3]), second(2));
        assert_eq!(median(&[]), Duration::ZERO);
    }
}
