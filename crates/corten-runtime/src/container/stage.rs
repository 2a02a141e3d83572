//! The process in between, for containers with a user or time namespace.
//!
//! ```text
//!  shim                        stage (still of the host)             first process
//!    clone ─────────────────────▶ joins namespaces by path
//!                                 writes sysctls of a network that is the host's
//!                                 opens what is mounted (sources)
//!                                 sets the clocks, enters the user namespace
//!                                 clone, as a sibling ───────────────▶ waits
//!    ◀── its number and pidfd ─── leaves
//!    what only the host may: limits, owners of pipes
//!      ── joined ────────────────────────────────────────────────────▶ becomes root inside, and goes on
//! ```
//!
//! The kernel makes a namespace the property of the user namespace that its maker is in, and lets nobody come back
//! from one. So somebody has to enter it who is not needed afterwards, and has to have at hand before what the
//! container's root could not reach.

use std::convert::Infallible;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::process::{self, Child, namespace};
use corten_sys::seqpacket;
use rustix::fs::{Mode, OFlags};

use super::failure::{Names, Outcome, Step, of};
use super::namespaces::Clocks;
use super::report;
use super::settings::Settings;
use super::setup::{self, Directory, First};
use crate::fault::StepError;

/// Makes the stage, which makes the first process.
pub(super) fn clone(
    first: &mut First<'_>,
    into: Option<BorrowedFd<'_>>,
    reports: (OwnedFd, BorrowedFd<'_>),
    names: Names<'_>,
) -> Result<Child, StepError> {
    let (child_report, report) = reports;
    let stage = process::clone_process(0, into, || {
        let socket = child_report.as_fd();
        setup::in_child(socket, || run(first, socket))
    });
    drop(child_report);
    let stage = stage.map_err(|e| StepError::os("clone", "clone3", &e))?;
    let child = born(report, names);
    process::wait(stage.pidfd.as_fd()).ok();
    child
}

/// Hears of the first process, or of what went wrong before it.
fn born(report: BorrowedFd<'_>, names: Names<'_>) -> Result<Child, StepError> {
    let (mut buffer, mut fds) = (vec![0; super::MAX_REPORT], Vec::new());
    let n = seqpacket::recv(report, &mut buffer, &mut fds, true)
        .map_err(|e| StepError::os("report", "read report", &e))?;
    match (buffer[..n].split_first(), fds.pop()) {
        (Some((&report::BORN, pid)), Some(pidfd)) => {
            let pid = std::str::from_utf8(pid).ok().and_then(|p| p.parse().ok());
            let pid = pid.ok_or_else(|| StepError::new("report", "unreadable report"))?;
            Ok(Child { pid, pidfd })
        }
        (Some((&kind, text)), _) => Err(super::reported(kind, text, names)),
        (None, _) => Err(StepError::new("report", "the process ended before it was set up")),
    }
}

fn run(first: &mut First<'_>, socket: BorrowedFd<'_>) -> Outcome<Infallible> {
    let namespaces = first.namespaces;
    super::attributes::join_keyring(first.keyring.as_deref())?;
    let enter = |fd: &OwnedFd, kind, step| process::enter(fd.as_fd(), kind).map_err(of(step));
    for (fd, kind) in &namespaces.join {
        enter(fd, *kind, Step::Join)?;
    }
    if let Some(pid) = &namespaces.pid {
        enter(pid, namespace::PID, Step::Join)?;
    }
    network_settings(&first.outer_settings)?;
    let users = namespaces.user.as_ref();
    if let Directory::Own(root) = &mut first.root {
        root.make_outside(users.map(AsFd::as_fd))?;
    }
    match &namespaces.clocks {
        Some(Clocks::Join(fd)) => enter(fd, namespace::TIME, Step::Join)?,
        Some(Clocks::New(offsets)) => {
            process::unshare(namespace::TIME).map_err(of(Step::Clocks))?;
            if !offsets.is_empty() {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::open(c"/proc/self/timens_offsets", flags, Mode::empty());
                rustix::io::write(file.map_err(of(Step::Clocks))?, offsets.as_bytes())
                    .map_err(of(Step::Clocks))?;
            }
        }
        None => {}
    }
    if let Some(user) = users {
        enter(user, namespace::USER, Step::Join)?;
    }
    let child = process::clone_sibling(namespaces.new, || setup::in_child(socket, || first.run(socket)))
        .map_err(of(Step::Clone))?;
    let mut message = [report::BORN; 12];
    let mut rest = &mut message[1..];
    // It fits: a number has ten digits at most.
    write!(rest, "{}", child.pid).ok();
    let length = 12 - rest.len();
    seqpacket::send(socket, &message[..length], &[child.pidfd.as_fd()], true).map_err(of(Step::Report))?;
    process::exit_now(0);
}

/// Whether a setting belongs to the network namespace of who writes it.
pub(super) fn is_of_network(name: &str) -> bool {
    name.starts_with("net.") || name.starts_with("net/")
}

/// Settings of a network namespace that the container's root will not own: through the host's /proc, which shows
/// whoever looks their own.
fn network_settings(all: &Settings) -> Outcome {
    if all.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags, Mode::empty()).map_err(of(Step::Sysctl))?;
    all.write(Some(proc.as_fd()))
}

/// Becomes root of the user namespace that this process is in, and nobody of the host's any more.
pub(super) fn become_root() -> Outcome {
    let fail = of::<rustix::io::Errno>(Step::BecomeRoot);
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(&fail)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(&fail)?;
    match rustix::thread::set_thread_groups(&[]) {
        // Where groups may not be set at all, there are none to get rid of that could be.
        Err(rustix::io::Errno::PERM) | Ok(()) => Ok(()),
        Err(e) => Err(fail(e)),
    }
}

/// What a process in another user namespace may not do for itself: who owns its streams, how high its limits can be,
/// and what the kernel kills first.
pub(super) fn favours(
    pid: i32,
    owners: i32,
    process: &corten_wire::oci_runtime::Process,
    streams: &[BorrowedFd<'_>],
) -> Result<(), StepError> {
    use super::become_program::{limit_of, resource};
    if let Some((uid, gid)) = super::namespaces::root_outside(owners) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        for fd in streams {
            let kind = rustix::fs::fstat(fd).map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode));
            if kind.is_ok_and(|k| k == rustix::fs::FileType::Fifo) {
                // Only /dev/stdout and its like would not open.
                rustix::fs::fchown(fd, Some(uid), Some(gid)).ok();
            }
        }
    }
    let of = rustix::process::Pid::from_raw(pid);
    for limit in &process.rlimits {
        let Some(kind) = resource(&limit.kind) else { continue };
        let (Some(wanted), now) = (limit_of(limit).maximum, rustix::process::getrlimit(kind)) else {
            continue;
        };
        if now.maximum.is_some_and(|m| m < wanted) {
            let raised = rustix::process::Rlimit { current: now.current, maximum: Some(wanted) };
            rustix::process::prlimit(of, kind, raised).map_err(|e| {
                StepError::os("rlimit", format!("error setting rlimit {}", limit.kind), &e.into())
            })?;
        }
    }
    if let Some(score) = process.oom_score_adj {
        std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
            .map_err(|e| StepError::os("oom", "failed to set oom_score_adj", &e))?;
    }
    Ok(())
}
