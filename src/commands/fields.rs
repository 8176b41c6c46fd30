//! `vllm-operator fields`: prints every field of `VLLMCluster`.

use std::io::Write as _;

use crate::api::fields::page;

/// Prints the page to standard output.
pub fn print() -> anyhow::Result<()> {
    std::io::stdout().write_all(page().as_bytes())?;
    Ok(())
}
