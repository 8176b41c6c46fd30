//! Planes that were let go: known by the process id in their state directory only.
//!
//! **Architecture invariant**: no process is ended that has not been seen to be the plane's.

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::owner::{STOP_DEADLINE, drop_data};
use super::spec::State;

/// Ends the detached plane in `state` by its PID 1, and waits until it is gone.
pub fn stop_detached(state: &State) -> anyhow::Result<()> {
    let path = state.pid();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no plane runs in {}", state.path().display()))?;
    let pid: i32 = text.trim().parse().with_context(|| format!("{}", path.display()))?;
    // A descriptor, since the id may go to another process at any time.
    let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(process) = process.filter(|_| is_init(pid, state)) {
        pidfd_send_signal(&process, Signal::KILL)?;
        // PID 1 counts as ended once the kernel has ended all others of its namespace.
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        let deadline = Timespec::try_from(STOP_DEADLINE)?;
        anyhow::ensure!(poll(&mut ended, Some(&deadline))? == 1, "the plane's process {pid} does not end");
    }
    std::fs::remove_file(&path)?;
    drop_data(state);
    Ok(())
}

/// Whether `pid` is the first process of the plane in `state`.
pub fn is_init(pid: i32, state: &State) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<_> = line.split(|&byte| byte == 0).collect();
    words.get(1) == Some(&b"plane-init".as_slice())
        && words.get(2) == Some(&state.spec().into_os_string().into_encoded_bytes().as_slice())
}

/// PID 1 of the plane in `state`, if it runs.
pub fn running(state: &State) -> Option<i32> {
    let pid = std::fs::read_to_string(state.pid()).ok()?.trim().parse().ok()?;
    is_init(pid, state).then_some(pid)
}
