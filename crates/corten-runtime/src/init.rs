//! The in-container init of `--init`, visible as `/sbin/docker-init`: starts the program, passes signals on,
//! reaps every orphan, and ends as the program ended.
//!
//! It is PID 1, so the kernel gives it no default signal actions: everything is blocked and read from a signalfd.
//! It allocates nothing after the start.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;

use corten_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

/// `docker-init [--] PROGRAM [ARGUMENT…]`; returns the exit code to end with: the program's, 128 + signal where
/// it was killed, 126 or 127 where it cannot be started, 1 for a failure of our own.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.peek().is_some_and(|a| a == "--") {
        arguments.next();
    }
    let Some(program) = arguments.next() else { return 1 };
    let Ok(signals) = SignalFd::all() else { return 1 };
    let mut command = std::process::Command::new(&program);
    command.arg0(&program).args(arguments);
    let child = match command.spawn() {
        Ok(child) => Pid::from_child(&child),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return 127,
        Err(_) => return 126,
    };
    supervise(&signals, child).unwrap_or(1)
}

fn supervise(signals: &SignalFd, child: Pid) -> io::Result<i32> {
    loop {
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        while let Some(received) = signals.next()? {
            match Signal::from_named_raw(received.signal) {
                Some(Signal::CHILD) => {}
                // A key on the terminal reaches the program by itself: it is in the foreground group as we are.
                _ if received.from_kernel => {}
                Some(signal) => drop(kill_process(child, signal)),
                None => {}
            }
        }
        if let Some(code) = reap(child)? {
            return Ok(code);
        }
    }
}

/// Reaps all that have ended; the exit code once `child` is among them.
fn reap(child: Pid) -> io::Result<Option<i32>> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => code = Some(exit_code(status)),
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
}
