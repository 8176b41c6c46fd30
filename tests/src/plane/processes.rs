//! The processes of a plane, seen from outside of it.
//!
//! **Architecture invariant**: found by their PID namespace, so that those of another plane are never touched.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::owner::Plane;

/// A process that runs on a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(Pid);

/// What a process takes.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory now, in KiB.
    pub resident: u64,
    /// Resident memory at most so far, in KiB.
    pub peak: u64,
    /// Time on a processor so far.
    pub processor: Duration,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resident, peak, processor } = self;
        let seconds = processor.as_secs_f64();
        write!(f, "{} MiB, at most {} MiB; {seconds:.1} s of processor time", resident / 1024, peak / 1024)
    }
}

impl Plane {
    /// The processes of programs of this name.
    pub fn processes(&self, program: &str) -> anyhow::Result<Vec<Process>> {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
        let of_plane = namespace(&self.pid().to_string()).context("the plane's first process")?;
        let pids = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let named = pids
            .filter(|pid| namespace(pid).is_ok_and(|found| found == of_plane))
            .filter_map(|pid| Some(Process(Pid::from_raw(pid.parse().ok()?)?)))
            .filter(|process| {
                process.read("status").is_ok_and(|status| field(&status, "Name:") == Some(program))
            });
        Ok(named.collect())
    }
}

impl Process {
    /// A file of `/proc` about it.
    pub fn read(self, file: &str) -> std::io::Result<String> {
        let path = Path::new("/proc").join(self.0.as_raw_nonzero().to_string()).join(file);
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What it takes.
    pub fn usage(self) -> anyhow::Result<Usage> {
        let status = self.read("status")?;
        let kib = |name: &str| {
            field(&status, name)
                .and_then(|text| text.parse().ok())
                .with_context(|| format!("no {name} in {status}"))
        };
        let ticks = ticks(&self.read("stat")?).context("a process without times")?;
        let processor = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
        Ok(Usage { resident: kib("VmRSS:")?, peak: kib("VmHWM:")?, processor })
    }

    /// How many files it has open, sockets among them.
    pub fn files(self) -> std::io::Result<usize> {
        let path = Path::new("/proc").join(self.0.as_raw_nonzero().to_string()).join("fd");
        Ok(std::fs::read_dir(path)?.count())
    }

    /// Sends it a signal.
    pub fn signal(self, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.0, signal).with_context(|| format!("signalling process {:?}", self.0))
    }

    /// A variable of the environment that it was started with.
    pub fn variable(self, name: &str) -> Option<String> {
        let environment = self.read("environ").ok()?;
        let mut variables = environment.split('\0').filter_map(|variable| variable.split_once('='));
        variables.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
    }
}

/// The first word after the name of a field of `/proc/<pid>/status`.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
}

/// Time on a processor, in the kernel and outside of it, as `/proc/<pid>/stat` has it.
fn ticks(stat: &str) -> Option<u64> {
    // The name may hold anything: fields count from behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_behind_the_name() {
        assert_eq!(ticks("7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 30 12 0 0 20 0 1"), Some(42));
    }

    #[test]
    fn fields_are_read_from_a_status() {
        let status = "Name:\tvllm-operator\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(field(status, "Name:"), Some("vllm-operator"));
        assert_eq!(field(status, "VmRSS:"), Some("10240"));
        assert_eq!(field(status, "VmSwap:"), None);
    }
}
