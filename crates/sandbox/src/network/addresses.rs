//! Which network the pods of an instance get, and which address of it each pod.
//!
//! Two instances, or a private network of the machine, may use the same range: a network is taken only when no route
//! and no address of the machine is in it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

/// Most pods of an instance.
pub(super) const PODS: u8 = 250;
/// Last byte of the first pod's address; `.1` is the gateway.
const FIRST: u8 = 2;
/// 10.88.0.0 to 10.95.255.0.
const RANGE: Net = Net { address: Ipv4Addr::new(10, 88, 0, 0), prefix: 13 };

/// A network of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
}

impl Net {
    fn mask(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
    }

    /// Whether the two have an address in common.
    fn overlaps(self, other: Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        u32::from(self.address) & mask == u32::from(other.address) & mask
    }

    fn host(self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.address.octets();
        Ipv4Addr::new(a, b, c, last)
    }
}

impl std::fmt::Display for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A free network. Instances begin to look at different places, so that two that start at once rarely meet.
pub(super) fn choose(instance: &str, taken: &[Net]) -> Option<Net> {
    let first = u32::from_str_radix(instance, 16).unwrap_or(0);
    let candidates = || {
        (0..2048).map(move |step| {
            let number = (first.wrapping_add(step)) % 2048;
            Net { address: Ipv4Addr::from(u32::from(RANGE.address) + (number << 8)), prefix: 24 }
        })
    };
    let free = |net: &Net, taken: &[Net]| !taken.iter().any(|other| net.overlaps(*other));
    candidates().find(|net| free(net, taken)).or_else(|| {
        // A route for all of 10.0.0.0/8 leaves nothing free, and says nothing about what is really used.
        let narrow: Vec<_> = taken.iter().copied().filter(|net| net.prefix > RANGE.prefix).collect();
        let net = candidates().find(|net| free(net, &narrow))?;
        tracing::warn!(network = %net, "the network of pods hides a part of a wider network of this machine");
        Some(net)
    })
}

/// The addresses of a network that pods use.
#[derive(Clone)]
pub(super) struct Pool {
    subnet: Net,
    used: Arc<Mutex<Used>>,
}

#[derive(Default)]
struct Used {
    numbers: BTreeSet<u8>,
    last: u8,
}

/// An address that is free again when this is dropped.
pub(super) struct Lease {
    pool: Pool,
    number: u8,
}

impl Pool {
    pub(super) fn new(subnet: Net) -> Self {
        Self { subnet, used: Arc::default() }
    }

    pub(super) fn subnet(&self) -> Net {
        self.subnet
    }

    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.subnet.host(1)
    }

    /// The address that was free for longest, roughly: connections to the last pod that had it may linger.
    pub(super) fn lease(&self) -> Option<Lease> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (1..=PODS).map(|step| (u16::from(used.last) + u16::from(step)) % u16::from(PODS)).find_map(|number| {
            let number = u8::try_from(number).ok()?;
            (!used.numbers.contains(&number)).then_some(number)
        })?;
        used.numbers.insert(number);
        used.last = number;
        Some(Lease { pool: self.clone(), number })
    }
}

impl Lease {
    pub(super) fn address(&self) -> Ipv4Addr {
        self.pool.subnet.host(FIRST + self.number)
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.used.lock().unwrap_or_else(PoisonError::into_inner).numbers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        let (address, prefix) = text.split_once('/').unwrap();
        Net { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }

    #[test]
    fn a_network_with_an_address_or_a_route_in_it_is_not_chosen() {
        assert_eq!(choose("00000000", &[]).unwrap(), net("10.88.0.0/24"));
        assert_eq!(choose("00000000", &[net("10.88.0.7/32"), net("10.88.1.0/25")]).unwrap(), net("10.88.2.0/24"));
        assert_eq!(choose("00000000", &[net("10.88.0.0/14")]).unwrap(), net("10.92.0.0/24"));
        assert_eq!(choose("000007ff", &[net("10.95.255.0/24")]).unwrap(), net("10.88.0.0/24"));
    }

    #[test]
    fn a_route_around_the_whole_range_is_hidden_in_part_only_when_nothing_else_is_left() {
        assert_eq!(choose("00000000", &[net("10.0.0.0/8"), net("10.88.0.0/24")]).unwrap(), net("10.88.1.0/24"));
        assert_eq!(choose("00000000", &[net("10.88.0.0/14"), net("10.92.0.0/14")]), None);
    }

    #[test]
    fn every_pod_has_its_own_address_and_there_is_an_end_to_them() {
        let pool = Pool::new(net("10.88.3.0/24"));
        let mut leases: Vec<_> = std::iter::from_fn(|| pool.lease()).collect();
        let addresses: BTreeSet<_> = leases.iter().map(Lease::address).collect();
        assert_eq!((leases.len(), addresses.len()), (250, 250));
        assert!(!addresses.contains(&pool.gateway()) && !addresses.contains(&Ipv4Addr::new(10, 88, 3, 255)));
        let freed = leases.remove(17).address();
        assert_eq!(pool.lease().unwrap().address(), freed);
    }

    #[test]
    fn an_address_is_not_used_again_at_once() {
        let pool = Pool::new(net("10.88.3.0/24"));
        let first = pool.lease().unwrap().address();
        assert_ne!(pool.lease().unwrap().address(), first);
    }
}
