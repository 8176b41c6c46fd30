//! What the engines of a cluster did, read from their logs: the client's side is not the only witness.

use std::fs;

use anyhow::{Context as _, ensure};
use testbed::plane::Plane;

/// The runs of the engines of one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Engines {
    /// Processes that came to serve.
    pub served: usize,
    /// Those that ended by themselves after that, as they were told to; others were killed.
    pub ended: usize,
    /// Requests that they answered to the end, as far as they came to say so.
    pub finished: usize,
    /// Requests that they had accepted, and cut off when they ended.
    pub aborted: usize,
}

impl Engines {
    /// Those of all pods that a cluster has had so far.
    pub fn of(plane: &Plane, ns: &str, cluster: &str) -> anyhow::Result<Self> {
        let mut engines = Self::default();
        let folder = plane.logs_dir().join("pods");
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ordinal = name
                .strip_prefix(&format!("{ns}_{cluster}-"))
                .and_then(|rest| rest.strip_suffix("_vllm.log"));
            if ordinal.is_some_and(|ordinal| ordinal.parse::<u32>().is_ok()) {
                engines.read(&fs::read_to_string(&path)?)?;
            }
        }
        Ok(engines)
    }

    fn read(&mut self, log: &str) -> anyhow::Result<()> {
        for line in log.lines() {
            if line.starts_with("INFO: Started server process") {
                self.served += 1;
            } else if let Some(end) = line.strip_prefix("INFO: Shutting down, ") {
                let numbers: Vec<usize> =
                    end.split_whitespace().filter_map(|word| word.parse().ok()).collect();
                ensure!(numbers.len() == 2, "{line}");
                self.ended += 1;
                self.finished += numbers[0];
                self.aborted += numbers[1];
            }
        }
        Ok(())
    }

    /// Nothing that was accepted was cut off, and every process was let end.
    pub fn cut_nothing_off(&self) -> bool {
        self.aborted == 0 && self.ended == self.served
    }
}
