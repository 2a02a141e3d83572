//! `Images`: the handle to everything about images.
//!
//! Tables of `meta.db`, written by this module only (`image_holds` within transactions of the engine, too):
//! ```text
//! image_images      <id>                   target, manifests, parent, times; the documents themselves are blobs
//! image_references  <canonical reference>  → id
//! image_holds       <id> <holder>          a container uses the image
//! ```
//! An image exists while its record does: it has a name, or is `dangling` (kept without one: the name moved on, or
//! it never had any). All records are mirrored in memory, so that lookups never wait for the disk; every change is
//! one durable transaction, then the mirror is replaced.

mod convert;
mod create;
mod index;
mod load;
mod lookup;
mod manifests;
mod pull;
mod push;
mod records;
mod remove;
mod save;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use corten_base::db::{Commit, Db, DbError, Write};
use corten_base::event::Bus;
use corten_base::{Cancel, Digest};

pub use self::manifests::{ManifestEntry, ManifestKind, Statement};
pub(crate) use self::records::Draft;
use self::records::{HOLDS, HoldRecord, IMAGES, State, hold_key};
use crate::content::Content;
use crate::{Image, ImageError, Snapshots};

/// Filters as the API gets them: name → values. Unknown names and bad values are refused in Docker's words.
pub type Filters = BTreeMap<String, Vec<String>>;

/// All images of one data root. Clones share it.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    bus: Bus,
    content: Content,
    snapshots: Snapshots,
    /// Changes come one at a time: each starts from the state that the one before left.
    gate: Mutex<()>,
    state: RwLock<Arc<State>>,
    /// Blobs on their way in, so that two pulls do not fetch one twice.
    flights: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Layers of one pull, and of one push, that move at the same time.
    parallel: [AtomicUsize; 2],
}

impl Images {
    /// Opens `<root>/{blobs,ingest,snapshots}` and the tables `image_*`; sweeps what a crash left.
    ///
    /// # Errors
    /// The directory or database cannot be used.
    pub fn open(root: &Path, db: Db, bus: Bus) -> Result<Self, ImageError> {
        let content = Content::open(root)?;
        let snapshots = Snapshots::open(root, content.clone())?;
        let state = State::load(&db, &content, &snapshots)?;
        let inner = Inner {
            db,
            bus,
            content,
            snapshots,
            gate: Mutex::default(),
            state: RwLock::new(Arc::new(state)),
            flights: Mutex::default(),
            parallel: [AtomicUsize::new(3), AtomicUsize::new(5)],
        };
        let images = Self { inner: Arc::new(inner) };
        images.collect()?;
        images.restore_held()?;
        Ok(images)
    }

    /// After a power cut, layers that had not reached the disk are unpacked again, those of containers now.
    fn restore_held(&self) -> Result<(), ImageError> {
        for id in self.holders()?.keys() {
            let Some(image) = self.get(id) else { continue };
            if let Err(error) = self.inner.snapshots.ensure_layers(&image.layers(), &Cancel::new()) {
                tracing::warn!(image = %id, error = %error, "layers of a container's image are missing");
            }
        }
        Ok(())
    }

    /// How many layers of one pull, and of one push, move at the same time; for those that begin from now on.
    pub fn set_parallel(&self, downloads: usize, uploads: usize) {
        for (slot, number) in self.inner.parallel.iter().zip([downloads, uploads]) {
            slot.store(number.max(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn parallel_downloads(&self) -> usize {
        self.inner.parallel[0].load(Ordering::Relaxed)
    }

    pub(crate) fn parallel_uploads(&self) -> usize {
        self.inner.parallel[1].load(Ordering::Relaxed)
    }

    /// Writable layers, layers on disk, overlays.
    #[must_use]
    pub fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// Keeps an image from being collected while `holder` (a container's id) exists; part of the caller's
    /// transaction, so that record and hold come together.
    ///
    /// # Errors
    /// `NotFound` when the image went in the meantime.
    pub fn hold(&self, txn: &Write, id: &Digest, holder: &str) -> Result<(), ImageError> {
        if txn.get(IMAGES, id.as_str())?.is_none() {
            return Err(ImageError::NotFound(id.to_string()));
        }
        Ok(txn.put(HOLDS, &hold_key(id, holder), &HoldRecord {})?)
    }

    /// Ends a hold; none is a success.
    ///
    /// # Errors
    /// The database.
    pub fn release(&self, txn: &Write, id: &Digest, holder: &str) -> Result<(), ImageError> {
        txn.remove(HOLDS, &hold_key(id, holder))?;
        Ok(())
    }

    /// Who holds which image.
    ///
    /// # Errors
    /// The database.
    pub fn holders(&self) -> Result<BTreeMap<Digest, Vec<String>>, ImageError> {
        Ok(records::holders(self.inner.db.all(HOLDS)?))
    }

    /// Flushes layers to disk; for an orderly shutdown.
    ///
    /// # Errors
    /// The disk's.
    pub fn close(&self) -> Result<(), ImageError> {
        self.inner.snapshots.flush()
    }

    fn content(&self) -> &Content {
        &self.inner.content
    }

    /// A tokio mutex, because it is held while the blob is downloaded.
    fn flight(&self, blob: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        Arc::clone(flights.entry(blob.clone()).or_default())
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.inner.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One change: durable first, then visible.
    fn update<T>(&self, f: impl FnOnce(&mut Draft<'_>) -> Result<T, ImageError>) -> Result<T, ImageError> {
        self.update_as(Commit::Durable, f)
    }

    fn update_as<T>(
        &self,
        commit: Commit,
        f: impl FnOnce(&mut Draft<'_>) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let _one_at_a_time = self.inner.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let state = State::clone(&self.state());
        let (value, state) = self.inner.db.write(commit, |txn| {
            let mut draft =
                Draft { txn, state, content: &self.inner.content, snapshots: &self.inner.snapshots };
            let value = f(&mut draft)?;
            Ok::<_, ImageError>((value, draft.state))
        })?;
        *self.inner.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        Ok(value)
    }

    /// Publishes what happened to an image, with its labels as Docker does.
    fn event(&self, action: &str, actor: &str, name: &str, image: Option<&Image>) {
        let mut attributes = image.map(Image::labels).unwrap_or_default();
        attributes.insert("name".into(), name.into());
        self.inner.bus.publish("image", action, actor, attributes);
    }
}

impl From<DbError> for Box<ImageError> {
    fn from(e: DbError) -> Self {
        Self::new(ImageError::Db(e))
    }
}

#[cfg(test)]
mod tests;
