//! `/dev`: nodes, links, and the console. Everything is made relative to the descriptor of our own tmpfs, so a
//! link that the image has at `/dev` is never followed (CVE-2026-41579).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::{mount, path};
use corten_wire::oci_runtime::{Device, Linux};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;

use super::failure::{Failure, Outcome, Step, nth, of};
use crate::fault::StepError;

const STANDARD: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

pub(super) const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// The path of a device as failures count them: those that every container has, then those of the configuration.
pub(super) fn name(linux: Option<&Linux>, index: usize) -> String {
    match STANDARD.get(index) {
        Some((name, ..)) => format!("/dev/{name}"),
        None => {
            let given = linux.and_then(|l| l.devices.get(index - STANDARD.len()));
            given.map(|d| d.path.display().to_string()).unwrap_or_default()
        }
    }
}

/// A device, ready to be made.
#[derive(Debug)]
pub(super) struct Node {
    /// For failures.
    index: usize,
    /// Below our own /dev, or else the root.
    in_dev: bool,
    parent: Option<CString>,
    name: CString,
    kind: FileType,
    mode: Mode,
    number: u64,
    /// One of the configuration; it may be there already.
    owner: Option<(Uid, Gid)>,
    /// The host's, detached, where the kernel lets nobody make one: in a user namespace.
    hosts: Option<OwnedFd>,
}

/// All devices of a container. With `borrow` the host's are at hand, to be shown instead.
pub(super) fn nodes(extra: &[Device], borrow: bool) -> Result<Vec<Node>, StepError> {
    let mut all = Vec::with_capacity(STANDARD.len() + extra.len());
    for (index, (name, major, minor)) in STANDARD.into_iter().enumerate() {
        let full = Path::new("/dev").join(name);
        if extra.iter().any(|d| d.path == full) {
            continue;
        }
        let (kind, number) = (FileType::CharacterDevice, makedev(major, minor));
        all.push(Node {
            index,
            in_dev: true,
            parent: None,
            name: super::c_path("device", Path::new(name))?,
            kind,
            mode: Mode::from_raw_mode(0o666),
            number,
            owner: None,
            hosts: if borrow { hosts(&full, kind, number) } else { None },
        });
    }
    for (i, device) in extra.iter().enumerate() {
        all.push(node(device, STANDARD.len() + i, borrow)?);
    }
    Ok(all)
}

fn node(device: &Device, index: usize, borrow: bool) -> Result<Node, StepError> {
    let invalid = || {
        let text = format!("error creating device {}", device.path.display());
        StepError::os("device", text, &Errno::INVAL.into())
    };
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(StepError::new("device", format!("invalid device type {other:?}"))),
    };
    let below = device.path.strip_prefix("/dev").ok();
    let relative = below.unwrap_or(&device.path);
    let name = relative.file_name().map(Path::new).ok_or_else(invalid)?;
    let parent = relative.parent().filter(|p| !p.as_os_str().is_empty() && *p != Path::new("/"));
    let number = |n: i64| u32::try_from(n).map_err(|_| invalid());
    let number = makedev(number(device.major)?, number(device.minor)?);
    let borrow = borrow && kind != FileType::Fifo;
    Ok(Node {
        index,
        in_dev: below.is_some(),
        parent: parent.map(|p| super::c_path("device", p)).transpose()?,
        name: super::c_path("device", name)?,
        kind,
        mode: Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777),
        number,
        owner: Some((Uid::from_raw(device.uid.unwrap_or(0)), Gid::from_raw(device.gid.unwrap_or(0)))),
        hosts: if borrow { hosts(&device.path, kind, number) } else { None },
    })
}

/// The host's node of this number: at the same path, or wherever the kernel says that it is.
fn hosts(path: &Path, kind: FileType, number: u64) -> Option<OwnedFd> {
    let is_it = |fd: &OwnedFd| {
        rustix::fs::fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == kind && s.st_rdev == number)
    };
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let same = open(path).ok().filter(is_it);
    let found = same.or_else(|| named_by_kernel(kind, number).and_then(|p| open(&p).ok()).filter(is_it))?;
    mount::bind_fd(found.as_fd(), false).ok()
}

/// Where the host has the device of a number.
fn named_by_kernel(kind: FileType, number: u64) -> Option<PathBuf> {
    let kind = if kind == FileType::BlockDevice { "block" } else { "char" };
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let facts = std::fs::read_to_string(format!("/sys/dev/{kind}/{major}:{minor}/uevent")).ok()?;
    facts.lines().find_map(|l| l.strip_prefix("DEVNAME=")).map(|name| Path::new("/dev").join(name))
}

/// Fills our own `/dev`, and makes the devices that belong elsewhere below `root`. The umask is 0.
pub(super) fn populate(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, nodes: &[Node]) -> Outcome {
    for node in nodes {
        make(root, dev, node)?;
    }
    for (i, (target, name)) in LINKS.into_iter().enumerate() {
        match rustix::fs::symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(nth(Step::DeviceLink, i)(e)),
        }
    }
    Ok(())
}

fn make(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, node: &Node) -> Outcome {
    let fail = nth::<Errno>(Step::Device, node.index);
    let base = if node.in_dev { dev } else { root };
    let made;
    let parent = match &node.parent {
        Some(parent) => {
            let mode = Mode::from_raw_mode(0o755);
            let ensured = path::ensure_c(base, parent, path::Make::Directory, mode);
            made = ensured.map_err(nth(Step::DeviceParent, node.index))?;
            made.as_fd()
        }
        None => base,
    };
    match rustix::fs::mknodat(parent, node.name.as_c_str(), node.kind, node.mode, node.number) {
        Ok(()) => {}
        Err(Errno::EXIST) if node.owner.is_some() => return Ok(()),
        // It is the host's then, with the owner that it has there.
        Err(Errno::PERM) if node.kind != FileType::Fifo => {
            let hosts = node.hosts.as_ref().ok_or_else(|| fail(Errno::NOENT))?;
            return show(parent, &node.name, hosts.as_fd()).map_err(nth(Step::Device, node.index));
        }
        Err(e) => return Err(fail(e)),
    }
    let Some((uid, gid)) = node.owner else { return Ok(()) };
    let name = node.name.as_c_str();
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)
}

fn show(parent: BorrowedFd<'_>, name: &CStr, hosts: BorrowedFd<'_>) -> io::Result<()> {
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let target = rustix::fs::openat(parent, name, create, Mode::from_raw_mode(0o666))?;
    mount::attach(hosts, target.as_fd())
}

/// The container's `/dev/null`, proven to be that device: masking with anything else would expose it
/// (CVE-2025-31133).
pub(super) fn null(root: BorrowedFd<'_>, dev: Option<BorrowedFd<'_>>) -> Outcome<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match dev {
        Some(dev) => rustix::fs::openat(dev, c"null", flags, Mode::empty()).map_err(of(Step::Mask))?,
        None => path::open_c(root, c"/dev/null", OFlags::PATH, Mode::empty()).map_err(of(Step::Mask))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(of(Step::Mask))?;
    let is_null =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3);
    if is_null { Ok(fd) } else { Err(Failure::plain(Step::NotNull)) }
}

/// Shows the terminal at `/dev/console` (CVE-2025-52565: on our own tmpfs, by descriptor only).
pub(super) fn console(dev: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> io::Result<()> {
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let target = match rustix::fs::openat(dev, c"console", create, Mode::from_raw_mode(0o666)) {
        Err(Errno::EXIST) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dev, c"console", flags, Mode::empty())?
        }
        other => other?,
    };
    let tree = mount::bind_fd(slave, false)?;
    mount::attach(tree.as_fd(), target.as_fd())
}
