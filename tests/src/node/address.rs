//! Addresses for pods.
//!
//! **Architecture invariant**: pure. An address that was given back comes round again only after all others, so nothing that
//! still talks to a pod that has gone reaches another one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};

/// The addresses of a range.
#[derive(Clone, Debug)]
pub struct AddressPool {
    first: u32,
    last: u32,
    next: u32,
    used: BTreeSet<u32>,
}

impl AddressPool {
    /// All addresses of `range` (as `10.244.0.0/16`) but for its first and its last.
    pub fn new(range: &str) -> anyhow::Result<Self> {
        let (base, prefix) = range.split_once('/').with_context(|| format!("{range:?} is not a range"))?;
        let base = base.parse::<Ipv4Addr>()?.to_bits();
        let prefix = prefix.parse::<u32>()?;
        ensure!((8..=30).contains(&prefix), "{range:?} is too large or too small for pods");
        let size = 1u32 << (32 - prefix);
        let base = base & !(size - 1);
        let first = base + 1;
        Ok(Self { first, last: base + size - 2, next: first, used: BTreeSet::new() })
    }

    /// A free address.
    pub fn take(&mut self) -> anyhow::Result<Ipv4Addr> {
        for _ in self.first..=self.last {
            let address = self.next;
            self.next = if address == self.last { self.first } else { address + 1 };
            if self.used.insert(address) {
                return Ok(Ipv4Addr::from_bits(address));
            }
        }
        anyhow::bail!("every address for pods is in use")
    }

    /// Gives one back.
    pub fn give_back(&mut self, address: Ipv4Addr) {
        self.used.remove(&address.to_bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_round_last() {
        let mut pool = AddressPool::new("10.244.0.9/29").unwrap();
        let mut take = |back: Option<&str>| {
            if let Some(address) = back {
                pool.give_back(address.parse().unwrap());
            }
            pool.take().ok().map(|address| address.octets()[3])
        };
        assert_eq!([take(None), take(None)], [Some(9), Some(10)]);
        assert_eq!(take(Some("10.244.0.9")), Some(11), "not the one just given back");
        assert_eq!([take(None), take(None), take(None)], [Some(12), Some(13), Some(14)]);
        assert_eq!(take(None), Some(9));
        assert_eq!(take(None), None);
        assert_eq!(take(Some("10.244.0.12")), Some(12));
        assert!(AddressPool::new("10.244.0.0").is_err() && AddressPool::new("10.244.0.0/31").is_err());
    }
}
