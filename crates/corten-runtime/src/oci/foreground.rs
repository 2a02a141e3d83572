//! A process that the command waits for: signals go to it, and a terminal is joined with ours.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use corten_sys::process::{self, Child};
use corten_sys::signal::SignalFd;
use corten_sys::{pty, seqpacket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::arguments::Arguments;
use super::create::master;
use super::{OciError, absolute};
use crate::container::Stdio;

/// Who gets the master of the process's terminal.
#[derive(Debug)]
pub(super) enum Terminal {
    /// It has none.
    None,
    /// Whoever listens on `--console-socket`.
    Socket(PathBuf),
    /// We do.
    Own,
}

impl Terminal {
    /// Checks the flags against the configuration.
    pub(super) fn of(given: &Arguments, terminal: bool, detached: bool) -> Result<Self, OciError> {
        let socket = given.value("console-socket").filter(|s| !s.is_empty());
        match (terminal, socket, detached) {
            (false, Some(_), true) => {
                Err(OciError::refused("cannot use console socket if runc will not detach or allocate tty"))
            }
            (true, None, true) => Err(OciError::refused(
                "cannot allocate tty if runc will detach without setting console socket",
            )),
            (true, Some(path), true) => Ok(Self::Socket(absolute(path)?)),
            (_, Some(_), false) => {
                Err(OciError::refused("cannot use console socket if runc will not detach or allocate tty"))
            }
            (true, None, false) => Ok(Self::Own),
            (false, None, _) => Ok(Self::None),
        }
    }

    /// Sends the master away, or gives it back to be served by [`wait`].
    pub(super) fn hand_over(&self, stdio: Stdio) -> Result<Option<OwnedFd>, OciError> {
        let Some(master) = master(stdio) else { return Ok(None) };
        let Self::Socket(path) = self else { return Ok(Some(master)) };
        send(path, "/dev/ptmx", master.as_fd())
            .map_err(OciError::io(format_args!("send terminal to {}", path.display())))?;
        Ok(None)
    }
}

/// Sends a descriptor, and what it is, to whoever listens there.
fn send(path: &Path, what: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // A path longer than a socket's address is reached through its directory.
    let dir = std::fs::File::open(path.parent().unwrap_or(path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let socket = UnixStream::connect(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
    seqpacket::send(socket.as_fd(), what.as_bytes(), &[fd], true)
}

/// `--pidfd-socket`: whoever listens there gets the process. `what` is runc's name for its kind.
pub(super) fn send_pidfd(path: Option<&Path>, what: &str, pidfd: BorrowedFd<'_>) -> Result<(), OciError> {
    let Some(path) = path else { return Ok(()) };
    send(path, what, pidfd).map_err(OciError::io(format_args!("send pidfd to {}", path.display())))
}

const CHILD: i32 = 17;
const WINCH: i32 = 28;
/// Faults of our own, what cannot be blocked, what says nothing to the process, and stops of our own terminal use.
const KEPT: [i32; 12] = [4, 5, 7, 8, 9, 11, 13, 19, 21, 22, 23, 31];

/// Signals from now on wait for [`wait`]. To be called before the process is made, or its end could be missed.
pub(super) fn signals() -> Result<SignalFd, OciError> {
    let all: Vec<i32> = (1..=64).filter(|s| !KEPT.contains(s)).collect();
    SignalFd::of(&all).map_err(OciError::io("signalfd"))
}

/// Our terminal passes every byte on as long as this lives.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

/// Waits for the end of the process; its exit code.
pub(super) fn wait(child: &Child, signals: &SignalFd, master: Option<OwnedFd>) -> Result<i32, OciError> {
    let _raw = master.as_ref().and_then(|_| Raw::enter());
    resize(master.as_ref());
    let mut session = Session { master: master.map(std::fs::File::from), input: true };
    loop {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        let stdin = rustix::stdio::stdin();
        if let Some(master) = &session.master {
            fds.push(PollFd::new(master, PollFlags::IN));
            if session.input {
                fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
            }
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(OciError::io("poll")(e.into())),
        }
        let ready = |i: usize| fds.get(i).is_some_and(|f| !f.revents().is_empty());
        let (output, input) = (ready(1), ready(2));
        if output {
            session.output();
        }
        if input {
            session.input();
        }
        while let Ok(Some(signal)) = signals.next() {
            match signal {
                CHILD => {}
                WINCH => resize(session.master.as_ref()),
                _ => {
                    process::signal(child.pidfd.as_fd(), signal).ok();
                }
            }
        }
        while let Ok(Some((pid, ended))) = process::reap_any() {
            if pid == child.pid {
                session.drain();
                return Ok(ended.code());
            }
        }
    }
}

fn resize(master: Option<&impl AsFd>) {
    if let Some(master) = master
        && isatty(rustix::stdio::stdin())
        && let Ok(size) = tcgetwinsize(rustix::stdio::stdin())
    {
        pty::resize(master.as_fd(), size.ws_row, size.ws_col).ok();
    }
}

/// The terminal between us and the process.
struct Session {
    master: Option<std::fs::File>,
    input: bool,
}

impl Session {
    /// Passes on what the process wrote; the error at the end is the terminal's way to say that nobody has it open.
    fn output(&mut self) {
        let Some(master) = &mut self.master else { return };
        let mut block = [0; 16 * 1024];
        match master.read(&mut block) {
            Ok(n @ 1..) => {
                let mut stdout = std::io::stdout();
                stdout.write_all(&block[..n]).and_then(|()| stdout.flush()).ok();
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            _ => self.master = None,
        }
    }

    fn input(&mut self) {
        let Some(master) = &mut self.master else { return };
        let mut block = [0; 4096];
        match rustix::io::read(rustix::stdio::stdin(), &mut block) {
            Ok(n @ 1..) => {
                master.write_all(&block[..n]).ok();
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            // The end of our input is the end-of-file character of theirs.
            _ => {
                self.input = false;
                master.write_all(&[4]).ok();
            }
        }
    }

    /// What was written before the end.
    fn drain(&mut self) {
        if let Some(master) = &self.master {
            rustix::io::ioctl_fionbio(master, true).ok();
        }
        while let Some(master) = &self.master {
            let mut fds = [PollFd::new(master, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            if !matches!(poll(&mut fds, Some(&now)), Ok(1..)) {
                return;
            }
            self.output();
        }
    }
}
