//! What the child does between the clone and its program.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_sys::mount::{self, Change, Propagation, attr};
use corten_sys::process;
use corten_sys::{path, pty, seqpacket};
use corten_wire::oci_runtime::{ConsoleSize, Process};
use rustix::fs::{Gid, Mode, OFlags, Uid};

use super::become_program::{self, Program};
use super::labels::Labels;
use super::namespaces::{Namespaces, differs};
use super::sources::Sources;
use super::{ChildStdio, ExecPlan, Plan, attributes, report, rootfs, stage};
use crate::fault::StepError;
use crate::user::{self, Identity};

/// Runs the steps in the child; a failure is reported to the shim.
pub(super) fn in_child(socket: BorrowedFd<'_>, steps: impl FnOnce() -> Result<Infallible, StepError>) -> i32 {
    let Err(error) = steps();
    let mut message = vec![report::FAILED];
    if serde_json::to_writer(&mut message, &error).is_ok() {
        message.truncate(super::MAX_REPORT);
        seqpacket::send(socket, &message, &[], true).ok();
    }
    1
}

/// The beginning of every process. One that is not of our user namespace gets its score from outside.
fn start(process: &Process, own_users: bool) -> Result<(), StepError> {
    process::reset_signals();
    rustix::process::setsid().map_err(|e| StepError::os("session", "setsid", &e.into()))?;
    rustix::process::umask(Mode::empty());
    if let Some(score) = process.oom_score_adj.filter(|_| own_users) {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|e| StepError::os("oom", "failed to set oom_score_adj", &e))?;
    }
    Ok(())
}

/// Waits until the shim has moved this process into its control groups; its number as the shim sees it.
fn joined(socket: BorrowedFd<'_>) -> Result<i32, StepError> {
    let mut message = [0; 16];
    match seqpacket::recv(socket, &mut message, &mut Vec::new(), true) {
        Ok(n @ 1..) => {
            let pid = std::str::from_utf8(&message[1..n]).ok().and_then(|p| p.parse().ok());
            pid.ok_or_else(|| StepError::new("cgroup", "unreadable message"))
        }
        Ok(0) => Err(StepError::new("cgroup", "the shim is gone")),
        Err(e) => Err(StepError::os("cgroup", "wait for the shim", &e)),
    }
}

/// The container's first process. It has its sources already if it came by way of the [stage](super::stage).
pub(super) fn container(
    plan: &Plan<'_>,
    namespaces: &Namespaces,
    sources: Option<Sources>,
    stdio: ChildStdio,
    socket: BorrowedFd<'_>,
) -> Result<Infallible, StepError> {
    let mut pid = None;
    if sources.is_some() {
        // What only the host may do for us is done by then.
        pid = Some(joined(socket)?);
    }
    start(plan.process, namespaces.user.is_none())?;
    let labels = Labels::open(plan.process)?;
    if namespaces.user.is_some() {
        stage::become_root()?;
    }
    if sources.is_none() {
        if let Some(id) = plan.keyring {
            attributes::join_keyring(id)?;
        }
        for (fd, kind) in &namespaces.join {
            process::enter(fd.as_fd(), *kind).map_err(|e| StepError::os("setns", "join namespace", &e))?;
        }
    }
    let hooks = plan.alone.filter(|a| a.hooks_before_root());
    if pid.is_none() && (namespaces.cgroup || hooks.is_some()) {
        pid = Some(joined(socket)?);
    }
    if namespaces.cgroup {
        // The new view begins where this process is now: it has joined its groups.
        process::unshare(process::namespace::CGROUP)
            .map_err(|e| StepError::os("unshare", "unshare cgroup namespace", &e))?;
    }
    // The program that becomes the container's init is this very one, which lives in a sealed memfd.
    let own_program = plan.init.then(|| File::open("/proc/self/exe")).transpose();
    let own_program = own_program.map_err(|e| StepError::os("init", "open init", &e))?;
    let way = Way { plan, namespaces, stdio, socket, hooks: hooks.zip(pid) };
    let (root, identity) = if namespaces.has_root() { way.own_root(sources)? } else { way.found_root()? };
    let linux = plan.spec.linux.as_ref();
    let pid = pid.map_or_else(|| joined(socket), Ok)?;
    become_program::run(&Program {
        process: plan.process,
        linux,
        labels: &labels,
        identity: &identity,
        seccomp: plan.seccomp,
        root: root.as_fd(),
        own_init: own_program.as_ref().map(AsFd::as_fd),
        alone: plan.alone,
        report: socket,
        pid,
    })
}

/// From the namespaces to the root directory that the program sees.
struct Way<'a> {
    plan: &'a Plan<'a>,
    namespaces: &'a Namespaces,
    stdio: ChildStdio,
    socket: BorrowedFd<'a>,
    /// What is to be run before the root is entered, and this process's number.
    hooks: Option<(&'a super::Alone<'a>, i32)>,
}

impl Way<'_> {
    /// Makes the configuration's root and mounts, and enters them.
    fn own_root(self, sources: Option<Sources>) -> Result<(OwnedFd, Identity), StepError> {
        let linux = self.plan.spec.linux.as_ref();
        let sources = match sources {
            Some(sources) => sources,
            None => Sources::open(self.plan, self.namespaces)?,
        };
        let made = rootfs::prepare(self.plan, sources)?;
        let root = made.root.as_fd();
        name_host(self.plan)?;
        let identity = identity(self.plan.process, self.plan.user, root)?;
        let slave = match &self.stdio {
            ChildStdio::Terminal { size } => {
                let devpts = made.devpts.as_ref().map(AsFd::as_fd);
                let slave = terminal(root, devpts, *size, self.socket)?;
                if let Some(dev) = &made.dev {
                    super::devices::console(dev.as_fd(), slave.as_fd())
                        .map_err(|e| StepError::os("console", "mount /dev/console", &e))?;
                }
                Some(slave)
            }
            ChildStdio::Pipes { .. } | ChildStdio::Inherited => None,
        };
        if let Some((alone, pid)) = self.hooks {
            hooks_before_root(alone, self.plan.process, pid, self.socket)?;
        }
        take_stdio(self.stdio, slave, &identity)?;
        let done = self.namespaces.user.is_some() && self.namespaces.new & process::namespace::NET == 0;
        let settings = linux.iter().flat_map(|l| &l.sysctl);
        made.sysctls(settings.filter(|(name, _)| !(done && stage::is_of_network(name))))?;
        path::ensure(root, &self.plan.process.cwd, path::Make::Directory, Mode::from_raw_mode(0o755))
            .map_err(|e| StepError::os("cwd", format!("mkdir {}", self.plan.process.cwd.display()), &e))?;
        if let Some(linux) = linux {
            made.protect(&linux.readonly_paths)?;
            made.mask(&linux.masked_paths)?;
        }
        let finish = |e: std::io::Error| StepError::os("rootfs", "error finishing rootfs", &e);
        if self.plan.spec.root.as_ref().is_some_and(|r| r.readonly) {
            mount::change(root, Change { set: attr::RDONLY, ..Change::default() }, false).map_err(finish)?;
        }
        mount::enter_root(root).map_err(|e| StepError::os("pivot_root", "pivot_root", &e))?;
        // Only now: nothing of what was made above shall have spread.
        let propagation = match linux.map(|l| l.rootfs_propagation.as_str()) {
            Some("shared" | "rshared") => Some(Propagation::Shared),
            Some("unbindable" | "runbindable") => Some(Propagation::Unbindable),
            _ => None,
        };
        mount::change(root, Change { propagation, ..Change::default() }, false).map_err(finish)?;
        Ok((made.root, identity))
    }

    /// Without a mount namespace of its own the container is in its creator's, or one that it joined, and its root is
    /// a directory there. Nothing is mounted: it would be for everybody in that namespace.
    fn found_root(self) -> Result<(OwnedFd, Identity), StepError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fail = |e: rustix::io::Errno| StepError::os("rootfs", "error preparing rootfs", &e.into());
        let corten_wire::shim::Rootfs::Path(path) = self.plan.rootfs else {
            return Err(StepError::new("rootfs", "layers need a mount namespace of the container's own"));
        };
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
        name_host(self.plan)?;
        let identity = identity(self.plan.process, self.plan.user, root.as_fd())?;
        let slave = match &self.stdio {
            ChildStdio::Terminal { size } => Some(terminal(root.as_fd(), None, *size, self.socket)?),
            ChildStdio::Pipes { .. } | ChildStdio::Inherited => None,
        };
        if let Some((alone, pid)) = self.hooks {
            hooks_before_root(alone, self.plan.process, pid, self.socket)?;
        }
        take_stdio(self.stdio, slave, &identity)?;
        let settings = self.plan.spec.linux.iter().flat_map(|l| &l.sysctl);
        rootfs::write_settings(None, settings)?;
        rustix::process::fchdir(&root).map_err(fail)?;
        rustix::process::chroot(".").map_err(fail)?;
        Ok((root, identity))
    }
}

/// Lets the creator run its hooks, then runs those that belong into these namespaces.
fn hooks_before_root(
    alone: &super::Alone<'_>,
    process: &Process,
    pid: i32,
    socket: BorrowedFd<'_>,
) -> Result<(), StepError> {
    let fail = |e: std::io::Error| StepError::os("hooks", "wait for hooks", &e);
    seqpacket::send(socket, &[report::HOOKS], &[], true).map_err(fail)?;
    if seqpacket::recv(socket, &mut [0; 16], &mut Vec::new(), true).map_err(fail)? == 0 {
        return Err(StepError::new("hooks", "the creator is gone"));
    }
    let env = Some(process.env.as_slice());
    super::hooks::run("createContainer", &alone.hooks.create_container, alone.state, pid, "creating", env)
}

/// A further process: enters everything that the container's init is in.
pub(super) fn exec(
    plan: &ExecPlan<'_>,
    stdio: ChildStdio,
    socket: BorrowedFd<'_>,
) -> Result<Infallible, StepError> {
    use process::namespace::{CGROUP, IPC, MOUNT, NET, TIME, USER, UTS};
    // Nobody inside may look into this process while it still has anything of the host's (CVE-2016-9962).
    corten_sys::caps::forbid_tracing().map_err(|e| StepError::os("exec", "prctl", &e))?;
    let mut pid = None;
    let affinity = plan.process.exec_cpu_affinity.as_ref();
    attributes::run_on(affinity.map_or("", |a| &a.initial))?;
    let labels = Labels::open(plan.process)?;
    if let Some(id) = plan.keyring {
        attributes::join_keyring(id)?;
    }
    let other_users = differs(plan.init_pid, "user");
    let mut kinds = MOUNT | NET | IPC | UTS | CGROUP;
    if !corten_sys::users::initial() {
        // Only the machine's root may enter what is the machine's, even where we are in it already.
        for (kind, name) in [(NET, "net"), (IPC, "ipc"), (UTS, "uts"), (CGROUP, "cgroup")] {
            if !differs(plan.init_pid, name) {
                kinds &= !kind;
            }
        }
    }
    if other_users {
        kinds |= USER;
        // Only then is what can be done from outside done.
        pid = Some(joined(socket)?);
    }
    if differs(plan.init_pid, "time") {
        kinds |= TIME;
    }
    start(plan.process, !other_users)?;
    process::enter(plan.init, kinds).map_err(|e| StepError::os("setns", "enter namespaces", &e))?;
    if other_users {
        stage::become_root()?;
    }
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| StepError::os("exec", "open /", &e.into()))?;
    let identity = identity(plan.process, plan.user, root.as_fd())?;
    let slave = match &stdio {
        ChildStdio::Terminal { size } => Some(terminal(root.as_fd(), None, *size, socket)?),
        ChildStdio::Pipes { .. } | ChildStdio::Inherited => None,
    };
    take_stdio(stdio, slave, &identity)?;
    let pid = pid.map_or_else(|| joined(socket), Ok)?;
    attributes::run_on(affinity.map_or("", |a| &a.last))?;
    become_program::run(&Program {
        process: plan.process,
        linux: plan.linux,
        labels: &labels,
        identity: &identity,
        seccomp: plan.seccomp,
        root: root.as_fd(),
        own_init: None,
        alone: plan.alone,
        report: socket,
        pid,
    })
}

fn name_host(plan: &Plan<'_>) -> Result<(), StepError> {
    if !plan.spec.hostname.is_empty() {
        rustix::system::sethostname(plan.spec.hostname.as_bytes())
            .map_err(|e| StepError::os("hostname", "sethostname", &e.into()))?;
    }
    if !plan.spec.domainname.is_empty() {
        rustix::system::setdomainname(plan.spec.domainname.as_bytes())
            .map_err(|e| StepError::os("hostname", "setdomainname", &e.into()))?;
    }
    Ok(())
}

fn identity(
    process: &Process,
    user: Option<&corten_wire::shim::UserSpec>,
    root: BorrowedFd<'_>,
) -> Result<Identity, StepError> {
    match user {
        Some(spec) => user::resolve(root, spec).map_err(|e| StepError::bare("user", e.to_string())),
        None => {
            let mut groups = process.user.additional_gids.clone();
            if !groups.contains(&process.user.gid) {
                groups.insert(0, process.user.gid);
            }
            Ok(Identity { uid: process.user.uid, gid: process.user.gid, groups })
        }
    }
}

const DEVPTS_MAGIC: u64 = 0x1CD1;

/// Makes a terminal in the container's devpts and sends its master to the shim.
fn terminal(
    root: BorrowedFd<'_>,
    devpts: Option<BorrowedFd<'_>>,
    size: Option<ConsoleSize>,
    socket: BorrowedFd<'_>,
) -> Result<OwnedFd, StepError> {
    let fail = |e: std::io::Error| StepError::os("console", "open terminal", &e);
    let found;
    let devpts = match devpts {
        Some(own) => own,
        None => {
            found = path::open(root, Path::new("/dev/pts"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                .map_err(fail)?;
            found.as_fd()
        }
    };
    let magic = rustix::fs::fstatfs(devpts).map_err(|e| fail(e.into()))?.f_type as u64;
    if magic != DEVPTS_MAGIC {
        return Err(StepError::new("console", "/dev/pts is not a devpts file system"));
    }
    let (master, slave) = pty::open(devpts).map_err(fail)?;
    if let Some(size) = size.filter(|s| s.height > 0 || s.width > 0) {
        pty::resize(slave.as_fd(), size.height, size.width).map_err(fail)?;
    }
    seqpacket::send(socket, &[report::TERMINAL], &[master.as_fd()], true).map_err(fail)?;
    Ok(slave)
}

/// Puts the streams to their numbers, and gives them to the user so that `/dev/stdout` can be opened.
fn take_stdio(stdio: ChildStdio, slave: Option<OwnedFd>, identity: &Identity) -> Result<(), StepError> {
    let fail = |e: std::io::Error| StepError::os("stdio", "set up standard streams", &e);
    let own = |fd: BorrowedFd<'_>, group: Option<u32>| {
        if identity.uid != 0 {
            rustix::fs::fchown(fd, Some(Uid::from_raw(identity.uid)), group.map(Gid::from_raw)).ok();
        }
    };
    match (stdio, slave) {
        (ChildStdio::Pipes { stdin, stdout, stderr }, _) => {
            for (fd, target) in [(&stdin, 0), (&stdout, 1), (&stderr, 2)] {
                let is_pipe = rustix::fs::fstat(fd).is_ok_and(|s| {
                    rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Fifo
                });
                if is_pipe {
                    own(fd.as_fd(), None);
                }
                process::duplicate_to(fd.as_fd(), target).map_err(fail)?;
            }
        }
        (ChildStdio::Inherited, _) => {
            for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
                let kind = rustix::fs::fstat(fd).map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode));
                if kind.is_ok_and(|k| k == rustix::fs::FileType::Fifo) {
                    own(fd, None);
                }
            }
        }
        (ChildStdio::Terminal { .. }, Some(slave)) => {
            own(slave.as_fd(), None);
            pty::make_controlling(slave.as_fd()).map_err(fail)?;
            for target in 0..3 {
                process::duplicate_to(slave.as_fd(), target).map_err(fail)?;
            }
        }
        (ChildStdio::Terminal { .. }, None) => return Err(StepError::new("stdio", "no terminal")),
    }
    Ok(())
}
