//! `create`, `start` and `run`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_base::time::{now_ns, rfc3339_nano};
use corten_sys::process::Child;
use corten_sys::seqpacket;
use corten_wire::oci_runtime::{NamespaceKind, Process, Resources, Spec};
use corten_wire::shim::Rootfs;

use super::arguments::Arguments;
use super::foreground::{self, Terminal};
use super::record::{Container, DOOR_NAME, Record, Status, remove, start_time};
use super::{Context, OciError, Place, absolute, config, listen_fds, preserved, protect};
use crate::cgroup::systemd::{Unit, UnitError};
use crate::cgroup::{Cgroup, CgroupError, Kept};
use crate::container::failure::Names;
use crate::container::notify::Answers;
use crate::container::{self, Alone, Launched, OwnProgram, Plan, Stdio, hooks};
use crate::fault::StepError;
use crate::seccomp;

/// Where a container's first process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is made by this one.
    Program,
    /// criu makes it.
    Checkpoint,
}

/// A container that is being made: everything is taken back unless it comes to live.
pub(super) struct Draft {
    pub(super) dir: PathBuf,
    pub(super) record: Record,
    pub(super) cgroup: Cgroup,
    process: Process,
    /// The mount that this process runs from.
    program: Option<OwnProgram>,
    pub(super) terminal: Terminal,
    pub(super) pid_file: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
}

pub(super) fn create(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let draft = Draft::new(context, given, true, Origin::Program)?;
    let door = draft.open_door();
    let door = door.map_err(|e| draft.abandon(e))?;
    let launched = draft.launch("create", given, Some(door.as_fd()));
    let launched = launched.map_err(|e| draft.abandon(e))?;
    let told = draft.terminal.hand_over(launched.stdio).and_then(|_| draft.announce(&launched.child));
    told.map_err(|e| {
        corten_sys::process::signal(launched.child.pidfd.as_fd(), 9).ok();
        draft.abandon(e)
    })
}

pub(super) fn start(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let container = context.store.load(given.id())?;
    match container.status() {
        Status::Created => {}
        Status::Stopped => return Err(OciError::refused("cannot start a container that has stopped")),
        Status::Running | Status::Paused => {
            return Err(OciError::refused("cannot start an already running container"));
        }
    }
    // Before the door: behind it the program may have ended by the time that one looks.
    let (filter, state) = (filter_of(&container.record.spec)?, container.record.state());
    let Some(pidfd) = container.init() else {
        return Err(OciError::refused("cannot start a container that has stopped"));
    };
    let init = Child { pid: container.record.pid, pidfd };
    let answers = Answers::of(filter.as_ref(), &state);
    let door = container.dir.join(DOOR_NAME);
    let visitor = seqpacket::connect(&door).map_err(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            OciError::refused("cannot start an already running container")
        }
        _ => OciError::io("connect to the container's init")(e),
    })?;
    let process = container.record.spec.process.clone().unwrap_or_default();
    let names = Names { spec: Some(&container.record.spec), process: &process, user: None };
    let released = container::release(visitor.as_fd(), &init, answers.as_ref(), names);
    corten_base::fs::ensure_absent(&door).map_err(OciError::file)?;
    released.map_err(|step| OciError::Step { verb: "start", step })?;
    poststart(&container);
    Ok(())
}

pub(super) fn run(context: &Context, given: &Arguments) -> Result<i32, OciError> {
    let detach = given.has("detach");
    let draft = Draft::new(context, given, detach, Origin::Program)?;
    if draft.record.spec.process.is_none() {
        return Err(draft.abandon(OciError::refused("process property must not be empty")));
    }
    if !detach && !given.has("no-subreaper") {
        corten_sys::caps::adopt_orphans().map_err(OciError::io("prctl"))?;
    }
    let signals = if detach { None } else { Some(foreground::signals()?) };
    let launched = draft.launch("run", given, None).map_err(|e| draft.abandon(e))?;
    let Launched { child, stdio, .. } = launched;
    let told = draft.terminal.hand_over(stdio).and_then(|m| draft.announce(&child).map(|()| m));
    let master = told.map_err(|e| {
        corten_sys::process::signal(child.pidfd.as_fd(), 9).ok();
        draft.abandon(e)
    })?;
    let container = Container { dir: draft.dir, record: draft.record };
    poststart(&container);
    let Some(signals) = signals else { return Ok(0) };
    let code = foreground::wait(&child, &signals, master)?;
    if !given.has("keep") {
        super::manage::destroy(&container)?;
    }
    Ok(code)
}

/// The container runs already: what a hook does wrong now is only its own loss.
fn poststart(container: &Container) {
    if let (Some(all), pid) = (&container.record.spec.hooks, container.record.pid) {
        hooks::run("poststart", &all.poststart, &container.record.state(), pid, "running", None).ok();
    }
}

/// Writes the file so that it is never seen half written.
pub(super) fn write_pid(path: Option<&Path>, pid: i32) -> Result<(), OciError> {
    let Some(path) = path else { return Ok(()) };
    let durability = corten_base::fs::Durability::Process;
    corten_base::fs::replace(path, pid.to_string().as_bytes(), 0o644, durability).map_err(OciError::file)
}

/// The configuration's filter of system calls, compiled.
pub(super) fn filter_of(spec: &Spec) -> Result<Option<seccomp::Program>, OciError> {
    let given = spec.linux.as_ref().and_then(|l| l.seccomp.as_ref());
    given
        .map(seccomp::compile)
        .transpose()
        .map_err(|e| OciError::refused(format!("unable to init seccomp: {e}")))
}

/// Where a container's groups are when its configuration says nothing, and what it may not say.
fn cgroup_path(spec: &Spec, id: &str, systemd: bool) -> Result<PathBuf, OciError> {
    let given = spec.linux.as_ref().and_then(|l| l.cgroups_path.clone());
    let given = given.filter(|p| !p.as_os_str().is_empty());
    let is_unit = |p: &Path| Unit::named(p).is_some();
    match given {
        // COMPAT: runc's prefix, for those who look for containers by the names of their scopes.
        None if systemd => Ok(format!(":runc:{id}").into()),
        None => Ok(id.into()),
        Some(path) if systemd && !is_unit(&path) => {
            Err(CgroupError::from(UnitError::Path(path.display().to_string())).into())
        }
        Some(path) if !systemd && is_unit(&path) => Err(OciError::refused(format!(
            "cgroupsPath {:?} names a unit of systemd's, which needs --systemd-cgroup",
            path.display().to_string()
        ))),
        Some(path) => Ok(path),
    }
}

/// Without control groups nothing can be limited; devices are open then, as with other runtimes.
fn refuse_limits(spec: &Spec) -> Result<(), OciError> {
    let limits = spec.linux.as_ref().and_then(|l| l.resources.clone());
    let limits = limits.map(|r| Resources { devices: Vec::new(), ..r });
    match limits {
        Some(limits) if limits != Resources::default() => Err(OciError::refused(
            "linux.resources needs control groups, which --cgroup-manager disabled turns off",
        )),
        _ => Ok(()),
    }
}

impl Draft {
    pub(super) fn new(
        context: &Context,
        given: &Arguments,
        detach: bool,
        origin: Origin,
    ) -> Result<Self, OciError> {
        let id = given.id();
        let bundle = absolute(given.value("bundle").filter(|b| !b.is_empty()).unwrap_or("."))?;
        // Relative paths in the configuration begin there, and those of flags must not.
        let (mut spec, rootfs) = config::bundle(&bundle)?;
        let namespaces = || spec.linux.iter().flat_map(|l| &l.namespaces);
        if !rustix::process::geteuid().is_root() && !namespaces().any(|n| n.kind == NamespaceKind::User) {
            return Err(OciError::refused("rootless container requires user namespaces"));
        }
        let own_mounts = namespaces().any(|n| n.kind == NamespaceKind::Mount && n.path.is_none());
        let place = if own_mounts && !given.has("no-pivot") { Place::OwnMounts } else { Place::Other };
        let program = match origin {
            Origin::Program => protect(place)?,
            Origin::Checkpoint => None,
        };
        if let Some(process) = spec.process.as_mut() {
            pass_sockets(process);
        }
        let process = spec.process.clone();
        let process = process.unwrap_or_else(|| Process { cwd: "/".into(), ..Process::default() });
        let terminal = Terminal::of(given, process.terminal, detach)?;
        let (pid_file, pidfd_socket) = (given.path("pid-file")?, given.path("pidfd-socket")?);
        let cgroup = if context.cgroups {
            Cgroup::at(&cgroup_path(&spec, id, context.systemd)?)?
        } else {
            refuse_limits(&spec)?;
            Cgroup::none()
        };
        let dir = context.store.reserve(id)?;
        let record = Record {
            id: id.to_owned(),
            pid: 0,
            start_time: 0,
            bundle,
            rootfs,
            created: rfc3339_nano(now_ns()),
            cgroup: cgroup.path(),
            unit: cgroup.unit().cloned(),
            no_keyring: given.has("no-new-keyring"),
            spec,
        };
        Ok(Self { dir, record, cgroup, process, program, terminal, pid_file, pidfd_socket })
    }

    /// Takes everything back; gives the error on.
    pub(super) fn abandon(&self, error: OciError) -> OciError {
        self.cgroup.destroy().ok();
        if let Some(all) = &self.record.spec.hooks {
            hooks::run("poststop", &all.poststop, &self.record.state(), 0, "stopped", None).ok();
        }
        remove(&self.dir).ok();
        error
    }

    /// The control groups, with their limits; to be kept until a process is in them.
    pub(super) fn make_groups(&self) -> Result<Kept, StepError> {
        self.cgroup.create(&self.record.spec).map_err(|e| StepError::new("cgroup", e.to_string()))
    }

    /// Writes the record, now that there is a first process.
    pub(super) fn note(&self, pid: i32) -> Result<(), OciError> {
        let Some(start_time) = start_time(pid) else {
            // It has failed and ended already; its report says why.
            return Ok(());
        };
        Record { pid, start_time, ..self.record.clone() }.save(&self.dir)
    }

    /// Tells who wants to know of the first process.
    pub(super) fn announce(&self, child: &Child) -> Result<(), OciError> {
        write_pid(self.pid_file.as_deref(), child.pid)?;
        foreground::send_pidfd(self.pidfd_socket.as_deref(), "standard", child.pidfd.as_fd())
    }

    fn open_door(&self) -> Result<OwnedFd, OciError> {
        let fail = || OciError::io("listen for start");
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let dir =
            rustix::fs::open(&self.dir, flags, rustix::fs::Mode::empty()).map_err(|e| fail()(e.into()))?;
        let door = seqpacket::listen(dir.as_fd(), DOOR_NAME).map_err(fail())?;
        rustix::io::ioctl_fionbio(&door, false).map_err(|e| fail()(e.into()))?;
        Ok(door)
    }

    /// Makes the groups and the first process. The record is on disk as soon as there is a process.
    fn launch(
        &self,
        verb: &'static str,
        given: &Arguments,
        door: Option<BorrowedFd<'_>>,
    ) -> Result<Launched, OciError> {
        let step = |step| OciError::Step { verb, step };
        let spec = &self.record.spec;
        let linux = spec.linux.clone().unwrap_or_default();
        let filter = linux.seccomp.as_ref().map(seccomp::compile).transpose();
        let filter =
            filter.map_err(|e| step(StepError::new("seccomp", format!("unable to init seccomp: {e}"))))?;
        rustix::process::chdir(&self.record.bundle)
            .map_err(|e| OciError::io(self.record.bundle.display())(e.into()))?;
        let _kept = self.make_groups().map_err(step)?;
        let all = spec.hooks.clone().unwrap_or_default();
        let state = self.record.state();
        let born = |pid: i32| self.note(pid).map_err(|e| StepError::new("state", e.to_string()));
        let alone = Alone {
            door,
            hooks: &all,
            state: &state,
            preserve: preserved(given)?,
            program: self.program.as_ref(),
            no_pivot: given.has("no-pivot"),
            born: &born,
        };
        let answers = Answers::of(filter.as_ref(), &state);
        let plan = Plan {
            spec,
            process: &self.process,
            rootfs: &Rootfs::Path(self.record.rootfs.clone()),
            scratch: &self.dir,
            user: None,
            init: false,
            seccomp: filter.as_ref(),
            cgroup: &self.cgroup,
            stdin: false,
            keyring: (!self.record.no_keyring).then_some(self.record.id.as_str()),
            answers: answers.as_ref(),
            alone: Some(&alone),
        };
        container::launch(&plan).map_err(step)
    }
}

/// systemd's protocol: the program is told how many of its descriptors are sockets, and that they are for it.
pub(super) fn pass_sockets(process: &mut Process) {
    let count = listen_fds();
    if count > 0 {
        process.env.push(format!("LISTEN_FDS={count}"));
        process.env.push("LISTEN_PID=1".to_owned());
    }
}

/// The descriptor of a terminal's master, if the process has one.
pub(super) fn master(stdio: Stdio) -> Option<OwnedFd> {
    match stdio {
        Stdio::Terminal { master } => Some(master),
        Stdio::Pipes { .. } | Stdio::Inherited => None,
    }
}
