//! Files of results: read through the gateway, and sent to the client as they are.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use bollard_buildkit_proto::fsutil::types::Stat;
use corten_base::{Cancel, Digest};
use corten_build::{Builder, Solved, SolvedFiles};
use corten_image::archive;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use super::files::{self, FileSource};
use crate::error::chain;
use crate::grpc::{Code, Status};

/// What is read at once.
const BLOCK: usize = 1 << 20;
/// Largest file that is read through the gateway.
const READ: u64 = 16 << 20;
const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn disk(error: impl Into<io::Error>) -> Status {
    unknown(error.into().to_string())
}

fn unknown(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

/// The files of a result. Links are resolved within it.
pub(super) struct Files(SolvedFiles);

impl Files {
    pub(super) fn open(builder: &Builder, solved: &Solved) -> Result<Self, Status> {
        builder.files_of(solved).map(Self).map_err(|e| unknown(chain(&e)))
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<std::os::fd::OwnedFd, Status> {
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let opened =
            rustix::fs::openat2(self.0.root(), relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        opened.map_err(|e| unknown(format!("open {path}: {}", io::Error::from(e))))
    }

    /// Opens a file by a path that has no links.
    fn within(&self, path: &str) -> io::Result<std::fs::File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(self.0.root(), path, flags, Mode::empty(), resolve)?.into())
    }

    /// Reads a file, or `(offset, length)` of it.
    pub(super) fn read(&self, path: &str, range: Option<(i64, i64)>) -> Result<Vec<u8>, Status> {
        use std::io::{Seek, SeekFrom};
        let mut file = std::fs::File::from(self.at(path, OFlags::RDONLY)?);
        let failed = |e: io::Error| unknown(format!("read {path}: {e}"));
        let (offset, length) = range.unwrap_or((0, 0));
        file.seek(SeekFrom::Start(u64::try_from(offset).unwrap_or_default())).map_err(failed)?;
        let limit = u64::try_from(length).ok().filter(|l| *l > 0).unwrap_or(READ).min(READ);
        let mut data = Vec::new();
        file.take(limit).read_to_end(&mut data).map_err(failed)?;
        Ok(data)
    }

    pub(super) fn stat(&self, path: &str) -> Result<Stat, Status> {
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            let mut found = stat(self.at(path, OFlags::PATH)?.as_fd(), "", ".").map_err(disk)?;
            found.mode = files::to_go(found.mode);
            return Ok(found);
        }
        let dir = self.at(parent, DIR)?;
        let found = stat(dir.as_fd(), name, name);
        let mut found = found.map_err(|e| unknown(format!("lstat {path}: {e}")))?;
        found.mode = files::to_go(found.mode);
        Ok(found)
    }

    /// Entries of a directory whose names fit a pattern.
    pub(super) fn list(&self, path: &str, pattern: &str) -> Result<Vec<Stat>, Status> {
        let matcher = corten_base::ignore::Ignore::from_patterns([pattern]).map_err(Status::protocol)?;
        let dir = self.at(path, DIR)?;
        let mut out = Vec::new();
        for name in names_in(dir.as_fd()).map_err(disk)? {
            if pattern.is_empty() || matcher.excludes(&name) {
                let mut entry = stat(dir.as_fd(), &name, &name).map_err(disk)?;
                entry.mode = files::to_go(entry.mode);
                out.push(entry);
            }
        }
        Ok(out)
    }
}

/// Sorted names; those that are no UTF-8 cannot be told to a client.
fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            out.push(name.to_owned());
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// What the protocol says of a file; the mode is `st_mode`.
fn stat(dir: BorrowedFd<'_>, name: &str, path: &str) -> io::Result<Stat> {
    let s = match name {
        "" => rustix::fs::fstat(dir)?,
        name => rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?,
    };
    let linkname = match FileType::from_raw_mode(s.st_mode) {
        FileType::Symlink => rustix::fs::readlinkat(dir, name, Vec::new())?.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let seconds = s.st_mtime;
    let nanos = i64::try_from(s.st_mtime_nsec).unwrap_or_default();
    Ok(Stat {
        path: path.to_owned(),
        mode: s.st_mode,
        uid: s.st_uid,
        gid: s.st_gid,
        size: s.st_size,
        mod_time: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        linkname,
        devmajor: i64::from(rustix::fs::major(s.st_rdev)),
        devminor: i64::from(rustix::fs::minor(s.st_rdev)),
        xattrs: HashMap::new(),
    })
}

/// Files of one result, below a directory of its own where there are several.
pub(super) struct Part {
    /// Empty, or the directory's name.
    pub(super) name: String,
    pub(super) files: Files,
    /// Files that are added, by name.
    pub(super) extra: BTreeMap<String, Vec<u8>>,
}

impl Part {
    fn path(&self, path: &str) -> String {
        if self.name.is_empty() { path.to_owned() } else { format!("{}/{path}", self.name) }
    }

    /// Name and content's digest of every file.
    pub(super) fn digests(&self, cancel: &Cancel) -> Result<Vec<(String, Digest)>, Status> {
        use sha2::Digest as _;
        let mut paths = Vec::new();
        walk(self.files.at("", DIR)?.as_fd(), "", &[], cancel, &mut |stat| {
            if FileType::from_raw_mode(stat.mode) == FileType::RegularFile {
                paths.push(stat.path);
            }
            Ok(())
        })?;
        let digest = |path: String| {
            let mut hasher = sha2::Sha256::new();
            let mut file = self.files.within(&path).map_err(disk)?;
            let mut block = vec![0; BLOCK];
            loop {
                match file.read(&mut block).map_err(disk)? {
                    0 => break,
                    n => hasher.update(&block[..n]),
                }
            }
            Ok((path, Digest::from_sha256(&hasher.finalize())))
        };
        paths.into_iter().map(digest).collect()
    }
}

/// All files of the results for the client.
pub(super) struct Tree {
    /// In the order of their names.
    pub(super) parts: Vec<Part>,
    pub(super) cancel: Cancel,
}

impl Tree {
    /// Everything as a tar.
    pub(super) fn tar(&self, out: &mut dyn io::Write) -> Result<(), Status> {
        let roots: Vec<_> = self
            .parts
            .iter()
            .map(|p| archive::Part { name: &p.name, root: p.files.0.root(), extra: &p.extra })
            .collect();
        archive::export_parts(&roots, out, &self.cancel).map_err(|e| unknown(chain(&e)))
    }
}

impl FileSource for Tree {
    fn walk(&mut self, each: &mut dyn FnMut(Stat) -> Result<(), Status>) -> Result<(), Status> {
        for part in &self.parts {
            let root = part.files.at("", DIR)?;
            if !part.name.is_empty() {
                each(Stat { path: part.name.clone(), mode: 0o040_755, ..Stat::default() })?;
            }
            let extra: Vec<(&str, usize)> = part.extra.iter().map(|(n, c)| (n.as_str(), c.len())).collect();
            walk(root.as_fd(), &part.name, &extra, &self.cancel, each)?;
        }
        Ok(())
    }

    fn open(&mut self, path: &str) -> io::Result<std::fs::File> {
        for part in &self.parts {
            if let Some((_, content)) = part.extra.iter().find(|(name, _)| part.path(name) == path) {
                return in_memory(content);
            }
            let inner =
                if part.name.is_empty() { Some(path) } else { path.strip_prefix(&format!("{}/", part.name)) };
            if let Some(inner) = inner {
                return part.files.within(inner);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

fn in_memory(content: &[u8]) -> io::Result<std::fs::File> {
    use std::io::{Seek, Write};
    let file = rustix::fs::memfd_create("attestation", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// `extra` are files beside those of the directory, by name and size.
fn walk(
    dir: BorrowedFd<'_>,
    prefix: &str,
    extra: &[(&str, usize)],
    cancel: &Cancel,
    each: &mut dyn FnMut(Stat) -> Result<(), Status>,
) -> Result<(), Status> {
    // Clients want names in order.
    let mut names = names_in(dir).map_err(disk)?;
    names.retain(|n| !extra.iter().any(|(e, _)| e == n));
    names.extend(extra.iter().map(|(n, _)| (*n).to_owned()));
    names.sort_unstable();
    for name in names {
        if cancel.is_cancelled() {
            return Err(Status::new(Code::Cancelled, "context canceled"));
        }
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        if let Some((_, size)) = extra.iter().find(|(e, _)| *e == name) {
            let size = i64::try_from(*size).unwrap_or(i64::MAX);
            each(Stat { path, mode: 0o100_644, size, ..Stat::default() })?;
            continue;
        }
        let stat = stat(dir, &name, &path).map_err(disk)?;
        let is_dir = FileType::from_raw_mode(stat.mode) == FileType::Directory;
        each(stat)?;
        if is_dir {
            let child = rustix::fs::openat(dir, name.as_str(), DIR | OFlags::NOFOLLOW, Mode::empty());
            walk(child.map_err(disk)?.as_fd(), &path, &[], cancel, each)?;
        }
    }
    Ok(())
}
