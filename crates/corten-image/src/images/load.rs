//! `docker load`: OCI layouts and docker archives, of any compression, in one pass over the stream.
//!
//! The order of members is not fixed, so every file becomes a blob at once (verified where its name is a digest)
//! and names are looked up when the archive is through. A name of the archive is a key of a map here, never a
//! path (CVE-2014-9358). What no image needed is collected in the end.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use corten_base::{Cancel, Digest, Platform, Reference};
use corten_wire::oci_image::{
    Descriptor, Document, ImageConfig, Index, MAX_DOCUMENT, MAX_LAYERS, Manifest, media_type,
};

use super::Images;
use super::create::to_json;
use super::manifests::attestations_about;
use super::records::{ImageRecord, now_ns, read_config};
use super::save::{ANNOTATION_NAME, ANNOTATION_REF, ArchiveManifest};
use crate::compress::{self, Compression};
use crate::content::Pins;
use crate::tar::{EntryKind, Reader, TarError};
use crate::{Image, ImageError, Layer, LayerPhase, Progress, ProgressEvent, beneath};

/// Most members of an archive; each costs a name in memory.
const MAX_MEMBERS: usize = 200_000;
/// Most images of one archive.
const MAX_IMAGES: usize = 10_000;

/// Members of an archive by cleaned name.
#[derive(Debug, Default)]
struct Members {
    files: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
}

impl Members {
    /// A file, through links within the archive (old archives share layers by them).
    fn file(&self, name: &str) -> Option<&(Digest, u64)> {
        let mut name = clean(name)?;
        for _ in 0..8 {
            if let Some(found) = self.files.get(&name) {
                return Some(found);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }
}

/// An image found in an archive: what gives its id, the manifests that are complete, and a name.
struct Found {
    target: Descriptor,
    manifests: Vec<Descriptor>,
    name: Option<Reference>,
}

impl Images {
    /// Reads a docker archive or an OCI layout, compressed or not; with platforms, only what is for these. Sends `Stream("Loaded image: x\n")` for each
    /// name. Publishes `load`.
    ///
    /// # Errors
    /// `NotAnImageArchive`, `Tar`, `MissingInArchive`, `PlatformMismatch`, digest mismatches; images before the bad
    /// one stay.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        platforms: &[Platform],
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        let mut pins = self.content().pins();
        let result = self.load_pinned(archive, platforms, &mut pins, progress, cancel);
        drop(pins);
        self.collect()?;
        corten_sys::memory::trim();
        result
    }

    fn load_pinned(
        &self,
        archive: &mut dyn Read,
        platforms: &[Platform],
        pins: &mut Pins,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        let members = self.ingest_members(archive, pins, cancel)?;
        let found = match members.file("index.json") {
            Some((digest, _)) => self.layout(digest, &members)?,
            None => match members.file("manifest.json") {
                Some((digest, _)) => self.docker_archive(digest, &members, pins)?,
                None => return Err(ImageError::NotAnImageArchive),
            },
        };
        let mut loaded = Vec::new();
        for mut image in found {
            self.keep_platforms(&mut image, platforms)?;
            loaded.push(self.record_loaded(image, progress, cancel)?);
        }
        Ok(loaded)
    }

    /// Leaves only the manifests for these platforms, if any are given.
    fn keep_platforms(&self, found: &mut Found, platforms: &[Platform]) -> Result<(), ImageError> {
        if platforms.is_empty() {
            return Ok(());
        }
        let runs_on = |d: &Descriptor| {
            let config = self.manifest(d).and_then(|m| read_config(self.content(), &m.config.digest));
            config.is_ok_and(|c| platforms.iter().any(|p| c.platform().matches(p)))
        };
        found.manifests.retain(runs_on);
        if !found.manifests.is_empty() {
            return Ok(());
        }
        let name = found.name.as_ref().map(|n| n.clone().or_latest().familiar());
        Err(ImageError::PlatformMismatch {
            reference: name.unwrap_or_else(|| found.target.digest.to_string()),
            platform: platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })
    }

    fn ingest_members(
        &self,
        archive: &mut dyn Read,
        pins: &mut Pins,
        cancel: &Cancel,
    ) -> Result<Members, ImageError> {
        let (_, decoded) = compress::decoder(archive).map_err(ImageError::Stream)?;
        let mut reader = Reader::new(decoded);
        let mut members = Members::default();
        while let Some(entry) = reader.next_entry()? {
            if cancel.is_cancelled() {
                return Err(ImageError::Cancelled);
            }
            if members.files.len() + members.links.len() > MAX_MEMBERS {
                return Err(ImageError::Limit { what: "number of members", limit: MAX_MEMBERS as u64 });
            }
            let bad_name = || TarError::EntryName(String::from_utf8_lossy(&entry.path).into_owned());
            let name = std::str::from_utf8(&entry.path).ok().and_then(clean).ok_or_else(bad_name)?;
            match entry.kind {
                EntryKind::File => {
                    let mut ingest = self.content().ingest()?;
                    std::io::copy(&mut reader.data(), &mut ingest).map_err(unwrap_tar)?;
                    let wanted: Option<Digest> = name
                        .strip_prefix("blobs/sha256/")
                        .and_then(|hex| format!("sha256:{hex}").parse().ok());
                    let got = ingest.finish(wanted.as_ref().map(|d| (d, entry.size)), pins)?;
                    members.files.insert(name, got);
                }
                EntryKind::Symlink | EntryKind::HardLink => {
                    let link = String::from_utf8_lossy(&entry.link).into_owned();
                    let target = if entry.kind == EntryKind::HardLink {
                        clean(&link)
                    } else {
                        let (dir, _) = name.rsplit_once('/').unwrap_or(("", ""));
                        clean(&format!("{dir}/{link}"))
                    };
                    members.links.extend(target.map(|t| (name, t)));
                }
                _ => {}
            }
        }
        Ok(members)
    }

    /// Images of an `index.json`.
    fn layout(&self, digest: &Digest, members: &Members) -> Result<Vec<Found>, ImageError> {
        let bytes = self.content().read(digest, MAX_DOCUMENT)?;
        let Document::Index(index) = Document::parse("", &bytes)? else {
            return Err(ImageError::NotAnImageArchive);
        };
        let tags = self.names_of_archive(members)?;
        let mut found = Vec::new();
        for descriptor in index.manifests.into_iter().take(MAX_IMAGES) {
            let manifests = self.complete_manifests(&descriptor)?;
            let Some(first) = manifests.first() else {
                return Err(ImageError::MissingInArchive {
                    what: "blob",
                    name: descriptor.digest.to_string(),
                });
            };
            let mut names: Vec<Reference> = annotated_name(&descriptor).into_iter().collect();
            if names.is_empty() {
                names = tags.get(&self.manifest(first)?.config.digest).cloned().unwrap_or_default();
            }
            let mut target = descriptor;
            target.annotations.clear();
            target.platform = None;
            let unnamed = names.is_empty();
            for name in names {
                found.push(Found { target: target.clone(), manifests: manifests.clone(), name: Some(name) });
            }
            if unnamed {
                found.push(Found { target, manifests, name: None });
            }
        }
        Ok(found)
    }

    /// `manifest.json` beside an index: names by digest of the configuration.
    fn names_of_archive(&self, members: &Members) -> Result<HashMap<Digest, Vec<Reference>>, ImageError> {
        let mut names: HashMap<Digest, Vec<Reference>> = HashMap::new();
        let Some((digest, _)) = members.file("manifest.json") else { return Ok(names) };
        let bytes = self.content().read(digest, MAX_DOCUMENT)?;
        let archive: Vec<ArchiveManifest> = serde_json::from_slice(&bytes).unwrap_or_default();
        for image in archive {
            if let Some((config, _)) = members.file(&image.config) {
                let tags = image.repo_tags.unwrap_or_default();
                names.entry(config.clone()).or_default().extend(tags.iter().filter_map(|t| t.parse().ok()));
            }
        }
        Ok(names)
    }

    pub(super) fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, ImageError> {
        let bytes = self.content().read(&descriptor.digest, MAX_DOCUMENT)?;
        match Document::parse(&descriptor.media_type, &bytes)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(ImageError::Config("an index within an index")),
        }
    }

    /// The manifests beneath a descriptor all of whose content is here, the host's platform first.
    pub(super) fn complete_manifests(&self, target: &Descriptor) -> Result<Vec<Descriptor>, ImageError> {
        if !self.content().contains(&target.digest) {
            return Ok(Vec::new());
        }
        let bytes = self.content().read(&target.digest, MAX_DOCUMENT)?;
        match Document::parse(&target.media_type, &bytes)? {
            Document::Manifest(manifest) => {
                let mut plain =
                    Descriptor::new(manifest.media_type.clone(), target.digest.clone(), bytes.len() as u64);
                plain.platform.clone_from(&target.platform);
                Ok(if self.is_complete(&manifest) { vec![plain] } else { Vec::new() })
            }
            Document::Index(index) => Ok(self.complete_entries(index)),
        }
    }

    fn complete_entries(&self, index: Index) -> Vec<Descriptor> {
        let mut complete: Vec<Descriptor> = index
            .manifests
            .into_iter()
            .filter(|d| !is_attestation(d))
            .filter(|d| self.manifest(d).is_ok_and(|m| self.is_complete(&m)))
            .collect();
        host_first(&mut complete);
        complete
    }

    pub(super) fn is_complete(&self, manifest: &Manifest) -> bool {
        let here = |d: &Descriptor| self.content().size(&d.digest) == Some(d.size);
        here(&manifest.config) && manifest.layers.iter().all(here)
    }

    /// Images of a `manifest.json` without an index: manifests are made for them.
    fn docker_archive(
        &self,
        digest: &Digest,
        members: &Members,
        pins: &mut Pins,
    ) -> Result<Vec<Found>, ImageError> {
        let bytes = self.content().read(digest, MAX_DOCUMENT)?;
        let archive: Vec<ArchiveManifest> =
            serde_json::from_slice(&bytes).map_err(|_| ImageError::NotAnImageArchive)?;
        let mut found = Vec::new();
        for image in archive.into_iter().take(MAX_IMAGES) {
            let target = self.make_manifest(&image, members, pins)?;
            let tags = image.repo_tags.unwrap_or_default();
            let names = tags.iter().map(|t| t.parse()).collect::<Result<Vec<Reference>, _>>()?;
            let manifests = vec![target.clone()];
            if names.is_empty() {
                found.push(Found { target, manifests, name: None });
                continue;
            }
            for name in names {
                found.push(Found { target: target.clone(), manifests: manifests.clone(), name: Some(name) });
            }
        }
        Ok(found)
    }

    fn make_manifest(
        &self,
        image: &ArchiveManifest,
        members: &Members,
        pins: &mut Pins,
    ) -> Result<Descriptor, ImageError> {
        let missing = |what, name: &str| ImageError::MissingInArchive { what, name: name.to_owned() };
        let (config, config_size) =
            members.file(&image.config).cloned().ok_or_else(|| missing("config", &image.config))?;
        if image.layers.len() > MAX_LAYERS {
            return Err(ImageError::Limit { what: "number of layers", limit: MAX_LAYERS as u64 });
        }
        let mut layers = Vec::new();
        for name in &image.layers {
            let (digest, size) = members.file(name).cloned().ok_or_else(|| missing("layer", name))?;
            let mut head = Vec::new();
            self.content().open_blob(&digest)?.take(6).read_to_end(&mut head).map_err(ImageError::Stream)?;
            let kind = match compress::sniff(&head) {
                Compression::None => media_type::LAYER,
                Compression::Gzip => media_type::LAYER_GZIP,
                Compression::Zstd => media_type::LAYER_ZSTD,
                Compression::Bzip2 | Compression::Xz => {
                    return Err(ImageError::LayerType("bzip2 or xz".into()));
                }
            };
            layers.push(Descriptor::new(kind, digest, size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.into(),
            config: Descriptor::new(media_type::CONFIG, config, config_size),
            layers,
            annotations: std::collections::BTreeMap::new(),
            extra: serde_json::Map::new(),
        };
        let bytes = to_json(&manifest)?;
        let digest = self.content().put(&bytes, pins)?;
        Ok(Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64))
    }

    fn record_loaded(
        &self,
        found: Found,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Arc<Image>, ImageError> {
        let manifest = self.manifest(&found.manifests[0])?;
        let config = read_config(self.content(), &manifest.config.digest)?;
        self.unpack_loaded(&manifest, &config, progress, cancel)?;
        let id = found.target.digest.clone();
        let name = found.name.map(Reference::or_latest);
        self.record_found(&found.target, found.manifests, name.as_ref(), None)?;
        let image = self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let text = match &name {
            Some(name) => format!("Loaded image: {}\n", name.familiar()),
            None => format!("Loaded image ID: {id}\n"),
        };
        progress.send(ProgressEvent::Stream(text));
        let shown = name.map_or_else(|| id.to_string(), |n| n.familiar());
        self.event("load", id.as_str(), &shown, Some(&image));
        Ok(image)
    }

    /// Unpacking proves that the layers are what the configuration says.
    fn unpack_loaded(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(), ImageError> {
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Config("layers and diff ids differ in number"));
        }
        for (diff_id, blob) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
            if self.inner.snapshots.layer(diff_id).is_some() {
                continue;
            }
            let id = &diff_id.hex()[..12];
            progress.layer(id, LayerPhase::LoadingLayer, Some((0, blob.size)));
            let layer = Layer { diff_id: diff_id.clone(), blob: blob.clone() };
            self.inner.snapshots.ensure_layers(&[layer], cancel)?;
            progress.layer(id, LayerPhase::LoadingLayer, Some((blob.size, blob.size)));
        }
        Ok(())
    }

    /// Records what a load or a pull brought; `origin` is the repository of a pull. About dangling names of loads
    /// see [`super::remove`].
    pub(super) fn record_found(
        &self,
        target: &Descriptor,
        manifests: Vec<Descriptor>,
        name: Option<&Reference>,
        origin: Option<&str>,
    ) -> Result<(), ImageError> {
        let id = &target.digest;
        let mut blobs = vec![id.clone()];
        for descriptor in &manifests {
            let manifest = self.manifest(descriptor)?;
            blobs.extend([descriptor.digest.clone(), manifest.config.digest]);
            blobs.extend(manifest.layers.into_iter().map(|l| l.digest));
        }
        let about: Vec<&Digest> = manifests.iter().map(|m| &m.digest).collect();
        for (descriptor, manifest) in attestations_about(self.content(), target, &about) {
            blobs.extend([descriptor.digest, manifest.config.digest]);
            blobs.extend(manifest.layers.into_iter().map(|l| l.digest));
        }
        self.content().sync(&blobs)?;
        self.update(|draft| {
            match draft.state.records.get(id) {
                Some(known) => {
                    let mut record = ImageRecord::clone(known);
                    let new = |m: &Descriptor| !known.manifests.iter().any(|k| k.digest == m.digest);
                    record.manifests.extend(manifests.into_iter().filter(new));
                    host_first(&mut record.manifests);
                    record.add_origin(origin);
                    draft.put_image(id, record)?;
                }
                None => {
                    let record = ImageRecord {
                        target: target.clone(),
                        manifests,
                        parent: None,
                        dangling: name.is_none(),
                        origins: origin.map(str::to_owned).into_iter().collect(),
                        cached: false,
                        added_ns: now_ns(),
                        last_tag_ns: None,
                    };
                    draft.put_image(id, record)?;
                }
            }
            if let Some(name) = name {
                let known = draft.state.references.get(&name.to_string()).is_some_and(|(_, i)| i == id);
                draft.put_reference(name, id)?;
                draft.change(id, |record| record.dangling = origin.is_none() && known)?;
            }
            Ok(())
        })
    }
}

/// The manifest for this host is what an image is where no platform is asked for.
pub(super) fn host_first(manifests: &mut [Descriptor]) {
    let host = Platform::host();
    manifests.sort_by_key(|d| !d.platform.as_ref().is_some_and(|p| p.platform().matches(&host)));
}

/// Annotation of an entry of an index that is about another one, and its value.
pub(super) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
pub(super) const ATTESTATION: &str = "attestation-manifest";

/// Entries of an index that describe how another entry was built.
pub(super) fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.get(REFERENCE_TYPE).is_some_and(|t| t == ATTESTATION)
        || descriptor.platform.as_ref().is_some_and(|p| p.os == "unknown")
}

fn annotated_name(descriptor: &Descriptor) -> Option<Reference> {
    let full = descriptor.annotations.get(ANNOTATION_NAME).and_then(|n| n.parse().ok());
    // A bare tag, as the OCI specification has it, names nothing; some tools write whole names there.
    full.or_else(|| {
        let text = descriptor.annotations.get(ANNOTATION_REF).filter(|n| n.contains(['/', ':']))?;
        text.parse().ok()
    })
}

fn clean(name: &str) -> Option<String> {
    beneath::clean(name.as_bytes()).and_then(|c| String::from_utf8(c).ok())
}

/// The archive's own error out of the I/O error it travelled in.
fn unwrap_tar(e: std::io::Error) -> ImageError {
    if e.kind() == std::io::ErrorKind::UnexpectedEof {
        return TarError::UnexpectedEof.into();
    }
    ImageError::Stream(e)
}
