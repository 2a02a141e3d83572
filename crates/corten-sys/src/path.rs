//! Paths beneath a root that somebody else controls: every component is looked up by descriptor, links stay
//! inside, and nothing is created outside whatever is swapped meanwhile.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens `path` as if `root` were `/`. Magic links of /proc are refused.
///
/// # Errors
/// Those of openat2(2).
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            // A rename raced with ".." of the lookup; the kernel asks us to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens `path` below `root` without following any link and without leaving the mount: for /proc and /sys.
///
/// # Errors
/// Those of openat2(2).
pub fn open_strict(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// What [`ensure`] makes where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// A descriptor (`O_PATH`) of `path` below `root`; missing parents and the last component are made.
///
/// # Errors
/// Those of the system calls; `ELOOP` for more than 40 links.
pub fn ensure(root: BorrowedFd<'_>, path: &Path, make: Make, mode: Mode) -> io::Result<OwnedFd> {
    match open(root, path, OFlags::PATH, Mode::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => walk(root, path, make, mode),
        other => other,
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn walk(root: BorrowedFd<'_>, path: &Path, make: Make, mode: Mode) -> io::Result<OwnedFd> {
    let mut todo = components(path);
    let mut stack = vec![root.try_clone_to_owned()?];
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().map_or(root, |fd| fd.as_fd());
        let next = open_or_make(here, &name, todo.is_empty(), make, mode)?;
        let stat = rustix::fs::fstat(&next)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            stack.push(next);
            continue;
        }
        links += 1;
        if links > 40 {
            return Err(Errno::LOOP.into());
        }
        let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_owned();
        if target.is_absolute() {
            stack.truncate(1);
        }
        let mut rest = components(&target);
        rest.extend(std::mem::take(&mut todo));
        todo = rest;
    }
    stack.pop().ok_or_else(|| Errno::NOENT.into())
}

fn open_or_make(
    here: BorrowedFd<'_>,
    name: &OsStr,
    last: bool,
    make: Make,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(here, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let made = if last && make == Make::File {
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(here, name, create, mode).map(drop)
    } else {
        let mode = if last { mode } else { Mode::from_raw_mode(0o755) };
        rustix::fs::mkdirat(here, name, mode)
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(rustix::fs::openat(here, name, flags, Mode::empty())?)
}

/// Reads a file below `root`, up to `limit` bytes; more is `FileTooLarge`.
///
/// # Errors
/// Those of openat2(2) and read(2); `InvalidInput` if it is no regular file.
pub fn read_limited(root: BorrowedFd<'_>, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    // Not blocking: a FIFO in its place must not hold us up.
    let fd = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// The absolute path behind a descriptor as the kernel knows it, for messages.
///
/// # Errors
/// Those of readlink(2).
pub fn name_of(fd: BorrowedFd<'_>) -> io::Result<std::path::PathBuf> {
    use std::os::fd::AsRawFd;
    let link =
        rustix::fs::readlinkat(rustix::fs::CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(OsString::from_vec(link.into_bytes()).into())
}

/// Removes a name below a directory descriptor; that it was not there is a success.
///
/// # Errors
/// Those of unlinkat(2).
pub fn ensure_absent(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_and_missing_parts_are_made() {
        let base = std::env::temp_dir().join(format!("corten-path-{}", std::process::id()));
        let root = base.join("root");
        std::fs::create_dir_all(root.join("a")).unwrap();
        symlink("/etc", root.join("abs")).unwrap();
        symlink("../../../..", root.join("up")).unwrap();
        symlink("/loop", root.join("loop")).unwrap();
        let fd = std::fs::File::open(&root).unwrap();
        let mode = Mode::from_raw_mode(0o755);
        for (path, wanted) in [("/a/b/c", "a/b/c"), ("abs/made", "etc/made"), ("up/x", "x"), ("../../y", "y")]
        {
            let made = ensure(fd.as_fd(), Path::new(path), Make::Directory, mode).unwrap();
            assert_eq!(name_of(made.as_fd()).unwrap(), root.join(wanted), "{path}");
        }
        ensure(fd.as_fd(), Path::new("/f/file"), Make::File, mode).unwrap();
        assert!(root.join("f/file").is_file());
        assert!(ensure(fd.as_fd(), Path::new("/loop/x"), Make::File, mode).is_err());
        std::fs::write(root.join("big"), [0; 100]).unwrap();
        assert!(read_limited(fd.as_fd(), Path::new("/big"), 99).is_err());
        assert_eq!(read_limited(fd.as_fd(), Path::new("/big"), 100).unwrap().len(), 100);
        std::fs::remove_dir_all(base).unwrap();
    }
}
