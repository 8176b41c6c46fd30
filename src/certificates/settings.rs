//! What is served, where it is kept, and when which step is due.
//!
//! **Architecture invariant:** plain values; settings that contradict each other do not get past [`CertificateSettings::check`].

use std::path::PathBuf;
use std::time::Duration;

use certs::rotation::Policy;

use crate::args::ScalerMode;

/// What to keep in step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSettings {
    /// Namespace of the Secret and of the Service.
    pub namespace: String,
    /// Secret that holds the CA.
    pub secret_name: String,
    /// Service through which the API server reaches us; the leaf bears its DNS names.
    pub service_name: String,
    /// `MutatingWebhookConfigurations` whose entries are to trust the CA.
    pub mutating: Vec<String>,
    /// `ValidatingWebhookConfigurations` whose entries are to trust the CA.
    pub validating: Vec<String>,
    /// Where the leaf comes from.
    pub source: Source,
    /// CAs that are to be trusted beside our own, or as the issuer of the mounted leaf.
    pub ca_file: Option<PathBuf>,
    /// Validity of a CA that we make.
    pub ca_lifetime: Duration,
    /// When CA and leaf are replaced.
    pub policy: Policy,
    /// Whether KEDA shows a certificate, which is then kept for it.
    pub scaler: ScalerMode,
    /// Service through which KEDA reaches the scaler; the leaf bears its DNS names too.
    pub scaler_service: String,
    /// Namespace of KEDA, and of the Secret that it reads.
    pub keda_namespace: String,
    /// Domain of the cluster's DNS names.
    pub cluster_domain: String,
}

/// Where the leaf comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Issued by the CA in the Secret.
    Issued,
    /// Read from files, which somebody else renews.
    Files {
        /// The chain, leaf first, as PEM.
        certificate: PathBuf,
        /// The key, as PEM.
        key: PathBuf,
    },
}

impl CertificateSettings {
    /// The names under which the API server (`<service>.<namespace>.svc`), KEDA and others in the cluster know us. The one by
    /// which the API server verifies us comes first.
    pub fn server_names(&self) -> Vec<String> {
        let Self { namespace, service_name, scaler_service, cluster_domain, .. } = self;
        let webhooks = format!("{service_name}.{namespace}");
        let scaler = format!("{scaler_service}.{namespace}");
        vec![
            self.server_name(),
            format!("{webhooks}.svc.{cluster_domain}"),
            webhooks,
            self.scaler_name(),
            format!("{scaler}.svc.{cluster_domain}"),
            scaler,
            scaler_service.clone(),
        ]
    }

    /// The name by which KEDA verifies us.
    pub fn scaler_name(&self) -> String {
        format!("{}.{}.svc", self.scaler_service, self.namespace)
    }

    /// The name by which the API server verifies us.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.service_name, self.namespace)
    }

    /// Whether each wait fits into what it is a part of; if not, which does not and what to do.
    pub fn check(&self) -> Result<(), String> {
        let Policy { lead, leaf_lifetime, propagation, clock_tolerance } = self.policy;
        let step = propagation + clock_tolerance;
        if leaf_lifetime <= 3 * step {
            return Err(format!(
                "--leaf-life is {leaf_lifetime:?}; a leaf is renewed in the last third of its life, which must be longer than --propagation-delay and --clock-tolerance together: give more than {:?}",
                3 * step
            ));
        }
        // Half of it is for an orderly rotation, half in reserve for what delays one.
        let least = 2 * (leaf_lifetime + 2 * step);
        if lead < least {
            return Err(format!(
                "--ca-rotation-lead is {lead:?}; within half of it the new CA must be trusted everywhere and every leaf of the old one must have ended: give at least {least:?} (twice --leaf-life and four times both --propagation-delay and --clock-tolerance)"
            ));
        }
        if self.ca_lifetime < 2 * lead {
            return Err(format!(
                "--ca-life is {:?}; a new CA must not be due for its own rotation before the last one is over: give at least twice --ca-rotation-lead, {:?}",
                self.ca_lifetime,
                2 * lead
            ));
        }
        Ok(())
    }
}
