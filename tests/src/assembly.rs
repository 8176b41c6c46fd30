//! The operator's image, as `Containerfile` says: by BuildKit, from files made by `cargo image-root`, without a registry and without
//! root.
//!
//! Reading order: [`Assembly`] (what an image is made from), [`assemble`], [`Archive`] (what came of it).
//!
//! **Architecture invariant**: the only place that runs BuildKit. Nothing is pulled, and no step of `Containerfile` runs: the stage
//! that makes the files is given.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::namespaces;
use crate::parts::{Binaries, Part};

/// The tree.
const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The daemon starts within a second; this is for a machine that is very busy.
const START_DEADLINE: Duration = Duration::from_mins(1);
/// What an image may weigh, unpacked.
const MOST_BYTES: u64 = 30_000_000;

/// Options of `image`.
#[derive(Clone, Debug, Args)]
pub struct Make {
    /// Where to write the OCI archive.
    archive: PathBuf,
    /// What it is for, as OCI names architectures.
    #[arg(long, value_delimiter = ',', default_value = "amd64")]
    arch: Vec<String>,
}

/// What an image is made from.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// A folder as the stage `build` leaves it: the files for each architecture are in `image/ARCHITECTURE`.
    pub build: PathBuf,
    /// The architectures, as OCI names them.
    pub archs: Vec<String>,
    /// The time of everything in it, in seconds since 1970.
    pub epoch: u64,
    /// Where its version comes from, for the label.
    pub revision: String,
}

/// Makes the image's archive, and says what is in it.
pub fn main(make: &Make) -> anyhow::Result<()> {
    let build = tempfile::tempdir()?;
    for arch in &make.arch {
        let files = files_for(build.path(), arch);
        image_root(&files, arch, "dist")?;
        let bytes = weight(&files)?;
        println!("{arch}: {:.1} MB", megabytes(bytes));
        ensure!(bytes < MOST_BYTES, "an image of the operator is below {:.0} MB", megabytes(MOST_BYTES));
    }
    let epoch = git(&["log", "-1", "--format=%ct"])?.parse()?;
    let revision = git(&["rev-parse", "HEAD"])?;
    let (folder, archs) = (build.path().to_owned(), make.arch.clone());
    let assembly = Assembly { build: folder, archs, epoch, revision };
    assemble(&assembly, &std::env::current_exe()?, &make.archive)?;
    println!("{}", Archive::open(&make.archive)?.digest);
    Ok(())
}

/// Where the stage `build` leaves the files for an architecture.
pub fn files_for(build: &Path, arch: &str) -> PathBuf {
    build.join("image").join(arch)
}

/// Runs `cargo image-root`.
pub fn image_root(files: &Path, arch: &str, profile: &str) -> anyhow::Result<()> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(TREE)
        .arg("image-root")
        .arg(files)
        .args(["--arch", arch, "--profile", profile])
        .stdin(Stdio::null())
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "cargo image-root for {arch}: {status}");
    Ok(())
}

/// Bytes of all files below a folder.
fn weight(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { weight(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn git(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git").args(["-C", TREE]).args(args).output().context("starting git")?;
    ensure!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Assembles the image into an OCI archive. `testbed` is that program.
pub fn assemble(assembly: &Assembly, testbed: &Path, archive: &Path) -> anyhow::Result<()> {
    let binaries = Binaries::for_images()?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("buildkit.sock");
    let _daemon = Daemon::start(testbed, &binaries, folder.path(), &socket)?;
    let context = folder.path().join("context");
    // `Containerfile` and nothing else: what it would copy is given.
    fs::create_dir(&context)?;
    fs::copy(Path::new(TREE).join("Containerfile"), context.join("Containerfile"))?;

    let mut build = Command::new(binaries.path(Part::Buildctl));
    build.arg(address(&socket)).args(["build", "--frontend=dockerfile.v0", "--progress=plain"]);
    build.args(["--opt=filename=Containerfile", &format!("--opt=build-arg:REVISION={}", assembly.revision)]);
    build.arg(format!("--opt=build-arg:SOURCE_DATE_EPOCH={}", assembly.epoch));
    build.arg(format!("--local=context={}", context.display()));
    build.arg(format!("--local=dockerfile={}", context.display()));
    build.args(["--opt=context:build=local:build", &format!("--local=build={}", assembly.build.display())]);
    let platforms: Vec<_> = assembly.archs.iter().map(|arch| format!("linux/{arch}")).collect();
    build.arg(format!("--opt=platform={}", platforms.join(",")));
    build.arg(format!("--output=type=oci,rewrite-timestamp=true,dest={}", archive.display()));
    let output = build.stdin(Stdio::null()).output().context("starting buildctl")?;
    ensure!(
        output.status.success(),
        "buildctl: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn address(socket: &Path) -> String {
    format!("--addr=unix://{}", socket.display())
}

/// BuildKit's daemon; it ends with this.
struct Daemon(Child);

impl Daemon {
    fn start(testbed: &Path, binaries: &Binaries, folder: &Path, socket: &Path) -> anyhow::Result<Self> {
        let log = folder.join("buildkitd.log");
        let said = fs::File::create(&log)?;
        let child = Command::new(testbed)
            .arg("image-daemon")
            .args([&binaries.path(Part::Buildkitd), socket, &folder.join("state")])
            .stdin(Stdio::piped())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        let mut daemon = Self(child);
        let begun = Instant::now();
        loop {
            let asked = Command::new(binaries.path(Part::Buildctl))
                .arg(address(socket))
                .args(["debug", "workers"])
                .stdin(Stdio::null())
                .output()?;
            if asked.status.success() {
                return Ok(daemon);
            }
            let ended = daemon.0.try_wait()?;
            if ended.is_some() || begun.elapsed() > START_DEADLINE {
                bail!("BuildKit's daemon did not start:\n{}", fs::read_to_string(&log)?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The end of its standard input is what it waits for.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What the daemon is told.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    program: PathBuf,
    socket: PathBuf,
    state: PathBuf,
}

/// Leaves the machine's namespaces and is BuildKit's daemon there, until standard input ends.
pub fn serve(serve: &Serve) -> anyhow::Result<()> {
    namespaces::enter()?;
    let mut daemon = Command::new(&serve.program)
        .arg(address(&serve.socket))
        .args(["--root", &serve.state.display().to_string()])
        .args(["--oci-worker=true", "--containerd-worker=false", "--oci-worker-snapshotter=native"])
        // It wants a program that runs steps, and there are none.
        .args(["--oci-worker-net=host", "--oci-worker-binary=true"])
        .stdin(Stdio::null())
        .spawn()
        .context("starting buildkitd")?;
    let ended = std::io::stdin().lock().read_to_end(&mut Vec::new());
    daemon.kill()?;
    daemon.wait()?;
    ended.map(drop).map_err(Into::into)
}

/// An OCI archive, unpacked.
#[derive(Debug)]
pub struct Archive {
    folder: tempfile::TempDir,
    /// Of the whole image.
    pub digest: String,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Value>,
}

impl Archive {
    /// Unpacks it.
    pub fn open(archive: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        tar::Archive::new(fs::File::open(archive)?).unpack(folder.path())?;
        let index: Value = serde_json::from_slice(&fs::read(folder.path().join("index.json"))?)?;
        let digest = index["manifests"][0]["digest"].as_str().context("an index names its image")?.to_owned();
        Ok(Self { folder, digest })
    }

    /// The manifest for an architecture, whether the image is for one or for several.
    pub fn manifest(&self, arch: &str) -> anyhow::Result<Value> {
        let top = self.blob(&self.digest)?;
        if top.get("layers").is_some() {
            return Ok(top);
        }
        let manifests: Vec<Descriptor> = serde_json::from_value(top["manifests"].clone())?;
        let of_arch = |one: &&Descriptor| one.platform.as_ref().is_some_and(|of| of["architecture"] == arch);
        let manifest = manifests.iter().find(of_arch).with_context(|| format!("no image for {arch}"))?;
        self.blob(&manifest.digest)
    }

    /// A blob that is JSON.
    pub fn blob(&self, digest: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.path(digest))?)?)
    }

    /// Unpacks the layers for an architecture, and gives the paths in them in order.
    pub fn unpack(&self, arch: &str, to: &Path) -> anyhow::Result<Vec<String>> {
        let layers: Vec<Descriptor> = serde_json::from_value(self.manifest(arch)?["layers"].clone())?;
        let mut paths = Vec::new();
        fs::create_dir_all(to)?;
        for layer in layers {
            let layer = flate2::read::GzDecoder::new(fs::File::open(self.path(&layer.digest))?);
            for entry in tar::Archive::new(layer).entries()? {
                let mut entry = entry?;
                paths.push(entry.path()?.to_string_lossy().into_owned());
                entry.unpack_in(to)?;
            }
        }
        Ok(paths)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.path().join("blobs").join(digest.replace(':', "/"))
    }
}
