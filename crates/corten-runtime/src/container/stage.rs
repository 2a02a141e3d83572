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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::process::{self, Child, namespace};
use corten_sys::seqpacket;
use rustix::fs::{Mode, OFlags};

use super::namespaces::{Clocks, Namespaces};
use super::sources::Sources;
use super::{Plan, report, setup};
use crate::fault::StepError;

/// Makes the stage, which makes the first process; `first` is what that one does.
pub(super) fn clone(
    plan: &Plan<'_>,
    namespaces: &Namespaces,
    into: Option<BorrowedFd<'_>>,
    reports: (OwnedFd, BorrowedFd<'_>),
    first: impl FnOnce(Sources, BorrowedFd<'_>) -> i32,
) -> Result<Child, StepError> {
    let (child_report, report) = reports;
    let stage = process::clone_process(0, into, || {
        let socket = child_report.as_fd();
        setup::in_child(socket, || run(plan, namespaces, socket, |sources| first(sources, socket)))
    });
    drop(child_report);
    let stage = stage.map_err(|e| StepError::os("clone", "clone3", &e))?;
    let child = born(report);
    process::wait(stage.pidfd.as_fd()).ok();
    child
}

/// Hears of the first process, or of what went wrong before it.
fn born(report: BorrowedFd<'_>) -> Result<Child, StepError> {
    let (mut buffer, mut fds) = (vec![0; super::MAX_REPORT], Vec::new());
    let n = seqpacket::recv(report, &mut buffer, &mut fds, true)
        .map_err(|e| StepError::os("report", "read report", &e))?;
    match (buffer[..n].split_first(), fds.pop()) {
        (Some((&report::BORN, pid)), Some(pidfd)) => {
            let pid = std::str::from_utf8(pid).ok().and_then(|p| p.parse().ok());
            let pid = pid.ok_or_else(|| StepError::new("report", "unreadable report"))?;
            Ok(Child { pid, pidfd })
        }
        (Some((_, text)), _) => Err(super::failure(text)),
        (None, _) => Err(StepError::new("report", "the process ended before it was set up")),
    }
}

fn run(
    plan: &Plan<'_>,
    namespaces: &Namespaces,
    socket: BorrowedFd<'_>,
    first: impl FnOnce(Sources) -> i32,
) -> Result<Infallible, StepError> {
    if let Some(id) = plan.keyring {
        super::attributes::join_keyring(id)?;
    }
    let enter = |fd: &OwnedFd, kind| {
        process::enter(fd.as_fd(), kind).map_err(|e| StepError::os("setns", "join namespace", &e))
    };
    for (fd, kind) in &namespaces.join {
        enter(fd, *kind)?;
    }
    namespaces.enter_pid()?;
    if namespaces.user.is_some() && namespaces.new & namespace::NET == 0 {
        network_settings(plan)?;
    }
    let sources = Sources::open(plan, namespaces)?;
    match &namespaces.clocks {
        Some(Clocks::Join(fd)) => enter(fd, namespace::TIME)?,
        Some(Clocks::New(offsets)) => {
            let fail = |e: std::io::Error| StepError::os("namespace", "set time offsets", &e);
            process::unshare(namespace::TIME).map_err(fail)?;
            if !offsets.is_empty() {
                std::fs::write("/proc/self/timens_offsets", offsets).map_err(fail)?;
            }
        }
        None => {}
    }
    if let Some(user) = &namespaces.user {
        enter(user, namespace::USER)?;
    }
    let child = process::clone_sibling(namespaces.new, || first(sources))
        .map_err(|e| StepError::os("clone", "clone3", &e))?;
    let mut message = vec![report::BORN];
    message.extend_from_slice(child.pid.to_string().as_bytes());
    seqpacket::send(socket, &message, &[child.pidfd.as_fd()], true)
        .map_err(|e| StepError::os("report", "send report", &e))?;
    process::exit_now(0);
}

/// Whether a setting belongs to the network namespace of who writes it.
pub(super) fn is_of_network(name: &str) -> bool {
    name.starts_with("net.") || name.starts_with("net/")
}

/// Settings of a network namespace that the container's root will not own: through the host's /proc, which shows
/// whoever looks their own.
fn network_settings(plan: &Plan<'_>) -> Result<(), StepError> {
    let all = plan.spec.linux.iter().flat_map(|l| &l.sysctl);
    for (name, value) in all.filter(|(name, _)| is_of_network(name)) {
        let fail = |e: std::io::Error| StepError::os("sysctl", format!("write sysctl key {name}"), &e);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        super::rootfs::write_setting(proc.as_fd(), name, value).map_err(fail)?;
    }
    Ok(())
}

/// Becomes root of the user namespace that this process is in, and nobody of the host's any more.
pub(super) fn become_root() -> Result<(), StepError> {
    let fail =
        |e: rustix::io::Errno| StepError::os("namespace", "become root of the user namespace", &e.into());
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail)?;
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
