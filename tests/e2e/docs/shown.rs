//! Whether a command shows what its document says.
//!
//! Every line of the document must be among those of the command, in this order; lines may be missing from the document. What
//! differs from run to run (times, ages, addresses, drawn names) is left out of the comparison, and so is what stands behind `…`.

use std::sync::LazyLock;

use anyhow::ensure;
use regex::Regex;

/// What differs from run to run, and what is put in its place.
static VARYING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"\b\d{1,3}(\.\d{1,3}){3}\b", "<address>"),
        // Behind a pod's name in the Lease, and of a Deployment's pods.
        (r"_[0-9a-f]{16}\b", "/<drawn>"),
        (r"-[a-z0-9]{6,10}-[a-z0-9]{5}\b", "-<drawn>"),
        (r"\b(\d+(\.\d+)?(ms|s|m|h|d))+\b", "<age>"),
        (r"\s+", " "),
    ]
    // They are literals, and each document uses them.
    .map(|(pattern, instead)| (Regex::new(pattern).expect("a pattern"), instead))
    .into()
});

/// The error names the first line that is missing.
pub fn shows(shown: &[String], told: &str) -> anyhow::Result<()> {
    let mut lines = told.lines().map(constant);
    for line in shown.iter().map(|line| constant(line)).filter(|line| line != "…") {
        let found = match line.split_once('…') {
            Some((before, _)) => lines.any(|told| told.starts_with(before)),
            None => lines.any(|told| told == line),
        };
        ensure!(found, "the document shows\n  {line}\nand the command has shown\n{told}");
    }
    Ok(())
}

fn constant(line: &str) -> String {
    let constant = VARYING
        .iter()
        .fold(line.to_owned(), |line, (pattern, instead)| pattern.replace_all(&line, *instead).into_owned());
    constant.trim().to_owned()
}

/// What counts as the same, where documents cannot show it.
pub fn compares() -> anyhow::Result<()> {
    let shows = |shown: &str, told: &str| shows(&shown.lines().map(str::to_owned).collect::<Vec<_>>(), told);
    shows(
        "NAME  AGE\na-59dc46fc9-zf8gg_0bfa05498baf8359   4m",
        "NAME   AGE\na-7d9c46fcb-aaaaa_1bfa05498baf8359 1h2m",
    )?;
    shows("b\n…\nd at 10.0.0.1", "a\nb\nc\nd at 10.96.0.7\ne")?;
    shows("{\"id\":…", "{\"id\":\"x\"}")?;
    for (shown, told) in [("a\nb", "b\na"), ("3 of 3", "2 of 3"), ("a", "a b"), ("{\"id\":…", "{\"x\"}")] {
        ensure!(shows(shown, told).is_err(), "{told:?} passes for {shown:?}");
    }
    Ok(())
}
