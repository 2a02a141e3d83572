//! `docker cp` and `export`: archives of paths beneath a root directory fd.
//!
//! The root is an fd of `/proc/<pid>/root` or of a detached mount. Every path is resolved by
//! `openat2(RESOLVE_IN_ROOT)`, so a link that the container plants, or swaps while we work, stays within the
//! container (CVE-2018-15664, CVE-2021-41089); nothing of the container is ever loaded or executed
//! (CVE-2019-14271).

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use corten_base::{Cancel, Kind};

use crate::tar::TarError;

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
    /// `no_overwrite_dir_non_dir`.
    #[error("cannot overwrite {what} {name:?} with {by} {path:?}")]
    Overwrite {
        /// `non-directory` or `directory`.
        what: &'static str,
        /// The entry.
        name: String,
        /// `directory` or `non-directory`.
        by: &'static str,
        /// The place.
        path: String,
    },
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
            Self::Overwrite { .. } | Self::Tar(_) | Self::Io { .. } => Kind::Internal,
        }
    }
}

fn pending<T>() -> Result<T, ArchiveError> {
    Err(ArchiveError::NotADirectory)
}

/// `HEAD /archive`: stats a path without following a final link.
///
/// # Errors
/// `NotFound`, `NoSuchDirectory`.
pub fn stat(_root: BorrowedFd<'_>, _path: &str) -> Result<PathStat, ArchiveError> {
    pending()
}

/// `GET /archive`: writes a file or directory as tar, its last component as the name (`d/.` is named `./`).
///
/// # Errors
/// `NotFound`, `NoSuchDirectory`; `Tar` where the reader went away.
pub fn get(
    _root: BorrowedFd<'_>,
    _path: &str,
    _out: &mut dyn Write,
    _cancel: &Cancel,
) -> Result<(), ArchiveError> {
    pending()
}

/// `PUT /archive`: extracts a tar (compressed or not) into a directory.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `Overwrite`, `Tar`.
pub fn put(
    _root: BorrowedFd<'_>,
    _path: &str,
    _tar: &mut dyn Read,
    _options: PutOptions,
    _cancel: &Cancel,
) -> Result<(), ArchiveError> {
    pending()
}

/// `GET /export`: the whole root as tar; names as Docker's (no leading `./`).
///
/// # Errors
/// `Tar` where the reader went away.
pub fn export(_root: BorrowedFd<'_>, _out: &mut dyn Write, _cancel: &Cancel) -> Result<(), ArchiveError> {
    pending()
}
