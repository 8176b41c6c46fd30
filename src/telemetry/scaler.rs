//! What is told of the external scaler.
//!
//! Architecture invariant: labels are words of this program alone; a cluster that is not heard of is told in the log.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    signal: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Probe {
    outcome: &'static str,
}

/// The scaler.
#[derive(Clone, Debug, Default)]
pub struct ScalerMetrics {
    answers: Family<Answer, Counter>,
    probes: Family<Probe, Counter>,
}

impl ScalerMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { answers, probes } = metrics.clone();
        registry.register(
            "scaler_answers",
            "Values given to KEDA: whole, or held at the present count since the word of a server is missing",
            answers,
        );
        registry.register("scaler_probes", "Requests to servers", probes);
        metrics
    }

    /// A value was given.
    pub fn answered(&self, signal: &'static str, held: bool) {
        let outcome = if held { "held" } else { "whole" };
        self.answers.get_or_create(&Answer { signal, outcome }).inc();
    }

    /// None could be given.
    pub fn refused(&self) {
        self.answers.get_or_create(&Answer { signal: "", outcome: "refused" }).inc();
    }

    /// A server was asked.
    pub fn probed(&self, outcome: &'static str) {
        self.probes.get_or_create(&Probe { outcome }).inc();
    }
}
