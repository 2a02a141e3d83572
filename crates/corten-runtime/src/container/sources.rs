//! What is mounted in a container, opened before it is anywhere: the root file system and the sources of binds.
//!
//! ```text
//!   creator    binds, and the root where it needs no mount namespace
//!   stage      what shows namespaces that were joined, and a root whose layers have other owners
//!              (or the first process, where there is no stage: a root that an old kernel can only mount)
//! ```
//!
//! With a user namespace all is done before that is entered, as the container's root may neither reach these places
//! nor change whose files they show. What the creator opens may be prepared at leisure; what comes after the clone
//! asks for no memory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::mount::{self, Change, Overlay, Propagation, Recipe};
use corten_sys::process::{self, namespace};
use corten_sys::{caps, path};
use corten_wire::oci_runtime::{IdMapping, Mount, Spec};
use corten_wire::shim::Rootfs;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Plan;
use super::failure::{Code, Failure, Outcome, Step, of};
use super::namespaces::Namespaces;
use super::options::{self, Options};
use super::rootfs::place;
use crate::fault::StepError;

/// What a mount shows.
#[derive(Debug)]
pub(super) enum Origin {
    /// Something of the host.
    Bind(OwnedFd),
    /// A file system of the host's namespaces, as the container's own has none of that kind: to be made outside.
    Outside(Recipe),
    /// It was made.
    Made(OwnedFd),
    /// A file system that is made inside.
    Inside,
}

impl Origin {
    /// Makes what has to be made outside.
    pub(super) fn make(&mut self) -> Result<(), io::Error> {
        if let Self::Outside(recipe) = self {
            *self = Self::Made(recipe.make()?);
        }
        Ok(())
    }
}

/// Where the root comes from, and how mounts spread to it.
#[derive(Debug)]
pub(super) struct Root {
    source: Source,
    propagation: Propagation,
}

#[derive(Debug)]
enum Source {
    /// It is there, detached.
    Ready(OwnedFd),
    /// LINUX 6.5: before, an overlay can only be mounted somewhere, which is to be in a namespace of its own.
    Mounted(Overlay, CString),
    /// Layers whose files belong to other ids.
    Mapped(Box<Corner>),
}

impl Root {
    /// Opens what can be opened, and prepares the rest.
    pub(super) fn of(plan: &Plan<'_>, namespaces: &Namespaces) -> Result<Self, StepError> {
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
        let source = match &namespaces.user {
            // The engine's layers belong to the container's own ids, whoever those are outside.
            Some(users) if plan.alone.is_none() => mapped_root(plan, users.as_fd()).map_err(|e| {
                let unable = e.raw_os_error() == Some(Errno::INVAL.raw_os_error());
                let why = if unable { ": no ID-mapped mounts on this file system" } else { "" };
                StepError::os("rootfs", format!("error preparing rootfs{why}"), &e)
            })?,
            _ => source(plan.rootfs, plan.scratch, label(plan.spec))
                .map_err(|e| StepError::os("rootfs", "error preparing rootfs", &e))?,
        };
        Ok(Self { source, propagation })
    }

    /// Makes the root if it is not there yet, detached. This process's mount namespace is its own, and nothing spreads
    /// from it.
    pub(super) fn make(&mut self, users: Option<BorrowedFd<'_>>) -> Outcome {
        let made = match &mut self.source {
            Source::Ready(_) => None,
            Source::Mounted(overlay, scratch) => {
                let made = overlay.make_at(scratch).and_then(|()| mount::bind(scratch.as_c_str(), false));
                Some(made.map_err(of(Step::Rootfs))?)
            }
            Source::Mapped(corner) => Some(corner.root(users)?),
        };
        if let Some(made) = made {
            self.source = Source::Ready(made);
        }
        let change = Change { propagation: Some(self.propagation), ..Change::default() };
        mount::change(self.fd()?, change, true).map_err(of(Step::Rootfs))
    }

    /// The root, if it was made here: whoever has it keeps the file system from being unmounted.
    pub(super) fn into_kept(self) -> Option<OwnedFd> {
        match self.source {
            Source::Ready(root) => Some(root),
            Source::Mounted(..) | Source::Mapped(_) => None,
        }
    }

    /// The root, after it was made.
    pub(super) fn fd(&self) -> Outcome<BorrowedFd<'_>> {
        match &self.source {
            Source::Ready(root) => Ok(root.as_fd()),
            Source::Mounted(..) | Source::Mapped(_) => Err(Failure::plain(Step::Rootfs)),
        }
    }
}

/// The root file system of a container, detached. `scratch` is a place to mount at where the kernel cannot do without.
pub(crate) fn root(spec: &Spec, rootfs: &Rootfs, scratch: &Path) -> io::Result<OwnedFd> {
    match source(rootfs, scratch, label(spec))? {
        Source::Ready(root) => Ok(root),
        Source::Mounted(mut overlay, at) => {
            overlay.make_at(&at).and_then(|()| mount::bind(at.as_c_str(), false))
        }
        Source::Mapped(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Of the files of the root.
fn label(spec: &Spec) -> &str {
    spec.linux.as_ref().map_or("", |l| &l.mount_label)
}

fn source(rootfs: &Rootfs, scratch: &Path, label: &str) -> io::Result<Source> {
    let layers = match single(rootfs) {
        Ok((path, recursive)) => return mount::bind(path, recursive).map(Source::Ready),
        Err(layers) => layers,
    };
    layers.unmark();
    let overlay = Overlay::of(layers.lowers, layers.upper.zip(layers.work), layers.volatile)?;
    let mut overlay = overlay.labelled(label)?;
    match overlay.make() {
        Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            Ok(Source::Mounted(overlay, CString::new(scratch.as_os_str().as_encoded_bytes())?))
        }
        made => Ok(Source::Ready(made?)),
    }
}

/// What an overlay is made of.
struct Layers<'a> {
    /// Topmost first.
    lowers: &'a [PathBuf],
    /// Where writes go.
    upper: Option<&'a Path>,
    /// The overlay's own directory.
    work: Option<&'a Path>,
    volatile: bool,
}

impl Layers<'_> {
    /// Takes away the mark that a volatile overlay left: what a container that removes itself wrote before it was
    /// restarted is as good as it was.
    fn unmark(&self) {
        if let Some(work) = self.work.filter(|_| self.volatile) {
            std::fs::remove_dir_all(work.join("work/incompat")).ok();
        }
    }
}

/// The one directory that a root is made of (with what is mounted below), or its layers.
fn single(rootfs: &Rootfs) -> Result<(&Path, bool), Layers<'_>> {
    match rootfs {
        Rootfs::Path(path) => Ok((path, true)),
        Rootfs::Overlay { lowers, upper: Some(upper), .. } if lowers.is_empty() => Ok((upper, false)),
        Rootfs::Overlay { lowers, upper: None, .. } if lowers.len() == 1 => Ok((&lowers[0], false)),
        Rootfs::Overlay { lowers, upper, work, volatile } => {
            Err(Layers { lowers, upper: upper.as_deref(), work: work.as_deref(), volatile: *volatile })
        }
    }
}

/// Who root of the container's user namespace is outside, by the configuration.
fn root_outside(plan: &Plan<'_>) -> Option<(u32, u32)> {
    let linux = plan.spec.linux.as_ref()?;
    let root = |all: &[IdMapping]| all.iter().find(|m| m.container_id == 0).map(|m| m.host_id);
    Some((root(&linux.uid_mappings)?, root(&linux.gid_mappings)?))
}

fn mapped_root(plan: &Plan<'_>, users: BorrowedFd<'_>) -> io::Result<Source> {
    match single(plan.rootfs) {
        Ok((path, _)) => {
            let tree = mount::bind(path, false)?;
            mount::map_ids(tree.as_fd(), users, false)?;
            Ok(Source::Ready(tree))
        }
        Err(layers) => Ok(Source::Mapped(Box::new(Corner::of(plan, layers)?))),
    }
}

/// A root with the layers' files belonging to the ids of a user namespace. An overlay takes over the mapping of its
/// layers; they are attached in a corner of the stage's mount namespace for as long as it takes to make it.
#[derive(Debug)]
struct Corner {
    scratch: CString,
    empty: Recipe,
    /// What is attached: the path of the host, and the name in the corner.
    layers: Vec<(CString, CString)>,
    overlay: Overlay,
    merged: CString,
    /// The overlay makes files in the name of who makes it: one of those that the layers know.
    owner: (u32, u32),
}

impl Corner {
    fn of(plan: &Plan<'_>, given: Layers<'_>) -> io::Result<Self> {
        given.unmark();
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
        let owner = root_outside(plan).ok_or(io::ErrorKind::InvalidInput)?;
        let (mut layers, mut seen) = (Vec::new(), Vec::new());
        for (i, lower) in given.lowers.iter().enumerate() {
            layers.push((text(lower)?, CString::new(i.to_string())?));
            seen.push(plan.scratch.join(i.to_string()));
        }
        let mut writable = None;
        if let (Some(upper), Some(work)) = (given.upper, given.work) {
            // Both must be on the same mount: that of the nearest directory above them.
            let above = upper.ancestors().find(|a| work.starts_with(a)).unwrap_or(Path::new("/"));
            layers.push((text(above)?, c"rw".to_owned()));
            let base = plan.scratch.join("rw");
            let below = |p: &Path| p.strip_prefix(above).map(|rest| base.join(rest)).ok();
            writable = below(upper).zip(below(work));
        }
        let writable = writable.as_ref().map(|(u, w)| (u.as_path(), w.as_path()));
        Ok(Self {
            scratch: text(plan.scratch)?,
            empty: Recipe::of("tmpfs", "tmpfs", &["mode=700".to_owned()], 0)?,
            layers,
            overlay: Overlay::of(&seen, writable, given.volatile)?.labelled(label(plan.spec))?,
            merged: text(&plan.scratch.join("merged"))?,
            owner,
        })
    }

    fn root(&mut self, users: Option<BorrowedFd<'_>>) -> Outcome<OwnedFd> {
        let users = users.ok_or(Failure::plain(Step::NoMappedMounts))?;
        self.make(users).map_err(|e| match e.errno() {
            Errno::INVAL => of(Step::NoMappedMounts)(Errno::INVAL),
            other => of(Step::Rootfs)(other),
        })
    }

    fn make(&mut self, users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let scratch = rustix::fs::open(self.scratch.as_c_str(), flags, Mode::empty())?;
        let corner = self.empty.make()?;
        mount::attach(corner.as_fd(), scratch.as_fd())?;
        let ensure = |name| path::ensure_c(corner.as_fd(), name, path::Make::Directory, Mode::RWXU);
        for (from, name) in &self.layers {
            let tree = mount::bind(from.as_c_str(), false)?;
            mount::map_ids(tree.as_fd(), users, false)?;
            mount::attach(tree.as_fd(), ensure(name)?.as_fd())?;
        }
        ensure(c"merged")?;
        let (uid, gid) = self.owner;
        process::make_files_as(uid, gid);
        let powers = caps::permitted()?;
        caps::set(powers, powers, 0)?;
        let made = match self.overlay.make() {
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                let at = self.merged.as_c_str();
                self.overlay.make_at(at).and_then(|()| mount::bind(at, false))
            }
            other => other,
        };
        process::make_files_as(0, 0);
        let made = made?;
        // The overlay holds what it needs.
        rustix::mount::unmount(self.scratch.as_c_str(), rustix::mount::UnmountFlags::DETACH)?;
        Ok(made)
    }
}

/// Parses the options of a mount and opens what is to be shown. Who its files belong to is `own`, if it has mappings
/// of its own, which is enough to ask for it; or else the container's users, with the option.
pub(super) fn of_mount(
    m: &Mount,
    own: Option<BorrowedFd<'_>>,
    namespaces: &Namespaces,
    alone: bool,
) -> Result<(Options, Origin), StepError> {
    let options = options::parse(&m.fstype, &m.options).map_err(|text| StepError::new("mount", text))?;
    let wrong = |text: &str| Err(StepError::new("mount", format!("{}: {text}", place(&m.destination))));
    let recursive = match options.map_ids {
        None if own.is_some() => Some(false),
        asked => asked,
    };
    if !options.bind {
        if recursive.is_some() {
            return wrong("id-mapped mounts are only supported for bind-mounts");
        }
        let origin = foreign(m, &options, namespaces)?;
        return Ok((options, origin));
    }
    let fail = |e: io::Error| {
        StepError::os("mount", format!("{}: bind source {:?}", place(&m.destination), m.source), &e)
    };
    let tree = open_source(&m.source, options.recursive, alone).map_err(fail)?;
    match (recursive, own.or(namespaces.user.as_ref().map(AsFd::as_fd))) {
        (None, _) => {}
        (Some(_), None) => return wrong("idmap needs mappings, or a user namespace"),
        (Some(recursive), Some(users)) => mount::map_ids(tree.as_fd(), users, recursive)
            .map_err(|e| StepError::os("mount", format!("{}: map ids", place(&m.destination)), &e))?,
    }
    Ok((options, Origin::Bind(tree)))
}

/// A file system that shows a namespace which the container's root does not own can only be made by who does.
fn foreign(m: &Mount, options: &Options, namespaces: &Namespaces) -> Result<Origin, StepError> {
    let theirs = match m.fstype.as_str() {
        "sysfs" => namespaces.new & namespace::NET != 0,
        "mqueue" => namespaces.new & namespace::IPC != 0,
        "cgroup2" => namespaces.cgroup,
        _ => true,
    };
    if namespaces.user.is_none() || theirs {
        return Ok(Origin::Inside);
    }
    let attributes = options.change.set | options.deep.set;
    let recipe = Recipe::of(&m.fstype, &m.source, &options.data, attributes);
    recipe.map(Origin::Outside).map_err(|e| StepError::os("mount", place(&m.destination), &e))
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
