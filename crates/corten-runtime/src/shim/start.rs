//! The beginning of a shim: bootstrap message in, container up, reply out.

use std::os::fd::{AsFd, OwnedFd};

use corten_base::time::now_ns;
use corten_sys::signal::SignalFd;
use corten_sys::{caps, process, seqpacket};
use corten_wire::oci_runtime::NamespaceKind;
use corten_wire::shim::{
    Bootstrap, BootstrapReply, Fault, SHIM_NAME, SOCKET_NAME, ShimRecord, Started, VERSION,
};

use super::attached::Attached;
use super::foreign::Foreign;
use super::log::Log;
use super::runtime::{BuiltIn, OciRuntime};
use super::{Connection, ForExec, Input, Shim, io};
use crate::cgroup::Cgroup;
use crate::channel::{self, Received};
use crate::container::{Launched, Stdio};
use crate::fault::{StepError, Way};

/// Runs a shim on the socket that is descriptor 0; the program's exit code.
#[must_use]
pub fn main() -> i32 {
    let Some(socket) = prepare() else { return 2 };
    let mut buffer = channel::buffer();
    let Ok(Received::Message(bootstrap, fds)) = channel::recv::<Bootstrap>(socket.as_fd(), &mut buffer, true)
    else {
        return 2;
    };
    // The next one is touched only where something is read into it.
    drop(buffer);
    let (reply, shim) = match start(bootstrap, fds) {
        Ok(shim) => (BootstrapReply::Started(shim.started), Some(shim)),
        Err(fault) => (BootstrapReply::Failed(fault), None),
    };
    let connected = channel::send(socket.as_fd(), &reply, &[], true).is_ok();
    let Some(mut shim) = shim else { return 1 };
    if connected {
        shim.connections.push(Connection { socket, greeted: true, gone: false });
    }
    shim.publish();
    shim.run();
    0
}

/// Takes the socket and gets rid of everything else that was inherited.
fn prepare() -> Option<OwnedFd> {
    process::close_inherited_from(3, []).ok()?;
    let inherited = process::inherited(0)?;
    let socket = rustix::io::fcntl_dupfd_cloexec(&inherited, 3).ok()?;
    drop(inherited);
    // Opening takes the lowest free number: descriptor 0 again.
    let null = std::fs::File::open("/dev/null").ok()?;
    std::mem::forget(null);
    rustix::thread::set_name(c"corten-shim").ok()?;
    rustix::process::chdir("/").ok()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    caps::forbid_tracing().ok()?;
    caps::adopt_orphans().ok()?;
    Some(socket)
}

fn wrong(text: &str) -> Fault {
    StepError::new("bootstrap", text).into_fault(Way::Create)
}

fn start(bootstrap: Bootstrap, mut fds: Vec<OwnedFd>) -> Result<Shim, Fault> {
    if bootstrap.version < VERSION || bootstrap.version > VERSION + 2 {
        return Err(wrong("the daemon and the shim are of different versions"));
    }
    let Some(process) = bootstrap.spec.process.clone() else { return Err(wrong("no process")) };
    if bootstrap.spec.hooks.is_some() && bootstrap.runtime.is_none() {
        return Err(wrong("hooks belong to the OCI command line"));
    }
    if fds.len() < bootstrap.attach.len() {
        return Err(wrong("one stream is needed for each attached client"));
    }
    let kept = fds.split_off(bootstrap.attach.len());
    let fail = |e: StepError| e.into_fault(Way::Create);
    let log = Log::open(&bootstrap.logging).map_err(|e| {
        let path = bootstrap.logging.path.display();
        fail(StepError {
            bare: true,
            ..StepError::os("log", format!("failed to create log file: open {path}"), &e)
        })
    })?;
    let linux = bootstrap.spec.linux.clone().unwrap_or_default();
    let default_path = std::path::Path::new("/docker").join(&bootstrap.id);
    let group = |e: crate::cgroup::CgroupError| fail(StepError::new("cgroup", e.to_string()));
    let cgroup = Cgroup::at(linux.cgroups_path.as_deref().unwrap_or(&default_path)).map_err(group)?;
    let signals = SignalFd::of(&[rustix::process::Signal::CHILD.as_raw()])
        .map_err(|e| fail(StepError::os("signals", "signalfd", &e)))?;
    let (runtime, launched): (Box<dyn OciRuntime>, Launched) = match &bootstrap.runtime {
        None => {
            let (runtime, launched) = BuiltIn::create(&bootstrap, &process, &cgroup)?;
            (Box::new(runtime), launched)
        }
        Some(program) => {
            let (runtime, launched) = Foreign::create(&bootstrap, &process, program, &cgroup)?;
            (Box::new(runtime), launched)
        }
    };
    let started_at = i64::try_from(now_ns()).unwrap_or(i64::MAX);
    let started = Started { pid: launched.child.pid, started_at };
    let own_pids = linux.namespaces.iter().any(|n| n.kind == NamespaceKind::Pid && n.path.is_none());
    let (outputs, pipe) = match launched.stdio {
        Stdio::Terminal { master } => ([Some(master), None], None),
        Stdio::Pipes { stdin, stdout, stderr } => ([Some(stdout), Some(stderr)], stdin),
        Stdio::Inherited => ([None, None], None),
    };
    for fd in outputs.iter().chain([&pipe]).flatten() {
        rustix::io::ioctl_fionbio(fd, true)
            .map_err(|e| fail(StepError::os("stdio", "make streams non-blocking", &e.into())))?;
    }
    let oom = cgroup.oom_events();
    Ok(Shim {
        dir: bootstrap.dir,
        runtime,
        own_pids,
        init: launched.child,
        started,
        paused: false,
        exit: None,
        acked: false,
        tty: process.terminal,
        outputs,
        input: Input { config: bootstrap.stdin, pipe, pending: Vec::new(), closing: false },
        clients: bootstrap.attach.into_iter().zip(fds).map(|(wants, fd)| Attached::new(wants, fd)).collect(),
        log,
        for_exec: ForExec { process, user: bootstrap.user },
        execs: Vec::new(),
        oom,
        oom_kills: 0,
        signals,
        listener: None,
        connections: Vec::new(),
        kept,
        _root: launched.root,
        block: Vec::new(),
        cgroup,
    })
}

impl Shim {
    /// Opens the door for later daemons. Done after the reply: the daemon that started us needs neither.
    fn publish(&mut self) {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let directory = rustix::fs::open(&self.dir, flags, rustix::fs::Mode::empty());
        self.listener = directory.ok().and_then(|d| seqpacket::listen(d.as_fd(), SOCKET_NAME).ok());
        let record = ShimRecord {
            version: VERSION,
            shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
            started: self.started,
            cgroup: self.cgroup.path(),
        };
        if let Ok(bytes) = serde_json::to_vec(&record) {
            let durability = corten_base::fs::Durability::Process;
            corten_base::fs::replace(&self.dir.join(SHIM_NAME), &bytes, 0o600, durability).ok();
        }
        // What starting took is not needed again.
        corten_sys::memory::trim();
        // Now it is a mapping of its own, of which only what is used costs anything.
        self.block = vec![0; io::BLOCK];
    }
}
