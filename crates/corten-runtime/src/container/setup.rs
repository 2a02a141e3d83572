//! What the child does between the clone and its program, with what was prepared for it before: it asks for no memory.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::mount::{self, Change, Propagation};
use corten_sys::process;
use corten_sys::{path, pty, seqpacket};
use corten_wire::oci_runtime::{ConsoleSize, Linux};
use rustix::fs::{FileType, Mode, OFlags, Uid};

use super::become_program::{Place, Program};
use super::failure::{Failure, Outcome, Step, of};
use super::namespaces::{Namespaces, differs};
use super::rootfs::RootPlan;
use super::settings::Settings;
use super::{Alone, ChildStdio, ExecPlan, Plan, attributes, c_path, hooks, report, stage};
use crate::fault::StepError;
use crate::user::Identity;

/// Runs the steps in the child; a failure is reported to the shim.
pub(super) fn in_child(socket: BorrowedFd<'_>, steps: impl FnOnce() -> Outcome<Infallible>) -> i32 {
    let Err(failure) = steps();
    let mut message = [report::FAILED; 8];
    message[1..].copy_from_slice(&failure.to_bytes());
    seqpacket::send(socket, &message, &[], true).ok();
    1
}

/// The beginning of every process.
fn start(oom_score: Option<&str>) -> Outcome {
    process::reset_signals();
    rustix::process::setsid().map_err(of(Step::Session))?;
    rustix::process::umask(Mode::empty());
    if let Some(score) = oom_score {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty());
        rustix::io::write(file.map_err(of(Step::OomScore))?, score.as_bytes()).map_err(of(Step::OomScore))?;
    }
    Ok(())
}

/// The score, where this process may set it itself: one that is not of our user namespace gets it from outside.
fn own_score(process: &corten_wire::oci_runtime::Process, own_users: bool) -> Option<String> {
    process.oom_score_adj.filter(|_| own_users).map(|s| s.to_string())
}

/// Waits until the shim has moved this process into its control groups; its number as the shim sees it.
fn joined(socket: BorrowedFd<'_>) -> Outcome<i32> {
    let mut message = [0; 16];
    let n = seqpacket::recv(socket, &mut message, &mut Vec::new(), true).map_err(of(Step::Signal))?;
    let pid = message.get(1..n).and_then(|p| std::str::from_utf8(p).ok()).and_then(|p| p.parse().ok());
    pid.ok_or(Failure::plain(Step::Abandoned))
}

/// The container's first process.
#[derive(Debug)]
pub(super) struct First<'a> {
    plan: &'a Plan<'a>,
    pub(super) namespaces: &'a Namespaces,
    program: Program<'a>,
    pub(super) keyring: Option<CString>,
    oom_score: Option<String>,
    pub(super) root: Directory,
    /// Settings of a network namespace that the container's root will not own.
    pub(super) outer_settings: Settings,
    stdio: ChildStdio,
}

/// The root directory that the program sees.
#[derive(Debug)]
pub(super) enum Directory {
    /// The configuration's root and mounts, in a mount namespace of its own.
    Own(Box<RootPlan>),
    /// Without one the container is in its creator's, or one that it joined, and its root is a directory there.
    /// Nothing is mounted: it would be for everybody in that namespace.
    Found(CString, Settings),
}

impl<'a> First<'a> {
    /// Makes everything ready.
    pub(super) fn of(
        plan: &'a Plan<'a>,
        namespaces: &'a Namespaces,
        stdio: ChildStdio,
    ) -> Result<Self, StepError> {
        let none = Linux::default();
        let linux = plan.spec.linux.as_ref().unwrap_or(&none);
        let root = match (namespaces.has_root(), plan.rootfs) {
            (true, _) => Directory::Own(Box::new(RootPlan::of(plan, namespaces)?)),
            (false, corten_wire::shim::Rootfs::Path(path)) => {
                Directory::Found(c_path("rootfs", path)?, Settings::of(linux, |_| true)?)
            }
            (false, _) => {
                let text = "layers need a mount namespace of the container's own";
                return Err(StepError::new("rootfs", text));
            }
        };
        let outer = Settings::of(linux, |name| namespaces.keeps_network() && stage::is_of_network(name));
        let linux = plan.spec.linux.as_ref();
        Ok(Self {
            plan,
            namespaces,
            program: Program::of(plan.process, linux, plan.user, plan.seccomp, plan.init, plan.alone)?,
            keyring: attributes::keyring(plan.keyring)?,
            oom_score: own_score(plan.process, namespaces.user.is_none()),
            root,
            outer_settings: outer?,
            stdio,
        })
    }

    /// The root file system, and nothing else of what was prepared.
    pub(super) fn into_root(self) -> Option<OwnedFd> {
        match self.root {
            Directory::Own(root) => root.into_kept(),
            Directory::Found(..) => None,
        }
    }

    /// Becomes the container's program.
    pub(super) fn run(&mut self, socket: BorrowedFd<'_>) -> Outcome<Infallible> {
        let staged = self.namespaces.staged();
        let mut pid = None;
        if staged {
            // What only the host may do for us is done by then.
            pid = Some(joined(socket)?);
        }
        start(self.oom_score.as_deref())?;
        self.program.open_labels()?;
        if self.namespaces.user.is_some() {
            stage::become_root()?;
        }
        if !staged {
            attributes::join_keyring(self.keyring.as_deref())?;
            for (fd, kind) in &self.namespaces.join {
                process::enter(fd.as_fd(), *kind).map_err(of(Step::Join))?;
            }
        }
        let hooks = self.plan.alone.filter(|a| a.hooks_before_root());
        if pid.is_none() && (self.namespaces.cgroup || hooks.is_some()) {
            pid = Some(joined(socket)?);
        }
        if self.namespaces.cgroup {
            // The new view begins where this process is now: it has joined its groups.
            process::unshare(process::namespace::CGROUP).map_err(of(Step::UnshareCgroup))?;
        }
        let mut way = Way {
            plan: self.plan,
            program: &mut self.program,
            stdio: &self.stdio,
            socket,
            hooks: hooks.zip(pid),
        };
        let found;
        let root = match &mut self.root {
            Directory::Own(root) => {
                let root = way.own_root(root, staged)?;
                own_null(root);
                root
            }
            Directory::Found(path, settings) => {
                found = way.found_root(path, settings)?;
                found.as_fd()
            }
        };
        let pid = pid.map_or_else(|| joined(socket), Ok)?;
        self.program.run(Place { root, report: socket, pid })
    }
}

/// From the namespaces to the root directory that the program sees.
struct Way<'a, 'p> {
    plan: &'a Plan<'a>,
    program: &'a mut Program<'p>,
    stdio: &'a ChildStdio,
    socket: BorrowedFd<'a>,
    /// What is to be run before the root is entered, and this process's number.
    hooks: Option<(&'a Alone<'a>, i32)>,
}

impl Way<'_, '_> {
    /// Makes the configuration's root and mounts, and enters them.
    fn own_root<'r>(&mut self, plan: &'r mut RootPlan, staged: bool) -> Outcome<BorrowedFd<'r>> {
        let made = plan.prepare(staged)?;
        let root = made.root;
        self.name_host()?;
        self.program.identify(root)?;
        let slave = match self.stdio {
            ChildStdio::Terminal { size } => {
                let slave = terminal(root, made.devpts.as_ref().map(AsFd::as_fd), *size, self.socket)?;
                if let Some(dev) = &made.dev {
                    super::devices::console(dev.as_fd(), slave.as_fd()).map_err(of(Step::Console))?;
                }
                Some(slave)
            }
            ChildStdio::Pipes { .. } | ChildStdio::Inherited => None,
        };
        self.hooks_before_root()?;
        take_stdio(self.stdio, slave, self.program.identity())?;
        made.sysctls()?;
        path::ensure_c(root, self.program.cwd(), path::Make::Directory, Mode::from_raw_mode(0o755))
            .map_err(of(Step::MakeCwd))?;
        made.protect()?;
        made.mask()?;
        made.seal().map_err(of(Step::FinishRootfs))?;
        let enter = match self.plan.alone {
            Some(alone) if alone.no_pivot => mount::enter_root_on_top,
            _ => mount::enter_root,
        };
        enter(root).map_err(of(Step::Pivot))?;
        // Only now: nothing of what was made above shall have spread.
        let wanted = self.plan.spec.linux.as_ref().map(|l| l.rootfs_propagation.as_str());
        let propagation = match wanted {
            Some("shared" | "rshared") => Some(Propagation::Shared),
            Some("unbindable" | "runbindable") => Some(Propagation::Unbindable),
            _ => None,
        };
        let change = Change { propagation, ..Change::default() };
        mount::change(root, change, false).map_err(of(Step::FinishRootfs))?;
        Ok(root)
    }

    fn found_root(&mut self, path: &std::ffi::CStr, settings: &Settings) -> Outcome<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(of(Step::Rootfs))?;
        self.name_host()?;
        self.program.identify(root.as_fd())?;
        let slave = match self.stdio {
            ChildStdio::Terminal { size } => Some(terminal(root.as_fd(), None, *size, self.socket)?),
            ChildStdio::Pipes { .. } | ChildStdio::Inherited => None,
        };
        self.hooks_before_root()?;
        take_stdio(self.stdio, slave, self.program.identity())?;
        settings.write(None)?;
        rustix::process::fchdir(&root).map_err(of(Step::Rootfs))?;
        rustix::process::chroot(c".").map_err(of(Step::Rootfs))?;
        Ok(root)
    }

    fn name_host(&self) -> Outcome {
        let spec = self.plan.spec;
        if !spec.hostname.is_empty() {
            rustix::system::sethostname(spec.hostname.as_bytes()).map_err(of(Step::HostName))?;
        }
        if !spec.domainname.is_empty() {
            rustix::system::setdomainname(spec.domainname.as_bytes()).map_err(of(Step::DomainName))?;
        }
        Ok(())
    }

    /// Lets the creator run its hooks, then runs those that belong into these namespaces.
    fn hooks_before_root(&self) -> Outcome {
        let Some((alone, pid)) = self.hooks else { return Ok(()) };
        seqpacket::send(self.socket, &[report::HOOKS], &[], true).map_err(of(Step::Hooks))?;
        let heard = seqpacket::recv(self.socket, &mut [0; 16], &mut Vec::new(), true);
        if heard.map_err(of(Step::Hooks))? == 0 {
            return Err(Failure::plain(Step::Abandoned));
        }
        let env = Some(self.plan.process.env.as_slice());
        let all = &alone.hooks.create_container;
        hooks::run_inside("createContainer", all, alone.state, (pid, "creating"), env, self.socket)
    }
}

/// A further process: enters everything that the container's init is in.
#[derive(Debug)]
pub(super) struct Further<'a> {
    init: BorrowedFd<'a>,
    program: Program<'a>,
    keyring: Option<CString>,
    oom_score: Option<String>,
    /// The container has users of its own.
    pub(super) other_users: bool,
    /// `CLONE_NEW…` bits.
    kinds: u64,
    stdio: ChildStdio,
}

impl<'a> Further<'a> {
    /// Makes everything ready.
    pub(super) fn of(plan: &ExecPlan<'a>, stdio: ChildStdio) -> Result<Self, StepError> {
        use process::namespace::{CGROUP, IPC, MOUNT, NET, TIME, USER, UTS};
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
        }
        if differs(plan.init_pid, "time") {
            kinds |= TIME;
        }
        Ok(Self {
            init: plan.init,
            program: Program::of(plan.process, plan.linux, plan.user, plan.seccomp, false, plan.alone)?,
            keyring: attributes::keyring(plan.keyring)?,
            oom_score: own_score(plan.process, !other_users),
            other_users,
            kinds,
            stdio,
        })
    }

    /// Becomes the program.
    pub(super) fn run(&mut self, socket: BorrowedFd<'_>) -> Outcome<Infallible> {
        // Nobody inside may look into this process while it still has anything of the host's (CVE-2016-9962).
        corten_sys::caps::forbid_tracing().map_err(of(Step::Control))?;
        let mut pid = None;
        attributes::run_on(&self.program.attributes().processors[0])?;
        self.program.open_labels()?;
        attributes::join_keyring(self.keyring.as_deref())?;
        if self.other_users {
            // Only then is what can be done from outside done.
            pid = Some(joined(socket)?);
        }
        start(self.oom_score.as_deref())?;
        process::enter(self.init, self.kinds).map_err(of(Step::Enter))?;
        if self.other_users {
            stage::become_root()?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(c"/", flags, Mode::empty()).map_err(of(Step::OpenRoot))?;
        self.program.identify(root.as_fd())?;
        let slave = match &self.stdio {
            ChildStdio::Terminal { size } => Some(terminal(root.as_fd(), None, *size, socket)?),
            ChildStdio::Pipes { .. } | ChildStdio::Inherited => None,
        };
        take_stdio(&self.stdio, slave, self.program.identity())?;
        let pid = pid.map_or_else(|| joined(socket), Ok)?;
        attributes::run_on(&self.program.attributes().processors[1])?;
        self.program.run(Place { root: root.as_fd(), report: socket, pid })
    }
}

const DEVPTS_MAGIC: u64 = 0x1CD1;

/// Makes a terminal in the container's devpts and sends its master to the shim.
fn terminal(
    root: BorrowedFd<'_>,
    devpts: Option<BorrowedFd<'_>>,
    size: Option<ConsoleSize>,
    socket: BorrowedFd<'_>,
) -> Outcome<OwnedFd> {
    let fail = of::<std::io::Error>(Step::Terminal);
    let found;
    let devpts = match devpts {
        Some(own) => own,
        None => {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            found = path::open_c(root, c"/dev/pts", flags, Mode::empty()).map_err(&fail)?;
            found.as_fd()
        }
    };
    let magic = rustix::fs::fstatfs(devpts).map_err(of(Step::Terminal))?.f_type as u64;
    if magic != DEVPTS_MAGIC {
        return Err(Failure::plain(Step::NoDevpts));
    }
    let (master, slave) = pty::open(devpts).map_err(&fail)?;
    if let Some(size) = size.filter(|s| s.height > 0 || s.width > 0) {
        pty::resize(slave.as_fd(), size.height, size.width).map_err(&fail)?;
    }
    seqpacket::send(socket, &[report::TERMINAL], &[master.as_fd()], true).map_err(&fail)?;
    Ok(slave)
}

/// A stream that is the host's null device becomes the container's own, if that has one: a checkpoint can only hold
/// files of the container's mounts.
fn own_null(root: BorrowedFd<'_>) {
    let is_null = |fd: BorrowedFd<'_>| {
        rustix::fs::fstat(fd).is_ok_and(|s| {
            FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice
                && s.st_rdev == rustix::fs::makedev(1, 3)
        })
    };
    let mut own = None;
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (_, target) in streams.into_iter().zip(0..).filter(|(fd, _)| is_null(*fd)) {
        let open = || path::open_c(root, c"/dev/null", OFlags::RDWR, Mode::empty()).ok();
        let found = own.get_or_insert_with(|| open().filter(|f| is_null(f.as_fd())));
        if let Some(null) = found {
            process::duplicate_to(null.as_fd(), target).ok();
        }
    }
}

/// Puts the streams to their numbers, and gives them to the user so that `/dev/stdout` can be opened.
fn take_stdio(stdio: &ChildStdio, slave: Option<OwnedFd>, identity: &Identity) -> Outcome {
    let fail = of::<std::io::Error>(Step::Stdio);
    let own = |fd: BorrowedFd<'_>| {
        if identity.uid != 0 {
            rustix::fs::fchown(fd, Some(Uid::from_raw(identity.uid)), None).ok();
        }
    };
    let is_pipe = |fd: BorrowedFd<'_>| {
        rustix::fs::fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Fifo)
    };
    match (stdio, slave) {
        (ChildStdio::Pipes { stdin, stdout, stderr }, _) => {
            for (fd, target) in [(stdin, 0), (stdout, 1), (stderr, 2)] {
                if is_pipe(fd.as_fd()) {
                    own(fd.as_fd());
                }
                process::duplicate_to(fd.as_fd(), target).map_err(&fail)?;
            }
        }
        (ChildStdio::Inherited, _) => {
            for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
                if is_pipe(fd) {
                    own(fd);
                }
            }
        }
        (ChildStdio::Terminal { .. }, slave) => {
            let slave = slave.ok_or(Failure::plain(Step::Stdio))?;
            own(slave.as_fd());
            pty::make_controlling(slave.as_fd()).map_err(&fail)?;
            for target in 0..3 {
                process::duplicate_to(slave.as_fd(), target).map_err(&fail)?;
            }
        }
    }
    Ok(())
}
