//! A finding: what is wrong with an installation, and the way out.
//!
//! Architecture invariant: data and its two forms, text and JSON; nothing is judged here.

use serde::{Serialize, Serializer};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Broken,
    /// It works, and should not stay so.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Warning => "warning",
        }
    }
}

macro_rules! checks {
    ($($(#[doc = $says:literal])* $name:ident = $id:literal, $severity:ident;)*) => {
        /// What an installation is looked at for. Ids never change their meaning; `docs/doctor.md` has a row for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Check { $($(#[doc = $says])* $name,)* }

        impl Check {
            /// All, in the order in which they are told.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable name.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// How bad it is where it is found.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

checks! {
    /// The API server is older than what the definition needs.
    ServerTooOld = "server-too-old", Broken;
    /// There is no CustomResourceDefinition.
    DefinitionMissing = "definition-missing", Broken;
    /// The API server does not serve the definition.
    DefinitionNotServed = "definition-not-served", Broken;
    /// The definition is not the one of this program.
    DefinitionOutdated = "definition-outdated", Warning;

    /// There is no Deployment.
    OperatorMissing = "operator-missing", Broken;
    /// The Deployment wants no replicas.
    OperatorStopped = "operator-stopped", Broken;
    /// Not as many replicas serve as are wanted.
    OperatorUnavailable = "operator-unavailable", Broken;
    /// One replica is wanted: whatever happens to it stops writes.
    OperatorAlone = "operator-alone", Warning;
    /// The settings cannot be understood.
    SettingsUnusable = "settings-unusable", Broken;
    /// The operator is of another version than this program.
    VersionDiffers = "version-differs", Warning;
    /// What should be refused only warns.
    NothingRefused = "nothing-refused", Warning;
    /// A Service is missing, or leads to no replica.
    ServiceLeadsNowhere = "service-leads-nowhere", Broken;
    /// A replica has not heard of a resource for long.
    WatchSilent = "watch-silent", Warning;

    /// A webhook is not configured.
    WebhookMissing = "webhook-missing", Broken;
    /// A webhook is configured otherwise than the operator's manifest has it.
    WebhookChanged = "webhook-changed", Warning;
    /// A webhook does not trust what the operator serves.
    BundleUntrusted = "bundle-untrusted", Broken;
    /// The API server calls admission in vain.
    AdmissionUnanswered = "admission-unanswered", Broken;
    /// The API server does not call admission.
    AdmissionBypassed = "admission-bypassed", Broken;

    /// The certificate authority is missing or unusable.
    AuthorityUnusable = "authority-unusable", Broken;
    /// The certificate authority ends soon, and was not rotated.
    AuthorityEnding = "authority-ending", Warning;
    /// The served certificate has ended, or ends soon and was not renewed.
    CertificateEnding = "certificate-ending", Warning;
    /// The mounted certificate cannot be used.
    CertificateFilesUnusable = "certificate-files-unusable", Warning;

    /// Nobody leads: nothing is reconciled.
    LeaderMissing = "leader-missing", Broken;
    /// The operator lacks a right.
    RightMissing = "right-missing", Broken;

    /// KEDA's operator does not run.
    KedaUnavailable = "keda-unavailable", Broken;
    /// Nobody serves the metrics that KEDA's HPAs ask for.
    ExternalMetricsMissing = "external-metrics-missing", Broken;
    /// Nobody serves the usage of pods, and something scales by it.
    ResourceMetricsMissing = "resource-metrics-missing", Broken;
    /// KEDA cannot call the operator's scaler, and something scales by it.
    ScalerUntrusted = "scaler-untrusted", Broken;

    /// Admission would refuse what is stored.
    ObjectRefused = "object-refused", Broken;
    /// KEDA says that a ScaledObject does not work.
    ScaledObjectNotReady = "scaledobject-not-ready", Broken;
    /// The HPA says that it cannot scale.
    HpaInactive = "hpa-inactive", Broken;
    /// A VLLMCluster waits for a person.
    ClusterStalled = "cluster-stalled", Broken;
    /// A VLLMCluster does not serve, for a reason that does not end by itself.
    ClusterNotReady = "cluster-not-ready", Broken;
    /// Bounds and what drives the count do not fit together.
    ScalingConflict = "scaling-conflict", Warning;
    /// The operator has not taken up a change of a VLLMCluster.
    ClusterBehind = "cluster-behind", Warning;
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How bad it is.
    pub severity: Severity,
    /// Kind and name of the object that it is about, as kubectl writes them.
    pub about: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    /// One of this check's severity.
    pub fn new(
        check: Check,
        about: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (about, message, remedy) = (about.into(), message.into(), remedy.into());
        Self { check, severity: check.severity(), about, message, remedy }
    }
}

/// All that is told.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Diagnosis {
    /// Where the operator is looked for.
    pub namespace: String,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at, a sentence each.
    pub unseen: Vec<String>,
}

impl Diagnosis {
    /// How many findings are so bad.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// For people: nothing but one line where nothing is wrong.
    pub fn text(&self) -> String {
        let Self { namespace, findings, unseen } = self;
        let found = findings.iter().map(|Finding { check, severity, about, message, remedy }| {
            format!("{}[{}] {about}\n  {message}\n  -> {remedy}\n\n", severity.as_str(), check.id())
        });
        let not_seen = unseen.iter().map(|sentence| format!("not looked at: {sentence}\n"));
        let mut text: String = found.chain(not_seen).collect();
        if !unseen.is_empty() {
            text.push('\n');
        }
        let told = match (self.count(Severity::Broken), self.count(Severity::Warning)) {
            (0, 0) if unseen.is_empty() => "nothing is wrong".to_owned(),
            (0, 0) => "nothing that could be looked at is wrong".to_owned(),
            (broken, 1) => format!("{broken} broken, 1 warning"),
            (broken, warnings) => format!("{broken} broken, {warnings} warnings"),
        };
        text + &format!("vllm-operator in namespace {namespace}: {told}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_has_a_row_in_the_documentation() {
        let page = include_str!("../../../docs/doctor.md");
        let (_, page) = page.split_once("\n## Checks\n").expect("the table");
        let rows: Vec<_> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
        let names: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
        let wanted: Vec<_> = Check::ALL.iter().map(|check| check.id()).collect();
        assert_eq!(names, wanted);
        for ((_, row), check) in rows.iter().zip(Check::ALL) {
            assert!(row.starts_with(&format!(" | {} |", check.severity().as_str())), "{}: {row}", check.id());
        }
    }

    #[test]
    fn a_page_tells_what_is_wrong_and_what_was_not_seen() {
        let finding = Finding::new(Check::OperatorStopped, "deployment/x", "It wants none.", "scale it");
        let mut diagnosis = Diagnosis { namespace: "ns".into(), ..Diagnosis::default() };
        assert_eq!(diagnosis.text(), "vllm-operator in namespace ns: nothing is wrong\n");
        diagnosis.unseen.push("cannot get secrets: forbidden".into());
        assert_eq!(
            diagnosis.text(),
            "not looked at: cannot get secrets: forbidden\n\n\
             vllm-operator in namespace ns: nothing that could be looked at is wrong\n"
        );
        diagnosis.findings.push(finding);
        assert_eq!(
            diagnosis.text(),
            "broken[operator-stopped] deployment/x\n  It wants none.\n  -> scale it\n\n\
             not looked at: cannot get secrets: forbidden\n\n\
             vllm-operator in namespace ns: 1 broken, 0 warnings\n"
        );
        let json = serde_json::to_value(&diagnosis).expect("a diagnosis has a JSON form");
        assert_eq!(json["findings"][0]["check"], "operator-stopped");
        assert_eq!(json["findings"][0]["severity"], "broken");
    }
}
