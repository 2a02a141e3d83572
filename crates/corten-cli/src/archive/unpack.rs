//! Unpacking an archive into a directory of ours.
//!
//! What is unpacked comes from a container and is not trusted: every entry is reached through the directory it
//! belongs to with `openat2`, beneath the destination and through no symbolic link.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};

use super::Header;
use super::read::{Reader, bad};

/// Unpacks an archive whose entries all lie under one first name: that name becomes `base` in `dir`.
/// An empty `base` puts the content right into `dir`.
pub(crate) fn unpack(input: impl Read, dir: &Path, base: &OsStr, owners: bool) -> io::Result<()> {
    let root = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut reader = Reader::new(input);
    let mut times: Vec<(PathBuf, i64)> = Vec::new();
    while let Some(header) = reader.next()? {
        let Some(path) = destination(&header.name, base)? else { continue };
        entry(&root, &mut reader, &header, &path, base, owners)?;
        if header.kind == b'5' {
            times.push((path, header.mtime));
        }
    }
    // A directory's time changes with every entry made in it, so it comes last.
    for (path, mtime) in times.into_iter().rev() {
        if let Ok(fd) = beneath(&root, &path) {
            rustix::fs::utimensat(&fd, "", &stamps(mtime), AtFlags::EMPTY_PATH).ok();
        }
    }
    Ok(())
}

/// Where an entry goes, relative to the destination; `None` for the destination itself.
fn destination(name: &[u8], base: &OsStr) -> io::Result<Option<PathBuf>> {
    let mut parts = Vec::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir | Component::RootDir => {}
            _ => {
                return Err(bad(&format!(
                    "entry {:?} leaves the destination",
                    String::from_utf8_lossy(name)
                )));
            }
        }
    }
    let dotted = name.starts_with(b"./") || name == b"." || name.starts_with(b"/");
    let mut path = PathBuf::from(base);
    path.extend(parts.iter().skip(usize::from(!dotted)));
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

fn beneath(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?)
}

fn stamps(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn entry<R: Read>(
    root: &OwnedFd,
    content: &mut Reader<R>,
    header: &Header,
    path: &Path,
    base: &OsStr,
    owners: bool,
) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| bad("entry without a name"))?;
    let parent = beneath(root, path.parent().unwrap_or(Path::new("")))?;
    let mode = Mode::from_raw_mode(header.mode & 0o7777);
    let replace = || match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(io::Error::from(e)),
    };
    match header.kind {
        b'5' => match rustix::fs::mkdirat(&parent, name, mode) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(io::Error::other(format!(
                        "cannot overwrite non-directory {:?} with directory",
                        path.display().to_string()
                    )));
                }
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        },
        b'0' | b'7' | 0 => {
            replace()?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = std::fs::File::from(rustix::fs::openat(&parent, name, flags, mode)?);
            let copied = io::copy(content, &mut file)?;
            if copied != header.size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        b'1' => {
            let target = destination(&header.link, base)?.ok_or_else(|| bad("hard link to the root"))?;
            let from = beneath(root, target.parent().unwrap_or(Path::new("")))?;
            let old = target.file_name().ok_or_else(|| bad("hard link without a name"))?;
            replace()?;
            return Ok(rustix::fs::linkat(&from, old, &parent, name, AtFlags::empty())?);
        }
        b'2' => {
            replace()?;
            rustix::fs::symlinkat(OsStr::from_bytes(&header.link), &parent, name)?;
        }
        kind @ (b'3' | b'4' | b'6') => {
            replace()?;
            let kind = match kind {
                b'3' => FileType::CharacterDevice,
                b'4' => FileType::BlockDevice,
                _ => FileType::Fifo,
            };
            rustix::fs::mknodat(
                &parent,
                name,
                kind,
                mode,
                rustix::fs::makedev(header.device.0, header.device.1),
            )?;
        }
        _ => return Ok(()),
    }
    if owners {
        let (uid, gid) = (Uid::from_raw(header.uid), Gid::from_raw(header.gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if header.kind != b'2' {
        rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(&parent, name, &stamps(header.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
