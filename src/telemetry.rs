//! Metrics and log lines.
//!
//! Architecture invariant: handles are resolved once, at start; a request only adds to them.

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::fmt;

use crate::args::LogFormat;

/// Labels of an admission answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    resource: &'static str,
    decision: &'static str,
}

/// The metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Writes to `/scale`.
    pub scale: Answers,
    /// Writes to `VLLMCluster`s.
    pub cluster: Answers,
    /// Writes of ScaledObjects that drive a `VLLMCluster`.
    pub scaled_object: Answers,
    /// Writes of HPAs that point at a `VLLMCluster`.
    pub hpa: Answers,
    /// Counts of autoscalers that were moved to a bound.
    pub clamped: Counter,
    /// Objects read live because what was known may have been old.
    pub live_reads: LiveReads,
    /// 1 in the replica that leads, 0 in the others.
    pub leader: Gauge,
    /// The certificate that is served, and the CA behind it.
    pub certificates: CertificateMetrics,
}

/// What is told of certificates.
#[derive(Clone, Debug, Default)]
pub struct CertificateMetrics {
    leaf: Gauge,
    ca: Gauge,
    /// Times that the mounted files held nothing that can be served.
    pub unusable_files: Counter,
}

impl CertificateMetrics {
    /// When what is served ends.
    pub fn leaf_expiry(&self, at: Timestamp) {
        self.leaf.set(at.as_second());
    }

    /// When the CA that signs ends.
    pub fn ca_expiry(&self, at: Timestamp) {
        self.ca.set(at.as_second());
    }
}

/// The counters of live reads.
#[derive(Clone, Debug, Default)]
pub struct LiveReads {
    /// Sent to the API server.
    pub sent: Counter,
    /// Not sent, since another review waited for the same read.
    pub shared: Counter,
    /// Not sent, since there were too many.
    pub limited: Counter,
}

/// The counters of one kind of write.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Allowed.
    pub allowed: Counter,
    /// Refused by the policy.
    pub denied: Counter,
    /// Not judged, because something could not be read.
    pub failed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("vllm_operator");
        let answers = Family::<Answer, Counter>::default();
        registry.register("admission_answers", "Admission reviews answered", answers.clone());
        let of = |resource| {
            let counter = |decision| answers.get_or_create(&Answer { resource, decision }).clone();
            Answers { allowed: counter("allowed"), denied: counter("denied"), failed: counter("failed") }
        };
        let (scale, cluster) = (of("scale"), of("vllmcluster"));
        let (scaled_object, hpa) = (of("scaledobject"), of("horizontalpodautoscaler"));
        let clamped = Counter::default();
        registry.register("scale_clamped", "Counts of autoscalers moved to a bound", clamped.clone());
        let live_reads = LiveReads::default();
        let LiveReads { sent, shared, limited } = live_reads.clone();
        registry.register("admission_live_reads", "Objects read live for an admission answer", sent);
        registry.register(
            "admission_live_reads_shared",
            "Live reads that were not sent, since another review waited for the same one",
            shared,
        );
        registry.register(
            "admission_live_reads_limited",
            "Live reads that were not sent, since there were too many; their reviews were refused with 429",
            limited,
        );
        let leader = Gauge::default();
        registry.register("leader", "Whether this replica leads: reconciles VLLMClusters", leader.clone());
        let certificates = CertificateMetrics::default();
        let CertificateMetrics { leaf, ca, unusable_files } = certificates.clone();
        registry.register("leaf_expiry_timestamp_seconds", "When the served certificate ends", leaf);
        registry.register(
            "ca_expiry_timestamp_seconds",
            "When the CA that signs it ends; 0 where the certificate comes from files",
            ca,
        );
        registry.register(
            "certificate_files_unusable",
            "Looks at the mounted certificate files that found nothing to serve",
            unusable_files,
        );
        Self { registry, scale, cluster, scaled_object, hpa, clamped, live_reads, leader, certificates }
    }
}

impl Metrics {
    /// The page in the Prometheus text format.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        encode(&mut page, &self.registry).expect("a String takes everything");
        page
    }
}

/// kube logs every failed attempt of every watch; our own lines say it once.
const DEFAULT_FILTER: &str = "info,kube_runtime::watcher=error,kube_client=off";

/// Starts log lines on standard error; `RUST_LOG` sets the level, `info` without it.
pub fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_ask_for_what_is_told() {
        let page = Metrics::default().page();
        let alerts = include_str!("../deploy/prometheus/alerts.yaml");
        let runbooks = include_str!("../docs/runbooks.md");
        let word = |text: &str| -> String {
            text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        };
        let asked: Vec<_> =
            alerts.match_indices("vllm_operator_").map(|(at, _)| word(&alerts[at..])).collect();
        assert!(!asked.is_empty());
        for metric in asked {
            assert!(page.lines().any(|line| word(line) == metric), "{metric}");
        }
        for (at, name) in alerts.match_indices("- alert: ") {
            let alert = word(&alerts[at + name.len()..]);
            assert!(runbooks.contains(&format!("\n## {alert}\n")), "{alert} has no runbook");
            assert!(
                alerts.contains(&format!("docs/runbooks.md#{}\n", alert.to_lowercase())),
                "{alert} leads to none"
            );
        }
    }
}
