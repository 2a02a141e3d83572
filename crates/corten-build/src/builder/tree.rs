//! Files beneath directory fds: resolve, hash, find, copy.
//!
//! Every path is resolved by `openat2(RESOLVE_IN_ROOT)`: links of a context or an image, whatever they say, stay
//! within it. Nothing here follows a link that is itself being copied.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use corten_base::Cancel;
use corten_base::ignore::Ignore;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::owner::ModeChange;
use crate::error::{At, BuildError};

/// Deepest tree.
const DEPTH: usize = 1000;
/// Most paths that one pattern may find.
const FOUND: usize = 100_000;
const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A clean relative path: no leading slash, no `.` or `..`; empty for the root. `None` where it climbs out.
pub(crate) fn clean(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Opens beneath a root; links are followed within it.
pub(crate) fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    for _ in 0..64 {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: something was renamed meanwhile.
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Stat beneath a root, links followed; `None` where there is nothing.
pub(crate) fn stat(root: BorrowedFd<'_>, path: &str) -> io::Result<Option<Stat>> {
    match open(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(rustix::fs::fstat(fd)?)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Makes a directory and what leads to it; new ones belong to `owner`. A link on the way that leads to nothing is
/// followed within the root, and what it names is made (`/var/run -> /run` in an image without `/run`).
pub(crate) fn make_dirs(root: BorrowedFd<'_>, path: &str, owner: (u32, u32)) -> io::Result<()> {
    make_dirs_through(root, path, owner, 0)
}

/// Links followed on the way to one directory, as in the kernel.
const LINKS: usize = 40;

fn make_dirs_through(root: BorrowedFd<'_>, path: &str, owner: (u32, u32), links: usize) -> io::Result<()> {
    let mut end = 0;
    let mut parent = open(root, "", DIR)?;
    for part in path.split('/').filter(|p| !p.is_empty()) {
        let before = &path[..end];
        end = if end == 0 { part.len() } else { end + 1 + part.len() };
        parent = match open(root, &path[..end], DIR) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {
                        let new = rustix::fs::openat(&parent, part, DIR | OFlags::NOFOLLOW, Mode::empty())?;
                        rustix::fs::fchmod(&new, Mode::from_raw_mode(0o755))?;
                        own(new.as_fd(), owner)?;
                        new
                    }
                    Err(Errno::EXIST) if links < LINKS => {
                        let link = rustix::fs::readlinkat(&parent, part, Vec::new())?;
                        let link = link.to_str().map_err(io::Error::other)?;
                        let target =
                            if link.starts_with('/') { link.to_owned() } else { format!("{before}/{link}") };
                        // A root's `..` is the root.
                        let target = crate::config::join("/", &target);
                        make_dirs_through(root, target.trim_start_matches('/'), owner, links + 1)?;
                        open(root, &path[..end], DIR)?
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            other => other?,
        };
    }
    Ok(())
}

fn own(fd: BorrowedFd<'_>, owner: (u32, u32)) -> io::Result<()> {
    Ok(rustix::fs::fchown(fd, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?)
}

/// Sorted names in an open directory.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            out.push(name.to_vec());
        }
    }
    out.sort();
    Ok(out)
}

/// Paths beneath a root that a pattern with `* ? [ ] **` matches, sorted.
pub(crate) fn glob(root: BorrowedFd<'_>, pattern: &str) -> Result<Vec<String>, BuildError> {
    let mut found = vec![String::new()];
    for part in pattern.split('/') {
        let mut next = Vec::new();
        if !part.contains(['*', '?', '[', '\\']) {
            for base in &found {
                let path = if base.is_empty() { part.to_owned() } else { format!("{base}/{part}") };
                if stat(root, &path).at("stat", &path)?.is_some() {
                    next.push(path);
                }
            }
            found = next;
            continue;
        }
        // A leading `!` would turn the pattern round.
        let escaped = part.strip_prefix('!').map_or_else(|| part.to_owned(), |rest| format!("[!]{rest}"));
        let matcher =
            Ignore::from_patterns([escaped.as_str()]).map_err(|e| BuildError::invalid(e.to_string()))?;
        for base in &found {
            if part == "**" {
                next.push(base.clone());
                below(root, base, 0, &mut next)?;
                continue;
            }
            for name in names_at(root, base)? {
                if matcher.excludes(&name) {
                    next.push(if base.is_empty() { name } else { format!("{base}/{name}") });
                }
            }
        }
        if next.len() > FOUND {
            return Err(BuildError::invalid(format!("pattern {pattern:?} finds too many files")));
        }
        found = next;
    }
    found.retain(|p| !p.is_empty());
    found.sort();
    found.dedup();
    Ok(found)
}

fn names_at(root: BorrowedFd<'_>, path: &str) -> Result<Vec<String>, BuildError> {
    match open(root, path, DIR) {
        Ok(dir) => {
            let names = names(dir.as_fd()).at("list", path)?;
            Ok(names.into_iter().filter_map(|n| String::from_utf8(n).ok()).collect())
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(e).at("open", path),
    }
}

/// All directories below `base`, links not followed.
fn below(root: BorrowedFd<'_>, base: &str, depth: usize, out: &mut Vec<String>) -> Result<(), BuildError> {
    if depth > DEPTH || out.len() > FOUND {
        return Err(BuildError::invalid("a pattern with ** finds too many directories"));
    }
    let dir = match open(root, base, DIR) {
        Ok(dir) => dir,
        Err(_) => return Ok(()),
    };
    for name in names(dir.as_fd()).at("list", base)? {
        let Ok(text) = std::str::from_utf8(&name) else { continue };
        let stat = rustix::fs::statat(&dir, text, AtFlags::SYMLINK_NOFOLLOW).at("stat", &name)?;
        if is_dir(&stat) {
            let path = if base.is_empty() { text.to_owned() } else { format!("{base}/{text}") };
            out.push(path.clone());
            below(root, &path, depth + 1, out)?;
        }
    }
    Ok(())
}

/// Hash of a file or tree: names, types, modes, link targets, contents; neither times nor owners.
pub(crate) fn hash(
    root: BorrowedFd<'_>,
    path: &str,
    exclude: &Ignore,
    cancel: &Cancel,
) -> Result<(&'static str, String), BuildError> {
    let fd = open(root, path, OFlags::PATH).at("open", path)?;
    let stat = rustix::fs::fstat(&fd).at("stat", path)?;
    let mut hasher = Sha256::new();
    if is_dir(&stat) {
        let dir = open(root, path, DIR).at("open", path)?;
        hash_dir(dir.as_fd(), "", exclude, &mut hasher, 0, cancel)?;
        return Ok(("dir", hex::encode(hasher.finalize())));
    }
    hasher.update(format!("{:o}\0{}\0", stat.st_mode, stat.st_size));
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        hash_file(open(root, path, OFlags::RDONLY).at("open", path)?, &mut hasher).at("read", path)?;
    }
    Ok(("file", hex::encode(hasher.finalize())))
}

fn hash_dir(
    dir: BorrowedFd<'_>,
    relative: &str,
    exclude: &Ignore,
    hasher: &mut Sha256,
    depth: usize,
    cancel: &Cancel,
) -> Result<(), BuildError> {
    if depth > DEPTH {
        return Err(BuildError::invalid("directory tree is too deep"));
    }
    if cancel.is_cancelled() {
        return Err(BuildError::Cancelled);
    }
    for name in names(dir).at("list", relative)? {
        let path = joined(relative, &name);
        if exclude.excludes(&path) && !exclude.may_include_below(&path) {
            continue;
        }
        let os = OsStr::from_bytes(&name);
        let stat = rustix::fs::statat(dir, os, AtFlags::SYMLINK_NOFOLLOW).at("stat", &path)?;
        hasher.update((path.len() as u64).to_be_bytes());
        hasher.update(path.as_bytes());
        hasher.update(format!("{:o}\0", stat.st_mode));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let child =
                    rustix::fs::openat(dir, os, DIR | OFlags::NOFOLLOW, Mode::empty()).at("open", &path)?;
                hash_dir(child.as_fd(), &path, exclude, hasher, depth + 1, cancel)?;
            }
            FileType::RegularFile => {
                hasher.update(stat.st_size.to_be_bytes());
                let file = rustix::fs::openat(
                    dir,
                    os,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                );
                hash_file(file.at("open", &path)?, hasher).at("read", &path)?;
            }
            FileType::Symlink => {
                hasher.update(rustix::fs::readlinkat(dir, os, Vec::new()).at("read link", &path)?.as_bytes());
            }
            _ => hasher.update(stat.st_rdev.to_be_bytes()),
        }
        hasher.update([0]);
    }
    Ok(())
}

fn hash_file(fd: OwnedFd, hasher: &mut Sha256) -> io::Result<()> {
    let mut file = File::from(fd);
    let mut block = vec![0; 128 << 10];
    loop {
        let n = file.read(&mut block)?;
        if n == 0 {
            return Ok(());
        }
        hasher.update(&block[..n]);
    }
}

fn joined(relative: &str, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    if relative.is_empty() { name.into_owned() } else { format!("{relative}/{name}") }
}

/// Copies into a root.
pub(crate) struct Copier<'a> {
    pub(crate) to: BorrowedFd<'a>,
    pub(crate) owner: (u32, u32),
    pub(crate) mode: Option<&'a ModeChange>,
    pub(crate) exclude: &'a Ignore,
    pub(crate) cancel: &'a Cancel,
    /// First copy of each file that has several names.
    pub(crate) links: HashMap<(u64, u64), String>,
}

impl Copier<'_> {
    /// Copies one file or link target to exactly `target`; directories that lead there are made.
    pub(crate) fn file(&mut self, from: BorrowedFd<'_>, path: &str, target: &str) -> Result<(), BuildError> {
        let (parent, name) = target.rsplit_once('/').unwrap_or(("", target));
        make_dirs(self.to, parent, self.owner).at("mkdir", parent)?;
        let source = open(from, path, OFlags::PATH).at("open", path)?;
        let stat = rustix::fs::fstat(&source).at("stat", path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(BuildError::invalid(format!("{path:?} is not a regular file")));
        }
        let data = open(from, path, OFlags::RDONLY).at("open", path)?;
        let dir = open(self.to, parent, DIR).at("open", parent)?;
        self.regular(data, &stat, dir.as_fd(), name.as_bytes())
    }

    /// Copies what is in a directory into `target`, which is made if it is not there.
    pub(crate) fn contents(
        &mut self,
        from: BorrowedFd<'_>,
        path: &str,
        target: &str,
    ) -> Result<(), BuildError> {
        make_dirs(self.to, target, self.owner).at("mkdir", target)?;
        let source = open(from, path, DIR).at("open", path)?;
        self.directory(source.as_fd(), "", target, 0)
    }

    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        relative: &str,
        target: &str,
        depth: usize,
    ) -> Result<(), BuildError> {
        if depth > DEPTH {
            return Err(BuildError::invalid("directory tree is too deep"));
        }
        if self.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        let to = open(self.to, target, DIR).at("open", target)?;
        for name in names(from).at("list", target)? {
            let path = joined(relative, &name);
            let excluded = self.exclude.excludes(&path);
            if excluded && !self.exclude.may_include_below(&path) {
                continue;
            }
            self.entry(from, &name, &path, to.as_fd(), &joined(target, &name), excluded, depth)?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one entry in both trees; a struct would only rename this")]
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        name: &[u8],
        path: &str,
        to: BorrowedFd<'_>,
        target: &str,
        excluded: bool,
        depth: usize,
    ) -> Result<(), BuildError> {
        let os = OsStr::from_bytes(name);
        let stat = rustix::fs::statat(from, os, AtFlags::SYMLINK_NOFOLLOW).at("stat", path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let source =
                rustix::fs::openat(from, os, DIR | OFlags::NOFOLLOW, Mode::empty()).at("open", path)?;
            if excluded {
                // Only what is taken back in below it makes it appear, with its parents.
                return self.directory_if_any(source.as_fd(), path, target, depth);
            }
            self.make_dir(to, os, target, &stat, source.as_fd())?;
            return self.directory(source.as_fd(), path, target, depth + 1);
        }
        if excluded {
            return Ok(());
        }
        if kind == FileType::RegularFile && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                let first = open(self.to, first, OFlags::PATH).at("open", first)?;
                remove(to, name).at("remove", target)?;
                return rustix::fs::linkat(&first, "", to, os, AtFlags::EMPTY_PATH).at("link", target);
            }
            self.links.insert(key, target.to_owned());
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let data = rustix::fs::openat(from, os, flags, Mode::empty()).at("open", path)?;
                self.regular(data, &stat, to, name)
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, os, Vec::new()).at("read link", path)?;
                remove(to, name).at("remove", target)?;
                rustix::fs::symlinkat(link, to, os).at("symlink", target)?;
                self.dress_link(to, os, &stat).at("chown", target)
            }
            FileType::Socket | FileType::Unknown => Ok(()),
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice | FileType::Directory => {
                remove(to, name).at("remove", target)?;
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, os, kind, mode, stat.st_rdev).at("mknod", target)?;
                self.dress_link(to, os, &stat).at("chown", target)
            }
        }
    }

    fn directory_if_any(
        &mut self,
        from: BorrowedFd<'_>,
        path: &str,
        target: &str,
        depth: usize,
    ) -> Result<(), BuildError> {
        let included = |name: &Vec<u8>| {
            let path = joined(path, name);
            !self.exclude.excludes(&path) || self.exclude.may_include_below(&path)
        };
        if !names(from).at("list", path)?.iter().any(included) {
            return Ok(());
        }
        make_dirs(self.to, target, self.owner).at("mkdir", target)?;
        self.directory(from, path, target, depth + 1)
    }

    fn make_dir(
        &mut self,
        to: BorrowedFd<'_>,
        name: &OsStr,
        target: &str,
        stat: &Stat,
        source: BorrowedFd<'_>,
    ) -> Result<(), BuildError> {
        // A link that leads to a directory of the image stays one: `/bin -> usr/bin` must survive `COPY root/ /`.
        match super::tree::stat(self.to, target).at("stat", target)? {
            Some(there) if is_dir(&there) => {
                let own = rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW).at("stat", target)?;
                if !is_dir(&own) {
                    return Ok(());
                }
            }
            _ => {
                remove(to, name.as_bytes()).at("remove", target)?;
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).at("mkdir", target)?;
            }
        }
        let fd = rustix::fs::openat(to, name, DIR | OFlags::NOFOLLOW, Mode::empty()).at("open", target)?;
        self.dress(fd.as_fd(), stat, source).at("set attributes of", target)
    }

    fn regular(
        &mut self,
        data: OwnedFd,
        stat: &Stat,
        to: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), BuildError> {
        remove(to, name).at("remove", name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = rustix::fs::openat(to, OsStr::from_bytes(name), flags, Mode::from_raw_mode(0o600))
            .at("create", name)?;
        let (mut source, mut new) = (File::from(data), File::from(new));
        io::copy(&mut source, &mut new).at("copy", name)?;
        self.dress(new.as_fd(), stat, source.as_fd()).at("set attributes of", name)
    }

    /// Owner, mode, attributes, time: in this order, because each undoes some of those after it.
    fn dress(&self, fd: BorrowedFd<'_>, stat: &Stat, source: BorrowedFd<'_>) -> io::Result<()> {
        own(fd, self.owner)?;
        let mode = stat.st_mode & 0o7777;
        let mode = self.mode.map_or(mode, |m| m.apply(mode, is_dir(stat)));
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
        copy_attributes(source, fd)?;
        Ok(rustix::fs::futimens(fd, &times(stat))?)
    }

    fn dress_link(&self, to: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn times(stat: &Stat) -> Timestamps {
    let modified = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: modified, last_modification: modified }
}

/// `user.*` and file capabilities.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut list = vec![0; 4096];
    let length = match rustix::fs::flistxattr(from, &mut list[..]) {
        Ok(length) => length,
        // None, or more than is reasonable.
        Err(Errno::OPNOTSUPP | Errno::RANGE | Errno::BADF) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    for name in list[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let wanted = name == b"security.capability" || name.starts_with(b"user.");
        if !wanted {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Removes a child, whatever it is; none is a success.
fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let os = OsStr::from_bytes(name);
    match rustix::fs::unlinkat(dir, os, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => remove_tree(dir, os, 0),
        Err(e) => Err(e.into()),
    }
}

fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::Error::other("directory tree is too deep"));
    }
    let child = rustix::fs::openat(dir, name, DIR | OFlags::NOFOLLOW, Mode::empty())?;
    for inner in names(child.as_fd())? {
        let inner = OsStr::from_bytes(&inner);
        match rustix::fs::unlinkat(&child, inner, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(child.as_fd(), inner, depth + 1)?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}
