//! Records of images, their mirror in memory, and changes to both.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use corten_base::db::{Db, Table, Write};
use corten_base::{Digest, Reference, time};
use corten_wire::oci_image::{Descriptor, Document, ImageConfig, MAX_DOCUMENT};
use serde::{Deserialize, Serialize};

use super::manifests::attestations_about;
use crate::content::Content;
use crate::{Image, ImageError, Layer, Snapshots};

pub(crate) const IMAGES: Table<ImageRecord> = Table::new("image_images");
pub(crate) const REFERENCES: Table<ReferenceRecord> = Table::new("image_references");
pub(crate) const HOLDS: Table<HoldRecord> = Table::new("image_holds");

/// What is stored about an image beside its documents.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Manifest or index that gives the id.
    pub(crate) target: Descriptor,
    /// Manifests that are here with all their content; the first is the one for this host.
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default)]
    pub(crate) parent: Option<Digest>,
    /// Kept although it has no name (`moby-dangling@…` of the reference engine).
    #[serde(default)]
    pub(crate) dangling: bool,
    /// Repositories it was pulled from or pushed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) origins: Vec<String>,
    /// Kept by the build cache: without a name, and not dangling, it is no image that anybody sees.
    #[serde(default)]
    pub(crate) cached: bool,
    pub(crate) added_ns: i64,
    #[serde(default)]
    pub(crate) last_tag_ns: Option<i64>,
}

impl ImageRecord {
    /// Notes where it comes from or went to.
    pub(crate) fn add_origin(&mut self, repository: Option<&str>) {
        if let Some(new) = repository.filter(|r| !self.origins.iter().any(|o| o == r)) {
            self.origins.push(new.to_owned());
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReferenceRecord {
    pub(crate) image: Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HoldRecord {}

pub(crate) fn hold_key(image: &Digest, holder: &str) -> String {
    format!("{image} {holder}")
}

pub(crate) fn holders(rows: Vec<(String, HoldRecord)>) -> BTreeMap<Digest, Vec<String>> {
    let mut out: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for (key, _) in rows {
        if let Some((image, holder)) = key.split_once(' ')
            && let Ok(image) = image.parse()
        {
            out.entry(image).or_default().push(holder.to_owned());
        }
    }
    out
}

pub(crate) fn now_ns() -> i64 {
    i64::try_from(time::now_ns()).unwrap_or(i64::MAX)
}

/// Everything in memory. Cloned for each change; the images themselves are shared.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) records: BTreeMap<Digest, Arc<ImageRecord>>,
    pub(crate) images: BTreeMap<Digest, Arc<Image>>,
    /// By canonical text, which is also the order of names in answers.
    pub(crate) references: BTreeMap<String, (Reference, Digest)>,
}

impl State {
    pub(crate) fn load(db: &Db, content: &Content, snapshots: &Snapshots) -> Result<Self, ImageError> {
        let mut state = Self::default();
        for (key, record) in db.all(REFERENCES)? {
            if let Ok(reference) = key.parse::<Reference>() {
                state.references.insert(key, (reference, record.image));
            }
        }
        for (key, record) in db.all(IMAGES)? {
            let Ok(id) = key.parse::<Digest>() else { continue };
            match view(&id, &record, &record.manifests[0], &state.references_of(&id), content, snapshots) {
                Ok(image) => {
                    state.images.insert(id.clone(), Arc::new(image));
                }
                Err(error) => {
                    tracing::warn!(image = %id, error = %error, "image cannot be read; it is hidden");
                }
            }
            state.records.insert(id, Arc::new(record));
        }
        Ok(state)
    }

    pub(crate) fn references_of(&self, id: &Digest) -> Vec<Reference> {
        self.references.values().filter(|(_, i)| i == id).map(|(r, _)| r.clone()).collect()
    }

    /// Whether an image is one for its users, not only for the build cache.
    pub(crate) fn is_visible(&self, id: &Digest) -> bool {
        self.records.get(id).is_some_and(|r| !r.cached || r.dangling)
            || self.references.values().any(|(_, i)| i == id)
    }

    pub(crate) fn has_children(&self, id: &Digest) -> bool {
        self.records.values().any(|r| r.parent.as_ref() == Some(id))
    }
}

/// Reads the documents of an image and puts the view together.
pub(crate) fn view(
    id: &Digest,
    record: &ImageRecord,
    manifest_descriptor: &Descriptor,
    references: &[Reference],
    content: &Content,
    snapshots: &Snapshots,
) -> Result<Image, ImageError> {
    let bytes = content.read(&manifest_descriptor.digest, MAX_DOCUMENT)?;
    let Document::Manifest(manifest) = Document::parse(&manifest_descriptor.media_type, &bytes)? else {
        return Err(ImageError::Config("an index where a manifest should be"));
    };
    let config = read_config(content, &manifest.config.digest)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(ImageError::Config("layers and diff ids differ in number"));
    }
    let mut image = Image {
        id: id.clone(),
        target: record.target.clone(),
        manifest: Arc::new(manifest),
        manifest_descriptor: manifest_descriptor.clone(),
        config: Arc::new(config),
        references: references.to_vec(),
        parent: record.parent.clone(),
        origins: record.origins.clone(),
        last_tag_ns: record.last_tag_ns,
        added_ns: record.added_ns,
        size: 0,
        layer_sizes: Vec::new(),
    };
    measure(&mut image, snapshots);
    Ok(image)
}

/// Fills in sizes, as far as layers are unpacked by now.
pub(crate) fn measure(image: &mut Image, snapshots: &Snapshots) {
    image.layer_sizes =
        image.config.rootfs.diff_ids.iter().map(|d| snapshots.layer(d).map(|i| i.size)).collect();
    let unpacked: u64 = image.layer_sizes.iter().flatten().sum();
    let blobs: u64 = image.manifest.layers.iter().map(|l| l.size).sum();
    image.size = unpacked + blobs + image.manifest.config.size + image.manifest_descriptor.size;
}

pub(crate) fn read_config(content: &Content, digest: &Digest) -> Result<ImageConfig, ImageError> {
    let bytes = content.read(digest, MAX_DOCUMENT)?;
    serde_json::from_slice(&bytes).map_err(|_| ImageError::Config("not a JSON configuration"))
}

/// A change under way: the transaction, and the state as it will be.
pub(crate) struct Draft<'a> {
    pub(crate) txn: &'a Write,
    pub(crate) state: State,
    pub(crate) content: &'a Content,
    pub(crate) snapshots: &'a Snapshots,
}

impl Draft<'_> {
    /// Inserts or replaces an image.
    pub(crate) fn put_image(&mut self, id: &Digest, record: ImageRecord) -> Result<(), ImageError> {
        self.txn.put(IMAGES, id.as_str(), &record)?;
        self.state.records.insert(id.clone(), Arc::new(record));
        self.state.images.remove(id);
        self.refresh(id)
    }

    /// Gives an image a name; the image that had it stays, dangling if it has no other.
    pub(crate) fn put_reference(&mut self, reference: &Reference, id: &Digest) -> Result<(), ImageError> {
        let key = reference.to_string();
        self.txn.put(REFERENCES, &key, &ReferenceRecord { image: id.clone() })?;
        let before = self.state.references.insert(key, (reference.clone(), id.clone()));
        if let Some((_, before)) = before
            && &before != id
        {
            self.keep(&before)?;
        }
        let now = now_ns();
        self.change(id, |record| record.last_tag_ns = Some(now))
    }

    /// Takes a name away; says which image had it.
    pub(crate) fn remove_reference(&mut self, reference: &Reference) -> Result<Option<Digest>, ImageError> {
        let key = reference.to_string();
        self.txn.remove(REFERENCES, &key)?;
        let Some((_, id)) = self.state.references.remove(&key) else { return Ok(None) };
        self.refresh(&id)?;
        Ok(Some(id))
    }

    /// Makes an image that has no name dangling, so that it stays.
    pub(crate) fn keep(&mut self, id: &Digest) -> Result<(), ImageError> {
        let nameless = self.state.references_of(id).is_empty();
        self.change(id, |record| record.dangling |= nameless)
    }

    /// Removes the record of an image; its names must be gone.
    pub(crate) fn remove_image(&mut self, id: &Digest) -> Result<(), ImageError> {
        self.txn.remove(IMAGES, id.as_str())?;
        self.state.records.remove(id);
        self.state.images.remove(id);
        Ok(())
    }

    /// Changes a record, if there is one, and its view.
    pub(crate) fn change(&mut self, id: &Digest, f: impl FnOnce(&mut ImageRecord)) -> Result<(), ImageError> {
        if let Some(record) = self.state.records.get(id) {
            let mut record = ImageRecord::clone(record);
            f(&mut record);
            self.txn.put(IMAGES, id.as_str(), &record)?;
            self.state.records.insert(id.clone(), Arc::new(record));
        }
        self.refresh(id)
    }

    fn refresh(&mut self, id: &Digest) -> Result<(), ImageError> {
        let Some(record) = self.state.records.get(id) else { return Ok(()) };
        let references = self.state.references_of(id);
        let image = match self.state.images.get(id) {
            Some(old) => Image {
                references,
                parent: record.parent.clone(),
                origins: record.origins.clone(),
                last_tag_ns: record.last_tag_ns,
                ..Image::clone(old)
            },
            None => view(id, record, &record.manifests[0], &references, self.content, self.snapshots)?,
        };
        self.state.images.insert(id.clone(), Arc::new(image));
        Ok(())
    }

    pub(crate) fn holders(&self) -> Result<BTreeMap<Digest, Vec<String>>, ImageError> {
        Ok(holders(self.txn.all(HOLDS)?))
    }
}

/// Blobs and layers that records refer to.
#[derive(Debug, Default)]
pub(crate) struct Reachable {
    pub(crate) blobs: HashSet<Digest>,
    pub(crate) layers: HashSet<Digest>,
}

impl Reachable {
    pub(crate) fn of(state: &State, content: &Content) -> Self {
        let mut all = Self::default();
        for (id, record) in &state.records {
            all.blobs.insert(id.clone());
            for manifest in &record.manifests {
                all.blobs.insert(manifest.digest.clone());
                match state.images.get(id).filter(|i| i.manifest_descriptor.digest == manifest.digest) {
                    Some(image) => all.add(&image.manifest.config.digest, &image.layers()),
                    None => all.add_manifest(manifest, content),
                }
            }
            let about: Vec<&Digest> = record.manifests.iter().map(|m| &m.digest).collect();
            for (descriptor, manifest) in attestations_about(content, &record.target, &about) {
                all.blobs.insert(descriptor.digest);
                all.blobs.insert(manifest.config.digest);
                all.blobs.extend(manifest.layers.into_iter().map(|l| l.digest));
            }
        }
        all
    }

    fn add(&mut self, config: &Digest, layers: &[Layer]) {
        self.blobs.insert(config.clone());
        for layer in layers {
            self.blobs.insert(layer.blob.digest.clone());
            self.layers.insert(layer.diff_id.clone());
        }
    }

    /// A manifest for another platform; what cannot be read of it keeps nothing.
    fn add_manifest(&mut self, descriptor: &Descriptor, content: &Content) {
        let Ok(bytes) = content.read(&descriptor.digest, MAX_DOCUMENT) else { return };
        let Ok(Document::Manifest(manifest)) = Document::parse(&descriptor.media_type, &bytes) else {
            return;
        };
        self.blobs.insert(manifest.config.digest.clone());
        self.blobs.extend(manifest.layers.iter().map(|l| l.digest.clone()));
        if let Ok(config) = read_config(content, &manifest.config.digest) {
            self.layers.extend(config.rootfs.diff_ids);
        }
    }
}
