//! The thread `net-dns`: sockets and timeouts; what to say is decided in `zones`.
//!
//! INVARIANT: this thread enters sandboxes only to open a socket there, and is at home again before anything else.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::TryRecvError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use corten_base::Id;
use corten_sys::netns;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::zones::{Answer, Zones};
use super::{Listener, Order};
use crate::endpoint::Upstream;
use crate::worker::Orders;

/// Per upstream.
const PATIENCE: Duration = Duration::from_secs(4);
/// Upstreams asked for one question.
const UPSTREAMS: usize = 3;
/// Questions and connections under way, over all sandboxes.
const LIMIT: usize = 1024;
/// The largest datagram.
const DATAGRAM: usize = 4096;

const WAKE: u64 = 0;

/// Everything the thread has.
#[derive(Debug)]
pub(super) struct Server {
    zones: Arc<Mutex<Zones>>,
    orders: Orders<Order>,
    directory: PathBuf,
    home: Arc<OwnedFd>,
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next: u64,
}

/// What a token stands for.
#[derive(Debug)]
enum Source {
    Udp { container: Id, listener: Arc<Listener> },
    Tcp { container: Id, listener: Arc<Listener> },
    Client(Client),
    Question(Question),
}

/// A container's TCP connection: one question at a time.
#[derive(Debug)]
struct Client {
    container: Id,
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: bool,
    deadline: Instant,
}

/// A question passed on.
#[derive(Debug)]
struct Question {
    container: Id,
    message: Vec<u8>,
    failure: Vec<u8>,
    upstreams: Vec<Upstream>,
    asker: Asker,
    connection: Connection,
    deadline: Instant,
}

/// Who gets the answer.
#[derive(Debug, Clone, Copy)]
enum Asker {
    Datagram { token: u64, from: SocketAddr },
    Client { token: u64 },
}

/// The way to the upstream, over the protocol the question came by.
#[derive(Debug)]
enum Connection {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, output: Vec<u8>, input: Vec<u8> },
}

impl Server {
    pub(super) fn new(
        zones: Arc<Mutex<Zones>>,
        orders: Orders<Order>,
        directory: PathBuf,
        home: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*orders.wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self { zones, orders, directory, home, epoll, sources: HashMap::new(), next: WAKE + 1 })
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the name server stops");
                    return;
                }
            }
            for event in &events {
                let token = event.data.u64();
                if token == WAKE {
                    self.orders.woken();
                    if !self.take_orders() {
                        return;
                    }
                } else {
                    self.ready(token);
                }
            }
            self.expire();
        }
    }

    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.next() {
                Ok(Order::Serve(container, listener)) => {
                    let udp = Source::Udp { container: container.clone(), listener: Arc::clone(&listener) };
                    self.add(udp, epoll::EventFlags::IN);
                    self.add(Source::Tcp { container, listener }, epoll::EventFlags::IN);
                }
                Ok(Order::Stop(stopped)) => self.sources.retain(|_, source| *source.container() != stopped),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn add(&mut self, source: Source, flags: epoll::EventFlags) -> Option<u64> {
        let token = self.next;
        self.next += 1;
        let data = epoll::EventData::new_u64(token);
        if let Err(error) = epoll::add(&self.epoll, source.fd(), data, flags) {
            tracing::warn!(%error, "cannot watch a socket");
            return None;
        }
        self.sources.insert(token, source);
        Some(token)
    }

    /// Something happened on a source. It is taken out while it is worked on, and put back if it goes on.
    fn ready(&mut self, token: u64) {
        let Some(source) = self.sources.remove(&token) else { return };
        match source {
            Source::Udp { container, listener } => {
                self.datagrams(token, &container, &listener.udp);
                self.sources.insert(token, Source::Udp { container, listener });
            }
            Source::Tcp { container, listener } => {
                self.accept(&container, &listener.tcp);
                self.sources.insert(token, Source::Tcp { container, listener });
            }
            Source::Client(client) => self.client(token, client),
            Source::Question(question) => self.upstream(token, question),
        }
    }

    fn datagrams(&mut self, token: u64, container: &Id, socket: &UdpSocket) {
        let mut buffer = [0u8; DATAGRAM];
        // Bounded, so that one container cannot keep the others waiting.
        for _ in 0..64 {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
            let message = &buffer[..length];
            let answer = self.zones().answer(container, message, true);
            let reply = match answer {
                Answer::Reply(reply) => reply,
                Answer::Forward(upstreams, failure) => {
                    let asker = Asker::Datagram { token, from };
                    match self.forward(container, message.to_vec(), failure, upstreams, asker) {
                        Some(failure) => failure,
                        None => continue,
                    }
                }
                Answer::Ignore => continue,
            };
            // A full buffer loses the datagram, as datagrams may be.
            let _ = socket.send_to(&reply, from);
        }
    }

    fn accept(&mut self, container: &Id, socket: &TcpListener) {
        while let Ok((stream, _)) = socket.accept() {
            if self.sources.len() > LIMIT * 4 || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let client = Client {
                container: container.clone(),
                stream,
                input: Vec::new(),
                output: Vec::new(),
                waiting: false,
                deadline: Instant::now() + PATIENCE * 2,
            };
            self.add(Source::Client(client), edge());
        }
    }

    fn client(&mut self, token: u64, mut client: Client) {
        let open = read_all(&mut client.stream, &mut client.input);
        while !client.waiting {
            let Some(message) = take_message(&mut client.input) else { break };
            let answer = self.zones().answer(&client.container, &message, false);
            match answer {
                Answer::Reply(reply) => put_message(&mut client.output, &reply),
                Answer::Ignore => return,
                Answer::Forward(upstreams, failure) => {
                    let asker = Asker::Client { token };
                    let container = client.container.clone();
                    match self.forward(&container, message, failure, upstreams, asker) {
                        Some(failure) => put_message(&mut client.output, &failure),
                        None => client.waiting = true,
                    }
                }
            }
        }
        let sent = write_all(&mut client.stream, &mut client.output);
        if sent && (open || client.waiting || !client.output.is_empty()) {
            self.sources.insert(token, Source::Client(client));
        }
    }

    /// Passes a question on; gives the failure back if that is not possible.
    fn forward(
        &mut self,
        container: &Id,
        message: Vec<u8>,
        failure: Vec<u8>,
        mut upstreams: Vec<Upstream>,
        asker: Asker,
    ) -> Option<Vec<u8>> {
        upstreams.truncate(UPSTREAMS);
        let under_way = self.sources.values().filter(|s| matches!(s, Source::Question(_))).count();
        if under_way >= LIMIT {
            return Some(failure);
        }
        while !upstreams.is_empty() {
            let upstream = upstreams.remove(0);
            let tcp = matches!(asker, Asker::Client { .. });
            let connection = match self.connect(container, upstream, tcp, &message) {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(%error, upstream = %upstream.address, "cannot ask a name server");
                    continue;
                }
            };
            let question = Question {
                container: container.clone(),
                message,
                failure,
                upstreams,
                asker,
                connection,
                deadline: Instant::now() + PATIENCE,
            };
            self.add(Source::Question(question), edge());
            return None;
        }
        Some(failure)
    }

    fn connect(
        &self,
        container: &Id,
        upstream: Upstream,
        tcp: bool,
        message: &[u8],
    ) -> io::Result<Connection> {
        let family = if upstream.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = || Ok(rustix::net::socket_with(family, kind, flags, None)?);
        let socket = if upstream.from_host { open()? } else { self.open_inside(container, open)? };
        match rustix::net::connect(&socket, &upstream.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        if tcp {
            let mut output = Vec::with_capacity(message.len() + 2);
            put_message(&mut output, message);
            Ok(Connection::Tcp { stream: TcpStream::from(socket), output, input: Vec::new() })
        } else {
            let socket = UdpSocket::from(socket);
            socket.send(message)?;
            Ok(Connection::Udp(socket))
        }
    }

    fn open_inside<T>(&self, container: &Id, open: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let ns = netns::open(&self.directory.join(&crate::sandbox_id(container)[..12]))?;
        netns::enter(ns.as_fd())?;
        let opened = open();
        netns::enter(self.home.as_fd())?;
        opened
    }

    fn upstream(&mut self, token: u64, mut question: Question) {
        match question.connection.reply(&question.message) {
            Ok(Some(reply)) => self.finish(question.asker, &reply),
            Ok(None) => {
                self.sources.insert(token, Source::Question(question));
            }
            Err(_) => self.next_upstream(question),
        }
    }

    fn next_upstream(&mut self, question: Question) {
        let Question { container, message, failure, upstreams, asker, .. } = question;
        if let Some(failure) = self.forward(&container, message, failure, upstreams, asker) {
            self.finish(asker, &failure);
        }
    }

    fn finish(&mut self, asker: Asker, reply: &[u8]) {
        match asker {
            Asker::Datagram { token, from } => {
                if let Some(Source::Udp { listener, .. }) = self.sources.get(&token) {
                    let _ = listener.udp.send_to(reply, from);
                }
            }
            Asker::Client { token } => {
                let Some(Source::Client(mut client)) = self.sources.remove(&token) else { return };
                put_message(&mut client.output, reply);
                client.waiting = false;
                client.deadline = Instant::now() + PATIENCE * 2;
                self.client(token, client);
            }
        }
    }

    /// Until the next deadline; for ever without one.
    fn timeout(&self) -> Option<Timespec> {
        let next = self.sources.values().filter_map(Source::deadline).min()?;
        let left = next.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ })
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let late = |s: &Source| s.deadline().is_some_and(|d| d <= now);
        let tokens: Vec<u64> = self.sources.iter().filter(|(_, s)| late(s)).map(|(t, _)| *t).collect();
        for token in tokens {
            if let Some(Source::Question(question)) = self.sources.remove(&token) {
                self.next_upstream(question);
            }
        }
    }

    fn zones(&self) -> std::sync::MutexGuard<'_, Zones> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn container(&self) -> &Id {
        match self {
            Self::Udp { container, .. } | Self::Tcp { container, .. } => container,
            Self::Client(client) => &client.container,
            Self::Question(question) => &question.container,
        }
    }

    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Udp { listener, .. } => listener.udp.as_fd(),
            Self::Tcp { listener, .. } => listener.tcp.as_fd(),
            Self::Client(client) => client.stream.as_fd(),
            Self::Question(question) => match &question.connection {
                Connection::Udp(socket) => socket.as_fd(),
                Connection::Tcp { stream, .. } => stream.as_fd(),
            },
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Udp { .. } | Self::Tcp { .. } => None,
            // Its question has a deadline of its own, for each upstream.
            Self::Client(client) => (!client.waiting).then_some(client.deadline),
            Self::Question(question) => Some(question.deadline),
        }
    }
}

impl Connection {
    /// The upstream's reply to `message`, once it is complete.
    fn reply(&mut self, message: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let fits = |reply: &[u8]| reply.len() >= 12 && reply[..2] == message[..2] && reply[2] & 0x80 != 0;
        match self {
            Self::Udp(socket) => {
                let mut buffer = [0u8; DATAGRAM];
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(length) if fits(&buffer[..length]) => return Ok(Some(buffer[..length].to_vec())),
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
            }
            Self::Tcp { stream, output, input } => {
                if !write_all(stream, output) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                let open = read_all(stream, input);
                match take_message(input) {
                    Some(reply) if fits(&reply) => Ok(Some(reply)),
                    Some(_) => Err(io::ErrorKind::InvalidData.into()),
                    None if open => Ok(None),
                    None => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
        }
    }
}

fn edge() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET
}

/// Reads what is there; false at the end of the stream. Never more than one message and a half.
fn read_all(stream: &mut TcpStream, input: &mut Vec<u8>) -> bool {
    let mut buffer = [0u8; DATAGRAM];
    while input.len() < 2 * 65536 {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => input.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Writes what can be written; false if the stream is broken.
fn write_all(stream: &mut TcpStream, output: &mut Vec<u8>) -> bool {
    while !output.is_empty() {
        match stream.write(output) {
            Ok(length) => {
                output.drain(..length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Not connected yet: the event of the connection comes.
            Err(error) => {
                return matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected);
            }
        }
    }
    true
}

/// One message with its length before it, as DNS over TCP has it.
fn take_message(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*input.first()?, *input.get(1)?]));
    if input.len() < length + 2 {
        return None;
    }
    let message = input[2..length + 2].to_vec();
    input.drain(..length + 2);
    Some(message)
}

fn put_message(output: &mut Vec<u8>, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(&message[..usize::from(length)]);
}
