//! Every reason of a condition or an event: words that scripts and alerts rely on.
//!
//! Architecture invariant: constants alone. Each has a row in `docs/vllmcluster.md`, which a test says.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $value;)*

        /// All of them.
        pub const ALL: &[&str] = &[$($value),*];
    };
}

reasons! {
    /// `Ready`: as many as are needed serve.
    ENOUGH_REPLICAS = "EnoughReplicas";
    /// `Ready`: a ResourceQuota leaves no room for a pod.
    QUOTA_EXCEEDED = "QuotaExceeded";
    /// `Ready`: the API server refuses to create a pod for another reason.
    PODS_REFUSED = "PodsRefused";
    /// `Ready`: a Secret, a ConfigMap or a key is missing.
    CONTAINER_CONFIG = "ContainerConfig";
    /// `Ready`: the image cannot be pulled.
    IMAGE_PULL = "ImagePull";
    /// `Ready`: a server used more memory than its limit.
    OUT_OF_MEMORY = "OutOfMemory";
    /// `Ready`: a server did not load within its budget.
    STARTUP_TIMEOUT = "StartupTimeout";
    /// `Ready`: a server ends again and again.
    CRASH_LOOP = "CrashLoop";
    /// `Ready`: a pod has ended for good.
    POD_FAILED = "PodFailed";
    /// `Ready`: no node has room for a pod.
    UNSCHEDULABLE = "Unschedulable";
    /// `Ready`: a server that was ready does not answer any more.
    NOT_HEALTHY = "NotHealthy";
    /// `Ready`: a server loads its model.
    LOADING = "Loading";
    /// `Ready`, `Reconciling`: a pod is being set up.
    STARTING = "Starting";
    /// `Ready`: a pod is on its way out.
    TERMINATING = "Terminating";
    /// `Ready`: nothing more is known.
    NOT_ENOUGH_REPLICAS = "NotEnoughReplicas";
    /// `Ready`: the spec has not reached the StatefulSet.
    SPEC_NOT_TAKEN = "SpecNotTaken";
    /// `Ready`, `Reconciling`: pods of an older spec are being replaced.
    ROLLING_OUT = "RollingOut";

    /// `Reconciling`: all pods run the current spec and are ready.
    UP_TO_DATE = "UpToDate";
    /// `Reconciling`: the StatefulSet controller has not seen the spec yet.
    PROGRESSING = "Progressing";
    /// `Reconciling`: pods come or go.
    SCALING = "Scaling";
    /// `Reconciling`: an older object of the same name is still being deleted.
    WAITING = "Waiting";
    /// `Reconciling`: a call to the API server has failed.
    RETRYING = "Retrying";
    /// `Reconciling`: see the condition `Stalled`.
    STALLED = "Stalled";

    /// `Stalled`: nothing needs a person.
    NOTHING_IN_THE_WAY = "NothingInTheWay";
    /// `Stalled`: an object of that name is somebody else's.
    NAME_TAKEN = "NameTaken";
    /// `Stalled`: the API server refuses what the cluster asks for.
    REFUSED = "Refused";
    /// `Stalled`, `Ready`, `Reconciling`: nothing can be built from the spec.
    INVALID_SPEC = "InvalidSpec";

    /// `ScalingConflict`: bounds and drivers fit together.
    CONSISTENT = "Consistent";
    /// `ScalingConflict`: they do not.
    DOES_NOT_FIT = "DoesNotFit";

    /// Event: what drives the count is paused.
    AUTOSCALING_PAUSED = "AutoscalingPaused";
    /// Event: it is not any more.
    AUTOSCALING_RESUMED = "AutoscalingResumed";
    /// Event: it says that it cannot work.
    AUTOSCALING_FAILING = "AutoscalingFailing";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn each_has_a_row_in_the_documentation() {
        let page = include_str!("../../docs/vllmcluster.md");
        let has_row = |reason: &str| page.lines().any(|line| line.starts_with(&format!("| `{reason}` |")));
        let missing: Vec<_> = ALL.iter().filter(|reason| !has_row(reason)).collect();
        assert!(missing.is_empty(), "no row for {missing:?}");
    }
}
