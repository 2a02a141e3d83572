//! The tiny init that `--init` puts before the container's program: it reaps orphans, passes signals on, and
//! ends as the program ends.

use std::ffi::{CStr, CString};

use corten_sys::process::{self, Strings};
use corten_sys::signal::SignalFd;
use rustix::fs::{Access, FileType};

/// Runs as process 1 with the program's arguments; the exit code.
#[must_use]
pub fn main(args: &[String]) -> i32 {
    use std::os::unix::ffi::OsStrExt;
    let args = args.iter().skip_while(|a| *a == "--").filter_map(|a| CString::new(a.as_str()).ok());
    let variable = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
        CString::new([k.as_bytes(), b"=", v.as_bytes()].concat()).ok()
    };
    let env: Vec<CString> = std::env::vars_os().filter_map(variable).collect();
    serve_program(args.collect(), env)
}

/// Starts the program, and serves it until its end.
/// Not for a process with more than one thread.
#[must_use]
pub fn serve_program(args: Vec<CString>, env: Vec<CString>) -> i32 {
    rustix::thread::set_name(c"docker-init").ok();
    let Some(name) = args.first() else { return 1 };
    let all: Vec<i32> = (1..=64).filter(|s| !KEPT.contains(s)).collect();
    let Ok(signals) = SignalFd::of(&all) else { return 1 };
    let program = find(name, &env);
    let (args, mut env) = (Strings::of(args), Strings::of(env));
    let child = process::clone_process(0, None, || {
        process::reset_signals();
        rustix::process::setpgid(None, None).ok();
        // On a terminal the program's group is the one in the foreground.
        rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid()).ok();
        process::exec(&program, &args, &mut env, None);
        127
    });
    let Ok(child) = child else { return 1 };
    serve(&signals, &child)
}

/// Signals that are synchronous faults of our own, or that init must take itself.
const KEPT: [i32; 8] = [4, 5, 7, 8, 11, 31, 9, 19];
const CHILD: i32 = 17;

fn serve(signals: &SignalFd, child: &process::Child) -> i32 {
    use std::os::fd::AsFd;
    loop {
        let mut fds = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).ok();
        while let Ok(Some(signal)) = signals.next() {
            // Stops of terminal input and output are for the group in the background, which we are.
            if signal != CHILD && signal != 21 && signal != 22 {
                process::signal(child.pidfd.as_fd(), signal).ok();
            }
        }
        while let Ok(Some((pid, ended))) = process::reap_any() {
            if pid == child.pid {
                return ended.code();
            }
        }
    }
}

fn find(name: &CStr, env: &[CString]) -> CString {
    let path = env.iter().find_map(|e| e.to_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
    let is_program = |p: &CString| {
        let regular = |s: rustix::fs::Stat| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile;
        rustix::fs::access(p, Access::EXEC_OK).is_ok() && rustix::fs::stat(p).is_ok_and(regular)
    };
    if name.to_bytes().contains(&b'/') {
        return name.to_owned();
    }
    let candidates = path.split(|b| *b == b':').map(|d| [d, b"/", name.to_bytes()].concat());
    candidates.filter_map(|c| CString::new(c).ok()).find(is_program).unwrap_or_else(|| name.to_owned())
}
