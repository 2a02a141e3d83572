//! A container run by a program with runc's command line: runc, crun, or what else `--add-runtime` names.
//!
//! ```text
//!  <exec-root>/containers/<id>/foreign/
//!     bundle/config.json    root.path is rootfs; our working directory, so that console.sock is a short name
//!     rootfs/               the layers, mounted in a mount namespace of the shim's own
//!     state/                the runtime's own (--root)
//!     init/                 a tmpfs with docker-init, where that is wanted
//!     log.json, pid         of the last command
//! ```
//!
//! INVARIANT: the shim adopts orphans, so that the processes which the runtime leaves behind become its children.
//! The host's mount table shows nothing of this, and the shim's end unmounts everything.

mod bundle;
mod command;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_base::Kind;
use corten_sys::process::{self, Child};
use corten_sys::{mount, pty, seqpacket};
use corten_wire::oci_runtime::{Process, Resources};
use corten_wire::shim::{Bootstrap, Fault, ForeignRuntime};
use rustix::fs::{Mode, OFlags};

use super::runtime::{Further, OciRuntime, fault};
use crate::cgroup::Cgroup;
use crate::container::{ChildStdio, Launched, Stdio, rootfs_tree, streams};
use crate::fault::{StepError, Way};
use crate::mounts;
use bundle::Bundle;
use command::{Failure, Program};

const CONSOLE: &str = "console.sock";

/// A container of another runtime.
#[derive(Debug)]
pub(super) struct Foreign {
    id: String,
    program: Program,
    places: Places,
    cgroup: Cgroup,
}

/// Where everything is.
#[derive(Debug)]
struct Places {
    bundle: PathBuf,
    rootfs: PathBuf,
    init: PathBuf,
    pid: PathBuf,
    process: PathBuf,
    resources: PathBuf,
}

impl Places {
    fn below(base: &Path) -> io::Result<Self> {
        let places = Self {
            bundle: base.join("bundle"),
            rootfs: base.join("rootfs"),
            init: base.join("init"),
            pid: base.join("pid"),
            process: base.join("process.json"),
            resources: base.join("resources.json"),
        };
        for dir in [&places.bundle, &places.rootfs, &places.init] {
            std::fs::create_dir_all(dir)?;
        }
        Ok(places)
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> Fault {
    move |e| StepError::os(step, format!("prepare {step}"), &e).into_fault(Way::Create)
}

impl Foreign {
    /// Makes the container and starts its program; on failure nothing is left.
    pub(super) fn create(
        bootstrap: &Bootstrap,
        process: &Process,
        runtime: &ForeignRuntime,
        cgroup: &Cgroup,
    ) -> Result<(Self, Launched), Fault> {
        let base = bootstrap.dir.join("foreign");
        let program = Program::new(runtime, &base, cgroup.unit().is_some());
        if base.exists() {
            // Of a run whose shim did not live to its end.
            program.run(&["delete", "--force", &bootstrap.id], command::Streams::None).ok();
            cgroup.destroy().ok();
            std::fs::remove_dir_all(&base).map_err(failed("bundle"))?;
        }
        let places = Places::below(&base).map_err(failed("bundle"))?;
        mounts::own_namespace(&bootstrap.dir).map_err(failed("mount namespace"))?;
        let root = mount_root(bootstrap, &places)
            .map_err(|e| StepError::os("rootfs", "error preparing rootfs", &e).into_fault(Way::Create))?;
        let bundle =
            Bundle { bootstrap, process, rootfs: &places.rootfs, root: root.as_fd(), init: &places.init };
        bundle.write(&places.bundle).map_err(|e| e.into_fault(Way::Create))?;
        rustix::process::chdir(&places.bundle).map_err(|e| failed("bundle")(e.into()))?;
        let runtime = Self { id: bootstrap.id.clone(), program, places, cgroup: cgroup.clone() };
        let launched = match &bootstrap.restore {
            None => runtime.launch(process, bootstrap.stdin.open),
            Some(images) => runtime.restore(process, bootstrap.stdin.open, images),
        };
        match launched {
            Ok(launched) => Ok((runtime, launched)),
            Err(fault) => {
                runtime.remove();
                Err(fault)
            }
        }
    }

    fn launch(&self, process: &Process, stdin: bool) -> Result<Launched, Fault> {
        let lead =
            "failed to create task for container: failed to create shim task: OCI runtime create failed";
        let bundle = self.places.bundle.display().to_string();
        let launched = self
            .start_with(&["create", "--bundle", &bundle], process, stdin, Way::Create)
            .map_err(|e| e.refuse(lead, "create"))?;
        let started = self.program.run(&["start", &self.id], command::Streams::None);
        started.map_err(|e| e.into_fault("OCI runtime start failed", "start"))?;
        Ok(launched)
    }

    fn restore(&self, process: &Process, stdin: bool, images: &Path) -> Result<Launched, Fault> {
        let lead =
            "failed to create task for container: failed to create shim task: OCI runtime restore failed";
        let (bundle, images) = (self.places.bundle.display().to_string(), images.display().to_string());
        let args =
            ["restore", "--detach", "--image-path", &images, "--work-path", &bundle, "--bundle", &bundle];
        self.start_with(&args, process, stdin, Way::Create).map_err(|e| e.refuse(lead, "restore"))
    }

    /// Runs `create`, `restore` or `exec`, which leave a process behind, and takes that over.
    fn start_with(
        &self,
        lead: &[&str],
        process: &Process,
        stdin: bool,
        way: Way,
    ) -> Result<Launched, Refusal> {
        let step = |e: StepError| Refusal::Ours(Box::new(e.into_fault(way)));
        let io = |text: &'static str| move |e: io::Error| StepError::os("runtime", text, &e);
        let (ours, theirs) = streams(process, stdin, false).map_err(step)?;
        corten_base::fs::ensure_absent(&self.places.pid).ok();
        let pid_file = self.places.pid.display().to_string();
        let mut args = [lead, &["--pid-file", &pid_file]].concat();
        let console = match &theirs {
            ChildStdio::Terminal { .. } => {
                args.extend(["--console-socket", CONSOLE]);
                Some(listen(&self.places.bundle).map_err(|e| step(io("listen for the terminal")(e)))?)
            }
            ChildStdio::Pipes { .. } | ChildStdio::Inherited => None,
        };
        args.push(&self.id);
        let fds = match &theirs {
            ChildStdio::Pipes { stdin, stdout, stderr } => {
                command::Streams::Own([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
            }
            ChildStdio::Terminal { .. } | ChildStdio::Inherited => command::Streams::None,
        };
        self.program.run(&args, fds).map_err(Refusal::Theirs)?;
        let child = self.child().map_err(|e| step(io("find the new process")(e)))?;
        let stdio = match (console, ours) {
            (Some(listener), _) => {
                let master = receive(listener.as_fd()).map_err(|e| step(io("receive the terminal")(e)))?;
                if let Some(size) = process.console_size.filter(|s| s.height > 0 || s.width > 0) {
                    pty::resize(master.as_fd(), size.height, size.width).ok();
                }
                Stdio::Terminal { master }
            }
            (None, Some(stdio)) => stdio,
            (None, None) => return Err(step(StepError::new("runtime", "no streams"))),
        };
        Ok(Launched { child, stdio, root: None })
    }

    /// The process that the last command has left behind: it was named in the file, and is our child by now.
    fn child(&self) -> io::Result<Child> {
        let text = std::fs::read_to_string(&self.places.pid)?;
        let pid = text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is no process id")))?;
        Ok(Child { pid, pidfd: process::pidfd_open(pid)? })
    }

    fn remove(&self) {
        self.program.run(&["delete", "--force", &self.id], command::Streams::None).ok();
        self.cgroup.destroy().ok();
        for place in [&self.places.rootfs, &self.places.init] {
            rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }

    fn plain(&self, args: &[&str], step: &'static str) -> Result<(), Fault> {
        let done = self.program.run(args, command::Streams::None);
        done.map_err(|e| fault(Kind::Internal, step, e.as_go_runc()))
    }
}

/// Who says no.
enum Refusal {
    Ours(Box<Fault>),
    Theirs(Failure),
}

impl Refusal {
    fn refuse(self, lead: &str, step: &str) -> Fault {
        match self {
            Self::Ours(fault) => *fault,
            Self::Theirs(failure) => failure.into_fault(lead, step),
        }
    }
}

impl OciRuntime for Foreign {
    fn exec(&mut self, _init: &Child, wanted: &Further<'_>) -> Result<Launched, Fault> {
        let fail = |e: StepError| e.into_fault(Way::Exec);
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
        };
        let root =
            open(&self.places.rootfs).map_err(|e| fail(StepError::os("exec", "open rootfs", &e.into())))?;
        let process = bundle::resolved(wanted.process, wanted.user, root.as_fd()).map_err(fail)?;
        let text = serde_json::to_vec(&process).map_err(|e| fail(StepError::new("exec", e.to_string())))?;
        bundle::write_file(&self.places.process, &text).map_err(fail)?;
        let file = self.places.process.display().to_string();
        self.start_with(&["exec", "--detach", "--process", &file], wanted.process, wanted.stdin, Way::Exec)
            .map_err(|e| e.refuse("OCI runtime exec failed", "exec"))
    }

    fn kill(&mut self, init: &Child, signal: i32, all: bool) -> Result<(), Fault> {
        let number = signal.to_string();
        let mut args = vec!["kill"];
        if all {
            args.push("--all");
        }
        args.extend([self.id.as_str(), &number]);
        match self.program.run(&args, command::Streams::None) {
            Err(e) if !e.says_it_has_ended() && !has_ended(init) => Err(fault(
                Kind::InvalidArgument,
                "kill",
                format!("unknown error after kill: {}", e.as_go_runc()),
            )),
            _ => Ok(()),
        }
    }

    fn freeze(&mut self, frozen: bool) -> Result<(), Fault> {
        let verb = if frozen { "pause" } else { "resume" };
        self.plain(&[verb, &self.id], "pause")
    }

    fn update(&mut self, resources: &Resources) -> Result<(), Fault> {
        let wrong = |text: String| fault(Kind::Internal, "update", text);
        let text = serde_json::to_vec(resources).map_err(|e| wrong(e.to_string()))?;
        bundle::write_file(&self.places.resources, &text).map_err(|e| wrong(e.text))?;
        let file = self.places.resources.display().to_string();
        self.plain(&["update", "--resources", &file, &self.id], "update")
    }

    fn checkpoint(&mut self, _init: &Child, images: &Path, exit: bool) -> Result<(), Fault> {
        let (work, images) = (self.places.bundle.display().to_string(), images.display().to_string());
        let mut args = vec!["checkpoint", "--image-path", &images, "--work-path", &work];
        if !exit {
            args.push("--leave-running");
        }
        args.push(&self.id);
        self.plain(&args, "checkpoint")
    }

    fn delete(&mut self) {
        self.remove();
    }
}

fn has_ended(child: &Child) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&child.pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
}

fn mount_root(bootstrap: &Bootstrap, places: &Places) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree = rootfs_tree(&bootstrap.spec, &bootstrap.rootfs, &places.rootfs)?;
    let private =
        mount::Change { propagation: Some(mount::Propagation::Private), ..mount::Change::default() };
    mount::change(tree.as_fd(), private, true)?;
    let target = rustix::fs::open(&places.rootfs, flags, Mode::empty())?;
    mount::attach(tree.as_fd(), target.as_fd())?;
    if bootstrap.init {
        // Not in the run directory itself: that may be on a file system without execution.
        let own =
            mount::new("tmpfs", "tmpfs", &["mode=755".to_owned()], mount::attr::NOSUID | mount::attr::NODEV)?;
        let target = rustix::fs::open(&places.init, flags, Mode::empty())?;
        mount::attach(own.as_fd(), target.as_fd())?;
        let program = places.init.join(bundle::INIT);
        std::fs::copy("/proc/self/exe", &program)?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(tree)
}

fn listen(bundle: &Path) -> io::Result<OwnedFd> {
    let directory =
        rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    seqpacket::listen_stream(directory.as_fd(), CONSOLE)
}

/// The terminal that the runtime has sent before it ended.
fn receive(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let stream = seqpacket::accept(listener)?.ok_or(io::ErrorKind::NotConnected)?;
    let mut fds = Vec::new();
    seqpacket::recv(stream.as_fd(), &mut [0; 4096], &mut fds, false)?;
    fds.pop().ok_or_else(|| io::Error::other("no descriptor came along"))
}
