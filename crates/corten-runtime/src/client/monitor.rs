//! The one thread that listens to all shims.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use corten_wire::shim::{Exit, Message, Notice};
use rustix::event::epoll;

use super::{Connection, ShimError};
use crate::channel::{self, Received};

/// Something happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub container: String,
    /// What.
    pub news: News,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Init has ended; answer with [`super::Shim::ack`] when that is recorded.
    Exited(Exit),
    /// An exec has ended.
    ExecExited {
        /// Its id.
        id: String,
        /// As a shell counts.
        code: i32,
    },
    /// The kernel killed a process for want of memory.
    Oom,
    /// The shim ended without reporting an exit (somebody killed it). Init dies with it; call
    /// [`crate::cgroup::Cgroup::destroy`] for the rest.
    Lost,
}

enum Watched {
    Connection(Arc<Connection>),
    /// A shim process to reap.
    Process(OwnedFd),
}

struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    watched: Mutex<HashMap<u64, Watched>>,
    next: AtomicU64,
}

/// Listens to all shims on one thread of its own; dropping it ends the thread, not the shims.
pub struct Monitor {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

const STOP: u64 = 0;

impl Monitor {
    /// Starts the thread. `sink` is called on it for every event; it must not block.
    ///
    /// # Errors
    /// Those of epoll_create1(2), eventfd(2) and of starting a thread.
    pub fn start(sink: impl Fn(Event) + Send + 'static) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, stop, watched: Mutex::default(), next: AtomicU64::new(1) });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("shims".into())
            .stack_size(256 * 1024)
            .spawn(move || for_thread.run(&sink))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn watch(&self, connection: &Arc<Connection>) -> Result<(), ShimError> {
        self.shared.add(Watched::Connection(connection.clone())).map_err(ShimError::io("watch shim"))
    }

    /// Reaps the shim process behind `pidfd` when it ends.
    pub(super) fn reap(&self, pidfd: OwnedFd) -> Result<(), ShimError> {
        self.shared.add(Watched::Process(pidfd)).map_err(ShimError::io("watch shim process"))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, watched: Watched) -> std::io::Result<()> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        // The lock is held across the registration, so that the thread finds the entry when it is woken.
        let mut table = self.table();
        epoll::add(&self.epoll, watched.fd(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        table.insert(token, watched);
        Ok(())
    }

    fn remove(&self, token: u64) {
        if let Some(watched) = self.table().remove(&token) {
            epoll::delete(&self.epoll, watched.fd()).ok();
        }
    }

    fn run(&self, sink: &dyn Fn(Event)) {
        let mut events = Vec::with_capacity(64);
        let mut buffer = channel::buffer();
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                let token = event.data.u64();
                if token == STOP {
                    return;
                }
                self.ready(token, &mut buffer, sink);
            }
        }
    }

    fn ready(&self, token: u64, buffer: &mut [u8], sink: &dyn Fn(Event)) {
        let found = match self.table().get(&token) {
            None => return,
            Some(Watched::Connection(connection)) => Some(connection.clone()),
            Some(Watched::Process(pidfd)) => {
                corten_sys::process::wait(pidfd.as_fd()).ok();
                None
            }
        };
        let Some(connection) = found else {
            return self.remove(token);
        };
        loop {
            match channel::recv::<Message>(connection.socket.as_fd(), buffer, false) {
                Ok(Received::Message(message, fds)) => deliver(&connection, message, fds, sink),
                Ok(Received::Nothing) => return,
                // What cannot be understood ends the conversation like a lost shim.
                Ok(Received::End) | Err(_) => {
                    self.remove(token);
                    connection.close();
                    if !connection.exited.load(Ordering::Acquire) {
                        sink(Event { container: connection.container.clone(), news: News::Lost });
                    }
                    return;
                }
            }
        }
    }
}

impl Watched {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Connection(connection) => connection.socket.as_fd(),
            Self::Process(pidfd) => pidfd.as_fd(),
        }
    }
}

fn deliver(connection: &Arc<Connection>, message: Message, fds: Vec<OwnedFd>, sink: &dyn Fn(Event)) {
    let news = match message {
        Message::Reply { seq, result } => {
            if let Some(done) = connection.take(seq) {
                done(result.map(|reply| (reply, fds)).map_err(ShimError::Fault));
            }
            return;
        }
        Message::Notice(Notice::Exited(exit)) => {
            connection.exited.store(true, Ordering::Release);
            News::Exited(exit)
        }
        Message::Notice(Notice::ExecExited { id, code }) => News::ExecExited { id, code },
        Message::Notice(Notice::Oom) => News::Oom,
    };
    sink(Event { container: connection.container.clone(), news });
}
