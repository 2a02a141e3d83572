//! Forgetting connections that the kernel follows, by ctnetlink.
//!
//! UDP has no end of a connection: a client that keeps sending keeps its entry, and with it the translation (or the
//! lack of one) from before a port was published or given to another container. TCP connections end by themselves.

use std::io;
use std::net::IpAddr;

use corten_sys::netlink::Family;

use crate::nla::{Attributes, Batch, Conversation, flag};
use crate::plan::Publication;
use crate::route::{address_of, is_absent};

const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
const UDP: u8 = 17;

/// Which entries are wrong now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// Ports were published: what went to these addresses of the host untranslated.
    Published(&'a [IpAddr]),
    /// Ports were taken back: what was translated to the container.
    Unpublished,
}

/// Forgets the entries of these ports that the change made wrong.
pub(crate) fn forget(ports: &[Publication], change: Change<'_>) -> io::Result<()> {
    let mut conversation = Conversation::open(Family::Netfilter)?;
    for v6 in [false, true] {
        let ports: Vec<&Publication> = ports
            .iter()
            .filter(|p| p.protocol.number() == UDP && p.container_ip.is_ipv6() == v6 && !p.routed)
            .collect();
        if ports.is_empty() {
            continue;
        }
        let header = [if v6 { 10 } else { 2 }, 0, 0, 0];
        let mut batch = Batch::default();
        batch.message(GET, flag::DUMP, &header, |_| {});
        let mut wrong: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        conversation.dump(batch, |_, payload| {
            let Some(attributes) = payload.get(4..).map(Attributes) else { return };
            let tuples = (attributes.get(ORIGINAL), attributes.get(REPLY));
            let (Some(original), Some(reply)) = tuples else { return };
            let (Some(to), Some(from)) = (Tuple::parse(original), Tuple::parse(reply)) else { return };
            if ports.iter().any(|p| is_wrong(p, change, &to, &from)) {
                wrong.push((original.to_vec(), attributes.get(ZONE).map(<[u8]>::to_vec)));
            }
        })?;
        for (tuple, zone) in wrong {
            let mut batch = Batch::default();
            batch.message(DELETE, 0, &header, |m| {
                m.nest(ORIGINAL, |m| m.raw(&tuple));
                if let Some(zone) = &zone {
                    m.put(ZONE, zone);
                }
            });
            match conversation.execute(batch) {
                Err(error) if is_absent(&error) => {}
                outcome => outcome?,
            }
        }
    }
    Ok(())
}

fn is_wrong(port: &Publication, change: Change<'_>, original: &Tuple, reply: &Tuple) -> bool {
    match change {
        Change::Unpublished => {
            reply.source == port.container_ip
                && in_row(reply.source_port, port.container_port, port.count)
                && { original.destination != reply.source || original.destination_port != reply.source_port }
        }
        Change::Published(host) => {
            let address = if port.host_ip.is_unspecified() {
                host.contains(&original.destination)
            } else {
                original.destination == port.host_ip
            };
            address
                && in_row(original.destination_port, port.host_port, port.count)
                && reply.source == original.destination
        }
    }
}

fn in_row(port: u16, first: u16, count: u16) -> bool {
    port.checked_sub(first).is_some_and(|n| n < count)
}

/// One direction of a UDP connection.
#[derive(Debug)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
}

impl Tuple {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (addresses, protocol) = (Attributes(bytes).get(1)?, Attributes(bytes).get(2)?);
        let (addresses, protocol) = (Attributes(addresses), Attributes(protocol));
        if protocol.get(1)? != [UDP] {
            return None;
        }
        let port = |kind| Some(u16::from_be_bytes(protocol.get(kind)?.try_into().ok()?));
        Some(Self {
            source: address_of(addresses.get(1).or_else(|| addresses.get(3))?)?,
            destination: address_of(addresses.get(2).or_else(|| addresses.get(4))?)?,
            source_port: port(2)?,
            destination_port: port(3)?,
        })
    }
}
