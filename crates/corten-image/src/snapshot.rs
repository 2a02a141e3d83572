//! Layers as directories, writable layers, and the overlays made of them.
//!
//! ```text
//! snapshots/layers/<hex of diff id>/fs   a layer, in overlay's format (whiteouts are 0:0 devices); immutable
//! snapshots/top/<hash>/fs                /.dockerenv, mount points and the like; immutable, shared by containers
//! snapshots/rw/<id>/{fs,work}            upper and work directory of a container
//! ```

use std::os::fd::OwnedFd;
use std::path::PathBuf;

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

/// What happened to a path in the writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// 0 at the API, `C`.
    Modified,
    /// 1 at the API, `A`.
    Added,
    /// 2 at the API, `D`.
    Deleted,
}

/// One line of `GET /containers/{id}/changes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path within the container.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
}

/// All snapshots of one data root. Clones share it.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
}

fn pending<T>() -> Result<T, ImageError> {
    Err(ImageError::Unsupported("being written".into()))
}

impl Snapshots {
    /// Makes the writable layer `id` on an image; unpacks layers that are not there yet. The lowers include a
    /// layer with `/.dockerenv`, `/etc/{hosts,hostname,resolv.conf,mtab}`, `/dev/{console,pts,shm}`, `/proc`, `/sys`,
    /// so that mounts have something to stand on and `diff` does not show it. Idempotent.
    ///
    /// # Errors
    /// Disk full and the like.
    pub fn prepare(&self, _id: &str, _image: &Image) -> Result<Overlay, ImageError> {
        pending()
    }

    /// As [`Snapshots::prepare`] on a stack of layers that need not be an image yet (build steps).
    ///
    /// # Errors
    /// As `prepare`.
    pub fn prepare_on(&self, _id: &str, _layers: &[Layer]) -> Result<Overlay, ImageError> {
        pending()
    }

    /// Removes the writable layer `id`; none is a success.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub fn remove(&self, _id: &str) -> Result<(), ImageError> {
        pending()
    }

    /// Ids of all writable layers, for the sweeper.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn ids(&self) -> Result<Vec<String>, ImageError> {
        pending()
    }

    /// Bytes in the writable layer (`SizeRw`).
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn usage(&self, _id: &str) -> Result<u64, ImageError> {
        pending()
    }

    /// Bytes of the image's unpacked layers; plus `usage` it is `SizeRootFs`.
    #[must_use]
    pub fn layers_usage(&self, _image: &Image) -> u64 {
        0
    }

    /// An overlay as a detached mount: the root of a stopped container, for cp and export, unknown to the host's
    /// mount table. It lives as long as the fd.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount_detached(&self, _overlay: &Overlay, _read_only: bool) -> Result<OwnedFd, ImageError> {
        pending()
    }

    /// The changes of the writable layer against what it stands on, sorted by path.
    ///
    /// # Errors
    /// The directories cannot be read.
    pub fn changes(&self, _overlay: &Overlay) -> Result<Vec<Change>, ImageError> {
        pending()
    }

    /// Root of the data, for messages.
    #[must_use]
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }
}
