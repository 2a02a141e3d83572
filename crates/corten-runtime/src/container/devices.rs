//! `/dev`: nodes, links, and the console. Everything is made relative to the descriptor of our own tmpfs, so a
//! link that the image has at `/dev` is never followed (CVE-2026-41579).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::{mount, path};
use corten_wire::oci_runtime::Device;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

use crate::fault::StepError;

const STANDARD: [(&str, i64, i64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

fn failed(name: &Path) -> impl Fn(Errno) -> StepError {
    let name = name.to_owned();
    move |e| StepError::os("device", format!("error creating device {}", name.display()), &e.into())
}

/// Fills our own `/dev`, and makes the devices that belong elsewhere below `root`. The umask is 0.
pub(super) fn populate(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, extra: &[Device]) -> Result<(), StepError> {
    let given = |path: &Path| extra.iter().any(|d| d.path == path);
    for (name, major, minor) in STANDARD {
        let full = Path::new("/dev").join(name);
        if !given(&full) {
            let mode = Mode::from_raw_mode(0o666);
            let number = makedev(major as u32, minor as u32);
            match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, number) {
                Err(Errno::PERM) => bind(dev, Path::new(name), &full, FileType::CharacterDevice, number)
                    .map_err(failed(&full))?,
                other => other.map_err(failed(&full))?,
            }
        }
    }
    for device in extra {
        node(root, dev, device)?;
    }
    for (target, name) in LINKS {
        match rustix::fs::symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(Path::new(name))(e)),
        }
    }
    Ok(())
}

/// Shows the host's node, where the kernel lets nobody make one: in a user namespace.
fn bind(parent: BorrowedFd<'_>, name: &Path, path: &Path, kind: FileType, number: u64) -> Result<(), Errno> {
    let io = |e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let is_it = |fd: &OwnedFd| {
        rustix::fs::fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == kind && s.st_rdev == number)
    };
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let same = open(path).ok().filter(is_it);
    let source = match same {
        Some(fd) => fd,
        None => {
            named_by_kernel(kind, number).and_then(|p| open(&p).ok()).filter(is_it).ok_or(Errno::NOENT)?
        }
    };
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let target = rustix::fs::openat(parent, name, create, Mode::from_raw_mode(0o666))?;
    let tree = mount::bind_fd(source.as_fd(), false).map_err(io)?;
    mount::attach(tree.as_fd(), target.as_fd()).map_err(io)
}

/// Where the host has the device of a number.
fn named_by_kernel(kind: FileType, number: u64) -> Option<PathBuf> {
    let kind = if kind == FileType::BlockDevice { "block" } else { "char" };
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let facts = std::fs::read_to_string(format!("/sys/dev/{kind}/{major}:{minor}/uevent")).ok()?;
    facts.lines().find_map(|l| l.strip_prefix("DEVNAME=")).map(|name| Path::new("/dev").join(name))
}

fn node(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, device: &Device) -> Result<(), StepError> {
    let fail = failed(&device.path);
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(StepError::new("device", format!("invalid device type {other:?}"))),
    };
    let (base, relative) = match device.path.strip_prefix("/dev") {
        Ok(relative) => (dev, relative.to_owned()),
        Err(_) => (root, device.path.clone()),
    };
    let Some(name) = relative.file_name().map(PathBuf::from) else {
        return Err(fail(Errno::INVAL));
    };
    let directory = relative.parent().filter(|p| !p.as_os_str().is_empty() && *p != Path::new("/"));
    let parent = match directory {
        Some(d) => path::ensure(base, d, path::Make::Directory, Mode::from_raw_mode(0o755))
            .map_err(|e| StepError::os("device", format!("error creating {}", d.display()), &e))?,
        None => base.try_clone_to_owned().map_err(|e| StepError::os("device", "dup", &e))?,
    };
    let number = |n: i64| u32::try_from(n).map_err(|_| failed(&device.path)(Errno::INVAL));
    let number = makedev(number(device.major)?, number(device.minor)?);
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
    match rustix::fs::mknodat(&parent, &name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        // It is the host's then, with the owner that it has there.
        Err(Errno::PERM) if kind != FileType::Fifo => {
            return bind(parent.as_fd(), &name, &device.path, kind, number).map_err(fail);
        }
        Err(e) => return Err(fail(e)),
    }
    let uid = rustix::fs::Uid::from_raw(device.uid.unwrap_or(0));
    let gid = rustix::fs::Gid::from_raw(device.gid.unwrap_or(0));
    rustix::fs::chownat(&parent, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)
}

/// The container's `/dev/null`, proven to be that device: masking with anything else would expose it
/// (CVE-2025-31133).
pub(super) fn null(root: BorrowedFd<'_>, dev: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let fd = match dev {
        Some(dev) => {
            rustix::fs::openat(dev, "null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?
        }
        None => path::open(root, Path::new("/dev/null"), OFlags::PATH, Mode::empty())?,
    };
    let stat = rustix::fs::fstat(&fd)?;
    let is_null =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3);
    if is_null {
        Ok(fd)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/null is not the null device"))
    }
}

/// Shows the terminal at `/dev/console` (CVE-2025-52565: on our own tmpfs, by descriptor only).
pub(super) fn console(dev: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> io::Result<()> {
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let target = match rustix::fs::openat(dev, "console", create, Mode::from_raw_mode(0o666)) {
        Err(rustix::io::Errno::EXIST) => rustix::fs::openat(
            dev,
            "console",
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?,
        other => other?,
    };
    let tree = mount::bind_fd(slave, false)?;
    mount::attach(tree.as_fd(), target.as_fd())
}
