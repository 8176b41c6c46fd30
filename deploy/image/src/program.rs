//! The program: static, and without a path of the machine that built it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use cargo_metadata::Message;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};

use crate::platform::Platform;

/// Builds it, and says where it lies.
pub fn build(tree: &Path, platform: Platform, profile: &str) -> anyhow::Result<PathBuf> {
    let triple = platform.triple();
    let underscored = triple.replace('-', "_");
    let homes = ["CARGO_HOME", "RUSTUP_HOME"].map(std::env::var_os).into_iter().flatten();
    let hidden = homes.map(PathBuf::from).chain([tree.to_owned()]);
    let hidden: Vec<_> = hidden.map(|path| format!("{}=/build", path.display())).collect();
    let flags: Vec<_> = ["-Ctarget-feature=+crt-static".to_owned()]
        .into_iter()
        .chain(hidden.iter().map(|prefix| format!("--remap-path-prefix={prefix}")))
        .collect();
    let of_c: Vec<_> = hidden.iter().map(|prefix| format!("-ffile-prefix-map={prefix}")).collect();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(tree)
        .args(["build", "--locked", "--package=vllm-operator", "--bin=vllm-operator"])
        // Stated even where it is the machine's own: the flags are the program's then, and not those of build scripts.
        .args([format!("--target={triple}"), format!("--profile={profile}")])
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env(format!("CFLAGS_{underscored}"), of_c.join(" "))
        .env(format!("CC_{underscored}"), platform.compiler())
        .env(format!("CARGO_TARGET_{}_LINKER", underscored.to_uppercase()), platform.compiler())
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("starting cargo")?;
    let stdout = child.stdout.take().context("cargo's output")?;
    let program = Message::parse_stream(std::io::BufReader::new(stdout))
        .filter_map(Result::ok)
        .filter_map(|message| match message {
            Message::CompilerArtifact(artifact) if artifact.target.name == "vllm-operator" => {
                artifact.executable
            }
            _ => None,
        })
        .last();
    let status = child.wait()?;
    ensure!(
        status.success(),
        "cargo build for {triple}: {status}; for another architecture than the machine's it needs `rustup target add {triple}` and \
         {}",
        platform.compiler()
    );
    let program = program.context("cargo built no program vllm-operator")?.into_std_path_buf();
    is_static(&fs::read(&program)?).with_context(|| program.display().to_string())?;
    Ok(program)
}

/// That the kernel alone can start it.
fn is_static(program: &[u8]) -> anyhow::Result<()> {
    let header = elf::FileHeader64::<Endianness>::parse(program)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, program)? {
        ensure!(
            segment.interpreter(endian, program)?.is_none(),
            "it asks for a dynamic loader, which an empty image does not have"
        );
        let needed = segment.dynamic(endian, program)?.into_iter().flatten();
        ensure!(
            !needed.into_iter().any(|entry| entry.tag(endian) == elf::DT_NEEDED),
            "it needs shared libraries, which an empty image does not have"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_loader_is_refused() {
        // This test is one.
        let own = fs::read(std::env::current_exe().expect("this test")).expect("readable");
        let error = is_static(&own).expect_err("dynamic").to_string();
        assert!(error.contains("dynamic loader") || error.contains("shared libraries"), "{error}");
    }
}
