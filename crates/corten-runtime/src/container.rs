//! Creates a container's processes: the first one ([`launch`]) and further ones ([`exec`]).
//!
//! ```text
//!  shim (one thread)                       child
//!    pipes, control groups                   |
//!    clone3 ───────────────────────────────▶ join namespaces                   (setup)
//!    move the child into the groups (v1)     mounts, devices, pivot_root       (rootfs, devices)
//!      ── joined ─────────────────────────▶  go on
//!    wait on the report socket
//!      ◀── terminal's master ───────────────                                   (setup)
//!      ◀── StepError as JSON: it failed                                        (report)
//!      ◀── end of file: execve happened ──── limits, user, seccomp, exec       (become)
//! ```
//!
//! Moving a process into a v1 group waits for the kernel's other processors (milliseconds), so that the parent
//! does it while the child makes its mounts.
//!
//! INVARIANT: the caller has one thread, because the child runs ordinary code after the clone.

mod become_program;
mod copy_up;
mod devices;
pub(crate) mod hooks;
mod options;
mod rootfs;
mod setup;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::process::{self, Child, namespace};
use corten_sys::seqpacket;
use corten_wire::oci_runtime::{ConsoleSize, Hooks, NamespaceKind, Process, Spec, State};
use corten_wire::shim::{Rootfs, UserSpec};

use crate::cgroup::Cgroup;
use crate::fault::StepError;
use crate::seccomp::Program;
pub(crate) use rootfs::tree as rootfs_tree;

/// What a new container is made from.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) process: &'a Process,
    pub(crate) rootfs: &'a Rootfs,
    /// The container's directory on the host: a place to mount at where the kernel cannot do without.
    pub(crate) scratch: &'a std::path::Path,
    pub(crate) user: Option<&'a UserSpec>,
    pub(crate) init: bool,
    pub(crate) seccomp: Option<&'a Program>,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) stdin: bool,
    pub(crate) alone: Option<&'a Alone<'a>>,
}

/// For a process without a shim, as the OCI command line makes them: it has its creator's standard streams (unless
/// on a terminal) and outlives it.
pub(crate) struct Alone<'a> {
    /// The first process waits here until somebody connects, and reports to them from then on.
    pub(crate) door: Option<BorrowedFd<'a>>,
    pub(crate) hooks: &'a Hooks,
    /// What hooks are told; pid and status are filled in.
    pub(crate) state: &'a State,
    /// How many descriptors from 3 on the program gets.
    pub(crate) preserve: i32,
    /// Called when the process exists and is in its control groups, before any hook.
    pub(crate) born: &'a dyn Fn(i32) -> Result<(), StepError>,
}

impl std::fmt::Debug for Alone<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alone").field("hooks", self.hooks).field("preserve", &self.preserve).finish()
    }
}

impl Alone<'_> {
    /// Something is to be run when the namespaces exist and the root is not entered yet.
    fn hooks_before_root(&self) -> bool {
        let h = self.hooks;
        [&h.prestart, &h.create_runtime, &h.create_container].iter().any(|list| !list.is_empty())
    }
}

/// What a further process is made from.
#[derive(Debug)]
pub(crate) struct ExecPlan<'a> {
    pub(crate) process: &'a Process,
    pub(crate) user: Option<&'a UserSpec>,
    pub(crate) seccomp: Option<&'a Program>,
    pub(crate) cgroup: &'a Cgroup,
    /// The container's init.
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) stdin: bool,
    pub(crate) alone: Option<&'a Alone<'a>>,
}

/// Our ends of a process's standard streams.
#[derive(Debug)]
pub(crate) enum Stdio {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal {
        master: OwnedFd,
    },
    /// Those of this process.
    Inherited,
}

/// The child's ends.
#[derive(Debug)]
pub(crate) enum ChildStdio {
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    Terminal { size: Option<ConsoleSize> },
    Inherited,
}

/// A process that runs its program.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) stdio: Stdio,
}

/// First byte of a message on the report socket.
mod report {
    /// The terminal's master comes along.
    pub(super) const TERMINAL: u8 = b'T';
    /// To the child: it is in its control groups.
    pub(super) const JOINED: u8 = b'J';
    /// A [`super::StepError`] follows.
    pub(super) const FAILED: u8 = b'E';
    /// The namespaces exist and the mounts are made: hooks may run. Answered with the same.
    pub(super) const HOOKS: u8 = b'H';
    /// It waits at its door.
    pub(super) const READY: u8 = b'R';
}

const MAX_REPORT: usize = 16 * 1024;

/// Creates the container and starts its program. The control groups exist already.
pub(crate) fn launch(plan: &Plan<'_>) -> Result<Launched, StepError> {
    let namespaces = Namespaces::of(plan.spec)?;
    let (ours, theirs) = streams(plan.process, plan.stdin, plan.alone.is_some())?;
    let members = plan.cgroup.membership_files().map_err(group_error)?;
    let into = plan.cgroup.directory().map_err(group_error)?;
    let (report, child_report) = seqpacket::pair().map_err(|e| StepError::os("socket", "socketpair", &e))?;
    let restore = namespaces.enter_pid()?;
    let child = process::clone_process(namespaces.new, into.as_ref().map(AsFd::as_fd), || {
        setup::in_child(child_report.as_fd(), || {
            setup::container(plan, &namespaces, theirs, child_report.as_fd())
        })
    });
    restore_pid(restore)?;
    let child = child.map_err(|e| StepError::os("clone", "clone3", &e))?;
    drop(child_report);
    join(&child, &members, report.as_fd())?;
    finish(child, ours, report.as_fd(), plan.alone)
}

/// Starts a further process in the container of `plan.init`.
pub(crate) fn exec(plan: &ExecPlan<'_>) -> Result<Launched, StepError> {
    let (ours, theirs) = streams(plan.process, plan.stdin, plan.alone.is_some())?;
    let members = plan.cgroup.membership_files().map_err(group_error)?;
    let into = plan.cgroup.directory().map_err(group_error)?;
    let (report, child_report) = seqpacket::pair().map_err(|e| StepError::os("socket", "socketpair", &e))?;
    let restore = own_pid_namespace()?;
    process::enter(plan.init, namespace::PID).map_err(|e| StepError::os("setns", "setns pid", &e))?;
    let child = process::clone_process(0, into.as_ref().map(AsFd::as_fd), || {
        setup::in_child(child_report.as_fd(), || setup::exec(plan, theirs, child_report.as_fd()))
    });
    restore_pid(Some(restore))?;
    let child = child.map_err(|e| StepError::os("clone", "clone3", &e))?;
    drop(child_report);
    join(&child, &members, report.as_fd())?;
    finish(child, ours, report.as_fd(), plan.alone)
}

fn group_error(e: crate::cgroup::CgroupError) -> StepError {
    StepError::new("cgroup", e.to_string())
}

/// Moves the child into its control groups and tells it so.
fn join(child: &Child, members: &[std::fs::File], report: BorrowedFd<'_>) -> Result<(), StepError> {
    use std::io::Write;
    let pid = child.pid.to_string();
    for mut file in members {
        match file.write_all(pid.as_bytes()) {
            Ok(()) => {}
            // It has failed and ended already; its report says why.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(()),
            Err(e) => {
                process::signal(child.pidfd.as_fd(), 9).ok();
                process::wait(child.pidfd.as_fd()).ok();
                return Err(StepError::os("cgroup", "failed to join cgroup", &e));
            }
        }
    }
    // Nobody to tell: the same.
    let mut message = vec![report::JOINED];
    message.extend_from_slice(pid.as_bytes());
    seqpacket::send(report, &message, &[], true).ok();
    Ok(())
}

fn abandon(child: &Child, error: StepError) -> StepError {
    process::signal(child.pidfd.as_fd(), 9).ok();
    process::wait(child.pidfd.as_fd()).ok();
    error
}

/// Waits until the child runs its program, or waits at its door.
fn finish(
    child: Child,
    ours: Option<Stdio>,
    report: BorrowedFd<'_>,
    alone: Option<&Alone<'_>>,
) -> Result<Launched, StepError> {
    if let Some(alone) = alone {
        (alone.born)(child.pid).map_err(|e| abandon(&child, e))?;
    }
    let mut stdio = ours;
    let mut buffer = vec![0; MAX_REPORT];
    loop {
        let mut fds = Vec::new();
        let received = seqpacket::recv(report, &mut buffer, &mut fds, true);
        let n = received.map_err(|e| StepError::os("report", "read report", &e))?;
        match buffer[..n].split_first() {
            None => break,
            Some((&report::TERMINAL, _)) => stdio = fds.pop().map(|master| Stdio::Terminal { master }),
            Some((&report::READY, _)) => break,
            Some((&report::HOOKS, _)) => {
                if let Some(alone) = alone {
                    hooks::before_root(alone, child.pid).map_err(|e| abandon(&child, e))?;
                }
                // Nobody to tell: its end is noticed by the next read.
                seqpacket::send(report, &[report::HOOKS], &[], true).ok();
            }
            Some((_, text)) => {
                process::wait(child.pidfd.as_fd()).ok();
                return Err(failure(text));
            }
        }
    }
    let Some(stdio) = stdio else {
        process::wait(child.pidfd.as_fd()).ok();
        return Err(StepError::new("report", "the process ended before it was set up"));
    };
    Ok(Launched { child, stdio })
}

fn failure(text: &[u8]) -> StepError {
    serde_json::from_slice(text).unwrap_or_else(|_| StepError::new("report", "unreadable report"))
}

/// Lets the first process go that waits at the door behind `visitor`, and waits until it runs its program.
pub(crate) fn release(visitor: BorrowedFd<'_>) -> Result<(), StepError> {
    let mut buffer = vec![0; MAX_REPORT];
    let n = seqpacket::recv(visitor, &mut buffer, &mut Vec::new(), true)
        .map_err(|e| StepError::os("report", "read report", &e))?;
    match buffer[..n].split_first() {
        None => Ok(()),
        Some((_, text)) => Err(failure(text)),
    }
}

/// The pipes of a process; for a terminal, which is made inside, only the child's part.
pub(crate) fn streams(
    process: &Process,
    stdin: bool,
    inherit: bool,
) -> Result<(Option<Stdio>, ChildStdio), StepError> {
    if process.terminal {
        return Ok((None, ChildStdio::Terminal { size: process.console_size }));
    }
    if inherit {
        return Ok((Some(Stdio::Inherited), ChildStdio::Inherited));
    }
    let error = |e: std::io::Error| StepError::os("pipe", "pipe", &e);
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| error(e.into()));
    let (child_in, stdin) = if stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (std::fs::File::open("/dev/null").map_err(error)?.into(), None)
    };
    let (stdout, child_out) = pipe()?;
    let (stderr, child_err) = pipe()?;
    let theirs = ChildStdio::Pipes { stdin: child_in, stdout: child_out, stderr: child_err };
    Ok((Some(Stdio::Pipes { stdin, stdout, stderr }), theirs))
}

/// Which namespaces a container gets.
#[derive(Debug, Default)]
struct Namespaces {
    /// `CLONE_NEW…` bits.
    new: u64,
    /// A new view of the control groups, made after they were joined.
    cgroup: bool,
    /// To be entered by the child.
    join: Vec<(OwnedFd, u64)>,
    /// To be entered by us before the clone.
    pid: Option<OwnedFd>,
}

impl Namespaces {
    fn of(spec: &Spec) -> Result<Self, StepError> {
        let mut all = Self::default();
        for ns in spec.linux.iter().flat_map(|l| &l.namespaces) {
            let bit = match ns.kind {
                NamespaceKind::Pid => namespace::PID,
                NamespaceKind::Network => namespace::NET,
                NamespaceKind::Mount => namespace::MOUNT,
                NamespaceKind::Ipc => namespace::IPC,
                NamespaceKind::Uts => namespace::UTS,
                NamespaceKind::Cgroup => namespace::CGROUP,
                NamespaceKind::User | NamespaceKind::Time => {
                    return Err(StepError::new(
                        "namespace",
                        format!("{:?} namespaces are not supported", ns.kind),
                    ));
                }
            };
            let Some(path) = &ns.path else {
                if bit == namespace::CGROUP {
                    all.cgroup = true
                } else {
                    all.new |= bit
                }
                continue;
            };
            if bit == namespace::MOUNT {
                return Err(StepError::new("namespace", "joining a mount namespace is not supported"));
            }
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty())
                .map_err(|e| StepError::os("namespace", format!("open {}", path.display()), &e.into()))?;
            if bit == namespace::PID { all.pid = Some(fd) } else { all.join.push((fd, bit)) }
        }
        if all.new & namespace::MOUNT == 0 {
            return Err(StepError::new("namespace", "a container needs a mount namespace of its own"));
        }
        Ok(all)
    }

    /// Lets our next child be born in another PID namespace; gives the descriptor to come back with.
    fn enter_pid(&self) -> Result<Option<OwnedFd>, StepError> {
        let Some(pid) = &self.pid else { return Ok(None) };
        let own = own_pid_namespace()?;
        process::enter(pid.as_fd(), namespace::PID).map_err(|e| StepError::os("setns", "setns pid", &e))?;
        Ok(Some(own))
    }
}

fn own_pid_namespace() -> Result<OwnedFd, StepError> {
    let own = std::fs::File::open("/proc/self/ns/pid");
    own.map(Into::into).map_err(|e| StepError::os("setns", "open own pid namespace", &e))
}

fn restore_pid(own: Option<OwnedFd>) -> Result<(), StepError> {
    let Some(own) = own else { return Ok(()) };
    process::enter(own.as_fd(), namespace::PID)
        .map_err(|e| StepError::os("setns", "return to own pid namespace", &e))
}
