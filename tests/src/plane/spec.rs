//! What a plane is told at its start, and where its files lie.
//!
//! **Architecture invariant**: plain data; nothing here waits or starts anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::parts::Binaries;

/// Everything the inside of a plane needs to know; the owner writes it, the inside reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Tells planes apart for people.
    pub name: String,
    /// Where all of the plane's files lie.
    pub state: State,
    /// The built parts.
    pub binaries: Binaries,
    /// This program, which also serves as engine, load generator and sandbox.
    pub testbed_exe: PathBuf,
    /// The operator's program, behind its image, or a folder with that image's files.
    pub operator_exe: Option<PathBuf>,
    /// The webhook that the operator is measured beside, behind its image.
    #[serde(default)]
    pub peer_exe: Option<PathBuf>,
    /// The common name of the certificate that the API server shows to the operator's webhooks, if it is to show one.
    #[serde(default)]
    pub webhook_client: Option<String>,
    /// Whether the API server checks who may set `blockOwnerDeletion`.
    pub owner_references_checked: bool,
    /// Command template of a real engine in place of the simulated one.
    pub engine: Option<String>,
    /// Whether a component that ends is started again.
    pub restarts: bool,
    /// The HPA controller's window before it scales down.
    pub hpa_downscale_stabilization: Duration,
    /// The HPA controller's period.
    pub hpa_sync_period: Duration,
}

/// The state directory of one plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State(PathBuf);

impl State {
    /// The directory at `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The [`Spec`], as the owner wrote it.
    pub fn spec(&self) -> PathBuf {
        self.0.join("plane.json")
    }

    /// For clients outside of the plane's namespaces.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// For the components inside.
    pub fn inner_kubeconfig(&self, component: &str) -> PathBuf {
        self.0.join("kubeconfigs").join(component)
    }

    /// One log per process.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Log of one process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// A file of the plane's PKI.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.0.join("pki").join(file)
    }

    /// etcd's data.
    pub fn etcd(&self) -> PathBuf {
        self.0.join("etcd")
    }

    /// Every write to the API server as a JSON line, at level Metadata.
    pub fn audit_log(&self) -> PathBuf {
        self.0.join("audit.log")
    }

    /// A component's configuration file.
    pub fn config(&self, file: &str) -> PathBuf {
        self.0.join("config").join(file)
    }

    /// Files of the pods.
    pub fn pods(&self) -> PathBuf {
        self.0.join("pods")
    }

    /// kubectl's discovery cache, which is keyed by host and port and so must not be shared.
    pub fn kubectl_cache(&self) -> PathBuf {
        self.0.join("kubectl-cache")
    }

    /// Process id, seen from outside, of the first process of the plane.
    pub fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    /// Makes the directories, readable by their owner only since keys lie in them.
    pub fn create(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        for folder in ["", "kubeconfigs", "logs", "pki", "config", "pods", "kubectl-cache"] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.0.join(folder))?;
        }
        Ok(())
    }
}
