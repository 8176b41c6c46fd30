//! No fence is left out: each is run where its document is, or where a table says.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::blocks::{self, Block, Command, ROOT};
use super::{links, run, shown};

/// Where commands are run that are not run where their document is.
#[derive(Clone, Copy, Debug)]
pub enum Elsewhere {
    /// Another document has the same command, and is run from top to bottom.
    Document(&'static str),
    /// Nowhere, for this reason.
    Nowhere(&'static str),
    /// A file of the tree runs it, and all tests with it.
    File(&'static str),
    /// A scenario does the same, which has to be set up in another way than a document has: its file, and words in there.
    Scenario(&'static str, &'static str),
}

const DOCTOR: &str = "tests/e2e/doctor/mod.rs";
const NO_REGISTRY: &str =
    "the base would be pulled; tests/e2e/image.rs assembles all that needs no base by the same Containerfile";

/// What is run elsewhere: the document, the command, and where.
const ELSEWHERE: [(&str, &str, Elsewhere); 18] = [
    ("README.md", "cargo demo ", Elsewhere::Scenario("tests/e2e/docs/newcomer.rs", "first_command")),
    ("README.md", "cargo test --workspace ", Elsewhere::File(".ci/run")),
    ("README.md", "helm install ", Elsewhere::Document("docs/install.md")),
    ("docs/quick-start.md", "helm install ", Elsewhere::Document("docs/install.md")),
    (
        "docs/runbooks.md",
        "kubectl -n vllm-operator-system logs ",
        Elsewhere::Nowhere("the testbed's node gives no logs to an API server"),
    ),
    ("README.md", "vllm-operator doctor ", Elsewhere::Scenario(DOCTOR, "arg(\"doctor\")")),
    ("docs/doctor.md", "vllm-operator doctor ", Elsewhere::Scenario(DOCTOR, "arg(\"doctor\")")),
    ("docs/doctor.md", "ln -s ", Elsewhere::Scenario(DOCTOR, "symlink(program, ")),
    ("docs/doctor.md", "kubectl vllm status ", Elsewhere::Scenario(DOCTOR, "vllm status")),
    ("docs/doctor.md", "kubectl vllm doctor ", Elsewhere::Scenario(DOCTOR, "vllm doctor")),
    ("docs/doctor.md", "kubectl vllm explain-scaling ", Elsewhere::Scenario(DOCTOR, "vllm explain-scaling")),
    ("docs/image.md", "docker buildx create ", Elsewhere::Nowhere(NO_REGISTRY)),
    ("docs/image.md", "docker buildx build ", Elsewhere::Nowhere(NO_REGISTRY)),
    ("docs/image.md", "skopeo copy ", Elsewhere::Nowhere(NO_REGISTRY)),
    (
        "docs/image.md",
        "cargo testbed image ",
        Elsewhere::Scenario("tests/e2e/image.rs", "assembly::assemble"),
    ),
    (
        "docs/performance.md",
        "cargo bench-admission ",
        Elsewhere::Scenario("tests/e2e/bench_admission.rs", "measure(Path::new(TESTBED)"),
    ),
    (
        "docs/performance.md",
        "cargo bench-control ",
        Elsewhere::Scenario("tests/e2e/bench_control.rs", "many::once(&bench"),
    ),
    (
        "docs/install.md",
        "helm upgrade vllm-operator deploy/chart --namespace vllm-operator-system --reset-then-reuse-values \\\n",
        Elsewhere::Scenario("tests/e2e/chart/generated.rs", "monitoring.labels.release"),
    ),
];

/// Where a command of a document is run, if not in its place.
pub fn elsewhere(document: &str, command: &Command) -> Option<Elsewhere> {
    entry(document, command).map(|at| ELSEWHERE[at].2)
}

fn entry(document: &str, command: &Command) -> Option<usize> {
    let line = format!("{} ", command.line);
    ELSEWHERE.iter().position(|(of, begins, _)| *of == document && line.starts_with(begins))
}

/// Each fence has a language that says what becomes of it, its document is run, and no entry of a table is left over.
pub fn nothing_is_left_out() -> anyhow::Result<()> {
    blocks::parses()?;
    shown::compares()?;
    links::all_lead_somewhere()?;
    let run = run();
    let documents = blocks::documents()?;
    let mut needed = BTreeSet::new();
    for document in &documents {
        let mut below = Vec::new();
        for block in blocks::of(document)?.iter().rev() {
            tried(block, &below, &run).with_context(|| block.place())?;
            if block.language().0 == "console" {
                below.extend(block.commands()?);
            }
        }
        needed.extend(below.iter().filter_map(|command| entry(document, command)));
    }
    let unneeded: Vec<_> = (0..ELSEWHERE.len()).filter(|at| !needed.contains(at)).collect();
    ensure!(unneeded.is_empty(), "no document needs the entries {unneeded:?} of the table");
    let gone: Vec<_> =
        run.iter().filter(|path| !documents.iter().any(|document| document == *path)).collect();
    ensure!(gone.is_empty(), "there are no {gone:?}");
    Ok(())
}

/// A block that something tries; `below` are the commands that follow in its document.
fn tried(block: &Block, below: &[Command], run: &BTreeSet<&str>) -> anyhow::Result<()> {
    let is_run = || {
        let document = block.document.as_str();
        ensure!(run.contains(document), "{document} is not run: give it a place in tests/e2e/docs");
        anyhow::Ok(())
    };
    match block.language() {
        ("console", _) => {
            for command in block.commands()? {
                match elsewhere(&block.document, &command) {
                    Some(place) => there(place, &command)?,
                    None => is_run()?,
                }
            }
            Ok(())
        }
        ("yaml", how) => {
            if let Some(name) = how.strip_prefix("file=") {
                ensure!(
                    below.iter().any(|command| command.line.contains(name)),
                    "no command below uses {name}"
                );
            }
            is_run()
        }
        // What is shown of a run that has a test of its own.
        ("text", _) => Ok(()),
        (other, _) => anyhow::bail!("nothing says how `{other}` is tried; use console, yaml or text"),
    }
}

/// A command is run where it is said to be.
fn there(place: Elsewhere, command: &Command) -> anyhow::Result<()> {
    // Without the comment behind it.
    let line = command.line.split("  #").next().unwrap_or_default().trim();
    match place {
        Elsewhere::Nowhere(reason) => ensure!(!reason.is_empty(), "nothing says why"),
        Elsewhere::File(path) => {
            let text =
                std::fs::read_to_string(Path::new(ROOT).join(path)).with_context(|| path.to_owned())?;
            ensure!(text.lines().any(|run| run == line), "{path} does not run `{line}`");
        }
        Elsewhere::Scenario(path, words) => {
            let text =
                std::fs::read_to_string(Path::new(ROOT).join(path)).with_context(|| path.to_owned())?;
            ensure!(text.contains(words), "{path} has no `{words}`");
        }
        Elsewhere::Document(path) => {
            let mut commands = Vec::new();
            for block in blocks::of(path)?.iter().filter(|block| block.language().0 == "console") {
                commands.extend(block.commands()?);
            }
            let same = |other: &Command| other.line == command.line && elsewhere(path, other).is_none();
            ensure!(run().contains(path) && commands.iter().any(same), "{path} does not run `{line}`");
        }
    }
    Ok(())
}
