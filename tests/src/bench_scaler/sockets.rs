//! The TCP connections of a process, as `/proc/<pid>/net/tcp` tells them: those of its network namespace, which is its pod's.
//!
//! **Architecture invariant**: what is read is given; only [`Open::of`] reads.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Context as _;

use crate::plane::Process;
use crate::pods::ENGINE_PORT;

/// The scaler's port.
const SCALER: u16 = 9444;
/// The kernel's numbers of states in which a connection is open, or is about to be.
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;

/// How much of an operator is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Connections to pods.
    pub to_pods: usize,
    /// Those to the one pod that has the most.
    pub to_one: usize,
    /// Connections on the scaler's port.
    pub from_keda: usize,
    /// Sockets and other files.
    pub files: usize,
}

impl Open {
    /// Of a process, now.
    pub fn of(process: Process) -> anyhow::Result<Self> {
        let mut open = Self::read(&process.read("net/tcp")?)?;
        open.files = process.files()?;
        Ok(open)
    }

    fn read(table: &str) -> anyhow::Result<Self> {
        let mut open = Self::default();
        let mut by_pod = HashMap::<_, usize>::new();
        for line in table.lines().skip(1) {
            let (local, remote, state) =
                connection(line).with_context(|| format!("a connection in {line:?}"))?;
            if remote.port() == ENGINE_PORT && matches!(state, ESTABLISHED | SYN_SENT) {
                open.to_pods += 1;
                *by_pod.entry(remote).or_default() += 1;
            }
            open.from_keda += usize::from(local.port() == SCALER && state == ESTABLISHED);
        }
        open.to_one = by_pod.into_values().max().unwrap_or_default();
        Ok(open)
    }

    /// The most of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            to_pods: self.to_pods.max(other.to_pods),
            to_one: self.to_one.max(other.to_one),
            from_keda: self.from_keda.max(other.from_keda),
            files: self.files.max(other.files),
        }
    }
}

/// Both ends and the state.
fn connection(line: &str) -> Option<(SocketAddrV4, SocketAddrV4, u8)> {
    let mut words = line.split_whitespace().skip(1);
    let mut end = || {
        let (address, port) = words.next()?.split_once(':')?;
        // The kernel prints the bytes of an address as one number of the machine's own order.
        let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
        Some(SocketAddrV4::new(address, u16::from_str_radix(port, 16).ok()?))
    };
    let (local, remote) = (end()?, end()?);
    Some((local, remote, u8::from_str_radix(words.next()?, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_told_apart() {
        let end = |address: [u8; 4], port: u16| format!("{:08X}:{port:04X}", u32::from_ne_bytes(address));
        let (own, node) = ([10, 244, 0, 9], [10, 245, 0, 1]);
        let lines = [
            (end([0; 4], 9444), end([0; 4], 0), "0A"),
            (end(own, 9444), end(node, 40_000), "01"),
            (end(own, 9444), end(node, 40_001), "06"),
            (end(own, 50_000), end([10, 246, 0, 1], 8000), "01"),
            (end(own, 50_001), end([10, 246, 0, 1], 8000), "02"),
            (end(own, 50_002), end([10, 246, 1, 7], 8000), "01"),
            (end(own, 50_003), end([10, 246, 1, 7], 8000), "06"),
            (end(own, 50_004), end([10, 96, 0, 1], 443), "01"),
        ];
        let lines =
            lines.map(|(local, remote, state)| format!("   0: {local} {remote} {state} 00000000:00000000"));
        let table = format!("  sl  local_address rem_address   st\n{}\n", lines.join("\n"));
        let open = Open::read(&table).unwrap();
        assert_eq!(open, Open { to_pods: 3, to_one: 2, from_keda: 1, files: 0 });
        assert!(Open::read("head\n 0: nonsense\n").is_err());
    }
}
