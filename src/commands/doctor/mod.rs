//! `vllm-operator doctor`: what is wrong with an installation, and the way out of each.
//!
//! Read [`finding`] first: what is looked at and told. [`read`] asks the [`cluster`] and makes [`seen`]; [`definition`],
//! [`operator`], [`webhooks`], [`authority`], [`rights`], [`keda`] and [`scaling`] judge that, each its part.
//!
//! Architecture invariant: nothing is stored in the cluster, and a check looks at nothing but what was seen.

mod authority;
mod cluster;
mod definition;
pub mod finding;
mod keda;
mod operator;
mod read;
mod rights;
mod scaling;
mod seen;
mod webhooks;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::args::{DoctorArgs, Output};

use super::connect::{Again, connect};
use finding::{Diagnosis, Severity};
use seen::Seen;

/// Something is broken.
const BROKEN: u8 = 1;
/// Nothing could be looked at.
const UNREADABLE: u8 = 2;

/// Looks at an installation and tells what is wrong with it. Exit code 0 where nothing is broken, 1 where something is, 2 where the
/// cluster cannot be asked.
pub async fn run(args: DoctorArgs) -> ExitCode {
    match Box::pin(diagnosed(&args)).await {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            UNREADABLE.into()
        }
    }
}

async fn diagnosed(args: &DoctorArgs) -> anyhow::Result<u8> {
    // What answers with an error is asked once: the error is what is looked for.
    let (client, _) = connect(&args.connection, Again::Never).await?;
    client.apiserver_version().await.context("the API server of the kubeconfig does not answer")?;
    let seen = Box::pin(read::read(&client, args.operator_namespace.as_deref())).await;
    let diagnosis = diagnosis(seen);
    let text = match args.output {
        Output::Text => diagnosis.text(),
        Output::Json => serde_json::to_string_pretty(&diagnosis)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write what was found")?;
    Ok(if diagnosis.count(Severity::Broken) > 0 { BROKEN } else { 0 })
}

fn diagnosis(seen: Seen) -> Diagnosis {
    let parts = [
        definition::check,
        operator::check,
        webhooks::check,
        authority::check,
        rights::check,
        keda::check,
        scaling::check,
    ];
    let mut findings: Vec<_> = parts.iter().flat_map(|check| check(&seen)).collect();
    findings.sort_by_key(|finding| finding.severity);
    let Seen { namespace, unseen, .. } = seen;
    Diagnosis { namespace, findings, unseen }
}
