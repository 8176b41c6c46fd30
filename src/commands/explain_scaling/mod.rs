//! `vllm-operator explain-scaling`: why a cluster has the count that it has, and what would change it.
//!
//! Read [`chain`] first: what is told. [`read`] looks at the cluster and makes [`seen`]; [`explain`] makes the chain of it,
//! with [`hpa`] and its [`arithmetic`]; [`verdict`] and, where it is a matter of numbers, [`numbers`] find the sentences with
//! the [`words`] for them, and [`render`] makes the page.
//!
//! Architecture invariant: nothing is written to the cluster, and no sentence rests on anything that the chain does not show.

mod arithmetic;
pub mod chain;
mod explain;
mod hpa;
mod numbers;
mod read;
mod render;
mod seen;
mod verdict;
mod words;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::args::{ExplainArgs, Output};

use super::connect::{Again, connect};

/// There is no explanation.
const UNREADABLE: u8 = 2;

/// Explains the cluster of `args`. Exit code 0, or 2 where it cannot be read.
pub async fn run(args: ExplainArgs) -> ExitCode {
    match explained(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            UNREADABLE.into()
        }
    }
}

async fn explained(args: &ExplainArgs) -> anyhow::Result<()> {
    let (namespace, name) = place(&args.name, args.namespace.as_deref())?;
    let (client, default_namespace) = connect(&args.connection, Again::Soon).await?;
    let seen = read::read(&client, namespace.unwrap_or(&default_namespace), name).await?;
    let explanation = explain::explain(&seen);
    let text = match args.output {
        Output::Text => render::page(&explanation),
        Output::Json => serde_json::to_string_pretty(&explanation)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the explanation")
}

/// Namespace, where one is stated, and name.
fn place<'a>(name: &'a str, namespace: Option<&'a str>) -> anyhow::Result<(Option<&'a str>, &'a str)> {
    let (namespace, name) = match (name.split_once('/'), namespace) {
        (None, namespace) => (namespace, name),
        (Some((stated, name)), None) => (Some(stated), name),
        (Some((stated, name)), Some(namespace)) if stated == namespace => (Some(stated), name),
        (Some((stated, _)), Some(namespace)) => {
            bail!("{stated:?} and --namespace {namespace:?} are two namespaces: leave one of them out")
        }
    };
    if name.is_empty() || name.contains('/') || namespace.is_some_and(str::is_empty) {
        bail!("{name:?} is no name of a VLLMCluster: give NAMESPACE/NAME, as in team-a/my-vllm-cluster");
    }
    Ok((namespace, name))
}

#[cfg(test)]
mod tests;
