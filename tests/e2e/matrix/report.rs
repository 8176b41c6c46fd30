//! The table of all cells, and what is wrong with them.
//!
//! **Architecture invariant**: every wrong cell is named, not the first alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use testbed::plane::Plane;
use testbed::plane::owner::target_dir;

use super::Found;
use super::axes::{Decider, Kind, Verb, Webhook};
use super::cells::{Cell, LeftOut};
use super::judge::{Ours, audit, decider, wrong};
use super::kubectl::Refusal;
use super::lint::{Compared, Creation};
use super::stage::{Stage, audit_id};

/// See the module.
pub struct Report {
    started: Instant,
    folder: PathBuf,
    table: Vec<String>,
    counts: BTreeMap<(Kind, Decider, bool), usize>,
    wrong: Vec<String>,
    total: usize,
    again: usize,
}

impl Report {
    /// Counts what was generated.
    pub fn new(cells: &[Cell<'_>], left_out: &LeftOut) -> anyhow::Result<Self> {
        for kind in Kind::ALL {
            ensure!(cells.iter().any(|cell| cell.case.kind == kind), "no cell of {kind:?}");
        }
        for verb in Verb::ALL {
            ensure!(cells.iter().any(|cell| cell.verb == verb), "no cell by {verb:?}");
        }
        for webhook in Webhook::ALL {
            for dry in [true, false] {
                for refused in [true, false] {
                    let some = cells
                        .iter()
                        .any(|cell| (cell.webhook, cell.dry, cell.expect.refused) == (webhook, dry, refused));
                    ensure!(some, "no cell with webhook {webhook:?}, dry {dry}, refused {refused}");
                }
            }
        }
        for (reason, count) in left_out {
            println!("matrix: left out {count}: {reason}");
        }
        let folder = target_dir().join("matrix");
        std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        Ok(Self {
            started: Instant::now(),
            folder,
            table: Vec::new(),
            counts: BTreeMap::new(),
            wrong: Vec::new(),
            total: 0,
            again: 0,
        })
    }

    /// Says how far it is.
    pub fn step(&self, what: &str) {
        println!("matrix: {:5.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// Takes in what kubectl refused.
    pub fn kubectl(&mut self, refusals: Vec<Refusal>) {
        for refusal in refusals {
            self.row(&refusal.id, refusal.kind, true, refusal.decider, &refusal.says, &refusal.wrong);
        }
    }

    /// Holds all that was seen against what must be. The creations are for lint.
    pub fn judge(
        &mut self,
        plane: &Plane,
        cells: &[Cell<'_>],
        stages: &[Stage<'_>],
        seen: Found,
        ours: &Ours,
    ) -> anyhow::Result<Vec<Creation>> {
        let mut creations = Vec::new();
        let log = audit(&plane.audit_log())?;
        let mut found: BTreeMap<_, _> = seen.into_iter().collect();
        for stage in stages {
            for &index in &stage.cells {
                let cell = &cells[index];
                match found.remove(&index) {
                    None => self.wrong.push(format!("{}: it was not written", cell.id())),
                    Some(Err(why)) => self.wrong.push(format!("{}: {why}", cell.id())),
                    Some(Ok(seen)) => {
                        let audit = log.get(&audit_id(index));
                        let audit = audit.with_context(|| format!("{}: not in the audit log", cell.id()))?;
                        let by = decider(cell.case.kind, &seen, audit, ours);
                        self.again += seen.answer.again;
                        let wrong = wrong(cell, stage, &seen, by);
                        creations.extend(Creation::of(cell, stage, &seen, by));
                        let mut says = seen.answer.message().to_owned();
                        for warning in &seen.answer.warnings {
                            let _ = write!(says, " (warning: {warning})");
                        }
                        self.row(&cell.id(), cell.case.kind, !seen.answer.ok(), by, &says, &wrong);
                    }
                }
            }
        }
        Ok(creations)
    }

    /// Takes in what lint finds in the creations.
    pub fn lint(&mut self, compared: Vec<Compared>) {
        let (mut alike, mut left_out) = (0, 0);
        for Compared { id, wrong, found } in compared {
            match wrong {
                None => left_out += 1,
                Some(wrong) if wrong.is_empty() => alike += 1,
                Some(wrong) => self.wrong.push(format!(
                    "{id}: {}\n    lint: {}",
                    wrong.join("\n    "),
                    found.join("\n    lint: ")
                )),
            }
        }
        println!("matrix: lint finds the same in {alike} creations; {left_out} are KEDA's alone to refuse");
    }

    fn row(&mut self, id: &str, kind: Kind, refused: bool, by: Decider, says: &str, wrong: &[String]) {
        let verdict = if refused { "refused" } else { "passed" };
        self.table.push(format!("{id}\t{verdict}\t{by:?}\t{}", says.replace(['\n', '\t'], " ")));
        *self.counts.entry((kind, by, refused)).or_default() += 1;
        self.total += 1;
        if !wrong.is_empty() {
            self.wrong.push(format!("{id}: {}\n    seen: {verdict} by {by:?}: {says}", wrong.join("\n    ")));
        }
    }

    /// Writes the table and says the sum; an error if a cell is wrong.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.table.sort();
        let path = self.folder.join("cells.tsv");
        std::fs::write(&path, self.table.join("\n") + "\n")?;
        for kind in Kind::ALL {
            let counts = self.counts.iter().filter(|((of, _, _), _)| *of == kind);
            let counts: Vec<_> = counts
                .map(|((_, by, refused), count)| {
                    format!("{by:?} {} {count}", if *refused { "refused" } else { "passed" })
                })
                .collect();
            println!("matrix: {}: {}", kind.label(), counts.join(", "));
        }
        println!("matrix: {} answers were to try again", self.again);
        println!(
            "matrix: {} cells in {:.1} s: {}",
            self.total,
            self.started.elapsed().as_secs_f64(),
            path.display()
        );
        ensure!(self.wrong.is_empty(), "{} wrong cells:\n{}", self.wrong.len(), self.wrong.join("\n"));
        Ok(())
    }
}
