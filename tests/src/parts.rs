//! stub
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use serde::{Deserialize, Serialize};

/// One program of the testbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part { /// x
 Etcd, /// x
 Apiserver, /// x
 ControllerManager, /// x
 Scheduler, /// x
 Kubectl, /// x
 KedaOperator, /// x
 KedaAdapter, /// x
 KedaWebhooks, /// x
 Prometheus, /// x
 Coredns }

impl Part {
    /// x
    pub fn name(self) -> &'static str {
        match self { Self::Etcd => "etcd", Self::Apiserver => "kube-apiserver", Self::ControllerManager => "kube-controller-manager", Self::Scheduler => "kube-scheduler", Self::Kubectl=>"kubectl", Self::KedaOperator=>"keda-operator", Self::KedaAdapter=>"keda-adapter", Self::KedaWebhooks=>"keda-webhooks",Self::Prometheus=>"prometheus",Self::Coredns=>"coredns" }
    }
}
/// x
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Binaries { folder: PathBuf, x: BTreeMap<String,String> }
impl Binaries {
    /// x
    pub fn ensure() -> anyhow::Result<Self> { Ok(Self{folder: std::env::var_os("VLLM_TESTBED_BIN").unwrap().into(), x: BTreeMap::new()}) }
    /// x
    pub fn path(&self, part: Part) -> PathBuf { self.folder.join(part.name()) }
    /// x
    pub fn keda_manifests(&self) -> PathBuf { self.folder.join("manifests/keda") }
    /// x
    pub fn by_name(&self, name: &str) -> PathBuf { self.folder.join(name) }
}
fn _x(_: &Path) {}
