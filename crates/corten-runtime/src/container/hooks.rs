//! Runs the programs that a configuration names for points of a container's life.
//!
//! A hook reads the container's state from its standard input. One that fails or takes too long fails the step,
//! except after start and after deletion, where the caller goes on.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use corten_sys::{allocation, process, seqpacket};
use corten_wire::oci_runtime::{Hook, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Alone;
use super::failure::{Failure, Outcome, Step};
use crate::fault::{StepError, errno_text};

/// How much of a failed hook's output its error shows.
const MAX_OUTPUT: u64 = 4096;

/// Those of the runtime's namespaces before the root is entered.
pub(super) fn before_root(alone: &Alone<'_>, pid: i32) -> Result<(), StepError> {
    run("prestart", &alone.hooks.prestart, alone.state, pid, "creating", None)?;
    run("createRuntime", &alone.hooks.create_runtime, alone.state, pid, "creating", None)
}

/// Runs hooks in their order, until one fails. One without an environment of its own gets `env`, or else ours.
pub(crate) fn run(
    kind: &str,
    hooks: &[Hook],
    state: &State,
    pid: i32,
    status: &str,
    env: Option<&[String]>,
) -> Result<(), StepError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = State { pid: (pid > 0).then_some(pid), status: status.to_owned(), ..state.clone() };
    let text = serde_json::to_vec(&state).map_err(|e| StepError::new("hooks", e.to_string()))?;
    for (i, hook) in hooks.iter().enumerate() {
        one(hook, &text, env)
            .map_err(|reason| StepError::new("hooks", format!("error running {kind} hook #{i}: {reason}")))?;
    }
    Ok(())
}

/// As [`run`], in the process that becomes the container's. Making a process with its streams takes memory, so that
/// this, which only the OCI command line does, is where that process may have some; and what a hook wrote before it
/// failed is reported in full.
pub(super) fn run_inside(
    kind: &str,
    hooks: &[Hook],
    state: &State,
    (pid, status): (i32, &str),
    env: Option<&[String]>,
    report: BorrowedFd<'_>,
) -> Outcome {
    if hooks.is_empty() {
        return Ok(());
    }
    allocation::permit(|| {
        run(kind, hooks, state, pid, status, env).map_err(|error| {
            let mut message = vec![super::report::TOLD];
            if serde_json::to_writer(&mut message, &error).is_ok() {
                message.truncate(super::MAX_REPORT);
                seqpacket::send(report, &message, &[], true).ok();
            }
            Failure::plain(Step::Hooks)
        })
    })
}

fn one(hook: &Hook, state: &[u8], env: Option<&[String]>) -> Result<(), String> {
    let words = |e: io::Error| errno_text(&e);
    if !hook.path.is_absolute() {
        return Err(format!("path {:?} is not absolute", hook.path.display().to_string()));
    }
    let input = corten_sys::memfd::sealed_bytes("state", state).map_err(words)?;
    let output = || corten_sys::memfd::scratch("output").map_err(words);
    let (mut stdout, mut stderr) = (output()?, output()?);
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    // COMPAT: with runc a hook without an environment of its own has the runtime's, and inside the container's.
    let env = if hook.env.is_empty() { env } else { Some(hook.env.as_slice()) };
    if let Some(env) = env {
        command.env_clear();
        command.envs(env.iter().filter_map(|e| e.split_once('=')));
    }
    let copy = |f: &File| f.try_clone().map_err(words);
    command.stdin(input).stdout(copy(&stdout)?).stderr(copy(&stderr)?);
    let mut child = command.spawn().map_err(|e| format!("{}: {}", hook.path.display(), errno_text(&e)))?;
    let pidfd = process::pidfd_open(i32::try_from(child.id()).unwrap_or(0)).map_err(words)?;
    let limit = hook.timeout.map(|s| Timespec { tv_sec: i64::try_from(s).unwrap_or(i64::MAX), tv_nsec: 0 });
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let late = loop {
        match poll(&mut fds, limit.as_ref()) {
            Ok(0) => break true,
            Ok(_) => break false,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.to_string()),
        }
    };
    if late {
        child.kill().ok();
    }
    let status = child.wait().map_err(words)?;
    match late {
        true => Err(format!("hook ran past specified timeout of {:.1}s", hook.timeout.unwrap_or(0) as f64)),
        false if status.success() => Ok(()),
        false => {
            let (out, err) = (tail(&mut stdout), tail(&mut stderr));
            Err(format!("{}, stdout: {out}, stderr: {err}", describe(status)))
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal: {}", signal.unwrap_or(0)),
    }
}

fn tail(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.take(MAX_OUTPUT).read_to_end(&mut bytes));
    read.map(|_| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default()
}
