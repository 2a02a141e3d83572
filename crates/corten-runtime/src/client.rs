//! The daemon's side of the shim protocol: start shims, speak to them, hear from them.
//!
//! ```text
//!   Launcher::spawn ──▶ Shim (handle) ──call──▶ shim process
//!                          ▲                        │
//!   sink(Event) ◀── Monitor: one epoll thread ◀─────┘  replies and notices of all shims
//! ```
//!
//! Everything is synchronous and thread-safe. Callbacks and the sink run on the monitor's thread: they must be
//! quick (send on a channel) and must not call a blocking method of [`Shim`].

mod launcher;
mod monitor;

pub use launcher::Launcher;
pub use monitor::{Event, Monitor, News};

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use corten_base::Kind;
use corten_wire::oci_runtime::{ConsoleSize, Resources};
use corten_wire::shim::{
    Attach, Call, ExecSpec, Fault, Message, Reply, Request, SOCKET_NAME, ShimState, VERSION,
};

use crate::channel::{self, Received};

/// A request to a shim, or the start of one, failed.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim answered that it could not.
    #[error("{0}")]
    Fault(Fault),
    /// There is no shim (any more) behind the handle.
    #[error("the container's shim is gone")]
    Gone,
    /// The shim does not read its requests.
    #[error("the container's shim is busy")]
    Busy,
    /// A system call on our side.
    #[error("{step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The shim sent what does not belong there.
    #[error("the container's shim gave an unexpected reply")]
    Protocol,
}

impl ShimError {
    /// For the API's status.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Fault(fault) => fault.kind,
            Self::Busy => Kind::Unavailable,
            Self::Gone | Self::Io { .. } | Self::Protocol => Kind::Internal,
        }
    }

    fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused => {
                Self::Gone
            }
            io::ErrorKind::NotFound if step == "connect to shim" => Self::Gone,
            io::ErrorKind::WouldBlock => Self::Busy,
            _ => Self::Io { step, source },
        }
    }
}

/// What a request came to: the reply and the descriptors that came with it.
pub type CallResult = Result<(Reply, Vec<OwnedFd>), ShimError>;

type Done = Box<dyn FnOnce(CallResult) + Send>;

/// The running container's processes and pipes, as one request wants them.
#[derive(Debug)]
pub struct StartedExec {
    /// As the host sees it.
    pub pid: i32,
    /// With a terminal its master; otherwise, of stdin, stdout and stderr, the requested ones in this order.
    pub fds: Vec<OwnedFd>,
}

struct Pending {
    next: u64,
    /// `None` once the connection is closed.
    waiting: Option<HashMap<u64, Done>>,
}

struct Connection {
    container: String,
    socket: OwnedFd,
    pending: Mutex<Pending>,
    /// The daemon has heard of the exit, so the end of the connection is no news.
    exited: std::sync::atomic::AtomicBool,
}

/// A handle on one container's shim; cheap to clone.
#[derive(Clone)]
pub struct Shim {
    connection: Arc<Connection>,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shim").field("container", &self.connection.container).finish()
    }
}

impl Connection {
    fn new(container: String, socket: OwnedFd) -> Arc<Self> {
        Arc::new(Self {
            container,
            socket,
            pending: Mutex::new(Pending { next: 1, waiting: Some(HashMap::new()) }),
            exited: std::sync::atomic::AtomicBool::new(false),
        })
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, seq: u64) -> Option<Done> {
        self.pending().waiting.as_mut()?.remove(&seq)
    }

    /// Fails everything that waits, now and later.
    fn close(&self) {
        let waiting = self.pending().waiting.take();
        for (_, done) in waiting.into_iter().flatten() {
            done(Err(ShimError::Gone));
        }
    }
}

/// The shim of a container that an earlier daemon started.
#[derive(Debug)]
pub struct Reconnected {
    /// The handle.
    pub shim: Shim,
    /// What the shim knows.
    pub state: ShimState,
    /// What the earlier daemon left there, see [`Shim::entrust`].
    pub kept: Vec<OwnedFd>,
}

/// A shim that was greeted; its answer is on the way.
#[derive(Debug)]
pub struct Greeted {
    socket: OwnedFd,
}

impl Greeted {
    /// Waits for the answer, and listens to the shim from then on.
    ///
    /// # Errors
    /// As of [`Shim::connect`].
    pub fn answer(self, monitor: &Monitor, container: &str) -> Result<Reconnected, ShimError> {
        let (state, kept) = self.hear()?;
        let connection = Connection::new(container.to_owned(), self.socket);
        monitor.watch(&connection)?;
        Ok(Reconnected { shim: Shim { connection }, state, kept })
    }

    fn hear(&self) -> Result<(ShimState, Vec<OwnedFd>), ShimError> {
        let reply = channel::recv::<Message>(self.socket.as_fd(), &mut channel::buffer(), true);
        match reply.map_err(ShimError::io("greet shim"))? {
            Received::Message(Message::Reply { result: Ok(Reply::State(state)), .. }, kept) => {
                Ok((state, kept))
            }
            Received::Message(Message::Reply { result: Err(fault), .. }, _) => Err(ShimError::Fault(fault)),
            Received::Message(..) | Received::Nothing => Err(ShimError::Protocol),
            Received::End => Err(ShimError::Gone),
        }
    }
}

impl Shim {
    /// Connects to the shim of a container that an earlier daemon started. `directory` is the container's
    /// directory below the exec root. An exit that happened meanwhile is in the state, and is reported to the
    /// monitor's sink as well.
    ///
    /// # Errors
    /// [`ShimError::Gone`] if no shim is there: look for `exit.json`.
    pub fn connect(monitor: &Monitor, container: &str, directory: &Path) -> Result<Reconnected, ShimError> {
        Self::greet(directory)?.answer(monitor, container)
    }

    /// The first half of [`Shim::connect`]. Who greets many before it hears the first lets them answer side by side.
    ///
    /// # Errors
    /// As of [`Shim::connect`].
    pub fn greet(directory: &Path) -> Result<Greeted, ShimError> {
        Self::greet_with(directory, &[])
    }

    /// Has the shim of a running container keep descriptors for the next daemon, instead of those it kept before.
    ///
    /// # Errors
    /// As of [`Shim::connect`].
    pub fn entrust(directory: &Path, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        Self::greet_with(directory, fds)?.hear().map(drop)
    }

    fn greet_with(directory: &Path, fds: &[BorrowedFd<'_>]) -> Result<Greeted, ShimError> {
        let socket = corten_sys::seqpacket::connect(&directory.join(SOCKET_NAME))
            .map_err(ShimError::io("connect to shim"))?;
        let hello = Request { seq: 0, call: Call::Hello { version: VERSION } };
        channel::send(socket.as_fd(), &hello, fds, true).map_err(ShimError::io("greet shim"))?;
        Ok(Greeted { socket })
    }

    /// Sends a request; `done` is called exactly once, on the monitor's thread or, if it cannot even be sent,
    /// on this one.
    pub fn call(&self, call: Call, fds: &[BorrowedFd<'_>], done: impl FnOnce(CallResult) + Send + 'static) {
        let seq = {
            let mut pending = self.connection.pending();
            let seq = pending.next;
            pending.next += 1;
            match &mut pending.waiting {
                Some(waiting) => waiting.insert(seq, Box::new(done)),
                None => {
                    drop(pending);
                    return done(Err(ShimError::Gone));
                }
            };
            seq
        };
        let sent = channel::send(self.connection.socket.as_fd(), &Request { seq, call }, fds, false);
        if let Err(e) = sent
            && let Some(done) = self.connection.take(seq)
        {
            done(Err(ShimError::io("send to shim")(e)));
        }
    }

    /// As [`Shim::call`], waiting for the reply. Never on the monitor's thread.
    ///
    /// # Errors
    /// The shim's fault, or what kept us from asking.
    pub fn call_wait(&self, call: Call, fds: &[BorrowedFd<'_>]) -> CallResult {
        let (send, receive) = mpsc::sync_channel(1);
        self.call(call, fds, move |result| {
            send.send(result).ok();
        });
        receive.recv().unwrap_or(Err(ShimError::Gone))
    }

    fn done(&self, call: Call) -> Result<(), ShimError> {
        self.call_wait(call, &[]).map(|_| ())
    }

    /// What the shim knows. (All methods from here on wait for the reply.)
    ///
    /// # Errors
    /// See [`Shim::call_wait`]; so for all that follow.
    pub fn state(&self) -> Result<ShimState, ShimError> {
        match self.call_wait(Call::State, &[])?.0 {
            Reply::State(state) => Ok(state),
            Reply::Done | Reply::ExecStarted { .. } => Err(ShimError::Protocol),
        }
    }

    /// Sends a signal to init, or to all processes; that there is none left is no error.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), ShimError> {
        self.done(Call::Kill { signal, all })
    }

    /// Freezes the container.
    pub fn pause(&self) -> Result<(), ShimError> {
        self.done(Call::Pause)
    }

    /// Thaws the container.
    pub fn resume(&self) -> Result<(), ShimError> {
        self.done(Call::Resume)
    }

    /// Starts a further process. The monitor tells its end as [`News::ExecExited`].
    pub fn exec(&self, spec: ExecSpec) -> Result<StartedExec, ShimError> {
        match self.call_wait(Call::Exec(Box::new(spec)), &[])? {
            (Reply::ExecStarted { pid }, fds) => Ok(StartedExec { pid, fds }),
            _ => Err(ShimError::Protocol),
        }
    }

    /// Sends a signal to an exec's process.
    pub fn kill_exec(&self, id: &str, signal: i32) -> Result<(), ShimError> {
        self.done(Call::KillExec { id: id.to_owned(), signal })
    }

    /// Sets the size of the container's terminal, or of an exec's.
    pub fn resize(&self, exec: Option<&str>, size: ConsoleSize) -> Result<(), ShimError> {
        self.done(Call::Resize { exec: exec.map(str::to_owned), size })
    }

    /// Attaches a client: the shim writes output to `stream` (a unix stream socket) and reads input from it.
    pub fn attach(&self, wants: Attach, stream: BorrowedFd<'_>) -> Result<(), ShimError> {
        self.call_wait(Call::Attach(wants), &[stream]).map(|_| ())
    }

    /// Changes limits.
    pub fn update(&self, resources: Resources) -> Result<(), ShimError> {
        self.done(Call::Update(Box::new(resources)))
    }

    /// Opens the log file anew.
    pub fn reopen_logs(&self) -> Result<(), ShimError> {
        self.done(Call::ReopenLogs)
    }

    /// Tells the shim that its exit is recorded, so that it may leave. Does not wait.
    pub fn ack(&self) {
        self.call(Call::Ack, &[], |_| {});
    }
}
