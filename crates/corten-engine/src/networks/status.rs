//! How many addresses of a network's subnets are taken, and how many are left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use corten_wire::api::network::{IpamStatus, Network, NetworkStatus, SubnetStatus};
use ipnet::IpNet;

/// Counts by what inspect shows: subnets, gateways, reserved addresses, endpoints.
pub(crate) fn of(network: &Network) -> Option<NetworkStatus> {
    let endpoints: Vec<IpAddr> = network
        .containers
        .iter()
        .flatten()
        .flat_map(|(_, c)| [&c.ipv4_address, &c.ipv6_address])
        .filter_map(|text| text.split('/').next()?.parse().ok())
        .collect();
    let mut subnets = BTreeMap::new();
    for config in network.ipam.config.iter().flatten() {
        let Ok(subnet) = config.subnet.parse::<IpNet>() else { continue };
        let range = config.ip_range.parse::<IpNet>().unwrap_or(subnet);
        let mut used: BTreeSet<IpAddr> = endpoints.iter().copied().collect();
        used.extend(config.gateway.parse::<IpAddr>());
        used.extend(config.auxiliary_addresses.values().filter_map(|a| a.parse::<IpAddr>().ok()));
        used.insert(subnet.network());
        if subnet.addr().is_ipv4() {
            used.insert(subnet.broadcast());
        }
        let within = |net: &IpNet| used.iter().filter(|a| net.contains(*a)).count() as u128;
        let bits = u32::from(range.max_prefix_len() - range.prefix_len());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let saturated = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        let status = SubnetStatus {
            ips_in_use: saturated(within(&subnet)),
            dynamic_ips_available: saturated(size.saturating_sub(within(&range))),
        };
        subnets.insert(subnet.to_string(), status);
    }
    (!subnets.is_empty()).then_some(NetworkStatus { ipam: IpamStatus { subnets } })
}

#[cfg(test)]
mod tests {
    use corten_wire::api::network::{Ipam, IpamConfig, NetworkContainer};

    use super::*;

    #[test]
    fn counts() {
        let config = |subnet: &str, range: &str, gateway: &str| IpamConfig {
            subnet: subnet.into(),
            ip_range: range.into(),
            gateway: gateway.into(),
            ..IpamConfig::default()
        };
        let one = NetworkContainer {
            ipv4_address: "172.16.1.2/16".into(),
            ipv6_address: "fd00::2/64".into(),
            ..NetworkContainer::default()
        };
        let all = vec![
            config("172.16.0.0/16", "", "172.16.0.1"),
            config("10.0.0.0/24", "10.0.0.128/25", "10.0.0.1"),
            config("fd00::/64", "", "fd00::1"),
        ];
        let network = Network {
            ipam: Ipam { config: Some(all), ..Ipam::default() },
            containers: Some([("c".to_owned(), one)].into()),
            ..Network::default()
        };
        let status = of(&network).unwrap().ipam.subnets;
        let counts = |subnet: &str| (status[subnet].ips_in_use, status[subnet].dynamic_ips_available);
        assert_eq!(counts("172.16.0.0/16"), (4, 65_532));
        // The broadcast address is in the range, the gateway is not.
        assert_eq!(counts("10.0.0.0/24"), (3, 127));
        assert_eq!(counts("fd00::/64"), (3, u64::MAX - 2));
        assert!(of(&Network::default()).is_none());
    }
}
