//! What is mounted in a container, opened before it is anywhere: the root file system and the sources of binds.
//!
//! Without a user namespace the first process does this itself. With one it is done before that is entered, as the
//! container's root may neither reach these places nor change whose files they show.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::mount::{self, Change, Overlay, Propagation};
use corten_sys::process::{self, namespace};
use corten_sys::{caps, path};
use corten_wire::oci_runtime::{IdMapping, Mount};
use corten_wire::shim::Rootfs;
use rustix::fs::{Mode, OFlags};

use super::Plan;
use super::namespaces::Namespaces;
use super::options::{self, Options};
use super::rootfs::place;
use crate::fault::StepError;

/// Everything that is there to be attached.
#[derive(Debug)]
pub(super) struct Sources {
    /// The root file system.
    pub(super) root: OwnedFd,
    /// For each mount of the configuration.
    pub(super) mounts: Vec<(Options, Origin)>,
}

/// What a mount shows.
#[derive(Debug)]
pub(super) enum Origin {
    /// Something of the host.
    Bind(OwnedFd),
    /// A file system of the host's namespaces, as the container's own has none of that kind.
    Made(OwnedFd),
    /// A file system that is made inside.
    Inside,
}

impl Sources {
    /// Opens everything. This process's mount namespace must be its own, or becomes so if there is a user namespace
    /// to be entered.
    pub(super) fn open(plan: &Plan<'_>, namespaces: &Namespaces) -> Result<Self, StepError> {
        let mut mounts = Vec::with_capacity(plan.spec.mounts.len());
        for (i, m) in plan.spec.mounts.iter().enumerate() {
            let own = namespaces.maps.get(i).and_then(Option::as_ref);
            mounts.push(one(
                m,
                own.or(namespaces.user.as_ref()).map(AsFd::as_fd),
                own.is_some(),
                namespaces,
                plan.alone.is_some(),
            )?);
        }
        let private = |e: io::Error| StepError::os("mount", "make mounts private", &e);
        if namespaces.staged() {
            process::unshare(namespace::MOUNT).map_err(private)?;
        }
        mount::change_all(Propagation::Private).map_err(private)?;
        let fail = |e: io::Error| StepError::os("rootfs", "error preparing rootfs", &e);
        let root = match &namespaces.user {
            // The engine's layers belong to the container's own ids, whoever those are outside.
            Some(users) if plan.alone.is_none() => mapped_root(plan, users.as_fd()).map_err(|e| {
                let unable = e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error());
                let why = if unable { ": no ID-mapped mounts on this file system" } else { "" };
                StepError::os("rootfs", format!("error preparing rootfs{why}"), &e)
            })?,
            _ => root(plan.rootfs, plan.scratch).map_err(fail)?,
        };
        let wanted = plan.spec.linux.as_ref().map_or("", |l| l.rootfs_propagation.as_str());
        let propagation = match wanted {
            "slave" | "rslave" => Propagation::Slave,
            "" | "private" | "rprivate" | "shared" | "rshared" | "unbindable" | "runbindable" => {
                Propagation::Private
            }
            other => {
                let text = format!("rootfsPropagation={other} is not supported");
                return Err(StepError::new("rootfs", text));
            }
        };
        let change = Change { propagation: Some(propagation), ..Change::default() };
        mount::change(root.as_fd(), change, true).map_err(fail)?;
        Ok(Self { root, mounts })
    }
}

/// The root file system, detached. `scratch` is a place to mount at where the kernel cannot do without.
pub(crate) fn root(rootfs: &Rootfs, scratch: &Path) -> io::Result<OwnedFd> {
    match rootfs {
        Rootfs::Path(path) => mount::bind(path, true),
        Rootfs::Overlay { lowers, upper: Some(upper), .. } if lowers.is_empty() => mount::bind(upper, false),
        Rootfs::Overlay { lowers, upper: None, .. } if lowers.len() == 1 => mount::bind(&lowers[0], false),
        Rootfs::Overlay { lowers, upper, work } => {
            overlay(&Overlay { lowers: lowers.clone(), upper: upper.clone(), work: work.clone() }, scratch)
        }
    }
}

fn overlay(layers: &Overlay, scratch: &Path) -> io::Result<OwnedFd> {
    match mount::overlay(layers) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            mount::overlay_at(layers, scratch).and_then(|()| mount::bind(scratch, false))
        }
        other => other,
    }
}

/// Who root of the container's user namespace is outside, by the configuration.
fn root_outside(plan: &Plan<'_>) -> Option<(u32, u32)> {
    let linux = plan.spec.linux.as_ref()?;
    let root = |all: &[IdMapping]| all.iter().find(|m| m.container_id == 0).map(|m| m.host_id);
    Some((root(&linux.uid_mappings)?, root(&linux.gid_mappings)?))
}

fn mapped(path: &Path, users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let tree = mount::bind(path, false)?;
    mount::map_ids(tree.as_fd(), users, false)?;
    Ok(tree)
}

/// The root with the layers' files belonging to the ids of `users`. An overlay takes over the mapping of its layers;
/// they are attached in a corner of this mount namespace for as long as it takes to make it.
fn mapped_root(plan: &Plan<'_>, users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (lowers, upper, work) = match plan.rootfs {
        Rootfs::Path(path) => return mapped(path, users),
        Rootfs::Overlay { lowers, upper: Some(upper), .. } if lowers.is_empty() => {
            return mapped(upper, users);
        }
        Rootfs::Overlay { lowers, upper: None, .. } if lowers.len() == 1 => return mapped(&lowers[0], users),
        Rootfs::Overlay { lowers, upper, work } => (lowers, upper, work),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let scratch = rustix::fs::open(plan.scratch, flags, Mode::empty())?;
    let corner = mount::new("tmpfs", "tmpfs", &["mode=700".to_owned()], 0)?;
    mount::attach(corner.as_fd(), scratch.as_fd())?;
    let attach = |name: &str, tree: OwnedFd| -> io::Result<PathBuf> {
        let target = path::ensure(corner.as_fd(), Path::new(name), path::Make::Directory, Mode::RWXU)?;
        mount::attach(tree.as_fd(), target.as_fd())?;
        Ok(plan.scratch.join(name))
    };
    let mut layers = Overlay::default();
    for (i, lower) in lowers.iter().enumerate() {
        layers.lowers.push(attach(&i.to_string(), mapped(lower, users)?)?);
    }
    if let (Some(upper), Some(work)) = (upper, work) {
        // Both must be on the same mount: that of the nearest directory above them.
        let above = upper.ancestors().find(|a| work.starts_with(a)).unwrap_or(Path::new("/"));
        let base = attach("rw", mapped(above, users)?)?;
        let below = |p: &Path| p.strip_prefix(above).map(|rest| base.join(rest)).ok();
        (layers.upper, layers.work) = (below(upper), below(work));
    }
    path::ensure(corner.as_fd(), Path::new("merged"), path::Make::Directory, Mode::RWXU)?;
    // The overlay makes files in the name of who makes it: one of those that the layers know.
    let (uid, gid) = root_outside(plan).ok_or(io::ErrorKind::InvalidInput)?;
    process::make_files_as(uid, gid);
    let powers = caps::permitted()?;
    caps::set(powers, powers, 0)?;
    let made = overlay(&layers, &plan.scratch.join("merged"));
    process::make_files_as(0, 0);
    let made = made?;
    // The overlay holds what it needs.
    rustix::mount::unmount(plan.scratch, rustix::mount::UnmountFlags::DETACH)?;
    Ok(made)
}

/// Parses the options and opens what is to be shown. `users` is whose ids the mount's files belong to: `own` mappings
/// are enough to ask for it, those of the container only with the option.
fn one(
    m: &Mount,
    users: Option<BorrowedFd<'_>>,
    own: bool,
    namespaces: &Namespaces,
    alone: bool,
) -> Result<(Options, Origin), StepError> {
    let options = options::parse(&m.fstype, &m.options).map_err(|text| StepError::new("mount", text))?;
    let wrong = |text: &str| Err(StepError::new("mount", format!("{}: {text}", place(&m.destination))));
    let recursive = match options.map_ids {
        None if own => Some(false),
        asked => asked,
    };
    if !options.bind {
        if recursive.is_some() {
            return wrong("id-mapped mounts are only supported for bind-mounts");
        }
        return Ok((options, foreign(m, namespaces)?));
    }
    let fail = |e: io::Error| {
        StepError::os("mount", format!("{}: bind source {:?}", place(&m.destination), m.source), &e)
    };
    let tree = open_source(&m.source, options.recursive, alone).map_err(fail)?;
    match (recursive, users) {
        (None, _) => {}
        (Some(_), None) => return wrong("idmap needs mappings, or a user namespace"),
        (Some(recursive), Some(users)) => mount::map_ids(tree.as_fd(), users, recursive)
            .map_err(|e| StepError::os("mount", format!("{}: map ids", place(&m.destination)), &e))?,
    }
    Ok((options, Origin::Bind(tree)))
}

/// A file system that shows a namespace which the container's root does not own can only be made by who does.
fn foreign(m: &Mount, namespaces: &Namespaces) -> Result<Origin, StepError> {
    let theirs = match m.fstype.as_str() {
        "sysfs" => namespaces.new & namespace::NET != 0,
        "mqueue" => namespaces.new & namespace::IPC != 0,
        "cgroup2" => namespaces.cgroup,
        _ => true,
    };
    if namespaces.user.is_none() || theirs {
        return Ok(Origin::Inside);
    }
    let options = options::parse(&m.fstype, &m.options).map_err(|text| StepError::new("mount", text))?;
    let attributes = options.change.set | options.deep.set;
    let tree = mount::new(&m.fstype, &m.source, &options.data, attributes)
        .map_err(|e| StepError::os("mount", place(&m.destination), &e))?;
    Ok(Origin::Made(tree))
}

/// `/proc/<pid>/root/…` names a place in another container: its links must not lead into ours or the host's.
/// The engine writes `root//path` for a place beneath one that containers can change: a link on the way stays inside.
fn open_source(path: &str, recursive: bool, alone: bool) -> io::Result<OwnedFd> {
    if let Some((root, rest)) = path.split_once("//").filter(|(root, _)| !alone && !root.is_empty()) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let fd = path::open(root.as_fd(), Path::new(rest), OFlags::PATH, Mode::empty())?;
        return mount::bind_fd(fd.as_fd(), recursive);
    }
    if let Some((pid, rest)) = path.strip_prefix("/proc/").and_then(|p| p.split_once("/root/"))
        && pid.bytes().all(|b| b.is_ascii_digit())
    {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?;
        let fd = path::open(root.as_fd(), Path::new(rest), OFlags::PATH, Mode::empty())?;
        return mount::bind_fd(fd.as_fd(), recursive);
    }
    mount::bind(Path::new(path), recursive)
}
