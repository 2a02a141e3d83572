//! Indexes made here: an image for each platform, and statements about them as BuildKit writes them.
//!
//! ```text
//!   index ─┬─▶ manifest (linux/amd64) ─▶ configuration, layers
//!          ├─▶ manifest (linux/arm64) ─▶ …
//!          └─▶ attestation manifest (unknown/unknown, about the first) ─▶ in-toto statements
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_base::db::Commit;
use corten_wire::oci_image::{Descriptor, ImageConfig, Index, Manifest, OciPlatform, RootFs, media_type};

use super::Images;
use super::create::{Made, platform_of, to_json};
use super::load::{ATTESTATION, REFERENCE_TYPE, host_first};
use super::manifests::{ABOUT, PREDICATE_TYPE, STATEMENT};
use crate::content::Pins;
use crate::{Image, ImageError, NewIndex, NewStatement, Statements};

impl Images {
    /// For the builder: makes an index; `statements` is asked for what is to be said about each of its images.
    /// Publishes `tag` for its names.
    ///
    /// # Errors
    /// The store; `MissingBlob` where a layer is unknown here.
    pub fn create_index(&self, new: NewIndex, statements: Statements<'_>) -> Result<Arc<Image>, ImageError> {
        let mut pins = self.content().pins();
        let mut blobs = Vec::new();
        let mut manifests = Vec::new();
        let mut about = Vec::new();
        let mut loose = Vec::new();
        for (number, mut one) in new.manifests.into_iter().enumerate() {
            for layer in &one.layers {
                pins.add(&layer.blob.digest);
                pins.add(&layer.diff_id);
                if !self.content().contains(&layer.blob.digest) {
                    return Err(ImageError::MissingBlob(layer.blob.digest.to_string()));
                }
            }
            let mut entry = self.put_manifest(&mut one.config, &one.layers, one.annotations, &mut pins)?;
            entry.platform = Some(platform_of(&one.config));
            entry.annotations = one.entry_annotations;
            blobs.extend(self.blobs_of_manifest(&entry)?);
            let statements = statements(number, &entry);
            if !statements.is_empty() {
                let entry = self.put_statements(&entry, statements, &mut pins)?;
                blobs.extend(self.blobs_of_manifest(&entry)?);
                about.push(entry);
            }
            manifests.push(entry);
            loose.extend(one.layers);
        }
        let index = Index {
            schema_version: 2,
            media_type: media_type::INDEX.into(),
            manifests: manifests.iter().cloned().chain(about).collect(),
            annotations: new.annotations,
            extra: serde_json::Map::new(),
        };
        let bytes = to_json(&index)?;
        let id = self.content().put(&bytes, &mut pins)?;
        let target = Descriptor::new(media_type::INDEX, id.clone(), bytes.len() as u64);
        blobs.push(id.clone());
        let durable = !new.references.is_empty() && !new.cached;
        let durability = if durable { Commit::Durable } else { Commit::Lazy };
        if durable {
            self.content().sync(&blobs)?;
        }
        host_first(&mut manifests);
        let (references, cached) = (new.references, new.cached);
        self.record_made(Made { target, manifests, parent: None, references, cached }, durability)?;
        for layer in &loose {
            self.content().unpin_loosely(&layer.blob.digest);
            self.content().unpin_loosely(&layer.diff_id);
        }
        let image = self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        self.publish_tags(&image);
        Ok(image)
    }

    fn blobs_of_manifest(&self, entry: &Descriptor) -> Result<Vec<corten_base::Digest>, ImageError> {
        let manifest = self.manifest(entry)?;
        let blobs = manifest.layers.iter().chain([&manifest.config, entry]);
        Ok(blobs.map(|d| d.digest.clone()).collect())
    }

    /// The manifest that carries statements about another one; its entry in the index.
    fn put_statements(
        &self,
        subject: &Descriptor,
        statements: Vec<NewStatement>,
        pins: &mut Pins,
    ) -> Result<Descriptor, ImageError> {
        let mut layers = Vec::new();
        for statement in statements {
            let digest = self.content().put(&statement.content, pins)?;
            let mut layer = Descriptor::new(STATEMENT, digest, statement.content.len() as u64);
            layer.annotations.insert(PREDICATE_TYPE.into(), statement.predicate_type);
            layers.push(layer);
        }
        let config = ImageConfig {
            architecture: "unknown".into(),
            os: "unknown".into(),
            rootfs: RootFs {
                diff_ids: layers.iter().map(|l| l.digest.clone()).collect(),
                ..RootFs::default()
            },
            ..ImageConfig::default()
        };
        let bytes = to_json(&config)?;
        let digest = self.content().put(&bytes, pins)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.into(),
            config: Descriptor::new(media_type::CONFIG, digest, bytes.len() as u64),
            layers,
            annotations: BTreeMap::new(),
            extra: serde_json::Map::new(),
        };
        let bytes = to_json(&manifest)?;
        let digest = self.content().put(&bytes, pins)?;
        let mut entry = Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64);
        entry.platform = Some(OciPlatform {
            os: "unknown".into(),
            architecture: "unknown".into(),
            ..OciPlatform::default()
        });
        entry.annotations = [
            (REFERENCE_TYPE.to_owned(), ATTESTATION.to_owned()),
            (ABOUT.to_owned(), subject.digest.to_string()),
        ]
        .into();
        Ok(entry)
    }
}
