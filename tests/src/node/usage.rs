//! What processes use, from `/proc`.
//!
//! **Architecture invariant**: reads and adds up; which processes are asked about, and what is remembered, is said elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;

use crate::plane::processes::field;

/// CPU time and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time so far.
    pub cpu: Duration,
    /// Bytes that cannot be taken back: without pages of files.
    pub memory: u64,
}

/// All processes at one time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(Vec<Process>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    id: i32,
    parent: i32,
    group: i32,
    /// Its own, and that of its children that have ended.
    ticks: u64,
}

impl Snapshot {
    /// Every process of this PID namespace.
    pub fn read() -> anyhow::Result<Self> {
        let entries = std::fs::read_dir("/proc").context("reading /proc")?;
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        // One that has ended meanwhile has no file.
        let processes = ids.filter_map(|id| parse(&read(id, "stat")?));
        Ok(Self(processes.collect()))
    }

    /// What the process `root` and all that it started use; nothing once it has ended.
    pub fn of(&self, root: i32) -> Option<Usage> {
        let members = self.members(root);
        let ticks: u64 = self.0.iter().filter(|one| members.contains(&one.id)).map(|one| one.ticks).sum();
        let memory = members.iter().filter_map(|id| resident(&read(*id, "status")?)).sum();
        members.contains(&root).then(|| Usage { cpu: of_ticks(ticks), memory })
    }

    /// `root`, what descends from it, and what has lost its parent and is of its group still.
    fn members(&self, root: i32) -> BTreeSet<i32> {
        let mut members: BTreeSet<_> =
            self.0.iter().filter(|one| one.id == root || one.group == root).map(|one| one.id).collect();
        loop {
            let before = members.len();
            let children = self.0.iter().filter(|one| members.contains(&one.parent)).map(|one| one.id);
            members.extend(children.collect::<Vec<_>>());
            if members.len() == before {
                return members;
            }
        }
    }
}

/// What the whole machine uses, which is the node.
pub fn of_machine() -> anyhow::Result<Usage> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
    machine(&read("/proc/stat")?, &read("/proc/meminfo")?)
        .context("/proc/stat or /proc/meminfo is of another form")
}

fn machine(stat: &str, meminfo: &str) -> Option<Usage> {
    let mut ticks = stat.lines().find_map(|line| line.strip_prefix("cpu "))?.split_whitespace();
    let mut next = || ticks.next()?.parse::<u64>().ok();
    let (user, nice, system) = (next()?, next()?, next()?);
    let bytes = |name: &str| Some(field(meminfo, name)?.parse::<u64>().ok()? * 1024);
    let memory = bytes("MemTotal:")?.saturating_sub(bytes("MemAvailable:")?);
    Some(Usage { cpu: of_ticks(user + nice + system), memory })
}

fn read(id: i32, file: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{id}/{file}")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `/proc/<id>/stat`. The name in it may hold blanks and brackets.
fn parse(stat: &str) -> Option<Process> {
    let (id, rest) = stat.split_once(" (")?;
    let fields: Vec<_> = rest.rsplit_once(") ")?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<i32>().ok();
    // User and system time, then both of children that were waited for.
    let ticks = (11..=14).map(|index| fields.get(index)?.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(Process { id: id.parse().ok()?, parent: number(1)?, group: number(2)?, ticks })
}

/// Memory that is backed by no file, from `/proc/<id>/status`.
fn resident(status: &str) -> Option<u64> {
    let bytes = |name: &str| Some(field(status, name)?.parse::<u64>().ok()? * 1024);
    Some(bytes("RssAnon:")? + bytes("RssShmem:")?)
}

fn of_ticks(ticks: u64) -> Duration {
    let second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_secs(ticks / second)
        + Duration::from_secs(1) * u32::try_from(ticks % second).unwrap_or(0)
            / u32::try_from(second).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: i32, parent: i32, group: i32) -> Process {
        Process { id, parent, group, ticks: 1 }
    }

    #[test]
    fn a_containers_processes_are_its_descendants_and_its_group() {
        let all = Snapshot(vec![
            process(9, 8, 9),
            // A session of its own, below a grandchild.
            process(12, 11, 12),
            process(11, 10, 9),
            process(10, 9, 9),
            // It has lost its parent.
            process(13, 1, 9),
            process(14, 13, 14),
            process(20, 8, 20),
        ]);
        assert_eq!(all.members(9), [9, 10, 11, 12, 13, 14].into());
        assert_eq!(all.members(21), [].into());
        assert_eq!(all.of(21), None);
    }

    #[test]
    fn a_name_with_brackets_hides_nothing() {
        let line = "42 (a) S 1 (x) b) R 7 6 5 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 500 1 1";
        assert_eq!(parse(line), Some(Process { id: 42, parent: 7, group: 6, ticks: 127 }));
        assert_eq!(parse("42 (a) R 7"), None);
    }

    #[test]
    fn files_count_neither_for_a_process_nor_for_the_machine() {
        let status = "VmRSS:\t 900 kB\nRssAnon:\t 100 kB\nRssFile:\t 790 kB\nRssShmem:\t 10 kB\n";
        assert_eq!(resident(status), Some(110 * 1024));
        let (stat, memory) =
            ("cpu  100 0 50 999 1 1\ncpu0 1 1 1\n", "MemTotal: 10 kB\nMemFree: 1 kB\nMemAvailable: 4 kB\n");
        let usage = machine(stat, memory).expect("both are whole");
        assert_eq!(usage, Usage { cpu: of_ticks(150), memory: 6 * 1024 });
    }

    #[test]
    fn this_process_uses_both() {
        let id = i32::try_from(std::process::id()).expect("an id");
        let began = std::time::Instant::now();
        let filled = vec![1_u8; 64 << 20];
        while Snapshot::read().expect("/proc").of(id).expect("it runs").cpu < Duration::from_millis(50) {
            assert!(began.elapsed() < Duration::from_mins(1), "no CPU time is seen");
        }
        assert!(filled.iter().all(|byte| *byte == 1));
        let usage = Snapshot::read().expect("/proc").of(id).expect("it runs");
        assert!(usage.memory > 64 << 20, "{usage:?}");
        drop(filled);
        assert!(of_machine().expect("/proc").cpu >= usage.cpu);
    }
}
