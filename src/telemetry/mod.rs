//! Metrics and log lines.
//!
//! Architecture invariant: handles are resolved once, at start; a request only adds to them.

mod admission;
mod calls;
mod controller;
#[cfg(test)]
mod dashboard;
mod scaler;

use std::io::IsTerminal as _;

use jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::fmt;

use crate::args::LogFormat;

pub use admission::{AdmissionMetrics, Answers, LiveReads};
pub use calls::Calls;
pub use controller::{ControllerMetrics, Figures, State};
pub use scaler::ScalerMetrics;

/// The metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What is asked of admission.
    pub admission: AdmissionMetrics,
    /// What the replica that leads does for clusters.
    pub controller: ControllerMetrics,
    /// What KEDA is told.
    pub scaler: ScalerMetrics,
    /// Calls to the API server.
    pub calls: Calls,
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

impl CertificateMetrics {
    fn register(registry: &mut Registry) -> Self {
        let certificates = Self::default();
        let Self { leaf, ca, unusable_files } = certificates.clone();
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
        certificates
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("vllm_operator");
        let admission = AdmissionMetrics::register(&mut registry);
        let leader = Gauge::default();
        registry.register("leader", "Whether this replica leads: reconciles VLLMClusters", leader.clone());
        let controller = ControllerMetrics::register(&mut registry);
        let scaler = ScalerMetrics::register(&mut registry);
        let calls = Calls::register(&mut registry);
        let certificates = CertificateMetrics::register(&mut registry);
        Self { registry, admission, controller, scaler, calls, leader, certificates }
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
    let terminal = std::io::stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    match format {
        LogFormat::Auto if terminal => builder.init(),
        LogFormat::Text => builder.init(),
        LogFormat::Auto | LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::{Method, Request, Response};
    use tower::{BoxError, Layer as _, Service as _, service_fn};

    use super::*;
    use crate::admit::Phase;

    const DOCUMENTED: &str = include_str!("../../docs/metrics.md");

    /// All that can be told, told once.
    async fn everything() -> String {
        let metrics = Metrics::default();
        metrics.admission.scale.denied(Phase::Mutating, "scale/above-maximum").inc();
        let state = State::Ready;
        metrics.controller.seen("n", "a", Figures { desired: 1, ready: 1, min: 1, max: Some(1), state });
        metrics.controller.reconciled(true, Duration::ZERO);
        metrics.scaler.answered("queue", false);
        metrics.scaler.probed("answered");
        let server = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(Body::from("x"))));
        let mut client = metrics.calls.layer(server);
        for (method, path) in [(Method::POST, "/api/v1/pods"), (Method::GET, "/api/v1/pods?watch=true")] {
            let request = Request::builder().method(method).uri(path).body(()).expect("a request");
            let answer = client.call(request).await.expect("an answer");
            axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
        }
        metrics.page()
    }

    #[tokio::test]
    async fn each_metric_is_documented_with_its_labels() {
        let page = everything().await;
        let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut told = BTreeSet::new();
        for (name, kind) in types.filter_map(|line| line.split_once(' ')) {
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let samples = page.lines().filter(|line| {
                line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name}_bucket{{"))
            });
            let labels: BTreeSet<_> = samples
                .flat_map(|line| line.split(['{', ',']).skip(1))
                .filter_map(|part| part.split_once('=').map(|(label, _)| label))
                .filter(|label| *label != "le")
                .collect();
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            told.insert(format!("| `{name}` | {kind} | {} |", labels.join(", ")));
        }
        let rows = DOCUMENTED.lines().filter(|line| line.starts_with("| `vllm_operator_"));
        let rows: BTreeSet<_> =
            rows.map(|row| row.splitn(5, '|').take(4).collect::<Vec<_>>().join("|") + "|").collect();
        assert_eq!(told, rows, "docs/metrics.md");
    }

    #[test]
    fn each_refusal_is_there_before_the_first() {
        let page = Metrics::default().page();
        for (resource, rule) in [
            ("scale", "scale/above-holder"),
            ("vllmcluster", "scale/above-maximum"),
            ("vllmcluster", "cluster/name-too-long"),
            ("scaledobject", "scaled-object/no-triggers"),
            ("horizontalpodautoscaler", "hpa/no-common-range"),
            ("scale", "live-read"),
        ] {
            for webhook in ["mutating", "validating"] {
                let decision = if rule == "live-read" { "failed" } else { "denied" };
                let series = format!(
                    r#"answers_total{{webhook="{webhook}",resource="{resource}",decision="{decision}",reason="{rule}"}} 0"#
                );
                assert!(page.contains(&series), "{series} in {page}");
            }
        }
        let warning = "scale/holder-decides-again";
        assert!(!page.contains(warning), "{warning} refuses nothing");
    }

    #[tokio::test]
    async fn alerts_ask_for_what_is_told() {
        let page = everything().await;
        let alerts = include_str!("../../deploy/prometheus/alerts.yaml");
        let runbooks = include_str!("../../docs/runbooks.md");
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
