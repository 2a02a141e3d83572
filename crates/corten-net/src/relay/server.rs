//! The thread `net-relay`: which sockets there are, and what is ready.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use corten_sys::datagram;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags as On};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::stream::{Pair, Pipe, Progress};
use super::{Line, Order, Port};
use crate::endpoint::Protocol;
use crate::worker::Orders;

/// A client of which nothing is heard and to which nothing is said for so long is forgotten, as Docker's proxy does.
const SILENCE: Duration = Duration::from_secs(90);
/// How often that is looked at.
const ROUND: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Streams and clients under way.
const LIMIT: usize = 16 << 10;
/// Datagrams or new connections of one port before others have their turn.
const TURNS: usize = 64;
/// While no connection can be accepted for want of descriptors or memory.
const REST: Duration = Duration::from_millis(10);

const WAKE: u64 = 0;

/// A client of a UDP port: its address, and that of the host it speaks to.
type Client = (SocketAddrV6, Option<Ipv6Addr>);

#[derive(Debug)]
pub(super) struct Server {
    orders: Orders<Order>,
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    ports: HashMap<Port, u64>,
    next: u64,
    spare: Option<Pipe>,
    buffer: Vec<u8>,
    /// Streams that have more to do at once.
    busy: Vec<u64>,
    looked: Instant,
}

/// What a token stands for. The two ends of a pair have the same.
#[derive(Debug)]
enum Source {
    Listener { socket: Arc<OwnedFd>, target: SocketAddr },
    Datagrams { socket: Arc<OwnedFd>, target: SocketAddr, clients: HashMap<Client, u64> },
    Pair { port: u64, pair: Pair },
    Answers { port: u64, client: Client, socket: UdpSocket, heard: Instant },
}

impl Source {
    /// The port that it goes through, unless it is one.
    fn port(&self) -> Option<u64> {
        match self {
            Self::Listener { .. } | Self::Datagrams { .. } => None,
            Self::Pair { port, .. } | Self::Answers { port, .. } => Some(*port),
        }
    }
}

impl Server {
    pub(super) fn new(orders: Orders<Order>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*orders.wake, epoll::EventData::new_u64(WAKE), On::IN)?;
        Ok(Self {
            orders,
            epoll,
            sources: HashMap::new(),
            ports: HashMap::new(),
            next: WAKE + 1,
            spare: None,
            buffer: Vec::new(),
            busy: Vec::new(),
            looked: Instant::now(),
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let silent = self.sources.len() == self.ports.len();
            let timeout = if !self.busy.is_empty() { Some(now) } else { (!silent).then_some(ROUND) };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "published IPv6 ports of IPv4 containers are not carried any more");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        self.orders.woken();
                        if !self.take_orders() {
                            return;
                        }
                    }
                    token => self.ready(token),
                }
            }
            for token in std::mem::take(&mut self.busy) {
                self.ready(token);
            }
            self.forget_the_silent();
        }
    }

    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.next() {
                Ok(Order::Open(lines)) => lines.into_iter().for_each(|line| self.open(line)),
                Ok(Order::Close(ports)) => ports.iter().for_each(|port| self.close(port)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn open(&mut self, line: Line) {
        self.close(&line.port);
        let Line { port, socket, target } = line;
        let source = match port.0 {
            Protocol::Tcp => Source::Listener { socket: Arc::clone(&socket), target },
            Protocol::Udp => {
                if let Err(error) = datagram::tell_destination(socket.as_fd()) {
                    tracing::warn!(%error, ?port, "datagrams of this port are not carried");
                    return;
                }
                Source::Datagrams { socket: Arc::clone(&socket), target, clients: HashMap::new() }
            }
            Protocol::Sctp => return,
        };
        if let Some(token) = self.watch(&[socket.as_fd()], On::IN) {
            self.sources.insert(token, source);
            self.ports.insert(port, token);
        }
    }

    /// Ends a port and all that goes through it.
    fn close(&mut self, port: &Port) {
        let Some(token) = self.ports.remove(port) else { return };
        // Others have the socket too; closing ours would not take it out.
        if let Some(Source::Listener { socket, .. } | Source::Datagrams { socket, .. }) =
            self.sources.remove(&token)
        {
            let _ = epoll::delete(&self.epoll, &*socket);
        }
        self.sources.retain(|_, source| source.port() != Some(token));
    }

    /// Watches these sockets under a token of their own.
    fn watch(&mut self, sockets: &[BorrowedFd<'_>], flags: On) -> Option<u64> {
        let token = self.next;
        self.next += 1;
        for socket in sockets {
            if let Err(error) = epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), flags) {
                tracing::warn!(%error, "cannot watch a socket");
                return None;
            }
        }
        Some(token)
    }

    /// Something happened on a source. It is taken out while it is worked on, and put back if it goes on.
    fn ready(&mut self, token: u64) {
        match self.sources.remove(&token) {
            None => {}
            Some(Source::Listener { socket, target }) => {
                self.accept(token, &socket, target);
                self.sources.insert(token, Source::Listener { socket, target });
            }
            Some(Source::Datagrams { socket, target, mut clients }) => {
                self.datagrams(token, &socket, target, &mut clients);
                self.sources.insert(token, Source::Datagrams { socket, target, clients });
            }
            Some(Source::Pair { port, pair }) => self.stream(token, port, pair),
            Some(Source::Answers { port, client, socket, .. }) => {
                self.answers(port, client, &socket);
                let heard = Instant::now();
                self.sources.insert(token, Source::Answers { port, client, socket, heard });
            }
        }
    }

    fn accept(&mut self, port: u64, listener: &OwnedFd, target: SocketAddr) {
        for _ in 0..TURNS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = match rustix::net::accept_with(listener, flags) {
                Ok(client) => client,
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return std::thread::sleep(REST);
                }
                Err(_) => return,
            };
            if self.sources.len() > LIMIT + self.ports.len() {
                continue;
            }
            match Pair::new(client, target) {
                Ok(pair) => {
                    let flags = On::IN | On::OUT | On::RDHUP | On::ET;
                    if let Some(token) = self.watch(&pair.ends.each_ref().map(AsFd::as_fd), flags) {
                        self.sources.insert(token, Source::Pair { port, pair });
                    }
                }
                Err(error) => tracing::debug!(%error, %target, "cannot connect"),
            }
        }
    }

    fn stream(&mut self, token: u64, port: u64, mut pair: Pair) {
        match pair.advance(&mut self.spare) {
            Ok(Progress::Done) => return,
            Ok(Progress::More) => self.busy.push(token),
            Ok(Progress::Wait) => {}
            Err(error) => {
                tracing::debug!(%error, "a carried connection is reset");
                return pair.reset();
            }
        }
        self.sources.insert(token, Source::Pair { port, pair });
    }

    fn datagrams(
        &mut self,
        port: u64,
        socket: &OwnedFd,
        target: SocketAddr,
        clients: &mut HashMap<Client, u64>,
    ) {
        self.buffer.resize(64 << 10, 0);
        for _ in 0..TURNS {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = datagram::receive(socket.as_fd(), &mut buffer);
            self.buffer = buffer;
            let Ok((length, from, to)) = received else { return };
            let client = (from, to);
            let known = clients.get(&client).copied().filter(|token| self.sources.contains_key(token));
            let Some(token) = known.or_else(|| self.answer_to(port, client, target)) else { continue };
            clients.insert(client, token);
            if let Some(Source::Answers { socket, heard, .. }) = self.sources.get_mut(&token) {
                *heard = Instant::now();
                // A full buffer loses the datagram, as datagrams may be; so does a server that is not there.
                let _ = socket.send(&self.buffer[..length]);
            }
        }
    }

    /// A socket towards the container for a new client.
    fn answer_to(&mut self, port: u64, client: Client, target: SocketAddr) -> Option<u64> {
        if self.sources.len() > LIMIT + self.ports.len() {
            return None;
        }
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.set_nonblocking(true).and_then(|()| socket.connect(target)).ok()?;
        let token = self.watch(&[socket.as_fd()], On::IN)?;
        self.sources.insert(token, Source::Answers { port, client, socket, heard: Instant::now() });
        Some(token)
    }

    fn answers(&mut self, port: u64, (to, from): Client, socket: &UdpSocket) {
        let Some(Source::Datagrams { socket: host, .. }) = self.sources.get(&port) else { return };
        self.buffer.resize(64 << 10, 0);
        for _ in 0..TURNS {
            match socket.recv(&mut self.buffer) {
                Ok(length) => {
                    let _ = datagram::send(host.as_fd(), &self.buffer[..length], to, from);
                }
                // The container refused a datagram.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }

    fn forget_the_silent(&mut self) {
        if self.looked.elapsed() < Duration::from_secs(10) {
            return;
        }
        self.looked = Instant::now();
        let mut gone = Vec::new();
        self.sources.retain(|_, source| match source {
            Source::Answers { port, client, heard, .. } if heard.elapsed() > SILENCE => {
                gone.push((*port, *client));
                false
            }
            _ => true,
        });
        for (port, client) in gone {
            if let Some(Source::Datagrams { clients, .. }) = self.sources.get_mut(&port) {
                clients.remove(&client);
            }
        }
    }
}
