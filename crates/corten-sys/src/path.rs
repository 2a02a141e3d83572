//! Paths beneath a root that somebody else controls: every component is looked up by descriptor, links stay
//! inside, and nothing is created outside whatever is swapped meanwhile.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The name of a descriptor below `/proc`, written without asking for memory.
#[derive(Debug)]
pub struct OfDescriptor {
    text: [u8; 32],
    length: usize,
}

impl OfDescriptor {
    /// `/proc/self/fd/<number>`.
    #[must_use]
    pub fn new(fd: BorrowedFd<'_>) -> Self {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let mut text = [0; 32];
        let mut rest = &mut text[..];
        // It fits: a number has ten digits at most.
        write!(rest, "/proc/self/fd/{}", fd.as_raw_fd()).ok();
        let length = 32 - rest.len();
        Self { text, length }
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// Opens `path` as if `root` were `/`. Magic links of /proc are refused.
///
/// # Errors
/// Those of openat2(2).
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(in_root(root, path, flags, mode)?)
}

/// As [`open`], without asking for memory.
///
/// # Errors
/// Those of [`open`].
pub fn open_c(root: BorrowedFd<'_>, path: &CStr, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    Ok(in_root(root, if path.is_empty() { c"." } else { path }, flags, mode)?)
}

fn in_root(
    root: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            // A rename raced with ".." of the lookup; the kernel asks us to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens `path` below `root` without following any link and without leaving the mount: for /proc and /sys.
///
/// # Errors
/// Those of openat2(2).
pub fn open_strict(root: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: OFlags) -> io::Result<OwnedFd> {
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
/// Those of the system calls; `ELOOP` for more than 40 links, `ENAMETOOLONG` for a path of more than 4096 bytes or 256
/// directories.
pub fn ensure(root: BorrowedFd<'_>, path: &Path, make: Make, mode: Mode) -> io::Result<OwnedFd> {
    ensure_c(root, &CString::new(path.as_os_str().as_bytes())?, make, mode)
}

/// As [`ensure`], without asking for memory.
///
/// # Errors
/// Those of [`ensure`].
pub fn ensure_c(root: BorrowedFd<'_>, path: &CStr, make: Make, mode: Mode) -> io::Result<OwnedFd> {
    match open_c(root, path, OFlags::PATH, Mode::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(walk(root, path.to_bytes(), make, mode)?),
        other => other,
    }
}

/// The rest of a path that is walked: components are taken from its front, the target of a link is put before it.
/// The text ends where the buffer ends.
struct Todo {
    text: [u8; Self::ROOM],
    begin: usize,
}

impl Todo {
    const ROOM: usize = 4096;

    /// Puts `path` before what is left.
    fn put(&mut self, path: &[u8]) -> Result<(), Errno> {
        let begin = self.begin.checked_sub(path.len() + 1).ok_or(Errno::NAMETOOLONG)?;
        self.text[begin..self.begin - 1].copy_from_slice(path);
        self.text[self.begin - 1] = b'/';
        self.begin = begin;
        Ok(())
    }

    /// Takes the next component: where it is in the text. Empty ones and `.` are nothing.
    fn take(&mut self) -> Option<std::ops::Range<usize>> {
        while self.begin < Self::ROOM {
            let rest = &self.text[self.begin..];
            let length = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
            let name = self.begin..self.begin + length;
            self.begin = (name.end + 1).min(Self::ROOM);
            if !matches!(&self.text[name.clone()], b"" | b".") {
                return Some(name);
            }
        }
        None
    }

    fn is_done(&self) -> bool {
        self.text[self.begin..].split(|b| *b == b'/').all(|c| matches!(c, b"" | b"."))
    }
}

/// Directories on the way.
const DEEPEST: usize = 256;

fn walk(root: BorrowedFd<'_>, path: &[u8], make: Make, mode: Mode) -> Result<OwnedFd, Errno> {
    let mut todo = Todo { text: [0; Todo::ROOM], begin: Todo::ROOM };
    todo.put(path)?;
    let mut stack: [Option<OwnedFd>; DEEPEST] = [const { None }; DEEPEST];
    let mut depth = 0;
    let mut links = 0;
    while let Some(name) = todo.take() {
        if &todo.text[name.clone()] == b".." {
            depth = usize::saturating_sub(depth, 1);
            continue;
        }
        let here = depth.checked_sub(1).and_then(|i: usize| stack[i].as_ref()).map_or(root, AsFd::as_fd);
        let next = open_or_make(here, &todo.text[name], todo.is_done(), make, mode)?;
        let stat = rustix::fs::fstat(&next)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // What was deeper before is closed here.
            *stack.get_mut(depth).ok_or(Errno::NAMETOOLONG)? = Some(next);
            depth += 1;
            continue;
        }
        links += 1;
        if links > 40 {
            return Err(Errno::LOOP);
        }
        let mut target = [0; Todo::ROOM];
        let length = rustix::fs::readlinkat_raw(&next, c"", &mut target)?;
        let target = target.get(..length).filter(|_| length < Todo::ROOM).ok_or(Errno::NAMETOOLONG)?;
        if target.starts_with(b"/") {
            depth = 0;
        }
        todo.put(target)?;
    }
    match depth.checked_sub(1) {
        Some(last) => stack[last].take().ok_or(Errno::NOENT),
        None => rustix::io::fcntl_dupfd_cloexec(root, 3),
    }
}

fn open_or_make(
    here: BorrowedFd<'_>,
    name: &[u8],
    last: bool,
    make: Make,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if name.len() > 255 {
        return Err(Errno::NAMETOOLONG);
    }
    match rustix::fs::openat(here, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
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
        Err(e) => return Err(e),
    }
    rustix::fs::openat(here, name, flags, Mode::empty())
}

/// Reads a file below `root`, up to `limit` bytes; more is `FileTooLarge`.
///
/// # Errors
/// Those of openat2(2) and read(2); `InvalidInput` if it is no regular file.
pub fn read_limited(root: BorrowedFd<'_>, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let path = CString::new(path.as_os_str().as_bytes())?;
    open_regular(root, &path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Reads a file below `root` into the room that `bytes` has; more is `FileTooLarge`. Asks for no memory.
///
/// # Errors
/// Those of [`read_limited`].
pub fn read_into(root: BorrowedFd<'_>, path: &CStr, bytes: &mut Vec<u8>) -> io::Result<()> {
    let file = open_regular(root, path)?;
    bytes.clear();
    while bytes.len() < bytes.capacity() {
        match rustix::io::read(&file, rustix::buffer::spare_capacity(bytes)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

fn open_regular(root: BorrowedFd<'_>, path: &CStr) -> io::Result<std::fs::File> {
    // Not blocking: a FIFO in its place must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = open_c(root, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(fd.into())
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
