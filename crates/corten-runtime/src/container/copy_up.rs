//! `tmpcopyup`: a new tmpfs begins with what the image has in its place.
//!
//! Every name is looked up by itself beneath a descriptor and no link is followed, so that the copy stays within the
//! directory whatever is in it. It is done by a process that may not ask for memory: what is needed is on the stack.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Uid};

/// Nesting that is followed.
const MAX_DEPTH: usize = 128;

fn directory(at: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(at, name, flags, Mode::empty())?))
}

/// Copies the contents of one directory into another, which is empty. The umask is 0.
pub(super) fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let (from, to) = (directory(from, c".")?, directory(to, c".")?);
    descend(&from, &to, 0)
}

fn descend(from: &File, to: &File, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::NAMETOOLONG.raw_os_error()));
    }
    let mut room = [const { MaybeUninit::uninit() }; 4096];
    let mut entries = RawDir::new(from, &mut room);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn one(from: &File, to: &File, name: &CStr, depth: usize) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, mode)?;
            descend(&directory(from.as_fd(), name)?, &directory(to.as_fd(), name)?, depth + 1)?;
        }
        FileType::RegularFile => {
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let mut source = File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut copy = File::from(rustix::fs::openat(to, name, write, mode)?);
            io::copy(&mut source, &mut copy)?;
        }
        FileType::Symlink => {
            let mut target = [0; 4096];
            let length = rustix::fs::readlinkat_raw(from, name, &mut target)?;
            // The rest of the room is zeros.
            let target = CStr::from_bytes_until_nul(&target).ok().filter(|t| t.count_bytes() == length);
            rustix::fs::symlinkat(target.ok_or(rustix::io::Errno::NAMETOOLONG)?, to, name)?;
        }
        _ => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind == FileType::Symlink {
        return Ok(());
    }
    // Changing the owner takes set-user-id bits away.
    Ok(rustix::fs::chmodat(to, name, mode, AtFlags::empty())?)
}
