//! A conversation with systemd: over its own socket, or over the bus where only that can be reached.
//!
//! ```text
//!  ──▶ \0AUTH EXTERNAL, DATA, BEGIN     who asks is known from the socket
//!  ◀── DATA, OK
//!  ──▶ a call
//!  ◀── signals, the answer, signals
//! ```
//!
//! INVARIANT: no call is sent before the OK, and BEGIN with the rest. systemd does not look at a call that comes together
//! with the BEGIN until more comes.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten_sys::process::{self, Child, clone_process};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::UnitError;
use super::message::{self, ERROR, FIXED, Message, Method, REPLY, Reader, SIGNAL, Value};

/// How long systemd may take for an answer, and for a job.
const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";
/// What is read at once.
const BLOCK: usize = 4096;

/// systemd refused a call.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The error's name.
    pub(super) name: String,
    pub(super) text: String,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    socket: UnixStream,
    serial: u32,
    unread: Vec<u8>,
    /// Jobs that have ended, and how.
    ended: Vec<(String, String)>,
}

/// A process that is in a unit until its container's first process is: a scope needs one to begin with, and is gone
/// with the last one. Dropping this ends it.
#[derive(Debug)]
pub(crate) struct Placeholder(Child);

impl Drop for Placeholder {
    fn drop(&mut self) {
        process::signal(self.0.pidfd.as_fd(), 9).ok();
        process::wait(self.0.pidfd.as_fd()).ok();
    }
}

/// Where systemd itself listens, then where the bus does.
fn places(user: bool) -> Vec<(PathBuf, bool)> {
    if !user {
        let bus = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().and_then(|a| unix_path(&a));
        let bus = bus.unwrap_or_else(|| "/run/dbus/system_bus_socket".into());
        return vec![("/run/systemd/private".into(), true), (bus, false)];
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let bus = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok().and_then(|a| unix_path(&a));
    let bus = bus.or_else(|| own.as_ref().map(|d| d.join("bus")));
    own.map(|d| (d.join("systemd/private"), true)).into_iter().chain(bus.map(|b| (b, false))).collect()
}

/// The path of `unix:path=…,guid=…;…`.
pub(super) fn unix_path(address: &str) -> Option<PathBuf> {
    let options = address.split(';').filter_map(|a| a.strip_prefix("unix:")).flat_map(|a| a.split(','));
    options.filter_map(|o| o.strip_prefix("path=")).next().map(PathBuf::from)
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
}

/// Connects in a new process, which is then the one that systemd sees behind the connection, whatever numbers
/// processes have here.
fn connect_as_other(path: &Path) -> io::Result<(UnixStream, Placeholder)> {
    let (socket, address) = (socket()?, SocketAddrUnix::new(path)?);
    let (mut ours, theirs) = corten_sys::seqpacket::stream_pair().map(|(a, b)| (UnixStream::from(a), b))?;
    let child = clone_process(0, None, || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).ok();
        let result = rustix::net::connect(&socket, &address);
        let errno = result.map_or_else(|e| e.raw_os_error(), |()| 0);
        if rustix::io::write(&theirs, &errno.to_ne_bytes()).is_err() {
            return 1;
        }
        loop {
            rustix::event::pause();
        }
    });
    let placeholder = Placeholder(child?);
    drop(theirs);
    let mut errno = [0; 4];
    ours.read_exact(&mut errno)?;
    match i32::from_ne_bytes(errno) {
        0 => Ok((socket.into(), placeholder)),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

impl Bus {
    /// Connects to systemd, or to the user's.
    pub(super) fn open(user: bool) -> Result<Self, UnitError> {
        Self::open_by(user, |path| Ok((connect(path)?, ()))).map(|(bus, ())| bus)
    }

    /// As [`Bus::open`], with a new process at the other end: for it, `PIDs` with a zero means that one.
    pub(super) fn open_as_other(user: bool) -> Result<(Self, Placeholder), UnitError> {
        Self::open_by(user, connect_as_other)
    }

    fn open_by<T>(
        user: bool,
        connect: impl Fn(&Path) -> io::Result<(UnixStream, T)>,
    ) -> Result<(Self, T), UnitError> {
        let mut first = None;
        for (path, direct) in places(user) {
            match connect(&path).and_then(|(s, more)| Ok((Self::begin(s)?, more))) {
                Ok((mut bus, more)) => {
                    if !direct {
                        bus.subscribe()?;
                    }
                    return Ok((bus, more));
                }
                Err(source) => drop(first.get_or_insert(UnitError::Connect { path, source })),
            }
        }
        Err(first.unwrap_or(UnitError::NoBus))
    }

    /// Says who we are.
    fn begin(socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Self { socket, serial: 0, unread: Vec::new(), ended: Vec::new() };
        bus.socket.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = bus.line()?;
            match line.split(' ').next() {
                Some("OK") => break,
                Some("DATA") => {}
                _ => return Err(io::Error::new(io::ErrorKind::PermissionDenied, line)),
            }
        }
        Ok(bus)
    }

    /// A bus wants a name of everybody, and to be told what is to be heard.
    fn subscribe(&mut self) -> Result<(), UnitError> {
        let bus = |member| Method { destination: BUS, path: "/org/freedesktop/DBus", interface: BUS, member };
        let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved'");
        self.must(bus("Hello"), &[])?;
        self.must(bus("AddMatch"), &[Value::Text(rule)])?;
        self.must(manager("Subscribe"), &[])
    }

    fn must(&mut self, method: Method<'_>, arguments: &[Value]) -> Result<(), UnitError> {
        match self.call(method, arguments)? {
            Ok(_) => Ok(()),
            Err(Refusal { name, text }) => Err(UnitError::Refused { what: method.member.into(), name, text }),
        }
    }

    /// Calls a method of systemd's and waits for its answer.
    pub(super) fn manage(
        &mut self,
        member: &str,
        arguments: &[Value],
    ) -> Result<Result<Message, Refusal>, UnitError> {
        self.call(manager(member), arguments)
    }

    /// A property of systemd itself that is text.
    pub(super) fn property(&mut self, name: &str) -> Result<String, UnitError> {
        let get = Method { interface: "org.freedesktop.DBus.Properties", ..manager("Get") };
        let answer = self.call(get, &[Value::text(MANAGER), Value::text(name)])?;
        let answer = answer.map_err(|Refusal { name: error, text }| UnitError::Refused {
            what: name.to_owned(),
            name: error,
            text,
        })?;
        let mut reader = Reader::new(&answer.body);
        reader.signature().filter(|s| s == "s").and_then(|_| reader.text()).ok_or(UnitError::Nonsense)
    }

    fn call(
        &mut self,
        method: Method<'_>,
        arguments: &[Value],
    ) -> Result<Result<Message, Refusal>, UnitError> {
        self.serial += 1;
        let serial = self.serial;
        self.socket.write_all(&message::call(serial, method, arguments)).map_err(UnitError::Talk)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let message = self.message(until)?;
            match message.kind {
                REPLY if message.answers == serial => return Ok(Ok(message)),
                ERROR if message.answers == serial => {
                    let text = Reader::new(&message.body).text().unwrap_or_default();
                    return Ok(Err(Refusal { name: message.error, text }));
                }
                _ => self.note(&message),
            }
        }
    }

    /// Keeps what says that a job has ended.
    fn note(&mut self, message: &Message) {
        if message.kind == SIGNAL && message.member == "JobRemoved" {
            let mut reader = Reader::new(&message.body);
            let parts = (reader.number(), reader.text(), reader.text(), reader.text());
            if let (Some(_), Some(job), Some(_unit), Some(result)) = parts {
                self.ended.push((job, result));
            }
        }
    }

    /// Waits until the job of this answer has ended: how it did. `None` if it takes too long.
    pub(super) fn job(&mut self, started: &Message) -> Result<Option<String>, UnitError> {
        let job = Reader::new(&started.body).text().ok_or(UnitError::Nonsense)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(j, _)| *j == job) {
                return Ok(Some(result.clone()));
            }
            match self.message(until) {
                Ok(message) => self.note(&message),
                Err(UnitError::Talk(e)) if e.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.unread.len() > BLOCK {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.more()?;
        }
    }

    fn message(&mut self, until: Instant) -> Result<Message, UnitError> {
        loop {
            if let Some(fixed) = self.unread.first_chunk::<FIXED>() {
                let size = message::size(fixed).ok_or(UnitError::Nonsense)?;
                if self.unread.len() >= size {
                    let message = message::parse(&self.unread[..size]);
                    self.unread.drain(..size);
                    return message.ok_or(UnitError::Nonsense);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(UnitError::Talk(io::ErrorKind::TimedOut.into()));
            }
            match self.socket.set_read_timeout(Some(left)).and_then(|()| self.more()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => other.map_err(UnitError::Talk)?,
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut block = [0; BLOCK];
        loop {
            match self.socket.read(&mut block) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.unread.extend(&block[..n]);
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn manager(member: &str) -> Method<'_> {
    Method { destination: NAME, path: PATH, interface: MANAGER, member }
}
