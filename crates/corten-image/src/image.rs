//! `Image`: what is known about one image, as an immutable view that readers share.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_base::{Digest, Platform, Reference, time};
use corten_wire::oci_image::{Descriptor, ImageConfig, Manifest};

/// One image as it was when it was looked up.
#[derive(Debug, Clone)]
pub struct Image {
    /// The id: digest of the manifest or index (`Descriptor.digest` of the API).
    pub id: Digest,
    /// Descriptor of that manifest or index.
    pub target: Descriptor,
    /// The manifest that fits the platform.
    pub manifest: Arc<Manifest>,
    /// Descriptor of that manifest; equals `target` where the target is no index.
    pub manifest_descriptor: Descriptor,
    /// The configuration.
    pub config: Arc<ImageConfig>,
    /// Names in canonical order: tags, and `repository@digest` of pulls by digest.
    pub references: Vec<Reference>,
    /// The image this one was committed or built from, if that was here.
    pub parent: Option<Digest>,
    /// Repositories it was pulled from or pushed to.
    pub origins: Vec<String>,
    /// When it last got a name, nanoseconds since the epoch.
    pub last_tag_ns: Option<i64>,
    /// When it came here, nanoseconds since the epoch.
    pub added_ns: i64,
    /// Bytes of its blobs and of its unpacked layers.
    pub size: u64,
    /// Unpacked sizes of its layers, lowest first; `None` where a layer was not unpacked yet.
    pub layer_sizes: Vec<Option<u64>>,
}

/// A layer of an image: its unpacked identity and its blob.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Digest of the uncompressed tar; the snapshot's key.
    pub diff_id: Digest,
    /// The blob as pushed and saved.
    pub blob: Descriptor,
}

impl Image {
    /// First 12 digits of the id.
    #[must_use]
    pub fn short_id(&self) -> &str {
        &self.id.hex()[..12]
    }

    /// `RepoTags`: familiar names with tags.
    #[must_use]
    pub fn repo_tags(&self) -> Vec<String> {
        self.references
            .iter()
            .filter(|r| r.tag().is_some() && r.digest().is_none())
            .map(Reference::familiar)
            .collect()
    }

    /// `RepoDigests`: each repository that names it, with the id as digest.
    #[must_use]
    pub fn repo_digests(&self) -> Vec<String> {
        let mut digests: Vec<String> =
            self.references.iter().map(|r| r.with_digest(self.id.clone()).familiar()).collect();
        digests.sort();
        digests.dedup();
        digests
    }

    /// Labels of the configuration.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.config.config.labels.clone().unwrap_or_default()
    }

    /// Creation time of the configuration, nanoseconds since the epoch.
    #[must_use]
    pub fn created_ns(&self) -> Option<i128> {
        time::parse_rfc3339(self.config.created.as_deref()?)
    }

    /// What it runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        self.config.platform()
    }

    /// Its layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        self.config
            .rootfs
            .diff_ids
            .iter()
            .zip(&self.manifest.layers)
            .map(|(diff_id, blob)| Layer { diff_id: diff_id.clone(), blob: blob.clone() })
            .collect()
    }
}

/// How the blob of a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerCompression {
    /// A plain tar.
    None,
    /// What every registry and engine reads.
    Gzip,
    /// Smaller and faster.
    Zstd,
}

/// One line of `GET /images/json`.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The image.
    pub image: Arc<Image>,
    /// `RepoTags` that passed the filter.
    pub repo_tags: Vec<String>,
    /// `RepoDigests`.
    pub repo_digests: Vec<String>,
}

/// One line of `GET /images/{name}/history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryItem {
    /// Where the step is an image of its own (`<missing>` otherwise).
    pub id: Option<Digest>,
    /// Nanoseconds since the epoch.
    pub created_ns: i128,
    /// The command.
    pub created_by: String,
    /// Familiar tags of that image.
    pub tags: Vec<String>,
    /// Unpacked size of the step's layer.
    pub size: u64,
    /// Comment.
    pub comment: String,
}

/// One line of the answer of `DELETE /images/{name}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(String),
    /// An image went.
    Deleted(Digest),
}

/// What `prune` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// In order.
    pub removed: Vec<Removed>,
    /// Bytes freed.
    pub space_reclaimed: u64,
}

/// For `GET /system/df`.
#[derive(Debug, Clone)]
pub struct DiskUsage {
    /// Bytes of all unpacked layers and blobs, each once.
    pub layers_size: u64,
    /// Every image with its size and the part shared with other images.
    pub images: Vec<ImageUsage>,
}

/// One image of [`DiskUsage`].
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub summary: Summary,
    /// Bytes shared with at least one other image.
    pub shared_size: u64,
    /// How many holders (containers) it has.
    pub holders: usize,
}

/// How `remove` goes about it.
#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    /// `force`.
    pub force: bool,
    /// `noprune`: keep untagged parents.
    pub no_prune: bool,
    /// Ids of running containers: their images cannot be removed even by force.
    pub running: Vec<String>,
    /// `platforms`: only what these run goes, while others are left.
    pub platforms: Vec<Platform>,
    /// Manifests that containers were made from, and one such container each; these cannot go by `platforms`.
    pub in_use: BTreeMap<Digest, String>,
}

/// What a commit makes.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// Key of the writable layer (the container's id).
    pub snapshot: String,
    /// The image the writable layer stands on.
    pub base: Arc<Image>,
    /// `config` of the new image, changes applied.
    pub config: corten_wire::oci_image::ContainerConfig,
    /// `--author`.
    pub author: String,
    /// `--message`.
    pub comment: String,
    /// The container's command line, for the history.
    pub created_by: String,
    /// The container's id, kept in the configuration as Docker does.
    pub container: String,
    /// Name of the new image.
    pub reference: Option<Reference>,
}

/// What an import makes.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// `config` of the new image, changes applied.
    pub config: corten_wire::oci_image::ContainerConfig,
    /// `--message`, or `Imported from SRC`.
    pub comment: String,
    /// Name of the new image.
    pub reference: Option<Reference>,
    /// Platform, the host's by default.
    pub platform: Option<Platform>,
}

/// What the builder makes.
#[derive(Debug, Clone, Default)]
pub struct NewImage {
    /// The configuration; `rootfs` is filled in from `layers`.
    pub config: ImageConfig,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
    /// The image of the step before.
    pub parent: Option<Digest>,
    /// Names.
    pub references: Vec<Reference>,
    /// For the build cache: nobody sees it, until it gets a name or is made again without this. It stays until
    /// [`crate::Images::drop_cached`].
    pub cached: bool,
    /// Of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// Several images of one name, and what is said about them.
#[derive(Debug, Clone, Default)]
pub struct NewIndex {
    /// Images, each for a platform.
    pub manifests: Vec<NewManifest>,
    /// Of the index.
    pub annotations: BTreeMap<String, String>,
    /// Names.
    pub references: Vec<Reference>,
    /// See [`NewImage::cached`].
    pub cached: bool,
}

/// One image of a [`NewIndex`].
#[derive(Debug, Clone, Default)]
pub struct NewManifest {
    /// The configuration; `rootfs` is filled in from `layers`.
    pub config: ImageConfig,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
    /// Of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Of its entry in the index.
    pub entry_annotations: BTreeMap<String, String>,
}

/// What is to be said about an image of a [`NewIndex`]: by its place, and the entry that it got.
pub type Statements<'a> = &'a dyn Fn(usize, &Descriptor) -> Vec<NewStatement>;

/// A statement about an image of a [`NewIndex`].
#[derive(Debug, Clone)]
pub struct NewStatement {
    /// Its type, an URI.
    pub predicate_type: String,
    /// An in-toto statement.
    pub content: Vec<u8>,
}

/// Something in a registry that is no image.
#[derive(Debug, Clone)]
pub struct NewArtifact {
    /// Blobs that are here.
    pub blobs: Vec<Descriptor>,
    /// A blob that is not.
    pub config: Vec<u8>,
    /// The manifest or index that lists them.
    pub manifest: Vec<u8>,
    /// Its type.
    pub media_type: String,
}
