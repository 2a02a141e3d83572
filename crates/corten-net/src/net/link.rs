//! Carrying out: the links of networks and endpoints, from plans that hold every decision.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use corten_base::Id;
use corten_sys::netns;
use ipnet::IpNet;

use super::{Inner, ensure_setting, lock};
use crate::dns::{self, Listener};
use crate::endpoint::{EndpointRecord, Mac};
use crate::error::NetError;
use crate::network::{Driver, GatewayMode, IpvlanMode, MacvlanMode, NetworkRecord};
use crate::route::{Changes, Rtnetlink, Veth, is_absent};
use crate::sandbox::{Announcement, OpenSandbox, read_setting, write_setting};
use crate::state::{DefaultRoute, State};

/// What an attachment comes to inside the sandbox.
#[derive(Debug)]
pub(super) struct Plan {
    mtu: u32,
    addresses: Vec<IpNet>,
    ipv6: bool,
    /// Default routes that lead through this endpoint.
    routes: Vec<DefaultRoute>,
    /// The default route is the link itself: the host routes what it gets.
    device_route: bool,
    settings: Vec<(String, String)>,
    /// How often neighbours are told of the addresses.
    announcements: u8,
    resolves_names: bool,
    network_name: String,
    view: Option<dns::View>,
}

impl Plan {
    pub(super) fn new(
        state: &State,
        record: &EndpointRecord,
        network: &NetworkRecord,
        default_mtu: u32,
        sysctls: Vec<(String, String)>,
    ) -> Self {
        let v4 = record.ipv4.and_then(|a| IpNet::new(IpAddr::V4(a), record.ipv4_prefix).ok());
        let v6 = record.ipv6.and_then(|a| IpNet::new(IpAddr::V6(a), record.ipv6_prefix).ok());
        let routes = default_routes(state, &record.container);
        Self {
            mtu: network.settings.mtu.unwrap_or(default_mtu),
            addresses: v4.into_iter().chain(v6).collect(),
            ipv6: v6.is_some(),
            routes: routes.into_iter().flatten().filter(|r| r.endpoint == record.id).collect(),
            device_route: network.driver == Driver::Ipvlan
                && network.settings.ipvlan != IpvlanMode::L2
                && !network.internal
                && state.endpoints_of(&record.container).count() == 1,
            settings: sysctls
                .into_iter()
                .map(|(path, value)| (path.replace("IFNAME", &record.ifname), value))
                .collect(),
            announcements: 0,
            resolves_names: network.resolves_names(),
            network_name: network.name.clone(),
            view: view(state, &record.container),
        }
    }
}

impl Plan {
    /// Adds addresses that are known on the link alone.
    pub(super) fn add_link_local(&mut self, addresses: &[IpAddr]) {
        let with_prefix = |a: &IpAddr| IpNet::new(*a, if a.is_ipv4() { 16 } else { 64 }).ok();
        self.addresses.extend(addresses.iter().filter_map(with_prefix));
        self.ipv6 |= addresses.iter().any(IpAddr::is_ipv6);
    }

    /// Has the neighbours told, as often as the network wants it.
    pub(super) fn announce(&mut self, record: &EndpointRecord, network: &NetworkRecord) {
        self.announcements = network.settings.announcements;
        let notify = |family: &str, name: &str| {
            (
                format!("net/{family}/conf/{}/{name}", record.ifname),
                u8::from(self.announcements > 0).to_string(),
            )
        };
        // First, so that a setting of the user's wins.
        self.settings.insert(0, notify("ipv4", "arp_notify"));
        if self.ipv6 {
            self.settings.insert(0, notify("ipv6", "ndisc_notify"));
        }
    }
}

/// Default routes of a container: IPv4, IPv6.
pub(super) fn default_routes(state: &State, container: &Id) -> [Option<DefaultRoute>; 2] {
    [state.default_route(container, false), state.default_route(container, true)]
}

/// The routes of `after` that are not in `before`.
pub(super) fn changed_routes(
    before: &[Option<DefaultRoute>; 2],
    after: &[Option<DefaultRoute>; 2],
) -> Vec<DefaultRoute> {
    before.iter().zip(after).filter(|(b, a)| b != a).filter_map(|(_, a)| a.clone()).collect()
}

/// What a container sees of the name server; `None` without a sandbox.
pub(super) fn view(state: &State, container: &Id) -> Option<dns::View> {
    let sandbox = state.sandboxes.get(container)?;
    let networks: Vec<&NetworkRecord> =
        state.endpoints_of(container).filter_map(|e| state.networks.get(&e.network)).collect();
    Some(dns::View {
        // From a sandbox with nothing but internal networks no question gets out (CVE-2024-29018).
        forwards: networks.iter().any(|n| !n.internal),
        networks: networks.iter().filter(|n| n.resolves_names()).map(|n| n.id.clone()).collect(),
        links: state
            .endpoints_of(container)
            .flat_map(|e| {
                let lower = |t: &String| t.to_ascii_lowercase();
                e.links.iter().map(move |(other, name)| (e.network.clone(), lower(other), lower(name)))
            })
            .collect(),
        upstreams: sandbox.upstreams.clone(),
    })
}

/// `net.ipv4.conf.IFNAME.log_martians=1` → path below /proc/sys and value. Only settings of the endpoint's own link.
pub(super) fn parse_sysctls(settings: &[String]) -> Result<Vec<(String, String)>, NetError> {
    let parse = |setting: &String| {
        let refuse = || NetError::InvalidSysctl { setting: setting.clone() };
        let (key, value) = setting.split_once('=').ok_or_else(refuse)?;
        let parts: Vec<&str> = key.split('.').collect();
        let plain = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match parts.as_slice() {
            // COMPAT: docker's client makes all of `--network` lower case.
            [
                "net",
                family @ ("ipv4" | "ipv6" | "mpls"),
                kind @ ("conf" | "neigh"),
                "IFNAME" | "ifname",
                name,
            ] if plain(name) => Ok((format!("net/{family}/{kind}/IFNAME/{name}"), value.to_owned())),
            _ => Err(refuse()),
        }
    };
    settings.iter().map(parse).collect()
}

impl Inner {
    /// The text that marks links as made by this daemon.
    pub(super) fn mark(&self) -> String {
        format!("corten-{}", self.config.instance)
    }

    /// Makes the network's link, or what is missing of it.
    pub(super) fn ensure_link(&self, network: &NetworkRecord) -> Result<(), NetError> {
        match network.driver {
            Driver::Bridge => self.ensure_bridge(network),
            Driver::Macvlan => self.ensure_parent(network),
            Driver::Ipvlan => self.ensure_parent(network).and_then(|()| self.probe_ipvlan(network)),
        }
    }

    fn ensure_bridge(&self, network: &NetworkRecord) -> Result<(), NetError> {
        let name = &network.settings.link;
        let kernel = |action: &str| NetError::kernel(format!("{action} {name}"));
        let mtu = network.settings.mtu.unwrap_or(self.mtu);
        let mut host = lock(&self.host);
        let mut link = host.link(name).map_err(kernel("look up"))?;
        if link.is_none() {
            let mut changes = Changes::default();
            changes.add_bridge(name, mac_of(&network.id), mtu);
            changes.set_alias(name, &self.mark());
            host.apply(changes).map_err(kernel("make bridge"))?;
            link = host.link(name).map_err(kernel("look up"))?;
        }
        let link = link.ok_or_else(|| NetError::NotABridge { link: name.clone() })?;
        if link.kind != "bridge" {
            return Err(NetError::NotABridge { link: name.clone() });
        }
        self.set_bridge_options(network).map_err(kernel("configure bridge"))?;
        let wanted = bridge_addresses(network);
        let present = host.addresses_of(link.index).map_err(kernel("list addresses of"))?;
        let mut changes = Changes::default();
        // Somebody else's bridge keeps what addresses it has.
        let own = link.alias == self.mark();
        for old in present.iter().filter(|a| own && is_global(**a) && !wanted.contains(a)) {
            changes.delete_address(link.index, *old);
        }
        for new in wanted.iter().filter(|a| !present.contains(a)) {
            changes.add_address(link.index, *new);
        }
        if link.mtu != mtu {
            changes.set_mtu(link.index, mtu);
        }
        changes.set_up(link.index);
        host.apply(changes).map_err(kernel("configure bridge"))
    }

    fn set_bridge_options(&self, network: &NetworkRecord) -> io::Result<()> {
        let name = &network.settings.link;
        // Containers' router advertisements must not make the host change its routes (CVE-2020-13401).
        ensure_setting(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        let off = if network.ipv6 { "0" } else { "1" };
        ensure_setting(&format!("net/ipv6/conf/{name}/disable_ipv6"), off)?;
        if network.ipv6 && self.config.ip_forward && !network.internal {
            ensure_setting("net/ipv6/conf/default/forwarding", "1")?;
            ensure_setting("net/ipv6/conf/all/forwarding", "1")?;
        }
        if self.filter.is_some() && !network.internal {
            // Answers to connections from 127.0.0.1 to published ports come back through the bridge; the chain
            // `guard` keeps containers from using it the other way.
            ensure_setting(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
        }
        if self.filter.is_some() && network.opens_links() {
            self.be_between(network)?;
        }
        Ok(())
    }

    /// Ports of the bridge are isolated from each other, so that between linked containers the host forwards: it answers
    /// for all addresses, at once, and our own chain `forward` decides.
    fn be_between(&self, network: &NetworkRecord) -> io::Result<()> {
        let name = &network.settings.link;
        ensure_setting(&format!("net/ipv4/conf/{name}/proxy_arp_pvlan"), "1")?;
        ensure_setting(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
        ensure_setting(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")
    }

    fn ensure_parent(&self, network: &NetworkRecord) -> Result<(), NetError> {
        let name = &network.settings.link;
        let mut host = lock(&self.host);
        let link = host.link(name).map_err(NetError::kernel(format!("look up {name}")))?;
        if link.is_some() {
            return Ok(());
        }
        let mut changes = Changes::default();
        if name.strip_prefix("dm-").or(name.strip_prefix("di-")) == Some(network.id.short()) {
            changes.add_dummy(name);
        } else {
            let refuse = || NetError::NoParent { link: name.clone() };
            let (parent, number) = name.rsplit_once('.').ok_or_else(refuse)?;
            let number = number.parse().ok().filter(|n| (1..=4094).contains(n)).ok_or_else(refuse)?;
            let parent = host.link(parent).map_err(NetError::kernel(format!("look up {parent}")))?;
            changes.add_vlan(name, parent.ok_or_else(refuse)?.index, number);
        }
        changes.set_alias(name, &self.mark());
        host.apply(changes).map_err(NetError::kernel(format!("make parent {name}")))
    }

    /// Distributions have ipvlan as a module, some kernels do not have it at all; better to know now than at the first
    /// start of a container.
    fn probe_ipvlan(&self, network: &NetworkRecord) -> Result<(), NetError> {
        let name = &network.settings.link;
        let kernel = |action: &str| NetError::kernel(format!("{action} {name}"));
        let mut host = lock(&self.host);
        let Some(parent) = host.link(name).map_err(kernel("look up"))? else { return Ok(()) };
        let probe = format!("ip-{}", network.id.short());
        let mut changes = Changes::default();
        changes.add_ipvlan(&probe, parent.index, ipvlan_numbers(network), None);
        match host.apply(changes) {
            // EOPNOTSUPP
            Err(error) if error.raw_os_error() == Some(95) => {
                return Err(NetError::NoSuchLinks { driver: "ipvlan" });
            }
            made => made.map_err(kernel("make an ipvlan link on"))?,
        }
        ignore_absent(delete(&mut host, &probe)).map_err(kernel("delete the ipvlan link of"))
    }

    /// Takes the network's link away if we made it.
    pub(super) fn ensure_no_link(&self, network: &NetworkRecord) -> Result<(), NetError> {
        let name = &network.settings.link;
        let kernel = || NetError::kernel(format!("delete {name}"));
        let mut host = lock(&self.host);
        let Some(link) = host.link(name).map_err(kernel())? else { return Ok(()) };
        if link.alias != self.mark() {
            return Ok(());
        }
        let mut changes = Changes::default();
        changes.delete_link(link.index);
        host.apply(changes).map_err(kernel())
    }

    /// Makes an endpoint's link and everything inside the sandbox that goes with it.
    pub(super) fn connect(
        &self,
        record: &EndpointRecord,
        network: &NetworkRecord,
        plan: Plan,
    ) -> Result<(), NetError> {
        let kernel = |action: &str| NetError::kernel(format!("{action} {}", record.ifname));
        let mut sandbox = self.sandboxes.enter(&record.container).map_err(kernel("enter the sandbox for"))?;
        match network.driver {
            Driver::Bridge => {
                let made = match self.add_pair(record, network, &plan, &sandbox) {
                    // An endpoint that was detached a moment ago still waits for its link to be deleted.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        delete(&mut sandbox.route, &record.ifname)
                            .and_then(|()| self.add_pair(record, network, &plan, &sandbox))
                    }
                    made => made,
                };
                made.map_err(kernel("make the pair of"))?;
                if !record.rates.is_unlimited() {
                    self.limit(record, record.rates).map_err(kernel("limit"))?;
                }
            }
            Driver::Macvlan => self.add_macvlan(record, network, &sandbox).map_err(kernel("make"))?,
            Driver::Ipvlan => {
                let parent =
                    lock(&self.host).link(&network.settings.link).map_err(kernel("look up the parent of"))?;
                let parent =
                    parent.ok_or_else(|| NetError::NoParent { link: network.settings.link.clone() })?;
                let mut changes = Changes::default();
                let ns = Some(sandbox.ns.as_fd());
                changes.add_ipvlan(&record.ifname, parent.index, ipvlan_numbers(network), ns);
                lock(&self.host).apply(changes).map_err(kernel("make"))?;
            }
        }
        let listens = plan.resolves_names && !self.dns.serves(&record.container);
        if plan.ipv6 || listens || !plan.settings.is_empty() {
            let OpenSandbox { ns, route } = &mut sandbox;
            let inside = || {
                configure(route, record, &plan)?;
                if listens { Listener::open_here().map(Some) } else { Ok(None) }
            };
            let listener = netns::run_in(ns.as_fd(), inside).map_err(kernel("configure"))?;
            if let Some(listener) = listener {
                self.dns.serve(&record.container, listener).map_err(kernel("serve names on"))?;
            }
        } else {
            configure(&mut sandbox.route, record, &plan).map_err(kernel("configure"))?;
        }
        self.await_forwarding(record, network).map_err(kernel("wait for the port of"))?;
        if plan.announcements > 0 {
            // What the kernel said when the link came up may have found the port closed.
            let times = Announcement {
                ifname: record.ifname.clone(),
                mac: record.mac,
                left: plan.announcements,
                interval: Duration::from_millis(network.settings.announcement_interval_ms.into()),
            };
            let left = times.make(&mut sandbox.route).map_err(kernel("announce"))?;
            self.sandboxes.announce_later(&record.container, left);
        }
        if plan.resolves_names {
            self.dns.announce(record, &plan.network_name);
        }
        self.dns.set_view(&record.container, plan.view);
        Ok(())
    }

    fn add_pair(
        &self,
        record: &EndpointRecord,
        network: &NetworkRecord,
        plan: &Plan,
        sandbox: &OpenSandbox,
    ) -> io::Result<()> {
        let mut host = lock(&self.host);
        let bridge = host.link(&network.settings.link)?.ok_or(io::ErrorKind::NotFound)?;
        let mut changes = Changes::default();
        changes.add_veth(&Veth {
            host_name: &record.host_link,
            peer_name: &record.ifname,
            peer_mac: record.mac,
            peer_ns: sandbox.ns.as_fd(),
            mtu: plan.mtu,
            bridge: bridge.index,
        });
        changes.no_link_local(&record.host_link);
        changes.set_up_named(&record.host_link);
        for address in &plan.addresses {
            changes.set_neighbour(bridge.index, address.addr(), record.mac);
        }
        // Where br_netfilter is on, a container that comes back to itself through a published port does so inside the
        // bridge, out of the port it came in by.
        let hairpin = !record.ports.is_empty() && filters_bridged_frames();
        if !network.settings.icc || hairpin {
            changes.set_port(&record.host_link, !network.settings.icc, hairpin);
        }
        host.apply(changes)
    }

    /// Before a container's first port is published.
    pub(super) fn let_back_in(&self, record: &EndpointRecord) -> Result<(), NetError> {
        if record.ports.is_empty() || !filters_bridged_frames() {
            return Ok(());
        }
        let icc = lock(&self.state).network(&record.network)?.settings.icc;
        let mut changes = Changes::default();
        changes.set_port(&record.host_link, !icc, true);
        lock(&self.host).apply(changes).map_err(NetError::kernel(format!("configure {}", record.host_link)))
    }

    /// A port forwards some time after its link came up, and a bridge sends some time after its first port did. Until
    /// then they swallow the container's first packets, which cost it a second each.
    ///
    /// LINUX 6.8: asking for a link's state makes the kernel bring it up to date, so that once is enough.
    fn await_forwarding(&self, record: &EndpointRecord, network: &NetworkRecord) -> io::Result<()> {
        for _ in 0..if network.driver == Driver::Bridge { 40 } else { 0 } {
            let mut host = lock(&self.host);
            if host.link(&record.host_link)?.is_none_or(|l| l.forwarding)
                && host.link(&network.settings.link)?.is_none_or(|l| l.running)
            {
                break;
            }
            drop(host);
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    fn add_macvlan(
        &self,
        record: &EndpointRecord,
        network: &NetworkRecord,
        sandbox: &OpenSandbox,
    ) -> io::Result<()> {
        let mode = match network.settings.macvlan {
            MacvlanMode::Private => 1,
            MacvlanMode::Vepa => 2,
            MacvlanMode::Bridge => 4,
            MacvlanMode::Passthru => 8,
        };
        let mut host = lock(&self.host);
        let parent = host.link(&network.settings.link)?.ok_or(io::ErrorKind::NotFound)?;
        let mut changes = Changes::default();
        changes.add_macvlan(&record.ifname, parent.index, mode, record.mac, sandbox.ns.as_fd());
        host.apply(changes)
    }

    /// Takes an endpoint's link away: at once from a sandbox that has others, else by cutting it off now and leaving
    /// it to the end of its namespace.
    pub(super) fn disconnect(
        &self,
        record: &EndpointRecord,
        last: bool,
        routes: &[DefaultRoute],
    ) -> Result<(), NetError> {
        let kernel = |action: &str| NetError::kernel(format!("{action} {}", record.ifname));
        if record.host_link.is_empty() {
            let outcome = self
                .sandboxes
                .enter(&record.container)
                .and_then(|mut s| delete(&mut s.route, &record.ifname));
            ignore_absent(outcome).map_err(kernel("delete"))?;
        } else {
            if record.rates.outward != 0 {
                self.sandboxes.delete_link_later(record.brake_link());
            }
            let mut host = lock(&self.host);
            let muted = last
                && host
                    .link(&record.host_link)
                    .and_then(|link| {
                        let mut changes = Changes::default();
                        link.iter().for_each(|l| changes.mute_port(l.index));
                        host.apply(changes)
                    })
                    .is_ok();
            if muted {
                self.sandboxes.delete_link_later(record.host_link.clone());
            } else {
                ignore_absent(delete(&mut host, &record.host_link)).map_err(kernel("delete"))?;
            }
        }
        if routes.is_empty() {
            return Ok(());
        }
        let mut sandbox = match self.sandboxes.enter(&record.container) {
            // A sandbox that has gone has no routes.
            Err(error) if is_absent(&error) => return Ok(()),
            entered => entered.map_err(kernel("enter the sandbox of"))?,
        };
        let mut changes = Changes::default();
        for default in routes {
            let link = sandbox.route.link(&default.ifname).map_err(kernel("look up"))?;
            if let Some(link) = link {
                changes.set_default_route(link.index, default.gateway);
            }
        }
        sandbox.route.apply(changes).map_err(kernel("move the default route away from"))
    }
}

/// Inside the sandbox: settings, addresses, up, routes.
fn configure(route: &mut Rtnetlink, record: &EndpointRecord, plan: &Plan) -> io::Result<()> {
    let name = &record.ifname;
    if plan.ipv6 {
        write_setting(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
        write_setting(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    }
    for (path, value) in &plan.settings {
        write_setting(path, value)?;
    }
    let link = route.link(name)?.ok_or(io::ErrorKind::NotFound)?;
    let mut changes = Changes::default();
    for address in &plan.addresses {
        changes.add_address(link.index, *address);
    }
    changes.set_up(link.index);
    if plan.device_route {
        for address in &plan.addresses {
            changes.set_device_route(link.index, address.addr().is_ipv6());
        }
    }
    for default in plan.routes.iter().filter(|_| !plan.device_route) {
        changes.set_default_route(link.index, default.gateway);
    }
    route.apply(changes)
}

/// Mode and flags of ipvlan links.
fn ipvlan_numbers(network: &NetworkRecord) -> (u16, u16) {
    let mode = match network.settings.ipvlan {
        IpvlanMode::L2 => 0,
        IpvlanMode::L3 => 1,
        IpvlanMode::L3s => 2,
    };
    let flag = match network.settings.macvlan {
        MacvlanMode::Private => 1,
        MacvlanMode::Vepa => 2,
        MacvlanMode::Bridge | MacvlanMode::Passthru => 0,
    };
    (mode, flag)
}

fn filters_bridged_frames() -> bool {
    read_setting("net/bridge/bridge-nf-call-iptables").is_ok_and(|v| v == "1")
}

fn delete(route: &mut Rtnetlink, name: &str) -> io::Result<()> {
    let Some(link) = route.link(name)? else { return Ok(()) };
    let mut changes = Changes::default();
    changes.delete_link(link.index);
    route.apply(changes)
}

fn ignore_absent(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

fn bridge_addresses(network: &NetworkRecord) -> Vec<IpNet> {
    let address = |config: &crate::network::IpamConfig| {
        let subnet = config.subnet?;
        let omitted = match subnet {
            IpNet::V4(_) => network.settings.inhibit_v4 || network.settings.mode_v4 == GatewayMode::Isolated,
            IpNet::V6(_) => network.settings.mode_v6 == GatewayMode::Isolated,
        };
        let gateway = config.gateway.filter(|_| !omitted)?;
        IpNet::new(gateway, subnet.prefix_len()).ok()
    };
    network.ipam.iter().filter_map(address).collect()
}

fn is_global(address: IpNet) -> bool {
    match address {
        IpNet::V4(_) => true,
        IpNet::V6(a) => a.addr().segments()[0] & 0xffc0 != 0xfe80,
    }
}

/// A bridge keeps the address it was made with, instead of taking its ports' one after the other.
fn mac_of(id: &Id) -> Mac {
    let number = u32::from_str_radix(&id.as_str()[..8], 16).expect("an id is hexadecimal").to_be_bytes();
    Mac([0x02, 0x42, number[0], number[1], number[2], number[3]])
}
