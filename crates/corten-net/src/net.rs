//! The handle of the crate: takes requests, decides under one lock, acts outside of it.
//!
//! Locks, always taken in this order and never across a wait for another thread: `state`, `host` (rtnetlink of the
//! host), `filter` (the nft table), `foreign` (everybody else's).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_base::Id;
use ipnet::IpNet;

use crate::config::{AddressPool, HostRules, NetConfig};
use crate::conntrack::{self, Change};
use crate::dns::Dns;
use crate::endpoint::{
    EndpointRecord, EndpointSpec, InterfaceStats, Opening, PortRecord, PortSpec, Protocol, Rates, SandboxSpec,
};
use crate::error::NetError;
use crate::ipam;
use crate::network::{Driver, IpamConfig, NetworkRecord, NetworkSpec};
use crate::nft::{Table, TableFamily};
use crate::plan;
use crate::relay::Relay;
use crate::route::Rtnetlink;
use crate::sandbox::{Sandboxes, read_setting, write_setting};
use crate::state::State;
use foreign::Foreign;
use watch::Watch;

mod brake;
mod foreign;
mod link;
mod restore;
mod watch;

/// Networks, sandboxes, endpoints and ports of one daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Net(
    Arc<Inner>,
    #[expect(dead_code, reason = "ends the thread with the last handle")] Arc<Option<Watch>>,
);

#[derive(Debug)]
struct Inner {
    config: NetConfig,
    pools: Vec<AddressPool>,
    mtu: u32,
    state: Mutex<State>,
    host: Mutex<Rtnetlink>,
    filter: Option<Mutex<Table>>,
    foreign: Option<Mutex<Foreign>>,
    /// The table of an earlier daemon stays as it is until [`Net::restore`] says what belongs in it.
    waiting: AtomicBool,
    /// Whether forwarding was off before us.
    no_routing: bool,
    sandboxes: Sandboxes,
    dns: Dns,
    relay: Relay,
}

impl Net {
    /// Opens the kernel interfaces in the calling thread's network namespace, switches forwarding on and makes the
    /// daemon's nft table.
    pub fn open(config: NetConfig) -> Result<Self, NetError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if config.instance.is_empty() || config.instance.len() > 16 || !config.instance.bytes().all(plain) {
            return Err(NetError::InvalidInstance { name: config.instance });
        }
        if config.firewall && foreign::has_legacy_rules() {
            if config.host_rules == HostRules::Respect {
                return Err(NetError::LegacyRules);
            }
            tracing::warn!(
                "this host has rules of iptables-legacy: see docs/networking.md for what they need"
            );
        }
        let kernel = |action: &'static str| NetError::kernel(action);
        let mut host = Rtnetlink::open().map_err(kernel("open rtnetlink"))?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => host.default_mtu().map_err(kernel("find the default route's MTU"))?,
        };
        let mut no_routing = false;
        if config.ip_forward {
            no_routing =
                !config.ip_forward_no_drop && read_setting("net/ipv4/ip_forward").is_ok_and(|v| v == "0");
            ensure_setting("net/ipv4/ip_forward", "1").map_err(kernel("switch on IP forwarding"))?;
        }
        let mut waiting = false;
        let filter = if config.firewall {
            let name = format!("corten-{}", config.instance);
            let mut table = Table::open(TableFamily::Inet, name).map_err(kernel("open nftables"))?;
            waiting = table.exists().map_err(kernel("look for the nft table"))?;
            table.ensure(config.exclusive_rules).map_err(kernel("make the nft table"))?;
            let before = table.drops_by_default(plan::ROUTING).map_err(kernel("look for our chains"))?;
            if no_routing {
                table.commit(&plan::no_routing()).map_err(kernel("make the nft rules"))?;
            }
            no_routing |= before == Some(true);
            if !waiting {
                table
                    .commit(&plan::ruleset(&[], true, config.accept_mark))
                    .map_err(kernel("make the nft rules"))?;
            }
            Some(Mutex::new(table))
        } else {
            None
        };
        let foreign = match &filter {
            Some(_) => {
                let respect = config.host_rules == HostRules::Respect;
                let foreign = Foreign::open(format!("corten-{}", config.instance), respect);
                Some(Mutex::new(foreign.map_err(kernel("open nftables"))?))
            }
            None => None,
        };
        let directory = config.exec_root.join("netns");
        let worker = Rtnetlink::open().map_err(kernel("open rtnetlink"))?;
        let sandboxes = Sandboxes::open(directory.clone(), config.ready_sandboxes, worker)
            .map_err(kernel("start the thread of the sandboxes"))?;
        let dns = Dns::open(directory).map_err(kernel("prepare the name server"))?;
        let mut pools = if config.address_pools.is_empty() {
            ipam::default_pools()
        } else {
            config.address_pools.clone()
        };
        if !pools.iter().any(|p| matches!(p.base, IpNet::V6(_))) {
            pools.push(ipam::unique_local_pool(config.instance.as_bytes()));
        }
        let mut state = State::new(config.firewall);
        state.direct = config.direct_routing;
        state.ports.relayed = config.relay;
        let state = Mutex::new(state);
        let (host, waiting) = (Mutex::new(host), AtomicBool::new(waiting));
        let inner = Arc::new(Inner {
            config,
            pools,
            mtu,
            state,
            host,
            filter,
            foreign,
            waiting,
            no_routing,
            sandboxes,
            dns,
            relay: Relay::default(),
        });
        let watch = Watch::start(&inner).map_err(kernel("watch the packet filter"))?;
        Ok(Self(inner, Arc::new(watch)))
    }

    /// Makes the default bridge network under this id, or takes over the link that is there; `None` for
    /// `--bridge=none`.
    pub fn ensure_default_network(&self, id: Id) -> Result<Option<NetworkRecord>, NetError> {
        let Some(mut spec) = self.0.config.default_network(id) else { return Ok(None) };
        if let Some(mtu) = spec.options.get_mut(crate::network::option::MTU) {
            *mtu = self.0.config.mtu.unwrap_or(self.0.mtu).to_string();
        }
        if !spec.ipam.iter().any(|c| matches!(c.subnet, Some(IpNet::V4(_)))) {
            spec.ipam.extend(self.present_subnet(&spec)?);
        }
        self.create(spec, true).map(Some)
    }

    /// Validates the wish, picks subnets, makes the link and the rules.
    pub fn create_network(&self, spec: NetworkSpec) -> Result<NetworkRecord, NetError> {
        self.create(spec, false)
    }

    fn create(&self, spec: NetworkSpec, routes_are_ours: bool) -> Result<NetworkRecord, NetError> {
        let routes = lock(&self.0.host).routes().map_err(NetError::kernel("list routes"))?;
        let own = self.own_link(&spec, routes_are_ours)?;
        let avoid: Vec<IpNet> = routes
            .iter()
            .filter(|r| r.destination.prefix_len() != 0 && (own.is_none() || r.link != own))
            .map(|r| r.destination)
            .collect();
        let record = lock(&self.0.state).add_network(spec, &self.0.pools, &avoid)?;
        let made = self.0.ensure_link(&record).and_then(|()| self.0.commit_rules());
        if let Err(error) = made {
            // The first error is the one to tell; what cannot be undone now is swept away at the next start.
            let _ = self.remove_network(&record.id);
            return Err(error);
        }
        Ok(record)
    }

    /// The IPv4 subnet that the default bridge has already.
    fn present_subnet(&self, spec: &NetworkSpec) -> Result<Option<IpamConfig>, NetError> {
        let Some(index) = self.own_link(spec, true)? else { return Ok(None) };
        let addresses = lock(&self.0.host).addresses_of(index).map_err(NetError::kernel("list addresses"))?;
        let v4 = addresses.into_iter().find(|a| matches!(a, IpNet::V4(_)) && a.prefix_len() < 31);
        Ok(v4.map(|a| IpamConfig {
            subnet: Some(a.trunc()),
            gateway: Some(a.addr()),
            ..IpamConfig::default()
        }))
    }

    /// The default bridge's own routes are no reason to avoid its subnet.
    fn own_link(&self, spec: &NetworkSpec, wanted: bool) -> Result<Option<u32>, NetError> {
        let name = spec.options.get(crate::network::option::BRIDGE_NAME).filter(|_| wanted);
        let Some(name) = name else { return Ok(None) };
        let link = lock(&self.0.host).link(name).map_err(NetError::kernel(format!("look up {name}")))?;
        Ok(link.map(|l| l.index))
    }

    /// Takes the link and the rules away; refuses while endpoints are attached. Unknown networks are no error.
    pub fn remove_network(&self, network: &Id) -> Result<(), NetError> {
        let Some(record) = lock(&self.0.state).forget_network(network)? else { return Ok(()) };
        self.0.commit_rules()?;
        self.0.ensure_no_link(&record)
    }

    /// A network namespace with `lo` up for the container; the path of its file. Idempotent. The settings that Docker
    /// gives every container are made there: unprivileged ports start at 0, everybody may ping.
    pub fn ensure_sandbox(&self, spec: SandboxSpec) -> Result<PathBuf, NetError> {
        let made = self.0.sandboxes.ensure(&spec.container, spec.users.as_ref());
        let path = made.map_err(NetError::kernel("make a network namespace"))?;
        lock(&self.0.state).sandboxes.insert(spec.container.clone(), spec);
        Ok(path)
    }

    /// Forgets the container's namespace, and endpoints that still are in it. Idempotent. The file itself goes a moment
    /// later.
    pub fn ensure_no_sandbox(&self, container: &Id) -> Result<(), NetError> {
        let left: Vec<EndpointRecord> = lock(&self.0.state).endpoints_of(container).cloned().collect();
        for endpoint in &left {
            self.detach(endpoint)?;
        }
        lock(&self.0.state).sandboxes.remove(container);
        self.0.dns.stop(container);
        self.0.sandboxes.ensure_none(container);
        Ok(())
    }

    /// The sockets that the sandbox's names are asked for on; none where they are not served. Whoever keeps them while
    /// no daemon runs keeps the questions: [`Net::restore`] takes them up.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn name_sockets(&self, container: &Id) -> io::Result<Vec<OwnedFd>> {
        self.0.dns.sockets(container)
    }

    /// Where the container's namespace is (`NetworkSettings.SandboxKey`), whether or not it exists.
    #[must_use]
    pub fn sandbox_path(&self, container: &Id) -> PathBuf {
        self.0.sandboxes.path(container)
    }

    /// Connects a sandbox to a network: address, link, routes, ports, names. All or nothing.
    pub fn attach(&self, spec: EndpointSpec) -> Result<EndpointRecord, NetError> {
        let settings = link::parse_sysctls(&spec.sysctls)?;
        let (record, network, plan) = {
            let mut state = lock(&self.0.state);
            let record = state.add_endpoint(&spec)?;
            let network = state.network(&spec.network)?.clone();
            let mut plan = link::Plan::new(&state, &record, &network, self.0.mtu, settings);
            if spec.mac.is_some() {
                // Other hardware addresses follow from the IP address, and nobody has anything to unlearn.
                plan.announce(&record, &network);
            }
            plan.add_link_local(&spec.link_local);
            (record, network, plan)
        };
        let connected = self
            .0
            .connect(&record, &network, plan)
            .and_then(|()| self.0.open_ports(&record))
            .and_then(|()| self.0.open_links(&network));
        if let Err(error) = connected {
            // As above: the first error is the one to tell.
            let _ = self.detach(&record);
            return Err(error);
        }
        Ok(record)
    }

    /// Disconnects it. Idempotent. In a sandbox that has no other endpoint the link goes behind the caller's back.
    pub fn detach(&self, endpoint: &EndpointRecord) -> Result<(), NetError> {
        let (publications, relayed, last, routes) = {
            let mut state = lock(&self.0.state);
            let Some(known) = state.endpoints.get(&endpoint.id).cloned() else { return Ok(()) };
            let publications = state.publications(&known);
            let relayed = state.relayed(&known).into_iter().map(|line| line.port).collect();
            let before = link::default_routes(&state, &known.container);
            // Addresses and ports stay taken until nothing leads to them any more; the record goes first, so that
            // the routes of the others can be worked out.
            state.endpoints.remove(&endpoint.id);
            let last = state.endpoints_of(&known.container).next().is_none();
            let routes = link::changed_routes(&before, &link::default_routes(&state, &known.container));
            state.endpoints.insert(known.id.clone(), known);
            (publications, relayed, last, routes)
        };
        self.0.dns.forget(&endpoint.network, &endpoint.id);
        let closed = self.0.close_ports(&publications);
        self.0.relay.close(relayed);
        let cut = self.0.disconnect(endpoint, last, &routes);
        let mut state = lock(&self.0.state);
        state.forget_endpoint(&endpoint.id);
        let view = link::view(&state, &endpoint.container);
        let network = state.networks.get(&endpoint.network).cloned();
        drop(state);
        self.0.dns.set_view(&endpoint.container, view);
        let unlinked = network.map_or(Ok(()), |network| self.0.open_links(&network));
        closed.and(cut).and(unlinked)
    }

    /// Changes the published ports of an endpoint while its container runs: all of it, or nothing.
    pub fn republish(
        &self,
        endpoint: &Id,
        drop: &[PortRecord],
        add: &[PortSpec],
    ) -> Result<EndpointRecord, NetError> {
        let (before, after, closed, opened, relayed) = {
            let mut state = lock(&self.0.state);
            let (before, after) = state.change_ports(endpoint, drop, add)?;
            let (old, new) = (state.publications(&before), state.publications(&after));
            let closed: Vec<_> = old.iter().filter(|p| !new.contains(p)).cloned().collect();
            let opened: Vec<_> = new.into_iter().filter(|p| !old.contains(p)).collect();
            let relayed = [state.relayed(&before), state.relayed(&after)];
            (before, after, closed, opened, relayed)
        };
        let done = self.0.let_back_in(&after).and_then(|()| self.0.change_ports(&closed, &opened));
        let [old, new] = relayed;
        let done = done.and_then(|()| {
            let gone = old.iter().map(|l| l.port).filter(|port| new.iter().all(|l| l.port != *port));
            self.0.relay.close(gone.collect());
            let fresh = new.into_iter().filter(|l| old.iter().all(|o| o.port != l.port)).collect();
            self.0.relay.open(fresh).map_err(NetError::kernel("carry published IPv6 ports"))
        });
        let mut state = lock(&self.0.state);
        match done {
            Ok(()) => state.settle_ports(&after, &before),
            Err(error) => {
                state.settle_ports(&before, &after);
                return Err(error);
            }
        }
        Ok(after)
    }

    /// Other openings for an endpoint.
    pub fn set_openings(&self, endpoint: &Id, openings: Vec<Opening>) -> Result<EndpointRecord, NetError> {
        let (record, network) = {
            let mut state = lock(&self.0.state);
            let known = state
                .endpoints
                .get_mut(endpoint)
                .ok_or_else(|| NetError::NoEndpoint { id: endpoint.clone() })?;
            known.openings = openings;
            let record = known.clone();
            let network = state.network(&record.network)?.clone();
            (record, network)
        };
        self.0.open_links(&network)?;
        Ok(record)
    }

    /// Other limits for an endpoint's link.
    pub fn set_rates(&self, endpoint: &Id, rates: Rates) -> Result<EndpointRecord, NetError> {
        let (record, network) = {
            let state = lock(&self.0.state);
            let record = state.endpoints.get(endpoint).cloned();
            let record = record.ok_or_else(|| NetError::NoEndpoint { id: endpoint.clone() })?;
            let network = state.network(&record.network)?.clone();
            (record, network)
        };
        if network.driver != Driver::Bridge {
            return if rates.is_unlimited() {
                Ok(record)
            } else {
                Err(NetError::NoRates { network: network.name })
            };
        }
        self.0.limit(&record, rates).map_err(NetError::kernel(format!("limit {}", record.ifname)))?;
        let mut state = lock(&self.0.state);
        let known =
            state.endpoints.get_mut(endpoint).ok_or_else(|| NetError::NoEndpoint { id: endpoint.clone() })?;
        known.rates = rates;
        Ok(known.clone())
    }

    /// Replaces the names that others find the endpoint by (after a rename).
    pub fn rename_endpoint(&self, endpoint: &Id, name: &str, dns_names: &[String]) {
        let mut state = lock(&self.0.state);
        let Some(record) = state.endpoints.get_mut(endpoint) else { return };
        record.name = name.to_owned();
        record.dns_names = dns_names.to_vec();
        let record = record.clone();
        let network =
            state.networks.get(&record.network).filter(|n| n.resolves_names()).map(|n| n.name.clone());
        drop(state);
        if let Some(network) = network {
            self.0.dns.announce(&record, &network);
        }
    }

    /// Counters of the container's links, without `lo`.
    pub fn interface_stats(&self, container: &Id) -> Result<Vec<InterfaceStats>, NetError> {
        let mut endpoints: Vec<(String, String)> = lock(&self.0.state)
            .endpoints_of(container)
            .map(|e| (e.ifname.clone(), e.host_link.clone()))
            .collect();
        endpoints.sort();
        let mut stats = Vec::new();
        for (name, host_link) in endpoints {
            let kernel = || NetError::kernel(format!("read counters of {name}"));
            // The host's end of a pair tells the same, mirrored, and is quicker to get at.
            let link = if host_link.is_empty() {
                let inside = self.0.sandboxes.enter(container).and_then(|mut s| s.route.link(&name));
                inside.map_err(kernel())?.map(|l| counters(name.clone(), l.counters))
            } else {
                let outside = lock(&self.0.host).link(&host_link);
                outside.map_err(kernel())?.map(|l| counters(name.clone(), mirrored(l.counters)))
            };
            stats.extend(link);
        }
        Ok(stats)
    }

    /// Makes the daemon's rules again if somebody removed them; true if it had to.
    pub fn verify(&self) -> Result<bool, NetError> {
        let Some(filter) = &self.0.filter else { return Ok(false) };
        let state = lock(&self.0.state);
        let networks: Vec<&NetworkRecord> = state.networks.values().collect();
        let routing = if self.0.no_routing { plan::no_routing() } else { Vec::new() };
        let expected = plan::rule_count(&plan::ruleset(&networks, false, self.0.config.accept_mark))
            + plan::rule_count(&routing);
        let mut table = lock(filter);
        if table.is_intact(expected).map_err(NetError::kernel("read the nft table"))? {
            return Ok(false);
        }
        drop(table);
        drop(state);
        self.0.commit_everything()?;
        Ok(true)
    }

    /// Takes the nft table and the bridges away if no container is attached to anything: for a daemon that ends in
    /// order. True if it did. Nothing can be done with this `Net` afterwards but dropping it.
    pub fn retire(&self) -> Result<bool, NetError> {
        let mut state = lock(&self.0.state);
        if !state.endpoints.is_empty() {
            return Ok(false);
        }
        if let Some(filter) = &self.0.filter {
            lock(filter).remove().map_err(NetError::kernel("remove the nft table"))?;
        }
        if let Some(foreign) = &self.0.foreign {
            lock(foreign).leave();
        }
        for network in std::mem::take(&mut state.networks).values() {
            self.0.ensure_no_link(network)?;
        }
        Ok(true)
    }
}

impl Inner {
    /// The rules for the networks as they are now; ports stay.
    fn commit_rules(&self) -> Result<(), NetError> {
        let Some(filter) = self.ready_filter() else { return Ok(()) };
        let state = lock(&self.state);
        let networks: Vec<&NetworkRecord> = state.networks.values().collect();
        let commands = plan::ruleset(&networks, false, self.config.accept_mark);
        lock(filter).commit(&commands).map_err(NetError::kernel("make the nft rules"))?;
        self.be_admitted(&networks);
        Ok(())
    }

    /// Our bridges' traffic passes other programs' forward chains.
    fn be_admitted(&self, networks: &[&NetworkRecord]) {
        let Some(foreign) = &self.foreign else { return };
        let bridges = networks.iter().filter(|n| n.driver == Driver::Bridge);
        let links: Vec<&str> = bridges.map(|n| n.settings.link.as_str()).collect();
        lock(foreign).settle(&links);
    }

    /// Another program changed its tables.
    fn others_changed(&self) -> Result<(), NetError> {
        let state = lock(&self.state);
        self.be_admitted(&state.networks.values().collect::<Vec<_>>());
        self.follow_host_rules(&state, None)
    }

    /// With `--firewall=respect`: what the host's rules say of a port of the host, they say of published ports too.
    /// `coming`: ports that are about to be published; whatever is not guarded yet must not be open.
    fn follow_host_rules(&self, state: &State, coming: Option<&[plan::Publication]>) -> Result<(), NetError> {
        let Some(foreign) = &self.foreign else { return Ok(()) };
        let mut foreign = lock(foreign);
        if coming.is_some() && !foreign.respects() {
            return Ok(());
        }
        let present = state.endpoints.values().flat_map(|e| state.publications(e));
        let all = present.chain(coming.into_iter().flatten().cloned()).filter(|p| !p.routed);
        let numbers = all.flat_map(|p| p.host_ports().map(move |n| (p.protocol, n)));
        let published: BTreeSet<(Protocol, u16)> = numbers.collect();
        let published: Vec<(Protocol, u16)> = published.into_iter().collect();
        foreign.copy(&published).map_err(NetError::kernel("copy the host's packet filter rules"))
    }

    /// The rules and all ports, whatever there was before.
    fn commit_everything(&self) -> Result<(), NetError> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let state = lock(&self.state);
        let networks: Vec<&NetworkRecord> = state.networks.values().collect();
        let mut commands = plan::ruleset(&networks, true, self.config.accept_mark);
        if self.no_routing {
            commands.extend(plan::no_routing());
        }
        let ports: Vec<plan::Publication> =
            state.endpoints.values().flat_map(|e| state.publications(e)).collect();
        commands.extend(plan::publish(&ports));
        commands.extend(plan::open_links(&state.openings()));
        self.follow_host_rules(&state, None)?;
        let mut table = lock(filter);
        table.ensure(self.config.exclusive_rules).map_err(NetError::kernel("make the nft table"))?;
        table.commit(&commands).map_err(NetError::kernel("make the nft rules"))?;
        drop(table);
        self.waiting.store(false, Ordering::Relaxed);
        self.be_admitted(&networks);
        Ok(())
    }

    fn ready_filter(&self) -> Option<&Mutex<Table>> {
        self.filter.as_ref().filter(|_| !self.waiting.load(Ordering::Relaxed))
    }

    fn open_ports(&self, record: &EndpointRecord) -> Result<(), NetError> {
        let (publications, relayed) = {
            let state = lock(&self.state);
            (state.publications(record), state.relayed(record))
        };
        self.change_ports(&[], &publications)?;
        self.relay.open(relayed).map_err(NetError::kernel("carry published IPv6 ports"))
    }

    /// After an endpoint of this network came, went or changed: what is open between linked containers.
    fn open_links(&self, network: &NetworkRecord) -> Result<(), NetError> {
        let Some(filter) = self.ready_filter().filter(|_| network.opens_links()) else { return Ok(()) };
        let state = lock(&self.state);
        lock(filter).commit(&plan::open_links(&state.openings())).map_err(NetError::kernel("open links"))
    }

    /// One change of the packet filter, whatever the number of ports.
    fn change_ports(
        &self,
        closed: &[plan::Publication],
        publications: &[plan::Publication],
    ) -> Result<(), NetError> {
        if publications.is_empty() {
            return self.close_ports(closed);
        }
        let Some(filter) = self.ready_filter() else { return Ok(()) };
        self.follow_host_rules(&lock(&self.state), Some(publications))?;
        let mut commands = plan::unpublish(closed);
        commands.extend(plan::publish(publications));
        lock(filter).commit(&commands).map_err(NetError::kernel("publish ports"))?;
        if has_udp(closed) {
            conntrack::forget(closed, Change::Unpublished)
                .map_err(NetError::kernel("forget earlier connections"))?;
        }
        if has_udp(publications) {
            let addresses = lock(&self.host).addresses().map_err(NetError::kernel("list addresses"))?;
            let addresses: Vec<IpAddr> = addresses.into_iter().map(|(_, net)| net.addr()).collect();
            conntrack::forget(publications, Change::Published(&addresses))
                .map_err(NetError::kernel("forget earlier connections"))?;
        }
        Ok(())
    }

    fn close_ports(&self, publications: &[plan::Publication]) -> Result<(), NetError> {
        let Some(filter) = self.ready_filter().filter(|_| !publications.is_empty()) else { return Ok(()) };
        match lock(filter).commit(&plan::unpublish(publications)) {
            // Not published yet, when an attachment is undone; or somebody flushed the table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome.map_err(NetError::kernel("take published ports back"))?,
        }
        if has_udp(publications) {
            conntrack::forget(publications, Change::Unpublished)
                .map_err(NetError::kernel("forget earlier connections"))?;
        }
        Ok(())
    }
}

fn has_udp(publications: &[plan::Publication]) -> bool {
    publications.iter().any(|p| p.protocol == Protocol::Udp)
}

/// In the kernel's order.
fn counters(name: String, counters: [u64; 8]) -> InterfaceStats {
    let [rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped] = counters;
    InterfaceStats {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    }
}

/// One side of a pair as the other sees it: received and sent change places.
fn mirrored(counters: [u64; 8]) -> [u64; 8] {
    let [a, b, c, d, e, f, g, h] = counters;
    [b, a, d, c, f, e, h, g]
}

/// Writes a setting of the host unless it is so already (it may be read-only then).
fn ensure_setting(path: &str, value: &str) -> io::Result<()> {
    if read_setting(path).is_ok_and(|v| v == value) { Ok(()) } else { write_setting(path, value) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is kept consistent by plain assignments; a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
