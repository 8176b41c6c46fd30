//! The clauses of the policy that say nothing: what excuses a write, fills a field in, moves a count, or decides who
//! counts at all. Together with the [`Rule`]s they are the whole table "Admission policy" of the design.
//!
//! In test builds the environment variable [`WITHOUT`] takes one rule or clause away, by its id: `super::mutants` sees
//! to it that some test misses each. In ordinary builds nothing is read, and each question is a plain `true`.
//!
//! Architecture invariant: names, and that one switch. What a clause does stands where it is asked for.

use super::Rule;
use super::rule::ids;

ids! {
    /// A clause that says nothing. Each is asked for in exactly one place.
    pub(crate) enum Clause {
        // Every write.
        /// A count outside of the bounds that the write leaves as it was is warned about.
        OlderCount = "every/older-count-warns",
        /// A count that the write leaves as it was is not held against the holder.
        UntouchedCount = "every/untouched-count-and-holder",
        /// The name of a cluster is judged when it is created, and never again.
        OlderName = "every/older-cluster-name",
        /// Bounds of a cluster are judged when they change.
        OlderBounds = "every/older-bounds",
        /// A bound that was no bound before is warned about.
        OlderBound = "every/older-bound-warns",
        /// Bounds that already had nothing in common with the ScaledObject are warned about.
        OlderGap = "every/older-gap-warns",
        /// Whoever lends pods a Secret or the like must be one who may create them.
        WriterIsAsked = "cluster/writer-is-asked",
        /// A fault of what a cluster asks of its pods that it already had is warned about.
        OlderWorkload = "every/older-fault-of-workload-warns",
        /// A fault of a ScaledObject that it already had is warned about.
        OlderFault = "every/older-fault-of-scaled-object-warns",
        /// One older fault excuses one, not all of its kind.
        OneFaultForOne = "every/one-older-fault-excuses-one",
        /// An older fault of a trigger excuses it wherever it stands in the list.
        MovedTrigger = "every/older-fault-of-moved-trigger",
        /// What a ScaledObject was while it pointed elsewhere excuses nothing.
        TurnedScaler = "every/scaled-object-that-pointed-elsewhere",
        /// An HPA's range that it already had is warned about.
        OlderHpaRange = "every/older-range-of-hpa-warns",
        /// A rival that an HPA already had is warned about.
        OlderHpaRival = "every/older-rival-of-hpa-warns",
        /// What an HPA was while it pointed elsewhere excuses nothing.
        TurnedHpa = "every/hpa-that-pointed-elsewhere",
        /// An update of a ScaledObject that touches nothing of what is read gets no answer.
        UntouchedScaler = "every/untouched-scaled-object",
        /// An update of an HPA that touches nothing of what is read gets no answer.
        UntouchedHpa = "every/untouched-hpa",
        /// A cluster that is being deleted may be written.
        DeletedCluster = "every/deleted-cluster",
        /// The `/scale` of a cluster that is being deleted may be written.
        DeletedScale = "every/deleted-cluster-scale",
        /// A ScaledObject that is being deleted may be written.
        DeletedScaler = "every/deleted-scaled-object",
        /// An HPA that is being deleted may be written.
        DeletedHpa = "every/deleted-hpa",
        /// A cluster may be deleted.
        ClusterDeletion = "every/deletion-of-cluster",
        /// A ScaledObject may be deleted.
        ScalerDeletion = "every/deletion-of-scaled-object",
        /// An HPA may be deleted.
        HpaDeletion = "every/deletion-of-hpa",

        // Who counts.
        /// A target is ours by its group.
        AttachedByGroup = "attached/group",
        /// A target is ours whatever the version.
        AttachedByAnyVersion = "attached/any-version",
        /// A target is ours by its kind.
        AttachedByKind = "attached/kind",
        /// A ScaledObject that is being deleted is not attached.
        AttachedWhileKept = "attached/not-deleted",
        /// A paused ScaledObject holds nothing.
        PausedHoldsNothing = "holder/not-paused",

        // `/scale`, by a person and by an autoscaler.
        /// A person's count outside of the holder's range may move towards it.
        TowardsHolder = "scale/towards-holder",
        /// A new cluster's count outside of the holder's range passes: the holder moves it.
        FirstCountPasses = "scale/first-count-outside-holder",
        /// An autoscaler is not judged as a person is.
        AutoscalerIsNoPerson = "scale/autoscaler-is-no-person",
        /// An autoscaler's count outside of the bounds becomes the nearest bound.
        NearestBound = "scale/nearest-bound",
        /// What an autoscaler asked for is told: to the audit log, to the metric.
        MoveIsTold = "scale/move-is-audited-and-counted",

        // A VLLMCluster: defaults.
        /// An absent count is 1 on creation.
        FirstCount = "cluster/one-on-creation",
        /// The first count is raised to the cluster's minimum.
        FirstCountInBounds = "cluster/first-count-raised-to-minimum",
        /// The first count is raised to the holder's minimum.
        FirstCountOfHolder = "cluster/first-count-raised-to-holder",
        /// Of a new cluster's count within the holder's range, nothing is told.
        FirstCountUntold = "cluster/first-count-untold",
        /// An absent count is the live count on update.
        LiveCount = "cluster/live-count-on-update",
        /// An absent count goes to the nearest of the new bounds.
        AbsentToNearest = "cluster/absent-count-to-nearest-bound",
        /// An untouched count goes to the nearest of the new bounds.
        UntouchedToNearest = "cluster/untouched-count-to-nearest-bound",
        /// Bounds that the write did not change move nothing.
        OldBoundsMoveNothing = "cluster/old-bounds-move-nothing",
        /// With the annotation, a stated count leaves the live one alone.
        KeepLive = "cluster/keep-live-replicas",

        // A VLLMCluster: check.
        /// The count that a manifest states is judged like a `/scale` by a person.
        StatedCount = "cluster/stated-count",

        // A ScaledObject: defaults.
        /// An absent minimum is the cluster's.
        ScalerMinimum = "scaled-object/minimum-of-cluster",
        /// An absent minimum is 1 where the cluster is missing.
        ScalerMinimumOfMissing = "scaled-object/minimum-of-missing-cluster",
        /// A minimum that is filled in does not cross the maximum that is stated.
        ScalerMinimumWithinStated = "scaled-object/minimum-below-stated-maximum",
        /// An absent maximum is the cluster's.
        ScalerMaximum = "scaled-object/maximum-of-cluster",
        /// A maximum that is filled in does not cross the minimum that is stated.
        ScalerMaximumWithinStated = "scaled-object/maximum-above-stated-minimum",
        /// A cpu or memory trigger's `metadata.type` becomes `metricType`.
        RewriteType = "scaled-object/rewrite-type",
        /// A prometheus trigger's `metricName` is dropped.
        RewriteMetricName = "scaled-object/rewrite-metric-name",
        /// A trigger `http` becomes one for the operator's own scaler.
        RewriteHttp = "scaled-object/rewrite-http",
        /// A trigger for the operator's own scaler gets the metric type that its signal has.
        OwnMetricTypeFilled = "scaled-object/scaler-metric-type-filled-in",
        /// A trigger for the operator's own scaler gets the reference by which KEDA can connect.
        OwnAuthenticationFilled = "scaled-object/scaler-authentication-filled-in",
        /// The operator's flag that switches rewriting off.
        RewriteFlag = "scaled-object/rewrite-flag",
        /// The annotation that switches rewriting off.
        RewriteOptOut = "scaled-object/rewrite-opt-out",

        // A ScaledObject: check.
        /// A fallback whose behavior reads no count has none to judge.
        FallbackUnread = "scaled-object/fallback-that-reads-no-count",
        /// A ScaledObject does not rival itself.
        OwnScaler = "scaled-object/no-rival-of-itself",
        /// What was let through for the same cluster a moment ago counts, although it is not seen yet.
        ClaimedCluster = "attached/let-through-a-moment-ago",
        /// KEDA's transfer annotation lets it take an HPA over.
        Transfer = "scaled-object/transfer-annotation",
        /// The HPA to take over must be named.
        TransferByName = "scaled-object/transfer-by-name",
        /// KEDA's ownership annotation lets an HPA stand beside a ScaledObject.
        Ownership = "scaled-object/ownership-annotation",
        /// An HPA that a ScaledObject controls is none of its rivals.
        ControlledHpa = "scaled-object/controlled-hpa",
        /// A threshold that only feeds a formula may be 0.
        FeedsFormula = "scaled-object/threshold-that-feeds-formula",
        /// A limit is a request.
        LimitIsRequest = "scaled-object/limit-is-request",
        /// A LimitRange's default is a request.
        LimitRangeIsRequest = "scaled-object/limit-range-is-request",

        // An HPA.
        /// An HPA that an attached ScaledObject is to take over is no rival.
        HpaTakenOver = "hpa/taken-over",
        /// An HPA without its owner is judged when it is created, and never again.
        OlderHpaWithoutOwner = "every/older-hpa-without-owner",
        /// KEDA's ownership annotation excuses an HPA.
        HpaOwnership = "hpa/ownership-annotation",
        /// HPAs that a ScaledObject controls are never judged.
        HpaControlled = "hpa/controlled",

        // What becomes of findings.
        /// In mode `warn`, refusals warn.
        ModeWarn = "mode/warn",
        /// A namespace's label goes before the operator's own mode.
        ModeOfNamespace = "mode/namespace-label",

        /// A refused write is told nothing of what would have been stored.
        NothingStored = "mode/nothing-stored-of-refused",

        // Freshness.
        /// A cluster of another resourceVersion than the review's is read live.
        FreshParent = "fresh/parent-of-scale",
        /// A ScaledObject is read live before a refusal that rests on it.
        FreshScaler = "fresh/scaled-object-before-refusal",
        /// What is around a ScaledObject is read live before it is refused.
        FreshSurroundings = "fresh/surroundings-of-scaled-object",
        /// A cluster that no watch has told of is read live for its ScaledObject.
        FreshTarget = "fresh/target-of-scaled-object",
        /// A cluster whose Service has the name is read live before a refusal that rests on it.
        FreshNeighbour = "fresh/neighbour-before-refusal",
        /// What is around an HPA is read live before it is refused.
        FreshHpaSurroundings = "fresh/surroundings-of-hpa",
    }
}

/// Names the rule or clause to do without, in test builds.
#[cfg(test)]
pub(super) const WITHOUT: &str = "VLLM_OPERATOR_WITHOUT";

#[cfg(test)]
thread_local! {
    /// Whether this thread goes without live reads, where they would find what is known anyway.
    pub(crate) static UNREAD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
fn in_force(id: &str) -> bool {
    static ABSENT: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var(WITHOUT).ok());
    ABSENT.as_deref() != Some(id) && !(UNREAD.get() && id.starts_with("fresh/"))
}

#[cfg(not(test))]
const fn in_force(_: &str) -> bool {
    true
}

impl Clause {
    /// Whether the clause is in force: always, but for a test build that does without it.
    pub(crate) fn in_force(self) -> bool {
        in_force(self.as_str())
    }
}

impl Rule {
    /// Whether the rule is in force: always, but for a test build that does without it.
    pub(super) fn in_force(self) -> bool {
        in_force(self.as_str())
    }
}
