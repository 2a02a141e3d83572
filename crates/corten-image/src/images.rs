//! `Images`: the handle to everything about images.

use std::collections::BTreeMap;
use std::io::{Read, Write as IoWrite};
use std::path::Path;
use std::sync::Arc;

use corten_base::db::{Db, Write};
use corten_base::event::Bus;
use corten_base::{Cancel, Digest, Platform, Reference};

use crate::{
    CommitRequest, DiskUsage, HistoryItem, Image, ImageError, ImportRequest, Layer, NewImage, Progress,
    Pruned, RemoveOptions, Removed, Snapshots, Summary,
};

/// Filters as the API gets them: name → values. Unknown names and bad values are refused in Docker's words.
pub type Filters = BTreeMap<String, Vec<String>>;

/// All images of one data root. Clones share it.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<()>,
}

fn pending<T>() -> Result<T, ImageError> {
    Err(ImageError::Unsupported("being written".into()))
}

impl Images {
    /// Opens `<root>/{blobs,ingest,snapshots}` and the tables `image_*`, `snapshot_*`; sweeps what a crash left.
    ///
    /// # Errors
    /// The directory or database cannot be used.
    pub fn open(_root: &Path, _db: Db, _bus: Bus) -> Result<Self, ImageError> {
        pending()
    }

    /// Finds an image by reference (`:latest` implied), id, or prefix of an id (with or without `sha256:`).
    ///
    /// # Errors
    /// `NotFound` (`No such image: x`), `Ambiguous`, `Reference`.
    pub fn resolve(&self, _name: &str) -> Result<Arc<Image>, ImageError> {
        pending()
    }

    /// As [`Images::resolve`], but the view for this platform (same id, other manifest and configuration).
    ///
    /// # Errors
    /// As `resolve`, and `PlatformMismatch`.
    pub fn resolve_for(&self, _name: &str, _platform: Option<&Platform>) -> Result<Arc<Image>, ImageError> {
        pending()
    }

    /// The image with exactly this id.
    #[must_use]
    pub fn get(&self, _id: &Digest) -> Option<Arc<Image>> {
        None
    }

    /// `GET /images/json`: filters `reference`, `dangling`, `label`, `label!`, `before`, `since`, `until`. Newest first.
    /// Without `all`, untagged images that have children are left out.
    ///
    /// # Errors
    /// `UnknownFilter`, `FilterValue`, and `NotFound` of `before` and `since`.
    pub fn list(&self, _filters: &Filters, _all: bool) -> Result<Vec<Summary>, ImageError> {
        pending()
    }

    /// Number of images (`Images` of `GET /info`).
    #[must_use]
    pub fn count(&self) -> usize {
        0
    }

    /// `GET /images/{name}/history`.
    ///
    /// # Errors
    /// As [`Images::resolve`].
    pub fn history(&self, _name: &str) -> Result<Vec<HistoryItem>, ImageError> {
        pending()
    }

    /// Names an image; a name that another image has moves. Publishes `tag`.
    ///
    /// # Errors
    /// As [`Images::resolve`]; `TagIsDigest`.
    pub fn tag(&self, _name: &str, _target: &Reference) -> Result<(), ImageError> {
        pending()
    }

    /// `DELETE /images/{name}` by Docker's rules.
    ///
    /// # Errors
    /// As [`Images::resolve`]; conflicts.
    pub fn remove(&self, _name: &str, _options: &RemoveOptions) -> Result<Vec<Removed>, ImageError> {
        pending()
    }

    /// `POST /images/prune`: filters `dangling` (default true), `until`, `label`, `label!`.
    ///
    /// # Errors
    /// `UnknownFilter`, `FilterValue`.
    pub fn prune(&self, _filters: &Filters) -> Result<Pruned, ImageError> {
        pending()
    }

    /// For `GET /system/df`.
    ///
    /// # Errors
    /// The database or directories cannot be read.
    pub fn disk_usage(&self) -> Result<DiskUsage, ImageError> {
        pending()
    }

    /// Keeps an image from being collected while `holder` (a container's id) exists; part of the caller's
    /// transaction, so that record and hold come together.
    ///
    /// # Errors
    /// `NotFound` when the image went in the meantime.
    pub fn hold(&self, _txn: &Write, _id: &Digest, _holder: &str) -> Result<(), ImageError> {
        pending()
    }

    /// Ends a hold; none is a success.
    ///
    /// # Errors
    /// The database.
    pub fn release(&self, _txn: &Write, _id: &Digest, _holder: &str) -> Result<(), ImageError> {
        pending()
    }

    /// Writable layers, layers on disk, overlays.
    #[must_use]
    pub fn snapshots(&self) -> &Snapshots {
        unimplemented!()
    }

    /// Reads a docker archive or an OCI layout, compressed or not. Sends `Stream("Loaded image: x\n")`.
    ///
    /// # Errors
    /// `NotAnImageArchive`, `Tar`, digest mismatches, …
    pub fn load(
        &self,
        _archive: &mut dyn Read,
        _progress: &Progress,
        _cancel: &Cancel,
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        pending()
    }

    /// Writes the named images as OCI layout with `manifest.json`. Names are checked before the first byte.
    ///
    /// # Errors
    /// As [`Images::resolve`]; `Stream` where the reader went away.
    pub fn save(
        &self,
        _names: &[String],
        _out: &mut dyn IoWrite,
        _cancel: &Cancel,
    ) -> Result<(), ImageError> {
        pending()
    }

    /// Makes an image of one layer from a tar, compressed or not.
    ///
    /// # Errors
    /// `Tar` for a bad archive.
    pub fn import(
        &self,
        _tar: &mut dyn Read,
        _request: ImportRequest,
        _cancel: &Cancel,
    ) -> Result<Arc<Image>, ImageError> {
        pending()
    }

    /// Makes an image from a writable layer. No layer is added where nothing was changed.
    ///
    /// # Errors
    /// Reading the layer or writing the blob.
    pub fn commit(&self, _request: CommitRequest, _cancel: &Cancel) -> Result<Arc<Image>, ImageError> {
        pending()
    }

    /// For the builder: turns the writable layer `snapshot` into a layer (its directory is taken, not copied; the
    /// snapshot is gone afterwards). `None` where nothing was changed.
    ///
    /// # Errors
    /// Reading the layer or writing the blob.
    pub fn take_layer(&self, _snapshot: &str, _cancel: &Cancel) -> Result<Option<Layer>, ImageError> {
        pending()
    }

    /// For the builder: makes a layer of a tar stream.
    ///
    /// # Errors
    /// `Tar` for a bad archive.
    pub fn put_layer(&self, _tar: &mut dyn Read, _cancel: &Cancel) -> Result<Layer, ImageError> {
        pending()
    }

    /// For the builder: makes an image of layers and a configuration; publishes `tag` for its names.
    ///
    /// # Errors
    /// The store.
    pub fn create_image(&self, _new: NewImage) -> Result<Arc<Image>, ImageError> {
        pending()
    }
}
