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
//!      ◀── a record of what failed                                             (failure)
//!      ◀── end of file: execve happened ──── limits, user, seccomp, exec       (become)
//! ```
//!
//! Moving a process into a v1 group waits for the kernel's other processors (milliseconds), so that the parent
//! does it while the child makes its mounts.
//!
//! Everything that takes memory is done before the clone ([`setup::First::of`] and what it calls): paths as the kernel
//! takes them, argument and environment arrays, tables of ids, recipes for file systems, the filter, and room for what is
//! read inside. The child makes system calls. Where one fails it sends a record of fixed size ([`failure`]), and who
//! made it puts that into words. A build with debug assertions ends a child that asks for memory all the same
//! ([`corten_sys::allocation`]); the two exceptions say `permit`: hooks, and the last words of one whose program cannot be
//! executed.
//!
//! INVARIANT: the caller has one thread, because the child shares its locks' states.

mod attributes;
mod become_program;
mod copy_up;
mod devices;
pub(crate) mod failure;
pub(crate) mod hooks;
pub(crate) mod labels;
mod namespaces;
mod net_devices;
pub(crate) mod notify;
pub(crate) mod options;
mod rootfs;
mod settings;
mod setup;
mod sources;
mod stage;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_sys::netns;
use corten_sys::process::{self, Child, namespace};
use corten_sys::program;
use corten_sys::seqpacket;
use corten_wire::oci_runtime::{ConsoleSize, Hooks, Linux, NetDevice, Process, Spec, State};
use corten_wire::shim::{Rootfs, UserSpec};

use crate::cgroup::Cgroup;
use crate::fault::StepError;
use crate::seccomp::Program;
use failure::{Failure, Names};
use namespaces::{Namespaces, own_pid_namespace, restore_pid};
use notify::Answers;
use setup::{First, Further};
pub(crate) use sources::root as rootfs_tree;

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
    /// The container's id, if its processes have a session keyring of their own.
    pub(crate) keyring: Option<&'a str>,
    /// Who answers for the filter, if it asks.
    pub(crate) answers: Option<&'a Answers<'a>>,
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
    /// The mount that our own program runs from, to end with the container's old root.
    pub(crate) program: Option<&'a OwnProgram>,
    /// `--no-pivot`: the creator's root cannot be let go of.
    pub(crate) no_pivot: bool,
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

/// The read-only mount that this process runs from.
#[derive(Debug)]
pub(crate) struct OwnProgram {
    pub(crate) mount: OwnedFd,
    /// Where the file is on the host.
    path: CString,
}

impl OwnProgram {
    /// Makes this process run from such a mount, if that is possible.
    pub(crate) fn protected() -> Option<Self> {
        let path = std::fs::read_link("/proc/self/exe").ok()?;
        let path = CString::new(path.into_os_string().into_encoded_bytes()).ok()?;
        let program::ReadOnly { mount, file } = program::ReadOnly::of_own().ok()?;
        program::become_of(file.as_fd()).ok()?;
        program::is_protected().then_some(Self { mount, path })
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
    /// Its number.
    pub(crate) init_pid: i32,
    /// The container's configuration, for what all its processes have.
    pub(crate) linux: Option<&'a Linux>,
    pub(crate) stdin: bool,
    pub(crate) keyring: Option<&'a str>,
    pub(crate) answers: Option<&'a Answers<'a>>,
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
    /// A container's root file system. The kernel writes everything to disk when it unmounts one; who keeps this
    /// decides that the container's own end need not wait for it.
    pub(crate) root: Option<OwnedFd>,
}

/// First byte of a message on the report socket.
mod report {
    /// The terminal's master comes along.
    pub(super) const TERMINAL: u8 = b'T';
    /// To the child: it is in its control groups.
    pub(super) const JOINED: u8 = b'J';
    /// A [`super::failure::Failure`] follows.
    pub(super) const FAILED: u8 = b'E';
    /// A [`super::StepError`] follows, from where words could be made.
    pub(super) const TOLD: u8 = b'W';
    /// The namespaces exist and the mounts are made: hooks may run. Answered with the same.
    pub(super) const HOOKS: u8 = b'H';
    /// It waits at its door.
    pub(super) const READY: u8 = b'R';
    /// A filter with a listener is about to be installed; a shared page comes along.
    pub(super) const LISTENER: u8 = b'L';
    /// The stage has made the first process: its number, and a descriptor of it.
    pub(super) const BORN: u8 = b'B';
}

const MAX_REPORT: usize = 16 * 1024;

/// Creates the container and starts its program. The control groups exist already.
pub(crate) fn launch(plan: &Plan<'_>) -> Result<Launched, StepError> {
    let linux = plan.spec.linux.as_ref();
    labels::check(plan.process, linux.map_or("", |l| &l.mount_label))?;
    let namespaces = Namespaces::of(plan.spec)?;
    let wanted = linux.map(|l| &l.net_devices).filter(|d| !d.is_empty());
    if let Some(wanted) = wanted {
        net_devices::check(wanted, namespaces.has_network())?;
    }
    let names = Names { spec: Some(plan.spec), process: plan.process, user: plan.user };
    let (ours, theirs) = streams(plan.process, plan.stdin, plan.alone.is_some())?;
    let members = plan.cgroup.membership_files().map_err(group_error)?;
    let into = plan.cgroup.directory().map_err(group_error)?;
    let into = into.as_ref().map(AsFd::as_fd);
    let mut first = First::of(plan, &namespaces, theirs)?;
    let (report, child_report) = seqpacket::pair().map_err(|e| StepError::os("socket", "socketpair", &e))?;
    let child = if namespaces.staged() {
        let child = stage::clone(&mut first, into, (child_report, report.as_fd()), names)?;
        if namespaces.user.is_some() {
            favours(&child, child.pid, plan.process, ours.as_ref())?;
        }
        child
    } else {
        let restore = namespaces.enter_pid()?;
        let child = process::clone_process(namespaces.new, into, || {
            setup::in_child(child_report.as_fd(), || first.run(child_report.as_fd()))
        });
        restore_pid(restore)?;
        drop(child_report);
        child.map_err(|e| StepError::os("clone", "clone3", &e))?
    };
    // What else was prepared goes: only when the child is the last to have its streams is their end seen.
    let root = first.into_root();
    if let Some(wanted) = wanted {
        give_devices(wanted, &namespaces, &child).map_err(|e| abandon(&child, e))?;
    }
    join(&child, &members, report.as_fd())?;
    let launched = finish(child, ours, report.as_fd(), plan.alone, plan.answers, names)?;
    Ok(Launched { root, ..launched })
}

/// Starts a further process in the container of `plan.init`.
pub(crate) fn exec(plan: &ExecPlan<'_>) -> Result<Launched, StepError> {
    labels::check(plan.process, "")?;
    let names = Names { spec: None, process: plan.process, user: plan.user };
    let (ours, theirs) = streams(plan.process, plan.stdin, plan.alone.is_some())?;
    let members = plan.cgroup.membership_files().map_err(group_error)?;
    let into = plan.cgroup.directory().map_err(group_error)?;
    let mut further = Further::of(plan, theirs)?;
    let (report, child_report) = seqpacket::pair().map_err(|e| StepError::os("socket", "socketpair", &e))?;
    let restore = own_pid_namespace()?;
    process::enter(plan.init, namespace::PID).map_err(|e| StepError::os("setns", "setns pid", &e))?;
    let child = process::clone_process(0, into.as_ref().map(AsFd::as_fd), || {
        setup::in_child(child_report.as_fd(), || further.run(child_report.as_fd()))
    });
    restore_pid(Some(restore))?;
    let child = child.map_err(|e| StepError::os("clone", "clone3", &e))?;
    drop(child_report);
    if further.other_users {
        favours(&child, plan.init_pid, plan.process, ours.as_ref())?;
    }
    drop(further);
    join(&child, &members, report.as_fd())?;
    finish(child, ours, report.as_fd(), plan.alone, plan.answers, names)
}

/// Does for a process of another user namespace what it may not do itself. `owners` is a process whose mappings say
/// who its root is.
fn favours(child: &Child, owners: i32, process: &Process, ours: Option<&Stdio>) -> Result<(), StepError> {
    let streams = match ours {
        Some(Stdio::Pipes { stdin, stdout, stderr }) => {
            stdin.iter().chain([stdout, stderr]).map(AsFd::as_fd).collect()
        }
        Some(Stdio::Inherited) => {
            vec![rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]
        }
        Some(Stdio::Terminal { .. }) | None => Vec::new(),
    };
    stage::favours(child.pid, owners, process, &streams).map_err(|e| abandon(child, e))
}

/// Moves network devices into the container's namespace. One that has ended already says why itself.
fn give_devices(
    wanted: &BTreeMap<String, NetDevice>,
    namespaces: &Namespaces,
    child: &Child,
) -> Result<(), StepError> {
    let joined = namespaces.join.iter().find(|(_, kind)| *kind == namespace::NET);
    if let Some((network, _)) = joined {
        return net_devices::give(wanted, network.as_fd());
    }
    match netns::open(Path::new(&format!("/proc/{}/ns/net", child.pid))) {
        Ok(network) => net_devices::give(wanted, network.as_fd()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StepError::os("netdevice", "open the network namespace", &e)),
    }
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
    answers: Option<&Answers<'_>>,
    names: Names<'_>,
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
            Some((&report::LISTENER, _)) => {
                if let (Some(page), Some(answers)) = (fds.pop(), answers) {
                    notify::hand_over(page, child.pidfd.as_fd(), child.pid, answers)
                        .map_err(|e| abandon(&child, e))?;
                }
            }
            Some((&report::HOOKS, _)) => {
                if let Some(alone) = alone {
                    hooks::before_root(alone, child.pid).map_err(|e| abandon(&child, e))?;
                }
                // Nobody to tell: its end is noticed by the next read.
                seqpacket::send(report, &[report::HOOKS], &[], true).ok();
            }
            Some((&kind, text)) => {
                process::wait(child.pidfd.as_fd()).ok();
                return Err(reported(kind, text, names));
            }
        }
    }
    let Some(stdio) = stdio else {
        process::wait(child.pidfd.as_fd()).ok();
        return Err(StepError::new("report", "the process ended before it was set up"));
    };
    Ok(Launched { child, stdio, root: None })
}

/// What a child says about its failure.
fn reported(kind: u8, text: &[u8], names: Names<'_>) -> StepError {
    let told = match kind {
        report::FAILED => Failure::from_bytes(text).map(|f| names.words(f)),
        _ => serde_json::from_slice(text).ok(),
    };
    told.unwrap_or_else(|| StepError::new("report", "unreadable report"))
}

/// A path as the kernel takes it.
fn c_path(step: &str, path: &Path) -> Result<CString, StepError> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|e| StepError::os(step, path.display(), &e.into()))
}

/// Lets the first process `init` go that waits at the door behind `visitor`, and waits until it runs its program.
pub(crate) fn release(
    visitor: BorrowedFd<'_>,
    init: &Child,
    answers: Option<&Answers<'_>>,
    names: Names<'_>,
) -> Result<(), StepError> {
    let mut buffer = vec![0; MAX_REPORT];
    loop {
        let mut fds = Vec::new();
        let n = seqpacket::recv(visitor, &mut buffer, &mut fds, true)
            .map_err(|e| StepError::os("report", "read report", &e))?;
        match buffer[..n].split_first() {
            None => return Ok(()),
            Some((&report::LISTENER, _)) => {
                if let (Some(page), Some(answers)) = (fds.pop(), answers) {
                    let done = notify::hand_over(page, init.pidfd.as_fd(), init.pid, answers);
                    done.inspect_err(|_| {
                        process::signal(init.pidfd.as_fd(), 9).ok();
                    })?;
                }
            }
            Some((&kind, text)) => return Err(reported(kind, text, names)),
        }
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
