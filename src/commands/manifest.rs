//! `vllm-operator manifest`: prints everything that an installation applies.

use std::io::Write as _;

use crate::api::crd::yaml;

/// The operator's own objects, rendered from the chart by `cargo testbed render`; the definition is put before them.
pub const OPERATOR: &str = include_str!("../../deploy/operator.yaml");

/// The very bytes of `deploy/install.yaml`.
pub fn install() -> String {
    after_definition(OPERATOR)
}

/// `operator`, the operator's own objects, behind the definition.
pub fn after_definition(operator: &str) -> String {
    format!("{}---\n{operator}", yaml())
}

/// Prints the manifest to standard output.
pub fn print() -> anyhow::Result<()> {
    std::io::stdout().write_all(install().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installed_copy_is_what_the_command_prints() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/install.yaml");
        let installed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(installed == install(), "{path} is stale: run `cargo testbed render`");
    }

    #[test]
    fn charts_have_the_version_of_the_program() {
        let version = env!("CARGO_PKG_VERSION");
        let charts = [
            include_str!("../../deploy/chart/Chart.yaml"),
            include_str!("../../deploy/chart-crds/Chart.yaml"),
        ];
        for chart in charts {
            assert!(chart.contains(&format!("\nversion: {version}\nappVersion: {version}\n")), "{chart}");
        }
    }

    #[test]
    fn no_webhook_states_a_bundle() {
        assert!(!install().contains("caBundle:"), "applying it again would clear what the operator injected");
    }
}
