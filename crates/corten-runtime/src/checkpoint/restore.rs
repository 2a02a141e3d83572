//! Makes a container's processes from files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::path::{self, Make};
use corten_sys::process::{self, Child};
use corten_sys::{mount, pty};
use corten_wire::oci_runtime::Spec;
use corten_wire::shim::Rootfs;
use rustix::fs::{Mode, OFlags};

use super::criu::{Criu, CriuError, Fields, Kind};
use super::{
    DESCRIPTORS, External, Manner, check, directory, externals, kept, open_directory, relative, tag,
};
use crate::cgroup::Cgroup;
use crate::container::{Launched, Stdio, options, rootfs_tree};
use crate::mounts;

const LOG: &str = "restore.log";
/// Where the root's tree is while criu works, below the container's directory.
const ROOT: &str = "criu-root";
/// Largest file of ours that we read from an image.
const MAX_DESCRIPTORS: u64 = 64 * 1024;

/// What to make, and from what.
pub(crate) struct Restore<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) rootfs: &'a Rootfs,
    /// The container's directory, on a mount that may become private in our namespace.
    pub(crate) scratch: &'a Path,
    /// Exist already.
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) images: &'a Path,
    /// Gets the log, instead of `images`.
    pub(crate) work: Option<&'a Path>,
    /// New pipes for the process's streams, or those of this process.
    pub(crate) streams: [BorrowedFd<'a>; 3],
    pub(crate) lsm_profile: Option<&'a str>,
    pub(crate) manner: &'a Manner,
    /// Called when the namespaces exist, with the number of the first process: hooks run now.
    pub(crate) born: &'a mut dyn FnMut(i32) -> Result<(), CriuError>,
}

/// Makes the processes; they run when this returns. `ours` are the other ends of the streams, or nothing for a terminal:
/// that comes out of the image.
pub(crate) fn restore(wanted: &mut Restore<'_>, ours: Option<Stdio>) -> Result<Launched, CriuError> {
    let spec = wanted.spec;
    check(spec)?;
    let tree = Tree::mount(wanted)?;
    // Only now: criu mounts things in there, which it could not on a mount of the namespace that we have left.
    let images = open_directory(wanted.images)?;
    let work = wanted.work.map(directory).transpose()?;
    let mut options = wanted.manner.options(spec, images.as_fd(), work.as_ref().map(AsFd::as_fd), LOG);
    options
        .text(tag::ROOT, &tree.place.display().to_string())
        .flag(tag::RST_SIBLING, true)
        .flag(tag::EVASIVE_DEVICES, true);
    if let Some(profile) = wanted.lsm_profile {
        options.text(tag::LSM_PROFILE, profile);
    }
    for External { inside, outside } in tree.externals(wanted)? {
        options.pair(tag::EXT_MNT, &inside.display().to_string(), &outside.display().to_string());
    }
    options.pair(tag::EXT_MNT, "/dev/null", "/dev/null");
    tree.protect(spec)?;
    let mut extra: Vec<OwnedFd> = Vec::new();
    streams(wanted, &mut options, &mut extra)?;
    namespaces(spec, &mut options, &mut extra)?;
    let log = wanted.work.unwrap_or(wanted.images).join(LOG);
    let extra: Vec<_> = extra.iter().map(AsFd::as_fd).collect();
    let criu = Criu::start(wanted.manner.program.as_deref(), &extra, log)?;
    join_groups(wanted.cgroup, criu.pid(), &mut options)?;
    let mut master = None;
    let pid = criu.ask(Kind::Restore, &options, &mut |notice| {
        match notice.name {
            "setup-namespaces" => (wanted.born)(notice.pid)?,
            "orphan-pts-master" => master = notice.fd,
            _ => {}
        }
        Ok(())
    })?;
    let pidfd = process::pidfd_open(pid).map_err(CriuError::io("open the restored process"))?;
    let child = Child { pid, pidfd };
    let Some(stdio) = master.map(|master| Stdio::Terminal { master }).or(ours) else {
        process::signal(child.pidfd.as_fd(), 9).ok();
        process::wait(child.pidfd.as_fd()).ok();
        return Err(CriuError::Refused("the image has no terminal".into()));
    };
    let size = spec.process.as_ref().and_then(|p| p.console_size).filter(|s| s.height > 0 || s.width > 0);
    if let (Stdio::Terminal { master }, Some(size)) = (&stdio, size) {
        pty::resize(master.as_fd(), size.height, size.width).ok();
    }
    Ok(Launched { child, stdio, root: None })
}

/// The root's tree, mounted where criu takes it from; away again when dropped.
struct Tree {
    place: PathBuf,
    root: OwnedFd,
}

impl Tree {
    fn mount(wanted: &Restore<'_>) -> Result<Self, CriuError> {
        let fail = || CriuError::io("mount the root file system");
        mounts::own_namespace(wanted.scratch).map_err(fail())?;
        let place = wanted.scratch.join(ROOT);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(&place, flags, Mode::empty()).map_err(|e| fail()(e.into()));
        drop(directory(&place)?);
        let tree = rootfs_tree(wanted.spec, wanted.rootfs, &place).map_err(fail())?;
        let private =
            mount::Change { propagation: Some(mount::Propagation::Private), ..mount::Change::default() };
        mount::change(tree.as_fd(), private, true).map_err(fail())?;
        mount::attach(tree.as_fd(), open()?.as_fd()).map_err(fail())?;
        Ok(Self { root: open()?, place: std::fs::canonicalize(&place).map_err(fail())? })
    }

    /// Mounts that are not in the image, by the places that they had. Where the container was never started the
    /// places are made, unless they are on something that is mounted.
    fn externals(&self, wanted: &Restore<'_>) -> Result<Vec<External>, CriuError> {
        for (i, m) in wanted.spec.mounts.iter().enumerate() {
            let earlier = &wanted.spec.mounts[..i];
            if earlier.iter().any(|e| m.destination.starts_with(&e.destination)) {
                continue;
            }
            let bind = options::parse(&m.fstype, &m.options).is_ok_and(|o| o.bind);
            let file = bind && Path::new(&m.source).is_file();
            let (make, mode) = if file { (Make::File, 0o644) } else { (Make::Directory, 0o755) };
            path::ensure(self.root.as_fd(), &m.destination, make, Mode::from_raw_mode(mode)).map_err(
                CriuError::io(format_args!("create mountpoint for {} mount", m.destination.display())),
            )?;
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo");
        let table = table.map_err(CriuError::io("/proc/self/mountinfo"))?;
        Ok(externals(wanted.spec, wanted.cgroup, &table, &|p| self.place_of(wanted.spec, p)))
    }

    /// criu takes the root as it finds it, so a read-only one must be that already.
    fn protect(&self, spec: &Spec) -> Result<(), CriuError> {
        if !spec.root.as_ref().is_some_and(|r| r.readonly) {
            return Ok(());
        }
        let change = mount::Change { set: mount::attr::RDONLY, ..mount::Change::default() };
        mount::change(self.root.as_fd(), change, false).map_err(CriuError::io("make the root read-only"))
    }

    /// Where a destination is. What is on a mount that only the image has is not there to be looked up; the mount is.
    fn place_of(&self, spec: &Spec, destination: &Path) -> Option<PathBuf> {
        let mut below: Vec<&Path> = spec
            .mounts
            .iter()
            .map(|m| m.destination.as_path())
            .filter(|d| destination.starts_with(d))
            .collect();
        below.sort_by_key(|d| d.components().count());
        let first = below.first().copied().unwrap_or(destination);
        let found = path::open(self.root.as_fd(), first, OFlags::PATH, Mode::empty()).ok()?;
        let rest = destination.strip_prefix(first).ok()?;
        let base = relative(&self.root, &found)?;
        Some(if rest.as_os_str().is_empty() { base } else { base.join(rest) })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.place, rustix::mount::UnmountFlags::DETACH).ok();
        std::fs::remove_dir(&self.place).ok();
    }
}

/// New pipes for those that the streams were.
fn streams(wanted: &Restore<'_>, options: &mut Fields, extra: &mut Vec<OwnedFd>) -> Result<(), CriuError> {
    use std::io::Read;
    let path = wanted.images.join(DESCRIPTORS);
    let mut text = Vec::new();
    std::fs::File::open(&path)
        .and_then(|f| f.take(MAX_DESCRIPTORS).read_to_end(&mut text))
        .map_err(CriuError::io(format_args!("open {}", path.display())))?;
    let names: Vec<String> =
        serde_json::from_slice(&text).map_err(|e| CriuError::Refused(format!("{}: {e}", path.display())))?;
    for (name, stream) in names.iter().zip(&wanted.streams).filter(|(name, _)| name.starts_with("pipe:")) {
        let stream = stream.try_clone_to_owned().map_err(CriuError::io("duplicate a stream"))?;
        inherit(name, stream, options, extra);
    }
    Ok(())
}

fn inherit(key: &str, fd: OwnedFd, options: &mut Fields, extra: &mut Vec<OwnedFd>) {
    let mut entry = Fields::default();
    entry.text(1, key).number(2, Criu::extra(extra.len()));
    options.message(tag::INHERIT_FD, &entry);
    extra.push(fd);
}

/// Namespaces that are somebody's: the same ones as now, not those of the image.
fn namespaces(spec: &Spec, options: &mut Fields, extra: &mut Vec<OwnedFd>) -> Result<(), CriuError> {
    use corten_wire::oci_runtime::NamespaceKind as Kind;
    for namespace in spec.linux.iter().flat_map(|l| &l.namespaces) {
        let Some(file) = &namespace.path else { continue };
        if let Some((_, key)) = kept(namespace.kind) {
            let opened = std::fs::File::open(file).map_err(|_| {
                CriuError::Refused(format!("Requested network namespace {} does not exist", file.display()))
            })?;
            inherit(key, opened.into(), options, extra);
            continue;
        }
        let name = match namespace.kind {
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Mount | Kind::User | Kind::Cgroup | Kind::Time | Kind::Network | Kind::Pid => {
                let text = format!("restoring into the {:?} namespace {}", namespace.kind, file.display());
                return Err(CriuError::Refused(format!("{text} is not supported")));
            }
        };
        options.pair(tag::JOIN_NS, name, &file.display().to_string());
    }
    Ok(())
}

/// Puts criu into the container's groups: what it makes is in them, and it is told that these are the roots of what
/// the image has.
fn join_groups(cgroup: &Cgroup, criu: i32, options: &mut Fields) -> Result<(), CriuError> {
    if cgroup.is_none() {
        return Ok(());
    }
    cgroup.adopt(criu).map_err(|e| CriuError::Refused(e.to_string()))?;
    let path = format!("/proc/{criu}/cgroup");
    let text = std::fs::read_to_string(&path).map_err(CriuError::io(path))?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        for controller in controllers.split(',') {
            options.pair(tag::CG_ROOT, controller, group);
        }
    }
    Ok(())
}
