//! Making images here: commit, import, and the builder's layers.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use corten_base::db::Commit;
use corten_base::fs::Context;
use corten_base::{Cancel, Digest, Platform, Reference, time};
use corten_wire::oci_image::{Descriptor, History, ImageConfig, Manifest, OciPlatform, RootFs, media_type};

use super::Images;
use super::records::{ImageRecord, now_ns};
use crate::compress::{self, Compression, GzipWriter};
use crate::content::{HashingWriter, Ingest, Pins};
use crate::snapshot::{open_dir, tree_size};
use crate::tar::{PackOptions, Packer, Writer};
use crate::{CommitRequest, Image, ImageError, ImportRequest, Layer, NewImage};

impl Images {
    /// Makes an image of one layer from a tar, compressed or not. A compressed one is kept as it came. Publishes
    /// `import`.
    ///
    /// # Errors
    /// `Tar` for a bad archive.
    pub fn import(
        &self,
        tar: &mut dyn Read,
        request: ImportRequest,
        cancel: &Cancel,
    ) -> Result<Arc<Image>, ImageError> {
        let mut pins = self.content().pins();
        let layer = self.layer_of_stream(tar, &mut pins, cancel)?;
        let platform = request.platform.unwrap_or_else(Platform::host);
        let created = now();
        let step = History {
            created: Some(created.clone()),
            comment: request.comment.clone(),
            ..History::default()
        };
        let config = ImageConfig {
            created: Some(created),
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            config: request.config,
            history: vec![step],
            comment: request.comment,
            ..ImageConfig::default()
        };
        let references = request.reference.into_iter().collect::<Vec<_>>();
        let name = references.first().map(|r| Reference::clone(r).or_latest().familiar());
        let image = self.record(
            NewImage { config, layers: vec![layer], references, ..NewImage::default() },
            true,
            &mut pins,
        )?;
        corten_sys::memory::trim();
        self.event("import", image.id.as_str(), name.as_deref().unwrap_or(image.id.as_str()), Some(&image));
        Ok(image)
    }

    /// Makes an image from a writable layer. No layer is added where nothing was changed.
    ///
    /// # Errors
    /// Reading the layer or writing the blob.
    pub fn commit(&self, request: CommitRequest, cancel: &Cancel) -> Result<Arc<Image>, ImageError> {
        let overlay = self.inner.snapshots.overlay(&request.snapshot, &request.base)?;
        let mut pins = self.content().pins();
        let packed = self.pack_upper(&overlay.upper, &mut pins, cancel)?;
        let base = &request.base;
        let mut layers = base.layers();
        let created = now();
        let step = History {
            created: Some(created.clone()),
            created_by: request.created_by,
            author: request.author.clone(),
            comment: request.comment.clone(),
            empty_layer: packed.is_none(),
        };
        layers.extend(packed.map(|p| p.layer));
        let mut config = ImageConfig::clone(&base.config);
        config.created = Some(created);
        config.author = request.author;
        config.comment = request.comment;
        config.config = request.config;
        config.docker_version = String::new();
        config.history.push(step);
        // What the base's maker noted about its container does not hold for ours.
        for stale in ["container", "container_config", "id", "parent"] {
            config.extra.remove(stale);
        }
        if !request.container.is_empty() {
            config.extra.insert("container".into(), request.container.into());
        }
        let references = request.reference.into_iter().collect();
        let new =
            NewImage { config, layers, parent: Some(base.id.clone()), references, ..NewImage::default() };
        let image = self.record(new, true, &mut pins)?;
        self.publish_tags(&image);
        Ok(image)
    }

    /// For the builder: turns the writable layer `snapshot` into a layer (its directory is taken, not copied; the
    /// snapshot is gone afterwards). `None` where nothing was changed. The layer is kept for an hour until an image
    /// has it.
    ///
    /// # Errors
    /// Reading the layer or writing the blob.
    pub fn take_layer(&self, snapshot: &str, cancel: &Cancel) -> Result<Option<Layer>, ImageError> {
        let overlay = self.inner.snapshots.upper_of(snapshot)?;
        let mut pins = self.content().pins();
        let Some(packed) = self.pack_upper(&overlay, &mut pins, cancel)? else {
            self.inner.snapshots.remove(snapshot)?;
            return Ok(None);
        };
        let layer = packed.layer;
        self.keep_loosely(&layer);
        let lock = self.inner.snapshots.layer_lock(&layer.diff_id);
        let _one_at_a_time = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.inner.snapshots.layer(&layer.diff_id).is_some() {
            self.inner.snapshots.remove(snapshot)?;
        } else {
            let size = tree_size(&overlay)?;
            let staged =
                self.inner.snapshots.stage_upper(snapshot, layer.diff_id.clone(), size, packed.members)?;
            self.inner.snapshots.publish(staged, None)?;
        }
        Ok(Some(layer))
    }

    /// For the builder: makes a layer of a tar stream, compressed or not. It is kept for an hour until an image has
    /// it.
    ///
    /// # Errors
    /// `Tar` for a bad archive.
    pub fn put_layer(&self, tar: &mut dyn Read, cancel: &Cancel) -> Result<Layer, ImageError> {
        let mut pins = self.content().pins();
        let layer = self.layer_of_stream(tar, &mut pins, cancel)?;
        self.keep_loosely(&layer);
        Ok(layer)
    }

    /// Whether a layer is here, packed and unpacked.
    #[must_use]
    pub fn has_layer(&self, layer: &Layer) -> bool {
        self.content().size(&layer.blob.digest) == Some(layer.blob.size)
            && self.inner.snapshots.layer(&layer.diff_id).is_some()
    }

    fn keep_loosely(&self, layer: &Layer) {
        self.content().pin_loosely(&layer.blob.digest);
        self.content().pin_loosely(&layer.diff_id);
    }

    /// For the builder: makes an image of layers and a configuration (`rootfs` is filled in); publishes `tag` for
    /// its names. An image that is there already is only named.
    ///
    /// # Errors
    /// The store; `MissingBlob` where a layer is unknown here.
    pub fn create_image(&self, new: NewImage) -> Result<Arc<Image>, ImageError> {
        let mut pins = self.content().pins();
        for layer in &new.layers {
            pins.add(&layer.blob.digest);
            pins.add(&layer.diff_id);
            if !self.content().contains(&layer.blob.digest) {
                return Err(ImageError::MissingBlob(layer.blob.digest.to_string()));
            }
        }
        let durable = !new.references.is_empty() && !new.cached;
        let image = self.record(new, durable, &mut pins)?;
        self.publish_tags(&image);
        Ok(image)
    }

    pub(super) fn publish_tags(&self, image: &Image) {
        for tag in image.repo_tags() {
            self.event("tag", image.id.as_str(), &tag, Some(image));
        }
    }

    /// Writes configuration and manifest, then the record.
    fn record(&self, new: NewImage, durable: bool, pins: &mut Pins) -> Result<Arc<Image>, ImageError> {
        let NewImage { mut config, layers, parent, references, cached, annotations } = new;
        for layer in &layers {
            pins.add(&layer.diff_id);
            pins.add(&layer.blob.digest);
        }
        let target = self.put_manifest(&mut config, &layers, annotations, pins)?;
        let id = target.digest.clone();
        // A nameless image is a step of a build: after a power cut it may be missing, and is made again.
        let durability = if durable { Commit::Durable } else { Commit::Lazy };
        if durable {
            let manifest = self.manifest(&target)?;
            let blobs = layers.iter().map(|l| &l.blob.digest).chain([&manifest.config.digest, &id]);
            self.content().sync(blobs)?;
        }
        let made = Made { manifests: vec![target.clone()], target, parent, references, cached };
        self.record_made(made, durability)?;
        for layer in &layers {
            self.content().unpin_loosely(&layer.blob.digest);
            self.content().unpin_loosely(&layer.diff_id);
        }
        self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    /// Writes configuration and manifest of an image.
    pub(super) fn put_manifest(
        &self,
        config: &mut ImageConfig,
        layers: &[Layer],
        annotations: BTreeMap<String, String>,
        pins: &mut Pins,
    ) -> Result<Descriptor, ImageError> {
        config.rootfs =
            RootFs { diff_ids: layers.iter().map(|l| l.diff_id.clone()).collect(), ..RootFs::default() };
        let config_bytes = to_json(config)?;
        let config_digest = self.content().put(&config_bytes, pins)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.into(),
            config: Descriptor::new(media_type::CONFIG, config_digest, config_bytes.len() as u64),
            layers: layers.iter().map(|l| oci_layer(&l.blob)).collect(),
            annotations,
            extra: serde_json::Map::new(),
        };
        let bytes = to_json(&manifest)?;
        let digest = self.content().put(&bytes, pins)?;
        Ok(Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64))
    }

    /// Records an image that was made here.
    pub(super) fn record_made(&self, made: Made, durability: Commit) -> Result<(), ImageError> {
        let Made { target, manifests, parent, references, cached } = made;
        let id = target.digest.clone();
        self.update_as(durability, |draft| {
            match draft.state.records.get(&id) {
                // What was only in the cache becomes an image that is seen.
                Some(known) if known.cached && !cached => {
                    draft.change(&id, |record| record.dangling |= references.is_empty())?;
                }
                // It was an image before, and is one all the same when the cache lets it go.
                Some(known) if cached && !known.cached => {
                    let nameless = draft.state.references_of(&id).is_empty();
                    draft.change(&id, |record| {
                        record.dangling |= nameless;
                        record.cached = true;
                    })?;
                }
                Some(_) => {}
                None => draft.put_image(
                    &id,
                    ImageRecord {
                        manifests,
                        target,
                        parent: parent.filter(|p| *p != id),
                        dangling: references.is_empty() && !cached,
                        origins: Vec::new(),
                        cached,
                        added_ns: now_ns(),
                        last_tag_ns: None,
                    },
                )?,
            }
            for reference in references {
                draft.put_reference(&reference.or_latest(), &id)?;
            }
            Ok(())
        })
    }

    /// A blob and an unpacked layer, made in one pass.
    fn layer_of_stream(
        &self,
        tar: &mut dyn Read,
        pins: &mut Pins,
        cancel: &Cancel,
    ) -> Result<Layer, ImageError> {
        // The source is looked at once, and only then is known whether its own bytes become the blob.
        let mut peek = [0; 6];
        let mut filled = 0;
        while filled < peek.len() {
            match tar.read(&mut peek[filled..]).map_err(ImageError::Stream)? {
                0 => break,
                n => filled += n,
            }
        }
        let head = &peek[..filled];
        let source = Read::chain(head, tar);
        let ingest = self.content().ingest()?;
        let (staged, (digest, size), kind) = match compress::sniff(head) {
            // No layer is made of bzip2 or xz; what they hold is compressed again.
            plain @ (Compression::None | Compression::Bzip2 | Compression::Xz) => {
                let source: Box<dyn Read> = if plain == Compression::None {
                    Box::new(source)
                } else {
                    compress::decoder(source).map_err(ImageError::Stream)?.1
                };
                let blob = GzipWriter::new(ingest);
                let mut tee = Tee { source, sink: blob };
                let staged = self.inner.snapshots.stage_tar(&mut tee, cancel)?;
                let ingest = tee.sink.finish().map_err(ImageError::Stream)?;
                (staged, ingest.finish(None, pins)?, media_type::LAYER_GZIP)
            }
            compressed => {
                let mut tee = Tee { source, sink: ingest };
                let staged = self.inner.snapshots.stage(&mut tee, cancel)?;
                // Whatever follows the compressed stream belongs to the blob's bytes, too.
                io::copy(&mut tee, &mut io::sink()).map_err(ImageError::Stream)?;
                let kind = if compressed == Compression::Zstd {
                    media_type::LAYER_ZSTD
                } else {
                    media_type::LAYER_GZIP
                };
                (staged, tee.sink.finish(None, pins)?, kind)
            }
        };
        let diff_id = staged.diff_id.clone();
        pins.add(&diff_id);
        let lock = self.inner.snapshots.layer_lock(&diff_id);
        let _one_at_a_time = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.inner.snapshots.publish(staged, None)?;
        Ok(Layer { diff_id, blob: Descriptor::new(kind, digest, size) })
    }

    /// Packs an upper directory into a gzip blob; `None` where it is empty.
    fn pack_upper(
        &self,
        upper: &std::path::Path,
        pins: &mut Pins,
        cancel: &Cancel,
    ) -> Result<Option<Packed>, ImageError> {
        let dir = open_dir(upper)?;
        if std::fs::read_dir(upper).at("readdir", upper)?.next().is_none() {
            return Ok(None);
        }
        let blob = GzipWriter::new(self.content().ingest()?);
        let mut tar = Writer::new(io::BufWriter::with_capacity(64 << 10, HashingWriter::new(blob)));
        let options = PackOptions { overlay: true, nanoseconds: false };
        let mut packer = Packer::new(&mut tar, options, cancel);
        packer.pack_children(dir.as_fd(), b"")?;
        let members = packer.members;
        let hashing = tar.finish()?.into_inner().map_err(|e| ImageError::Stream(e.into_error()))?;
        let (blob, diff_id) = hashing.finish();
        let ingest: Ingest = blob.finish().map_err(ImageError::Stream)?;
        let (digest, size) = ingest.finish(None, pins)?;
        let blob = Descriptor::new(media_type::LAYER_GZIP, digest, size);
        Ok(Some(Packed { layer: Layer { diff_id, blob }, members }))
    }
}

/// An image whose documents are written.
pub(super) struct Made {
    pub(super) target: Descriptor,
    /// The first is the one for this host.
    pub(super) manifests: Vec<Descriptor>,
    pub(super) parent: Option<Digest>,
    pub(super) references: Vec<Reference>,
    pub(super) cached: bool,
}

struct Packed {
    layer: Layer,
    members: u64,
}

/// Writes what is read to a second place.
struct Tee<R, W> {
    source: R,
    sink: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        self.sink.write_all(&buf[..n])?;
        Ok(n)
    }
}

/// Layers of Docker manifests under their OCI names: an OCI manifest should not mix them.
fn oci_layer(blob: &Descriptor) -> Descriptor {
    let kind = match blob.media_type.as_str() {
        media_type::DOCKER_LAYER_GZIP => media_type::LAYER_GZIP,
        media_type::DOCKER_LAYER_ZSTD => media_type::LAYER_ZSTD,
        media_type::DOCKER_LAYER => media_type::LAYER,
        other => other,
    };
    Descriptor { media_type: kind.to_owned(), ..blob.clone() }
}

pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|_| ImageError::Config("cannot be written as JSON"))
}

pub(super) fn platform_of(config: &ImageConfig) -> OciPlatform {
    OciPlatform::from(&config.platform())
}

pub(super) fn now() -> String {
    time::rfc3339_nano(time::now_ns())
}
