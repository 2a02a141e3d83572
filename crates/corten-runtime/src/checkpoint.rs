//! Checkpoints: the processes of a container as files, and back, through criu.
//!
//! ```text
//!  dump                                        restore
//!    what is the host's is named: bind mounts,   a mount namespace of our own with the root's tree in it
//!    masks, groups of v1, the sandbox            the same names stand for what there is now
//!    criu writes images, ends the processes      criu makes the processes; the first is our child
//! ```
//!
//! An image holds memory, descriptors, and the contents of each tmpfs, but neither the root's files nor bind mounts:
//! those are expected to be as they were. Standard streams are remembered by the pipes that they were
//! (`descriptors.json`, as runc writes it) and joined with new ones.
//!
//! INVARIANT: restoring takes this process into a mount namespace of its own; the host's table shows nothing.

mod criu;
mod dump;
mod restore;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::path;
use corten_wire::oci_runtime::{Linux, Mount, NamespaceKind, Spec};
use rustix::fs::{Mode, OFlags};

pub(crate) use criu::CriuError;
use criu::Fields;
pub(crate) use dump::{Dump, dump};
pub(crate) use restore::{Restore, restore};

use crate::cgroup::Cgroup;
use crate::container::options;
use crate::mounts;

/// Name of the file with what the standard streams were.
const DESCRIPTORS: &str = "descriptors.json";

/// Fields of criu's options that we set.
mod tag {
    pub(super) const IMAGES_DIR_FD: u32 = 1;
    pub(super) const PID: u32 = 2;
    pub(super) const LEAVE_RUNNING: u32 = 3;
    pub(super) const EXT_UNIX_SK: u32 = 4;
    pub(super) const TCP_ESTABLISHED: u32 = 5;
    pub(super) const EVASIVE_DEVICES: u32 = 6;
    pub(super) const SHELL_JOB: u32 = 7;
    pub(super) const FILE_LOCKS: u32 = 8;
    pub(super) const LOG_LEVEL: u32 = 9;
    pub(super) const LOG_FILE: u32 = 10;
    pub(super) const NOTIFY_SCRIPTS: u32 = 12;
    pub(super) const ROOT: u32 = 13;
    pub(super) const PARENT_IMG: u32 = 14;
    pub(super) const TRACK_MEM: u32 = 15;
    pub(super) const AUTO_DEDUP: u32 = 16;
    pub(super) const WORK_DIR_FD: u32 = 17;
    pub(super) const LINK_REMAP: u32 = 18;
    pub(super) const EXT_MNT: u32 = 23;
    pub(super) const MANAGE_CGROUPS: u32 = 24;
    pub(super) const CG_ROOT: u32 = 25;
    pub(super) const RST_SIBLING: u32 = 26;
    pub(super) const INHERIT_FD: u32 = 27;
    pub(super) const MANAGE_CGROUPS_MODE: u32 = 34;
    pub(super) const EXTERNAL: u32 = 37;
    pub(super) const EMPTY_NS: u32 = 38;
    pub(super) const JOIN_NS: u32 = 39;
    pub(super) const FREEZE_CGROUP: u32 = 44;
    pub(super) const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub(super) const ORPHAN_PTS_MASTER: u32 = 50;
    pub(super) const CONFIG_FILE: u32 = 51;
    pub(super) const LSM_PROFILE: u32 = 53;
}

/// How criu treats control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    /// Not at all.
    Ignore = 0,
    /// Properties of groups that it makes.
    Soft = 3,
    /// Properties of all.
    Full = 4,
    /// Properties of all, which must all be there.
    Strict = 5,
}

impl std::str::FromStr for Groups {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "ignore" => Ok(Self::Ignore),
            "soft" => Ok(Self::Soft),
            "full" => Ok(Self::Full),
            "strict" => Ok(Self::Strict),
            _ => Err(()),
        }
    }
}

/// What dump and restore have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// Which criu: a path, or a name to look for; absent is `criu`.
    pub(crate) program: Option<PathBuf>,
    /// Open connections of TCP too.
    pub(crate) tcp_established: bool,
    /// … but not those that are being made.
    pub(crate) tcp_skip_in_flight: bool,
    /// Open files without a name get one while they are in an image.
    pub(crate) link_remap: bool,
    /// Sockets of the Unix domain whose other end is outside.
    pub(crate) ext_unix_sk: bool,
    /// The container belongs to a session outside.
    pub(crate) shell_job: bool,
    /// Locked files too.
    pub(crate) file_locks: bool,
    /// The network namespace is restored empty.
    pub(crate) empty_network: bool,
    /// Memory that a later image has is dropped from the earlier one.
    pub(crate) auto_dedup: bool,
    /// Absent is criu's default, which is [`Groups::Soft`].
    pub(crate) groups: Option<Groups>,
}

const CLONE_NEWNET: i64 = 0x4000_0000;
/// Warnings and errors, and what they are about.
const LOG_LEVEL: i64 = 4;
/// Where an administrator may tell criu more; runc's, as both get the same containers.
const CONFIG: &str = "/etc/criu/runc.conf";
/// A configuration of this container's own, or with an empty value none.
const CONFIG_ANNOTATION: &str = "org.criu.config";

impl Manner {
    /// criu's options that follow from it.
    fn options(
        &self,
        spec: &Spec,
        images: BorrowedFd<'_>,
        work: Option<BorrowedFd<'_>>,
        log: &str,
    ) -> Fields {
        use std::os::fd::AsRawFd;
        let mut options = Fields::default();
        // criu opens them through /proc: they are our numbers.
        options
            .number(tag::IMAGES_DIR_FD, images.as_raw_fd())
            .number(tag::LOG_LEVEL, LOG_LEVEL)
            .text(tag::LOG_FILE, log)
            .flag(tag::NOTIFY_SCRIPTS, true)
            .flag(tag::ORPHAN_PTS_MASTER, true)
            .flag(tag::MANAGE_CGROUPS, self.groups != Some(Groups::Ignore))
            .flag(tag::TCP_ESTABLISHED, self.tcp_established)
            .flag(tag::TCP_SKIP_IN_FLIGHT, self.tcp_skip_in_flight)
            .flag(tag::LINK_REMAP, self.link_remap)
            .flag(tag::EXT_UNIX_SK, self.ext_unix_sk)
            .flag(tag::SHELL_JOB, self.shell_job)
            .flag(tag::FILE_LOCKS, self.file_locks)
            .flag(tag::AUTO_DEDUP, self.auto_dedup);
        if let Some(work) = work {
            options.number(tag::WORK_DIR_FD, work.as_raw_fd());
        }
        if let Some(groups) = self.groups {
            options.number(tag::MANAGE_CGROUPS_MODE, groups as i32);
        }
        if self.empty_network {
            options.number(tag::EMPTY_NS, CLONE_NEWNET);
        }
        match spec.annotations.get(CONFIG_ANNOTATION).map(String::as_str) {
            Some("") => {}
            file => drop(options.text(tag::CONFIG_FILE, file.unwrap_or(CONFIG))),
        }
        options
    }
}

/// As much of a configuration as [`dump`] looks at, for who keeps it as long as the container lives.
pub(crate) fn essence(spec: &Spec) -> Spec {
    let linux = spec.linux.as_ref().map(|l| Linux {
        namespaces: l.namespaces.clone(),
        masked_paths: l.masked_paths.clone(),
        ..Linux::default()
    });
    let config = spec.annotations.get_key_value(CONFIG_ANNOTATION);
    Spec {
        mounts: spec.mounts.clone(),
        annotations: config.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        linux,
        ..Spec::default()
    }
}

/// What we cannot do, however criu is called.
fn check(spec: &Spec) -> Result<(), CriuError> {
    let has = |kind| spec.linux.iter().flat_map(|l| &l.namespaces).any(|n| n.kind == kind);
    if has(NamespaceKind::User) {
        return Err(CriuError::Refused(
            "checkpointing or restoring a container with a user namespace is not supported".into(),
        ));
    }
    if !has(NamespaceKind::Mount) {
        return Err(CriuError::Refused(
            "checkpointing or restoring a container without a mount namespace is not supported".into(),
        ));
    }
    Ok(())
}

/// Opens a directory that is made if it is not there.
fn directory(path: &Path) -> Result<OwnedFd, CriuError> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(CriuError::io(format_args!("mkdir {}", path.display()))(e));
        }
        _ => {}
    }
    open_directory(path)
}

fn open_directory(path: &Path) -> Result<OwnedFd, CriuError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| CriuError::io(format_args!("open {}", path.display()))(e.into()))
}

/// A mount that is not in an image: where the container has it, and what of the host it shows.
#[derive(Debug, PartialEq, Eq)]
struct External {
    inside: PathBuf,
    outside: PathBuf,
}

/// The bind mounts of a configuration, with what is mounted below their sources, and the groups of v1. `place` says
/// where a destination is, once links in it are followed; `table` is the mount table in which the sources are.
fn externals(
    spec: &Spec,
    cgroup: &Cgroup,
    table: &str,
    place: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Vec<External> {
    let mut all: Vec<External> = Vec::new();
    for m in &spec.mounts {
        let Some(inside) = place(&m.destination) else { continue };
        // A later mount stands before what an earlier one brought along.
        all.retain(|e| !e.inside.starts_with(&inside));
        if matches!(m.fstype.as_str(), "cgroup" | "cgroup2") && !is_bind(m) {
            let groups = cgroup.v1_view();
            all.extend(
                groups.map(|(name, group)| External { inside: inside.join(name), outside: group.into() }),
            );
            continue;
        }
        let Some(recursive) =
            options::parse(&m.fstype, &m.options).ok().filter(|o| o.bind).map(|o| o.recursive)
        else {
            continue;
        };
        let source = std::fs::canonicalize(&m.source).unwrap_or_else(|_| PathBuf::from(&m.source));
        if recursive {
            let below = mounts::points(table).filter_map(|p| {
                let rest = p.strip_prefix(&source).ok().filter(|r| !r.as_os_str().is_empty())?;
                Some(External { inside: inside.join(rest), outside: p.clone() })
            });
            all.extend(below);
        }
        all.push(External { inside, outside: source });
    }
    all
}

fn is_bind(m: &Mount) -> bool {
    options::parse(&m.fstype, &m.options).is_ok_and(|o| o.bind)
}

/// Where a path below `root` leads, as seen from there.
fn resolved(root: &OwnedFd, destination: &Path) -> Option<PathBuf> {
    let found = path::open(root.as_fd(), destination, OFlags::PATH, Mode::empty()).ok()?;
    relative(root, &found)
}

fn relative(root: &OwnedFd, found: &OwnedFd) -> Option<PathBuf> {
    let (base, full) = (path::name_of(root.as_fd()).ok()?, path::name_of(found.as_fd()).ok()?);
    Some(Path::new("/").join(full.strip_prefix(base).ok()?))
}

/// How criu is told of a namespace that stays: its name there, and the key that stands for it in an image.
fn kept(kind: NamespaceKind) -> Option<(&'static str, &'static str)> {
    match kind {
        NamespaceKind::Network => Some(("net", "extRootNetNS")),
        NamespaceKind::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_bring_along_what_is_mounted_below() {
        let mount = |destination: &str, fstype: &str, source: &str, option: &str| Mount {
            destination: destination.into(),
            fstype: fstype.into(),
            source: source.into(),
            options: vec![option.into()],
            ..Mount::default()
        };
        let spec = Spec {
            mounts: vec![
                mount("/proc", "proc", "proc", "nosuid"),
                mount("/link/data", "bind", "/srv", "rbind"),
                mount("/flat", "", "/srv", "bind"),
                mount("/link/data/own", "tmpfs", "tmpfs", "rw"),
            ],
            ..Spec::default()
        };
        let table = "1 0 8:1 / / rw\n2 1 8:2 / /srv/a rw\n3 1 8:3 / /srv/own rw\n4 1 8:3 / /srvother rw\n";
        let place = |p: &Path| {
            let rest = p.strip_prefix("/link").map(|r| Path::new("/real").join(r));
            Some(rest.unwrap_or_else(|_| p.to_owned()))
        };
        let all = externals(&spec, &Cgroup::none(), table, &place);
        let got: Vec<(&str, &str)> =
            all.iter().map(|e| (e.inside.to_str().unwrap(), e.outside.to_str().unwrap())).collect();
        let want = [("/real/data/a", "/srv/a"), ("/real/data", "/srv"), ("/flat", "/srv")];
        assert_eq!(got, want);
    }
}
