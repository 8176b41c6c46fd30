//! Every command and every manifest of README.md and `docs/`, run as it stands there.
//!
//! Each document is typed from top to bottom. Those about clusters share the plane; those about an installation have one of
//! their own, which is installed and removed by what they say.
//!
//! **Architecture invariant**: nothing of a document is repeated here but what is run elsewhere. A fence that nothing runs is an
//! error, and so is an entry that no document needs.

mod blocks;
mod complete;
mod installation;
mod links;
mod manifests;
mod newcomer;
mod place;
mod shown;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, stream};
use testbed::parts::operator_binary;
use testbed::plane::Plane;

use blocks::Block;
use place::Place;

pub use complete::nothing_is_left_out;
pub use installation::documents as of_an_installation;
pub use newcomer::path as newcomers_path;

/// A document on the shared plane.
struct Document {
    path: &'static str,
    /// The namespace that it takes for granted; empty where it makes one by itself.
    namespace: &'static str,
    /// What it takes for granted there.
    objects: &'static str,
}

const fn document(path: &'static str, namespace: &'static str, objects: &'static str) -> Document {
    Document { path, namespace, objects }
}

/// Documents about clusters, on the shared plane; the longest first.
const SHARED: [Document; 6] = [
    document("docs/migration.md", "migration", ""),
    document("docs/quick-start.md", "", ""),
    document("docs/git-and-helm.md", "git-and-helm", ""),
    document("docs/tuning.md", "tuning", ""),
    document("docs/explain-scaling.md", "team-a", include_str!("fixtures/team-a.yaml")),
    document("docs/scaler.md", "documented-scaler", ""),
];

/// All documents about clusters, a few at the same time.
pub async fn about_clusters(plane: &Plane) -> anyhow::Result<()> {
    let operator = &tokio::task::spawn_blocking(operator_binary).await??;
    let ended = stream::iter(&SHARED).map(|document| async move {
        let begun = Instant::now();
        let ended = on_shared_plane(plane, operator, document).await;
        eprintln!("docs: {}: {:.0} s", document.path, begun.elapsed().as_secs_f32());
        ended.err().map(|error| format!("{error:#}"))
    });
    let failed: Vec<_> = ended.buffer_unordered(3).filter_map(futures::future::ready).collect().await;
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

async fn on_shared_plane(plane: &Plane, operator: &Path, document: &Document) -> anyhow::Result<()> {
    let Document { path, namespace, objects } = document;
    let mut here = Place::new(plane, operator, &[])?;
    if !namespace.is_empty() {
        here.run(&format!("kubectl create namespace {namespace}")).await?.ok()?;
        here.run(&format!("kubectl config set-context --current --namespace={namespace}")).await?.ok()?;
    }
    if !objects.is_empty() {
        here.give("kubectl apply", objects).await?;
    }
    typed(&mut here, path).await?;
    if !namespace.is_empty() {
        here.run(&format!("kubectl delete namespace {namespace} --timeout=60s")).await?.ok()?;
    }
    Ok(())
}

/// Types a document from top to bottom.
async fn typed(place: &mut Place<'_>, document: &str) -> anyhow::Result<()> {
    for block in blocks::of(document)? {
        let done = match block.language().0 {
            "console" => types(place, &block).await,
            "yaml" => manifests::judge(place, &block).await,
            _ => Ok(()),
        };
        done.with_context(|| block.place())?;
    }
    Ok(())
}

async fn types(place: &mut Place<'_>, block: &Block) -> anyhow::Result<()> {
    for command in block.commands()? {
        if complete::elsewhere(&block.document, &command).is_none() {
            place.types(&command).await?;
        }
    }
    Ok(())
}

/// The documents that are run here.
fn run() -> BTreeSet<&'static str> {
    let shared = SHARED.iter().map(|document| document.path);
    shared.chain(installation::DOCUMENTS.map(|(path, _)| path)).collect()
}
