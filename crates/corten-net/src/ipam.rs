//! Address management: which subnet a network gets and which address an endpoint gets. Pure.
//!
//! Addresses are given out lowest first, as Docker does: what was freed is used again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corten_base::Id;
use ipnet::{IpNet, Ipv4Net};

use crate::config::AddressPool;

/// Docker's own list of pools.
pub(crate) fn default_pools() -> Vec<AddressPool> {
    let pool = |a, b, prefix, size| AddressPool {
        base: IpNet::V4(
            Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), prefix).expect("prefixes below are at most 32"),
        ),
        size,
    };
    vec![
        pool(172, 17, 16, 16),
        pool(172, 18, 16, 16),
        pool(172, 19, 16, 16),
        pool(172, 20, 14, 16),
        pool(172, 24, 14, 16),
        pool(172, 28, 14, 16),
        pool(192, 168, 16, 20),
    ]
}

/// The subnets in use, and the addresses in use in each.
#[derive(Debug, Default)]
pub(crate) struct Ipam {
    subnets: BTreeMap<(Id, IpNet), Subnet>,
}

#[derive(Debug)]
struct Subnet {
    range: IpNet,
    taken: BTreeSet<u128>,
}

/// Why there is no subnet or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another network has (part of) it.
    Overlap,
    /// Nothing is left.
    Exhausted,
    /// Somebody has exactly this address.
    InUse,
}

impl Ipam {
    /// Reserves a subnet that a user asked for.
    pub(crate) fn take_subnet(
        &mut self,
        owner: &Id,
        subnet: IpNet,
        range: Option<IpNet>,
    ) -> Result<(), Refusal> {
        if self.subnets.keys().any(|(_, other)| overlaps(*other, subnet)) {
            return Err(Refusal::Overlap);
        }
        let mut taken = BTreeSet::new();
        if let IpNet::V4(net) = subnet
            && net.prefix_len() < 31
        {
            taken.insert(number(IpAddr::V4(net.network())));
            taken.insert(number(IpAddr::V4(net.broadcast())));
        } else if let IpNet::V6(net) = subnet
            && net.prefix_len() < 127
        {
            // The subnet-router anycast address.
            taken.insert(number(IpAddr::V6(net.network())));
        }
        self.subnets.insert((owner.clone(), subnet), Subnet { range: range.unwrap_or(subnet), taken });
        Ok(())
    }

    /// Reserves the first subnet of the pools that overlaps neither a network nor a route of the host.
    pub(crate) fn pick_subnet(
        &mut self,
        owner: &Id,
        pools: &[AddressPool],
        avoid: &[IpNet],
        v6: bool,
    ) -> Result<IpNet, Refusal> {
        const TRIES: usize = 1 << 16;
        let mut tries = 0;
        for pool in pools.iter().filter(|p| matches!(p.base, IpNet::V6(_)) == v6) {
            let Ok(subnets) = pool.base.subnets(pool.size) else { continue };
            for subnet in subnets {
                tries += 1;
                if tries > TRIES {
                    return Err(Refusal::Exhausted);
                }
                if avoid.iter().any(|a| overlaps(*a, subnet)) {
                    continue;
                }
                if self.take_subnet(owner, subnet, None).is_ok() {
                    return Ok(subnet);
                }
            }
        }
        Err(Refusal::Exhausted)
    }

    /// Gives up all subnets of a network.
    pub(crate) fn free_subnets(&mut self, owner: &Id) {
        self.subnets.retain(|(id, _), _| id != owner);
    }

    /// Reserves one address that somebody asked for.
    pub(crate) fn take(&mut self, owner: &Id, address: IpAddr) -> Result<(), Refusal> {
        let subnet = self.subnets.iter_mut().find(|((id, net), _)| id == owner && net.contains(&address));
        let Some((_, subnet)) = subnet else { return Err(Refusal::Exhausted) };
        if subnet.taken.insert(number(address)) { Ok(()) } else { Err(Refusal::InUse) }
    }

    /// Reserves the lowest free address of the network's range.
    pub(crate) fn pick(&mut self, owner: &Id, v6: bool) -> Result<IpAddr, Refusal> {
        for ((id, net), subnet) in &mut self.subnets {
            if id != owner || matches!(net, IpNet::V6(_)) != v6 {
                continue;
            }
            let (first, last) = (number(subnet.range.network()), number(last_address(subnet.range)));
            let mut candidate = first;
            for taken in subnet.taken.range(first..=last) {
                if *taken != candidate {
                    break;
                }
                candidate += 1;
            }
            if candidate <= last {
                subnet.taken.insert(candidate);
                return Ok(address(candidate, v6));
            }
        }
        Err(Refusal::Exhausted)
    }

    /// The lowest free address of one subnet, for its gateway: the range for containers does not matter there
    /// unless nothing else is wanted.
    pub(crate) fn pick_gateway(&mut self, owner: &Id, net: IpNet) -> Result<IpAddr, Refusal> {
        let Some(subnet) = self.subnets.get_mut(&(owner.clone(), net)) else {
            return Err(Refusal::Exhausted);
        };
        let (mut candidate, last) = (number(subnet.range.network()), number(last_address(subnet.range)));
        while candidate <= last {
            if subnet.taken.insert(candidate) {
                return Ok(address(candidate, matches!(net, IpNet::V6(_))));
            }
            candidate += 1;
        }
        Err(Refusal::Exhausted)
    }

    /// Gives up one address.
    pub(crate) fn free(&mut self, owner: &Id, address: IpAddr) {
        for ((id, net), subnet) in &mut self.subnets {
            if id == owner && net.contains(&address) {
                subnet.taken.remove(&number(address));
            }
        }
    }
}

/// Whether two blocks have an address in common.
pub(crate) fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// A block for networks of one host with IPv6 and no subnet: unique local addresses (RFC 4193) whose global id
/// derives from `seed` (the daemon's instance), so that it is the same after a restart.
pub(crate) fn unique_local_pool(seed: &[u8]) -> AddressPool {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(seed);
    let hash = hasher.finish().to_be_bytes();
    let mut octets = [0u8; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[..5]);
    let base = ipnet::Ipv6Net::new(Ipv6Addr::from(octets), 48).expect("48 is at most 128");
    AddressPool { base: IpNet::V6(base), size: 64 }
}

fn last_address(net: IpNet) -> IpAddr {
    net.broadcast()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn address(number: u128, v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(Ipv6Addr::from(number)) } else { IpAddr::V4(Ipv4Addr::from(number as u32)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn subnets_come_from_the_pools_in_order_and_skip_what_is_used() {
        let (a, b, c) = (Id::random(), Id::random(), Id::random());
        let mut ipam = Ipam::default();
        let pools = default_pools();
        assert_eq!(ipam.pick_subnet(&a, &pools, &[], false), Ok(net("172.17.0.0/16")));
        assert_eq!(ipam.pick_subnet(&b, &pools, &[net("172.18.5.0/24")], false), Ok(net("172.19.0.0/16")));
        assert_eq!(ipam.take_subnet(&c, net("172.16.0.0/12"), None), Err(Refusal::Overlap));
        ipam.free_subnets(&a);
        assert_eq!(ipam.pick_subnet(&c, &pools, &[], false), Ok(net("172.17.0.0/16")));
    }

    #[test]
    fn there_are_31_default_subnets() {
        let mut ipam = Ipam::default();
        let mut last = Ok(net("0.0.0.0/0"));
        for _ in 0..31 {
            last = ipam.pick_subnet(&Id::random(), &default_pools(), &[], false);
        }
        assert_eq!(last, Ok(net("192.168.240.0/20")));
        assert_eq!(ipam.pick_subnet(&Id::random(), &default_pools(), &[], false), Err(Refusal::Exhausted));
    }

    #[test]
    fn addresses_are_lowest_first_within_the_range() {
        let id = Id::random();
        let mut ipam = Ipam::default();
        ipam.take_subnet(&id, net("10.0.0.0/24"), Some(net("10.0.0.128/30"))).unwrap();
        ipam.take(&id, ip("10.0.0.129")).unwrap();
        assert_eq!(ipam.take(&id, ip("10.0.0.129")), Err(Refusal::InUse));
        assert_eq!(ipam.pick(&id, false), Ok(ip("10.0.0.128")));
        assert_eq!(ipam.pick(&id, false), Ok(ip("10.0.0.130")));
        assert_eq!(ipam.pick(&id, false), Ok(ip("10.0.0.131")));
        assert_eq!(ipam.pick(&id, false), Err(Refusal::Exhausted));
        ipam.free(&id, ip("10.0.0.130"));
        assert_eq!(ipam.pick(&id, false), Ok(ip("10.0.0.130")));
        assert_eq!(ipam.pick(&id, true), Err(Refusal::Exhausted));
    }

    #[test]
    fn network_and_broadcast_are_never_given_out() {
        let id = Id::random();
        let mut ipam = Ipam::default();
        ipam.take_subnet(&id, net("10.0.0.0/30"), None).unwrap();
        assert_eq!(ipam.pick_gateway(&id, net("10.0.0.0/30")), Ok(ip("10.0.0.1")));
        assert_eq!(ipam.pick(&id, false), Ok(ip("10.0.0.2")));
        assert_eq!(ipam.pick(&id, false), Err(Refusal::Exhausted));
        let six = Id::random();
        ipam.take_subnet(&six, net("fd00::/64"), None).unwrap();
        assert_eq!(ipam.pick(&six, true), Ok(ip("fd00::1")));
        assert_eq!(unique_local_pool(b"x"), unique_local_pool(b"x"));
    }
}
