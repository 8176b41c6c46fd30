//! `cargo image-root FOLDER`: the files of the operator's image.
//!
//! Reading order: [`platform`] (what the image is for), [`program`] (the static program), [`bill`] (what it is made of).
//!
//! **Architecture invariant**: the only place that builds the program of the image, in `Containerfile` as in the tests. The
//! same sources, compilers and path of the tree give the same bytes; nothing of the time of day or of the machine's name goes in.

mod bill;
mod platform;
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Parser;

use platform::Platform;

/// The tree, wherever it lies.
const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Where, in the image, everything but the program lies.
const SHARE: &str = "usr/share/vllm-operator";

/// Makes the files of the operator's image.
#[derive(Debug, Parser)]
#[command(name = "image-root", version)]
struct Cli {
    /// An empty folder, or one that is not there yet.
    folder: PathBuf,
    /// What the image is for, as OCI names architectures; by default this machine's.
    #[arg(long, value_enum, default_value_t)]
    arch: Platform,
    /// Cargo's profile; that of a release is `dist`.
    #[arg(long, default_value = "dist")]
    profile: String,
}

fn main() -> ExitCode {
    match make(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image-root: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make(cli: &Cli) -> anyhow::Result<()> {
    let folder = &cli.folder;
    fs::create_dir_all(folder.join(SHARE)).with_context(|| folder.display().to_string())?;
    let left: Vec<_> = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
    ensure!(left.len() == 1, "{} is not empty: everything in it would be in the image", folder.display());
    let tree = Path::new(TREE).canonicalize()?;
    let program = program::build(&tree, cli.arch, &cli.profile)?;
    let bill = bill::of(&tree, cli.arch)?;
    fs::copy(program, folder.join("vllm-operator"))?;
    fs::copy(tree.join("LICENSE"), folder.join(SHARE).join("LICENSE"))?;
    fs::write(folder.join(SHARE).join("sbom.cdx.json"), format!("{bill:#}\n"))?;
    Ok(())
}
