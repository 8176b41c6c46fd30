//! `vllm-operator crd`: prints the CustomResourceDefinition.

use std::io::Write as _;

use crate::api::crd::yaml;

/// Prints the definition to standard output.
pub fn print() -> anyhow::Result<()> {
    std::io::stdout().write_all(yaml().as_bytes())?;
    Ok(())
}
