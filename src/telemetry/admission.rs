//! What is told of admission reviews.
//!
//! Architecture invariant: labels are words of this program alone, never of a request: there are as many series as there are
//! webhooks and rules, all of them from the start. Of a series that begins with 1, Prometheus sees no increase: the first
//! refusal would be in no graph and no alert.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::admit::{Phase, Unjudged};
use crate::policy::Rule;

/// One of the webhooks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Webhook {
    webhook: &'static str,
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    webhook: &'static str,
    resource: &'static str,
    decision: &'static str,
    reason: &'static str,
}

/// From 100 µs on, doubled up to the 5 s that an API server waits.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}

/// All of admission.
#[derive(Debug)]
pub struct AdmissionMetrics {
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

/// What is told of writes of one kind.
#[derive(Debug)]
pub struct Answers {
    resource: &'static str,
    all: Family<Answer, Counter>,
    mutating: Usual,
    validating: Usual,
}

/// What each review adds to.
#[derive(Clone, Debug)]
struct Usual {
    allowed: Counter,
    took: Histogram,
}

impl Answers {
    /// Of a resource whose writes are refused by the rules that begin with one of `rules`.
    fn new(
        resource: &'static str,
        rules: &[&str],
        all: &Family<Answer, Counter>,
        took: &Family<Webhook, Histogram, fn() -> Histogram>,
    ) -> Self {
        let usual = |phase| {
            let webhook = name(phase);
            Usual {
                allowed: all.get_or_create_owned(&Answer {
                    webhook,
                    resource,
                    decision: "allowed",
                    reason: "",
                }),
                took: took.get_or_create_owned(&Webhook { webhook, resource }),
            }
        };
        let (mutating, validating) = (usual(Phase::Mutating), usual(Phase::Validating));
        let of_resource = |rule: &&Rule| rules.iter().any(|kind| rule.as_str().starts_with(kind));
        let refusals = Rule::ALL.iter().filter(|rule| rule.refuses()).filter(of_resource);
        let denied = refusals.map(|rule| ("denied", rule.as_str()));
        let failed = Unjudged::REASONS.map(|reason| ("failed", reason));
        for (decision, reason) in denied.chain(failed) {
            for webhook in [Phase::Mutating, Phase::Validating].map(name) {
                // There from here on, at 0.
                drop(all.get_or_create(&Answer { webhook, resource, decision, reason }));
            }
        }
        Self { resource, all: all.clone(), mutating, validating }
    }

    /// Allowed, be it with a patch or warnings.
    pub fn allowed(&self, phase: Phase) -> &Counter {
        &self.usual(phase).allowed
    }

    /// How long answers took, in seconds.
    pub fn took(&self, phase: Phase) -> &Histogram {
        &self.usual(phase).took
    }

    /// Refused by the policy; the reason is the first rule that does not allow it.
    pub fn denied(&self, phase: Phase, reason: &'static str) -> Counter {
        self.counter(phase, "denied", reason)
    }

    /// Not judged.
    pub fn failed(&self, phase: Phase, reason: &'static str) -> Counter {
        self.counter(phase, "failed", reason)
    }

    fn counter(&self, phase: Phase, decision: &'static str, reason: &'static str) -> Counter {
        let Self { resource, all, .. } = self;
        let answer = Answer { webhook: name(phase), resource, decision, reason };
        #[cfg(test)]
        assert!(all.get(&answer).is_some(), "{answer:?} was not there from the start");
        all.get_or_create_owned(&answer)
    }

    fn usual(&self, phase: Phase) -> &Usual {
        match phase {
            Phase::Mutating => &self.mutating,
            Phase::Validating => &self.validating,
        }
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Mutating => "mutating",
        Phase::Validating => "validating",
    }
}

impl AdmissionMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let answers = Family::<Answer, Counter>::default();
        registry.register("admission_answers", "Admission reviews answered", answers.clone());
        let took = Family::<Webhook, Histogram, fn() -> Histogram>::new_with_constructor(durations);
        registry.register(
            "admission_duration_seconds",
            "From a review's body to its answer, live reads included",
            took.clone(),
        );
        let of = |resource, rules: &[&str]| Answers::new(resource, rules, &answers, &took);
        // A manifest states a count, too.
        let (scale, cluster) = (of("scale", &["scale/"]), of("vllmcluster", &["scale/", "cluster/"]));
        let scaled_object = of("scaledobject", &["scaled-object/"]);
        let hpa = of("horizontalpodautoscaler", &["hpa/"]);
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
        Self { scale, cluster, scaled_object, hpa, clamped, live_reads }
    }
}
