//! Flags and environment.
//!
//! Architecture invariant: every default stands here and nowhere else; what is parsed here is passed on as
//! plain values.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::api::names::{CLUSTER_DOMAIN, OPERATOR_NAMESPACE, SCALER_SERVICE};
use crate::policy::Mode;

/// Autoscalable vLLM servers on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "vllm-operator", version, about)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The name of the program where kubectl takes it for its plugin `vllm`.
pub const PLUGIN: &str = "kubectl-vllm";
/// What an operator is installed and run with, which is no matter of a plugin.
const NOT_OF_A_PLUGIN: [&str; 4] = ["run", "crd", "manifest", "rules"];

/// The command line of the program that is called by this name.
pub fn command(program: &str) -> clap::Command {
    let command = Args::command();
    if program != PLUGIN {
        return command;
    }
    let command = command
        .name(PLUGIN)
        .bin_name("kubectl vllm")
        .about("Look at autoscalable vLLM servers on Kubernetes.");
    NOT_OF_A_PLUGIN
        .iter()
        .fold(command, |command, name| command.mut_subcommand(*name, |command| command.hide(true)))
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve admission and reconcile VLLMClusters, until SIGTERM.
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinition of VLLMCluster as YAML.
    Crd,
    /// Print everything that an installation applies, the definition included, as YAML.
    Manifest,
    /// Print the rules of admission, each with its id, as Markdown.
    Rules,
    /// Print every field of VLLMCluster, with its range and what its absence means, as Markdown.
    Fields,
    /// Judge manifests as admission would, without a cluster.
    ///
    /// Each document is judged as a fresh write in the world of all the others: VLLMClusters, the ScaledObjects and
    /// HorizontalPodAutoscalers that point at them, LimitRanges. Other kinds are passed over. Exit code 0 without
    /// refusals, 1 with, 2 where a file is missing or is no YAML.
    Lint(LintArgs),
    /// Say why a VLLMCluster has the count that it has, and what would change it.
    ///
    /// One page that follows the chain of the cluster of the kubeconfig: ScaledObject, triggers, HPA, /scale, StatefulSet,
    /// pods. Nothing is written. Exit code 0, or 2 where there is no such cluster or it may not be read.
    ExplainScaling(ExplainArgs),
    /// Show all VLLMClusters: servers, bounds, what drives them, and which of them want a look.
    ///
    /// Nothing is written. Exit code 0, or 2 where the cluster of the kubeconfig cannot be read.
    Status(StatusArgs),
    /// Look for what is wrong with an installation, and tell the way out of each.
    ///
    /// Looks at the definition, the operator's pods, its webhooks and whether the API server reaches and trusts them, its certificates,
    /// rights and leader, KEDA and the metrics APIs, and at what scales. Nothing is stored: three objects are created as a dry run. It
    /// takes the rights of a cluster's administrator; what may not be read is told. Exit code 0 where nothing is broken, 1 where
    /// something is, 2 where the cluster cannot be asked.
    Doctor(DoctorArgs),
    /// Print a script with which a shell completes commands and flags.
    ///
    /// For bash: source <(vllm-operator completions bash).
    Completions(CompletionsArgs),
}

/// How what is found is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// As JSON.
    Json,
}

/// Which cluster is meant; otherwise that of the kubeconfig's current context, or of the pod's service account.
#[derive(Clone, Debug, Default, Parser)]
pub struct Connection {
    /// Context of the kubeconfig.
    #[arg(long)]
    pub context: Option<String>,

    /// The kubeconfig. Left out: what KUBECONFIG names, or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Settings of `vllm-operator status`.
#[derive(Clone, Debug, Parser)]
pub struct StatusArgs {
    /// Namespace to show. Left out: that of the kubeconfig.
    #[arg(long, short, conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,

    /// Show all namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,

    /// How the clusters are printed.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Which cluster of Kubernetes.
    #[command(flatten)]
    pub connection: Connection,
}

/// Settings of `vllm-operator doctor`.
#[derive(Clone, Debug, Parser)]
pub struct DoctorArgs {
    /// Namespace that the operator runs in. Left out: where its webhooks are called.
    #[arg(long, value_name = "NAMESPACE")]
    pub operator_namespace: Option<String>,

    /// How the findings are printed.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Which cluster of Kubernetes.
    #[command(flatten)]
    pub connection: Connection,
}

/// Settings of `vllm-operator completions`.
#[derive(Clone, Debug, Parser)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Settings of `vllm-operator explain-scaling`.
#[derive(Clone, Debug, Parser)]
pub struct ExplainArgs {
    /// The VLLMCluster, or the ScaledObject that drives one.
    #[arg(value_name = "NAMESPACE/NAME")]
    pub name: String,

    /// Its namespace, where NAME stands alone. Left out: that of the kubeconfig.
    #[arg(long, short)]
    pub namespace: Option<String>,

    /// How the explanation is printed.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Which cluster of Kubernetes.
    #[command(flatten)]
    pub connection: Connection,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LintOutput {
    /// As a compiler does.
    Text,
    /// One array of objects with file, document, line, column, kind, namespace, name, field, rule, severity
    /// (refusal or warning) and message.
    Json,
}

/// Settings of `vllm-operator lint`.
#[derive(Clone, Debug, Parser)]
pub struct LintArgs {
    /// Manifests: files, directories (with all *.yaml, *.yml and *.json below them), or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Namespace of manifests that name none.
    #[arg(long, short, default_value = "default")]
    pub namespace: String,

    /// How findings are printed.
    #[arg(long, short, value_enum, default_value_t = LintOutput::Text)]
    pub output: LintOutput,

    /// Take what the cluster of the kubeconfig holds, in the namespaces of the manifests, as the rest of the world.
    #[arg(long)]
    pub live: bool,

    /// Print the manifests with triggers of an older form rewritten, and those that the operator answers completed;
    /// findings go to standard error. All else in the text stays as it is.
    #[arg(long)]
    pub fix: bool,

    /// Which cluster of Kubernetes, for --live.
    #[command(flatten)]
    pub connection: Connection,
}

/// How KEDA's calls come to the external scaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScalerMode {
    /// By TLS; KEDA shows the certificate that the operator keeps for it in KEDA's namespace.
    Tls,
    /// By bare HTTP/2, from whoever reaches the port.
    Plaintext,
    /// Not at all: triggers of the type http are refused.
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Settings of `vllm-operator run`.
#[derive(Clone, Debug, Parser)]
pub struct RunArgs {
    /// Namespace the operator runs in: home of its Service and of its CA's Secret.
    #[arg(long, env = "POD_NAMESPACE", default_value = OPERATOR_NAMESPACE)]
    pub namespace: String,

    /// Service through which the API server reaches the admission webhooks.
    #[arg(long, env = "WEBHOOK_SERVICE", default_value = "vllm-operator")]
    pub webhook_service: String,

    /// Secret that holds the certificate authority.
    #[arg(long, env = "CA_SECRET", default_value = "vllm-operator-ca")]
    pub ca_secret: String,

    /// How long a certificate authority is valid.
    #[arg(long, env = "CA_LIFE", default_value = "365d", value_parser = span)]
    pub ca_life: Duration,

    /// How long before its end a certificate authority is rotated.
    #[arg(long, env = "CA_ROTATION_LEAD", default_value = "30d", value_parser = span)]
    pub ca_rotation_lead: Duration,

    /// How long a serving certificate is valid; it is renewed in the last third. A retired authority is trusted for as
    /// long.
    #[arg(long, env = "LEAF_LIFE", default_value = "7d", value_parser = span)]
    pub leaf_life: Duration,

    /// How long after a change of a webhook configuration every API server has it at the latest.
    #[arg(long, env = "PROPAGATION_DELAY", default_value = "60s", value_parser = span)]
    pub propagation_delay: Duration,

    /// How far apart the clocks of API servers may be: waits of a rotation that rest on stored times are longer by it.
    #[arg(long, env = "CLOCK_TOLERANCE", default_value = "15m", value_parser = span)]
    pub clock_tolerance: Duration,

    /// Serve the certificate in this file (PEM, leaf first), which somebody else renews, instead of issuing it.
    #[arg(long, env = "TLS_CERT_FILE", requires = "tls_key_file", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// The key of the certificate in --tls-cert-file (PEM).
    #[arg(long, env = "TLS_KEY_FILE", requires = "tls_cert_file", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// Have the authorities in this file trusted by the webhook configurations: that of --tls-cert-file, or beside the
    /// operator's own one while changing over from or to mounted files. Not beside the operator's own one with cert-manager's
    /// annotation cert-manager.io/inject-ca-from, which does the same. KEDA's certificate is verified by them too.
    #[arg(long, env = "TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,

    /// Name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration to keep trusted.
    #[arg(long, env = "WEBHOOK_CONFIGURATION", default_value = "vllm-operator")]
    pub webhook_configuration: String,

    /// Address of the admission server (HTTPS).
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:9443")]
    pub listen: SocketAddr,

    /// Address of health, readiness and metrics (plain HTTP).
    #[arg(long, env = "PLAIN_LISTEN", default_value = "0.0.0.0:8080")]
    pub plain_listen: SocketAddr,

    /// File with the CAs (PEM) of whoever may call the webhooks. Without it, everybody may who reaches the port; with it, the
    /// API server must be told to show a certificate (docs/security.md).
    #[arg(long, env = "CLIENT_CA_FILE", value_name = "PATH")]
    pub client_ca_file: Option<PathBuf>,

    /// Common name that a client certificate must have; may be repeated. Without any, every certificate of the CAs will do.
    #[arg(
        long = "client-name",
        env = "CLIENT_NAMES",
        value_name = "CN",
        value_delimiter = ',',
        requires = "client_ca_file"
    )]
    pub client_names: Vec<String>,

    /// User that scales on behalf of an autoscaler; may be repeated. Its counts are moved to the nearest bound
    /// instead of being refused. Whoever names one names all: those that it is by default are replaced.
    #[arg(
        long = "autoscaler",
        env = "AUTOSCALERS",
        value_delimiter = ',',
        default_values = [
            "system:serviceaccount:keda:keda-operator",
            "system:serviceaccount:kube-system:horizontal-pod-autoscaler",
            "system:kube-controller-manager",
        ]
    )]
    pub autoscalers: Vec<String>,

    /// Namespace whose VLLMClusters are reconciled, and whose writes are judged; may be repeated. Left out: all. The webhook
    /// configurations must ask for no others, and the rights to write may end there: the chart sees to both.
    #[arg(
        long = "watch-namespace",
        env = "WATCH_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,

    /// What becomes of a refusal. A namespace's label `training.distributed-inference.io/admission` goes before it.
    #[arg(long, env = "ADMISSION_MODE", value_enum, default_value_t = Mode::Deny)]
    pub admission_mode: Mode,

    /// Let pod templates of VLLMClusters reach into their node: host namespaces, paths and ports, privileges.
    #[arg(long, env = "ALLOW_HOST_ACCESS")]
    pub allow_host_access: bool,

    /// Whether KEDA's external triggers are answered, and how they come here.
    #[arg(long, env = "SCALER", value_enum, default_value_t = ScalerMode::Tls)]
    pub scaler: ScalerMode,

    /// Address of the external scaler (gRPC).
    #[arg(long, env = "SCALER_LISTEN", default_value = "0.0.0.0:9444")]
    pub scaler_listen: SocketAddr,

    /// Service through which KEDA reaches the external scaler, on port 443.
    #[arg(long, env = "SCALER_SERVICE", default_value = SCALER_SERVICE)]
    pub scaler_service: String,

    /// Namespace that KEDA runs in: there lies the Secret with the certificate that it shows to the external scaler.
    #[arg(long, env = "KEDA_NAMESPACE", default_value = "keda")]
    pub keda_namespace: String,

    /// Bring triggers of an older form up to date at admission. With `false`, they are refused.
    #[arg(long, env = "REWRITE_TRIGGERS", default_value_t = true, action = clap::ArgAction::Set)]
    pub rewrite_triggers: bool,

    /// Domain of the cluster's DNS names.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = CLUSTER_DOMAIN)]
    pub cluster_domain: String,

    /// How long to go on serving after SIGTERM, while the API server still has connections, in seconds.
    #[arg(long, env = "GRACE_SECONDS", default_value = "5", value_parser = seconds)]
    pub grace: Duration,

    /// How long requests in flight may take after that, in seconds.
    #[arg(long, env = "DRAIN_SECONDS", default_value = "15", value_parser = seconds)]
    pub drain: Duration,

    /// Name of this pod, by which the Lease tells who leads.
    #[arg(long, env = "POD_NAME", default_value = "vllm-operator")]
    pub pod_name: String,

    /// Lease that says which replica leads. It is the one that reconciles VLLMClusters; all serve admission.
    #[arg(long, env = "LEASE", default_value = "vllm-operator")]
    pub lease: String,

    /// How long others wait before they take over from a leader that does not renew its lease, in seconds, at most 300.
    #[arg(long, env = "LEASE_DURATION_SECONDS", default_value = "15", value_parser = seconds)]
    pub lease_duration: Duration,

    /// How long a leader goes on without having renewed its lease, in seconds; shorter than the lease's duration.
    #[arg(long, env = "LEASE_RENEW_DEADLINE_SECONDS", default_value = "10", value_parser = seconds)]
    pub lease_renew_deadline: Duration,

    /// How often a leader renews its lease, and how often others look at it, in seconds; less than 5/6 of the renew
    /// deadline.
    #[arg(long, env = "LEASE_RETRY_PERIOD_SECONDS", default_value = "2", value_parser = seconds)]
    pub lease_retry_period: Duration,

    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.parse().map_err(|_| "give a whole number of seconds, 0 to 3600".to_owned())?;
    if seconds > 3600 {
        return Err("give at most 3600 seconds".into());
    }
    Ok(Duration::from_secs(seconds))
}

/// A number with a unit.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong =
        || "give a whole number and one of ms, s, m, h, d, as in 90s or 30d; at most ten years".to_owned();
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    let span = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)?;
    if span > Duration::from_hours(3_660 * 24) { Err(wrong()) } else { Ok(span) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    /// What the chart leaves as it is: the names of its own objects, which are fixed, and the ports of its containers.
    const SET_BY_THE_CHART: [&str; 8] = [
        "CA_SECRET",
        "LEASE",
        "LISTEN",
        "PLAIN_LISTEN",
        "SCALER_LISTEN",
        "SCALER_SERVICE",
        "WEBHOOK_CONFIGURATION",
        "WEBHOOK_SERVICE",
    ];

    /// Whether the Deployment of the chart names the variable.
    fn in_the_chart(variable: &str) -> bool {
        let template = include_str!("../deploy/chart/templates/deployment.yaml");
        template.contains(&format!("\"{variable}\" ")) || template.contains(&format!("name: {variable}\n"))
    }

    #[test]
    fn every_setting_is_a_value_of_the_chart() {
        let command = RunArgs::command();
        let variables: Vec<_> = command
            .get_arguments()
            .filter_map(|argument| argument.get_env()?.to_str())
            .map(str::to_owned)
            .collect();
        assert!(variables.len() > SET_BY_THE_CHART.len());
        for variable in &variables {
            let set = SET_BY_THE_CHART.contains(&variable.as_str());
            assert!(
                in_the_chart(variable) != set,
                "{variable} is no value of the chart, or is one after all"
            );
        }
    }

    #[test]
    fn the_chart_knows_the_autoscalers_that_are_known_by_default() {
        let names = include_str!("../deploy/chart/templates/_names.tpl");
        for autoscaler in RunArgs::parse_from(["run"]).autoscalers {
            assert!(names.contains(&format!("\"{autoscaler}\"")), "{autoscaler}");
        }
    }

    #[test]
    fn a_plugin_shows_what_looks_at_clusters() {
        let help = command(PLUGIN).render_long_help().to_string();
        assert!(help.contains("Usage: kubectl vllm <COMMAND>"), "{help}");
        for (name, shown) in
            [("status", true), ("doctor", true), ("lint", true), ("explain-scaling", true), ("run", false)]
        {
            assert_eq!(help.contains(&format!("\n  {name} ")), shown, "{name}: {help}");
        }
        assert!(command("vllm-operator").render_long_help().to_string().contains("\n  run "));
    }

    #[test]
    fn seconds_are_whole_and_at_most_an_hour() {
        assert_eq!(seconds("15"), Ok(Duration::from_secs(15)));
        assert!(seconds("15s").is_err());
        assert!(seconds("3601").is_err());
    }

    #[test]
    fn spans_have_a_unit_and_an_end() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("30d"), Ok(Duration::from_hours(720)));
        for wrong in ["", "30", "d", "-1s", "1.5h", "1 d", "4000d", "99999999999999999999d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
