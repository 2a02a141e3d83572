//! Extraction beneath a directory fd.
//!
//! Everything an archive can say is untrusted: names that climb are refused, links are resolved within the root,
//! whatever stands in the way of a member is replaced and never written through, and there is a limit on
//! everything. Metadata of directories is set when all members are there, because making a member changes it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use corten_base::Cancel;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Entry, EntryKind, Reader, TarError, WHITEOUT_OPAQUE, WHITEOUT_PREFIX};
use crate::beneath;

/// Who owns what is extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whoever the archive says.
    FromArchive,
    /// Everything belongs to this user and group.
    Fixed(u32, u32),
}

/// What an archive may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Members.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000, bytes: 1 << 43 }
    }
}

/// How to extract.
#[derive(Debug)]
pub struct ExtractOptions<'a> {
    /// Directory beneath the root that members are relative to (clean, empty for the root itself).
    pub prefix: &'a [u8],
    /// Turn `.wh.` members into overlay's whiteouts and opaque directories.
    pub whiteouts: bool,
    /// Owners.
    pub owners: Owners,
    /// A directory may not replace a file nor a file a directory; the text names the destination.
    pub no_overwrite_dir_non_dir: Option<&'a str>,
    /// Limits.
    pub limits: Limits,
}

impl Default for ExtractOptions<'_> {
    fn default() -> Self {
        Self {
            prefix: b"",
            whiteouts: false,
            owners: Owners::FromArchive,
            no_overwrite_dir_non_dir: None,
            limits: Limits::default(),
        }
    }
}

/// What was extracted.
#[derive(Debug, Default)]
pub struct Extracted {
    /// Members.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Directories that no member described before something beneath them came.
    pub implicit: Vec<Vec<u8>>,
}

/// Extracts all members; reads up to the end marker.
///
/// # Errors
/// [`TarError`]; what was extracted before stays.
pub fn extract<R: Read>(
    root: BorrowedFd<'_>,
    reader: &mut Reader<R>,
    options: &ExtractOptions<'_>,
    cancel: &Cancel,
) -> Result<Extracted, TarError> {
    let mut work = Extraction {
        root,
        options,
        parent: None,
        directories: Vec::new(),
        done: Extracted::default(),
        buffer: vec![0; 64 << 10],
    };
    while let Some(entry) = reader.next_entry()? {
        if cancel.is_cancelled() {
            return Err(TarError::Cancelled);
        }
        work.member(&entry, reader)?;
    }
    work.finish()
}

struct Extraction<'a> {
    root: BorrowedFd<'a>,
    options: &'a ExtractOptions<'a>,
    /// The last parent directory, because members of one directory mostly follow each other.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Modification times to set at the end.
    directories: Vec<(Vec<u8>, (i64, u32))>,
    done: Extracted,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    fn member<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), TarError> {
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        let limits = self.options.limits;
        if self.done.entries > limits.entries {
            return Err(TarError::Limit { what: "members", limit: limits.entries });
        }
        if self.done.bytes > limits.bytes {
            return Err(TarError::Limit { what: "bytes", limit: limits.bytes });
        }
        let relative = beneath::clean(&entry.path)
            .ok_or_else(|| TarError::EntryName(String::from_utf8_lossy(&entry.path).into_owned()))?;
        let path = beneath::join(self.options.prefix, &relative);
        if path.is_empty() || relative.is_empty() {
            return self.root_member(entry, &path);
        }
        let (parent_path, name) = beneath::split(&path);
        let parent = self.enter(parent_path, &entry.path)?;
        if self.options.whiteouts && name.starts_with(WHITEOUT_PREFIX) {
            return whiteout(parent.as_fd(), name, entry);
        }
        let was_whiteout = self.make_room(parent.as_fd(), name, &relative, entry)?;
        let at = Place { parent: parent.as_fd(), name, entry, owners: self.options.owners };
        match entry.kind {
            EntryKind::File => at.file(reader, &mut self.buffer)?,
            EntryKind::Directory => {
                at.directory(was_whiteout)?;
                if self.directories.len() >= 2_000_000 {
                    return Err(TarError::Limit { what: "directories", limit: 2_000_000 });
                }
                self.directories.push((path.clone(), entry.mtime));
                self.done.implicit.retain(|p| p != &path);
            }
            EntryKind::Symlink => at.symlink()?,
            EntryKind::HardLink => at.hard_link(self.root, self.options.prefix)?,
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => at.node()?,
        }
        self.parent = Some((parent_path.to_vec(), parent));
        Ok(())
    }

    /// `./` itself: layers describe their root with it, `cp` leaves the destination as it is.
    fn root_member(&mut self, entry: &Entry, path: &[u8]) -> Result<(), TarError> {
        if entry.kind != EntryKind::Directory {
            return Err(TarError::EntryName(String::from_utf8_lossy(&entry.path).into_owned()));
        }
        if self.options.whiteouts {
            let dir = beneath::open(self.root, path, beneath::DIR)
                .map_err(|e| TarError::member("open", b".", e))?;
            metadata(dir.as_fd(), entry, self.options.owners)?;
            self.directories.push((path.to_vec(), entry.mtime));
        }
        Ok(())
    }

    fn enter(&mut self, parent: &[u8], member: &[u8]) -> Result<OwnedFd, TarError> {
        if let Some((path, fd)) = self.parent.take()
            && path == parent
        {
            return Ok(fd);
        }
        let implicit = &mut self.done.implicit;
        beneath::make_dirs(self.root, parent, &mut |made| {
            if implicit.len() < 100_000 {
                implicit.push(made.to_vec());
            }
        })
        .map_err(|e| TarError::member("mkdir", member, e))
    }

    /// Removes what is in the way; a directory stays for a directory. Says whether it was a whiteout.
    fn make_room(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        relative: &[u8],
        entry: &Entry,
    ) -> Result<bool, TarError> {
        let Some(stat) = beneath::stat(parent, name).map_err(|e| TarError::member("stat", &entry.path, e))?
        else {
            return Ok(false);
        };
        let kind = beneath::kind(&stat);
        let (is_dir, wants_dir) = (kind == FileType::Directory, entry.kind == EntryKind::Directory);
        if let Some(destination) = self.options.no_overwrite_dir_non_dir
            && is_dir != wants_dir
        {
            let (what, by) =
                if is_dir { ("directory", "non-directory") } else { ("non-directory", "directory") };
            return Err(TarError::Overwrite {
                what,
                name: String::from_utf8_lossy(relative).into_owned(),
                by,
                path: destination.to_owned(),
            });
        }
        if is_dir && wants_dir {
            return Ok(false);
        }
        beneath::remove(parent, name).map_err(|e| TarError::member("remove", &entry.path, e))?;
        Ok(self.options.whiteouts && kind == FileType::CharacterDevice && stat.st_rdev == 0)
    }

    fn finish(mut self) -> Result<Extracted, TarError> {
        for (path, mtime) in self.directories.drain(..).rev() {
            // A later member may have replaced the directory by something else.
            let Ok(dir) = beneath::open(self.root, &path, beneath::DIR | OFlags::NOFOLLOW) else { continue };
            rustix::fs::futimens(&dir, &times(mtime)).map_err(|e| TarError::member("utimes", &path, e))?;
        }
        Ok(self.done)
    }
}

/// Where a member goes.
struct Place<'a> {
    parent: BorrowedFd<'a>,
    name: &'a [u8],
    entry: &'a Entry,
    owners: Owners,
}

impl Place<'_> {
    fn error(&self, operation: &'static str) -> impl Fn(Errno) -> TarError + '_ {
        move |e| TarError::member(operation, &self.entry.path, e)
    }

    fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.name)
    }

    fn file<R: Read>(&self, reader: &mut Reader<R>, buffer: &mut [u8]) -> Result<(), TarError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.parent, self.name(), flags, Mode::from_raw_mode(0o600))
            .map_err(self.error("create"))?;
        let mut file = File::from(fd);
        loop {
            match reader.read_data(buffer)? {
                0 => break,
                n => file
                    .write_all(&buffer[..n])
                    .map_err(|e| TarError::member("write", &self.entry.path, e))?,
            }
        }
        metadata(file.as_fd(), self.entry, self.owners)?;
        rustix::fs::futimens(&file, &times(self.entry.mtime)).map_err(self.error("utimes"))
    }

    fn directory(&self, was_whiteout: bool) -> Result<(), TarError> {
        match rustix::fs::mkdirat(self.parent, self.name(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(self.error("mkdir")(e)),
        }
        let dir = beneath::child(self.parent, self.name, beneath::DIR)
            .map_err(|e| TarError::member("open", &self.entry.path, e))?;
        if was_whiteout {
            opaque(dir.as_fd()).map_err(self.error("setxattr"))?;
        }
        metadata(dir.as_fd(), self.entry, self.owners)
    }

    fn symlink(&self) -> Result<(), TarError> {
        rustix::fs::symlinkat(OsStr::from_bytes(&self.entry.link), self.parent, self.name())
            .map_err(self.error("symlink"))?;
        self.chown()?;
        self.set_times()
    }

    fn hard_link(&self, root: BorrowedFd<'_>, prefix: &[u8]) -> Result<(), TarError> {
        let refuse = |source: Option<std::io::Error>| TarError::HardLink {
            path: String::from_utf8_lossy(&self.entry.path).into_owned(),
            target: String::from_utf8_lossy(&self.entry.link).into_owned(),
            source,
        };
        let target =
            beneath::clean(&self.entry.link).filter(|t| !t.is_empty()).ok_or_else(|| refuse(None))?;
        let target = beneath::join(prefix, &target);
        let (target_parent, target_name) = beneath::split(&target);
        let from = beneath::open(root, target_parent, beneath::DIR).map_err(|e| refuse(Some(e)))?;
        rustix::fs::linkat(from, OsStr::from_bytes(target_name), self.parent, self.name(), AtFlags::empty())
            .map_err(|e| refuse(Some(e.into())))
    }

    fn node(&self) -> Result<(), TarError> {
        let (kind, device) = match self.entry.kind {
            EntryKind::CharDevice => (FileType::CharacterDevice, self.entry.device),
            EntryKind::BlockDevice => (FileType::BlockDevice, self.entry.device),
            _ => (FileType::Fifo, (0, 0)),
        };
        let mode = Mode::from_raw_mode(self.entry.mode & 0o7777);
        let device = rustix::fs::makedev(device.0, device.1);
        match rustix::fs::mknodat(self.parent, self.name(), kind, mode, device) {
            // COMPAT: an ordinary user's engine goes without the device nodes of images.
            Err(Errno::PERM) if kind != FileType::Fifo && !corten_sys::users::initial() => return Ok(()),
            other => other.map_err(self.error("mknod"))?,
        }
        self.chown()?;
        // The mode of mknod is cut by the umask. An O_PATH fd pins the node, so that no link can be swapped in.
        let fd = beneath::child(self.parent, self.name, OFlags::PATH)
            .map_err(|e| TarError::member("open", &self.entry.path, e))?;
        std::fs::set_permissions(
            beneath::proc_path(fd.as_fd()),
            std::fs::Permissions::from_mode(self.entry.mode & 0o7777),
        )
        .map_err(|e| TarError::member("chmod", &self.entry.path, e))?;
        self.set_times()
    }

    fn chown(&self) -> Result<(), TarError> {
        let (uid, gid) = owner(self.entry, self.owners);
        rustix::fs::chownat(self.parent, self.name(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.error("lchown"))
    }

    fn set_times(&self) -> Result<(), TarError> {
        rustix::fs::utimensat(self.parent, self.name(), &times(self.entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.error("utimes"))
    }
}

/// `.wh.x` hides x of the layers below; `.wh..wh..opq` hides all of the directory's content below.
fn whiteout(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), TarError> {
    if name == WHITEOUT_OPAQUE {
        return opaque(parent).map_err(|e| TarError::member("setxattr", &entry.path, e));
    }
    let hidden = &name[WHITEOUT_PREFIX.len()..];
    if hidden.starts_with(WHITEOUT_PREFIX) {
        // COMPAT: other `.wh..wh.` names are AUFS's own metadata, which moby skips.
        return Ok(());
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(TarError::EntryName(String::from_utf8_lossy(&entry.path).into_owned()));
    }
    let device = rustix::fs::makedev(0, 0);
    match rustix::fs::mknodat(
        parent,
        OsStr::from_bytes(hidden),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0),
        device,
    ) {
        Ok(()) => Ok(()),
        // The layer itself has x, and it is x of the layers below that is hidden: a file does that by being
        // there, a directory by being opaque.
        Err(Errno::EXIST) => match beneath::child(parent, hidden, beneath::DIR) {
            Ok(dir) => opaque(dir.as_fd()).map_err(|e| TarError::member("setxattr", &entry.path, e)),
            Err(_) => Ok(()),
        },
        Err(e) => Err(TarError::member("mknod", &entry.path, e)),
    }
}

fn opaque(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let name = format!("{}opaque", corten_sys::users::overlay_prefix());
    rustix::fs::fsetxattr(dir, name.as_str(), b"y", XattrFlags::empty())
}

fn owner(entry: &Entry, owners: Owners) -> (Uid, Gid) {
    let (uid, gid) = match owners {
        Owners::FromArchive => (entry.uid, entry.gid),
        Owners::Fixed(uid, gid) => (uid, gid),
    };
    (Uid::from_raw(uid), Gid::from_raw(gid))
}

/// Owner, mode and attributes of a file or directory. The owner comes first: changing it clears set-uid bits and
/// capabilities.
fn metadata(fd: BorrowedFd<'_>, entry: &Entry, owners: Owners) -> Result<(), TarError> {
    let (uid, gid) = owner(entry, owners);
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(|e| TarError::member("chown", &entry.path, e))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode & 0o7777))
        .map_err(|e| TarError::member("chmod", &entry.path, e))?;
    for (name, value) in &entry.xattrs {
        // `trusted.overlay.*` would let a layer redirect reads to other places; `system.*` and other `security.*`
        // attributes belong to the host that made the archive.
        if name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") || name == b"security.capability"
        {
            match rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(TarError::member("setxattr", &entry.path, e)),
            }
        }
    }
    Ok(())
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: time, last_modification: time }
}
