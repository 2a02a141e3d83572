//! Files of a client written beneath a directory.
//!
//! The directory may hold what an earlier build of the same client brought: a file that has not changed is not asked
//! for again, and what is no longer there goes. Every path is resolved without following links, so nothing that a
//! client says leads out of the directory.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::super::tree;
use crate::error::{At, BuildError};
use crate::solve::{FileSink, FileStat};

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// Most files of one context.
const FILES: usize = 5_000_000;

/// See the module.
pub(crate) struct Receiver {
    root: OwnedFd,
    number: u32,
    /// What the client has, for `finish`.
    seen: BTreeSet<String>,
    /// Files whose content is on its way.
    open: HashMap<u32, Pending>,
    /// Times of directories: what is written in them changes them.
    directories: Vec<(String, i64)>,
    /// Further names of files; made when the files are complete.
    links: Vec<(String, String)>,
    /// Bytes that came.
    pub(crate) bytes: u64,
}

struct Pending {
    file: Option<File>,
    stat: FileStat,
}

impl Receiver {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            number: 0,
            seen: BTreeSet::new(),
            open: HashMap::new(),
            directories: Vec::new(),
            links: Vec::new(),
            bytes: 0,
        }
    }

    /// Removes what the client has no longer, and sets the times of directories.
    pub(crate) fn finish(&mut self) -> Result<(), BuildError> {
        if !self.open.is_empty() {
            return Err(BuildError::invalid("the client did not send all files it was asked for"));
        }
        for (path, first) in std::mem::take(&mut self.links) {
            let ((from, first), (to, name)) = (self.place(&first)?, self.place(&path)?);
            rustix::fs::linkat(&from, first, &to, name, AtFlags::empty()).at("link", &path)?;
        }
        self.prune("")?;
        for (path, modified) in std::mem::take(&mut self.directories).into_iter().rev() {
            let dir = self.directory(&path)?;
            rustix::fs::futimens(&dir, &times(modified)).at("set time of", &path)?;
        }
        Ok(())
    }

    fn prune(&self, path: &str) -> Result<(), BuildError> {
        let dir = self.directory(path)?;
        for name in tree::names(dir.as_fd()).at("list", path)? {
            let Ok(name) = String::from_utf8(name) else { continue };
            let child = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if !self.seen.contains(&child) {
                remove(dir.as_fd(), &name).at("remove", &child)?;
                continue;
            }
            let stat =
                rustix::fs::statat(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).at("stat", &child)?;
            if tree::is_dir(&stat) {
                self.prune(&child)?;
            }
        }
        Ok(())
    }

    /// Opens a directory beneath the root; no link is followed on the way.
    fn directory(&self, path: &str) -> Result<OwnedFd, BuildError> {
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, DIR, Mode::empty(), resolve).at("open", path)
    }

    fn place<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), BuildError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.directory(parent)?, name))
    }

    /// Makes the entry; whether its content is wanted.
    fn make(&mut self, stat: &FileStat) -> Result<bool, BuildError> {
        let path = &stat.path;
        let (parent, name) = self.place(path)?;
        let before = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(before) => Some(before),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e).at("stat", path),
        };
        let mode = Mode::from_raw_mode(stat.mode & 0o7777);
        let kind = FileType::from_raw_mode(stat.mode);
        if kind == FileType::Directory {
            if !before.as_ref().is_some_and(tree::is_dir) {
                replace(parent.as_fd(), name, before.as_ref()).at("remove", path)?;
                rustix::fs::mkdirat(&parent, name, mode).at("mkdir", path)?;
            }
            let dir = rustix::fs::openat(&parent, name, DIR, Mode::empty()).at("open", path)?;
            rustix::fs::fchmod(&dir, mode).at("chmod", path)?;
            self.directories.push((path.clone(), stat.modified_ns));
            return Ok(false);
        }
        if kind == FileType::RegularFile && stat.link.is_empty() {
            if before.as_ref().is_some_and(|b| is_same(b, stat)) {
                return Ok(false);
            }
            replace(parent.as_fd(), name, before.as_ref()).at("remove", path)?;
            return Ok(true);
        }
        replace(parent.as_fd(), name, before.as_ref()).at("remove", path)?;
        match kind {
            FileType::Symlink => {
                rustix::fs::symlinkat(stat.link.as_str(), &parent, name).at("symlink", path)?;
            }
            FileType::RegularFile => {
                let first = tree::clean(&stat.link).ok_or_else(|| outside(&stat.link))?;
                self.links.push((path.clone(), first));
                return Ok(false);
            }
            FileType::Fifo | FileType::Socket => {
                rustix::fs::mknodat(&parent, name, FileType::Fifo, mode, 0).at("mknod", path)?;
            }
            // A context has no business with devices of the host.
            _ => {
                self.seen.remove(path);
                return Ok(false);
            }
        }
        let times = times(stat.modified_ns);
        rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).at("set time of", path)?;
        Ok(false)
    }

    fn complete(&self, mut pending: Pending) -> Result<(), BuildError> {
        let path = &pending.stat.path;
        let file = match pending.file.take() {
            Some(file) => file,
            // It is empty.
            None => self.create(path)?,
        };
        for (name, value) in &pending.stat.xattrs {
            // Those of users only: others change what the kernel allows the file to do.
            if name.starts_with("user.") {
                rustix::fs::fsetxattr(&file, name.as_str(), value, rustix::fs::XattrFlags::empty())
                    .at("set attribute of", path)?;
            }
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(pending.stat.mode & 0o7777)).at("chmod", path)?;
        rustix::fs::futimens(&file, &times(pending.stat.modified_ns)).at("set time of", path)
    }

    fn create(&self, path: &str) -> Result<File, BuildError> {
        let (parent, name) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600)).at("create", path)?;
        Ok(File::from(fd))
    }
}

impl FileSink for Receiver {
    fn stat(&mut self, mut stat: FileStat) -> Result<bool, BuildError> {
        let number = self.number;
        self.number += 1;
        if self.seen.len() >= FILES {
            return Err(BuildError::invalid("the build context has too many files"));
        }
        let clean = tree::clean(&stat.path).filter(|c| !c.is_empty());
        stat.path = clean.ok_or_else(|| outside(&stat.path))?;
        self.seen.insert(stat.path.clone());
        let wanted = self.make(&stat)?;
        if wanted {
            self.open.insert(number, Pending { file: None, stat });
        }
        Ok(wanted)
    }

    fn data(&mut self, number: u32, bytes: &[u8]) -> Result<(), BuildError> {
        let unasked = || BuildError::invalid("the client sent a file it was not asked for");
        if bytes.is_empty() {
            let pending = self.open.remove(&number).ok_or_else(unasked)?;
            return self.complete(pending);
        }
        self.bytes += bytes.len() as u64;
        let path = &self.open.get(&number).ok_or_else(unasked)?.stat.path;
        let new = match &self.open[&number].file {
            Some(_) => None,
            None => Some(self.create(path)?),
        };
        let pending = self.open.get_mut(&number).ok_or_else(unasked)?;
        let file = match new {
            Some(file) => pending.file.insert(file),
            None => pending.file.as_mut().ok_or_else(unasked)?,
        };
        file.write_all(bytes).at("write", &pending.stat.path)
    }
}

fn outside(path: &str) -> BuildError {
    BuildError::OutsideContext(path.to_owned())
}

fn times(modified_ns: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: modified_ns.div_euclid(1_000_000_000),
        tv_nsec: modified_ns.rem_euclid(1_000_000_000),
    };
    Timestamps { last_access: time, last_modification: time }
}

/// Whether a file is as the client says; its content is then taken to be the same, as rsync does.
fn is_same(before: &Stat, stat: &FileStat) -> bool {
    let modified = i128::from(before.st_mtime) * 1_000_000_000 + i128::from(before.st_mtime_nsec);
    before.st_mode & 0o177_777 == stat.mode & 0o177_777
        && u64::try_from(before.st_size) == Ok(stat.size)
        && modified == i128::from(stat.modified_ns)
        && before.st_nlink == 1
}

fn replace(parent: std::os::fd::BorrowedFd<'_>, name: &str, before: Option<&Stat>) -> std::io::Result<()> {
    if before.is_some() { remove(parent, name) } else { Ok(()) }
}

/// Removes a file or a tree; links are not followed.
fn remove(parent: std::os::fd::BorrowedFd<'_>, name: &str) -> std::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return Ok(other?),
    }
    let dir = rustix::fs::openat(parent, name, DIR, Mode::empty())?;
    for child in tree::names(dir.as_fd())? {
        remove(dir.as_fd(), &String::from_utf8_lossy(&child))?;
    }
    drop(dir);
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(path: &str, mode: u32, size: u64, link: &str) -> FileStat {
        FileStat {
            path: path.into(),
            mode,
            size,
            modified_ns: 1_000_000_007,
            link: link.into(),
            ..FileStat::default()
        }
    }

    fn receive(dir: &std::path::Path, files: &[(FileStat, &[u8])]) -> Result<Vec<bool>, BuildError> {
        let mut receiver = Receiver::new(File::open(dir).unwrap().into());
        let mut asked = Vec::new();
        for (stat, _) in files {
            asked.push(receiver.stat(stat.clone())?);
        }
        for (i, (_, content)) in files.iter().enumerate().filter(|(i, _)| asked[*i]) {
            let number = u32::try_from(i).unwrap();
            if !content.is_empty() {
                receiver.data(number, content)?;
            }
            receiver.data(number, b"")?;
        }
        receiver.finish()?;
        Ok(asked)
    }

    #[test]
    fn only_what_changed_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = [
            (stat("a", 0o100_640, 3, ""), &b"one"[..]),
            (stat("d", 0o040_755, 0, ""), b""),
            (stat("d/b", 0o100_600, 0, ""), b""),
            (stat("d/l", 0o120_777, 0, "../a"), b""),
        ];
        assert_eq!(receive(dir.path(), &first).unwrap(), [true, false, true, false]);
        assert_eq!(std::fs::read(dir.path().join("d/l")).unwrap(), b"one");
        let mut second = first[..2].to_vec();
        second.push((stat("d/l", 0o100_600, 2, ""), b"xy"));
        assert_eq!(receive(dir.path(), &second).unwrap(), [false, false, true]);
        assert_eq!(std::fs::read(dir.path().join("d/l")).unwrap(), b"xy");
        assert!(!dir.path().join("d/b").exists(), "what is gone there goes here");
        second[0].0.modified_ns += 1;
        assert_eq!(receive(dir.path(), &second).unwrap(), [true, false, false]);
        let hard = [(stat("a", 0o100_640, 3, ""), &b"one"[..]), (stat("h", 0o100_640, 3, "a"), b"")];
        receive(dir.path(), &hard).unwrap();
        assert_eq!(std::fs::read(dir.path().join("h")).unwrap(), b"one");
    }

    #[test]
    fn nothing_is_written_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let inside = dir.path().join("inside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&inside).unwrap();
        let link = stat("l", 0o120_777, 0, outside.to_str().unwrap());
        for evil in [
            vec![(stat("../x", 0o100_600, 1, ""), &b"x"[..])],
            vec![(stat("a/../../x", 0o100_600, 1, ""), b"x")],
            vec![(link.clone(), b""), (stat("l/x", 0o100_600, 1, ""), b"x")],
            vec![(link.clone(), b""), (stat("h", 0o100_600, 1, "l/x"), b"x")],
            vec![(stat("h", 0o100_600, 1, "../outside/x"), b"x")],
        ] {
            assert!(receive(&inside, &evil).is_err(), "{evil:?}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        // An absolute path is one of the context.
        receive(&inside, &[(stat("/etc/x", 0o100_600, 1, ""), b"x")]).unwrap_err();
        assert!(!std::path::Path::new("/etc/x").exists());
        let device = receive(&inside, &[(stat("dev", 0o020_666, 0, ""), b"")]).unwrap();
        assert_eq!(device, [false]);
        assert!(!inside.join("dev").exists());
    }
}
