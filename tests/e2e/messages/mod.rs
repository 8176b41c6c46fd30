//! Every sentence that a user can meet, as the tools show it: snapshots of real runs, to be read by people.
//!
//! [`world`] is what the writes meet; [`counts`], [`workload`], [`scaled_objects`] and [`hpas`] are the writes, one or more
//! for each rule of the policy; [`shown`] is what conditions and events make of it, and what is said while the operator is
//! down. After a
//! change of a sentence: `INSTA_UPDATE=always cargo test -p testbed --test plane -- messages`, and read the difference.
//!
//! **Architecture invariant**: asserts no sentence by itself. That each rule speaks is asserted, by [`Transcript::covers`].

mod counts;
mod hpas;
mod scaled_objects;
mod shown;
mod workload;
mod world;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::ensure;
use testbed::messages::SILENT;
use testbed::plane::Plane;
use vllm_operator::policy::Rule;

use crate::suite::{forget, kubectl};

const NS: &str = "messages";
/// Where admission only warns.
const WARNED: &str = "messages-warned";

/// All of them. The snapshots are compared in the end, so that one difference hides no other.
pub async fn all(plane: &Plane) -> anyhow::Result<()> {
    world::made(plane).await?;
    let [mut scale, mut clusters, mut workload, mut scaled_objects, mut triggers, mut answered, mut hpas] =
        [(); 7].map(|()| Transcript::new(plane));
    tokio::try_join!(
        counts::scale(&mut scale),
        counts::clusters(&mut clusters),
        workload::all(&mut workload),
        scaled_objects::themselves(&mut scaled_objects),
        scaled_objects::triggers(&mut triggers),
        scaled_objects::answered(&mut answered),
        hpas::all(&mut hpas),
    )?;
    let (up, down) = (shown::while_up(plane).await?, shown::while_down(plane).await?);

    let transcripts = [scale, clusters, workload, scaled_objects, triggers, answered, hpas];
    let spoken: BTreeSet<_> =
        transcripts.iter().flat_map(|transcript| transcript.covers.iter().copied()).collect();
    let silent = |rule: &Rule| SILENT.iter().any(|(silent, _)| silent == rule);
    let missing: Vec<_> = Rule::ALL.iter().filter(|rule| !spoken.contains(rule) && !silent(rule)).collect();
    ensure!(missing.is_empty(), "no message shows {missing:?}");

    let [scale, clusters, workload, scaled_objects, triggers, answered, hpas] =
        transcripts.map(|transcript| transcript.text);
    let named = [
        ("scale", scale),
        ("vllmclusters", clusters),
        ("workload", workload),
        ("scaledobjects", scaled_objects),
        ("triggers", triggers),
        ("answered", answered),
        ("hpas", hpas),
        ("shown", up),
        ("down", down),
    ];
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/messages"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let differing = settings.bind(|| {
        let differs = |name: &str, text: &str| {
            std::panic::catch_unwind(|| insta::assert_snapshot!(name, text)).is_err().then(|| name.to_owned())
        };
        named.iter().filter_map(|(name, text)| differs(name, text)).collect::<Vec<_>>()
    });
    ensure!(differing.is_empty(), "other messages than in tests/e2e/messages: {}", differing.join(", "));
    tokio::try_join!(forget(plane, WARNED), forget(plane, NS)).map(drop)
}

/// What was typed, and what came back.
struct Transcript<'a> {
    plane: &'a Plane,
    text: String,
    covers: BTreeSet<Rule>,
}

impl<'a> Transcript<'a> {
    fn new(plane: &'a Plane) -> Self {
        Self { plane, text: String::new(), covers: BTreeSet::new() }
    }

    /// One command in a namespace, under the rules that it is to show; with its standard input comes what of it is
    /// worth reading.
    async fn run(
        &mut self,
        rules: &[Rule],
        (namespace, line): (&str, &str),
        input: Option<(&str, String)>,
    ) -> anyhow::Result<()> {
        let command = kubectl(self.plane, namespace, line);
        let (gist, command) = match input {
            Some((gist, manifest)) => (format!("   # {gist}"), command.stdin(manifest)),
            None => (String::new(), command),
        };
        let told = command.output().await?;
        self.covers.extend(rules);
        if !rules.is_empty() {
            let ids: Vec<_> = rules.iter().map(|rule| rule.as_str()).collect();
            writeln!(self.text, "## {}", ids.join(", "))?;
        }
        writeln!(self.text, "$ kubectl {line}{gist}")?;
        for stream in [&told.stderr, &told.stdout].into_iter().filter(|stream| !stream.is_empty()) {
            writeln!(self.text, "{}", stream.trim_end())?;
        }
        self.text.push('\n');
        Ok(())
    }
}
