//! The small process that owns one container: its streams, its log, its exit.
//!
//! One thread, one poll loop. It outlives the daemon; it leaves when the container has ended and the daemon has
//! acknowledged that, or none is connected. If the shim itself is killed the kernel kills the container's first
//! process with it (`PR_SET_PDEATHSIG`), and with that one the whole PID namespace, unless the container took
//! that setting back or runs a set-user-id program: the daemon then cleans up by the control group.

mod attached;
mod foreign;
mod io;
mod log;
mod requests;
mod runtime;
mod start;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use corten_base::time::now_ns;
use corten_sys::process::{self, Child, Ended};
use corten_sys::seqpacket;
use corten_sys::signal::SignalFd;
use corten_wire::oci_runtime::Process;
use corten_wire::shim::{EXIT_NAME, Exit, Message, Notice, Started, Stdin, UserSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cgroup::Cgroup;
use crate::channel;
use attached::Attached;
use log::{Log, Stream};
use runtime::OciRuntime;

pub use start::main;

/// How often a log that waits for its receiver is looked at.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What further processes inherit from the container.
#[derive(Debug)]
struct ForExec {
    process: Process,
    user: Option<UserSpec>,
}

/// A further process that runs.
#[derive(Debug)]
struct Exec {
    id: String,
    child: Child,
    master: Option<OwnedFd>,
}

/// A daemon that is connected.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// It has said Hello, or is the one that started us.
    greeted: bool,
    /// It hung up, or does not read what we send.
    gone: bool,
}

/// Standard input of the container.
#[derive(Debug)]
struct Input {
    config: Stdin,
    pipe: Option<OwnedFd>,
    pending: Vec<u8>,
    /// Close when `pending` is written.
    closing: bool,
}

/// The whole state.
#[derive(Debug)]
struct Shim {
    dir: PathBuf,
    cgroup: Cgroup,
    runtime: Box<dyn OciRuntime>,
    /// The container's processes are in a PID namespace that dies with init.
    own_pids: bool,
    init: Child,
    started: Started,
    paused: bool,
    exit: Option<Exit>,
    acked: bool,
    tty: bool,
    /// Terminal's master, or the pipes of standard output and error.
    outputs: [Option<OwnedFd>; 2],
    input: Input,
    clients: Vec<Attached>,
    log: Option<Log>,
    for_exec: ForExec,
    execs: Vec<Exec>,
    oom: Option<OwnedFd>,
    oom_kills: u64,
    signals: SignalFd,
    listener: Option<OwnedFd>,
    connections: Vec<Connection>,
    block: Vec<u8>,
    /// What the daemon wants to find again, see [`Call::Hello`](corten_wire::shim::Call::Hello).
    kept: Vec<OwnedFd>,
    /// Kept until everybody knows of the container's end, see [`crate::container::Launched`].
    _root: Option<OwnedFd>,
}

/// Whom a ready descriptor belongs to.
#[derive(Debug, Clone, Copy)]
enum Token {
    Signals,
    Listener,
    Oom,
    Connection(usize),
    Output(Stream),
    InputPipe,
    Client(usize),
}

fn add<'a>(
    fds: &mut Vec<PollFd<'a>>,
    tokens: &mut Vec<Token>,
    token: Token,
    fd: BorrowedFd<'a>,
    events: PollFlags,
) {
    tokens.push(token);
    fds.push(PollFd::from_borrowed_fd(fd, events));
}

impl Shim {
    /// Runs until there is nothing left to do.
    fn run(mut self) {
        while !self.finished() {
            let ready = self.wait();
            if let Some(log) = &mut self.log {
                log.retry();
            }
            // Connections and clients are only marked while their indices are in use.
            for (token, events) in ready {
                match token {
                    Token::Signals => self.reap(),
                    Token::Listener => self.accept(),
                    Token::Oom => self.oom_event(events),
                    Token::Connection(i) => self.serve(i),
                    Token::Output(stream) => self.read_output(stream),
                    Token::InputPipe => self.write_input(),
                    Token::Client(i) => self.client_ready(i, events),
                }
            }
            self.sweep();
        }
        corten_base::fs::ensure_absent(&self.dir.join(corten_wire::shim::SOCKET_NAME)).ok();
    }

    fn finished(&self) -> bool {
        let heard = self.acked || !self.connections.iter().any(|c| c.greeted && !c.gone);
        self.exit.is_some() && heard && !self.clients.iter().any(Attached::behind)
    }

    /// Waits for events; says which descriptors have some.
    fn wait(&mut self) -> Vec<(Token, PollFlags)> {
        let mut tokens = Vec::with_capacity(8 + self.connections.len() + self.clients.len());
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(tokens.capacity());
        add(&mut fds, &mut tokens, Token::Signals, self.signals.as_fd(), PollFlags::IN);
        if let Some(listener) = &self.listener {
            add(&mut fds, &mut tokens, Token::Listener, listener.as_fd(), PollFlags::IN);
        }
        if let Some(oom) = &self.oom {
            let events = if self.cgroup.is_v2() { PollFlags::PRI } else { PollFlags::IN };
            add(&mut fds, &mut tokens, Token::Oom, oom.as_fd(), events);
        }
        for (i, c) in self.connections.iter().enumerate() {
            add(&mut fds, &mut tokens, Token::Connection(i), c.socket.as_fd(), PollFlags::IN);
        }
        let full = self.log.as_ref().is_some_and(Log::is_full);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let stalled = full || self.clients.iter().any(|c| c.stalls(stream));
            if let Some(fd) = self.outputs[stream as usize].as_ref().filter(|_| !stalled) {
                add(&mut fds, &mut tokens, Token::Output(stream), fd.as_fd(), PollFlags::IN);
            }
        }
        if !self.input.pending.is_empty()
            && let Some(pipe) = self.input_fd()
        {
            add(&mut fds, &mut tokens, Token::InputPipe, pipe, PollFlags::OUT);
        }
        for (i, c) in self.clients.iter().enumerate() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, !c.input_done && self.input.pending.len() < io::INPUT_LAG);
            events.set(PollFlags::OUT, c.behind());
            add(&mut fds, &mut tokens, Token::Client(i), c.fd(), events);
        }
        loop {
            // Nobody tells us that the log's receiver goes on.
            match poll(&mut fds, full.then_some(&RETRY)) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Vec::new(),
            }
        }
        let ready = fds.iter().map(PollFd::revents).zip(&tokens);
        ready.filter(|(events, _)| !events.is_empty()).map(|(events, token)| (*token, events)).collect()
    }

    /// Forgets who is gone.
    fn sweep(&mut self) {
        if self.clients.iter().any(|c| c.gone && c.wants.stdin) && self.input.config.once {
            self.close_input();
        }
        // Attached clients of a container that has ended stay until they have everything.
        let ended = self.exit.is_some();
        self.clients.retain(|c| !c.gone && (!ended || c.behind()));
        self.connections.retain(|c| !c.gone);
    }

    fn accept(&mut self) {
        let accepted = self.listener.as_ref().and_then(|l| seqpacket::accept(l.as_fd()).ok().flatten());
        if let Some(socket) = accepted
            && self.connections.len() < requests::MAX_CONNECTIONS
        {
            self.connections.push(Connection { socket, greeted: false, gone: false });
        }
    }

    fn oom_event(&mut self, events: PollFlags) {
        if let Some(oom) = &self.oom {
            let mut scratch = [0u8; 1024];
            if self.cgroup.is_v2() {
                rustix::io::pread(oom, &mut scratch, 0).ok();
            } else {
                rustix::io::read(oom, &mut scratch[..8]).ok();
            }
        }
        let kills = self.cgroup.oom_kills();
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.tell(&Notice::Oom);
        }
        if events.intersects(PollFlags::HUP | PollFlags::ERR) && !self.cgroup.is_v2() {
            self.oom = None;
        }
    }

    /// Tells all daemons. One that does not listen any more will be dropped by [`Shim::sweep`].
    fn tell(&mut self, notice: &Notice) {
        let message = Message::Notice(notice.clone());
        for c in self.connections.iter_mut().filter(|c| c.greeted) {
            c.gone |= channel::send(c.socket.as_fd(), &message, &[], false).is_err();
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.next() {}
        while let Ok(Some((pid, ended))) = process::reap_any() {
            if pid == self.init.pid && self.exit.is_none() {
                self.init_ended(ended);
            } else if let Some(i) = self.execs.iter().position(|e| e.child.pid == pid) {
                let exec = self.execs.swap_remove(i);
                self.tell(&Notice::ExecExited { id: exec.id, code: ended.code() });
            }
        }
    }

    /// The container is over: everything that it wrote is recorded before anybody hears of it.
    fn init_ended(&mut self, ended: Ended) {
        let at = now_ns();
        if !self.own_pids {
            self.cgroup.kill_all(9);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.drain_output(stream);
        }
        if let Some(log) = &mut self.log {
            log.finish(now_ns());
        }
        let oom = self.oom_kills > 0 || self.cgroup.oom_kills() > 0;
        self.oom = None;
        self.runtime.delete();
        let signal = match ended {
            Ended::Signaled(signal) => Some(signal),
            Ended::Exited(_) => None,
        };
        let exit = Exit { code: ended.code(), signal, oom, at: i64::try_from(at).unwrap_or(i64::MAX) };
        self.exit = Some(exit);
        self.outputs = [None, None];
        // Sockets would keep the network namespace.
        self.kept.clear();
        self.input.pipe = None;
        self.input.pending.clear();
        let durability = corten_base::fs::Durability::Process;
        if let Ok(bytes) = serde_json::to_vec(&exit) {
            corten_base::fs::replace(&self.dir.join(EXIT_NAME), &bytes, 0o600, durability).ok();
        }
        self.tell(&Notice::Exited(exit));
        // Attached clients see the end of the stream once they have everything.
        for c in &mut self.clients {
            c.flush();
        }
    }
}
