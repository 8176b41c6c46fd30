//! The image: assembled as `Containerfile` says, looked into, and lived in.
//!
//! Of a program built for tests: that of a release differs in its optimization alone, and takes many times as long to build.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::addons;
use testbed::assembly::{self, Archive, Assembly};
use testbed::plane::{Plane, PlaneOptions};

use super::suite::{TESTBED, apply, cluster, kubectl, until};

const NS: &str = "default";
const ARCH: &str = "amd64";
const OTHER_ARCH: &str = "arm64";
const EPOCH: u64 = 1_700_000_000;
const REVISION: &str = "0123456789abcdef";
const BILL: &str = "usr/share/vllm-operator/sbom.cdx.json";

/// Everything.
pub async fn assembled_and_lived_in() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let unpacked = folder.path().join("unpacked");
    let (own, made) = (folder.path().to_owned(), unpacked.clone());
    tokio::task::spawn_blocking(move || looked_into(&own, &made)).await??;
    lived_in(&unpacked).await
}

fn looked_into(folder: &Path, unpacked: &Path) -> anyhow::Result<()> {
    let [build, again] = ["build", "again"].map(|name| folder.join(name));
    let files = assembly::files_for(&build, ARCH);
    assembly::image_root(&files, ARCH, "image-test")?;
    let added = assembly::image_root(&files, ARCH, "image-test");
    ensure!(added.is_err(), "files were added to what lay in {}", files.display());
    // Which architecture the files are for is nothing to Containerfile; another folder and other times are nothing to the digest.
    copied(&files, &assembly::files_for(&build, OTHER_ARCH))?;
    copied(&build, &again)?;
    let assembled = |build, name| {
        let archs = [ARCH, OTHER_ARCH].map(String::from).to_vec();
        let assembly = Assembly { build, archs, epoch: EPOCH, revision: REVISION.to_owned() };
        let archive = folder.join(name);
        assembly::assemble(&assembly, Path::new(TESTBED), &archive)?;
        Archive::open(&archive)
    };
    let (archive, other) = (assembled(build, "first.tar")?, assembled(again, "second.tar")?);
    ensure!(archive.digest == other.digest, "two assemblies: {} and {}", archive.digest, other.digest);
    archive.manifest(OTHER_ARCH)?;

    let manifest = archive.manifest(ARCH)?;
    let config =
        archive.blob(manifest["config"]["digest"].as_str().context("a manifest names its config")?)?;
    let version = env!("CARGO_PKG_VERSION");
    for (pointer, value) in [
        ("/config/User", json!("65532:65532")),
        ("/config/Entrypoint", json!(["/vllm-operator"])),
        ("/architecture", json!(ARCH)),
        ("/os", json!("linux")),
        ("/created", json!("2023-11-14T22:13:20Z")),
        ("/config/Labels/org.opencontainers.image.version", json!(version)),
        ("/config/Labels/org.opencontainers.image.revision", json!(REVISION)),
        ("/config/Labels/org.opencontainers.image.licenses", json!(env!("CARGO_PKG_LICENSE"))),
        ("/config/Labels/org.opencontainers.image.source", json!(env!("CARGO_PKG_REPOSITORY"))),
    ] {
        let found = config.pointer(pointer).unwrap_or(&Value::Null);
        ensure!(*found == value, "{pointer} is {found} and not {value}");
    }

    let paths: BTreeSet<_> = archive.unpack(ARCH, unpacked)?.into_iter().collect();
    let expected = [
        "usr/",
        "usr/share/",
        "usr/share/vllm-operator/",
        "usr/share/vllm-operator/LICENSE",
        BILL,
        "vllm-operator",
    ];
    ensure!(paths == expected.map(String::from).into(), "in the image: {paths:?}");
    let program = fs::metadata(unpacked.join("vllm-operator"))?.permissions().mode();
    ensure!(program & 0o7777 == 0o755, "the program's mode is {program:o}");
    bill(&serde_json::from_slice(&fs::read(unpacked.join(BILL))?)?)
}

fn copied(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copied(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// What is linked stands in the bill in the version of `Cargo.lock`, and what only builds or tests does not.
fn bill(bill: &Value) -> anyhow::Result<()> {
    ensure!(bill["specVersion"] == "1.6" && bill["bomFormat"] == "CycloneDX");
    ensure!(
        bill["metadata"]["component"]["purl"]
            == format!("pkg:cargo/vllm-operator@{}", env!("CARGO_PKG_VERSION"))
    );
    let lock = include_str!("../../Cargo.lock");
    let components = bill["components"].as_array().context("a bill has components")?;
    let mut names = BTreeSet::new();
    for component in components {
        let word = |field: &str| component[field].as_str().with_context(|| format!("{field} of {component}"));
        let (name, version) = (word("name")?, word("version")?);
        names.insert(name);
        let locked = lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n"));
        ensure!(
            locked != word("purl")?.starts_with("pkg:generic/"),
            "{name} {version} is not what Cargo.lock says"
        );
        ensure!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    for linked in ["kube", "rustls", "ring", "axum", "webhook", "certs", "glibc", "rust-std"] {
        ensure!(names.contains(linked), "{linked} is not in the bill");
    }
    for not_linked in ["testbed", "insta", "kube-derive", "protox", "cc"] {
        ensure!(!names.contains(not_linked), "{not_linked} is in the bill");
    }
    let known = |reference: &Value| {
        components.iter().any(|component| component["bom-ref"] == *reference)
            || bill["metadata"]["component"]["bom-ref"] == *reference
    };
    for dependency in bill["dependencies"].as_array().context("a bill has dependencies")? {
        let needs = dependency["dependsOn"].as_array().context("dependsOn")?;
        ensure!(known(&dependency["ref"]) && needs.iter().all(known), "{dependency}");
    }
    Ok(())
}

/// The Deployment as it is installed, in the image's files and no others.
async fn lived_in(files: &Path) -> anyhow::Result<()> {
    let mut options = PlaneOptions::new("image", TESTBED);
    options.operator_exe = Some(files.to_owned());
    let plane = Plane::start(options).await?;
    addons::install_operator(&plane).await?;
    addons::wait_for_operator(&plane).await?;
    apply(&plane, NS, &cluster("a", "replicas: 2\nmaxReplicas: 3")).await?;
    until(&plane, NS, "vllmcluster/a", &[("/status/readyReplicas", json!(2))]).await?;
    let refused = kubectl(&plane, NS, "scale vllmcluster a --replicas=4").output().await?;
    ensure!(
        refused.stderr.contains("4 is above the maximum 3 (spec.maxReplicas of VLLMCluster"),
        "{}",
        refused.stderr
    );
    plane.stop().await
}
