//! Which namespaces a container gets, made or found before its first process is.
//!
//! A user namespace is always there first: [`user_namespace`] lets a process that does nothing else hold it until it
//! has its mappings and we have a descriptor of it. What is mapped and who is mapped then go the same way, whether
//! the namespace is new or somebody's.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use corten_sys::caps;
use corten_sys::netns;
use corten_sys::process::{self, namespace};
use corten_wire::oci_runtime::{IdMapping, Linux, Mount, NamespaceKind, Spec};
use rustix::fs::{Mode, OFlags};

use crate::fault::StepError;

/// Which namespaces a container gets.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// `CLONE_NEW…` bits.
    pub(super) new: u64,
    /// A new view of the control groups, made after they were joined.
    pub(super) cgroup: bool,
    /// To be entered on the way.
    pub(super) join: Vec<(OwnedFd, u64)>,
    /// To be entered before the clone.
    pub(super) pid: Option<OwnedFd>,
    /// Its user namespace, unless it is ours.
    pub(super) user: Option<OwnedFd>,
    /// Its time namespace, unless it is ours.
    pub(super) clocks: Option<Clocks>,
    /// For each mount, whose ids it is seen with.
    pub(super) maps: Vec<Option<OwnedFd>>,
}

/// A time namespace.
#[derive(Debug)]
pub(super) enum Clocks {
    Join(OwnedFd),
    /// A new one, with these lines of `timens_offsets`.
    New(String),
}

impl Namespaces {
    pub(super) fn of(spec: &Spec) -> Result<Self, StepError> {
        let none = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&none);
        let mut all = Self::default();
        let error = |text: &str| Err(StepError::new("namespace", text));
        for ns in &linux.namespaces {
            match (ns.kind, &ns.path) {
                (NamespaceKind::User, None) => {
                    all.user = Some(user_namespace(&linux.uid_mappings, &linux.gid_mappings)?);
                }
                (NamespaceKind::User, Some(path)) => {
                    let fd = open(path)?;
                    let fail = |e| StepError::os("namespace", format!("owner of {}", path.display()), &e);
                    // The file of the container's network namespace stands for the users that it belongs to.
                    let networks = linux.namespaces.iter().filter(|n| n.kind == NamespaceKind::Network);
                    let is_network = networks.filter_map(|n| n.path.as_ref()).any(|p| p == path);
                    let fd = match netns::owner(fd.as_fd()).map_err(fail)? {
                        None => fd,
                        Some(owner) if is_network => owner,
                        Some(_) => return error(&format!("{} is not a user namespace", path.display())),
                    };
                    all.user = Some(fd).filter(|fd| !is_own(fd.as_fd(), "user"));
                }
                (NamespaceKind::Time, None) => all.clocks = Some(Clocks::New(offsets(linux)?)),
                (NamespaceKind::Time, Some(path)) => all.clocks = Some(Clocks::Join(open(path)?)),
                (NamespaceKind::Cgroup, None) => all.cgroup = true,
                (NamespaceKind::Pid, Some(path)) => all.pid = Some(open(path)?),
                (kind, None) => all.new |= bit(kind),
                (kind, Some(path)) => all.join.push((open(path)?, bit(kind))),
            }
        }
        let hidden = !(linux.masked_paths.is_empty() && linux.readonly_paths.is_empty());
        if all.new & namespace::MOUNT == 0 && hidden {
            return error("unable to restrict sys entries without a private MNT namespace");
        }
        let readonly = spec.root.as_ref().is_some_and(|r| r.readonly);
        if all.new & namespace::MOUNT == 0 && (readonly || !spec.mounts.is_empty()) {
            return error("mounts and a read-only root need a mount namespace of the container's own");
        }
        if all.new & namespace::MOUNT == 0 && all.staged() {
            return error("a user or time namespace needs a mount namespace of its own");
        }
        if !linux.time_offsets.is_empty() && !matches!(all.clocks, Some(Clocks::New(_))) {
            return error("time namespace offsets need a new time namespace");
        }
        if all.user.is_none() && !(linux.uid_mappings.is_empty() && linux.gid_mappings.is_empty()) {
            return error(
                "user namespace mappings specified, but user namespace isn't enabled in the config",
            );
        }
        all.maps = maps(&spec.mounts)?;
        Ok(all)
    }

    /// It has a mount namespace of its own, and with that the configuration's root and mounts.
    pub(super) fn has_root(&self) -> bool {
        self.new & namespace::MOUNT != 0
    }

    /// It is not in its creator's network namespace.
    pub(super) fn has_network(&self) -> bool {
        self.new & namespace::NET != 0 || self.join.iter().any(|(_, kind)| *kind == namespace::NET)
    }

    /// It is in a network namespace that its own root does not own.
    pub(super) fn keeps_network(&self) -> bool {
        self.user.is_some() && self.new & namespace::NET == 0
    }

    /// The first process cannot be made straight by its creator, see [`super::stage`].
    pub(super) fn staged(&self) -> bool {
        self.user.is_some() || self.clocks.is_some()
    }

    /// Lets our next child be born in another PID namespace; gives the descriptor to come back with.
    pub(super) fn enter_pid(&self) -> Result<Option<OwnedFd>, StepError> {
        let Some(pid) = &self.pid else { return Ok(None) };
        let own = own_pid_namespace()?;
        process::enter(pid.as_fd(), namespace::PID).map_err(|e| StepError::os("setns", "setns pid", &e))?;
        Ok(Some(own))
    }
}

fn bit(kind: NamespaceKind) -> u64 {
    match kind {
        NamespaceKind::Pid => namespace::PID,
        NamespaceKind::Network => namespace::NET,
        NamespaceKind::Mount => namespace::MOUNT,
        NamespaceKind::Ipc => namespace::IPC,
        NamespaceKind::Uts => namespace::UTS,
        NamespaceKind::Cgroup => namespace::CGROUP,
        NamespaceKind::User => namespace::USER,
        NamespaceKind::Time => namespace::TIME,
    }
}

fn open(path: &Path) -> Result<OwnedFd, StepError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| StepError::os("namespace", format!("open {}", path.display()), &e.into()))
}

fn is_own(fd: BorrowedFd<'_>, name: &str) -> bool {
    let own = rustix::fs::stat(format!("/proc/self/ns/{name}"));
    let (Ok(own), Ok(other)) = (own, rustix::fs::fstat(fd)) else { return false };
    (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)
}

/// Whether a process is in another namespace of this name than we are.
pub(super) fn differs(pid: i32, name: &str) -> bool {
    let link = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{name}")).ok();
    link(&pid.to_string()) != link("self")
}

/// The lines that the kernel reads.
fn offsets(linux: &Linux) -> Result<String, StepError> {
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(StepError::new("namespace", format!("unknown clock {clock:?} in timeOffsets")));
        }
        // Writing to a string cannot fail.
        writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs).ok();
    }
    Ok(text)
}

/// A user namespace for each mount that names owners of its own; equal ones share it.
fn maps(mounts: &[Mount]) -> Result<Vec<Option<OwnedFd>>, StepError> {
    let mut all: Vec<Option<OwnedFd>> = Vec::with_capacity(mounts.len());
    for (i, m) in mounts.iter().enumerate() {
        if m.uid_mappings.is_empty() && m.gid_mappings.is_empty() {
            all.push(None);
            continue;
        }
        let same = |o: &Mount| (&o.uid_mappings, &o.gid_mappings) == (&m.uid_mappings, &m.gid_mappings);
        let earlier = mounts[..i].iter().position(same).and_then(|at| all[at].as_ref());
        let users = match earlier {
            Some(fd) => fd.try_clone().map_err(|e| StepError::os("namespace", "dup", &e))?,
            None => user_namespace(&m.uid_mappings, &m.gid_mappings)?,
        };
        all.push(Some(users));
    }
    Ok(all)
}

/// A new user namespace with these mappings; it lives as long as the descriptor.
fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd, StepError> {
    if uids.is_empty() || gids.is_empty() {
        let text = "user namespaces enabled, but no user mappings found";
        return Err(StepError::new("namespace", text));
    }
    // Of an untraceable process the files below /proc are root's, and an ordinary user could not write the maps.
    // The holder has nothing that its user does not.
    let ordinary = !rustix::process::geteuid().is_root();
    let control = |e| StepError::os("namespace", "prctl", &e);
    if ordinary {
        caps::permit_tracing().map_err(control)?;
    }
    let holder = process::clone_process(namespace::USER, None, || {
        // It has nothing to do but to be there.
        caps::die_with_parent().ok();
        loop {
            rustix::event::poll(&mut [], None).ok();
        }
    })
    .map_err(|e| StepError::os("namespace", "unshare user namespace", &e))?;
    let made = map(holder.pid, "uid_map", uids)
        .and_then(|()| map(holder.pid, "gid_map", gids))
        .and_then(|()| open(Path::new(&format!("/proc/{}/ns/user", holder.pid))));
    process::signal(holder.pidfd.as_fd(), 9).ok();
    process::wait(holder.pidfd.as_fd()).ok();
    if ordinary {
        caps::forbid_tracing().map_err(control)?;
    }
    made
}

fn map(pid: i32, file: &str, mappings: &[IdMapping]) -> Result<(), StepError> {
    let mut text = String::new();
    for m in mappings {
        writeln!(text, "{} {} {}", m.container_id, m.host_id, m.size).ok();
    }
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(path, text).map_err(|e| StepError::os("namespace", format!("failed to update {file}"), &e))
}

/// Who the container's root is outside: user and group.
pub(super) fn root_outside(pid: i32) -> Option<(u32, u32)> {
    let of = |file: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        text.lines().find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (inside, outside) = (fields.next()?, fields.next()?);
            (inside == "0").then(|| outside.parse().ok()).flatten()
        })
    };
    Some((of("uid_map")?, of("gid_map")?))
}

pub(super) fn own_pid_namespace() -> Result<OwnedFd, StepError> {
    let own = std::fs::File::open("/proc/self/ns/pid");
    own.map(Into::into).map_err(|e| StepError::os("setns", "open own pid namespace", &e))
}

pub(super) fn restore_pid(own: Option<OwnedFd>) -> Result<(), StepError> {
    let Some(own) = own else { return Ok(()) };
    match process::enter(own.as_fd(), namespace::PID) {
        // An ordinary user's command may not, and makes no further process.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !corten_sys::users::initial() => Ok(()),
        other => other.map_err(|e| StepError::os("setns", "return to own pid namespace", &e)),
    }
}
