//! Links between documents: each leads to a file of the tree, and behind `#` to a heading in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context as _, ensure};
use regex::Regex;

use super::blocks::{ROOT, documents};

/// The page that lists all others.
const INDEX: &str = "docs/README.md";

static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern"));
static CODE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"`[^`\n]*`").expect("a pattern"));

/// The error names the document and the link.
pub fn all_lead_somewhere() -> anyhow::Result<()> {
    let mut listed = BTreeSet::new();
    let documents = documents()?;
    for document in &documents {
        let folder = Path::new(ROOT).join(document).parent().context("a folder")?.to_owned();
        let text = prose(&read(Path::new(ROOT).join(document))?);
        for link in LINK.captures_iter(&CODE.replace_all(&text, "")) {
            let link = &link[1];
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = if path.is_empty() { Path::new(ROOT).join(document) } else { folder.join(path) };
            ensure!(file.exists(), "{document}: {link} leads nowhere");
            let heading = anchor.is_empty() || prose(&read(file)?).lines().any(|line| slug(line) == anchor);
            ensure!(heading, "{document}: {link} names no heading");
            if document == INDEX {
                listed.insert(format!("docs/{path}"));
            }
        }
    }
    let unlisted: Vec<_> = documents
        .iter()
        .filter(|document| document.starts_with("docs/") && *document != INDEX)
        .filter(|document| !listed.contains(*document))
        .collect();
    ensure!(unlisted.is_empty(), "{INDEX} does not list {unlisted:?}");
    Ok(())
}

fn read(file: impl AsRef<Path>) -> anyhow::Result<String> {
    std::fs::read_to_string(file.as_ref()).with_context(|| file.as_ref().display().to_string())
}

/// A document without its fences.
fn prose(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// The anchor that a heading gets; nothing of a line that is none.
fn slug(line: &str) -> String {
    let Some((marks, heading)) = line.split_once(' ') else { return String::new() };
    if marks.is_empty() || marks.contains(|c| c != '#') {
        return String::new();
    }
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
