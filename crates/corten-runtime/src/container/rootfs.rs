//! The container's root file system and mounts, made inside its own mount namespace.
//!
//! Sources are open already ([`super::sources`]), from when the namespace still received what the host mounts. The
//! root is attached, and everything else is attached to descriptors that were looked up beneath it. A directory that is
//! swapped for a link meanwhile can make a mount fail, but not leave the root (CVE-2021-30465, CVE-2023-27561).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::mount::{self, Change, Propagation, attr};
use corten_sys::path::{self, Make};
use corten_wire::oci_runtime::Mount;
use corten_wire::shim::Rootfs;
use rustix::fs::{FileType, Mode, OFlags};

use super::options::Options;
use super::sources::{Origin, Sources};
use super::{Plan, devices};
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

/// What later steps need of the new root.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) root: OwnedFd,
    /// Our own tmpfs at /dev.
    pub(super) dev: Option<OwnedFd>,
    /// Our own devpts.
    pub(super) devpts: Option<OwnedFd>,
    /// A procfs that nothing is mounted over.
    proc: Option<OwnedFd>,
    /// A sysfs of the same kind.
    sys: Option<OwnedFd>,
}

fn directory_mode() -> Mode {
    Mode::from_raw_mode(0o755)
}

pub(super) fn place(what: &Path) -> String {
    format!("error mounting {:?} to rootfs", what.display().to_string())
}

/// Attaches the root and all mounts, and fills /dev.
pub(super) fn prepare(plan: &Plan<'_>, sources: Sources) -> Result<Prepared, StepError> {
    attach_root(plan, sources.root.as_fd())?;
    let mut made = Prepared { root: sources.root, dev: None, devpts: None, proc: None, sys: None };
    for (m, (options, origin)) in plan.spec.mounts.iter().zip(sources.mounts) {
        one(plan, &mut made, m, &options, origin)?;
    }
    let extra = plan.spec.linux.as_ref().map(|l| l.devices.as_slice()).unwrap_or_default();
    if let Some(dev) = &made.dev {
        devices::populate(made.root.as_fd(), dev.as_fd(), extra)?;
    }
    Ok(made)
}

fn attach_root(plan: &Plan<'_>, tree: BorrowedFd<'_>) -> Result<(), StepError> {
    let fail = |e: io::Error| StepError::os("rootfs", "error preparing rootfs", &e);
    if let (Rootfs::Path(path), Some(_)) = (plan.rootfs, plan.alone) {
        // Hooks look for the root where the configuration says it is; root of a user namespace may not get there.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(place) => return mount::attach(tree, place.as_fd()).map_err(fail),
            Err(rustix::io::Errno::ACCESS) => {}
            Err(e) => return Err(fail(e.into())),
        }
    }
    mount::attach_over_root(tree).map_err(fail)
}

fn is_directory(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

fn one(
    plan: &Plan<'_>,
    made: &mut Prepared,
    m: &Mount,
    options: &Options,
    origin: Origin,
) -> Result<(), StepError> {
    let fail = |e: io::Error| StepError::os("mount", place(&m.destination), &e);
    let kernel = matches!(m.fstype.as_str(), "proc" | "sysfs");
    let make = match &origin {
        Origin::Bind(tree) if !is_directory(tree.as_fd()).map_err(fail)? => Make::File,
        _ => Make::Directory,
    };
    let mode = if make == Make::File { Mode::from_raw_mode(0o644) } else { directory_mode() };
    let found = path::ensure(made.root.as_fd(), &m.destination, make, mode).map_err(fail)?;
    let target = checked_place(made, m, found, kernel && !options.bind)?;
    let tree = match origin {
        Origin::Bind(tree) => {
            let propagation = options.propagation.unwrap_or((Propagation::Private, true));
            let change = Change { propagation: Some(propagation.0), ..Change::default() };
            mount::change(tree.as_fd(), change, propagation.1).map_err(fail)?;
            mount::change(tree.as_fd(), options.change, false).map_err(fail)?;
            mount::change(tree.as_fd(), options.deep, true).map_err(fail)?;
            tree
        }
        Origin::Made(tree) => tree,
        Origin::Inside if m.fstype == "cgroup" || m.fstype == "cgroup2" => {
            cgroup_tree(plan, options).map_err(fail)?
        }
        Origin::Inside if options.copy_up => filled(m, options, target.as_fd()).map_err(fail)?,
        Origin::Inside => {
            let label = plan.spec.linux.as_ref().map_or("", |l| &l.mount_label);
            let mut data = options.data.clone();
            data.extend(super::labels::mount_option(&m.fstype, label));
            mount::new(&m.fstype, &m.source, &data, options.change.set | options.deep.set).map_err(fail)?
        }
    };
    mount::attach(tree.as_fd(), target.as_fd()).map_err(fail)?;
    if m.fstype == "cgroup" && !plan.cgroup.is_v2() && !options.bind {
        cgroup_v1(plan, tree.as_fd(), options).map_err(fail)?;
    }
    if !options.bind {
        match (m.fstype.as_str(), m.destination.to_str()) {
            ("tmpfs", Some("/dev")) => made.dev = Some(tree),
            ("devpts", Some("/dev/pts")) => made.devpts = Some(tree),
            ("proc", Some("/proc")) => made.proc = Some(tree),
            ("sysfs", Some("/sys")) => made.sys = Some(tree),
            _ => {}
        }
    }
    Ok(())
}

/// The kernel's file systems belong to ordinary directories of their name, and nothing else goes into /proc
/// (CVE-2019-16884, CVE-2023-28642). The place that was checked, which what was found need not be any more
/// (CVE-2023-27561).
fn checked_place(made: &Prepared, m: &Mount, found: OwnedFd, kernel: bool) -> Result<OwnedFd, StepError> {
    let fail = |e: io::Error| StepError::os("mount", place(&m.destination), &e);
    if kernel {
        let relative = m.destination.strip_prefix("/").unwrap_or(&m.destination);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
        return rustix::fs::openat2(&made.root, relative, flags, Mode::empty(), resolve).map_err(|_| {
            let text = format!("filesystem {:?} must be mounted on ordinary directory", m.fstype);
            StepError::new("mount", text)
        });
    }
    let magic = rustix::fs::fstatfs(&found).map_err(|e| fail(e.into()))?.f_type as u64;
    let allowed = m.destination.to_str().is_some_and(|d| ALLOWED_IN_PROC.contains(&d));
    if magic == PROC_MAGIC && !allowed && made.proc.is_some() && m.destination != Path::new("/proc") {
        let text =
            format!("{:?} cannot be mounted because it is inside /proc", m.destination.display().to_string());
        return Err(StepError::new("mount", text));
    }
    Ok(found)
}

/// A tmpfs with what is in its place; its attributes come last, as it may be read-only.
fn filled(m: &Mount, options: &Options, target: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let tree = mount::new(&m.fstype, &m.source, &options.data, 0)?;
    super::copy_up::contents(target, tree.as_fd())?;
    let attributes = options.change.set | options.deep.set;
    mount::change(tree.as_fd(), Change { set: attributes, ..options.change }, false)?;
    Ok(tree)
}

/// v2: the hierarchy as the container's own namespace shows it. v1: a tmpfs, to be filled with the hierarchies.
fn cgroup_tree(plan: &Plan<'_>, options: &Options) -> io::Result<OwnedFd> {
    if plan.cgroup.is_v2() {
        return mount::new("cgroup2", "cgroup", &[], options.change.set);
    }
    // COMPAT: runc leaves the tmpfs itself writable; only the hierarchies are read-only.
    mount::new("tmpfs", "tmpfs", &["mode=755".to_owned()], options.change.set & !attr::RDONLY)
}

/// The container's own group in each hierarchy.
fn cgroup_v1(plan: &Plan<'_>, tmpfs: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
    for (name, group) in plan.cgroup.v1_view() {
        rustix::fs::mkdirat(tmpfs, name, directory_mode())?;
        let target = rustix::fs::openat(
            tmpfs,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let tree = mount::bind(group, false)?;
        mount::change(tree.as_fd(), options.change, false)?;
        mount::attach(tree.as_fd(), target.as_fd())?;
    }
    for (link, name) in plan.cgroup.v1_links() {
        rustix::fs::symlinkat(name, tmpfs, link)?;
    }
    Ok(())
}

/// Writes kernel settings through a procfs that is known, or a new one.
pub(super) fn write_settings<'a>(
    proc: Option<BorrowedFd<'_>>,
    settings: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), StepError> {
    let mut own = None;
    for (name, value) in settings {
        let fail = |e: io::Error| StepError::os("sysctl", format!("write sysctl key {name}"), &e);
        let proc = match (proc, &own) {
            (Some(proc), _) => proc,
            (None, Some(own)) => OwnedFd::as_fd(own),
            (None, None) => {
                let made = own.insert(mount::new("proc", "proc", &[], 0).map_err(fail)?);
                OwnedFd::as_fd(made)
            }
        };
        write_setting(proc, name, value).map_err(fail)?;
    }
    Ok(())
}

/// Writes one kernel setting below a procfs.
pub(super) fn write_setting(proc: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    // A name with slashes may have dots in its parts (`net/ipv4/conf/eth0.1/forwarding`).
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let file = path::open_strict(proc, &Path::new("sys").join(relative), OFlags::WRONLY)?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

impl Prepared {
    /// Writes kernel settings through our own procfs, which no mount of the container's can stand before
    /// (CVE-2025-52881).
    pub(super) fn sysctls<'a>(
        &self,
        settings: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> Result<(), StepError> {
        write_settings(self.proc.as_ref().map(AsFd::as_fd), settings)
    }

    /// Hides paths: files behind the null device, directories behind one empty read-only tmpfs.
    pub(super) fn mask(&self, paths: &[PathBuf]) -> Result<(), StepError> {
        let mut null = None;
        let mut empty = None;
        for hidden in paths {
            let fail = |e: io::Error| {
                StepError::os("mask", format!("can't mask path {:?}", hidden.display().to_string()), &e)
            };
            let Some(target) = self.find(hidden).map_err(fail)? else { continue };
            let tree = if is_directory(target.as_fd()).map_err(fail)? {
                let tmpfs = match &empty {
                    Some(tmpfs) => tmpfs,
                    None => {
                        let options = ["nr_blocks=1", "nr_inodes=1"].map(str::to_owned);
                        let made = mount::new("tmpfs", "tmpfs", &options, attr::RDONLY).map_err(fail)?;
                        mount::attach(made.as_fd(), target.as_fd()).map_err(fail)?;
                        empty = Some(made);
                        continue;
                    }
                };
                mount::bind_fd(tmpfs.as_fd(), false)
            } else {
                let null = match &null {
                    Some(null) => null,
                    None => {
                        let dev = self.dev.as_ref().map(AsFd::as_fd);
                        null.insert(devices::null(self.root.as_fd(), dev).map_err(fail)?)
                    }
                };
                mount::bind_fd(null.as_fd(), false)
            };
            mount::attach(tree.map_err(fail)?.as_fd(), target.as_fd()).map_err(fail)?;
        }
        Ok(())
    }

    /// Makes paths read-only by mounting them over themselves.
    pub(super) fn protect(&self, paths: &[PathBuf]) -> Result<(), StepError> {
        for protected in paths {
            let text = || format!("can't make {:?} read-only", protected.display().to_string());
            let fail = |e: io::Error| StepError::os("readonly", text(), &e);
            let Some(target) = self.find(protected).map_err(fail)? else { continue };
            let tree = mount::bind_fd(target.as_fd(), true).map_err(fail)?;
            mount::change(tree.as_fd(), Change { set: attr::RDONLY, ..Change::default() }, true)
                .map_err(fail)?;
            mount::attach(tree.as_fd(), target.as_fd()).map_err(fail)?;
        }
        Ok(())
    }

    /// Looks up what is to be hidden or protected: what the kernel shows in our own mounts of it, wherever /proc and
    /// /sys lead by now.
    fn find(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let below = |place: &str, own: &'_ Option<OwnedFd>| {
            let rest = path.strip_prefix(place).ok().filter(|r| !r.as_os_str().is_empty())?;
            Some((own.as_ref()?.try_clone(), rest.to_owned()))
        };
        let (base, rest) = match below("/proc", &self.proc).or_else(|| below("/sys", &self.sys)) {
            Some((base, rest)) => (base?, rest),
            None => (self.root.try_clone()?, path.to_owned()),
        };
        match path::open(base.as_fd(), &rest, OFlags::PATH, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
