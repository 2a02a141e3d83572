//! Pieces of rules under the names by which one would say them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::expr::{Base, Connection, Expr, Meta, Verdict};
use super::{Command, Element};

/// A rule from its pieces.
pub(crate) fn rule(chain: &'static str, pieces: impl IntoIterator<Item = Vec<Expr>>) -> Command {
    Command::Rule { chain, expressions: pieces.into_iter().flatten().collect() }
}

/// An element without a value.
pub(crate) fn member(key: Vec<u8>) -> Element {
    Element { key, end: None, value: None }
}

pub(crate) fn accept() -> Vec<Expr> {
    vec![Expr::Verdict(Verdict::Accept)]
}

pub(crate) fn deny() -> Vec<Expr> {
    vec![Expr::Verdict(Verdict::Drop)]
}

pub(crate) fn ipv4() -> Vec<Expr> {
    network_protocol(2)
}

pub(crate) fn ipv6() -> Vec<Expr> {
    network_protocol(10)
}

fn network_protocol(number: u8) -> Vec<Expr> {
    network_protocol_by(number, 0)
}

/// By a register of the caller's choice.
fn network_protocol_by(number: u8, register: u32) -> Vec<Expr> {
    vec![
        Expr::Meta { key: Meta::NetworkProtocol, to: register },
        Expr::Compare { register, equal: true, value: vec![number] },
    ]
}

pub(crate) fn in_link_among(set: &'static str) -> Vec<Expr> {
    vec![Expr::Meta { key: Meta::InName, to: 0 }, Expr::Lookup { set, register: 0, to: None }]
}

pub(crate) fn out_link_among(set: &'static str) -> Vec<Expr> {
    vec![Expr::Meta { key: Meta::OutName, to: 0 }, Expr::Lookup { set, register: 0, to: None }]
}

/// Incoming link and outgoing link, in the registers from 0 on.
pub(crate) fn link_pair() -> Vec<Expr> {
    vec![Expr::Meta { key: Meta::InName, to: 0 }, Expr::Meta { key: Meta::OutName, to: 4 }]
}

/// Source and destination of an IPv4 packet, in the two registers from `to` on.
pub(crate) fn ipv4_pair(to: u32) -> Vec<Expr> {
    let address = |offset, to| Expr::Payload { base: Base::Network, offset, length: 4, to };
    [network_protocol_by(2, to), vec![address(12, to), address(16, to + 1)]].concat()
}

/// What was put into registers from 0 on is in the set.
pub(crate) fn among(set: &'static str) -> Vec<Expr> {
    vec![Expr::Lookup { set, register: 0, to: None }]
}

pub(crate) fn in_link(name: &str) -> Vec<Expr> {
    vec![
        Expr::Meta { key: Meta::InName, to: 0 },
        Expr::Compare { register: 0, equal: true, value: link_key(name) },
    ]
}

pub(crate) fn out_link(name: &str, equal: bool) -> Vec<Expr> {
    vec![
        Expr::Meta { key: Meta::OutName, to: 0 },
        Expr::Compare { register: 0, equal, value: link_key(name) },
    ]
}

pub(crate) fn loopback_destination() -> Vec<Expr> {
    loopback(16, true)
}

pub(crate) fn not_loopback_destination() -> Vec<Expr> {
    loopback(16, false)
}

pub(crate) fn not_loopback_destination_v6() -> Vec<Expr> {
    let address = octets(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST));
    [destination(true, 0), vec![Expr::Compare { register: 0, equal: false, value: address }]].concat()
}

pub(crate) fn loopback_source() -> Vec<Expr> {
    loopback(12, true)
}

fn loopback(offset: u32, equal: bool) -> Vec<Expr> {
    vec![
        Expr::Payload { base: Base::Network, offset, length: 1, to: 0 },
        Expr::Compare { register: 0, equal, value: vec![127] },
    ]
}

/// The packet's destination address, from register `to` on.
pub(crate) fn destination(v6: bool, to: u32) -> Vec<Expr> {
    let (offset, length) = if v6 { (24, 16) } else { (16, 4) };
    vec![Expr::Payload { base: Base::Network, offset, length, to }]
}

pub(crate) fn source_within(net: IpNet) -> Vec<Expr> {
    let (offset, length) = if matches!(net, IpNet::V6(_)) { (8, 16) } else { (12, 4) };
    vec![
        Expr::Payload { base: Base::Network, offset, length, to: 0 },
        Expr::Mask { register: 0, mask: octets(net.netmask()) },
        Expr::Compare { register: 0, equal: true, value: octets(net.network()) },
    ]
}

/// Protocol and destination port, in two registers from `to` on.
pub(crate) fn service(to: u32) -> Vec<Expr> {
    vec![
        Expr::Meta { key: Meta::Protocol, to },
        Expr::Payload { base: Base::Transport, offset: 2, length: 2, to: to + 1 },
    ]
}

pub(crate) fn to_this_host() -> Vec<Expr> {
    const RTN_LOCAL: u32 = 2;
    vec![
        Expr::DestinationType { to: 0 },
        Expr::Compare { register: 0, equal: true, value: RTN_LOCAL.to_ne_bytes().to_vec() },
    ]
}

/// The connection is an answer, or belongs to one that was let through.
pub(crate) fn established() -> Vec<Expr> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    connection(Connection::State, ESTABLISHED_OR_RELATED)
}

/// The destination was changed on the way in: a published port.
pub(crate) fn was_translated() -> Vec<Expr> {
    const IPS_DST_NAT: u32 = 1 << 5;
    connection(Connection::Status, IPS_DST_NAT)
}

fn connection(key: Connection, bits: u32) -> Vec<Expr> {
    vec![
        Expr::Connection { key, to: 0 },
        Expr::Mask { register: 0, mask: bits.to_ne_bytes().to_vec() },
        Expr::Compare { register: 0, equal: false, value: vec![0; 4] },
    ]
}

/// A link's name as a key: sixteen bytes, filled up with zeros.
pub(crate) fn link_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// Filled up with zeros to whole registers.
pub(crate) fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut field = bytes.to_vec();
    field.resize(field.len().next_multiple_of(4), 0);
    field
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}
