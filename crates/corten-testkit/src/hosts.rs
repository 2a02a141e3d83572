//! Three hosts: one with a daemon and its containers, and a neighbour on each of its two links.
//!
//! ```text
//!   near ── up0 ──┐                       198.51.100.2 · 198.51.100.1, 2001:db8:1::2 · 2001:db8:1::1
//!                 ├── host (daemon) ── containers
//!   far  ── up1 ──┘                       192.0.2.2 · 192.0.2.1,       2001:db8:2::2 · 2001:db8:2::1
//! ```
//! The host's default route leads to `far`. Neighbours know the host and nothing behind it. Servers and clients are
//! sockets of the test itself, opened inside the namespace of a host or container, so that a server can say whom it
//! sees.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::daemon::{Daemon, DaemonOptions};

/// How long an answer may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one attempt may; where there is to be no answer this is waited in vain.
const ATTEMPT: Duration = Duration::from_millis(1000);

/// A network namespace: a host's or a container's.
#[derive(Debug)]
pub struct Place(PathBuf);

/// Transport protocols that servers and clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of the other kind.
    Sctp,
}

use Transport::{Sctp, Tcp, Udp};

impl Place {
    /// The namespace that this file stands for.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Does something in there, on a thread of its own.
    ///
    /// # Panics
    /// When the namespace has gone, or `f` panics.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let ns = File::open(&self.0).unwrap_or_else(|e| panic!("{}: {e}", self.0.display()));
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(ns.as_fd(), kind).expect("enter a network namespace");
            f()
        };
        std::thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A command in there.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.0.display())).arg(program);
        command
    }

    /// What a shell says to this; it must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    #[must_use]
    pub fn sh(&self, script: &str) -> String {
        let output = self.command("sh").args(["-ec", script]).output().expect("nsenter");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Has the shell do something; it must succeed.
    #[track_caller]
    pub fn does(&self, script: &str) {
        let _ = self.sh(script);
    }

    /// A server at this port, of IPv4 and IPv6, that tells everybody the address that it sees; it ends with the test.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn serve(&self, transport: Transport, port: u16) {
        let any = || {
            let six = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
            let six = six.is_ok_and(|v| v.trim() == "0");
            SocketAddr::new(if six { "::" } else { "0.0.0.0" }.parse().expect("an address"), port)
        };
        match transport {
            Udp => {
                let socket = self.run(|| UdpSocket::bind(any())).expect("a port that is free");
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(plain(from.ip()).to_string().as_bytes(), from);
                    }
                });
            }
            Tcp | Sctp => {
                let listener = self.run(|| listen(transport, any())).expect("a port that is free");
                std::thread::spawn(move || {
                    for mut stream in listener.incoming().flatten() {
                        if let Ok(from) = stream.peer_addr() {
                            let _ = stream.write_all(plain(from.ip()).to_string().as_bytes());
                        }
                    }
                });
            }
        }
    }

    /// What the server at `address` says, if there is one to be reached: one attempt.
    #[must_use]
    pub fn try_ask(&self, transport: Transport, address: &str) -> Option<String> {
        let address: SocketAddr = address.parse().expect("an address and port");
        self.run(|| match transport {
            Udp => {
                let socket = UdpSocket::bind(SocketAddr::new(any_like(address), 0)).ok()?;
                socket.connect(address).ok()?;
                socket.set_read_timeout(Some(ATTEMPT)).ok()?;
                socket.send(b"who am I?").ok()?;
                let mut buffer = [0; 64];
                let length = socket.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
            }
            Tcp => {
                let mut stream = TcpStream::connect_timeout(&address, ATTEMPT).ok()?;
                stream.set_read_timeout(Some(ATTEMPT)).ok()?;
                let mut text = String::new();
                stream.read_to_string(&mut text).ok()?;
                Some(text)
            }
            Sctp => {
                let socket = stream_socket(Sctp, address).ok()?;
                rustix::net::sockopt::set_socket_timeout(
                    &socket,
                    rustix::net::sockopt::Timeout::Send,
                    Some(ATTEMPT),
                )
                .ok()?;
                rustix::net::connect(&socket, &address).ok()?;
                let mut text = String::new();
                TcpStream::from(socket).read_to_string(&mut text).ok()?;
                Some(text)
            }
        })
        .filter(|text| !text.is_empty())
    }

    /// What the server at `address` says; it must be reached.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    #[must_use]
    pub fn ask(&self, transport: Transport, address: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = self.try_ask(transport, address) {
                return answer;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not reach {address} ({transport:?})",
                self.0.display()
            );
        }
    }

    /// Nobody must answer at `address`.
    ///
    /// # Panics
    /// When somebody does.
    #[track_caller]
    pub fn reaches_nobody(&self, transport: Transport, address: &str) {
        let answer = self.try_ask(transport, address);
        assert_eq!(answer, None, "{} reaches {address} ({transport:?})", self.0.display());
    }

    /// Whether programs here can open SCTP sockets: a matter of the kernel.
    #[must_use]
    pub fn has_sctp(&self) -> bool {
        self.run(|| stream_socket(Sctp, "0.0.0.0:0".parse().expect("an address")).is_ok())
    }

    /// Starts to look at all packets of all links in there.
    ///
    /// # Panics
    /// When the kernel does not let us.
    #[must_use]
    pub fn capture(&self) -> Capture {
        const EVERYTHING: u32 = 3;
        let all = u32::from(u16::try_from(EVERYTHING).expect("a small number").to_be());
        let all = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(all).expect("not zero"));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = || rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(all));
        let socket = self.run(open).expect("a packet socket");
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20).ok();
        Capture(socket)
    }
}

/// An IPv4 address that comes by an IPv6 socket, as itself.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn any_like(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn stream_socket(transport: Transport, address: SocketAddr) -> std::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = (transport == Sctp).then_some(rustix::net::ipproto::SCTP);
    Ok(rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol)?)
}

fn listen(transport: Transport, address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = stream_socket(transport, address)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket.into())
}

/// Packets as they pass.
#[derive(Debug)]
pub struct Capture(OwnedFd);

/// A packet that was seen; ports are those of TCP and UDP, else 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Hardware address of the sender.
    pub sender: [u8; 6],
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Protocol behind the IP header, or [`Packet::ARP`].
    pub protocol: u8,
    /// Source port.
    pub from_port: u16,
    /// Destination port.
    pub to_port: u16,
}

impl Packet {
    /// No IP packet but ARP; the addresses are those it is about.
    pub const ARP: u8 = 255;
}

impl Capture {
    /// All IP and ARP packets since it began, or since this was last asked.
    #[must_use]
    pub fn packets(&self) -> Vec<Packet> {
        let mut seen = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while let Ok((length, _)) = rustix::net::recv(&self.0, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            seen.extend(parse(&buffer[..length]));
        }
        seen
    }
}

fn parse(frame: &[u8]) -> Option<Packet> {
    let (header, packet) = frame.split_at_checked(14)?;
    let (from, to, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = match (header[12], header[13]) {
        (0x08, 0x00) => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(12)?, address(16)?, *packet.get(9)?, packet.get(usize::from(packet[0] & 15) * 4..)?)
        }
        (0x86, 0xdd) => {
            let address =
                |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            (address(8)?, address(24)?, *packet.get(6)?, packet.get(40..)?)
        }
        // Who has which IPv4 address: one asks for its own to announce it.
        (0x08, 0x06) => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(14)?, address(24)?, Packet::ARP, &[])
        }
        _ => return None,
    };
    let port = |at: usize| match (protocol, rest.get(at..at + 2)) {
        (6 | 17, Some(bytes)) => u16::from_be_bytes([bytes[0], bytes[1]]),
        _ => 0,
    };
    let sender = header[6..12].try_into().ok()?;
    Some(Packet { sender, from, to, protocol, from_port: port(0), to_port: port(2) })
}

/// The three of them; namespaces of neighbours go with it.
#[derive(Debug)]
pub struct Hosts {
    /// The host.
    pub daemon: Daemon,
    /// Its neighbour at 198.51.100.2.
    pub near: Place,
    /// Its neighbour at 192.0.2.2.
    pub far: Place,
    neighbours: [String; 2],
}

/// The host's address on the link to `near`.
pub const HOST: &str = "198.51.100.1";
/// The same of IPv6.
pub const HOST6: &str = "2001:db8:1::1";
/// `near`.
pub const NEAR: &str = "198.51.100.2";
/// The same of IPv6.
pub const NEAR6: &str = "2001:db8:1::2";
/// `far`.
pub const FAR: &str = "192.0.2.2";
/// The same of IPv6.
pub const FAR6: &str = "2001:db8:2::2";

fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Hosts {
    /// A daemon with default options, and `busybox:latest`.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A daemon with these flags, and `busybox:latest`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(args: &[&str]) -> Self {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
        let neighbours = ["n", "f"].map(|side| format!("{}{side}", daemon.netns()));
        let places = neighbours.each_ref().map(|name| Place::at(format!("/run/netns/{name}")));
        for (number, (name, place)) in neighbours.iter().zip(&places).enumerate() {
            must(Command::new("ip").args(["netns", "add", name]));
            let link = format!("up{number}");
            must(
                daemon
                    .in_netns("ip")
                    .args(["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", name]),
            );
            let (net, six) = [("198.51.100", "2001:db8:1:"), ("192.0.2", "2001:db8:2:")][number];
            // Without the wait for duplicates an address can be used at once.
            let up = |link: &str, last: u8| {
                format!(
                    "ip link set lo up; ip addr add {net}.{last}/24 dev {link}; \
                     ip -6 addr add {six}:{last}/64 dev {link} nodad; ip link set {link} up"
                )
            };
            place.does(&up("eth0", 2));
            must(daemon.in_netns("sh").args(["-ec", &up(&link, 1)]));
        }
        let routes = format!("ip route add default via {FAR}; ip -6 route add default via {FAR6}");
        must(daemon.in_netns("sh").args(["-ec", &routes]));
        daemon.import_busybox();
        let [near, far] = places;
        Self { daemon, near, far, neighbours }
    }

    /// The host itself.
    #[must_use]
    pub fn host(&self) -> Place {
        Place::at(format!("/run/netns/{}", self.daemon.netns()))
    }

    /// Runs a container that does nothing by itself, with these flags of `docker run`.
    #[track_caller]
    pub fn run(&self, name: &str, flags: &[&str]) -> Place {
        let all = [&["run", "-d", "--name", name], flags, &["busybox", "sleep", "100000"]].concat();
        self.daemon.docker(all).ok();
        self.inside(name)
    }

    /// The namespace of a running container.
    #[track_caller]
    #[must_use]
    pub fn inside(&self, name: &str) -> Place {
        let pid = self.daemon.docker(["inspect", "-f", "{{.State.Pid}}", name]).ok();
        Place::at(format!("/proc/{pid}/ns/net"))
    }

    /// A field of a container's endpoint: `IPAddress`, `GlobalIPv6Address`, `MacAddress`…
    #[track_caller]
    #[must_use]
    pub fn endpoint(&self, container: &str, network: &str, field: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).{field}}}}}");
        self.daemon.docker(["inspect", "-f", &format, container]).ok()
    }

    /// A container's IPv4 address on a network.
    #[track_caller]
    #[must_use]
    pub fn ip(&self, container: &str, network: &str) -> String {
        self.endpoint(container, network, "IPAddress")
    }

    /// A container's IPv6 address on a network.
    #[track_caller]
    #[must_use]
    pub fn ip6(&self, container: &str, network: &str) -> String {
        self.endpoint(container, network, "GlobalIPv6Address")
    }

    /// `docker network create FLAGS NAME`.
    #[track_caller]
    pub fn network(&self, name: &str, flags: &[&str]) {
        self.daemon.docker([&["network", "create"], flags, &[name]].concat()).ok();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.neighbours {
            Command::new("ip").args(["netns", "del", name]).output().ok();
        }
    }
}
