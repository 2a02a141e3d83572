//! The packet filter as a function of the networks and published ports. Pure: makes commands, carries out none.
//!
//! ```text
//! table inet corten-<instance>
//!   guard       prerouting, raw     127.0.0.0/8 from our bridges: drop (their route_localnet lets it in otherwise)
//!   published   prerouting, dstnat  (address, protocol, port) or (protocol, port) of this host → container
//!   local       output, dstnat      the same for connections of the host itself, 127.0.0.1 included
//!   outgoing    postrouting, srcnat masquerade what leaves a subnet, what comes from 127.0.0.1, and hairpins
//!   routing     forward, filter     only where we switched forwarding on: drop what is neither from nor to a container
//!   forward     forward, filter     established; same bridge; linked; internal: nothing; published; the rest into a bridge
//!                                   is dropped, out of a bridge accepted
//! ```
//!
//! INVARIANT: rules change with networks, elements with ports. Publishing a port is one element added to a map, and so is
//! publishing thousands in a row.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::FirewallMark;
use crate::endpoint::Protocol;
use crate::network::{Driver, GatewayMode, NetworkRecord};
use crate::nft::shorthand::{
    accept, among, deny, destination, established, in_link, in_link_among, ipv4, ipv4_pair, ipv6, link_key,
    link_pair, loopback_destination, loopback_source, member, not_loopback_destination,
    not_loopback_destination_v6, octets, out_link, out_link_among, padded, rule, service, source_within,
    to_this_host, was_translated,
};
use crate::nft::{Base, ChainKind, Command, Element, Expr, Field, Hook, Meta, Value};

const GUARD: &str = "guard";
const PUBLISHED: &str = "published";
const LOCAL: &str = "local";
const OUTGOING: &str = "outgoing";
const FORWARD: &str = "forward";

/// Links of all networks.
const BRIDGES: &str = "bridges";
/// Links of internal networks.
const INTERNAL: &str = "internal";
/// Pairs of links between which everything passes: a bridge and itself, a trusted link and a bridge.
const OPEN: &str = "open";
/// Links whose containers can be reached directly, by family.
const DIRECT: [&str; 2] = ["direct4", "direct6"];
/// Address, protocol and port of containers that are reached without translation.
const ROUTED: [&str; 2] = ["routed4", "routed6"];
/// Link and link, address and address, protocol and port: what is open between two containers of a network in which
/// containers otherwise do not reach each other.
const LINKED: &str = "linked";
/// Published ports with a host address, by family.
const BY_ADDRESS: [&str; 2] = ["ports4", "ports6"];
/// Published ports of all host addresses, by family.
const ANYWHERE: [&str; 2] = ["anyports4", "anyports6"];

/// Ports in a row that keep their numbers, by address and by family: one interval each.
const RANGES: [&str; 2] = ["ranges4", "ranges6"];
const ANY_RANGES: [&str; 2] = ["anyranges4", "anyranges6"];
/// So many in a row are worth an interval.
pub(crate) const ROW: u16 = 16;

/// A published port, or a row of them, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) protocol: Protocol,
    pub(crate) host_ip: IpAddr,
    pub(crate) host_port: u16,
    pub(crate) container_ip: IpAddr,
    pub(crate) container_port: u16,
    /// How many ports from these on; more than one only where the numbers are the same.
    pub(crate) count: u16,
    /// No translation: the port is opened instead.
    pub(crate) routed: bool,
    /// It is opened as well.
    pub(crate) direct: bool,
}

/// Puts ports together that are in a row and keep their numbers, where that is worth it.
pub(crate) fn in_rows(mut ports: Vec<Publication>) -> Vec<Publication> {
    if ports.len() < usize::from(ROW) {
        return ports;
    }
    ports.sort_by_key(|p| (p.protocol, p.host_ip, p.container_ip, p.host_port));
    let mut rows: Vec<Publication> = Vec::new();
    for port in ports {
        let keeps = port.host_port == port.container_port;
        match rows.last_mut() {
            Some(row) if keeps && row.is_followed_by(&port) => row.count += 1,
            _ => rows.push(port),
        }
    }
    let single = |row: Publication| {
        (0..row.count).map(move |n| Publication {
            host_port: row.host_port + n,
            container_port: row.container_port + n,
            count: 1,
            ..row.clone()
        })
    };
    let (rows, short): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.count >= ROW);
    rows.into_iter().chain(short.into_iter().flat_map(single)).collect()
}

impl Publication {
    fn is_followed_by(&self, next: &Self) -> bool {
        let place = |p: &Self| (p.protocol, p.host_ip, p.container_ip, p.routed);
        place(self) == place(next)
            && self.host_port == self.container_port
            && self.host_port.checked_add(self.count) == Some(next.host_port)
    }

    /// The numbers on the host.
    pub(crate) fn host_ports(&self) -> std::ops::RangeInclusive<u16> {
        self.host_port..=self.host_port + (self.count - 1)
    }
}

/// Everything: chains and sets where they are missing, the rules for these networks, no ports yet if `reset`.
pub(crate) fn ruleset(
    networks: &[&NetworkRecord],
    reset: bool,
    accept_mark: Option<FirewallMark>,
) -> Vec<Command> {
    let mut commands = frame();
    for chain in [GUARD, PUBLISHED, LOCAL, OUTGOING, FORWARD] {
        commands.push(Command::FlushChain { chain });
    }
    for set in [BRIDGES, INTERNAL, OPEN, DIRECT[0], DIRECT[1]] {
        commands.push(Command::FlushSet { set });
    }
    if reset {
        for set in [ROUTED, BY_ADDRESS, ANYWHERE, RANGES, ANY_RANGES].concat() {
            commands.push(Command::FlushSet { set });
        }
    }
    let bridges: Vec<&NetworkRecord> =
        networks.iter().copied().filter(|n| n.driver == Driver::Bridge).collect();
    commands.extend(links(&bridges));
    commands.push(rule(GUARD, [in_link_among(BRIDGES), ipv4(), loopback_destination(), deny()]));
    for chain in [PUBLISHED, LOCAL] {
        commands.extend(translation(chain));
    }
    commands
        .push(rule(OUTGOING, [out_link_among(BRIDGES), ipv4(), loopback_source(), vec![Expr::Masquerade]]));
    for network in &bridges {
        commands.extend(outgoing(network));
    }
    commands.extend(forwarding(&bridges, accept_mark));
    commands
}

/// How many rules these commands make.
pub(crate) fn rule_count(commands: &[Command]) -> usize {
    commands.iter().filter(|c| matches!(c, Command::Rule { .. })).count()
}

/// Adds ports.
pub(crate) fn publish(ports: &[Publication]) -> Vec<Command> {
    by_set(ports).map(|(set, elements)| Command::Add { set, elements }).collect()
}

/// Takes ports away.
pub(crate) fn unpublish(ports: &[Publication]) -> Vec<Command> {
    by_set(ports).map(|(set, elements)| Command::Remove { set, elements }).collect()
}

/// A port that is open between two containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) link: String,
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Opens these ports between containers, and no others.
pub(crate) fn open_links(opened: &[Opened]) -> Vec<Command> {
    let element = |o: &Opened| {
        let addresses = [o.source.octets(), o.destination.octets()].concat();
        let service = [padded(&[o.protocol.number()]), padded(&o.port.to_be_bytes())].concat();
        member([link_key(&o.link), link_key(&o.link), addresses, service].concat())
    };
    let mut elements: Vec<Element> = opened.iter().map(element).collect();
    // A container that is linked to another one under two names is linked once.
    elements.sort_by(|a, b| a.key.cmp(&b.key));
    elements.dedup_by(|a, b| a.key == b.key);
    let mut commands = vec![Command::FlushSet { set: LINKED }];
    if !elements.is_empty() {
        commands.push(Command::Add { set: LINKED, elements });
    }
    commands
}

fn by_set(ports: &[Publication]) -> impl Iterator<Item = (&'static str, Vec<Element>)> {
    [ROUTED, BY_ADDRESS, ANYWHERE, RANGES, ANY_RANGES]
        .concat()
        .into_iter()
        .map(|set| {
            let own = ports.iter().flat_map(elements).filter(|(s, _)| *s == set).map(|(_, e)| e);
            let mut own: Vec<Element> = own.collect();
            // A container's port that is published twice is opened once.
            own.sort_by(|a, b| a.key.cmp(&b.key));
            own.dedup_by(|a, b| a.key == b.key);
            (set, own)
        })
        .filter(|(_, elements)| !elements.is_empty())
}

fn elements(port: &Publication) -> impl Iterator<Item = (&'static str, Element)> {
    let opened = (port.direct && !port.routed).then(|| Publication { routed: true, ..port.clone() });
    let rows = std::iter::once(port.clone()).chain(opened);
    rows.flat_map(|row| {
        // What is not translated is opened one by one.
        let single = |n: u16| Publication {
            host_port: row.host_port + n,
            container_port: row.container_port + n,
            count: 1,
            ..row.clone()
        };
        let parts: Vec<Publication> =
            if row.routed { (0..row.count).map(single).collect() } else { vec![row] };
        parts.into_iter().map(|p| element(&p))
    })
}

fn element(port: &Publication) -> (&'static str, Element) {
    let family = usize::from(port.container_ip.is_ipv6());
    let service = |number: u16| [padded(&[port.protocol.number()]), padded(&number.to_be_bytes())].concat();
    if port.routed {
        let key = [octets(port.container_ip), service(port.container_port)].concat();
        return (ROUTED[family], member(key));
    }
    if port.count > 1 {
        let last = service(port.host_port + (port.count - 1));
        let (set, address) = match port.host_ip.is_unspecified() {
            true => (ANY_RANGES, Vec::new()),
            false => (RANGES, octets(port.host_ip)),
        };
        let key = [address.clone(), service(port.host_port)].concat();
        let end = Some([address, last].concat());
        return (set[family], Element { key, end, value: Some(octets(port.container_ip)) });
    }
    let target = [octets(port.container_ip), padded(&port.container_port.to_be_bytes())].concat();
    let value = Some(target);
    if port.host_ip.is_unspecified() {
        (ANYWHERE[family], Element { key: service(port.host_port), end: None, value })
    } else {
        let key = [octets(port.host_ip), service(port.host_port)].concat();
        (BY_ADDRESS[family], Element { key, end: None, value })
    }
}

/// Chains and sets.
fn frame() -> Vec<Command> {
    use Field::{Ipv4, Ipv6, Link, Port, Protocol as L4};
    let chain = |name, kind, hook, priority| Command::Chain { name, kind, hook, priority, drops: false };
    let set = |name, key, value| Command::Set { name, key, value };
    let intervals = |name, key, value| Command::Intervals { name, key, value };
    vec![
        chain(GUARD, ChainKind::Filter, Hook::Prerouting, -300),
        chain(PUBLISHED, ChainKind::Nat, Hook::Prerouting, -100),
        chain(LOCAL, ChainKind::Nat, Hook::Output, -100),
        chain(OUTGOING, ChainKind::Nat, Hook::Postrouting, 100),
        chain(FORWARD, ChainKind::Filter, Hook::Forward, 0),
        set(BRIDGES, &[Link], Value::Nothing),
        set(INTERNAL, &[Link], Value::Nothing),
        set(OPEN, &[Link, Link], Value::Nothing),
        set(DIRECT[0], &[Link], Value::Nothing),
        set(DIRECT[1], &[Link], Value::Nothing),
        set(LINKED, &[Link, Link, Ipv4, Ipv4, L4, Port], Value::Nothing),
        set(ROUTED[0], &[Ipv4, L4, Port], Value::Nothing),
        set(ROUTED[1], &[Ipv6, L4, Port], Value::Nothing),
        set(BY_ADDRESS[0], &[Ipv4, L4, Port], Value::Fields(&[Ipv4, Port])),
        set(BY_ADDRESS[1], &[Ipv6, L4, Port], Value::Fields(&[Ipv6, Port])),
        set(ANYWHERE[0], &[L4, Port], Value::Fields(&[Ipv4, Port])),
        set(ANYWHERE[1], &[L4, Port], Value::Fields(&[Ipv6, Port])),
        intervals(RANGES[0], &[Ipv4, L4, Port], Value::Fields(&[Ipv4])),
        intervals(RANGES[1], &[Ipv6, L4, Port], Value::Fields(&[Ipv6])),
        intervals(ANY_RANGES[0], &[L4, Port], Value::Fields(&[Ipv4])),
        intervals(ANY_RANGES[1], &[L4, Port], Value::Fields(&[Ipv6])),
    ]
}

fn links(bridges: &[&NetworkRecord]) -> Vec<Command> {
    let mut sets: [(&'static str, Vec<Element>); 5] =
        [BRIDGES, INTERNAL, OPEN, DIRECT[0], DIRECT[1]].map(|name| (name, Vec::new()));
    for network in bridges {
        let link = link_key(&network.settings.link);
        sets[0].1.push(member(link.clone()));
        if network.internal {
            sets[1].1.push(member(link.clone()));
        }
        if network.settings.icc {
            sets[2].1.push(member([link.clone(), link.clone()].concat()));
        }
        for trusted in &network.settings.trusted_links {
            sets[2].1.push(member([link_key(trusted), link.clone()].concat()));
        }
        for (family, mode) in [network.settings.mode_v4, network.settings.mode_v6].into_iter().enumerate() {
            if mode == GatewayMode::NatUnprotected && !network.internal {
                sets[3 + family].1.push(member(link.clone()));
            }
        }
    }
    sets.into_iter()
        .filter(|(_, elements)| !elements.is_empty())
        .map(|(set, elements)| Command::Add { set, elements })
        .collect()
}

/// Published ports: first those of the very address, then those of all addresses of this host.
fn translation(chain: &'static str) -> Vec<Command> {
    let mut commands = Vec::new();
    for v6 in [false, true] {
        let family = usize::from(v6);
        let (protocol_check, width) = if v6 { (ipv6(), 4) } else { (ipv4(), 1) };
        // From outside nothing is at 127.0.0.1, whatever route_localnet says. What the kernel does not let out from ::1
        // must reach the socket that holds the port.
        let guard = match (v6, chain == LOCAL) {
            (false, false) => vec![not_loopback_destination()],
            (true, true) => vec![not_loopback_destination_v6()],
            _ => Vec::new(),
        };
        // The row of ports keeps its numbers.
        let translate = |set: &'static str, port: Option<u32>| {
            vec![Expr::Lookup { set, register: 0, to: Some(8) }, Expr::Dnat { v6, address: 8, port }]
        };
        for (set, port) in [(BY_ADDRESS, Some(8 + width)), (RANGES, None)] {
            let mut expressions = vec![protocol_check.clone()];
            expressions.extend(guard.clone());
            expressions.extend([destination(v6, 0), service(width), translate(set[family], port)]);
            commands.push(rule(chain, expressions));
        }
        for (set, port) in [(ANYWHERE, Some(8 + width)), (ANY_RANGES, None)] {
            let mut expressions = vec![protocol_check.clone(), to_this_host()];
            expressions.extend(guard.clone());
            expressions.extend([service(0), translate(set[family], port)]);
            commands.push(rule(chain, expressions));
        }
    }
    commands
}

fn outgoing(network: &NetworkRecord) -> Vec<Command> {
    let mut commands = Vec::new();
    for v6 in [false, true] {
        let mode = if v6 { network.settings.mode_v6 } else { network.settings.mode_v4 };
        let Some(subnet) = network.subnet(v6) else { continue };
        if matches!(mode, GatewayMode::Routed | GatewayMode::Isolated) || network.internal {
            continue;
        }
        let link = &network.settings.link;
        let family = if v6 { ipv6() } else { ipv4() };
        // A container that comes back to its own network through a published port: without translation the
        // answer would go straight to the container, from an address that it did not ask.
        let hairpin = [family.clone(), source_within(subnet), out_link(link, true), was_translated()];
        commands.push(rule(OUTGOING, hairpin.into_iter().chain([vec![Expr::Masquerade]])));
        if network.settings.masquerade {
            let fixed = if v6 {
                network.settings.host_v6.map(IpAddr::V6)
            } else {
                network.settings.host_v4.map(IpAddr::V4)
            };
            let translate = match fixed {
                None => vec![Expr::Masquerade],
                Some(address) => {
                    vec![Expr::Immediate { to: 0, value: octets(address) }, Expr::Snat { v6, address: 0 }]
                }
            };
            commands.push(rule(OUTGOING, [family, source_within(subnet), out_link(link, false), translate]));
        }
    }
    commands
}

fn forwarding(bridges: &[&NetworkRecord], accept_mark: Option<FirewallMark>) -> Vec<Command> {
    let mut commands = vec![
        rule(FORWARD, [established(), accept()]),
        rule(FORWARD, [link_pair(), among(OPEN), accept()]),
        rule(FORWARD, [link_pair(), ipv4_pair(8), service(10), among(LINKED), accept()]),
        rule(FORWARD, [in_link_among(INTERNAL), deny()]),
        rule(FORWARD, [out_link_among(INTERNAL), deny()]),
        rule(FORWARD, [out_link_among(BRIDGES), was_translated(), accept()]),
    ];
    // Here frames between containers come to the host to be forwarded, and what else is open is not meant for them.
    for network in bridges.iter().filter(|n| n.opens_links()) {
        let link = &network.settings.link;
        commands.push(rule(FORWARD, [in_link(link), out_link(link, true), deny()]));
    }
    for v6 in [false, true] {
        let family = if v6 { ipv6() } else { ipv4() };
        let width = if v6 { 4 } else { 1 };
        let direct = DIRECT[usize::from(v6)];
        commands.push(rule(FORWARD, [family.clone(), out_link_among(direct), accept()]));
        let lookup = vec![Expr::Lookup { set: ROUTED[usize::from(v6)], register: 0, to: None }];
        commands.push(rule(
            FORWARD,
            [family, out_link_among(BRIDGES), destination(v6, 0), service(width), lookup, accept()],
        ));
    }
    if let Some(FirewallMark { value, mask }) = accept_mark {
        let marked = vec![
            Expr::Meta { key: Meta::Mark, to: 0 },
            Expr::Mask { register: 0, mask: mask.to_ne_bytes().to_vec() },
            Expr::Compare { register: 0, equal: true, value: value.to_ne_bytes().to_vec() },
        ];
        commands.push(rule(FORWARD, [out_link_among(BRIDGES), marked, accept()]));
    }
    commands.push(rule(FORWARD, [out_link_among(BRIDGES), deny()]));
    commands.push(rule(FORWARD, [in_link_among(BRIDGES), accept()]));
    commands
}

/// The chain that keeps the host from becoming a router.
pub(crate) const ROUTING: &str = "routing";

/// For a host that we made forward packets: it does so for containers and virtual machines, whoever's they are, and
/// not between its other links. Docker gets there by making iptables drop everything it does not know.
pub(crate) fn no_routing() -> Vec<Command> {
    const KINDS: &str = "kinds";
    let kind =
        |meta| vec![Expr::Meta { key: meta, to: 0 }, Expr::Lookup { set: KINDS, register: 0, to: None }];
    let kinds = ["bridge", "veth", "macvlan", "macvtap", "ipvlan", "netkit", "openvswitch", "dummy"];
    vec![
        Command::Chain {
            name: ROUTING,
            kind: ChainKind::Filter,
            hook: Hook::Forward,
            priority: 0,
            drops: true,
        },
        Command::Set { name: KINDS, key: &[Field::Link], value: Value::Nothing },
        Command::FlushChain { chain: ROUTING },
        Command::FlushSet { set: KINDS },
        Command::Add { set: KINDS, elements: kinds.iter().map(|k| member(link_key(k))).collect() },
        rule(ROUTING, [kind(Meta::InKind), accept()]),
        rule(ROUTING, [kind(Meta::OutKind), accept()]),
    ]
}

/// The rules inside a sandbox that lead 127.0.0.11:53 to the ports our DNS server listens on: the port numbers are
/// rewritten on the way out and back, without following connections.
///
/// Port 53 itself stays free, because a container may well be a DNS server.
pub(crate) fn sandbox_dns(udp: u16, tcp: u16) -> Vec<Command> {
    const CHAIN: &str = "output";
    let address = Ipv4Addr::new(127, 0, 0, 11);
    let mut commands = vec![
        Command::Chain {
            name: CHAIN,
            kind: ChainKind::Filter,
            hook: Hook::Output,
            priority: -310,
            drops: false,
        },
        Command::FlushChain { chain: CHAIN },
    ];
    // (protocol, port of ours, offset of the checksum in the transport header)
    for (protocol, own, checksum) in [(Protocol::Udp, udp, 6), (Protocol::Tcp, tcp, 16)] {
        let port = |number: u16| number.to_be_bytes().to_vec();
        for (address_offset, port_offset, from, to) in [(16, 2, 53, own), (12, 0, own, 53)] {
            let expressions = vec![
                Expr::Payload { base: Base::Network, offset: address_offset, length: 4, to: 0 },
                Expr::Compare { register: 0, equal: true, value: address.octets().to_vec() },
                Expr::Meta { key: Meta::Protocol, to: 0 },
                Expr::Compare { register: 0, equal: true, value: vec![protocol.number()] },
                Expr::Payload { base: Base::Transport, offset: port_offset, length: 2, to: 0 },
                Expr::Compare { register: 0, equal: true, value: port(from) },
                Expr::Immediate { to: 0, value: port(to) },
                Expr::WritePayload {
                    base: Base::Transport,
                    offset: port_offset,
                    length: 2,
                    from: 0,
                    checksum,
                },
                Expr::NoTrack,
            ];
            commands.push(Command::Rule { chain: CHAIN, expressions });
        }
    }
    commands
}

#[cfg(test)]
mod tests;
