//! Builds parts into the cache.
//!
//! One folder per module, named after the hash of its pins and flags; a program gets its name only once it is complete, so
//! what is there can be used without asking. Builders at the same time wait for each other at a file lock.
//!
//! **Architecture invariant**: the only place that runs `go`. Pins hold: `-mod=readonly` refuses what `go.sum` does not list.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::progress::{Progress, Step};
use super::{Binaries, KEDA_MANIFESTS, Module, Part, PartsError};

/// The first Go that builds the pinned modules: `(major, minor)`.
const OLDEST_GO: (u32, u32) = (1, 26);

/// KEDA's manifests that an installation is made of.
const KEDA_FOLDERS: [&str; 7] =
    ["crd/bases", "rbac", "service_account", "general", "manager", "metrics-server", "webhooks"];

/// Builds with one `go` into one cache.
#[derive(Debug)]
pub struct Builder {
    /// The cache.
    pub cache: PathBuf,
    /// The program `go`.
    pub go: OsString,
}

impl Builder {
    /// Builds what is missing of `parts`; to those of KEDA belong its manifests.
    pub fn ensure(&self, parts: &[Part]) -> Result<Binaries, PartsError> {
        let folders: BTreeMap<_, _> = parts
            .iter()
            .map(|part| part.module())
            .map(|module| (module, self.cache.join(folder_name(module))))
            .collect();
        let missing: Vec<Part> = parts.iter().copied().filter(|part| !built(&folders, *part)).collect();
        let manifests = folders.get(&Module::Keda).map(|folder| folder.join(KEDA_MANIFESTS));
        let manifests = manifests.filter(|manifests| !manifests.is_dir());
        if missing.is_empty() && manifests.is_none() {
            return Ok(Binaries { folders });
        }
        make_dir(&self.cache)?;
        let lock_path = self.cache.join("lock");
        let lock = File::create(&lock_path).map_err(io("creating", &lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("another build of the parts is under way; waiting for it");
            flock(&lock, FlockOperation::LockExclusive).map_err(|e| PartsError::Io {
                what: "locking",
                path: lock_path,
                source: e.into(),
            })?;
        }
        self.check_go()?;
        let progress = Progress::new(missing.len());
        for (index, part) in missing.into_iter().enumerate() {
            // Another builder may have made it while we waited for the lock.
            if !built(&folders, part) {
                let step = progress.step(index + 1, part.name());
                self.build(part, &folders[&part.module()], step)?;
            }
        }
        // Another builder may have copied them, too.
        if let Some(manifests) = manifests.filter(|manifests| !manifests.is_dir()) {
            self.copy_keda_manifests(&manifests)?;
        }
        Ok(Binaries { folders })
    }

    /// A `go` that is there and new enough for the pinned modules.
    fn check_go(&self) -> Result<(), PartsError> {
        let module = self.module_dir(Module::Kubernetes)?;
        let output = self
            .command(module.path())
            .args(["env", "GOVERSION"])
            .output()
            .map_err(|_| PartsError::GoMissing(self.go.to_string_lossy().into_owned()))?;
        // In the module's folder, GOTOOLCHAIN decides: a go that may fetch a newer one reports that one here.
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            return Err(PartsError::GoTooOld {
                found: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        if go_version(&text).is_some_and(|version| version >= OLDEST_GO) {
            Ok(())
        } else {
            Err(PartsError::GoTooOld { found: text })
        }
    }

    fn build(&self, part: Part, folder: &Path, mut step: Step) -> Result<(), PartsError> {
        make_dir(folder)?;
        let module = self.module_dir(part.module())?;
        let unfinished = module.path().join(part.name());
        let mut child = self
            .command(module.path())
            .arg("build")
            .args(part.module().flags())
            .arg("-o")
            .arg(&unfinished)
            .arg(part.package())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|_| PartsError::GoMissing(self.go.to_string_lossy().into_owned()))?;
        let (said, lines) = mpsc::channel();
        let stderr = child.stderr.take();
        std::thread::spawn(move || {
            let lines =
                stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
            // The receiver is there until the pipe ends.
            lines.for_each(|line| drop(said.send(line)));
        });
        let mut output = String::new();
        loop {
            match lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => {
                    step.detail(&line);
                    output.push_str(&line);
                    output.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => step.still(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait().map_err(io("waiting for go in", module.path()))?;
        if !status.success() {
            return Err(PartsError::Build { part: part.name(), status: status.to_string(), output });
        }
        let finished = folder.join(part.name());
        fs::rename(&unfinished, &finished).map_err(io("naming", &finished))?;
        step.done();
        Ok(())
    }

    /// Running needs no module cache, which a person may clean: the manifests are kept beside the programs.
    fn copy_keda_manifests(&self, target: &Path) -> Result<(), PartsError> {
        let module = self.module_dir(Module::Keda)?;
        let output = self
            .command(module.path())
            .args(["list", "-m", "-f", "{{.Dir}}", "github.com/kedacore/keda/v2"])
            .output()
            .map_err(|_| PartsError::GoMissing(self.go.to_string_lossy().into_owned()))?;
        let source = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if !output.status.success() || source.as_os_str().is_empty() {
            let output = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(PartsError::Build { part: "KEDA's manifests", status: "go list".to_owned(), output });
        }
        let unfinished = module.path().join("manifests");
        for folder in KEDA_FOLDERS {
            copy_files(&source.join("config").join(folder), &unfinished.join(folder))?;
        }
        if let Some(parent) = target.parent() {
            make_dir(parent)?;
        }
        fs::rename(&unfinished, target).map_err(io("naming", target))
    }

    /// `go` in `folder`, under the environment that every build has.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.go);
        command
            .current_dir(folder)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly -buildvcs=false")
            .env("GOWORK", "off")
            .env_remove("GOOS")
            .env_remove("GOARCH")
            .stdin(Stdio::null());
        command
    }

    /// A fresh folder in the cache with a module's pins; on the cache's file system, so that what is built there can be
    /// renamed to its place.
    fn module_dir(&self, module: Module) -> Result<tempfile::TempDir, PartsError> {
        make_dir(&self.cache)?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("building-{}-", module.name()))
            .tempdir_in(&self.cache)
            .map_err(io("creating a folder in", &self.cache))?;
        let (go_mod, go_sum) = module.pins();
        let source = module.source().map(|text| ("main.go", text));
        for (name, text) in [("go.mod", go_mod), ("go.sum", go_sum)].into_iter().chain(source) {
            let path = folder.path().join(name);
            fs::write(&path, text).map_err(io("writing", &path))?;
        }
        Ok(folder)
    }
}

fn built(folders: &BTreeMap<Module, PathBuf>, part: Part) -> bool {
    folders[&part.module()].join(part.name()).is_file()
}

/// Name, pins, flags and source of a module in one word.
fn folder_name(module: Module) -> String {
    let (go_mod, go_sum) = module.pins();
    let mut hash = Sha256::new();
    for text in [go_mod, go_sum, &module.flags().join(" ")].into_iter().chain(module.source()) {
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    }
    // Eight bytes tell a handful of folders apart.
    let short = hash.finalize().iter().take(8).fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    format!("{}-{short:016x}", module.name())
}

/// `go1.26.8` → `(1, 26)`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn copy_files(from: &Path, to: &Path) -> Result<(), PartsError> {
    make_dir(to)?;
    for entry in fs::read_dir(from).map_err(io("reading", from))? {
        let path = entry.map_err(io("reading", from))?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            // By content: files of the module cache are read-only, copies need not be.
            let text = fs::read(&path).map_err(io("reading", &path))?;
            fs::write(to.join(name), text).map_err(io("writing", to))?;
        }
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), PartsError> {
    fs::create_dir_all(path).map_err(io("creating", path))
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PartsError {
    let path = path.to_owned();
    move |source| PartsError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of the `go`s of the fixtures. A link and not a file written here: while another test's thread starts a process,
    /// a file that was just written can be "busy".
    fn fake_go(folder: &Path, which: &str) -> Builder {
        let go = folder.join("go");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/go").join(which);
        std::os::unix::fs::symlink(script, &go).expect("linked");
        Builder { cache: folder.join("cache"), go: go.into() }
    }

    #[test]
    fn a_missing_go_is_said_in_a_sentence() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let builder = Builder { cache: folder.path().into(), go: folder.path().join("no-go").into() };
        let error = builder.ensure(&Part::PLANE).expect_err("no go").to_string();
        assert!(error.contains("install Go 1.26 or later"), "{error}");
        assert!(error.contains("VLLM_TESTBED_BIN"), "{error}");
    }

    #[test]
    fn an_old_go_is_said_in_a_sentence() {
        for which in ["old", "refuses"] {
            let folder = tempfile::tempdir().expect("temporary folder");
            let error = fake_go(folder.path(), which).ensure(&Part::PLANE).expect_err("old go").to_string();
            assert!(error.contains("Go 1.26 or later is needed") && error.contains("1.25.9"), "{error}");
            assert!(error.contains("GOTOOLCHAIN=auto"), "{error}");
        }
    }

    #[test]
    fn a_build_that_fails_shows_what_go_said() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let builder = fake_go(folder.path(), "fails");
        let error = builder.ensure(&Part::PLANE).expect_err("fails").to_string();
        assert!(
            error.contains("building etcd failed") && error.contains("server.go:7: undefined: x"),
            "{error}"
        );
        let left = builder.cache.join(folder_name(Module::Kubernetes)).join("etcd");
        assert!(!left.exists(), "a failed build left {}", left.display());
    }

    #[test]
    fn builders_at_the_same_time_build_each_part_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let builder = fake_go(folder.path(), "works");
        let both = std::thread::scope(|scope| {
            let threads =
                [scope.spawn(|| builder.ensure(&Part::PLANE)), scope.spawn(|| builder.ensure(&Part::PLANE))];
            threads.map(|thread| thread.join().expect("no panic").expect("built"))
        });
        assert_eq!(both[0], both[1]);
        for part in Part::PLANE {
            assert!(both[0].path(part).is_file(), "{part:?}");
        }
        assert!(both[0].keda_manifests().join("crd/bases/x.yaml").is_file());
        let builds = fs::read_to_string(folder.path().join("builds")).expect("builds");
        assert_eq!(builds.lines().count(), Part::PLANE.len(), "{builds}");
        assert!(builds.contains("-trimpath -tags=remove_all_sd,enable_kubernetes_sd"), "{builds}");
    }

    #[test]
    fn versions_of_go_are_read() {
        for (text, version) in [
            ("go1.26.8", Some((1, 26))),
            ("go1.27rc1", Some((1, 27))),
            ("go2.0", Some((2, 0))),
            ("devel +abc", None),
            ("", None),
        ] {
            assert_eq!(go_version(text), version, "{text}");
        }
    }
}
