//! Paths beneath a root directory fd: resolved by `openat2(RESOLVE_IN_ROOT)`, never by the strings of the host.
//!
//! A symbolic link met on the way, absolute or climbing, is resolved within the root, as a process chrooted there
//! would; magic links of procfs are refused.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Flags to open a directory for `*at` calls.
pub(crate) const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Cleans a path lexically, as Go's `filepath.Clean` and `IsLocal`: `None` where a relative path climbs out. The
/// result has neither leading slash nor empty, `.` or `..` components; the root itself is empty.
pub(crate) fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let absolute = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() && !absolute {
                    return None;
                }
            }
            name => parts.push(name),
        }
    }
    Some(parts.join(&b'/'))
}

/// Parent (empty: the root) and last component of a clean path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Joins two clean paths.
pub(crate) fn join(a: &[u8], b: &[u8]) -> Vec<u8> {
    match (a, b) {
        ([], b) => b.to_vec(),
        (a, []) => a.to_vec(),
        (a, b) => [a, b"/", b].concat(),
    }
}

/// Opens beneath the root, following links within it.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    // EAGAIN: something was renamed while the kernel resolved `..`; it asks to be asked again.
    for _ in 0..64 {
        match rustix::fs::openat2(
            root,
            OsStr::from_bytes(path),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens a directory beneath the root, making what is missing (mode 0755, root's); `made` hears of each.
pub(crate) fn make_dirs(
    root: BorrowedFd<'_>,
    path: &[u8],
    made: &mut dyn FnMut(&[u8]),
) -> io::Result<OwnedFd> {
    match open(root, path, DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut end = 0;
    let mut dir = open(root, b"", DIR)?;
    for part in path.split(|b| *b == b'/') {
        end = if end == 0 { part.len() } else { end + 1 + part.len() };
        dir = match open(root, &path[..end], DIR) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                rustix::fs::mkdirat(&dir, OsStr::from_bytes(part), Mode::from_raw_mode(0o755))?;
                let new = child(dir.as_fd(), part, DIR)?;
                rustix::fs::fchmod(&new, Mode::from_raw_mode(0o755))?;
                made(&path[..end]);
                new
            }
            other => other?,
        };
    }
    Ok(dir)
}

/// Opens a direct child; a link is not followed.
pub(crate) fn child(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        OsStr::from_bytes(name),
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Stats a direct child; a link is not followed. `None` where there is none.
pub(crate) fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What sort of file a stat is about.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Removes a direct child, whatever it is, with all that is in it; links are not followed.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, OsStr::from_bytes(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            // The standard library removes trees by fd and without following links; the path names our fd.
            std::fs::remove_dir_all(proc_path(dir).join(OsStr::from_bytes(name)))
        }
        Err(e) => Err(e.into()),
    }
}

/// A path of the host that leads to this very fd.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Names in a directory, sorted; the fd must be open for reading.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// Target of a link that is a direct child.
pub(crate) fn read_link(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new())?.into_bytes())
}

/// One extended attribute of an open file.
pub(crate) fn xattr(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(n) => {
                value.truncate(n);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Names of the extended attributes of an open file.
pub(crate) fn xattr_names(fd: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut list = vec![0u8; 1024];
    loop {
        match rustix::fs::flistxattr(fd, &mut list[..]) {
            Ok(n) => {
                list.truncate(n);
                break;
            }
            Err(Errno::RANGE) if list.len() < 1 << 16 => list.resize(1 << 16, 0),
            Err(Errno::OPNOTSUPP | Errno::BADF) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(list
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .filter_map(|n| String::from_utf8(n.to_vec()).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        for (path, want) in [
            ("a/b", Some("a/b")),
            ("./a//b/.", Some("a/b")),
            ("/a", Some("a")),
            ("/../a", Some("a")),
            ("a/../b", Some("b")),
            ("a/../../b", None),
            ("..", None),
            ("", Some("")),
            ("./", Some("")),
        ] {
            assert_eq!(clean(path.as_bytes()), want.map(|w| w.as_bytes().to_vec()), "{path}");
        }
    }

    #[test]
    fn links_stay_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("abs")).unwrap();
        std::os::unix::fs::symlink("../../../../etc", dir.path().join("climb")).unwrap();
        let root = rustix::fs::open(dir.path(), DIR, Mode::empty()).unwrap();
        for name in ["abs", "climb"] {
            let fd = make_dirs(root.as_fd(), format!("{name}/new-{name}").as_bytes(), &mut |_| {}).unwrap();
            drop(fd);
            assert!(dir.path().join("etc").join(format!("new-{name}")).is_dir());
        }
    }
}
