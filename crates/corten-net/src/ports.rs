//! Published ports: which host ports are free, and the sockets that keep them ours.
//!
//! A port is held by a bound socket, so that no other program of the host takes it while the packet filter leads its
//! traffic to a container, and so that a port that another program has is refused. Connections do not reach these
//! sockets, because translation comes first, but where it cannot ([`crate::relay`]).
//!
//! Thousands of ports in a row are not held, because they would be thousands of sockets: it is looked whether somebody
//! has one of them, and whoever comes later gets a port that nothing from outside arrives at.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::endpoint::{PortRecord, PortSpec, Protocol};
use crate::error::PortError;
use crate::relay::Port;

/// The range that ports without a wish are taken from.
const DYNAMIC: (u16, u16) = (32768, 60999);

/// Milliseconds between attempts to bind a port that somebody holds: one that does not listen (UDP, IPv6) may have
/// been given back a moment ago and live on in a shim that is just being started.
const PATIENCE: &[u64] = &[1, 2, 4, 8, 16, 32];

/// Connections that wait for the relay.
const BACKLOG: i32 = 1024;

/// All host ports of this daemon.
#[derive(Debug)]
pub(crate) struct Ports {
    held: BTreeMap<Port, Option<Arc<OwnedFd>>>,
    next: u16,
    /// False where no packet filter is made: then nobody would answer, and nothing is bound.
    hold: bool,
    /// What arrives over IPv6 for a container without it is carried there.
    pub(crate) relayed: bool,
}

impl Ports {
    pub(crate) fn new(hold: bool) -> Self {
        Self { held: BTreeMap::new(), next: DYNAMIC.0, hold, relayed: false }
    }

    /// Takes host ports for all wishes, or none. `six`: IPv6 leads to the container, so that a port of all addresses is
    /// one of both families.
    pub(crate) fn take(
        &mut self,
        wishes: &[PortSpec],
        default_ip: Option<IpAddr>,
        six: bool,
    ) -> Result<Vec<PortRecord>, PortError> {
        let mut taken: Vec<PortRecord> = Vec::new();
        let fixed = |w: &PortSpec| {
            (w.host_ports.0 == w.host_ports.1).then_some((w.protocol, w.host_ip, w.host_ports.0))
        };
        let long = in_long_rows(wishes.iter().map(fixed));
        let busy = if self.hold && long.contains(&true) { Busy::read() } else { Busy::default() };
        for (wish, long) in wishes.iter().zip(long) {
            let way = if long { Way::Look(&busy) } else { Way::Hold };
            match self.take_one(wish, default_ip, six, way) {
                Ok(ports) => taken.extend(ports),
                Err(error) => {
                    self.free(&taken);
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Takes exactly these ports again: after a restart of the daemon.
    pub(crate) fn retake(&mut self, records: &[PortRecord]) -> Result<(), PortError> {
        let long = in_long_rows(records.iter().map(|r| Some((r.protocol, Some(r.host_ip), r.host_port))));
        let nobody = Busy::default();
        for (done, record) in records.iter().enumerate() {
            let way = if long[done] { Way::Look(&nobody) } else { Way::Hold };
            if let Err(error) = self.bind(record.protocol, record.host_ip, record.host_port, PATIENCE, way) {
                self.free(&records[..done]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The socket that holds a port.
    pub(crate) fn socket(&self, port: &Port) -> Option<Arc<OwnedFd>> {
        self.held.get(port)?.clone()
    }

    /// Gives ports back.
    pub(crate) fn free(&mut self, records: &[PortRecord]) {
        for record in records {
            self.release((record.protocol, record.host_port, record.host_ip));
        }
    }

    /// A shim that is just being started has, until its exec is over, copies of all our sockets: closing ours would
    /// not end a listener.
    fn release(&mut self, port: Port) {
        if let Some(Some(socket)) = self.held.remove(&port) {
            // ENOTCONN: it does not listen.
            rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both).ok();
        }
    }

    fn take_one(
        &mut self,
        wish: &PortSpec,
        default_ip: Option<IpAddr>,
        six: bool,
        way: Way<'_>,
    ) -> Result<Vec<PortRecord>, PortError> {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let host_ip = wish.host_ip.or(default_ip.filter(|ip| !ip.is_unspecified()));
        // Without a wish for an address the port is taken for IPv4 and IPv6, under the same number.
        let (main, other) = match host_ip {
            Some(ip) => (ip, None),
            None => (any, six.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))),
        };
        let dynamic = wish.host_ports == (0, 0);
        let (first, last) = if dynamic { DYNAMIC } else { wish.host_ports };
        let fixed = first == last;
        let start = if dynamic { self.next } else { first };
        for port in (start..=last).chain(first..start) {
            let patience = if fixed { PATIENCE } else { &[] };
            let outcome = self.bind(wish.protocol, main, port, patience, way).and_then(|()| match other {
                None => Ok(vec![main]),
                Some(six) => match self.bind(wish.protocol, six, port, patience, way) {
                    Ok(()) => Ok(vec![main, six]),
                    Err(PortError::Bind { error, .. }) if lacks_ipv6(&error) => Ok(vec![main]),
                    Err(error) => {
                        self.release((wish.protocol, port, main));
                        Err(error)
                    }
                },
            });
            match outcome {
                Ok(addresses) => {
                    if dynamic {
                        self.next = if port == last { first } else { port + 1 };
                    }
                    let record = |host_ip| PortRecord {
                        container_port: wish.container_port,
                        protocol: wish.protocol,
                        host_ip,
                        host_port: port,
                    };
                    return Ok(addresses.into_iter().map(record).collect());
                }
                Err(error) if fixed || !is_taken(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Err(PortError::Exhausted { host: main, first, last })
    }

    fn bind(
        &mut self,
        protocol: Protocol,
        host_ip: IpAddr,
        port: u16,
        patience: &[u64],
        way: Way<'_>,
    ) -> Result<(), PortError> {
        let address = SocketAddr::new(host_ip, port);
        let same_port = self.held.range(
            (protocol, port, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
                ..=(protocol, port, IpAddr::V6(Ipv6Addr::from(u128::MAX))),
        );
        let collides = |held: &IpAddr| {
            held.is_ipv4() == host_ip.is_ipv4()
                && (*held == host_ip || held.is_unspecified() || host_ip.is_unspecified())
        };
        if same_port.into_iter().any(|((_, _, held), _)| collides(held)) {
            return Err(PortError::Allocated { address });
        }
        if let Way::Look(busy) = way {
            if busy.has(protocol, address) {
                let error = io::Error::from_raw_os_error(rustix::io::Errno::ADDRINUSE.raw_os_error());
                return Err(PortError::Bind { address, protocol, error });
            }
            self.held.insert((protocol, port, host_ip), None);
            return Ok(());
        }
        let relayed = self.relayed;
        let open =
            || open(protocol, address, relayed).map_err(|error| PortError::Bind { address, protocol, error });
        let mut waits = patience.iter();
        let socket = loop {
            match self.hold.then(open).transpose() {
                Err(error) if is_taken(&error) => {
                    let Some(wait) = waits.next() else { return Err(error) };
                    std::thread::sleep(std::time::Duration::from_millis(*wait));
                }
                other => break other?,
            }
        };
        self.held.insert((protocol, port, host_ip), socket.map(Arc::new));
        Ok(())
    }
}

/// How a port is made sure of.
#[derive(Debug, Clone, Copy)]
enum Way<'a> {
    Hold,
    Look(&'a Busy),
}

/// So many ports in a row are not held.
const LONG: usize = 256;

/// Which of these ports (`None`: not a certain one) are part of a long row.
fn in_long_rows<K: Copy + Ord>(ports: impl Iterator<Item = Option<(Protocol, K, u16)>>) -> Vec<bool> {
    let ports: Vec<_> = ports.collect();
    let mut long = vec![false; ports.len()];
    let certain = ports.into_iter().enumerate().filter_map(|(at, port)| Some((at, port?)));
    let mut sorted: Vec<(usize, (Protocol, K, u16))> = certain.collect();
    sorted.sort_by_key(|(_, port)| *port);
    let follows = |a: &(Protocol, K, u16), b: &(Protocol, K, u16)| {
        (a.0, a.1) == (b.0, b.1) && a.2.checked_add(1) == Some(b.2)
    };
    for row in sorted.chunk_by(|(_, a), (_, b)| follows(a, b)).filter(|row| row.len() >= LONG) {
        row.iter().for_each(|(at, _)| long[*at] = true);
    }
    long
}

/// Ports that programs of the host have.
#[derive(Debug, Default)]
struct Busy(Vec<(Protocol, SocketAddr)>);

impl Busy {
    /// As the kernel lists them for the calling thread's namespace.
    fn read() -> Self {
        let mut all = Vec::new();
        for (file, protocol) in
            [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)]
        {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            all.extend(text.lines().skip(1).filter_map(|l| bound(l, protocol)).map(|a| (protocol, a)));
        }
        Self(all)
    }

    fn has(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.0.iter().any(|(p, found)| {
            let (a, b) = (found.ip(), address.ip());
            // A socket on :: may take IPv4 as well.
            let collides = a == b
                || a == Ipv6Addr::UNSPECIFIED
                || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
            *p == protocol && found.port() == address.port() && collides
        })
    }
}

/// The address of a line of /proc/net/tcp and its like, unless it is a connection.
fn bound(line: &str, protocol: Protocol) -> Option<SocketAddr> {
    const LISTENS: &str = "0A";
    let mut words = line.split_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    if protocol == Protocol::Tcp && state != LISTENS {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let word = |n: usize| Some(u32::from_str_radix(address.get(8 * n..8 * n + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?),
        _ => IpAddr::from(<[u8; 16]>::try_from([word(0)?, word(1)?, word(2)?, word(3)?].concat()).ok()?),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn is_taken(error: &PortError) -> bool {
    match error {
        PortError::Allocated { .. } => true,
        PortError::Bind { error, .. } => error.kind() == io::ErrorKind::AddrInUse,
        PortError::Exhausted { .. } => false,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT, EADDRNOTAVAIL
    matches!(error.raw_os_error(), Some(97 | 99))
}

/// Binds the port. TCP listens too: SO_REUSEADDR is needed to pass over connections that an earlier program left in
/// TIME_WAIT, and a port that only is bound with it could be taken by another program that sets it as well. Where a
/// network has no translation for IPv6, the relay accepts what comes, or `relayed` is false and the IPv6 socket does not
/// listen, so that who connects there is refused at once and falls back to IPv4.
fn open(protocol: Protocol, address: SocketAddr, relayed: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, rustix::net::ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, rustix::net::ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, rustix::net::ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match rustix::net::socket_with(family, kind, flags, Some(number)) {
        // A kernel without SCTP can translate it all the same; there is just nobody to compete with.
        Err(rustix::io::Errno::PROTONOSUPPORT | rustix::io::Errno::SOCKTNOSUPPORT)
            if protocol == Protocol::Sctp =>
        {
            return rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
                .map_err(Into::into);
        }
        other => other?,
    };
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    let listens = match protocol {
        Protocol::Tcp => address.is_ipv4() || relayed,
        Protocol::Sctp => address.is_ipv4(),
        Protocol::Udp => false,
    };
    if listens {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if listens {
        rustix::net::listen(&socket, if address.is_ipv6() { BACKLOG } else { 1 })?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(host_ip: Option<&str>, host_ports: (u16, u16)) -> PortSpec {
        PortSpec {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|a| a.parse().unwrap()),
            host_ports,
        }
    }

    #[test]
    fn a_port_is_given_once() {
        let mut ports = Ports::new(false);
        let first = ports.take(&[wish(Some("127.0.0.1"), (18123, 18123))], None, true).unwrap();
        let error = ports.take(&[wish(Some("127.0.0.1"), (18123, 18123))], None, true).unwrap_err();
        assert_eq!(error.to_string(), "Bind for 127.0.0.1:18123 failed: port is already allocated");
        // All addresses collide with one of them, another address does not.
        assert!(ports.take(&[wish(None, (18123, 18123))], None, true).is_err());
        assert!(ports.take(&[wish(Some("127.0.0.2"), (18123, 18123))], None, true).is_ok());
        ports.free(&first);
        assert!(ports.take(&[wish(Some("127.0.0.1"), (18123, 18123))], None, true).is_ok());
    }

    #[test]
    fn dynamic_ports_count_up_and_hold_both_families() {
        let mut ports = Ports::new(false);
        let taken = ports.take(&[wish(None, (0, 0)), wish(None, (0, 0))], None, true).unwrap();
        let shown: Vec<String> = taken.iter().map(|p| format!("{} {}", p.host_ip, p.host_port)).collect();
        assert_eq!(shown, ["0.0.0.0 32768", ":: 32768", "0.0.0.0 32769", ":: 32769"]);
        let taken = ports.take(&[wish(None, (0, 0))], Some("10.0.0.1".parse().unwrap()), true).unwrap();
        assert_eq!((taken.len(), taken[0].host_ip.to_string().as_str()), (1, "10.0.0.1"));
    }

    #[test]
    fn long_rows_are_looked_at_and_not_held() {
        let line = |l| bound(l, Protocol::Tcp).map(|a| a.to_string());
        assert_eq!(line("   0: 0100007F:1F90 00000000:0000 0A 00000000").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(line("   0: 0100007F:1F90 00000000:0000 01 00000000"), None);
        let six = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A";
        assert_eq!(line(six).as_deref(), Some("[::1]:80"));
        let squatter = std::net::TcpListener::bind("127.0.0.9:0").unwrap();
        let taken = squatter.local_addr().unwrap().port();
        let wishes = |ip: &str| -> Vec<PortSpec> {
            let first = taken.saturating_sub(500).max(1);
            (first..first + 999).map(|p| wish(Some(ip), (p, p))).collect()
        };
        let mut ports = Ports::new(true);
        assert!(ports.take(&wishes("127.0.0.9"), None, true).is_err());
        assert!(ports.held.is_empty());
        let records = ports.take(&wishes("127.0.0.8"), None, true).unwrap();
        assert_eq!(records.len(), 999);
        assert!(ports.held.values().all(Option::is_none));
        ports.free(&records);
        ports.retake(&records).unwrap();
        assert!(ports.held.values().all(Option::is_none));
        let short: Vec<PortSpec> = wishes("127.0.0.8").into_iter().take(3).collect();
        assert!(ports.take(&short, None, true).is_err(), "they are ours");
    }

    #[test]
    fn a_range_gives_its_first_free_port() {
        let mut ports = Ports::new(false);
        let take = |ports: &mut Ports| ports.take(&[wish(Some("10.0.0.1"), (8000, 8001))], None, true);
        assert_eq!(take(&mut ports).unwrap()[0].host_port, 8000);
        assert_eq!(take(&mut ports).unwrap()[0].host_port, 8001);
        assert!(matches!(take(&mut ports), Err(PortError::Exhausted { .. })));
    }
}
