//! `vllm-operator rules`: prints the rules of admission.

use std::io::Write as _;

use crate::policy::rule::page;

/// Prints the page to standard output.
pub fn print() -> anyhow::Result<()> {
    std::io::stdout().write_all(page().as_bytes())?;
    Ok(())
}
