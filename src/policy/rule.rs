//! The rules that findings name: stable ids, for whoever shows findings, filters them or links to a page about one.
//!
//! A rule is one clause of the table "Admission policy" of the design that can speak: each refusal and each warning
//! is of exactly one. What excuses a write or fills a field in says nothing, and has no rule.
//!
//! Architecture invariant: names alone. What a rule demands stands in the file of its kind of write, and its sentence
//! beside it.

/// Declares an enum whose variants have an id and what their documentation says, and a list of all.
macro_rules! ids {
    ($(#[$of_all:meta])* $visibility:vis enum $name:ident { $($(#[doc = $says:literal])* $variant:ident = $id:literal,)* }) => {
        $(#[$of_all])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $visibility enum $name { $($(#[doc = $says])* $variant,)* }

        impl $name {
            /// All, in the order of the table.
            #[allow(dead_code, reason = "of the clauses that say nothing, only tests ask for the list")]
            $visibility const ALL: &[Self] = &[$(Self::$variant),*];

            /// The id: the kind of write, and what is at fault.
            #[allow(dead_code, reason = "of the clauses that say nothing, only tests ask for the id")]
            $visibility const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// Its documentation, on one line.
            #[allow(dead_code, reason = "of the clauses that say nothing, nobody asks")]
            $visibility const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($says),*).trim_ascii(),)* }
            }
        }
    };
}

pub(super) use ids;

ids! {
    /// What a finding is about. Ids never change their meaning; a rule that is dropped takes its id with it.
    pub enum Rule {
        // A stated count: a write of `/scale`, or `spec.replicas` in a manifest.
        /// Fewer than one replica. Scaling to zero is not in the API: the schema's minimum is 1.
        CountBelowOne = "scale/below-one",
        /// Fewer replicas than the cluster's own `spec.minReplicas`.
        CountBelowMinimum = "scale/below-minimum",
        /// More replicas than the cluster's own `spec.maxReplicas`.
        CountAboveMaximum = "scale/above-maximum",
        /// More replicas than any cluster may have: the schema's maximum.
        CountAboveLimit = "scale/above-limit",
        /// A person's count below the range of the ScaledObject that holds it, and not moving towards it.
        CountBelowHolder = "scale/below-holder",
        /// A person's count above the range of the ScaledObject that holds it, and not moving towards it.
        CountAboveHolder = "scale/above-holder",
        /// Warning: a person's count lies within the holder's range, and the holder will decide again.
        HolderDecidesAgain = "scale/holder-decides-again",
        /// Warning: a person's count lies outside of the holder's range and passes, because it moves towards it or is
        /// a new cluster's: the holder moves it.
        CountStillOutsideHolder = "scale/still-outside-holder",
        /// Warning, and a condition: the ScaledObject's range has nothing in common with the cluster's bounds, so no
        /// count suits both.
        HolderOutsideBounds = "scale/holder-outside-bounds",
        /// Warning: an autoscaler's count was moved to the cluster's nearest bound, because an HPA that is refused
        /// stays where it is for ever.
        CountMovedForAutoscaler = "scale/moved-to-nearest-bound",

        // A VLLMCluster.
        /// Warning: new bounds moved a count that the write left out or did not touch.
        CountMovedByBounds = "cluster/count-moved-by-bounds",
        /// A name with more than 52 characters: the StatefulSet controller puts it into a pod label of 63.
        NameTooLong = "cluster/name-too-long",
        /// A name that is no DNS-1035 label, as a Service's must be.
        NameNoLabel = "cluster/name-no-dns-label",
        /// A name that makes one of the two Services of this cluster the Service of another: the headless one of a
        /// cluster `a` is `a-pods`.
        NameOfService = "cluster/name-of-anothers-service",
        /// A `spec.minReplicas` that is no bound: below 1, or above the schema's maximum.
        MinimumOutOfRange = "cluster/minimum-out-of-range",
        /// A `spec.maxReplicas` that is no bound: below 1, or above the schema's maximum.
        MaximumOutOfRange = "cluster/maximum-out-of-range",
        /// `spec.minReplicas` above `spec.maxReplicas`.
        MinimumAboveMaximum = "cluster/minimum-above-maximum",
        /// Bounds that leave no common range with the attached ScaledObject. A warning where they left none before.
        BoundsOutsideScaler = "cluster/no-common-range",
        /// Warning: bounds that leave a part of the attached ScaledObject's range. Helm applies a ScaledObject before
        /// its cluster, so widening both must not fail half-way.
        BoundsCutScaler = "cluster/narrower-than-scaled-object",
        /// A condition: more than one autoscaler scales the cluster, whoever let that pass.
        SeveralDrivers = "cluster/several-autoscalers",

        // A VLLMCluster: its pods.
        /// An argument of `vllm serve` that a field stands for, or that would hide the servers from probes and
        /// Services.
        ArgumentOfField = "cluster/argument-of-a-field",
        /// `drainSeconds` with an image of vLLM before 0.18, which has no `--shutdown-timeout`.
        DrainNeedsNewerImage = "cluster/drain-needs-newer-image",
        /// Fewer accelerators than `tensorParallelSize` times `pipelineParallelSize`.
        AcceleratorsTooFew = "cluster/accelerators-too-few",
        /// An accelerator that both `accelerator` and `resources` state.
        AcceleratorTwice = "cluster/accelerator-twice",
        /// An environment variable that a field stands for.
        VariableOfField = "cluster/variable-of-a-field",
        /// A model cache with both kinds of claims, or with none.
        CacheOfOneKind = "cluster/cache-of-one-kind",
        /// A retention without claims that it could be of.
        RetentionWithoutClaim = "cluster/retention-without-claim",
        /// `maxUnavailable` where nothing is rolled out.
        UnavailableOnDelete = "cluster/max-unavailable-on-delete",
        /// A disruption budget with both of its fields, or with none.
        BudgetOfOneKind = "cluster/budget-of-one-kind",
        /// Another name of a model that is not stated.
        ServedNameOfNothing = "cluster/served-name-of-nothing",
        /// A label of the pod template by which Services and `/scale` find the pods.
        TemplateLabel = "cluster/template-label",
        /// A part of the pod template that the operator guarantees, or that a field stands for.
        TemplateProtected = "cluster/template-protected",
        /// Host namespaces, host paths, host ports, privileges, and all else that the Pod Security Standard "baseline"
        /// forbids: refused unless the installation allows them with `--allow-host-access`.
        HostAccess = "cluster/host-access",
        /// A StatefulSet or a PodDisruptionBudget that the API server would not take, in its own words.
        TemplateInvalid = "cluster/template-invalid",
        /// A spec with a value that no `VLLMCluster` can have, though the schema lets it pass.
        SpecUnreadable = "cluster/spec-unreadable",
        /// A Secret, a ConfigMap, a claim, a pod template or its annotations, or another use of them, by a writer who may not
        /// create StatefulSets in the namespace.
        WriterMayNot = "cluster/writer-may-not",

        // A ScaledObject: its range.
        /// No `minReplicaCount`: KEDA's 0 can never work here.
        ScalerMinimumAbsent = "scaled-object/minimum-absent",
        /// A `minReplicaCount` of 0 or less.
        ScalerMinimumBelowOne = "scaled-object/minimum-below-one",
        /// Any `idleReplicaCount`: KEDA takes nothing but 0 there, which a cluster never accepts.
        ScalerIdle = "scaled-object/idle-replica-count",
        /// A `maxReplicaCount` below 1.
        ScalerMaximumBelowOne = "scaled-object/maximum-below-one",
        /// `minReplicaCount` above `maxReplicaCount`, which KEDA's webhook refuses too.
        ScalerMinimumAboveMaximum = "scaled-object/minimum-above-maximum",
        /// `minReplicaCount` above the 100 that KEDA takes for an absent `maxReplicaCount`; KEDA refuses it too.
        ScalerMinimumAboveDefault = "scaled-object/minimum-above-default-maximum",
        /// A range without a count in common with the cluster's bounds.
        ScalerOutsideBounds = "scaled-object/no-common-range",
        /// Warning: a range wider than the cluster's bounds.
        ScalerWider = "scaled-object/wider-than-cluster",

        // A ScaledObject: fallback, pause and formula.
        /// `fallback.replicas` outside of the cluster's bounds.
        FallbackOutsideBounds = "scaled-object/fallback-outside-bounds",
        /// `fallback.behavior: scalingModifiers` without a formula, which KEDA's webhook refuses too.
        FallbackWithoutFormula = "scaled-object/fallback-without-formula",
        /// A fallback where all triggers are cpu or memory, which KEDA's webhook refuses too.
        FallbackOfResources = "scaled-object/fallback-of-resources",
        /// The annotation `paused-replicas` is no whole number.
        PausedUnreadable = "scaled-object/paused-replicas-unreadable",
        /// The annotation `paused-replicas` is outside of the cluster's bounds: KEDA writes it without looking.
        PausedOutsideBounds = "scaled-object/paused-replicas-outside-bounds",
        /// `scalingModifiers` without a formula, which KEDA's webhook refuses too.
        FormulaMissing = "scaled-object/formula-missing",
        /// A formula without a target, which KEDA's webhook refuses too.
        FormulaWithoutTarget = "scaled-object/formula-without-target",
        /// A formula's target that is no number above 0, which KEDA's webhook refuses too.
        FormulaTargetNotPositive = "scaled-object/formula-target-not-positive",

        // A ScaledObject: names and rivals.
        /// A name with more than 63 characters: KEDA labels the HPA with it.
        ScalerNameTooLong = "scaled-object/name-too-long",
        /// A stated name of the HPA with more than 63 characters, which KEDA's webhook refuses too.
        HpaNameTooLong = "scaled-object/hpa-name-too-long",
        /// A name that makes `keda-hpa-<name>` longer than 63 characters, which KEDA's webhook refuses too.
        DefaultHpaNameTooLong = "scaled-object/default-hpa-name-too-long",
        /// Another ScaledObject scales the cluster, which KEDA's webhook refuses too where its cache has seen it.
        SecondScaler = "scaled-object/second-scaled-object",
        /// A HorizontalPodAutoscaler scales the cluster that is not KEDA's and is not to be taken over.
        ForeignHpa = "scaled-object/foreign-hpa",
        /// A HorizontalPodAutoscaler of the name that KEDA gives the one it makes for this ScaledObject, without its
        /// owner: restored from a backup, as a rule. KEDA 2.21 would take it by its name, but sets the owner only
        /// where it finds something else to change, and its webhook refuses every ScaledObject beside it.
        HpaWithoutOwner = "scaled-object/hpa-without-owner",
        /// Warning: the cluster does not exist (yet).
        TargetMissing = "scaled-object/target-missing",

        // A ScaledObject: its triggers.
        /// No triggers, which KEDA's webhook refuses too.
        NoTriggers = "scaled-object/no-triggers",
        /// Two triggers of one name, which KEDA's webhook refuses too.
        TriggerNameTwice = "scaled-object/trigger-name-twice",
        /// `useCachedMetrics` on a cpu, memory or cron trigger, which KEDA's webhook refuses too.
        CachedMetrics = "scaled-object/cached-metrics",
        /// A trigger `http`, which KEDA does not have: the whole ScaledObject scales nothing. It is refused where triggers
        /// of an older form are not rewritten.
        HttpTrigger = "scaled-object/http-trigger",
        /// A trigger `http` without a `url` or a `targetValue`.
        HttpMissing = "scaled-object/http-metadata-missing",
        /// A `url`, a `targetValue` or an `activationTargetValue` of a trigger `http` that cannot be read.
        HttpUnreadable = "scaled-object/http-metadata-unreadable",
        /// A trigger `http` whose `url` leads out of the cluster, or into another namespace by a short name.
        HttpHost = "scaled-object/http-host",
        /// Metadata of a trigger `http` that would be lost, because nothing reads it.
        HttpUnknownKey = "scaled-object/http-unknown-key",
        /// A trigger for the operator's own scaler, or one of type `http`, while KEDA cannot reach that scaler: a trigger
        /// that KEDA cannot reach freezes the others too.
        ScalerUnanswered = "scaled-object/scaler-unanswered",
        /// A trigger for the operator's own scaler under another address than the one that its certificate is for.
        OwnAddress = "scaled-object/scaler-address",
        /// A trigger `external-push` for the operator's own scaler, which pushes nothing.
        OwnPush = "scaled-object/scaler-push",
        /// Required metadata of a trigger for the operator's own scaler is missing.
        OwnMissing = "scaled-object/scaler-metadata-missing",
        /// Metadata of a trigger for the operator's own scaler that cannot be read.
        OwnUnreadable = "scaled-object/scaler-metadata-unreadable",
        /// Metadata of a trigger for the operator's own scaler that nothing reads.
        OwnUnknownKey = "scaled-object/scaler-unknown-key",
        /// A `metricType` that makes something else of what the operator's own scaler answers.
        OwnMetricType = "scaled-object/scaler-metric-type",
        /// A trigger for the operator's own scaler with another `authenticationRef` than KEDA needs to connect.
        OwnAuthentication = "scaled-object/scaler-authentication",
        /// A trigger type one slip away from a known one: the whole ScaledObject scales nothing.
        TriggerTypeMisspelt = "scaled-object/trigger-type-misspelt",
        /// Warning: a trigger type that KEDA 2.21 does not have.
        TriggerTypeUnknown = "scaled-object/trigger-type-unknown",
        /// Required metadata of a prometheus trigger is missing.
        PrometheusMissing = "scaled-object/prometheus-metadata-missing",
        /// Metadata of a prometheus trigger that KEDA cannot read.
        PrometheusUnreadable = "scaled-object/prometheus-metadata-unreadable",
        /// A prometheus trigger's `metricName`, which KEDA ignores.
        PrometheusMetricName = "scaled-object/prometheus-metric-name",
        /// Warning: a query names a metric that vLLM does not export.
        UnknownMetric = "scaled-object/unknown-metric",
        /// Required metadata of a metrics-api trigger is missing.
        MetricsApiMissing = "scaled-object/metrics-api-metadata-missing",
        /// Metadata of a metrics-api trigger that KEDA cannot read.
        MetricsApiUnreadable = "scaled-object/metrics-api-metadata-unreadable",
        /// A `metricType` that a prometheus or metrics-api trigger cannot aim at.
        ExternalMetricType = "scaled-object/external-metric-type",
        /// The older `metadata.type` of a cpu or memory trigger, which KEDA refuses.
        ResourceOlderType = "scaled-object/resource-older-type",
        /// A cpu or memory trigger without a `metricType`.
        ResourceTypeMissing = "scaled-object/resource-metric-type-missing",
        /// A `metricType` that a cpu or memory trigger cannot aim at.
        ResourceMetricType = "scaled-object/resource-metric-type",
        /// A cpu or memory trigger without a value.
        ResourceValueMissing = "scaled-object/resource-value-missing",
        /// A value of a cpu or memory trigger that KEDA cannot read.
        ResourceValueUnreadable = "scaled-object/resource-value-unreadable",
        /// A cpu trigger where the pods request no cpu. KEDA's webhook checks that for Deployments alone.
        CpuWithoutRequest = "scaled-object/cpu-without-request",
        /// A memory trigger where the pods request no memory.
        MemoryWithoutRequest = "scaled-object/memory-without-request",
        /// Warning: more than a hundred things are wrong, and the rest is left out.
        ScalerFindingsLeftOut = "scaled-object/more-left-out",
        /// Warning: a cpu or memory trigger's `metadata.type` was rewritten to `metricType`.
        RewroteType = "scaled-object/rewrote-type",
        /// Warning: a prometheus trigger's `metricName` was dropped.
        RewroteMetricName = "scaled-object/rewrote-metric-name",
        /// Warning: a trigger `http` was rewritten to one that the operator's own scaler answers.
        RewroteHttp = "scaled-object/rewrote-http",

        // A HorizontalPodAutoscaler.
        /// A ScaledObject scales the cluster that neither owns this HPA nor is to take it over.
        HpaBesideScaler = "hpa/beside-scaled-object",
        /// An HPA that KEDA made for a ScaledObject, without its owner: restored from a backup, as a rule. Let in, it
        /// would keep the ScaledObject out, which KEDA's webhook refuses beside it; KEDA makes it anew by itself.
        HpaWithoutOwnerCreated = "hpa/without-owner",
        /// A `maxReplicas` below 1. The API server refuses it before any webhook that validates; lint says it too.
        HpaMaximumBelowOne = "hpa/maximum-below-one",
        /// `maxReplicas` below `minReplicas`, likewise.
        HpaMaximumBelowMinimum = "hpa/maximum-below-minimum",
        /// A range without a count in common with the cluster's bounds.
        HpaOutsideBounds = "hpa/no-common-range",
        /// Warning: a range wider than the cluster's bounds.
        HpaWider = "hpa/wider-than-cluster",
    }
}

/// What a finding rests on, beside the written object and the cluster whose `/scale` or manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The cluster that is to be scaled, or that has the name of a Service.
    Cluster,
    /// A ScaledObject.
    Scaler,
    /// A HorizontalPodAutoscaler.
    Hpa,
    /// What the pods of the cluster will request, by itself or by the namespace.
    Requests,
}

impl Rule {
    /// What may have changed since it was last seen, so that a refusal by this rule reads it first. `None`: nothing.
    pub fn rests_on(self) -> Option<Basis> {
        match self {
            Self::CountBelowHolder
            | Self::CountAboveHolder
            | Self::BoundsOutsideScaler
            | Self::SecondScaler
            | Self::HpaBesideScaler => Some(Basis::Scaler),
            Self::NameOfService
            | Self::ScalerOutsideBounds
            | Self::FallbackOutsideBounds
            | Self::PausedOutsideBounds
            | Self::HpaOutsideBounds => Some(Basis::Cluster),
            Self::ForeignHpa | Self::HpaWithoutOwner => Some(Basis::Hpa),
            Self::CpuWithoutRequest | Self::MemoryWithoutRequest => Some(Basis::Requests),
            _ => None,
        }
    }

    /// Whether it can refuse a write: what it does instead is the first that its documentation says.
    pub fn refuses(self) -> bool {
        !["Warning", "A condition"].iter().any(|instead| self.description().starts_with(instead))
    }

    /// Whether its finding tells what was stored instead of what was written: there is nothing to tell of a write
    /// that is refused.
    pub fn tells_of_a_change(self) -> bool {
        matches!(
            self,
            Self::CountMovedByBounds
                | Self::CountMovedForAutoscaler
                | Self::RewroteType
                | Self::RewroteMetricName
                | Self::RewroteHttp
        )
    }
}

/// All rules as a Markdown page, the very bytes of `docs/rules.md`.
pub fn page() -> String {
    let head = "# Rules of admission\n\n\
        <!-- Generated by `vllm-operator rules`; a test compares it with the code. -->\n\n\
        Each refusal and each warning is of one rule. `lint` shows its id, and ids never change their meaning.\n\
        A rule that does not say that it warns refuses. How they are applied: [admission.md](admission.md).\n\n\
        | rule | what it is about |\n|---|---|\n";
    let row = |rule: &Rule| format!("| `{rule}` | {} |\n", rule.description());
    head.to_owned() + &Rule::ALL.iter().map(row).collect::<String>()
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rules.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page(), "{path} is stale: run `cargo run -- rules > docs/rules.md`");
    }

    #[test]
    fn ids_are_unique_and_readable() {
        let ids: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.as_str()).collect();
        assert_eq!(ids.len(), Rule::ALL.len());
        for id in ids {
            let (write, fault) = id.split_once('/').unwrap();
            assert!(["scale", "cluster", "scaled-object", "hpa"].contains(&write), "{id}");
            assert!(fault.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{id}");
        }
    }
}
