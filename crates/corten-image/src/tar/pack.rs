//! Packing directory trees beneath an fd.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use corten_base::Cancel;
use rustix::fs::{FileType, OFlags, Stat};

use super::{Attribute, Entry, EntryKind, IdMap, TarError, WHITEOUT_OPAQUE, WHITEOUT_PREFIX, Writer};
use crate::beneath;

/// Deepest directory that is packed; each level costs an open file.
const MAX_DEPTH: usize = 400;

/// How to pack.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackOptions {
    /// The tree is the upper directory of an overlay: whiteouts and opaque directories become `.wh.` members.
    pub overlay: bool,
    /// Write nanoseconds of times (PAX, one more KiB per member); Docker writes seconds.
    pub nanoseconds: bool,
}

/// Whether a file is overlay's whiteout.
#[must_use]
pub fn is_whiteout_device(stat: &Stat) -> bool {
    beneath::kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Packs trees into one archive; hard links are recognised across all of them.
#[derive(Debug)]
pub struct Packer<'a, W: Write> {
    writer: &'a mut Writer<W>,
    options: PackOptions,
    cancel: &'a Cancel,
    links: HashMap<(u64, u64), Vec<u8>>,
    ids: IdMap,
    /// Members written.
    pub members: u64,
}

impl<'a, W: Write> Packer<'a, W> {
    /// Nothing is written yet.
    pub fn new(writer: &'a mut Writer<W>, options: PackOptions, cancel: &'a Cancel) -> Self {
        Self { writer, options, cancel, links: HashMap::new(), ids: IdMap::default(), members: 0 }
    }

    /// Owners in the archive are those inside of this mapping.
    #[must_use]
    pub fn with_ids(mut self, ids: IdMap) -> Self {
        self.ids = ids;
        self
    }

    /// Packs the direct child `name` of `parent` under the name `as_name` (no trailing slash), with all beneath it.
    ///
    /// # Errors
    /// `Member`, `Write`, `Cancelled`. A file that vanishes meanwhile is left out.
    pub fn pack(&mut self, parent: BorrowedFd<'_>, name: &[u8], as_name: &[u8]) -> Result<(), TarError> {
        self.node(parent, name, as_name, 0)
    }

    /// Packs what is in a directory, with names beneath `prefix` (empty, or ending in a slash).
    ///
    /// # Errors
    /// As [`Packer::pack`].
    pub fn pack_children(&mut self, dir: BorrowedFd<'_>, prefix: &[u8]) -> Result<(), TarError> {
        self.children(dir, prefix, 0)
    }

    /// Writes the directory `dir` itself under a name ending in a slash.
    ///
    /// # Errors
    /// As [`Packer::pack`].
    pub fn pack_directory_entry(&mut self, dir: BorrowedFd<'_>, as_name: &[u8]) -> Result<(), TarError> {
        let stat = rustix::fs::fstat(dir).map_err(|e| TarError::member("stat", as_name, e))?;
        let mut entry = self.entry(&stat, as_name.to_vec(), EntryKind::Directory);
        entry.xattrs = attributes(dir, as_name)?;
        self.write_empty(&entry)
    }

    fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), TarError> {
        if self.cancel.is_cancelled() {
            return Err(TarError::Cancelled);
        }
        let Some(stat) = beneath::stat(parent, name).map_err(|e| TarError::member("stat", path, e))? else {
            return Ok(());
        };
        if self.options.overlay && is_whiteout_device(&stat) {
            let (dir, base) = beneath::split(path);
            let hidden = beneath::join(dir, &[WHITEOUT_PREFIX, base].concat());
            return self.write_empty(&Entry { mtime: self.mtime(&stat), ..Entry::file(hidden, 0, 0) });
        }
        let kind = match beneath::kind(&stat) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => return self.directory(parent, name, path, depth),
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::Fifo => EntryKind::Fifo,
            // Sockets cannot be archived.
            _ => return Ok(()),
        };
        let mut entry = self.entry(&stat, path.to_vec(), kind);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                (entry.kind, entry.size, entry.link) = (EntryKind::HardLink, 0, first.clone());
                return self.write_empty(&entry);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        match kind {
            EntryKind::File => return self.file(parent, name, entry),
            EntryKind::Symlink => {
                entry.link =
                    beneath::read_link(parent, name).map_err(|e| TarError::member("readlink", path, e))?;
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            }
            _ => {}
        }
        self.write_empty(&entry)
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8], mut entry: Entry) -> Result<(), TarError> {
        // O_NONBLOCK: should a pipe have taken the file's place, opening it must not wait for a writer.
        let fd = match beneath::child(parent, name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(TarError::member("open", &entry.path, e)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| TarError::member("stat", &entry.path, e))?;
        if beneath::kind(&stat) != FileType::RegularFile {
            return Ok(());
        }
        entry.size = stat.st_size.cast_unsigned();
        entry.xattrs = attributes(fd.as_fd(), &entry.path)?;
        self.members += 1;
        self.writer.append_racy(&entry, &mut File::from(fd))
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), TarError> {
        if depth >= MAX_DEPTH {
            return Err(TarError::Limit { what: "levels of directories", limit: MAX_DEPTH as u64 });
        }
        let dir = match beneath::child(parent, name, beneath::DIR) {
            Ok(dir) => dir,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(TarError::member("open", path, e)),
        };
        let prefix = [path, b"/"].concat();
        self.pack_directory_entry(dir.as_fd(), &prefix)?;
        if self.options.overlay {
            self.overlay_marks(dir.as_fd(), path)?;
        }
        self.children(dir.as_fd(), &prefix, depth + 1)
    }

    /// Opaque directories get their member; a redirected one cannot be told in a layer.
    pub(crate) fn overlay_marks(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), TarError> {
        let prefix = corten_sys::users::overlay_prefix();
        let read = |name: &str| {
            beneath::xattr(dir, &format!("{prefix}{name}")).map_err(|e| TarError::member("getxattr", path, e))
        };
        if read("redirect")?.is_some() {
            return Err(TarError::Unsupported("overlay redirect".into()));
        }
        if read("opaque")?.as_deref() == Some(b"y") {
            let mark = beneath::join(path, WHITEOUT_OPAQUE);
            return self.write_empty(&Entry::file(mark, 0, 0));
        }
        Ok(())
    }

    fn children(&mut self, dir: BorrowedFd<'_>, prefix: &[u8], depth: usize) -> Result<(), TarError> {
        for (name, _) in beneath::names(dir).map_err(|e| TarError::member("readdir", prefix, e))? {
            self.node(dir, &name, &[prefix, &name].concat(), depth)?;
        }
        Ok(())
    }

    fn write_empty(&mut self, entry: &Entry) -> Result<(), TarError> {
        self.members += 1;
        self.writer.append_empty(entry)
    }

    fn mtime(&self, stat: &Stat) -> (i64, u32) {
        let nanos = if self.options.nanoseconds { u32::try_from(stat.st_mtime_nsec).unwrap_or(0) } else { 0 };
        (stat.st_mtime, nanos)
    }

    fn entry(&self, stat: &Stat, path: Vec<u8>, kind: EntryKind) -> Entry {
        let (uid, gid) = self.ids.to_inside(stat.st_uid, stat.st_gid);
        Entry { uid, gid, mtime: self.mtime(stat), ..Entry::new(path, kind, stat.st_mode & 0o7777) }
    }
}

/// Attributes that archives carry: capabilities, and the user's own.
fn attributes(fd: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Attribute>, TarError> {
    let mut out = Vec::new();
    for name in beneath::xattr_names(fd).map_err(|e| TarError::member("listxattr", path, e))? {
        if name != "security.capability" && !name.starts_with("user.") || name.starts_with("user.overlay.") {
            continue;
        }
        let value = beneath::xattr(fd, &name).map_err(|e| TarError::member("getxattr", path, e))?;
        out.extend(value.map(|v| (name.into_bytes(), v)));
    }
    Ok(out)
}
