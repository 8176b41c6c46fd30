//! The programs that a plane is made of, built from pinned Go modules and kept in a cache.
//!
//! `VLLM_TESTBED_CACHE` moves the cache, `VLLM_TESTBED_BIN` names a folder of prebuilt programs instead, and
//! `VLLM_OPERATOR_BIN` a built operator.
//!
//! **Architecture invariant**: what a part is and where it lies is said here; how it is built, in [`build`]. Nothing here
//! runs a part, and nothing is taken from the machine but `go` and `cargo`.

pub mod build;
pub mod operator;
pub mod progress;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use operator::{PROFILE, operator_binary};

/// The version that the Kubernetes parts are built from, as their `go.mod` says.
pub const KUBERNETES_VERSION: &str = "1.37.2";

/// One program of the testbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the programs")]
pub enum Part {
    Etcd,
    Apiserver,
    ControllerManager,
    Scheduler,
    Kubectl,
    Coredns,
    KedaOperator,
    KedaAdapter,
    KedaWebhooks,
    MetricsServer,
    Prometheus,
    Helm,
    Buildkitd,
    Buildctl,
    Webhook,
}

impl Part {
    /// What the operator is measured beside.
    pub const BENCH: [Self; 1] = [Self::Webhook];
    /// What an image is assembled with.
    pub const IMAGE: [Self; 2] = [Self::Buildkitd, Self::Buildctl];
    /// What a plane is made of, and worked with, in the order in which it is built.
    pub const PLANE: [Self; 12] = [
        Self::Etcd,
        Self::Apiserver,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubectl,
        Self::Coredns,
        Self::KedaOperator,
        Self::KedaAdapter,
        Self::KedaWebhooks,
        Self::MetricsServer,
        Self::Prometheus,
        Self::Helm,
    ];

    /// Name of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubectl => "kubectl",
            Self::Coredns => "coredns",
            Self::KedaOperator => "keda-operator",
            Self::KedaAdapter => "keda-adapter",
            Self::KedaWebhooks => "keda-webhooks",
            Self::MetricsServer => "metrics-server",
            Self::Prometheus => "prometheus",
            Self::Helm => "helm",
            Self::Buildkitd => "buildkitd",
            Self::Buildctl => "buildctl",
            Self::Webhook => "webhook",
        }
    }

    /// The Go package it is built from.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::Apiserver => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::ControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::Scheduler => "k8s.io/kubernetes/cmd/kube-scheduler",
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Self::Coredns => "github.com/coredns/coredns",
            Self::KedaOperator => "github.com/kedacore/keda/v2/cmd/operator",
            Self::KedaAdapter => "github.com/kedacore/keda/v2/cmd/adapter",
            Self::KedaWebhooks => "github.com/kedacore/keda/v2/cmd/webhooks",
            Self::MetricsServer => "sigs.k8s.io/metrics-server/cmd/metrics-server",
            Self::Prometheus => "github.com/prometheus/prometheus/cmd/prometheus",
            Self::Helm => "helm.sh/helm/v4/cmd/helm",
            Self::Buildkitd => "github.com/moby/buildkit/cmd/buildkitd",
            Self::Buildctl => "github.com/moby/buildkit/cmd/buildctl",
            Self::Webhook => "testbed/webhook",
        }
    }

    /// The module whose pins hold for it.
    pub const fn module(self) -> Module {
        match self {
            Self::Etcd | Self::Apiserver | Self::ControllerManager | Self::Scheduler | Self::Kubectl => {
                Module::Kubernetes
            }
            Self::Coredns => Module::Coredns,
            Self::KedaOperator | Self::KedaAdapter | Self::KedaWebhooks => Module::Keda,
            Self::MetricsServer => Module::MetricsServer,
            Self::Prometheus => Module::Prometheus,
            Self::Helm => Module::Helm,
            Self::Buildkitd | Self::Buildctl => Module::Buildkit,
            Self::Webhook => Module::Webhook,
        }
    }
}

/// A `go.mod` with its `go.sum`, below `tests/parts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are those of the folders")]
pub enum Module {
    Kubernetes,
    Coredns,
    Keda,
    MetricsServer,
    Prometheus,
    Helm,
    Buildkit,
    Webhook,
}

impl Module {
    /// Name of its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Coredns => "coredns",
            Self::Keda => "keda",
            Self::MetricsServer => "metrics-server",
            Self::Prometheus => "prometheus",
            Self::Helm => "helm",
            Self::Buildkit => "buildkit",
            Self::Webhook => "webhook",
        }
    }

    /// `go.mod` and `go.sum`.
    const fn pins(self) -> (&'static str, &'static str) {
        macro_rules! pins {
            ($folder:literal) => {
                (
                    include_str!(concat!("../parts/", $folder, "/go.mod")),
                    include_str!(concat!("../parts/", $folder, "/go.sum")),
                )
            };
        }
        match self {
            Self::Kubernetes => pins!("kubernetes"),
            Self::Coredns => pins!("coredns"),
            Self::Keda => pins!("keda"),
            Self::MetricsServer => pins!("metrics-server"),
            Self::Prometheus => pins!("prometheus"),
            Self::Helm => pins!("helm"),
            Self::Buildkit => pins!("buildkit"),
            Self::Webhook => pins!("webhook"),
        }
    }

    /// Its own source, if it is not of others' modules alone.
    const fn source(self) -> Option<&'static str> {
        match self {
            Self::Webhook => Some(include_str!("../parts/webhook/main.go")),
            Self::Kubernetes
            | Self::Coredns
            | Self::Keda
            | Self::MetricsServer
            | Self::Prometheus
            | Self::Helm
            | Self::Buildkit => None,
        }
    }

    /// Flags of `go build`.
    fn flags(self) -> Vec<String> {
        let mut link = "-s -w".to_owned();
        let mut flags = vec!["-trimpath".to_owned()];
        match self {
            // Without them the API server reports no version that can be parsed.
            Self::Kubernetes => {
                let base = "k8s.io/component-base/version";
                let client = "k8s.io/client-go/pkg/version";
                let version = format!("v{KUBERNETES_VERSION}");
                let (major, minor) = ("1", "37");
                link = format!(
                    "{link} -X {base}.gitVersion={version} -X {base}.gitMajor={major} -X {base}.gitMinor={minor} \
                     -X {client}.gitVersion={version}"
                );
            }
            // The other service discoveries are most of the program, and Kubernetes is where it runs.
            Self::Prometheus => flags.push("-tags=remove_all_sd,enable_kubernetes_sd".to_owned()),
            Self::Coredns
            | Self::Keda
            | Self::MetricsServer
            | Self::Helm
            | Self::Buildkit
            | Self::Webhook => {}
        }
        flags.push(format!("-ldflags={link}"));
        flags
    }
}

/// Why a part is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartsError {
    /// No `go` on the `PATH`.
    #[error(
        "Go is needed to build the control plane's parts, and `{0}` cannot be run: install Go 1.26 or later, or name a \
             folder of prebuilt programs in VLLM_TESTBED_BIN"
    )]
    GoMissing(String),
    /// A `go` that cannot build the pinned modules.
    #[error(
        "Go 1.26 or later is needed, and `go` says: {found}. Install a newer one, or let it fetch one itself with \
             GOTOOLCHAIN=auto (from Go 1.21)"
    )]
    GoTooOld {
        /// Its version, or its complaint.
        found: String,
    },
    /// `go build` failed.
    #[error("building {part} failed ({status}); go said:\n{output}")]
    Build {
        /// What was being built.
        part: &'static str,
        /// How `go` ended.
        status: String,
        /// All that it printed.
        output: String,
    },
    /// A folder of prebuilt programs that lacks one.
    #[error("VLLM_TESTBED_BIN names {folder}, but there is no {missing} in it")]
    Prebuilt {
        /// The folder.
        folder: PathBuf,
        /// Name of what is missing.
        missing: String,
    },
    /// Neither cache variable nor home directory.
    #[error("no place for the cache: set VLLM_TESTBED_CACHE, XDG_CACHE_HOME or HOME")]
    NoCache,
    /// The cache could not be read or written.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The operator could not be built.
    #[error("building the operator failed ({status}); cargo's output stands above")]
    Operator {
        /// How `cargo` ended.
        status: String,
    },
    /// `cargo build` went through without naming the operator's program.
    #[error("cargo built the workspace but named no program `vllm-operator`")]
    NoOperator,
}

/// Where the parts of a plane lie, or those that assemble an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binaries {
    folders: BTreeMap<Module, PathBuf>,
}

impl Binaries {
    /// Builds what a plane lacks, with progress on standard error.
    pub fn ensure() -> Result<Self, PartsError> {
        Self::of(&Part::PLANE)
    }

    /// Builds what is missing to assemble an image.
    pub fn for_images() -> Result<Self, PartsError> {
        Self::of(&Part::IMAGE)
    }

    /// Builds what is missing of what the operator is measured beside.
    pub fn for_benches() -> Result<Self, PartsError> {
        Self::of(&Part::BENCH)
    }

    fn of(parts: &[Part]) -> Result<Self, PartsError> {
        if let Some(folder) = std::env::var_os("VLLM_TESTBED_BIN") {
            return Self::prebuilt(Path::new(&folder), parts);
        }
        let cache = cache_dir(|name| std::env::var_os(name))?;
        build::Builder { cache, go: "go".into() }.ensure(parts)
    }

    /// These parts in `folder`, and KEDA's manifests in its `manifests/keda` if KEDA is one of them.
    pub fn prebuilt(folder: &Path, parts: &[Part]) -> Result<Self, PartsError> {
        let missing =
            |missing: &str| PartsError::Prebuilt { folder: folder.to_owned(), missing: missing.to_owned() };
        let folder = folder.canonicalize().map_err(|_| missing("such folder"))?;
        for part in parts {
            if !folder.join(part.name()).is_file() {
                return Err(missing(part.name()));
            }
        }
        if parts.contains(&Part::KedaOperator) && !folder.join(KEDA_MANIFESTS).is_dir() {
            return Err(missing(KEDA_MANIFESTS));
        }
        Ok(Self { folders: parts.iter().map(|part| (part.module(), folder.clone())).collect() })
    }

    /// The program of a part.
    pub fn path(&self, part: Part) -> PathBuf {
        self.folder(part.module()).join(part.name())
    }

    /// The program with this file name; a name of no part is looked for beside the Kubernetes programs.
    pub fn by_name(&self, name: &str) -> PathBuf {
        match Part::PLANE.into_iter().find(|part| part.name() == name) {
            Some(part) => self.path(part),
            None => self.folder(Module::Kubernetes).join(name),
        }
    }

    /// KEDA's own manifests: the folders of its `config`.
    pub fn keda_manifests(&self) -> PathBuf {
        self.folder(Module::Keda).join(KEDA_MANIFESTS)
    }

    /// Every folder with programs in it, for a `PATH`.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.values().map(PathBuf::as_path)
    }

    fn folder(&self, module: Module) -> &Path {
        // `ensure` fills in every module of a plane, `for_images` and `for_benches` that of theirs; who has the one asks for no part of the other.
        &self.folders[&module]
    }
}

/// Where KEDA's manifests lie beside its programs.
const KEDA_MANIFESTS: &str = "manifests/keda";

/// `$VLLM_TESTBED_CACHE`, or a folder of its own in the user's cache.
fn cache_dir(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, PartsError> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("VLLM_TESTBED_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("vllm-operator-testbed")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/vllm-operator-testbed")))
        .ok_or(PartsError::NoCache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let all = [("VLLM_TESTBED_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        for (from, expected) in
            [(0, "/a"), (1, "/b/vllm-operator-testbed"), (2, "/c/.cache/vllm-operator-testbed")]
        {
            let variable =
                |name: &str| all[from..].iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into());
            assert_eq!(cache_dir(variable).expect("a place"), Path::new(expected));
        }
        assert!(matches!(cache_dir(|_| None), Err(PartsError::NoCache)));
    }

    #[test]
    fn the_version_in_the_link_flags_is_the_pinned_one() {
        let (go_mod, _) = Module::Kubernetes.pins();
        let pinned = go_mod.split_whitespace().skip_while(|word| *word != "k8s.io/kubernetes").nth(1);
        assert_eq!(pinned, Some(format!("v{KUBERNETES_VERSION}").as_str()));
        assert!(Module::Kubernetes.flags().concat().contains(&format!("gitVersion=v{KUBERNETES_VERSION} ")));
    }

    #[test]
    fn every_part_is_a_tool_of_its_module() {
        for part in Part::PLANE.into_iter().chain(Part::IMAGE).chain(Part::BENCH) {
            let (go_mod, _) = part.module().pins();
            if part.module().source().is_some() {
                assert!(go_mod.starts_with(&format!("module {}\n", part.package())), "{part:?}");
                continue;
            }
            let tools = go_mod.lines().any(|line| line.trim().trim_start_matches("tool ") == part.package());
            assert!(tools, "{part:?}: {} is no tool of {:?}", part.package(), part.module());
        }
    }

    #[test]
    fn a_prebuilt_folder_must_be_complete() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for part in Part::PLANE {
            let error = Binaries::prebuilt(folder.path(), &Part::PLANE).expect_err("incomplete").to_string();
            assert!(error.contains(&format!("no {} in it", part.name())), "{error}");
            std::fs::write(folder.path().join(part.name()), "").expect("written");
        }
        let error = Binaries::prebuilt(folder.path(), &Part::PLANE).expect_err("no manifests").to_string();
        assert!(error.contains("no manifests/keda in it"), "{error}");
        std::fs::create_dir_all(folder.path().join(KEDA_MANIFESTS)).expect("made");
        let binaries = Binaries::prebuilt(folder.path(), &Part::PLANE).expect("complete");
        assert!(binaries.path(Part::Kubectl).is_file());
        assert_eq!(binaries.by_name("keda-adapter"), binaries.path(Part::KedaAdapter));
        let error = Binaries::prebuilt(folder.path(), &Part::IMAGE).expect_err("no BuildKit").to_string();
        assert!(error.contains("no buildkitd in it"), "{error}");
    }
}
