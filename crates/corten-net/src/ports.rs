//! Published ports: which host ports are free, and the sockets that keep them ours.
//!
//! A port is held by a bound socket, so that no other program of the host takes it while the packet filter leads its
//! traffic to a container, and so that a port that another program has is refused. Connections never reach these
//! sockets: translation comes first.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::endpoint::{PortRecord, PortSpec, Protocol};
use crate::error::PortError;

/// The range that ports without a wish are taken from.
const DYNAMIC: (u16, u16) = (32768, 60999);

/// Milliseconds between attempts to bind a port that somebody holds. A shim that is just being started has, from its
/// fork to its exec, a copy of every socket of ours: a port that was given back a moment ago may live on in it.
const PATIENCE: &[u64] = &[1, 2, 4, 8, 16, 32];

/// All host ports of this daemon.
#[derive(Debug)]
pub(crate) struct Ports {
    held: BTreeMap<(Protocol, u16, IpAddr), Option<OwnedFd>>,
    next: u16,
    /// False where no packet filter is made: then nobody would answer, and nothing is bound.
    hold: bool,
}

impl Ports {
    pub(crate) fn new(hold: bool) -> Self {
        Self { held: BTreeMap::new(), next: DYNAMIC.0, hold }
    }

    /// Takes host ports for all wishes, or none.
    pub(crate) fn take(
        &mut self,
        wishes: &[PortSpec],
        default_ip: Option<IpAddr>,
    ) -> Result<Vec<PortRecord>, PortError> {
        let mut taken: Vec<PortRecord> = Vec::new();
        for wish in wishes {
            match self.take_one(wish, default_ip) {
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
        for (done, record) in records.iter().enumerate() {
            if let Err(error) = self.bind(record.protocol, record.host_ip, record.host_port, PATIENCE) {
                self.free(&records[..done]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives ports back.
    pub(crate) fn free(&mut self, records: &[PortRecord]) {
        for record in records {
            self.held.remove(&(record.protocol, record.host_port, record.host_ip));
        }
    }

    fn take_one(
        &mut self,
        wish: &PortSpec,
        default_ip: Option<IpAddr>,
    ) -> Result<Vec<PortRecord>, PortError> {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let host_ip = wish.host_ip.or(default_ip.filter(|ip| !ip.is_unspecified()));
        // Without a wish for an address the port is taken for IPv4 and IPv6, under the same number.
        let (main, other) = match host_ip {
            Some(ip) => (ip, None),
            None => (any, Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))),
        };
        let dynamic = wish.host_ports == (0, 0);
        let (first, last) = if dynamic { DYNAMIC } else { wish.host_ports };
        let fixed = first == last;
        let start = if dynamic { self.next } else { first };
        for port in (start..=last).chain(first..start) {
            let patience = if fixed { PATIENCE } else { &[] };
            let outcome = self.bind(wish.protocol, main, port, patience).and_then(|()| match other {
                None => Ok(vec![main]),
                Some(six) => match self.bind(wish.protocol, six, port, patience) {
                    Ok(()) => Ok(vec![main, six]),
                    Err(PortError::Bind { error, .. }) if lacks_ipv6(&error) => Ok(vec![main]),
                    Err(error) => {
                        self.held.remove(&(wish.protocol, port, main));
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
        let open = || open(protocol, address).map_err(|error| PortError::Bind { address, protocol, error });
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
        self.held.insert((protocol, port, host_ip), socket);
        Ok(())
    }
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

/// Binds the port. TCP over IPv4 listens too: SO_REUSEADDR is needed to pass over connections that an earlier program
/// left in TIME_WAIT, and a port that only is bound with it could be taken by another program that sets it as well.
/// The IPv6 socket does not listen, because a network without IPv6 has no translation for it: who connects there is
/// refused at once and falls back to IPv4.
fn open(protocol: Protocol, address: SocketAddr) -> io::Result<OwnedFd> {
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
    let listens = protocol != Protocol::Udp && address.is_ipv4();
    if listens {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if listens {
        rustix::net::listen(&socket, 1)?;
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
        let first = ports.take(&[wish(Some("127.0.0.1"), (18123, 18123))], None).unwrap();
        let error = ports.take(&[wish(Some("127.0.0.1"), (18123, 18123))], None).unwrap_err();
        assert_eq!(error.to_string(), "Bind for 127.0.0.1:18123 failed: port is already allocated");
        // All addresses collide with one of them, another address does not.
        assert!(ports.take(&[wish(None, (18123, 18123))], None).is_err());
        assert!(ports.take(&[wish(Some("127.0.0.2"), (18123, 18123))], None).is_ok());
        ports.free(&first);
        assert!(ports.take(&[wish(Some("127.0.0.1"), (18123, 18123))], None).is_ok());
    }

    #[test]
    fn dynamic_ports_count_up_and_hold_both_families() {
        let mut ports = Ports::new(false);
        let taken = ports.take(&[wish(None, (0, 0)), wish(None, (0, 0))], None).unwrap();
        let shown: Vec<String> = taken.iter().map(|p| format!("{} {}", p.host_ip, p.host_port)).collect();
        assert_eq!(shown, ["0.0.0.0 32768", ":: 32768", "0.0.0.0 32769", ":: 32769"]);
        let taken = ports.take(&[wish(None, (0, 0))], Some("10.0.0.1".parse().unwrap())).unwrap();
        assert_eq!((taken.len(), taken[0].host_ip.to_string().as_str()), (1, "10.0.0.1"));
    }

    #[test]
    fn a_range_gives_its_first_free_port() {
        let mut ports = Ports::new(false);
        let take = |ports: &mut Ports| ports.take(&[wish(Some("10.0.0.1"), (8000, 8001))], None);
        assert_eq!(take(&mut ports).unwrap()[0].host_port, 8000);
        assert_eq!(take(&mut ports).unwrap()[0].host_port, 8001);
        assert!(matches!(take(&mut ports), Err(PortError::Exhausted { .. })));
    }
}
