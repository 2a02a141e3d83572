//! `docker cp` and `export`: archives of paths beneath a root directory fd.
//!
//! The root is an fd of `/proc/<pid>/root` or of a detached mount. Every path is resolved by
//! `openat2(RESOLVE_IN_ROOT)`, so a link that the container plants, or swaps while we work, stays within the
//! container (CVE-2018-15664, CVE-2021-41089); nothing of the container is ever loaded or executed
//! (CVE-2019-14271).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use corten_base::{Cancel, Kind};
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::tar::{
    ExtractOptions, IdMap, Limits, Owners, PackOptions, Packer, Reader, TarError, Writer, extract,
};
use crate::{beneath, compress};

/// `X-Docker-Container-Path-Stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Last component of the path.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Go's `os.FileMode` bits.
    pub mode: u32,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Target of a symbolic link, resolved to an absolute path in the container; empty otherwise.
    pub link_target: String,
}

/// How `put` treats what is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// A directory may not replace a file nor a file a directory.
    pub no_overwrite_dir_non_dir: bool,
    /// Keep the owners that the archive states; otherwise files belong to `owner`.
    pub copy_uid_gid: bool,
    /// Owner of new files where the archive's owners are not kept.
    pub owner: (u32, u32),
}

/// What the root is, and whose ids its files have.
#[derive(Debug, Clone, Copy)]
pub struct Root<'a> {
    /// Its descriptor.
    pub fd: BorrowedFd<'a>,
    /// From those of the container, which archives have, to those that are seen here.
    pub ids: &'a IdMap,
}

/// The ids are the same on both sides.
impl<'a> From<BorrowedFd<'a>> for Root<'a> {
    fn from(fd: BorrowedFd<'a>) -> Self {
        static SAME: IdMap = IdMap { uids: Vec::new(), gids: Vec::new() };
        Self { fd, ids: &SAME }
    }
}

/// What went wrong with a path in a container. The engine adds which container.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The path does not exist: `Could not find the file {path} in container {id}`.
    #[error("Could not find the file {0}")]
    NotFound(String),
    /// `put` needs a directory.
    #[error("extraction point is not a directory")]
    NotADirectory,
    /// The path ends in `/` or `/.` and is no directory.
    #[error("path not a directory")]
    NoSuchDirectory,
    /// The archive cannot be read or written.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The kernel's word.
    #[error("{operation} {path}")]
    Io {
        /// What we did.
        operation: &'static str,
        /// Where.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl ArchiveError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::NotADirectory | Self::NoSuchDirectory => Kind::InvalidArgument,
            Self::Tar(_) | Self::Io { .. } => Kind::Internal,
        }
    }
}

/// `HEAD /archive`: stats a path without following a final link.
///
/// # Errors
/// `NotFound`, `NoSuchDirectory`.
pub fn stat(root: BorrowedFd<'_>, path: &str) -> Result<PathStat, ArchiveError> {
    let place = Place::find(root, path)?;
    let link_target = if beneath::kind(&place.stat) == FileType::Symlink {
        let target = evaluate(root, place.clean.clone()).map_err(|e| io_error("readlink", path, e))?;
        format!("/{}", String::from_utf8_lossy(&target))
    } else {
        String::new()
    };
    Ok(PathStat {
        name: String::from_utf8_lossy(&place.shown).into_owned(),
        size: place.stat.st_size.cast_unsigned(),
        mode: go_mode(&place.stat),
        mtime_ns: i128::from(place.stat.st_mtime) * 1_000_000_000 + i128::from(place.stat.st_mtime_nsec),
        link_target,
    })
}

/// `GET /archive`: writes a file or directory as tar, its last component as the name (`d/.` is named `./`).
///
/// # Errors
/// `NotFound`, `NoSuchDirectory`; `Tar` where the reader went away.
pub fn get<'a>(
    root: impl Into<Root<'a>>,
    path: &str,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<(), ArchiveError> {
    let Root { fd: root, ids } = root.into();
    let place = Place::find(root, path)?;
    let mut writer = Writer::new(std::io::BufWriter::with_capacity(64 << 10, out));
    let mut packer = Packer::new(&mut writer, PackOptions::default(), cancel).with_ids(ids.clone());
    if place.inside || place.clean.is_empty() {
        let dir = beneath::open(root, &place.clean, beneath::DIR).map_err(|e| io_error("open", path, e))?;
        packer.pack_directory_entry(dir.as_fd(), b"./")?;
        packer.pack_children(dir.as_fd(), b"./")?;
    } else {
        let (parent, name) = beneath::split(&place.clean);
        let parent = beneath::open(root, parent, beneath::DIR).map_err(|e| io_error("open", path, e))?;
        packer.pack(parent.as_fd(), name, name)?;
    }
    writer.finish()?.into_inner().map_err(|e| TarError::Write(e.into_error()))?;
    Ok(())
}

/// `PUT /archive`: extracts a tar (compressed or not) into a directory, whose path may end in links.
///
/// # Errors
/// `NotFound`, `NotADirectory`; `Tar` with `Overwrite`, `EntryName`, ….
pub fn put<'a>(
    root: impl Into<Root<'a>>,
    path: &str,
    tar: &mut dyn Read,
    options: PutOptions,
    cancel: &Cancel,
) -> Result<(), ArchiveError> {
    let Root { fd: root, ids } = root.into();
    let missing = || ArchiveError::NotFound(path.to_owned());
    let asked = beneath::clean(&[b"/", path.as_bytes()].concat()).ok_or_else(missing)?;
    let destination = evaluate(root, asked).map_err(|e| io_error("resolve", path, e))?;
    match beneath::open(root, &destination, OFlags::PATH) {
        Ok(fd) => {
            let stat = stat_fd(fd.as_fd()).map_err(|e| io_error("stat", path, e))?;
            if beneath::kind(&stat) != FileType::Directory {
                return Err(ArchiveError::NotADirectory);
            }
        }
        Err(e) if is_missing(&e) => return Err(missing()),
        Err(e) => return Err(io_error("open", path, e)),
    }
    let (_, decoded) = compress::decoder(tar).map_err(TarError::Read)?;
    let options = ExtractOptions {
        prefix: &destination,
        whiteouts: false,
        owners: if options.copy_uid_gid {
            Owners::FromArchive
        } else {
            let (uid, gid) = ids.to_outside(options.owner.0, options.owner.1);
            Owners::Fixed(uid, gid)
        },
        no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir.then_some(path),
        limits: Limits::default(),
    };
    extract(root, &mut Reader::new(decoded).with_ids(ids.clone()), &options, cancel)?;
    Ok(())
}

/// `GET /export`: the whole root as tar; names as Docker's (no leading `./`). Give it a detached read-only mount:
/// the root of a running container would include its volumes and `/proc`.
///
/// # Errors
/// `Tar` where the reader went away.
pub fn export(root: BorrowedFd<'_>, out: &mut dyn Write, cancel: &Cancel) -> Result<(), ArchiveError> {
    let mut writer = Writer::new(std::io::BufWriter::with_capacity(64 << 10, out));
    let dir = beneath::open(root, b"", beneath::DIR).map_err(|e| io_error("open", "/", e))?;
    Packer::new(&mut writer, PackOptions::default(), cancel).pack_children(dir.as_fd(), b"")?;
    writer.finish()?.into_inner().map_err(|e| TarError::Write(e.into_error()))?;
    Ok(())
}

/// One tree of [`export_parts`].
#[derive(Debug)]
pub struct Part<'a> {
    /// Directory that it is below; empty for none.
    pub name: &'a str,
    /// The tree.
    pub root: BorrowedFd<'a>,
    /// Further files, by name.
    pub extra: &'a BTreeMap<String, Vec<u8>>,
}

/// As [`export`], several trees.
///
/// # Errors
/// As [`export`].
pub fn export_parts(parts: &[Part<'_>], out: &mut dyn Write, cancel: &Cancel) -> Result<(), ArchiveError> {
    let mut writer = Writer::new(std::io::BufWriter::with_capacity(64 << 10, out));
    for Part { name, root, extra } in parts {
        let dir = beneath::open(*root, b"", beneath::DIR).map_err(|e| io_error("open", "/", e))?;
        let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
        let mut packer = Packer::new(&mut writer, PackOptions::default(), cancel);
        if !name.is_empty() {
            packer.pack_directory_entry(dir.as_fd(), prefix.as_bytes())?;
        }
        packer.pack_children(dir.as_fd(), prefix.as_bytes())?;
        for (file, content) in *extra {
            writer.append_bytes(&format!("{prefix}{file}"), 0o644, (0, 0), content)?;
        }
    }
    writer.finish()?.into_inner().map_err(|e| TarError::Write(e.into_error()))?;
    Ok(())
}

/// A path of a request, found.
struct Place {
    /// Clean path of it; links in the parent are left to the kernel.
    clean: Vec<u8>,
    /// Last component as it was asked for (`.` for `d/.`, `/` for the root).
    shown: Vec<u8>,
    /// The path ended in `/.`: the content of the directory is meant.
    inside: bool,
    stat: Stat,
}

impl Place {
    /// COMPAT: moby's `ResolvePath`: a trailing slash or dot follows a final link and needs a directory.
    fn find(root: BorrowedFd<'_>, path: &str) -> Result<Self, ArchiveError> {
        let missing = || ArchiveError::NotFound(path.to_owned());
        let clean = beneath::clean(&[b"/", path.as_bytes()].concat()).ok_or_else(missing)?;
        let inside = path.ends_with("/.") || path == ".";
        let follow = inside || path.ends_with('/') || clean.is_empty();
        let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let fd = match beneath::open(root, &clean, OFlags::PATH | nofollow) {
            Ok(fd) => fd,
            Err(e) if is_missing(&e) => return Err(missing()),
            Err(e) => return Err(io_error("open", path, e)),
        };
        let stat = stat_fd(fd.as_fd()).map_err(|e| io_error("stat", path, e))?;
        if follow && beneath::kind(&stat) != FileType::Directory {
            return Err(ArchiveError::NoSuchDirectory);
        }
        let shown = match (inside, clean.is_empty()) {
            (_, true) => b"/".to_vec(),
            (true, _) => b".".to_vec(),
            _ => beneath::split(&clean).1.to_vec(),
        };
        Ok(Self { clean, shown, inside, stat })
    }
}

fn is_missing(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn io_error(operation: &'static str, path: &str, source: std::io::Error) -> ArchiveError {
    ArchiveError::Io { operation, path: path.to_owned(), source }
}

fn stat_fd(fd: BorrowedFd<'_>) -> std::io::Result<Stat> {
    Ok(rustix::fs::fstat(fd)?)
}

/// Follows all links of a clean path within the root; what does not exist is kept as it is.
fn evaluate(root: BorrowedFd<'_>, path: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut done: Vec<u8> = Vec::new();
    let mut todo = path;
    let mut links = 0;
    while !todo.is_empty() {
        let (first, rest) = match todo.iter().position(|b| *b == b'/') {
            Some(at) => (todo[..at].to_vec(), todo[at + 1..].to_vec()),
            None => (todo.clone(), Vec::new()),
        };
        if first == b".." {
            done = beneath::split(&done).0.to_vec();
            todo = rest;
            continue;
        }
        let next = beneath::join(&done, &first);
        let target = link_target(root, &next)?;
        let Some(target) = target else {
            done = next;
            todo = rest;
            continue;
        };
        links += 1;
        if links > 255 {
            return Err(rustix::io::Errno::LOOP.into());
        }
        if target.first() == Some(&b'/') {
            done.clear();
        }
        let target: Vec<u8> = target
            .split(|b| *b == b'/')
            .filter(|p| !p.is_empty() && *p != b".")
            .collect::<Vec<_>>()
            .join(&b'/');
        todo = beneath::join(&target, &rest);
    }
    Ok(done)
}

fn link_target(root: BorrowedFd<'_>, path: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    let fd = match beneath::open(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => fd,
        Err(e) if is_missing(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    if beneath::kind(&stat_fd(fd.as_fd())?) != FileType::Symlink {
        return Ok(None);
    }
    Ok(Some(rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes()))
}

/// Go's `os.FileMode`.
fn go_mode(stat: &Stat) -> u32 {
    let kind = match beneath::kind(stat) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let mode = Mode::from_raw_mode(stat.st_mode);
    let bit = |m: Mode, at: u32| if mode.contains(m) { 1 << at } else { 0 };
    kind | (stat.st_mode & 0o777) | bit(Mode::SUID, 23) | bit(Mode::SGID, 22) | bit(Mode::SVTX, 20)
}

#[cfg(test)]
mod tests;
