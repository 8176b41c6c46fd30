//! The bill of materials: CycloneDX 1.6, of what is linked into the program and nothing else.
//!
//! Without serial number and time: the same sources give the same bill.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use serde_json::{Value, json};

use crate::platform::Platform;

const OPERATOR: &str = "vllm-operator";

/// The bill of the operator's program for `platform`.
pub fn of(tree: &Path, platform: Platform) -> anyhow::Result<Value> {
    let metadata = MetadataCommand::new()
        .current_dir(tree)
        .other_options(["--locked".to_owned(), format!("--filter-platform={}", platform.triple())])
        .exec()?;
    let linked = Linked::of(&metadata)?;
    let (operator, libraries): (Vec<&Package>, Vec<&Package>) =
        linked.packages.values().copied().partition(|package| package.name.as_str() == OPERATOR);
    let operator = *operator.first().context("the operator is a package")?;
    let runtime = [
        library("rust-std", &rust_version()?, "MIT OR Apache-2.0", "generic"),
        library("glibc", &glibc_version(platform)?, "LGPL-2.1-or-later", "generic"),
    ];
    let components: Vec<_> =
        libraries.iter().map(|package| component(package)).chain(runtime.clone()).collect();
    let mut dependencies: Vec<_> = linked
        .needs
        .iter()
        .map(|(id, needs)| {
            let mut needs: Vec<_> = needs.iter().map(|id| purl(linked.packages[id])).collect();
            needs.sort();
            json!({"ref": purl(linked.packages[id]), "dependsOn": needs})
        })
        .collect();
    dependencies.extend(runtime.iter().map(|library| json!({"ref": library["bom-ref"], "dependsOn": []})));
    let mut program = component(operator);
    program["type"] = json!("application");
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": program},
        "components": components,
        "dependencies": dependencies,
    }))
}

/// The packages that the program is linked from: no build scripts, no macros, no tests.
struct Linked<'a> {
    packages: BTreeMap<&'a PackageId, &'a Package>,
    needs: BTreeMap<&'a PackageId, BTreeSet<&'a PackageId>>,
}

impl<'a> Linked<'a> {
    fn of(metadata: &'a Metadata) -> anyhow::Result<Self> {
        let by_id: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package)).collect();
        let nodes = &metadata.resolve.as_ref().context("cargo metadata resolves")?.nodes;
        let nodes: BTreeMap<_, _> = nodes.iter().map(|node| (&node.id, node)).collect();
        let operator = metadata.packages.iter().find(|package| package.name.as_str() == OPERATOR);
        let mut ahead = vec![&operator.context("the operator is a package")?.id];
        let mut linked = Self { packages: BTreeMap::new(), needs: BTreeMap::new() };
        while let Some(id) = ahead.pop() {
            if linked.packages.insert(id, by_id[id]).is_some() {
                continue;
            }
            let needs = nodes[id].deps.iter().filter(|dependency| {
                let linked = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
                linked && !is_macro(by_id[&dependency.pkg])
            });
            let needs: BTreeSet<_> = needs.map(|dependency| &dependency.pkg).collect();
            ahead.extend(&needs);
            linked.needs.insert(id, needs);
        }
        Ok(linked)
    }
}

fn is_macro(package: &Package) -> bool {
    package.targets.iter().any(cargo_metadata::Target::is_proc_macro)
}

fn component(package: &Package) -> Value {
    let licence = package.license.as_deref().unwrap_or("NOASSERTION");
    library(&package.name, &package.version.to_string(), licence, "cargo")
}

fn library(name: &str, version: &str, licence: &str, kind: &str) -> Value {
    let purl = format!("pkg:{kind}/{name}@{version}");
    json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        // Some of Cargo's older licence fields have a slash for "or".
        "licenses": [{"expression": licence.replace('/', " OR ")}],
    })
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn rust_version() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = said(Command::new(rustc).arg("--version"), "")?;
    said.split_whitespace().nth(1).map(str::to_owned).context("rustc says its version")
}

/// Of the C library that the compiler links.
fn glibc_version(platform: Platform) -> anyhow::Result<String> {
    let mut compiler = Command::new(platform.compiler());
    let said = said(
        compiler.args(["-E", "-P", "-x", "c", "-"]),
        "#include <features.h>\n__GLIBC__ __GLIBC_MINOR__\n",
    )?;
    let numbers: Vec<_> = said.split_whitespace().rev().take(2).collect();
    let [minor, major] = numbers[..] else { anyhow::bail!("the compiler says no version of glibc: {said}") };
    ensure!(major.parse::<u8>().is_ok(), "the C library is not glibc: {said}");
    Ok(format!("{major}.{minor}"))
}

fn said(command: &mut Command, to: &str) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    child.stdin.take().context("standard input")?.write_all(to.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{shown}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
