//! The operator's program, built by the cargo that runs us.
//!
//! **Architecture invariant**: the only place that runs `cargo`.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::PartsError;

/// Cargo's profile of the operator: what is measured is what a release ships.
pub const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "dist" };

/// Builds the operator, or takes the one that `VLLM_OPERATOR_BIN` names.
pub fn operator_binary() -> Result<PathBuf, PartsError> {
    if let Some(path) = std::env::var_os("VLLM_OPERATOR_BIN") {
        let path = PathBuf::from(path);
        return path.canonicalize().map_err(|source| PartsError::Io {
            what: "VLLM_OPERATOR_BIN names",
            path,
            source,
        });
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let io = |source| PartsError::Io { what: "running cargo in", path: workspace.clone(), source };
    // Chosen from the whole workspace, as the tests were built: features of shared dependencies stay the same, and
    // nothing is compiled a second time. The program alone: building `testbed` would replace the one that runs.
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--bin=vllm-operator", "--profile", PROFILE]);
    command.arg("--message-format=json-render-diagnostics");
    // Build scripts that watch these would run again, and all that depends on them be compiled again, for no other
    // reason than that cargo told us who we are.
    for (name, _) in std::env::vars_os() {
        let of_the_caller = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if of_the_caller.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let mut child =
        command.current_dir(&workspace).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(io)?;
    let lines =
        child.stdout.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
    let program = lines.filter_map(|line| executable(&line)).last();
    let status = child.wait().map_err(io)?;
    if !status.success() {
        return Err(PartsError::Operator { status: status.to_string() });
    }
    program.ok_or(PartsError::NoOperator)
}

/// The operator's program, if this message of cargo's names it.
fn executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let operator = message["reason"] == "compiler-artifact" && message["target"]["name"] == "vllm-operator";
    operator.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_operators_artifact_is_taken() {
        for (message, expected) in [
            (
                r#"{"reason":"compiler-artifact","target":{"name":"vllm-operator"},"executable":"/x"}"#,
                Some("/x"),
            ),
            (r#"{"reason":"compiler-artifact","target":{"name":"vllm-operator"},"executable":null}"#, None),
            (r#"{"reason":"compiler-artifact","target":{"name":"testbed"},"executable":"/y"}"#, None),
            (r#"{"reason":"build-finished","success":true}"#, None),
            ("not JSON", None),
        ] {
            assert_eq!(executable(message), expected.map(PathBuf::from), "{message}");
        }
    }
}
