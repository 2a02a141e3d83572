//! The mount API that works on descriptors: a file system or a copy of a tree is made detached, given its
//! properties, and only then attached to a place that is itself a descriptor. Nothing here follows a path
//! inside a container.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::path;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

/// Bits of mount_setattr(2).
pub mod attr {
    /// Nothing can be written.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes have no effect.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// All access-time bits, to be cleared before one is set.
    pub const ATIME: u64 = 0x70;
    /// Access times are not kept.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always kept.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are not kept.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// How mounts below a mount spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all, and it cannot be bound elsewhere.
    Unbindable,
    /// Not at all.
    Private,
    /// From the original to here.
    Slave,
    /// Both ways.
    Shared,
}

/// What to change about a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Bits of [`attr`].
    pub set: u64,
    /// Bits of [`attr`].
    pub clear: u64,
    /// Absent: stays.
    pub propagation: Option<Propagation>,
}

/// Changes the mount behind `mount`; `recursive` includes those below it.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn change(mount: BorrowedFd<'_>, change: Change, recursive: bool) -> io::Result<()> {
    if change == Change::default() {
        return Ok(());
    }
    let propagation = match change.propagation {
        None => 0,
        Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
    };
    set_attributes(
        mount,
        libc::mount_attr { attr_set: change.set, attr_clr: change.clear, propagation, userns_fd: 0 },
        recursive,
    )
}

/// Shows files of a detached mount with other owners: what the user namespace behind `users` maps an id of the file
/// system to is who the file belongs to on this side.
///
/// # Errors
/// Those of mount_setattr(2); `EINVAL` for a file system that cannot do it, or that is attached already.
pub fn map_ids(mount: BorrowedFd<'_>, users: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let userns_fd = users.as_raw_fd() as u64;
    let attr_set = libc::MOUNT_ATTR_IDMAP;
    set_attributes(mount, libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd }, recursive)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, the struct lives during the call and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Changes how mounts spread in the whole tree of this process's mount namespace.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn change_all(propagation: Propagation) -> io::Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    change(root.as_fd(), Change { propagation: Some(propagation), ..Change::default() }, true)
}

/// Runs `work` in a mount namespace of its own, on a thread of its own, and waits for it. What `work` mounts is seen
/// by nobody else and is gone afterwards.
///
/// # Errors
/// Those of unshare(2) and mount_setattr(2), and of starting a thread.
pub fn in_private_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mountns".into()).spawn_scoped(scope, || {
            let flags = rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS;
            // SAFETY: `unshare_unsafe` is unsafe because CLONE_FILES would separate the descriptor table that other
            // threads believe to share; CLONE_NEWNS and CLONE_FS touch only this thread's view of mounts and its
            // working directory, and the thread ends here.
            unsafe { rustix::thread::unshare_unsafe(flags)? };
            change_all(Propagation::Private)?;
            io::Result::Ok(work())
        })?;
        thread.join().map_err(|_| io::Error::other("the mount namespace thread panicked"))?
    })
}

/// A detached copy of what is at `path` of this process's own root (trusted).
///
/// # Errors
/// Those of open_tree(2).
pub fn bind(path: impl rustix::path::Arg, recursive: bool) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(CWD, path, tree_flags(recursive))?)
}

/// A detached copy of the file or directory behind a descriptor.
///
/// # Errors
/// Those of open_tree(2).
pub fn bind_fd(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(fd, "", tree_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)?)
}

fn tree_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// What a new file system is made from, ready for a process that has no memory to prepare it.
#[derive(Debug, Clone)]
pub struct Recipe {
    fstype: CString,
    source: CString,
    options: Vec<(CString, Option<CString>)>,
    attributes: u64,
}

impl Recipe {
    /// Options are `key=value` or `key`; `attributes` are bits of [`attr`].
    ///
    /// # Errors
    /// `InvalidInput` for a text with a NUL byte.
    pub fn of(fstype: &str, source: &str, options: &[String], attributes: u64) -> io::Result<Self> {
        let option = |text: &String| -> io::Result<(CString, Option<CString>)> {
            Ok(match text.split_once('=') {
                Some((key, value)) => (CString::new(key)?, Some(CString::new(value)?)),
                None => (CString::new(text.as_str())?, None),
            })
        };
        let options = options.iter().map(option).collect::<io::Result<_>>()?;
        Ok(Self { fstype: CString::new(fstype)?, source: CString::new(source)?, options, attributes })
    }

    /// Makes it, detached.
    ///
    /// # Errors
    /// Those of fsopen(2), fsconfig(2) (an option that it does not know is `EINVAL`) and fsmount(2).
    pub fn make(&self) -> io::Result<OwnedFd> {
        let context = rustix::mount::fsopen(self.fstype.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        if !self.source.is_empty() {
            rustix::mount::fsconfig_set_string(context.as_fd(), c"source", self.source.as_c_str())?;
        }
        for (key, value) in &self.options {
            let key = key.as_c_str();
            match value {
                Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), key, value.as_c_str())?,
                None => rustix::mount::fsconfig_set_flag(context.as_fd(), key)?,
            }
        }
        finish(&context, self.attributes)
    }
}

/// A new file system, detached, see [`Recipe`].
///
/// # Errors
/// Those of [`Recipe::of`] and [`Recipe::make`].
pub fn new(fstype: &str, source: &str, options: &[String], attributes: u64) -> io::Result<OwnedFd> {
    Recipe::of(fstype, source, options, attributes)?.make()
}

fn finish(context: &OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Layers of an overlay. Long paths are named by descriptors when it is made, of which the list is kept here.
#[derive(Debug)]
pub struct Overlay {
    lowers: Vec<CString>,
    upper: Option<(CString, CString)>,
    volatile: bool,
    label: Option<CString>,
    keep: Vec<OwnedFd>,
    /// For [`Overlay::make_at`].
    options: Vec<u8>,
}

/// mount(2) reads a page.
const PAGE: usize = 4096;

impl Overlay {
    /// Of layers, topmost first (at least one, two without a place to write); of where writes go and the overlay's own
    /// directory, on the same file system. What is written to a `volatile` one is never synced by the overlay: neither
    /// when it is asked for nor when it is unmounted. The kernel then marks that directory, and mounts it again only
    /// without the mark.
    ///
    /// # Errors
    /// `InvalidInput` for a path with a NUL byte.
    pub fn of(lowers: &[PathBuf], upper: Option<(&Path, &Path)>, volatile: bool) -> io::Result<Self> {
        let text = |p: &Path| CString::new(p.as_os_str().as_bytes());
        Ok(Self {
            lowers: lowers.iter().map(|p| text(p)).collect::<Result<_, _>>()?,
            upper: upper.map(|(u, w)| Ok::<_, io::Error>((text(u)?, text(w)?))).transpose()?,
            volatile: volatile && upper.is_some(),
            label: None,
            keep: Vec::with_capacity(lowers.len() + 2),
            options: Vec::with_capacity(PAGE),
        })
    }

    /// All files have this SELinux label; none, if it is empty.
    ///
    /// # Errors
    /// `InvalidInput` for a label with a NUL byte.
    pub fn labelled(mut self, label: &str) -> io::Result<Self> {
        self.label = (!label.is_empty()).then(|| CString::new(label)).transpose()?;
        Ok(self)
    }

    /// Makes it, detached: no mount table shows it until it is attached.
    ///
    /// LINUX 6.5: one `lowerdir+` per layer. With older kernels it is `EINVAL`; use [`Overlay::make_at`] then.
    ///
    /// # Errors
    /// Those of fsconfig(2).
    pub fn make(&mut self) -> io::Result<OwnedFd> {
        if !takes_layers() {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), c"source", c"overlay")?;
        let keys = self.lowers.iter().map(|l| (c"lowerdir+", l));
        let keys = keys.chain(self.upper.iter().flat_map(|(u, w)| [(c"upperdir", u), (c"workdir", w)]));
        for (key, path) in keys {
            // fsconfig(2) takes values of up to 255 bytes.
            if path.as_bytes().len() < 256 {
                rustix::mount::fsconfig_set_string(context.as_fd(), key, path.as_c_str())?;
            } else {
                let name = by_descriptor(path, &mut self.keep)?;
                rustix::mount::fsconfig_set_string(context.as_fd(), key, name.as_bytes())?;
            }
        }
        if crate::users::initial() {
            // An index would refuse layers that a mount which is about to go still has.
            rustix::mount::fsconfig_set_string(context.as_fd(), c"index", c"off")?;
        } else {
            rustix::mount::fsconfig_set_flag(context.as_fd(), c"userxattr")?;
        }
        if self.volatile {
            rustix::mount::fsconfig_set_flag(context.as_fd(), c"volatile")?;
        }
        if let Some(label) = &self.label {
            rustix::mount::fsconfig_set_string(context.as_fd(), c"context", label.as_c_str())?;
        }
        finish(&context, 0)
    }

    /// Mounts it at `target` by mount(2), for kernels without `lowerdir+`.
    ///
    /// # Errors
    /// Those of mount(2); `E2BIG` for more layers than it takes.
    pub fn make_at(&mut self, target: &CStr) -> io::Result<()> {
        let Self { lowers, upper, keep, options, label, .. } = self;
        options.clear();
        let keys = lowers.iter().enumerate().map(|(i, l)| (if i == 0 { "lowerdir=" } else { ":" }, l));
        let keys = keys.chain(upper.iter().flat_map(|(u, w)| [(",upperdir=", u), (",workdir=", w)]));
        for (key, path) in keys {
            let name = by_descriptor(path, keep)?;
            append(options, key.as_bytes())?;
            append(options, name.as_bytes())?;
        }
        if !crate::users::initial() {
            append(options, b",userxattr")?;
        }
        if self.volatile {
            append(options, b",volatile")?;
        }
        if let Some(label) = label {
            // It may have a comma of its own.
            append(options, b",context=\"")?;
            append(options, label.as_bytes())?;
            append(options, b"\"")?;
        }
        append(options, b"\0")?;
        let options = CStr::from_bytes_with_nul(options).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = rustix::mount::MountFlags::empty();
        Ok(rustix::mount::mount(c"overlay", target, c"overlay", flags, options)?)
    }
}

/// Fills what room there is, and asks for none.
fn append(to: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    if to.capacity() - to.len() < bytes.len() {
        return Err(rustix::io::Errno::TOOBIG.into());
    }
    to.extend_from_slice(bytes);
    Ok(())
}

fn by_descriptor(path: &CStr, keep: &mut Vec<OwnedFd>) -> io::Result<path::OfDescriptor> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let name = path::OfDescriptor::new(fd.as_fd());
    keep.push(fd);
    Ok(name)
}

/// Attaches a detached mount on top of the file or directory behind `target`.
///
/// # Errors
/// Those of move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", target, "", flags)?)
}

/// Attaches a detached mount on top of this process's root directory; path lookups do not see it, but
/// [`enter_root`] can make it the root.
///
/// # Errors
/// Those of move_mount(2).
pub fn attach_over_root(mount: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes an attached mount the root of the mount namespace and lets go of everything that was mounted before.
///
/// # Errors
/// Those of pivot_root(2) and umount2(2).
pub fn enter_root(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // Both names the same: the old root ends up mounted over the new one, from where it is removed.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// As [`enter_root`], where the machine's root is its initial RAM disk, which cannot be exchanged: the mount is moved
/// on top of it, and what was mounted before stays below, where no way leads to.
///
/// # Errors
/// Those of move_mount(2) and chroot(2).
pub fn enter_root_on_top(root: BorrowedFd<'_>) -> io::Result<()> {
    attach_over_root(root)?;
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

/// Whether an overlay may be asked for its layers one by one. Older kernels refuse that, and say so in their log each
/// time.
#[must_use]
pub fn takes_layers() -> bool {
    crate::kernel::at_least(6, 5)
}

/// Sets the flags of the kernel's one v2 control-group hierarchy (mount options such as `nsdelegate`). What is
/// not listed is taken away. Mounted or not makes no difference: the flags belong to the hierarchy.
///
/// # Errors
/// Those of fsconfig(2): `EINVAL` for a flag that the kernel does not know.
pub fn set_cgroup2_flags(flags: &[&str]) -> io::Result<()> {
    let context = rustix::mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for flag in flags {
        rustix::mount::fsconfig_set_flag(context.as_fd(), *flag)?;
    }
    Ok(rustix::mount::fsconfig_create(context.as_fd())?)
}
