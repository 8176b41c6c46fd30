//! The rows that need no plane: simulations and scripted API servers, which are tests of the packages that they try.
//!
//! **Architecture invariant**: runs those tests as they are, and shows what they print of themselves.

use std::process::Command;

use anyhow::{Context as _, ensure};

/// What a test prints its row behind.
const ROW: &str = "row: ";

/// The tests, as arguments of `cargo test`.
const TESTS: &[&[&str]] = &[
    &["--package", "certs", "--test", "simulation"],
    &["--package", "vllm-operator", "--lib", "leader::simulation"],
    &["--package", "vllm-operator", "--lib", "controller::tests::faults"],
    &["--package", "vllm-operator", "--lib", "controller::tests::bad_days"],
    &["--package", "vllm-operator", "--lib", "controller::tests::interleaving"],
];

/// Runs them, and gives their rows.
pub fn rows() -> anyhow::Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut rows = Vec::new();
    for test in TESTS {
        let mut command = Command::new(&cargo);
        // Those that are left out of `cargo test` for their length are the ones that count here.
        command.arg("test").args(*test).args(["--", "--nocapture", "--include-ignored"]);
        let output = command.output().with_context(|| format!("running {command:?}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{command:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
        let of_test: Vec<_> =
            stdout.lines().filter_map(|line| Some(line.split_once(ROW)?.1.to_owned())).collect();
        ensure!(!of_test.is_empty(), "{command:?} has printed no row: {stdout}");
        rows.extend(of_test);
    }
    Ok(rows)
}
