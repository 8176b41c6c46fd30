//! Flags and environment.
//!
//! Architecture invariant: every default stands here and nowhere else; what is parsed here is passed on as
//! plain values.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::policy::Mode;

/// Autoscalable vLLM servers on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "vllm-operator", version, about)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
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
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Settings of `vllm-operator run`.
#[derive(Clone, Debug, Parser)]
pub struct RunArgs {
    /// Namespace the operator runs in: home of its Service and of its CA's Secret.
    #[arg(long, env = "POD_NAMESPACE", default_value = "vllm-operator-system")]
    pub namespace: String,

    /// Service through which the API server reaches the admission webhooks.
    #[arg(long, env = "WEBHOOK_SERVICE", default_value = "vllm-operator")]
    pub webhook_service: String,

    /// Secret that holds the certificate authority.
    #[arg(long, env = "CA_SECRET", default_value = "vllm-operator-ca")]
    pub ca_secret: String,

    /// Name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration to keep trusted.
    #[arg(long, env = "WEBHOOK_CONFIGURATION", default_value = "vllm-operator")]
    pub webhook_configuration: String,

    /// Address of the admission server (HTTPS).
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:9443")]
    pub listen: SocketAddr,

    /// Address of health, readiness and metrics (plain HTTP).
    #[arg(long, env = "PLAIN_LISTEN", default_value = "0.0.0.0:8080")]
    pub plain_listen: SocketAddr,

    /// User that scales on behalf of an autoscaler; may be repeated. Its counts are moved to the nearest bound
    /// instead of being refused.
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

    /// What becomes of a refusal. A namespace's label `training.distributed-inference.io/admission` goes before it.
    #[arg(long, env = "ADMISSION_MODE", value_enum, default_value_t = Mode::Deny)]
    pub admission_mode: Mode,

    /// How long to go on serving after SIGTERM, while the API server still has connections, in seconds.
    #[arg(long, env = "GRACE_SECONDS", default_value = "5", value_parser = seconds)]
    pub grace: Duration,

    /// How long requests in flight may take after that, in seconds.
    #[arg(long, env = "DRAIN_SECONDS", default_value = "15", value_parser = seconds)]
    pub drain: Duration,

    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.parse().map_err(|_| "give a whole number of seconds, 0 to 3600".to_owned())?;
    if seconds > 3600 {
        return Err("give at most 3600 seconds".into());
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn seconds_are_whole_and_at_most_an_hour() {
        assert_eq!(seconds("15"), Ok(Duration::from_secs(15)));
        assert!(seconds("15s").is_err());
        assert!(seconds("3601").is_err());
    }
}
