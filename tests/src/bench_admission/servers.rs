//! Who is asked: each server a process of its own, on one processor, with the same certificate.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tokio::process::{Child, Command};

use crate::bench_abuse::target::{SERVER_NAME, Target};
use crate::plane::processes::field;

/// The certificate that all of them serve, and who trusts it.
pub struct Identity {
    /// `tls.crt` and `tls.key` are in here.
    pub folder: PathBuf,
    roots: RootCertStore,
}

impl Identity {
    /// A new one, its files in `folder`: the kind of key that the operator makes for itself.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![SERVER_NAME.to_owned()])?.self_signed(&key)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tls.crt"), certificate.pem())?;
        fs::write(folder.join("tls.key"), key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(certificate.der().to_vec()))?;
        Ok(Self { folder: folder.to_owned(), roots })
    }

    /// The certificate's file, or that of its key.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// A server that runs. Dropping it ends the process.
pub struct Server {
    /// What it is called in the table.
    pub name: &'static str,
    /// How it is reached.
    pub target: Target,
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `program` on the first processor, with what comes after the address of its port.
    pub fn start(
        name: &'static str,
        program: &Path,
        identity: &Identity,
        arguments: impl FnOnce(SocketAddr) -> Vec<String>,
        environment: &[(&str, &Path)],
    ) -> anyhow::Result<Self> {
        let address = free_port()?;
        let log = identity.folder.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let mut command = Command::new(program);
        command
            .args(arguments(address))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        // Go and tokio both start as many workers as they find processors that they may use.
        let process = on_processor(0, || command.spawn())?
            .with_context(|| format!("starting {}", program.display()))?;
        let target = Target::trusting(address, identity.roots.clone())?;
        Ok(Self { name, target, process, log })
    }

    /// What it said last, for whoever wonders why it does not answer.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }

    /// Time that its threads have spent on a processor, by the scheduler's own account. Those that have ended count for
    /// nothing, and none of these servers ends its workers.
    pub fn processor(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(self.file("task")?)? {
            let path = task?.path().join("schedstat");
            // A thread may end between the two.
            let Ok(text) = fs::read_to_string(path) else { continue };
            nanos += text.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Its resident memory, in KiB.
    pub fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(self.file("status")?)?;
        Ok(field(&status, "VmRSS:").context("VmRSS")?.parse()?)
    }

    fn file(&self, name: &str) -> anyhow::Result<String> {
        let pid =
            self.process.id().with_context(|| format!("{} has ended: {}", self.name, self.last_words()))?;
        Ok(format!("/proc/{pid}/{name}"))
    }
}

/// A port of the loopback device that nobody has.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Does this on one processor alone; what it starts stays there.
pub fn on_processor<T>(number: usize, what: impl FnOnce() -> T) -> anyhow::Result<T> {
    let own: Option<Pid> = None;
    let before = sched_getaffinity(own)?;
    let mut one = CpuSet::new();
    one.set(number);
    sched_setaffinity(own, &one).with_context(|| format!("there is no processor {number}"))?;
    let done = what();
    sched_setaffinity(own, &before)?;
    Ok(done)
}
