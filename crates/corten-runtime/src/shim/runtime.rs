//! What the shim asks of an OCI runtime, and our own as the first answer to it.
//!
//! ```text
//!   create ──▶ the program runs; its first process is the shim's child, its streams are the shim's
//!     exec, kill, freeze, update, checkpoint     any number, while it runs
//!   delete                           once, after the first process has been reaped
//! ```
//!
//! [`BuiltIn`] does it in the shim itself; [`super::foreign::Foreign`] runs a program with runc's command line.

use std::os::fd::AsFd;
use std::path::Path;

use corten_base::Kind;
use corten_sys::process::{self, Child};
use corten_wire::oci_runtime::{Process, Resources, Spec, State};
use corten_wire::shim::{Bootstrap, Fault, UserSpec};

use crate::cgroup::{Cgroup, CgroupError};
use crate::checkpoint::{self, CriuError, Dump, Manner, Restore};
use crate::container::notify::Answers;
use crate::container::{self, ChildStdio, ExecPlan, Launched, Plan};
use crate::fault::{StepError, Way, errno_text};
use crate::seccomp::{self, Program};

/// A further process, as the daemon wants it.
#[derive(Debug)]
pub(super) struct Further<'a> {
    pub(super) process: &'a Process,
    pub(super) user: Option<&'a UserSpec>,
    /// A pipe instead of `/dev/null`.
    pub(super) stdin: bool,
}

/// Runs one container. Every failure is in Docker's words already.
pub(super) trait OciRuntime: std::fmt::Debug {
    /// Starts a further process; it becomes the shim's child.
    fn exec(&mut self, init: &Child, wanted: &Further<'_>) -> Result<Launched, Fault>;
    /// Sends a signal to the first process, or to all. That there is none left is a success.
    fn kill(&mut self, init: &Child, signal: i32, all: bool) -> Result<(), Fault>;
    /// Suspends all processes, or lets them go on.
    fn freeze(&mut self, frozen: bool) -> Result<(), Fault>;
    /// Changes limits.
    fn update(&mut self, resources: &Resources) -> Result<(), Fault>;
    /// Writes the processes to files, and with `exit` ends them.
    fn checkpoint(&mut self, init: &Child, images: &Path, exit: bool) -> Result<(), Fault>;
    /// The first process has ended: whatever is left goes.
    fn delete(&mut self);
}

pub(super) fn fault(kind: Kind, step: &str, message: impl Into<String>) -> Fault {
    Fault { kind, step: step.into(), errno: None, exit_code: 128, message: message.into() }
}

/// The runtime that is part of the shim: nothing is executed but the container's own programs.
#[derive(Debug)]
pub(super) struct BuiltIn {
    cgroup: Cgroup,
    seccomp: Option<Program>,
    /// For who answers for the filter.
    state: State,
    /// As much of the configuration as a checkpoint needs.
    essence: Spec,
}

impl BuiltIn {
    /// Makes the container and starts its program; on failure nothing is left.
    pub(super) fn create(
        bootstrap: &Bootstrap,
        process: &Process,
        cgroup: &Cgroup,
    ) -> Result<(Self, Launched), Fault> {
        let fail = |e: StepError| e.into_fault(Way::Create);
        let seccomp = filter(bootstrap, process)
            .map_err(|e| fail(StepError::new("seccomp", format!("unable to init seccomp: {e}"))))?;
        let state = State {
            oci_version: bootstrap.spec.oci_version.clone(),
            id: bootstrap.id.clone(),
            bundle: bootstrap.dir.clone(),
            annotations: bootstrap.spec.annotations.clone(),
            ..State::default()
        };
        let answers = Answers::of(seccomp.as_ref(), &state);
        let plan = Plan {
            spec: &bootstrap.spec,
            process,
            rootfs: &bootstrap.rootfs,
            scratch: &bootstrap.dir,
            user: bootstrap.user.as_ref(),
            init: bootstrap.init,
            seccomp: seccomp.as_ref(),
            cgroup,
            stdin: bootstrap.stdin.open,
            keyring: Some(&bootstrap.id),
            answers: answers.as_ref(),
            alone: None,
        };
        let created = cgroup.create(&bootstrap.spec).map_err(|e| fail(group(&e)));
        let launched = created.and_then(|_kept| match &bootstrap.restore {
            None => container::launch(&plan).map_err(fail),
            Some(images) => restored(bootstrap, process, cgroup, images),
        });
        match launched {
            Ok(launched) => {
                let essence = checkpoint::essence(&bootstrap.spec);
                Ok((Self { cgroup: cgroup.clone(), seccomp, state, essence }, launched))
            }
            Err(fault) => {
                cgroup.destroy().ok();
                Err(fault)
            }
        }
    }
}

/// The processes of a checkpoint, with new streams.
fn restored(
    bootstrap: &Bootstrap,
    process: &Process,
    cgroup: &Cgroup,
    images: &Path,
) -> Result<Launched, Fault> {
    let lead = "failed to create task for container: failed to create shim task: OCI runtime restore failed";
    let refuse = |e: CriuError| fault(Kind::Internal, "restore", format!("{lead}: {e}"));
    let (ours, theirs) =
        container::streams(process, bootstrap.stdin.open, false).map_err(|e| e.into_fault(Way::Create))?;
    let null = std::fs::File::open("/dev/null")
        .map_err(|e| StepError::os("restore", "open /dev/null", &e).into_fault(Way::Create))?;
    let streams = match &theirs {
        ChildStdio::Pipes { stdin, stdout, stderr } => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        ChildStdio::Terminal { .. } | ChildStdio::Inherited => [null.as_fd(); 3],
    };
    let mut wanted = Restore {
        spec: &bootstrap.spec,
        rootfs: &bootstrap.rootfs,
        scratch: &bootstrap.dir,
        cgroup,
        images,
        work: Some(&bootstrap.dir),
        streams,
        lsm_profile: None,
        manner: &Manner::default(),
        born: &mut |_| Ok(()),
    };
    checkpoint::restore(&mut wanted, ours).map_err(refuse)
}

fn group(e: &CgroupError) -> StepError {
    StepError::new("cgroup", e.to_string())
}

fn filter(bootstrap: &Bootstrap, process: &Process) -> Result<Option<Program>, seccomp::SeccompError> {
    let given = bootstrap.spec.linux.as_ref().and_then(|l| l.seccomp.as_ref());
    match (given, bootstrap.default_seccomp) {
        (Some(given), _) => seccomp::compile(given).map(Some),
        (None, false) => Ok(None),
        (None, true) => {
            let none = Vec::new();
            let names = process.capabilities.as_ref().map_or(&none, |c| &c.bounding);
            seccomp::compile(&seccomp::default::profile(names)).map(Some)
        }
    }
}

impl OciRuntime for BuiltIn {
    fn exec(&mut self, init: &Child, wanted: &Further<'_>) -> Result<Launched, Fault> {
        let answers = Answers::of(self.seccomp.as_ref(), &self.state);
        let plan = ExecPlan {
            process: wanted.process,
            user: wanted.user,
            seccomp: self.seccomp.as_ref(),
            cgroup: &self.cgroup,
            init: init.pidfd.as_fd(),
            init_pid: init.pid,
            linux: None,
            stdin: wanted.stdin,
            keyring: Some(&self.state.id),
            answers: answers.as_ref(),
            alone: None,
        };
        container::exec(&plan).map_err(|e| e.into_fault(Way::Exec))
    }

    fn kill(&mut self, init: &Child, signal: i32, all: bool) -> Result<(), Fault> {
        if all {
            self.cgroup.kill_all(signal);
            return Ok(());
        }
        match process::signal(init.pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Err(fault(Kind::InvalidArgument, "kill", errno_text(&e)))
            }
            _ => Ok(()),
        }
    }

    fn freeze(&mut self, frozen: bool) -> Result<(), Fault> {
        self.cgroup.set_frozen(frozen).map_err(|e| fault(Kind::Internal, "pause", e.to_string()))
    }

    fn update(&mut self, resources: &Resources) -> Result<(), Fault> {
        self.cgroup.update(resources).map_err(|e| {
            let text = format!("runc did not terminate successfully: exit status 1: {e}");
            fault(e.kind(), "update", text)
        })
    }

    fn checkpoint(&mut self, init: &Child, images: &Path, exit: bool) -> Result<(), Fault> {
        let wanted = Dump {
            spec: &self.essence,
            cgroup: &self.cgroup,
            init: init.pid,
            images,
            work: Some(&self.state.bundle),
            leave_running: !exit,
            pre_dump: false,
            parent: None,
            manner: &Manner::default(),
        };
        checkpoint::dump(&wanted).map_err(|e| {
            let text = format!("runc did not terminate successfully: exit status 1: {e}");
            fault(Kind::Internal, "checkpoint", text)
        })
    }

    fn delete(&mut self) {
        self.cgroup.destroy().ok();
    }
}
