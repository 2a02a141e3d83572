//! Which networks, sandboxes and endpoints exist, and what follows from that. Pure: no kernel in here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use corten_base::Id;
use ipnet::IpNet;

use crate::config::AddressPool;
use crate::endpoint::{EndpointRecord, EndpointSpec, Mac, PortRecord, PortSpec, Protocol, SandboxSpec};
use crate::error::NetError;
use crate::ipam::{Ipam, Refusal};
use crate::network::{self, Driver, GatewayMode, IpamConfig, NetworkRecord, NetworkSpec};
use crate::plan::{self, Publication};
use crate::ports::Ports;
use crate::relay::Line;

/// All that [`crate::Net`] knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) networks: BTreeMap<Id, NetworkRecord>,
    pub(crate) endpoints: HashMap<Id, EndpointRecord>,
    pub(crate) sandboxes: HashMap<Id, SandboxSpec>,
    pub(crate) ipam: Ipam,
    pub(crate) ports: Ports,
    /// Published ports can be reached at containers' own addresses too.
    pub(crate) direct: bool,
}

/// Where a container's default routes should lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefaultRoute {
    pub(crate) endpoint: Id,
    pub(crate) ifname: String,
    pub(crate) gateway: IpAddr,
}

impl State {
    pub(crate) fn new(hold_ports: bool) -> Self {
        Self {
            networks: BTreeMap::new(),
            endpoints: HashMap::new(),
            sandboxes: HashMap::new(),
            ipam: Ipam::default(),
            ports: Ports::new(hold_ports),
            direct: false,
        }
    }

    /// Decides everything about a new network and reserves its subnets and link. `avoid`: routes of the host.
    pub(crate) fn add_network(
        &mut self,
        spec: NetworkSpec,
        pools: &[AddressPool],
        avoid: &[IpNet],
    ) -> Result<NetworkRecord, NetError> {
        let driver = match spec.driver.as_str() {
            "" | "bridge" => Driver::Bridge,
            "macvlan" => Driver::Macvlan,
            "ipvlan" => Driver::Ipvlan,
            "overlay" => return Err(NetError::UnsupportedDriver { driver: spec.driver }),
            _ => return Err(NetError::UnknownDriver { driver: spec.driver }),
        };
        let unmanaged = match spec.ipam_driver.as_str() {
            "" | "default" => false,
            "null" => true,
            _ => return Err(NetError::UnknownDriver { driver: spec.ipam_driver }),
        };
        let settings = network::settings(&spec, driver)?;
        let (v4, v6) = network::families(&spec)?;
        network::validate_ipam(&spec.ipam, v6)?;
        if unmanaged && spec.ipam.iter().any(|c| c.subnet.is_some()) {
            return Err(NetError::Unmanaged { what: "pool " });
        }
        if unmanaged && driver == Driver::Bridge {
            return Err(NetError::NoPool { family: if v4 { 4 } else { 6 } });
        }
        let subnets = |six: bool| {
            spec.ipam.iter().filter_map(|c| c.subnet).filter(|s| matches!(s, IpNet::V6(_)) == six).count()
        };
        if driver == Driver::Bridge && (v4 && subnets(false) > 1 || v6 && subnets(true) > 1) {
            return Err(NetError::SeveralSubnets);
        }
        if driver == Driver::Bridge && self.networks.values().any(|n| n.settings.link == settings.link) {
            return Err(NetError::LinkInUse { link: settings.link });
        }
        let mut record = NetworkRecord {
            id: spec.id,
            name: spec.name,
            driver,
            ipam: spec.ipam,
            unmanaged,
            idle: Vec::new(),
            internal: spec.internal,
            ipv4: v4,
            ipv6: v6,
            options: spec.options,
            settings,
        };
        if let Err(error) = self.plan_addresses(&mut record, pools, avoid) {
            self.ipam.free_subnets(&record.id);
            return Err(error);
        }
        self.networks.insert(record.id.clone(), record.clone());
        Ok(record)
    }

    /// Fills in subnets and gateways.
    fn plan_addresses(
        &mut self,
        record: &mut NetworkRecord,
        pools: &[AddressPool],
        avoid: &[IpNet],
    ) -> Result<(), NetError> {
        if record.unmanaged {
            return Ok(());
        }
        let id = &record.id;
        let wants = |v6: bool| if v6 { record.ipv6 } else { record.ipv4 };
        let subnets = record.ipam.iter().filter_map(|c| c.subnet);
        record.idle = subnets.filter(|s| !wants(matches!(s, IpNet::V6(_)))).collect();
        record.ipam.retain(|c| c.subnet.is_none_or(|s| wants(matches!(s, IpNet::V6(_)))));
        let mut open: Vec<bool> = [false, true]
            .into_iter()
            .filter(|v6| wants(*v6))
            .filter(|v6| {
                !record.ipam.iter().any(|c| c.subnet.is_some_and(|s| matches!(s, IpNet::V6(_)) == *v6))
            })
            .collect();
        for config in &mut record.ipam {
            match config.subnet {
                Some(subnet) => {
                    let taken = self.ipam.take_subnet(id, subnet, config.ip_range);
                    taken.map_err(|_| NetError::PoolOverlap)?;
                }
                None if !open.is_empty() => {
                    let v6 = open.remove(0);
                    let picked = self.ipam.pick_subnet(id, pools, avoid, v6);
                    config.subnet = Some(picked.map_err(|_| NetError::PoolsExhausted)?);
                }
                None => {}
            }
        }
        record.ipam.retain(|c| c.subnet.is_some());
        for v6 in open {
            let picked = self.ipam.pick_subnet(id, pools, avoid, v6).map_err(|_| NetError::PoolsExhausted)?;
            record.ipam.push(IpamConfig { subnet: Some(picked), ..IpamConfig::default() });
        }
        for config in &mut record.ipam {
            let Some(subnet) = config.subnet else { continue };
            // In this order, so that a picked gateway is none of the addresses that are set aside.
            for address in config.gateway.iter().chain(config.aux_addresses.values()) {
                match self.ipam.take(id, *address) {
                    Ok(()) | Err(Refusal::InUse) => {}
                    Err(_) => return Err(NetError::AddressInUse { address: *address }),
                }
            }
            let isolated = match subnet {
                IpNet::V4(_) => record.settings.mode_v4 == GatewayMode::Isolated,
                IpNet::V6(_) => record.settings.mode_v6 == GatewayMode::Isolated,
            };
            if config.gateway.is_none() && !isolated {
                let picked = self.ipam.pick_gateway(id, subnet);
                config.gateway = Some(picked.map_err(|_| NetError::PoolsExhausted)?);
            }
        }
        Ok(())
    }

    /// Takes a network of an earlier daemon over as it was.
    pub(crate) fn restore_network(&mut self, record: &NetworkRecord) -> Result<(), NetError> {
        for config in &record.ipam {
            let Some(subnet) = config.subnet else { continue };
            let taken = self.ipam.take_subnet(&record.id, subnet, config.ip_range);
            if taken.is_err() {
                self.ipam.free_subnets(&record.id);
                return Err(NetError::PoolOverlap);
            }
            for address in config.gateway.iter().chain(config.aux_addresses.values()) {
                // Validated when the network was made; an address that is there twice is one address.
                let _ = self.ipam.take(&record.id, *address);
            }
        }
        self.networks.insert(record.id.clone(), record.clone());
        Ok(())
    }

    pub(crate) fn network(&self, id: &Id) -> Result<&NetworkRecord, NetError> {
        self.networks.get(id).ok_or_else(|| NetError::NoNetwork { id: id.to_string() })
    }

    /// Refuses while endpoints are attached.
    pub(crate) fn forget_network(&mut self, id: &Id) -> Result<Option<NetworkRecord>, NetError> {
        let Some(record) = self.networks.get(id) else { return Ok(None) };
        if let Some(endpoint) = self.endpoints.values().find(|e| e.network == *id) {
            return Err(NetError::ActiveEndpoints {
                network: record.name.clone(),
                name: endpoint.name.clone(),
                endpoint: endpoint.id.clone(),
            });
        }
        self.ipam.free_subnets(id);
        Ok(self.networks.remove(id))
    }

    /// Decides everything about a new endpoint and reserves its addresses and ports.
    pub(crate) fn add_endpoint(&mut self, spec: &EndpointSpec) -> Result<EndpointRecord, NetError> {
        let network = self.network(&spec.network)?.clone();
        if !self.sandboxes.contains_key(&spec.container) {
            return Err(NetError::NoSandbox { id: spec.container.clone() });
        }
        if self.endpoints_of(&spec.container).any(|e| e.network == spec.network) {
            return Err(NetError::EndpointExists { name: spec.name.clone(), network: network.name });
        }
        if network.driver != Driver::Bridge && !spec.rates.is_unlimited() {
            return Err(NetError::NoRates { network: network.name });
        }
        let ifname = self.interface_name(spec, &network)?;
        let ipv4 = self.address(&network, spec.ipv4.map(IpAddr::V4), false)?;
        let ipv6 = match self.address(&network, spec.ipv6.map(IpAddr::V6), true) {
            Ok(address) => address,
            Err(error) => {
                self.release(&network.id, [ipv4, None]);
                return Err(error);
            }
        };
        let ports = match self.publish(spec, &network) {
            Ok(ports) => ports,
            Err(error) => {
                self.release(&network.id, [ipv4, ipv6]);
                return Err(error);
            }
        };
        let v4 = |address| match address {
            Some(IpAddr::V4(a)) => Some(a),
            _ => None,
        };
        let v6 = |address| match address {
            Some(IpAddr::V6(a)) => Some(a),
            _ => None,
        };
        let prefix = |address: Option<IpAddr>| address.map_or(0, |a| network.prefix_of(a));
        let gateway = |address: Option<IpAddr>| address.and_then(|a| network.gateway_of(a));
        let record = EndpointRecord {
            id: spec.id.clone(),
            container: spec.container.clone(),
            network: spec.network.clone(),
            name: spec.name.clone(),
            dns_names: spec.dns_names.clone(),
            ipv4: v4(ipv4),
            ipv4_prefix: prefix(ipv4),
            gateway: v4(gateway(ipv4)),
            ipv6: v6(ipv6),
            ipv6_prefix: prefix(ipv6),
            gateway_v6: v6(gateway(ipv6)),
            mac: spec.mac.unwrap_or_else(|| mac_for(v4(ipv4), v6(ipv6), &spec.id)),
            ifname,
            host_link: match network.driver {
                Driver::Bridge => format!("veth{}", &spec.id.as_str()[..7]),
                Driver::Macvlan | Driver::Ipvlan => String::new(),
            },
            gw_priority: spec.gw_priority,
            ports,
            links: spec.links.clone(),
            openings: spec.openings.clone(),
            rates: spec.rates,
        };
        self.endpoints.insert(spec.id.clone(), record.clone());
        Ok(record)
    }

    /// Takes an endpoint of an earlier daemon over as it was.
    pub(crate) fn restore_endpoint(&mut self, record: &EndpointRecord) -> Result<(), NetError> {
        self.network(&record.network)?;
        let addresses = [record.ipv4.map(IpAddr::V4), record.ipv6.map(IpAddr::V6)];
        for (done, address) in addresses.iter().enumerate() {
            let Some(address) = address else { continue };
            if self.ipam.take(&record.network, *address).is_err() {
                self.release(&record.network, [addresses[0].filter(|_| done == 1), None]);
                return Err(NetError::AddressInUse { address: *address });
            }
        }
        self.endpoints.insert(record.id.clone(), record.clone());
        self.ports.retake(&record.ports).map_err(|reason| NetError::Publish {
            name: record.name.clone(),
            id: record.id.clone(),
            reason,
        })
    }

    /// Gives up what [`Self::add_endpoint`] reserved; false if there is no such endpoint.
    pub(crate) fn forget_endpoint(&mut self, id: &Id) -> bool {
        let Some(record) = self.endpoints.remove(id) else { return false };
        self.ports.free(&record.ports);
        self.release(&record.network, [record.ipv4.map(IpAddr::V4), record.ipv6.map(IpAddr::V6)]);
        true
    }

    pub(crate) fn endpoints_of<'a>(&'a self, container: &'a Id) -> impl Iterator<Item = &'a EndpointRecord> {
        self.endpoints.values().filter(move |e| e.container == *container)
    }

    /// The endpoint of the highest priority that has a gateway; among equals the first network by name.
    pub(crate) fn default_route(&self, container: &Id, v6: bool) -> Option<DefaultRoute> {
        let gateway = |e: &EndpointRecord| {
            if v6 { e.gateway_v6.map(IpAddr::V6) } else { e.gateway.map(IpAddr::V4) }
        };
        let name = |e: &EndpointRecord| self.networks.get(&e.network).map(|n| n.name.clone());
        self.endpoints_of(container)
            .filter_map(|e| gateway(e).map(|g| (e, g)))
            .min_by_key(|(e, _)| (std::cmp::Reverse(e.gw_priority), name(e)))
            .map(|(e, gateway)| DefaultRoute { endpoint: e.id.clone(), ifname: e.ifname.clone(), gateway })
    }

    /// What the packet filter must know about an endpoint's ports.
    pub(crate) fn publications(&self, record: &EndpointRecord) -> Vec<Publication> {
        let Some(network) = self.networks.get(&record.network) else { return Vec::new() };
        let mut publications = Vec::new();
        let mut opened = HashSet::new();
        for port in &record.ports {
            let (target, mode) = match port.host_ip {
                IpAddr::V4(_) => (record.ipv4.map(IpAddr::V4), network.settings.mode_v4),
                IpAddr::V6(_) => (record.ipv6.map(IpAddr::V6), network.settings.mode_v6),
            };
            let Some(container_ip) = target else { continue };
            let routed = mode == GatewayMode::Routed;
            // Two host ports of a routed network can lead to one container port, which is opened once.
            if routed && !opened.insert((container_ip, port.container_port, port.protocol)) {
                continue;
            }
            publications.push(Publication {
                protocol: port.protocol,
                host_ip: port.host_ip,
                host_port: port.host_port,
                container_ip,
                container_port: port.container_port,
                count: 1,
                routed,
                direct: self.direct,
            });
        }
        plan::in_rows(publications)
    }

    /// Published ports that are held by a socket, at which connections may arrive because the packet filter cannot
    /// translate them: those of IPv6 addresses where the container has none, and of ::1.
    pub(crate) fn relayed(&self, record: &EndpointRecord) -> Vec<Line> {
        let Some(network) = self.networks.get(&record.network).filter(|_| self.ports.relayed) else {
            return Vec::new();
        };
        let (address, mode) = match record.ipv6 {
            Some(address) => (Some(IpAddr::V6(address)), network.settings.mode_v6),
            None => (record.ipv4.map(IpAddr::V4), network.settings.mode_v4),
        };
        let Some(address) = address.filter(|_| mode != GatewayMode::Routed) else { return Vec::new() };
        let arrives =
            |ip: IpAddr| ip.is_ipv6() && (address.is_ipv4() || ip.is_unspecified() || ip.is_loopback());
        let from = record.ports.iter().filter(|p| arrives(p.host_ip) && p.protocol != Protocol::Sctp);
        let line = |port: &PortRecord| {
            let target = SocketAddr::new(address, port.container_port);
            let port = (port.protocol, port.host_port, port.host_ip);
            Some(Line { port, socket: self.ports.socket(&port)?, target })
        };
        from.filter_map(line).collect()
    }

    /// What is open between linked containers of a network in which containers otherwise do not reach each other.
    pub(crate) fn openings(&self) -> Vec<plan::Opened> {
        let mut opened = Vec::new();
        for from in self.endpoints.values().filter(|e| !e.openings.is_empty()) {
            let Some(network) = self.networks.get(&from.network).filter(|n| n.opens_links()) else {
                continue;
            };
            for opening in &from.openings {
                let to = self.endpoints_of(&opening.container).find(|e| e.network == from.network);
                let Some((source, destination)) = from.ipv4.zip(to.and_then(|e| e.ipv4)) else { continue };
                opened.extend(opening.ports.iter().map(|(protocol, port)| plan::Opened {
                    link: network.settings.link.clone(),
                    source,
                    destination,
                    protocol: *protocol,
                    port: *port,
                }));
            }
        }
        opened
    }

    /// Decides about other ports of an endpoint: without `drop`, with `add`. The record as it was, and as it is to be;
    /// what is dropped stays taken until [`Self::settle_ports`].
    pub(crate) fn change_ports(
        &mut self,
        endpoint: &Id,
        drop: &[PortRecord],
        add: &[PortSpec],
    ) -> Result<(EndpointRecord, EndpointRecord), NetError> {
        let before = self
            .endpoints
            .get(endpoint)
            .ok_or_else(|| NetError::NoEndpoint { id: endpoint.clone() })?
            .clone();
        let network = self.network(&before.network)?;
        if !add.is_empty() && (network.internal || network.driver != Driver::Bridge) {
            return Err(NetError::NoPorts { network: network.name.clone() });
        }
        let six = network.ipv6 || self.ports.relayed;
        let taken = self.ports.take(add, network.settings.host_binding, six);
        let taken = taken.map_err(|reason| NetError::Publish {
            name: before.name.clone(),
            id: before.id.clone(),
            reason,
        })?;
        let mut after = before.clone();
        after.ports.retain(|p| !drop.contains(p));
        after.ports.extend(taken);
        self.endpoints.insert(endpoint.clone(), after.clone());
        Ok((before, after))
    }

    /// The change to `now` is done (or undone): frees what only `other` has.
    pub(crate) fn settle_ports(&mut self, now: &EndpointRecord, other: &EndpointRecord) {
        let gone: Vec<PortRecord> = other.ports.iter().filter(|p| !now.ports.contains(p)).cloned().collect();
        self.ports.free(&gone);
        if let Some(record) = self.endpoints.get_mut(&now.id) {
            record.ports.clone_from(&now.ports);
        }
    }

    fn publish(&mut self, spec: &EndpointSpec, network: &NetworkRecord) -> Result<Vec<PortRecord>, NetError> {
        if network.internal || network.driver != Driver::Bridge {
            return Ok(Vec::new());
        }
        let six = network.ipv6 || self.ports.relayed;
        self.ports.take(&spec.ports, network.settings.host_binding, six).map_err(|reason| NetError::Publish {
            name: spec.name.clone(),
            id: spec.id.clone(),
            reason,
        })
    }

    fn interface_name(&self, spec: &EndpointSpec, network: &NetworkRecord) -> Result<String, NetError> {
        let used: Vec<&str> = self.endpoints_of(&spec.container).map(|e| e.ifname.as_str()).collect();
        if let Some(wish) = &spec.ifname {
            let name = network::link_name(wish)?;
            if used.contains(&name.as_str()) || name == "lo" {
                return Err(NetError::InvalidLinkName { name });
            }
            return Ok(name);
        }
        let prefix = &network.settings.ifname_prefix;
        let mut number = 0;
        loop {
            let name = format!("{prefix}{number}");
            if !used.contains(&name.as_str()) {
                return network::link_name(name);
            }
            number += 1;
        }
    }

    fn address(
        &mut self,
        network: &NetworkRecord,
        wish: Option<IpAddr>,
        v6: bool,
    ) -> Result<Option<IpAddr>, NetError> {
        if network.unmanaged {
            return if wish.is_some() { Err(NetError::Unmanaged { what: "" }) } else { Ok(None) };
        }
        if let Some(address) = wish {
            network.validate_addresses(&[address])?;
            if !(if v6 { network.ipv6 } else { network.ipv4 }) {
                return Ok(None);
            }
            self.ipam.take(&network.id, address).map_err(|_| NetError::AddressInUse { address })?;
            return Ok(Some(address));
        }
        if !(if v6 { network.ipv6 } else { network.ipv4 }) {
            return Ok(None);
        }
        let picked = self.ipam.pick(&network.id, v6);
        Ok(Some(picked.map_err(|_| NetError::AddressesExhausted {
            family: if v6 { 6 } else { 4 },
            name: network.name.clone(),
            id: network.id.clone(),
        })?))
    }

    fn release(&mut self, network: &Id, addresses: [Option<IpAddr>; 2]) {
        for address in addresses.into_iter().flatten() {
            self.ipam.free(network, address);
        }
    }
}

/// A locally administered hardware address that follows from the IPv4 address, or from the end of the IPv6 address:
/// whoever gets the address next gets the same, so that no neighbour remembers a wrong one. Without either it follows
/// from the endpoint's id.
fn mac_for(ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>, endpoint: &Id) -> Mac {
    let tail = match (ipv4, ipv6) {
        (Some(address), _) => address.octets(),
        (None, Some(address)) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
        (None, None) => {
            let digits = &endpoint.as_str()[..8];
            u32::from_str_radix(digits, 16).expect("an id is hexadecimal").to_be_bytes()
        }
    };
    Mac([0x02, 0x42, tail[0], tail[1], tail[2], tail[3]])
}

#[cfg(test)]
mod tests;
