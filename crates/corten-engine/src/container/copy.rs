//! Fills an empty volume from the image: directory trees beneath directory descriptors.
//!
//! The source is resolved within the image's root, so that links of the image lead nowhere else (CVE-2022-23648);
//! nothing is followed below it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Timestamps, chownat, fchmod, fchown, fstat,
    linkat, mkdirat, mknodat, openat, openat2, readlinkat, statat, symlinkat, utimensat,
};

use crate::error::{Error, Result};

const MAX_DEPTH: usize = 512;

/// Copies what the image has at `inside` into `volume` if that is an empty directory.
pub(super) fn fill(root: BorrowedFd<'_>, inside: &str, volume: &Path) -> Result<()> {
    let fail =
        |e: rustix::io::Errno| Error::io(format!("fill volume {} from the image", volume.display()), e);
    let mut entries =
        std::fs::read_dir(volume).map_err(|e| Error::io(format!("read {}", volume.display()), e))?;
    if entries.next().is_some() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let relative = inside.trim_start_matches('/');
    let source = match openat2(
        root,
        relative,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Ok(fd) => fd,
        // Nothing there, or a file: there is nothing to fill it with.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    let target = openat(CWD, volume, flags, Mode::empty()).map_err(fail)?;
    let mut copy = Copy { links: HashMap::new() };
    copy.directory(&source, &target, 0).map_err(fail)
}

struct Copy {
    /// First name of files with several, relative to the target's root.
    links: HashMap<(u64, u64), (OwnedFd, std::ffi::CString)>,
}

impl Copy {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), rustix::io::Errno> {
        if depth > MAX_DEPTH {
            return Err(rustix::io::Errno::NAMETOOLONG);
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let many = stat.st_nlink > 1 && kind != FileType::Directory;
            if many && let Some((dir, first)) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                linkat(dir, first.as_c_str(), to, name, AtFlags::empty())?;
                continue;
            }
            match kind {
                FileType::Directory => {
                    mkdirat(to, name, Mode::RWXU)?;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let (f, t) =
                        (openat(from, name, flags, Mode::empty())?, openat(to, name, flags, Mode::empty())?);
                    self.directory(&f, &t, depth + 1)?;
                    continue;
                }
                FileType::RegularFile => file(from, to, name)?,
                FileType::Symlink => {
                    let target = readlinkat(from, name, Vec::new())?;
                    symlinkat(target.as_c_str(), to, name)?;
                }
                kind => mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?,
            }
            let (uid, gid) = owner(&stat);
            chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            if kind != FileType::Symlink {
                rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
            }
            utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
            if many {
                let dir = rustix::io::fcntl_dupfd_cloexec(to, 0)?;
                self.links.insert((stat.st_dev, stat.st_ino), (dir, name.to_owned()));
            }
        }
        // Last, because making entries changes the times.
        let stat = fstat(from)?;
        let (uid, gid) = owner(&stat);
        attributes(from.as_fd(), to.as_fd())?;
        fchown(to, Some(uid), Some(gid))?;
        fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        rustix::fs::futimens(to, &times(&stat))
    }
}

fn owner(stat: &rustix::fs::Stat) -> (rustix::fs::Uid, rustix::fs::Gid) {
    (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid))
}

fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let at = |seconds: i64, nanos: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr) -> Result<(), rustix::io::Errno> {
    let source = openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
    let copied = std::io::copy(
        &mut std::fs::File::from(rustix::io::fcntl_dupfd_cloexec(&source, 0)?),
        &mut std::fs::File::from(rustix::io::fcntl_dupfd_cloexec(&target, 0)?),
    );
    if let Err(e) = copied {
        return Err(e.raw_os_error().map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error));
    }
    attributes(source.as_fd(), target.as_fd())
}

/// Extended attributes; those that this file system or user cannot have are left out.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
    use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
    let mut names = vec![0u8; 64 * 1024];
    let Ok(length) = flistxattr(from, &mut names) else { return Ok(()) };
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        // Overlay's own marks mean nothing elsewhere.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0u8; 64 * 1024];
        if let Ok(length) = fgetxattr(from, name, &mut value) {
            let _unsupported = fsetxattr(to, name, &value[..length], XattrFlags::empty());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_copied_once_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (image, volume) = (dir.path().join("image"), dir.path().join("volume"));
        std::fs::create_dir_all(image.join("www/sub")).unwrap();
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(image.join("www/a"), "x").unwrap();
        std::fs::hard_link(image.join("www/a"), image.join("www/sub/b")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", image.join("www/link")).unwrap();
        std::os::unix::fs::symlink("/www", image.join("alias")).unwrap();
        let root = openat(CWD, &image, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        fill(root.as_fd(), "/alias", &volume).unwrap();
        assert_eq!(std::fs::read_to_string(volume.join("a")).unwrap(), "x");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(volume.join("a")).unwrap().nlink(), 2);
        assert_eq!(std::fs::read_link(volume.join("link")).unwrap(), Path::new("/etc/passwd"));
        std::fs::write(image.join("www/new"), "y").unwrap();
        fill(root.as_fd(), "/www", &volume).unwrap();
        assert!(!volume.join("new").exists());
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        fill(root.as_fd(), "/nope", &empty).unwrap();
        fill(root.as_fd(), "/../../../../etc", &empty).unwrap();
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
    }
}
