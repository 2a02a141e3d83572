//! Reading, writing, extracting and packing tar archives, in streams.
//!
//! Formats read: v7, ustar, PAX (`x`, `g`), GNU long names and base-256 numbers. Formats written: ustar, with PAX
//! records where a value does not fit. Sparse members are refused: nothing that makes image layers writes them.
//! Error texts are those of Go's `archive/tar`, which clients of Docker know.

mod extract;
mod header;
mod owners;
mod pack;
mod pax;
mod reader;
mod writer;

pub use extract::{ExtractOptions, Extracted, Limits, Owners, extract};
pub use owners::{IdMap, IdRange};
pub use pack::{PackOptions, Packer, is_whiteout_device};
pub use reader::Reader;
pub use writer::Writer;

/// Prefix of whiteout members in layers.
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name of the member that makes its directory opaque.
pub const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Another name of an earlier member.
    HardLink,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
}

/// An extended attribute: name and value.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// The header of one member, extensions applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name as written in the archive; not checked in any way.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data that follow; 0 for all but files.
    pub size: u64,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes (`SCHILY.xattr.*`).
    pub xattrs: Vec<Attribute>,
}

impl Entry {
    /// An entry owned by root at the epoch.
    #[must_use]
    pub fn new(path: impl Into<Vec<u8>>, kind: EntryKind, mode: u32) -> Self {
        Self {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (0, 0),
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// A regular file of this size.
    #[must_use]
    pub fn file(path: impl Into<Vec<u8>>, mode: u32, size: u64) -> Self {
        Self { size, ..Self::new(path, EntryKind::File, mode) }
    }
}

/// An archive cannot be read, written or extracted.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream ends within a member.
    #[error("unexpected EOF")]
    UnexpectedEof,
    /// A header that is none: wrong checksum, bad number, malformed PAX record.
    #[error("archive/tar: invalid tar header")]
    Header,
    /// More data than the header announced.
    #[error("archive/tar: write too long")]
    WriteTooLong,
    /// A member name that leads out of the destination.
    #[error("invalid entry name {0:?}")]
    EntryName(String),
    /// A hard link to something outside, or not there.
    #[error("invalid hardlink {path:?} -> {target:?}")]
    HardLink {
        /// The member.
        path: String,
        /// Its target.
        target: String,
        /// What the kernel said, if it was asked.
        source: Option<std::io::Error>,
    },
    /// A directory may not replace a file, nor a file a directory.
    #[error("cannot overwrite {what} {name:?} with {by} {path:?}")]
    Overwrite {
        /// `non-directory` or `directory`.
        what: &'static str,
        /// The member.
        name: String,
        /// `directory` or `non-directory`.
        by: &'static str,
        /// The destination.
        path: String,
    },
    /// Something we do not read.
    #[error("archive/tar: {0} not supported")]
    Unsupported(String),
    /// A limit was exceeded: a bomb, or something absurd.
    #[error("archive exceeds the limit of {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// A system call on a member failed.
    #[error("{operation} {path}")]
    Member {
        /// What we did.
        operation: &'static str,
        /// Name of the member.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The stream cannot be read.
    #[error("read archive")]
    Read(#[source] std::io::Error),
    /// The stream cannot be written.
    #[error("write archive")]
    Write(#[source] std::io::Error),
    /// The caller gave up.
    #[error("context canceled")]
    Cancelled,
}

impl TarError {
    pub(crate) fn member(operation: &'static str, path: &[u8], source: impl Into<std::io::Error>) -> Self {
        Self::Member { operation, path: String::from_utf8_lossy(path).into_owned(), source: source.into() }
    }
}

#[cfg(test)]
mod tests;
