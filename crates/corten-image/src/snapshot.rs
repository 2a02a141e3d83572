//! Layers as directories, writable layers, and the overlays made of them.
//!
//! ```text
//! snapshots/layers/<hex of diff id>/{fs,layer.json}  a layer in overlay's format (whiteouts are 0:0 devices)
//! snapshots/top/<hash>/fs                            /.dockerenv, mount points and the like
//! snapshots/rw/<id>/{fs,work}                        upper and work directory of a container or build step
//! snapshots/tmp/…                                    under way or on its way out; emptied at start
//! ```
//! INVARIANT: what has its name under `layers` is whole and never changed: it was made in `tmp`, its diff id
//! verified, and renamed. Files of layers are not synced one by one; `layer.json` says in which boot a layer was
//! made, and after a power cut those that were not flushed are unpacked again from their blobs.
//!
//! A layer is shared by all images that have it, so its directory cannot know the layers below. Directories that
//! its tar does not describe are listed in `layer.json`, and the `top` directory repeats them with the attributes
//! they have below.

mod changes;
mod merged;
mod top;
mod unpack;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use corten_base::fs::Context;
use corten_base::{Cancel, Digest, Id};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

pub use self::changes::{Change, ChangeKind};
use self::top::Top;
pub(crate) use self::unpack::{LayerInfo, Staged, open_dir};
use crate::content::{Content, make_dir};
use crate::{Image, ImageError, Layer};

/// What an overlay mount is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only layers, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// Overlay's work directory, on the same file system.
    pub work: PathBuf,
}

/// All snapshots of one data root. Clones share it.
#[derive(Debug, Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    content: Content,
    boot: String,
    /// Layers that were looked at.
    layers: Mutex<HashMap<Digest, Arc<LayerInfo>>>,
    /// One unpacking per diff id at a time.
    locks: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    /// Top directories by stack of layers.
    tops: Mutex<HashMap<Digest, PathBuf>>,
}

impl Snapshots {
    pub(crate) fn open(root: &Path, content: Content) -> Result<Self, ImageError> {
        let root = root.join("snapshots");
        for part in ["layers", "top", "rw", "tmp"] {
            make_dir(&root.join(part))?;
        }
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let inner = Inner {
            root,
            content,
            boot,
            layers: Mutex::default(),
            locks: Mutex::default(),
            tops: Mutex::default(),
        };
        let snapshots = Self { inner: Arc::new(inner) };
        snapshots.empty_tmp()?;
        snapshots.drop_unflushed()?;
        Ok(snapshots)
    }

    /// Makes the writable layer `id` on an image; unpacks layers that are not there. The lowers include a
    /// layer with `/.dockerenv`, `/etc/{hosts,hostname,resolv.conf,mtab}`, `/dev/{console,pts,shm}`, `/proc`, `/sys`,
    /// so that mounts have something to stand on and `changes` does not show it. Idempotent: call it before each
    /// start.
    ///
    /// # Errors
    /// Disk full and the like; `MissingBlob` where a layer is gone and its blob too.
    pub fn prepare(&self, id: &str, image: &Image) -> Result<Overlay, ImageError> {
        self.prepare_on(id, &image.layers())
    }

    /// As [`Snapshots::prepare`] on a stack of layers that need not be an image yet (build steps).
    ///
    /// # Errors
    /// As `prepare`.
    pub fn prepare_on(&self, id: &str, layers: &[Layer]) -> Result<Overlay, ImageError> {
        self.ensure_layers(layers, &Cancel::new())?;
        self.make_upper(self.overlay_on(id, layers)?)
    }

    fn make_upper(&self, overlay: Overlay) -> Result<Overlay, ImageError> {
        if overlay.work.is_dir() && overlay.upper.is_dir() {
            return Ok(overlay);
        }
        make_dir(&overlay.upper)?;
        make_dir(&overlay.work)?;
        // The root of the mount has the attributes of the upper directory: those of the image's root.
        let top = std::fs::metadata(&overlay.lowers[0]).at("stat", &overlay.lowers[0])?;
        std::os::unix::fs::chown(&overlay.upper, Some(top.uid()), Some(top.gid()))
            .at("chown", &overlay.upper)?;
        std::fs::set_permissions(&overlay.upper, std::fs::Permissions::from_mode(top.mode() & 0o7777))
            .at("chmod", &overlay.upper)?;
        Ok(overlay)
    }

    /// As [`Snapshots::prepare_on`] without the mount points: exactly the files of the layers, for those who read or
    /// change files without running anything (`COPY`, `COPY --from`).
    ///
    /// # Errors
    /// As `prepare`.
    pub fn prepare_files(&self, id: &str, layers: &[Layer]) -> Result<Overlay, ImageError> {
        self.ensure_layers(layers, &Cancel::new())?;
        let layers = &distinct(layers);
        let mut lowers = self.layer_dirs(layers);
        lowers.insert(0, self.top(layers, &lowers, Top::Directories)?);
        let rw = self.rw(id)?;
        self.make_upper(Overlay { lowers, upper: rw.join("fs"), work: rw.join("work") })
    }

    /// The overlay that `prepare` made, without making anything.
    ///
    /// # Errors
    /// The layers cannot be read.
    pub fn overlay(&self, id: &str, image: &Image) -> Result<Overlay, ImageError> {
        self.overlay_on(id, &image.layers())
    }

    fn overlay_on(&self, id: &str, layers: &[Layer]) -> Result<Overlay, ImageError> {
        let layers = &distinct(layers);
        let mut lowers = self.layer_dirs(layers);
        lowers.insert(0, self.top(layers, &lowers, Top::MountPoints)?);
        let rw = self.rw(id)?;
        Ok(Overlay { lowers, upper: rw.join("fs"), work: rw.join("work") })
    }

    /// The upper directory of a writable layer.
    ///
    /// # Errors
    /// The id is no name.
    pub fn upper_of(&self, id: &str) -> Result<PathBuf, ImageError> {
        Ok(self.rw(id)?.join("fs"))
    }

    /// Directories of layers, the topmost first.
    pub(crate) fn layer_dirs(&self, layers: &[Layer]) -> Vec<PathBuf> {
        layers.iter().rev().map(|l| self.layer_dir(&l.diff_id).join("fs")).collect()
    }

    /// Ids come from our own records, but a path is made of them: nothing but a plain name is taken.
    fn rw(&self, id: &str) -> Result<PathBuf, ImageError> {
        let plain = !id.is_empty()
            && id.len() <= 128
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !plain {
            return Err(ImageError::Config("snapshot name"));
        }
        Ok(self.inner.root.join("rw").join(id))
    }

    /// Removes the writable layer `id`; none is a success.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub fn remove(&self, id: &str) -> Result<(), ImageError> {
        self.discard(&self.rw(id)?)
    }

    /// Moves a directory out of sight at once, then deletes it.
    fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let trash = self.temp_path();
        match std::fs::rename(path, &trash) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.at("rename", path)?,
        }
        Ok(std::fs::remove_dir_all(&trash).at("remove", &trash)?)
    }

    fn temp_path(&self) -> PathBuf {
        self.inner.root.join("tmp").join(Id::random().short())
    }

    fn empty_tmp(&self) -> Result<(), ImageError> {
        let tmp = self.inner.root.join("tmp");
        for entry in std::fs::read_dir(&tmp).at("readdir", &tmp)? {
            let path = entry.at("readdir", &tmp)?.path();
            std::fs::remove_dir_all(&path).at("remove", &path)?;
        }
        Ok(())
    }

    /// Ids of all writable layers, for the sweeper.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn ids(&self) -> Result<Vec<String>, ImageError> {
        let rw = self.inner.root.join("rw");
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&rw).at("readdir", &rw)? {
            ids.push(entry.at("readdir", &rw)?.file_name().to_string_lossy().into_owned());
        }
        Ok(ids)
    }

    /// Bytes in the writable layer (`SizeRw`); hard links count once.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn usage(&self, id: &str) -> Result<u64, ImageError> {
        let upper = self.rw(id)?.join("fs");
        if upper.is_dir() { disk_size(&upper) } else { Ok(0) }
    }

    /// Bytes of the image's unpacked layers; plus `usage` it is `SizeRootFs`.
    #[must_use]
    pub fn layers_usage(&self, image: &Image) -> u64 {
        image.layer_sizes.iter().flatten().sum()
    }

    /// An overlay as a detached mount: the root of a stopped container, for cp and export, unknown to the host's
    /// mount table. It lives as long as the fd. Read-only mounts use the upper directory as a layer and so do not
    /// disturb a mount that has it as its upper.
    ///
    /// # Errors
    /// The kernel's; a writable mount while another is in use.
    pub fn mount_detached(&self, overlay: &Overlay, read_only: bool) -> Result<OwnedFd, ImageError> {
        mount(overlay, read_only).at("mount", &overlay.upper).map_err(Into::into)
    }

    /// The files of a stack of layers as a detached read-only mount.
    ///
    /// # Errors
    /// As `prepare`; the kernel's.
    pub fn mount_files(&self, layers: &[Layer]) -> Result<OwnedFd, ImageError> {
        self.ensure_layers(layers, &Cancel::new())?;
        let layers = &distinct(layers);
        let mut lowers = self.layer_dirs(layers);
        lowers.insert(0, self.top(layers, &lowers, Top::Directories)?);
        let upper = lowers.remove(0);
        let shown = upper.clone();
        mount(&Overlay { lowers, upper, work: PathBuf::new() }, true).at("mount", &shown).map_err(Into::into)
    }

    /// The changes of the writable layer against what it stands on, sorted by path.
    ///
    /// # Errors
    /// The directories cannot be read.
    pub fn changes(&self, overlay: &Overlay) -> Result<Vec<Change>, ImageError> {
        changes::changes(&overlay.upper, &overlay.lowers)
    }

    /// Puts everything to disk, so that a power cut costs no unpacking. For an orderly shutdown.
    ///
    /// # Errors
    /// The disk's.
    pub fn flush(&self) -> Result<(), ImageError> {
        self.flush_layers()
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stack without repetitions. Overlayfs takes no directory twice, and of equal layers only the topmost shows:
/// whatever the lower one has, the upper one has, too.
fn distinct(layers: &[Layer]) -> Vec<Layer> {
    let mut seen = std::collections::HashSet::new();
    let mut out: Vec<Layer> = layers.iter().rev().filter(|l| seen.insert(&l.diff_id)).cloned().collect();
    out.reverse();
    out
}

/// LINUX 6.5: `lowerdir+` takes one layer at a time, so that neither a page nor colons limit the paths. Older kernels
/// answer `EINVAL`.
fn mount(overlay: &Overlay, read_only: bool) -> std::io::Result<OwnedFd> {
    if !corten_sys::mount::takes_layers() {
        return mount_at_once(overlay, read_only);
    }
    match mount_by_layers(overlay, read_only) {
        Err(rustix::io::Errno::INVAL) => mount_at_once(overlay, read_only),
        other => Ok(other?),
    }
}

/// For older kernels: mounted by mount(2) where nobody sees it, and taken from there.
fn mount_at_once(overlay: &Overlay, read_only: bool) -> std::io::Result<OwnedFd> {
    use std::os::fd::AsFd;

    use corten_sys::mount;
    let invalid = |e: std::ffi::NulError| std::io::Error::new(std::io::ErrorKind::InvalidInput, e);
    // Any directory will do, as the layers are looked up before.
    let place = CString::new(overlay.upper.as_os_str().as_bytes()).map_err(invalid)?;
    let lowers: Vec<PathBuf> =
        read_only.then_some(&overlay.upper).into_iter().chain(&overlay.lowers).cloned().collect();
    let tree = mount::in_private_namespace(|| {
        let upper = (!read_only).then_some((overlay.upper.as_path(), overlay.work.as_path()));
        // Without an upper one such a kernel wants two.
        if upper.is_some() || lowers.len() > 1 {
            mount::Overlay::of(&lowers, upper, false)?.make_at(&place)?;
        }
        mount::bind(place.as_c_str(), false)
    })??;
    let kept = if read_only { mount::attr::RDONLY } else { 0 };
    let set = mount::attr::NODEV | mount::attr::NOSUID | kept;
    mount::change(tree.as_fd(), mount::Change { set, ..mount::Change::default() }, false)?;
    Ok(tree)
}

fn mount_by_layers(overlay: &Overlay, read_only: bool) -> rustix::io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &Path| rustix::mount::fsconfig_set_string(&fs, key, value);
    if read_only {
        set("lowerdir+", &overlay.upper)?;
    }
    for lower in &overlay.lowers {
        set("lowerdir+", lower)?;
    }
    if !read_only {
        set("upperdir", &overlay.upper)?;
        set("workdir", &overlay.work)?;
    }
    if corten_sys::users::initial() {
        for option in ["redirect_dir", "metacopy", "index"] {
            set(option, Path::new("off"))?;
        }
    } else {
        // It implies the three, and the kernel takes them from nobody else.
        rustix::mount::fsconfig_set_flag(&fs, "userxattr")?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    let attributes = if read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID,
    )
}

/// Bytes that a tree occupies on disk, directories and the root itself included, as the reference engine counts a
/// writable layer; hard links count once.
fn disk_size(root: &Path) -> Result<u64, ImageError> {
    let mut seen = std::collections::HashSet::new();
    let mut total = std::fs::symlink_metadata(root).at("stat", root)?.blocks() * 512;
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        // What goes away while we count is not counted.
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                todo.push(entry.path());
            }
            if meta.is_dir() || meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.blocks() * 512;
            }
        }
    }
    Ok(total)
}

/// Bytes of the files in a tree; hard links count once.
pub(crate) fn tree_size(root: &Path) -> Result<u64, ImageError> {
    let mut seen = std::collections::HashSet::new();
    let mut total = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.at("readdir", &dir)?,
        };
        for entry in entries {
            let entry = entry.at("readdir", &dir)?;
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.is_file() && (meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino()))) {
                total += meta.len();
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
