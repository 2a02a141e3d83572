//! `docker save`: an OCI layout that is a docker archive, too.
//!
//! ```text
//! blobs/sha256/<hex>…  index.json  manifest.json  oci-layout
//! ```
//! Times and order are fixed, so that the same images give the same bytes.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use corten_base::{Cancel, Digest, Platform, Reference};
use corten_wire::oci_image::{Descriptor, Document, Index, MAX_DOCUMENT, media_type};
use serde::{Deserialize, Serialize};

use super::Images;
use super::create::{platform_of, to_json};
use super::lookup::Match;
use super::manifests::attestations_about;
use crate::tar::{Entry, EntryKind, TarError, Writer};
use crate::{Image, ImageError};

/// Annotation with the full name, as containerd writes it.
pub(super) const ANNOTATION_NAME: &str = "io.containerd.image.name";
/// Annotation with the tag.
pub(super) const ANNOTATION_REF: &str = "org.opencontainers.image.ref.name";

/// One entry of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ArchiveManifest {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

/// One image, what is saved of it, and the names under which it is.
struct Saved {
    /// The view whose configuration and layers `manifest.json` has.
    image: Arc<Image>,
    target: Descriptor,
    manifests: Vec<Descriptor>,
    names: Vec<Reference>,
}

impl Images {
    /// Writes the named images as OCI layout with `manifest.json`; with platforms, only what is for these. Names are
    /// checked before the first byte. Publishes `save`.
    ///
    /// # Errors
    /// As [`Images::resolve_for`]; `Tar` where the reader went away.
    pub fn save(
        &self,
        names: &[String],
        platforms: &[Platform],
        out: &mut dyn Write,
        cancel: &Cancel,
    ) -> Result<(), ImageError> {
        let saved = self.choose(names, platforms)?;
        self.save_chosen(&saved, out, cancel)
    }

    /// As [`Images::save`], one image under any names; they need not be names here.
    ///
    /// # Errors
    /// `Tar` where the reader went away.
    pub fn save_as(
        &self,
        image: &Arc<Image>,
        names: Vec<Reference>,
        out: &mut dyn Write,
        cancel: &Cancel,
    ) -> Result<(), ImageError> {
        let saved = self.chosen(image.id.as_str(), Arc::clone(image), &[], names)?;
        self.save_chosen(&[saved], out, cancel)
    }

    fn save_chosen(&self, saved: &[Saved], out: &mut dyn Write, cancel: &Cancel) -> Result<(), ImageError> {
        let mut pins = self.content().pins();
        let mut blobs = BTreeMap::new();
        let mut index = Vec::new();
        let mut manifests = Vec::new();
        for saved @ Saved { image, names, .. } in saved {
            for blob in self.blobs_of(saved)? {
                pins.add(&blob.digest);
                blobs.insert(blob.digest.clone(), blob);
            }
            index.extend(index_entries(saved));
            manifests.push(ArchiveManifest {
                config: blob_path(&image.manifest.config),
                repo_tags: Some(names.iter().map(Reference::familiar).collect()),
                layers: image.manifest.layers.iter().map(blob_path).collect(),
            });
        }
        let mut tar = Writer::new(std::io::BufWriter::with_capacity(64 << 10, out));
        for dir in ["blobs/", "blobs/sha256/"] {
            tar.append_empty(&Entry::new(dir, EntryKind::Directory, 0o755))?;
        }
        for blob in blobs.values() {
            if cancel.is_cancelled() {
                return Err(ImageError::Cancelled);
            }
            let mut file = self.content().open_blob(&blob.digest)?;
            let size = file.metadata().map_err(TarError::Read)?.len();
            tar.append(&Entry::file(blob_path(blob), 0o644, size), &mut file)?;
        }
        let index = Index {
            schema_version: 2,
            media_type: media_type::INDEX.into(),
            manifests: index,
            annotations: BTreeMap::new(),
            extra: serde_json::Map::new(),
        };
        tar.append_bytes("index.json", 0o644, (0, 0), &to_json(&index)?)?;
        tar.append_bytes("manifest.json", 0o644, (0, 0), &to_json(&manifests)?)?;
        tar.append_bytes("oci-layout", 0o644, (0, 0), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.finish()?;
        for Saved { image, .. } in saved {
            self.event("save", image.id.as_str(), image.id.as_str(), Some(image));
        }
        Ok(())
    }

    fn choose(&self, names: &[String], platforms: &[Platform]) -> Result<Vec<Saved>, ImageError> {
        let state = self.state();
        let mut saved: Vec<Saved> = Vec::new();
        for name in names {
            let found = state.find(name)?;
            let image = self.get(found.id()).ok_or_else(|| ImageError::NotFound(name.clone()))?;
            let reference = match found {
                Match::Name(reference, _) if reference.tag().is_some() => Some(reference),
                _ => None,
            };
            match saved.iter_mut().find(|s| s.image.id == image.id) {
                Some(known) => {
                    known.names.extend(reference.filter(|r| !known.names.contains(r)));
                }
                None => {
                    let names = reference.into_iter().collect();
                    saved.push(self.chosen(name, image, platforms, names)?);
                }
            }
        }
        Ok(saved)
    }

    fn chosen(
        &self,
        name: &str,
        image: Arc<Image>,
        platforms: &[Platform],
        names: Vec<Reference>,
    ) -> Result<Saved, ImageError> {
        if platforms.is_empty() {
            let state = self.state();
            let manifests = state.records.get(&image.id).map_or(Vec::new(), |r| r.manifests.clone());
            return Ok(Saved { target: image.target.clone(), manifests, image, names });
        }
        let views = platforms.iter().map(|p| self.resolve_for(name, Some(p)));
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let image = Arc::clone(&views[0]);
        let mut manifests: Vec<_> = views.iter().map(|v| v.manifest_descriptor.clone()).collect();
        manifests.dedup_by(|a, b| a.digest == b.digest);
        // An index of which one manifest is left would promise the others.
        let target = if manifests.len() == 1 { manifests[0].clone() } else { image.target.clone() };
        Ok(Saved { image, target, manifests, names })
    }

    /// What belongs to an image and is here.
    fn blobs_of(&self, saved: &Saved) -> Result<Vec<Descriptor>, ImageError> {
        let mut blobs = vec![saved.target.clone()];
        let about: Vec<&Digest> = saved.manifests.iter().map(|m| &m.digest).collect();
        for (descriptor, manifest) in attestations_about(self.content(), &saved.target, &about) {
            blobs.extend([descriptor, manifest.config]);
            blobs.extend(manifest.layers);
        }
        for descriptor in &saved.manifests {
            let bytes = self.content().read(&descriptor.digest, MAX_DOCUMENT)?;
            if let Document::Manifest(manifest) = Document::parse(&descriptor.media_type, &bytes)? {
                blobs.push(descriptor.clone());
                blobs.push(manifest.config);
                blobs.extend(manifest.layers);
            }
        }
        Ok(blobs)
    }
}

fn index_entries(Saved { image, target, names, .. }: &Saved) -> Vec<Descriptor> {
    let mut plain = target.clone();
    plain.annotations.clear();
    if !media_type::is_index(&plain.media_type) {
        plain.platform = Some(platform_of(&image.config));
    }
    if names.is_empty() {
        return vec![plain];
    }
    let named = |name: &Reference| {
        let mut entry = plain.clone();
        entry.annotations.insert(ANNOTATION_NAME.into(), name.to_string());
        entry.annotations.insert(ANNOTATION_REF.into(), name.tag().unwrap_or_default().into());
        entry
    };
    names.iter().map(named).collect()
}

fn blob_path(blob: &Descriptor) -> String {
    format!("blobs/sha256/{}", blob.digest.hex())
}
