//! What an image's index lists: manifests for platforms, here or not, and attestations about them.
//!
//! A record names the platforms' manifests that are here with all their content. Attestations are not in it: those
//! about a manifest that is here are kept as far as they are here ([`attestations_about`]).

use corten_base::{Digest, Platform};
use corten_wire::oci_image::{Descriptor, Document, Index, MAX_DOCUMENT, Manifest, OciPlatform, media_type};

use super::Images;
use super::load::is_attestation;
use super::records::read_config;
use crate::content::Content;
use crate::{Image, ImageError};

/// Media type of an in-toto statement.
pub(super) const STATEMENT: &str = "application/vnd.in-toto+json";
/// Annotation of a statement's layer.
pub(super) const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// Annotation of an attestation manifest: the manifest it is about.
pub(super) const ABOUT: &str = "vnd.docker.reference.digest";
/// A statement that is larger is not read (bills of materials have megabytes).
pub(super) const MAX_STATEMENT: u64 = 64 << 20;

/// An entry of an image's index, or its only manifest.
#[derive(Debug, Clone)]
pub struct ManifestEntry {
    /// As the index has it.
    pub descriptor: Descriptor,
    /// All of its content is here.
    pub available: bool,
    /// Bytes of its blobs that are here.
    pub content_size: u64,
    /// What it is.
    pub kind: ManifestKind,
}

/// What a manifest is.
#[derive(Debug, Clone)]
pub enum ManifestKind {
    /// Containers can be made from it.
    Image {
        /// What it runs on.
        platform: OciPlatform,
        /// Bytes of its layers, unpacked.
        unpacked: u64,
    },
    /// It says something about another manifest.
    Attestation {
        /// Digest of that one.
        about: String,
    },
}

/// An in-toto statement about an image.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Its type, an URI.
    pub predicate_type: String,
}

impl Images {
    /// The manifests of an image, in the order of its index.
    ///
    /// # Errors
    /// A document that should be here cannot be read.
    pub fn manifests(&self, image: &Image) -> Result<Vec<ManifestEntry>, ImageError> {
        match index_of(self.content(), &image.target)? {
            None => Ok(vec![self.manifest_entry(image.manifest_descriptor.clone(), Some(image))]),
            Some(index) => Ok(index.manifests.into_iter().map(|d| self.manifest_entry(d, None)).collect()),
        }
    }

    fn manifest_entry(&self, descriptor: Descriptor, only: Option<&Image>) -> ManifestEntry {
        let manifest = read_manifest(self.content(), &descriptor);
        let blobs = manifest.iter().flat_map(|m| m.layers.iter().chain([&m.config]));
        let here = |d: &Descriptor| self.content().size(&d.digest);
        let content_size =
            blobs.filter_map(here).sum::<u64>() + manifest.as_ref().map_or(0, |_| descriptor.size);
        let available = manifest.as_ref().is_some_and(|m| self.is_complete(m));
        let kind = if is_attestation(&descriptor) {
            ManifestKind::Attestation {
                about: descriptor.annotations.get(ABOUT).cloned().unwrap_or_default(),
            }
        } else {
            let config = manifest.and_then(|m| read_config(self.content(), &m.config.digest).ok());
            let unpacked = config.iter().flat_map(|c| &c.rootfs.diff_ids);
            let unpacked = unpacked.filter_map(|d| self.inner.snapshots.layer(d)).map(|l| l.size).sum();
            let runs_on = only.map(Image::platform).or_else(|| config.map(|c| c.platform()));
            let platform = descriptor.platform.clone().filter(|_| only.is_none());
            let platform =
                platform.unwrap_or_else(|| runs_on.map(|p| OciPlatform::from(&p)).unwrap_or_default());
            ManifestKind::Image { platform, unpacked }
        };
        ManifestEntry { descriptor, available, content_size, kind }
    }

    /// Statements about the manifest for a platform (the host's without one) that are here.
    ///
    /// # Errors
    /// As [`Images::resolve_for`].
    pub fn attestations(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Vec<Statement>, ImageError> {
        let image = self.resolve_for(name, platform)?;
        let manifests =
            attestations_about(self.content(), &image.target, &[&image.manifest_descriptor.digest]);
        let layers = manifests.into_iter().flat_map(|(_, manifest)| manifest.layers);
        let statements = layers.filter(|l| l.media_type == STATEMENT).filter_map(|descriptor| {
            let predicate_type = descriptor.annotations.get(PREDICATE_TYPE)?.clone();
            Some(Statement { descriptor, predicate_type })
        });
        Ok(statements.collect())
    }

    /// The text of a statement.
    ///
    /// # Errors
    /// It cannot be read, or is too large.
    pub fn statement(&self, statement: &Statement) -> Result<Vec<u8>, ImageError> {
        self.content().read(&statement.descriptor.digest, MAX_STATEMENT)
    }
}

/// The index that a target is, if it is one.
fn index_of(content: &Content, target: &Descriptor) -> Result<Option<Index>, ImageError> {
    if !media_type::is_index(&target.media_type) {
        return Ok(None);
    }
    let bytes = content.read(&target.digest, MAX_DOCUMENT)?;
    match Document::parse(&target.media_type, &bytes)? {
        Document::Index(index) => Ok(Some(index)),
        Document::Manifest(_) => Ok(None),
    }
}

fn read_manifest(content: &Content, descriptor: &Descriptor) -> Option<Manifest> {
    let bytes = content.read(&descriptor.digest, MAX_DOCUMENT).ok()?;
    match Document::parse(&descriptor.media_type, &bytes) {
        Ok(Document::Manifest(manifest)) => Some(manifest),
        _ => None,
    }
}

/// Whether an index's entry is an attestation manifest about this manifest.
pub(super) fn is_about(entry: &Descriptor, manifest: &Digest) -> bool {
    is_attestation(entry) && entry.annotations.get(ABOUT).is_some_and(|of| of == manifest.as_str())
}

/// Attestation manifests of a target about these manifests, as far as they are here with all their content.
pub(super) fn attestations_about(
    content: &Content,
    target: &Descriptor,
    manifests: &[&Digest],
) -> Vec<(Descriptor, Manifest)> {
    let Ok(Some(index)) = index_of(content, target) else { return Vec::new() };
    let about = |d: &Descriptor| manifests.iter().any(|m| is_about(d, m));
    let complete =
        |m: &Manifest| m.layers.iter().chain([&m.config]).all(|d| content.size(&d.digest) == Some(d.size));
    let read = |d: Descriptor| Some((d.clone(), read_manifest(content, &d)?));
    index.manifests.into_iter().filter(about).filter_map(read).filter(|(_, m)| complete(m)).collect()
}
