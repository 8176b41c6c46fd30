//! What is told of the controller, by the replica that leads: reconciliations, and the clusters as they were seen last.
//!
//! Architecture invariant: what is told of a cluster goes with it, and all of it with the lead.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric as _};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// The controller.
#[derive(Clone, Debug)]
pub struct ControllerMetrics {
    succeeded: Counter,
    failed: Counter,
    took: Histogram,
    clusters: Clusters,
}

impl ControllerMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let ended = Family::<Ended, Counter>::default();
        registry.register("reconciles", "Reconciliations of VLLMClusters", ended.clone());
        // From a look that finds all as it should be to one that waits for a slow API server.
        let took = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        registry.register("reconcile_duration_seconds", "How long they took", took.clone());
        let clusters = Clusters::default();
        registry.register_collector(Box::new(clusters.clone()));
        let of = |outcome| ended.get_or_create_owned(&Ended { outcome });
        Self { succeeded: of("succeeded"), failed: of("failed"), took, clusters }
    }

    /// One reconciliation has ended.
    pub fn reconciled(&self, succeeded: bool, took: Duration) {
        if succeeded { &self.succeeded } else { &self.failed }.inc();
        self.took.observe(took.as_secs_f64());
    }

    /// A cluster, as it is now.
    pub fn seen(&self, namespace: &str, name: &str, cluster: Figures) {
        self.clusters.lock().insert((namespace.to_owned(), name.to_owned()), cluster);
    }

    /// A cluster is gone.
    pub fn gone(&self, namespace: &str, name: &str) {
        self.clusters.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Another replica tells of all clusters from here on.
    pub fn resigned(&self) {
        self.clusters.lock().clear();
    }
}

/// What is told of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Replicas that are wanted.
    pub desired: i32,
    /// Replicas that are ready.
    pub ready: i32,
    /// The least that there may be.
    pub min: i32,
    /// The most that there may be; `None`: without a bound.
    pub max: Option<i32>,
    /// How it is.
    pub state: State,
}

/// How a cluster is, by its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves, and nothing is under way.
    Ready,
    /// On its way to its spec.
    Reconciling,
    /// It gets no further without a person.
    Stalled,
}

impl State {
    const ALL: [Self; 3] = [Self::Ready, Self::Reconciling, Self::Stalled];

    const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Reconciling => "reconciling",
            Self::Stalled => "stalled",
        }
    }
}

/// By namespace and name.
#[derive(Clone, Debug, Default)]
struct Clusters(Arc<Mutex<BTreeMap<(String, String), Figures>>>);

impl Clusters {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Figures>> {
        // Each change is one entry's.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A count of a cluster.
type Figure = (&'static str, &'static str, fn(&Figures) -> Option<i32>);

const FIGURES: [Figure; 4] = [
    ("cluster_desired_replicas", "spec.replicas of a VLLMCluster", |cluster| Some(cluster.desired)),
    ("cluster_ready_replicas", "Replicas of a VLLMCluster that are ready", |cluster| Some(cluster.ready)),
    ("cluster_min_replicas", "The least that a VLLMCluster and what drives it allow", |cluster| {
        Some(cluster.min)
    }),
    (
        "cluster_max_replicas",
        "The most that a VLLMCluster and what drives it allow; absent without a bound",
        |cluster| cluster.max,
    ),
];

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let clusters = self.lock();
        let mut states =
            encoder.encode_descriptor("clusters", "VLLMClusters by state", None, MetricType::Gauge)?;
        for state in State::ALL {
            let count = clusters.values().filter(|cluster| cluster.state == state).count();
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(states.encode_family(&[("state", state.name())])?)?;
        }
        for (name, what, figure) in FIGURES {
            let mut family = encoder.encode_descriptor(name, what, None, ConstGauge::<i64>::TYPE)?;
            for ((namespace, name), cluster) in clusters.iter() {
                if let Some(count) = figure(cluster) {
                    let labels = [("namespace", namespace.as_str()), ("cluster", name.as_str())];
                    ConstGauge::new(i64::from(count)).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_told_of_until_it_is_gone_or_another_leads() {
        let mut registry = Registry::default();
        let metrics = ControllerMetrics::register(&mut registry);
        let page = || {
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, &registry).expect("a page");
            page
        };
        let cluster = Figures { desired: 3, ready: 2, min: 1, max: Some(4), state: State::Reconciling };
        metrics.seen("n", "a", cluster);
        metrics.seen("n", "b", Figures { max: None, state: State::Ready, ..cluster });
        metrics.reconciled(true, Duration::from_millis(3));
        metrics.reconciled(false, Duration::from_millis(3));
        let seen = page();
        for line in [
            r#"clusters{state="ready"} 1"#,
            r#"clusters{state="reconciling"} 1"#,
            r#"clusters{state="stalled"} 0"#,
            r#"cluster_desired_replicas{namespace="n",cluster="a"} 3"#,
            r#"cluster_ready_replicas{namespace="n",cluster="b"} 2"#,
            r#"cluster_max_replicas{namespace="n",cluster="a"} 4"#,
            r#"reconciles_total{outcome="failed"} 1"#,
            "reconcile_duration_seconds_count 2",
        ] {
            assert!(seen.contains(line), "{line} in {seen}");
        }
        assert!(!seen.contains(r#"cluster_max_replicas{namespace="n",cluster="b"}"#), "no bound: {seen}");
        metrics.gone("n", "a");
        assert!(!page().contains(r#"cluster="a""#));
        metrics.resigned();
        assert!(!page().contains("cluster=") && page().contains(r#"clusters{state="ready"} 0"#));
    }
}
