//! The container's root file system and mounts, made inside its own mount namespace.
//!
//! Sources are open already ([`super::sources`]), from when the namespace still received what the host mounts. The
//! root is attached, and everything else is attached to descriptors that were looked up beneath it. A directory that is
//! swapped for a link meanwhile can make a mount fail, but not leave the root (CVE-2021-30465, CVE-2023-27561).
//!
//! [`RootPlan::of`] prepares all names before there is a process; the process itself asks for no memory.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::mount::{self, Change, Propagation, Recipe, attr};
use corten_sys::path::{self, Make};
use corten_wire::oci_runtime::{Linux, Mount};
use corten_wire::shim::Rootfs;
use rustix::fs::{FileType, Mode, OFlags};

use super::devices::{self, Node};
use super::failure::{Failure, Outcome, Step, nth, of};
use super::namespaces::Namespaces;
use super::options::Options;
use super::settings::Settings;
use super::sources::{self, Origin, Root};
use super::{Plan, c_path, stage};
use crate::cgroup::Cgroup;
use crate::fault::StepError;

const PROC_MAGIC: u64 = 0x9FA0;

/// Places below /proc that a mount may hide: information that tools such as lxcfs replace.
const ALLOWED_IN_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Everything that is to be mounted, made and hidden.
#[derive(Debug)]
pub(super) struct RootPlan {
    root: Root,
    /// The mount that our own program runs from, and where its file is on the host.
    program: Option<(OwnedFd, CString)>,
    /// Where the configuration has the root, for hooks that look for it there.
    place: Option<CString>,
    readonly: bool,
    entries: Vec<Entry>,
    groups: Groups,
    nodes: Vec<Node>,
    settings: Settings,
    protected: Vec<Hidden>,
    masked: Vec<Hidden>,
    empty: Recipe,
}

/// A mount.
#[derive(Debug)]
struct Entry {
    destination: CString,
    /// As looked up without following a link.
    relative: CString,
    options: Options,
    origin: Origin,
    kind: FileSystem,
    /// For a file system that is made inside.
    recipe: Recipe,
    /// Before what was in its place is copied, it must be writable.
    writable: Option<Recipe>,
    at: Spot,
    allowed_in_proc: bool,
}

/// What needs care of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileSystem {
    /// proc and sysfs.
    Kernel,
    Cgroup,
    Cgroup2,
    Other,
}

/// Places that later steps need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Dev,
    DevPts,
    Proc,
    Sys,
    Elsewhere,
}

/// The control groups that a container sees.
#[derive(Debug)]
struct Groups {
    unified: bool,
    /// v1: name and directory of each hierarchy.
    view: Vec<(CString, CString)>,
    links: Vec<(CString, CString)>,
}

/// What is hidden or protected: as the container names it, and below the file system that the kernel shows it in.
#[derive(Debug)]
struct Hidden {
    whole: CString,
    below: Option<(Spot, CString)>,
}

/// What later steps need of the new root.
#[derive(Debug)]
pub(super) struct Made<'a> {
    plan: &'a RootPlan,
    pub(super) root: BorrowedFd<'a>,
    /// Our own tmpfs at /dev.
    pub(super) dev: Option<Tree<'a>>,
    /// Our own devpts.
    pub(super) devpts: Option<Tree<'a>>,
    /// A procfs that nothing is mounted over.
    proc: Option<Tree<'a>>,
    /// A sysfs of the same kind.
    sys: Option<Tree<'a>>,
}

/// A mount that was opened before, or made inside.
#[derive(Debug)]
pub(super) enum Tree<'a> {
    Opened(BorrowedFd<'a>),
    Made(OwnedFd),
}

impl AsFd for Tree<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Opened(fd) => *fd,
            Self::Made(fd) => fd.as_fd(),
        }
    }
}

fn directory_mode() -> Mode {
    Mode::from_raw_mode(0o755)
}

pub(super) fn place(what: &Path) -> String {
    format!("error mounting {:?} to rootfs", what.display().to_string())
}

impl RootPlan {
    /// Opens the sources and prepares the rest.
    pub(super) fn of(plan: &Plan<'_>, namespaces: &Namespaces) -> Result<Self, StepError> {
        let none = Linux::default();
        let linux = plan.spec.linux.as_ref().unwrap_or(&none);
        let mut entries = Vec::with_capacity(plan.spec.mounts.len());
        for (i, m) in plan.spec.mounts.iter().enumerate() {
            let own = namespaces.maps.get(i).and_then(Option::as_ref).map(AsFd::as_fd);
            entries.push(Entry::of(m, own, namespaces, plan, &linux.mount_label)?);
        }
        let place = match (plan.rootfs, plan.alone) {
            (Rootfs::Path(path), Some(_)) => Some(c_path("rootfs", path)?),
            _ => None,
        };
        let borrow = namespaces.user.is_some() || !corten_sys::users::initial();
        let hidden = |all: &[PathBuf]| all.iter().map(|p| Hidden::of(p)).collect::<Result<Vec<_>, _>>();
        let tiny = ["nr_blocks=1", "nr_inodes=1"].map(str::to_owned);
        let program = plan.alone.and_then(|a| a.program);
        let program = program.map(|p| Ok((p.mount.try_clone()?, p.path.clone()))).transpose();
        let program = program.map_err(|e: io::Error| StepError::os("rootfs", "dup", &e))?;
        Ok(Self {
            root: Root::of(plan, namespaces)?,
            program,
            place,
            readonly: plan.spec.root.as_ref().is_some_and(|r| r.readonly),
            entries,
            groups: Groups::of(plan.cgroup)?,
            nodes: devices::nodes(&linux.devices, borrow)?,
            settings: Settings::of(linux, |name| {
                !(namespaces.keeps_network() && stage::is_of_network(name))
            })?,
            protected: hidden(&linux.readonly_paths)?,
            masked: hidden(&linux.masked_paths)?,
            empty: recipe("tmpfs", "tmpfs", &tiny, attr::RDONLY)?,
        })
    }

    /// See [`Root::into_kept`].
    pub(super) fn into_kept(self) -> Option<OwnedFd> {
        self.root.into_kept()
    }

    /// Makes what has to be made in the stage, before it enters a user namespace.
    pub(super) fn make_outside(&mut self, users: Option<BorrowedFd<'_>>) -> Outcome {
        for (i, entry) in self.entries.iter_mut().enumerate() {
            entry.origin.make().map_err(nth(Step::Mount, i))?;
        }
        corten_sys::process::unshare(corten_sys::process::namespace::MOUNT)
            .map_err(of(Step::PrivateMounts))?;
        mount::change_all(Propagation::Private).map_err(of(Step::PrivateMounts))?;
        self.take_program().map_err(of(Step::OwnProgram))?;
        self.root.make(users)
    }

    /// Attaches the root and all mounts, and fills /dev. `staged`: it was [made](Self::make_outside) before.
    pub(super) fn prepare(&mut self, staged: bool) -> Outcome<Made<'_>> {
        if !staged {
            mount::change_all(Propagation::Private).map_err(of(Step::PrivateMounts))?;
            self.take_program().map_err(of(Step::OwnProgram))?;
            self.root.make(None)?;
        }
        let plan: &Self = self;
        let root = plan.root.fd()?;
        plan.attach_root(root).map_err(of(Step::Rootfs))?;
        let mut made = Made { plan, root, dev: None, devpts: None, proc: None, sys: None };
        for (i, entry) in plan.entries.iter().enumerate() {
            made.mount(entry, i)?;
        }
        if let Some(dev) = &made.dev {
            devices::populate(root, dev.as_fd(), &plan.nodes)?;
        }
        Ok(made)
    }

    /// Attaches the mount of our own program in the old root, with which it ends. Before it has ended, whoever runs from
    /// it could change its properties ([`corten_sys::program::ReadOnly`]).
    fn take_program(&self) -> io::Result<()> {
        let Some((tree, path)) = &self.program else { return Ok(()) };
        let mut failed = None;
        // Our file may have been replaced meanwhile; any other that is there will do.
        for place in [path.as_c_str(), c"/proc/version", c"/dev/null"] {
            let place = rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            match place.map_err(io::Error::from).and_then(|p| mount::attach(tree.as_fd(), p.as_fd())) {
                Ok(()) => return Ok(()),
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn attach_root(&self, tree: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(place) = &self.place {
            // Hooks look for the root where the configuration says it is; root of a user namespace may not get there.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::open(place.as_c_str(), flags, Mode::empty()) {
                Ok(place) => return mount::attach(tree, place.as_fd()),
                Err(rustix::io::Errno::ACCESS) => {}
                Err(e) => return Err(e.into()),
            }
        }
        mount::attach_over_root(tree)
    }
}

pub(super) fn recipe(
    fstype: &str,
    source: &str,
    options: &[String],
    attributes: u64,
) -> Result<Recipe, StepError> {
    Recipe::of(fstype, source, options, attributes)
        .map_err(|e| StepError::os("mount", format!("file system {fstype:?}"), &e))
}

impl Entry {
    fn of(
        m: &Mount,
        own: Option<BorrowedFd<'_>>,
        namespaces: &Namespaces,
        plan: &Plan<'_>,
        label: &str,
    ) -> Result<Self, StepError> {
        let (options, origin) = sources::of_mount(m, own, namespaces, plan.alone.is_some())?;
        let kind = match m.fstype.as_str() {
            "proc" | "sysfs" if !options.bind => FileSystem::Kernel,
            "cgroup" => FileSystem::Cgroup,
            "cgroup2" => FileSystem::Cgroup2,
            _ => FileSystem::Other,
        };
        let attributes = options.change.set | options.deep.set;
        let mut data = options.data.clone();
        data.extend(super::labels::mount_option(&m.fstype, label));
        let made = match kind {
            // v2: the hierarchy as the container's own namespace shows it.
            FileSystem::Cgroup | FileSystem::Cgroup2 if plan.cgroup.is_v2() => {
                recipe("cgroup2", "cgroup", &[], options.change.set)?
            }
            // v1: a tmpfs, to be filled with the hierarchies.
            // COMPAT: runc leaves the tmpfs itself writable; only the hierarchies are read-only.
            FileSystem::Cgroup | FileSystem::Cgroup2 => {
                recipe("tmpfs", "tmpfs", &["mode=755".to_owned()], options.change.set & !attr::RDONLY)?
            }
            FileSystem::Kernel | FileSystem::Other => recipe(&m.fstype, &m.source, &data, attributes)?,
        };
        let writable = options.copy_up.then(|| recipe(&m.fstype, &m.source, &data, 0)).transpose()?;
        let at = match (m.fstype.as_str(), m.destination.to_str()) {
            _ if options.bind => Spot::Elsewhere,
            ("tmpfs", Some("/dev")) => Spot::Dev,
            ("devpts", Some("/dev/pts")) => Spot::DevPts,
            ("proc", Some("/proc")) => Spot::Proc,
            ("sysfs", Some("/sys")) => Spot::Sys,
            _ => Spot::Elsewhere,
        };
        let destination = m.destination.to_str().unwrap_or_default();
        Ok(Self {
            destination: c_path("mount", &m.destination)?,
            relative: c_path("mount", m.destination.strip_prefix("/").unwrap_or(&m.destination))?,
            allowed_in_proc: destination == "/proc" || ALLOWED_IN_PROC.contains(&destination),
            options,
            origin,
            kind,
            recipe: made,
            writable,
            at,
        })
    }

    /// The kernel's file systems belong to ordinary directories of their name, and nothing else goes into /proc
    /// (CVE-2019-16884, CVE-2023-28642). The place that was checked, which what was found need not be any more
    /// (CVE-2023-27561).
    fn checked_place(&self, made: &Made<'_>, found: OwnedFd, index: usize) -> Outcome<OwnedFd> {
        if self.kind == FileSystem::Kernel {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
            return rustix::fs::openat2(made.root, self.relative.as_c_str(), flags, Mode::empty(), resolve)
                .map_err(nth(Step::NotOrdinary, index));
        }
        if made.proc.is_some() && !self.allowed_in_proc {
            let magic = rustix::fs::fstatfs(&found).map_err(nth(Step::Mount, index))?.f_type as u64;
            if magic == PROC_MAGIC {
                return Err(Failure::plain(Step::InProc).at(index));
            }
        }
        Ok(found)
    }

    /// The mount, with its attributes.
    fn tree(&self, target: BorrowedFd<'_>) -> io::Result<Tree<'_>> {
        let options = &self.options;
        match &self.origin {
            Origin::Bind(tree) => {
                let propagation = options.propagation.unwrap_or((Propagation::Private, true));
                let change = Change { propagation: Some(propagation.0), ..Change::default() };
                mount::change(tree.as_fd(), change, propagation.1)?;
                mount::change(tree.as_fd(), options.change, false)?;
                mount::change(tree.as_fd(), options.deep, true)?;
                Ok(Tree::Opened(tree.as_fd()))
            }
            Origin::Made(tree) => Ok(Tree::Opened(tree.as_fd())),
            Origin::Inside | Origin::Outside(_) => match &self.writable {
                None => self.recipe.make().map(Tree::Made),
                Some(recipe) => {
                    // A tmpfs with what is in its place; its attributes come last, as it may be read-only.
                    let tree = recipe.make()?;
                    super::copy_up::contents(target, tree.as_fd())?;
                    let attributes = options.change.set | options.deep.set;
                    mount::change(tree.as_fd(), Change { set: attributes, ..options.change }, false)?;
                    Ok(Tree::Made(tree))
                }
            },
        }
    }
}

impl Groups {
    fn of(cgroup: &Cgroup) -> Result<Self, StepError> {
        let text = |name: &str| c_path("cgroup", Path::new(name));
        Ok(Self {
            unified: cgroup.is_v2(),
            view: cgroup
                .v1_view()
                .map(|(name, group)| Ok((text(name)?, c_path("cgroup", group)?)))
                .collect::<Result<_, StepError>>()?,
            links: cgroup
                .v1_links()
                .map(|(link, name)| Ok((text(link)?, text(name)?)))
                .collect::<Result<_, StepError>>()?,
        })
    }

    /// Fills a tmpfs with the container's own group in each hierarchy of v1.
    fn show(&self, tmpfs: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (name, group) in &self.view {
            let name = name.as_c_str();
            rustix::fs::mkdirat(tmpfs, name, directory_mode())?;
            let target = rustix::fs::openat(tmpfs, name, flags, Mode::empty())?;
            let tree = mount::bind(group.as_c_str(), false)?;
            mount::change(tree.as_fd(), options.change, false)?;
            mount::attach(tree.as_fd(), target.as_fd())?;
        }
        for (link, name) in &self.links {
            rustix::fs::symlinkat(name.as_c_str(), tmpfs, link.as_c_str())?;
        }
        Ok(())
    }
}

fn is_directory(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

impl Hidden {
    fn of(path: &Path) -> Result<Self, StepError> {
        let below = |place: &str| path.strip_prefix(place).ok().filter(|r| !r.as_os_str().is_empty());
        let below = match (below("/proc"), below("/sys")) {
            (Some(rest), _) => Some((Spot::Proc, c_path("mask", rest)?)),
            (None, Some(rest)) => Some((Spot::Sys, c_path("mask", rest)?)),
            (None, None) => None,
        };
        Ok(Self { whole: c_path("mask", path)?, below })
    }
}

impl<'a> Made<'a> {
    fn mount(&mut self, entry: &'a Entry, index: usize) -> Outcome {
        let fail = nth::<io::Error>(Step::Mount, index);
        let make = match &entry.origin {
            Origin::Bind(tree) if !is_directory(tree.as_fd()).map_err(&fail)? => Make::File,
            _ => Make::Directory,
        };
        let mode = if make == Make::File { Mode::from_raw_mode(0o644) } else { directory_mode() };
        let found = path::ensure_c(self.root, &entry.destination, make, mode).map_err(&fail)?;
        let target = entry.checked_place(self, found, index)?;
        let tree = entry.tree(target.as_fd()).map_err(&fail)?;
        mount::attach(tree.as_fd(), target.as_fd()).map_err(&fail)?;
        if entry.kind == FileSystem::Cgroup && !self.plan.groups.unified && !entry.options.bind {
            self.plan.groups.show(tree.as_fd(), &entry.options).map_err(&fail)?;
        }
        match entry.at {
            Spot::Dev => self.dev = Some(tree),
            Spot::DevPts => self.devpts = Some(tree),
            Spot::Proc => self.proc = Some(tree),
            Spot::Sys => self.sys = Some(tree),
            Spot::Elsewhere => {}
        }
        Ok(())
    }

    /// Writes kernel settings through our own procfs, which no mount of the container's can stand before
    /// (CVE-2025-52881).
    pub(super) fn sysctls(&self) -> Outcome {
        self.plan.settings.write(self.proc.as_ref().map(AsFd::as_fd))
    }

    /// Hides paths: files behind the null device, directories behind one empty read-only tmpfs.
    pub(super) fn mask(&self) -> Outcome {
        let mut null = None;
        let mut empty: Option<OwnedFd> = None;
        for (i, hidden) in self.plan.masked.iter().enumerate() {
            let fail = nth::<io::Error>(Step::Mask, i);
            let Some(target) = self.find(hidden).map_err(&fail)? else { continue };
            let tree = if is_directory(target.as_fd()).map_err(&fail)? {
                let Some(tmpfs) = &empty else {
                    let made = self.plan.empty.make().map_err(&fail)?;
                    mount::attach(made.as_fd(), target.as_fd()).map_err(&fail)?;
                    empty = Some(made);
                    continue;
                };
                mount::bind_fd(tmpfs.as_fd(), false)
            } else {
                let null = match &null {
                    Some(null) => null,
                    None => {
                        let dev = self.dev.as_ref().map(AsFd::as_fd);
                        null.insert(devices::null(self.root, dev).map_err(|f| f.at(i))?)
                    }
                };
                mount::bind_fd(OwnedFd::as_fd(null), false)
            };
            mount::attach(tree.map_err(&fail)?.as_fd(), target.as_fd()).map_err(&fail)?;
        }
        Ok(())
    }

    /// Makes paths read-only by mounting them over themselves.
    pub(super) fn protect(&self) -> Outcome {
        for (i, protected) in self.plan.protected.iter().enumerate() {
            let fail = nth::<io::Error>(Step::Readonly, i);
            let Some(target) = self.find(protected).map_err(&fail)? else { continue };
            let tree = mount::bind_fd(target.as_fd(), true).map_err(&fail)?;
            mount::change(tree.as_fd(), Change { set: attr::RDONLY, ..Change::default() }, true)
                .map_err(&fail)?;
            mount::attach(tree.as_fd(), target.as_fd()).map_err(&fail)?;
        }
        Ok(())
    }

    /// Makes the root itself read-only if it is to be.
    pub(super) fn seal(&self) -> io::Result<()> {
        if self.plan.readonly {
            mount::change(self.root, Change { set: attr::RDONLY, ..Change::default() }, false)?;
        }
        Ok(())
    }

    /// Looks up what is to be hidden or protected: what the kernel shows in our own mounts of it, wherever /proc and
    /// /sys lead by now.
    fn find(&self, hidden: &Hidden) -> io::Result<Option<OwnedFd>> {
        let own = hidden.below.as_ref().and_then(|(spot, rest)| {
            let tree = if *spot == Spot::Proc { &self.proc } else { &self.sys };
            Some((tree.as_ref()?.as_fd(), rest.as_c_str()))
        });
        let (base, rest): (_, &CStr) = own.unwrap_or((self.root, &hidden.whole));
        match path::open_c(base, rest, OFlags::PATH, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
